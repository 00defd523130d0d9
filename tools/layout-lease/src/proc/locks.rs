// SPDX-License-Identifier: MIT OR Apache-2.0
//! The leases in `/proc/locks`, and in the `lock:` lines of `/proc/<pid>/fdinfo/<fd>`.
//!
//! ```text
//! 1: LAYOUT EXCLUSIVE READ  1142 103:00:131 0 EOF
//! 2: LEASE  ACTIVE    WRITE 900 103:00:140 0 EOF
//! 3: POSIX  ADVISORY  WRITE 3568 00:2f:32388 0 EOF
//! ```

use super::{each_line, number, ParseError};
use crate::LeaseKind;
use std::io;

/// A block device, or the number that stands for one, as `stat` has it in `st_dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl From<u64> for Device {
    /// From an `st_dev`.
    fn from(dev: u64) -> Self {
        Device {
            major: libc::major(dev),
            minor: libc::minor(dev),
        }
    }
}

/// What the lease is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseClass {
    /// The layout: taken by a process with `F_LAYOUT`.
    Layout,
    /// The data, or a layout that nfsd has given to a client.
    Plain,
    /// An NFS delegation.
    Delegation,
}

/// How firm it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// It can be broken.
    Active,
    /// It cannot be broken: changes of the layout are refused.
    Exclusive,
    /// Somebody waits for it to be given up.
    Breaking,
}

/// A lease on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileLease {
    /// What it is on.
    pub class: LeaseClass,
    /// How firm it is.
    pub state: LeaseState,
    /// `None` for one that is being broken down to nothing.
    pub kind: Option<LeaseKind>,
    /// Who took it; `None` for a process that is gone, or outside the reader's pid namespace.
    pub pid: Option<u32>,
    /// The filesystem of the leased file.
    pub device: Device,
    /// The leased file's inode number.
    pub inode: u64,
}

/// Reads the leases of the system, layout leases and others. Other locks are left out.
///
/// Leases of processes outside the reader's pid namespace are not listed by the kernel.
///
/// # Errors
/// Whatever reading gives; `InvalidData` for a lease that does not parse.
pub fn file_leases() -> io::Result<Vec<FileLease>> {
    Ok(parse_locks(&std::fs::read("/proc/locks")?)?)
}

/// Parses the text of `/proc/locks`.
///
/// ```
/// use layout_lease::proc::{parse_locks, Device, LeaseClass, LeaseState};
///
/// let text = b"1: LAYOUT EXCLUSIVE READ  1142 103:00:131 0 EOF\n\
///              2: FLOCK  ADVISORY  WRITE 77 08:01:5 0 EOF\n";
/// let leases = parse_locks(text)?;
/// assert_eq!(leases.len(), 1);
/// assert_eq!((leases[0].class, leases[0].state), (LeaseClass::Layout, LeaseState::Exclusive));
/// assert_eq!(leases[0].device, Device { major: 0x103, minor: 0 });
/// # Ok::<(), layout_lease::proc::ParseError>(())
/// ```
///
/// # Errors
/// The first lease that does not have the documented form. Locks that are no leases are not looked at.
pub fn parse_locks(text: &[u8]) -> Result<Vec<FileLease>, ParseError> {
    let mut leases = Vec::new();
    each_line(text, |line| {
        leases.extend(lease_line(line)?);
        Ok(())
    })?;
    Ok(leases)
}

