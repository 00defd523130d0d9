// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/<pid>/fdinfo/<fd>`: the pins an open file owns, and the leases taken through it.

use super::locks::lease_line;
use super::{each_line, of_process, pin_line, FileLease, ParseError, Pin};
use std::io;
use std::path::Path;

/// What the kernel tells about an open file, as far as it is about pins and leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// The pins it owns: `file_pin:` lines.
    pub pins: Vec<Pin>,
    /// The leases on the open file description: `lock:` lines.
    pub leases: Vec<FileLease>,
}

/// Reads and parses the file of a descriptor.
///
/// Every process that has the description open shows its lease, not the holder alone: as long as one of
/// them has it, the lease stays.
///
/// # Errors
/// `NotFound` for a descriptor or a process that is gone, `PermissionDenied` for a process the caller may
/// not trace, `InvalidData` for lines that do not parse.
pub fn fd_info(pid: u32, fd: u32) -> io::Result<FdInfo> {
    let path = of_process(pid, Path::new("fdinfo").join(fd.to_string()));
    Ok(parse_fd_info(&std::fs::read(path)?)?)
}

/// Parses the text of a descriptor's file; lines about other things are left out.
///
/// ```
/// use layout_lease::proc::parse_fd_info;
///
/// let info = parse_fd_info(b"pos:\t0\nflags:\t02000002\nfile_pin:\t/mnt/pmem/data 0-1048575 rw\n")?;
/// assert_eq!(info.pins[0].last, 1_048_575);
/// assert!(info.leases.is_empty());
/// # Ok::<(), layout_lease::proc::ParseError>(())
/// ```
///
/// # Errors
/// The first line about a pin or a lease that does not have the documented form.
pub fn parse_fd_info(text: &[u8]) -> Result<FdInfo, ParseError> {
    let mut info = FdInfo::default();
    each_line(text, |line| {
        if let Some(pin) = line.strip_prefix(b"file_pin:\t") {
            info.pins.push(pin_line(pin)?);
        } else if let Some(lock) = line.strip_prefix(b"lock:\t") {
            info.leases.extend(lease_line(lock)?);
        }
        Ok(())
    })?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::{Device, LeaseClass, LeaseState};

    #[test]
    fn reads_pins_and_leases_among_the_rest() {
        let text = b"pos:\t0\nflags:\t0100002\nmnt_id:\t30\nino:\t131\n\
                     lock:\t1: LAYOUT EXCLUSIVE READ  1142 103:00:131 0 EOF\n\
                     lock:\t2: POSIX  ADVISORY  WRITE 12 103:00:131 0 EOF\n\
                     file_pin:\t/mnt/a\\040b 4096-8191 r\n";
        let info = parse_fd_info(text).unwrap();
        assert_eq!(info.pins.len(), 1);
        assert!(!info.pins[0].writable);
        let [lease] = info.leases[..] else { panic!() };
        assert_eq!(lease.class, LeaseClass::Layout);
        assert_eq!(lease.state, LeaseState::Exclusive);
        assert_eq!(
            (lease.device, lease.inode),
            (
                Device {
                    major: 0x103,
                    minor: 0
                },
                131
            )
        );
    }

    #[test]
    fn names_a_broken_line() {
        let error = parse_fd_info(b"pos:\t0\nfile_pin:\t/a 0-1\n").unwrap_err();
        assert_eq!((error.line, error.what), (2, "a pin has three fields"));
    }

    #[test]
    fn reads_a_descriptor_of_this_process() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let fd = u32::try_from(file.as_raw_fd()).unwrap();
        let info = fd_info(std::process::id(), fd).unwrap();
        assert_eq!(info, FdInfo::default());
    }
}
