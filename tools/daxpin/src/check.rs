// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a lease was refused: what the errno leaves open, told apart by looking at the file.

use layout_lease::{set_lease, Error, LeaseFlags, LeaseKind};
use rustix::fs::{statx, AtFlags, FileType, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// A sentence more exact than the errno's own, where one can be found.
pub fn why<Fd: AsFd>(fd: Fd, error: &Error) -> Option<String> {
    let fd = fd.as_fd();
    let stat = statx(
        fd,
        "",
        AtFlags::EMPTY_PATH,
        StatxFlags::TYPE | StatxFlags::UID,
    )
    .ok()?;
    let errno = Errno::from_raw_os_error(error.errno());
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Some("only regular files can be leased".to_owned());
    }
    let dax = stat.stx_attributes.contains(StatxAttributes::DAX);
    match errno {
        Errno::INVAL => Some(format!(
            "the running kernel ({}) does not know layout leases; it needs CONFIG_FILE_PINS",
            release()
        )),
        Errno::OPNOTSUPP if !dax => Some(
            "not a DAX file: mount the filesystem with -o dax=always, \
             on a device that can do DAX (pmem)"
                .to_owned(),
        ),
        Errno::OPNOTSUPP => Some(
            "a DAX file whose blocks may move behind the lease's back \
             (reflinked, zoned or data-journalled), or a filesystem without layout leases"
                .to_owned(),
        ),
        Errno::AGAIN => Some(match set_lease(fd, LeaseKind::Shared, LeaseFlags::LAYOUT) {
            Ok(()) => {
                let _ = layout_lease::release(fd);
                "others hold leases on it: a shared lease would be granted, a sole one is not"
                    .to_owned()
            }
            Err(_) => "somebody else holds a lease on it that allows no other \
                       (see LAYOUT in /proc/locks)"
                .to_owned(),
        }),
        Errno::ACCESS => Some(format!(
            "owned by user {}: only the owner, or a process with CAP_LEASE, may lease it",
            stat.stx_uid
        )),
        _ => None,
    }
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout_lease::Call;

    #[test]
    fn tells_a_directory_from_an_old_kernel() {
        let directory = std::fs::File::open("/").unwrap();
        let error = Error::new(Call::Set, Errno::INVAL.raw_os_error());
        assert!(why(&directory, &error).unwrap().contains("regular"));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(why(&file, &error).unwrap().contains("kernel"));
    }

    #[test]
    fn tells_a_file_without_dax() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let error = Error::new(Call::Set, Errno::OPNOTSUPP.raw_os_error());
        assert!(why(&file, &error).unwrap().contains("not a DAX file"));
    }
}