/// A line; nothing if it is no lease, or a process that waits for one.
pub(super) fn lease_line(line: &[u8]) -> Result<Option<FileLease>, &'static str> {
    let mut words = line
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let mut word = || words.next();
    let (_number, class) = (word(), word());
    let class = match class {
        Some(b"LAYOUT") => LeaseClass::Layout,
        Some(b"LEASE") => LeaseClass::Plain,
        Some(b"DELEG") => LeaseClass::Delegation,
        _ => return Ok(None),
    };
    let state = match word() {
        Some(b"ACTIVE") => LeaseState::Active,
        Some(b"EXCLUSIVE") => LeaseState::Exclusive,
        Some(b"BREAKING") => LeaseState::Breaking,
        Some(b"BREAKER") => return Ok(None),
        _ => return Err("a lease in no known state"),
    };
    let kind = match word() {
        Some(b"READ") => Some(LeaseKind::Shared),
        Some(b"WRITE") => Some(LeaseKind::Sole),
        Some(b"UNLCK") => None,
        _ => return Err("a lease of no known type"),
    };
    let holder = match word() {
        // The kernel has -1 for holders that are no processes.
        Some(b"-1") => None,
        Some(digits) => super::pid(digits)
            .map(|pid| (pid != 0).then_some(pid))
            .ok_or("a holder that is not a number")?,
        None => return Err("a lease without a holder"),
    };
    let place = word().ok_or("a lease without an inode")?;
    if place == b"<none>:0" {
        return Ok(None);
    }
    let mut parts = place.split(|&byte| byte == b':');
    let (major, minor, inode) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(major), Some(minor), Some(inode), None) => (hex(major), hex(minor), number(inode)),
        _ => return Err("an inode that is not major:minor:number"),
    };
    let (Some(major), Some(minor), Some(inode)) = (major, minor, inode) else {
        return Err("an inode that is not major:minor:number");
    };
    Ok(Some(FileLease {
        class,
        state,
        kind,
        pid: holder,
        device: Device { major, minor },
        inode,
    }))
}

fn hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_leases_among_other_locks() {
        let text = b"1: POSIX  ADVISORY  WRITE 3568 00:2f:32388 2147483647 2147483647\n\
                     1: -> POSIX  ADVISORY  WRITE 3569 00:2f:32388 2147483647 2147483647\n\
                     2: LAYOUT BREAKING  UNLCK 1 103:00:131 0 EOF\n\
                     3: LAYOUT ACTIVE    WRITE 0 103:01:132 0 EOF\n\
                     4: DELEG  ACTIVE    READ -1 08:11:5 0 EOF\n\
                     5: LEASE  BREAKER   READ 7 <none>:0 0 EOF\n\
                     6: OFDLCK ADVISORY  READ -1 00:06:1028 0 0\n";
        let leases = parse_locks(text).unwrap();
        assert_eq!(leases.len(), 3);
        assert_eq!((leases[0].kind, leases[0].pid), (None, Some(1)));
        assert_eq!(leases[0].state, LeaseState::Breaking);
        assert_eq!(
            (leases[1].kind, leases[1].pid, leases[1].inode),
            (Some(LeaseKind::Sole), None, 132)
        );
        assert_eq!(leases[2].class, LeaseClass::Delegation);
        assert_eq!(
            leases[2].device,
            Device {
                major: 8,
                minor: 17
            }
        );
    }

    #[test]
    fn says_what_is_wrong_with_a_lease() {
        for (line, what) in [
            (
                "1: LAYOUT ODD READ 1 8:1:1 0 EOF",
                "a lease in no known state",
            ),
            (
                "1: LAYOUT ACTIVE BOTH 1 8:1:1 0 EOF",
                "a lease of no known type",
            ),
            (
                "1: LAYOUT ACTIVE READ x 8:1:1 0 EOF",
                "a holder that is not a number",
            ),
            (
                "1: LAYOUT ACTIVE READ 1 8:g:1 0 EOF",
                "an inode that is not major:minor:number",
            ),
            ("1: LAYOUT ACTIVE READ 1", "a lease without an inode"),
        ] {
            assert_eq!(parse_locks(line.as_bytes()).unwrap_err().what, what);
        }
    }

    #[test]
    fn this_system_has_a_listing_that_parses() {
        file_leases().unwrap();
    }

    #[test]
    fn devices_are_those_of_stat() {
        use std::os::unix::fs::MetadataExt;
        let dev = std::fs::metadata("/dev/null").unwrap().rdev();
        assert_eq!(Device::from(dev), Device { major: 1, minor: 3 });
    }
}
