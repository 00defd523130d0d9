// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why there is no lease: what an errno leaves open, told apart by looking at the file and the system.

use crate::file::Known;
use crate::mounts::{self, Mount};
use crate::process::Process;
use crate::scan;
use layout_lease::proc::{file_leases, Device, LeaseClass, LeaseState};
use layout_lease::Error;
use rustix::fs::{ioctl_getflags, IFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;

/// A reason, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is in the way.
    pub what: String,
    /// What to do about it, where something can be done.
    pub remedy: Option<String>,
}

impl Reason {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Reason {
        Reason {
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn plain(what: impl Into<String>) -> Reason {
        Reason {
            what: what.into(),
            remedy: None,
        }
    }

    /// Both, as one clause.
    pub fn sentence(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.what),
            None => self.what.clone(),
        }
    }
}

/// Why this lease was refused.
pub fn refusal(fd: impl AsFd, error: &Error) -> Reason {
    let fd = fd.as_fd();
    let Ok(known) = Known::open(fd) else {
        return Reason::plain(error.explanation());
    };
    if !known.is_regular() {
        return Reason::plain("only regular files can be leased");
    }
    match Errno::from_raw_os_error(error.errno()) {
        Errno::INVAL => kernel().unwrap_or_else(|| Reason::plain(error.explanation())),
        Errno::OPNOTSUPP if !known.dax => not_dax(fd, &known),
        Errno::OPNOTSUPP => moves(&known),
        Errno::AGAIN => conflict(&known),
        Errno::ACCESS => Reason::new(
            format!(
                "owned by user {}: only the owner, or a process with CAP_LEASE, may lease it",
                known.uid
            ),
            "run it as the owner or as root",
        ),
        _ => Reason::plain(error.explanation()),
    }
}

/// What is wrong with the kernel itself or its settings, if anything is.
pub fn kernel() -> Option<Reason> {
    match scan::kernel_has_pins() {
        Ok(true) => {}
        Ok(false) => {
            return Some(Reason::new(
                format!(
                    "the running kernel ({}) does not know layout leases",
                    scan::release()
                ),
                "boot one that has the file-pins series and CONFIG_FILE_PINS=y",
            ))
        }
        Err(error) => return Some(Reason::new(format!("{error:#}"), "mount proc on /proc")),
    }
    let enabled = std::fs::read_to_string("/proc/sys/fs/leases-enable");
    enabled.is_ok_and(|text| text.trim() == "0").then(|| {
        Reason::new(
            "leases are switched off (fs.leases-enable = 0)",
            "sysctl fs.leases-enable=1",
        )
    })
}

fn not_dax(fd: impl AsFd, known: &Known) -> Reason {
    let mount = mounts::of_file(known).ok().flatten();
    let journalled = ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::JOURNALING));
    let why = match &mount {
        Some(mount) => why_not_dax(mount, known, journalled, device_can_dax(mount.device)),
        None => Reason::plain("its filesystem is mounted in another namespace"),
    };
    Reason {
        what: format!("not a DAX file: {}", why.what),
        ..why
    }
}

/// Whether a filesystem has DAX files can be read off the mount, except for what is set for one file.
fn why_not_dax(mount: &Mount, known: &Known, journalled: bool, device: Option<bool>) -> Reason {
    let kind = &mount.kind;
    let point = crate::text::shown(&mount.point);
    if kind == "overlay" {
        return Reason::new(
            "it is on overlayfs",
            "use the file's path in the filesystem below it",
        );
    }
    if !mount.can_take_part() {
        return Reason::new(
            format!("{kind} takes no part"),
            "only ext4 and XFS on persistent memory do",
        );
    }
    if device == Some(false) {
        return Reason::new(
            format!("the device of {point} cannot do DAX"),
            "use persistent memory in fsdax mode (ndctl create-namespace --mode=fsdax)",
        );
    }
    // With delayed allocation, the default, ext4 does not heed the file's own flag.
    if mount.has("data=journal") || (journalled && mount.has("nodelalloc")) {
        return Reason::new(
            "ext4 journals its data, which excludes DAX",
            if mount.has("data=journal") {
                "mount with data=ordered"
            } else {
                "chattr -j, while the file is empty or not in use"
            },
        );
    }
    if known.transformed {
        return Reason::plain("it is encrypted, or protected by verity, which excludes DAX");
    }
    if mount.has("dax=never") {
        return Reason::new(
            format!("{point} is mounted with dax=never"),
            format!("umount it, and mount it with -o dax=always ({kind})"),
        );
    }
    if mount.has("dax=always") {
        return Reason::plain(
            "the filesystem has it that way for this file (inline data, or a block size \
             other than the page size)",
        );
    }
    Reason::new(
        format!("{point} is mounted without dax=always, and the file does not ask for DAX"),
        "mount with -o dax=always; or set the flag on an empty file or its directory: \
         xfs_io -c 'chattr +x'",
    )
}

