// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/file_pins`: everything in the system that can refuse a change of a file's layout.
//!
//! ```text
//! pin /dev/infiniband/uverbs0 1142,1150 /mnt/pmem/data 0-131071 rw
//! pin mm 1200 /mnt/pmem/ring 4096-8191 r
//! pin /dev/infiniband/uverbs0 - /mnt/pmem/sent 0-4095 rw
//! lease 1142 /mnt/pmem/data shared
//! ```

use super::{each_line, fields, path_field, pid, pin, ParseError, Pin};
use crate::LeaseKind;
use std::io;
use std::path::PathBuf;

/// Who keeps a pin, seen from outside of any process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SystemOwner {
    /// An open file, by its path; for RDMA the uverbs device.
    File(PathBuf),
    /// The memory of a process.
    Mm,
}

/// A pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemPin {
    /// Who keeps it.
    pub owner: SystemOwner,
    /// The processes that have the owner: all of them must let go of it. Empty where no process has it open,
    /// as while its descriptor is on its way over a socket. A process outside the reader's pid namespace
    /// has no number in it, and is 0 here or left out.
    pub pids: Vec<u32>,
    /// What is pinned.
    pub pin: Pin,
}

/// An exclusive layout lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemLease {
    /// The holder; `None` if it is gone (and the lease is not) or has no number in the reader's namespace.
    pub pid: Option<u32>,
    /// The leased file.
    pub path: PathBuf,
    /// Whether there can be others.
    pub kind: LeaseKind,
}

/// A line of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A pinned range.
    Pin(SystemPin),
    /// An exclusive layout lease.
    Lease(SystemLease),
}

/// Reads and parses the system's pins and exclusive leases.
///
/// # Errors
/// `NotFound` for a kernel without the listing, `PermissionDenied` without root, `InvalidData` for a listing
/// that does not parse.
pub fn system_file_pins() -> io::Result<Vec<Entry>> {
    Ok(parse_system(&std::fs::read("/proc/file_pins")?)?)
}

/// Parses the text of `/proc/file_pins`.
///
/// ```
/// use layout_lease::proc::{parse_system, Entry};
///
/// let entries = parse_system(b"pin mm 12,14 /mnt/a 0-4095 rw\nlease 0 /mnt/a sole\n")?;
/// let Entry::Pin(pin) = &entries[0] else { panic!() };
/// assert_eq!(pin.pids, [12, 14]);
/// # Ok::<(), layout_lease::proc::ParseError>(())
/// ```
///
/// # Errors
/// The first line that does not have the documented form.
pub fn parse_system(text: &[u8]) -> Result<Vec<Entry>, ParseError> {
    let mut entries = Vec::new();
    each_line(text, |line| {
        entries.push(if let Some(rest) = line.strip_prefix(b"pin ") {
            Entry::Pin(pin_entry(rest)?)
        } else if let Some(rest) = line.strip_prefix(b"lease ") {
            Entry::Lease(lease_entry(rest)?)
        } else {
            return Err("neither a pin nor a lease");
        });
        Ok(())
    })?;
    Ok(entries)
}

fn pin_entry(rest: &[u8]) -> Result<SystemPin, &'static str> {
    let [owner, pids, path, range, mode] = fields(rest).ok_or("a pin has six fields")?;
    let owner = match owner {
        b"mm" => SystemOwner::Mm,
        path => SystemOwner::File(path_field(path)?),
    };
    let pids = match pids {
        b"-" => Vec::new(),
        list => list
            .split(|&byte| byte == b',')
            .map(|digits| pid(digits).ok_or("a process that is not a number"))
            .collect::<Result<_, _>>()?,
    };
    let pin = pin(path, range, mode)?;
    Ok(SystemPin { owner, pids, pin })
}

fn lease_entry(rest: &[u8]) -> Result<SystemLease, &'static str> {
    let [holder, path, kind] = fields(rest).ok_or("a lease has four fields")?;
    let holder = pid(holder).ok_or("a process that is not a number")?;
    Ok(SystemLease {
        pid: (holder != 0).then_some(holder),
        path: path_field(path)?,
        kind: match kind {
            b"shared" => LeaseKind::Shared,
            b"sole" => LeaseKind::Sole,
            _ => return Err("a lease that is neither shared nor sole"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn reads_the_documented_form() {
        let text = b"pin /dev/infiniband/uverbs0 1142,1150 /mnt/pmem/a\\012\xff 0-131071 rw\n\
                     pin mm 1200 /mnt/pmem/ring 4096-8191 r\n\
                     pin /dev/infiniband/uverbs0 - /mnt/pmem/sent\\040(deleted) 0-4095 rw\n\
                     lease 0 /mnt/pmem/data sole\n";
        let entries = parse_system(text).unwrap();
        let [Entry::Pin(first), Entry::Pin(second), Entry::Pin(third), Entry::Lease(lease)] =
            &entries[..]
        else {
            panic!("{entries:?}");
        };
        assert_eq!(first.pids, [1142, 1150]);
        assert_eq!(
            first.pin.path.as_os_str().as_bytes(),
            b"/mnt/pmem/a\n\xff" as &[u8]
        );
        assert_eq!(second.owner, SystemOwner::Mm);
        assert!(third.pids.is_empty());
        assert_eq!((lease.pid, lease.kind), (None, LeaseKind::Sole));
    }

    #[test]
    fn says_which_line_is_wrong() {
        let cases: [(&[u8], &str); 6] = [
            (b"pin mm 1 /a 0-1\n", "a pin has six fields"),
            (b"pin mm 1, /a 0-1 r\n", "a process that is not a number"),
            (b"pin mm -1 /a 0-1 r\n", "a process that is not a number"),
            (
                b"lease 1 /a both\n",
                "a lease that is neither shared nor sole",
            ),
            (b"lease 1 /a b sole\n", "a lease has four fields"),
            (b"\n\n", "neither a pin nor a lease"),
        ];
        for (text, what) in cases {
            assert_eq!(parse_system(text).unwrap_err().what, what);
        }
    }
}