/// A DAX file that the filesystem refuses nevertheless.
fn moves(known: &Known) -> Reason {
    let kind = mounts::of_file(known)
        .ok()
        .flatten()
        .map(|mount| mount.kind);
    match kind.as_deref() {
        Some("xfs") => Reason::new(
            "its blocks are shared or copied on write (reflink, always_cow, zoned), so they do not \
             stay in place",
            "lease a full copy: cp --reflink=never",
        ),
        Some("ext4") => Reason::new(
            "ext4 journals its data, so its blocks do not stay in place",
            "chattr -j, while the file is empty or not in use",
        ),
        Some(kind) => Reason::new(
            format!("{kind} takes no part"),
            "only ext4 and XFS do",
        ),
        None => Reason::plain("its filesystem takes no part"),
    }
}

fn conflict(known: &Known) -> Reason {
    let leases = file_leases().unwrap_or_default();
    let others: Vec<String> = leases
        .iter()
        .filter(|lease| (lease.device, lease.inode) == (known.id.device, known.id.inode))
        .map(|lease| {
            let holder = lease
                .pid
                .map_or_else(|| "somebody".to_owned(), |pid| Process::of(pid).brief());
            let class = match lease.class {
                LeaseClass::Layout => "a layout lease",
                LeaseClass::Plain => "a lease, or nfsd's layout,",
                LeaseClass::Delegation => "an NFS delegation",
            };
            let state = if lease.state == LeaseState::Breaking {
                " that is being broken"
            } else {
                ""
            };
            format!("{holder} has {class}{state}")
        })
        .collect();
    if others.is_empty() {
        return Reason::new("another lease on it conflicted a moment ago", "try again");
    }
    Reason::new(
        format!("a lease on it conflicts: {}", others.join(", ")),
        "ask for a shared lease, or wait until it is released",
    )
}

/// What the block layer says; nothing for devices that are none.
fn device_can_dax(device: Device) -> Option<bool> {
    let Device { major, minor } = device;
    let base = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk's queue.
    [format!("{base}/queue/dax"), format!("{base}/../queue/dax")]
        .iter()
        .find_map(|path| std::fs::read_to_string(Path::new(path)).ok())
        .map(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout_lease::Call;

    fn mount(kind: &str, options: &str) -> Mount {
        Mount {
            id: 1,
            device: Device {
                major: 259,
                minor: 0,
            },
            point: "/mnt/pmem".into(),
            kind: kind.to_owned(),
            source: "/dev/pmem0".into(),
            options: options.to_owned(),
        }
    }

    #[test]
    fn each_cause_has_its_remedy() {
        let file = Known::at(Path::new("/proc/self/exe")).unwrap();
        let sentence = |kind, options, journalled, device| {
            why_not_dax(&mount(kind, options), &file, journalled, device).sentence()
        };
        let yes = Some(true);
        for (text, words) in [
            (sentence("tmpfs", "rw", false, None), "only ext4 and XFS"),
            (sentence("overlay", "rw", false, None), "below"),
            (sentence("xfs", "rw", false, Some(false)), "ndctl"),
            (sentence("ext4", "rw,nodelalloc", true, yes), "chattr -j"),
            (sentence("ext4", "rw", true, yes), "dax=always"),
            (
                sentence("ext4", "rw,data=journal", false, yes),
                "data=ordered",
            ),
            (sentence("xfs", "rw,dax=never", false, yes), "dax=always"),
            (sentence("xfs", "rw", false, yes), "chattr +x"),
            (sentence("ext4", "rw,dax=always", false, yes), "inline"),
        ] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn tells_a_directory_from_an_old_kernel() {
        let directory = std::fs::File::open("/").unwrap();
        let error = Error::new(Call::Set, Errno::INVAL.raw_os_error());
        assert!(refusal(&directory, &error).what.contains("regular"));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let what = refusal(&file, &error).what;
        let kernel = kernel().map_or_else(|| error.explanation().to_owned(), |why| why.what);
        assert_eq!(what, kernel);
    }

    #[test]
    fn tells_a_file_without_dax() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let error = Error::new(Call::Set, Errno::OPNOTSUPP.raw_os_error());
        let reason = refusal(&file, &error);
        assert_eq!(reason.what, "not a DAX file: tmpfs takes no part");
    }

    #[test]
    fn a_conflict_that_is_over_is_said_to_be() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let error = Error::new(Call::Set, Errno::AGAIN.raw_os_error());
        assert_eq!(refusal(&file, &error).remedy.as_deref(), Some("try again"));
    }
}
