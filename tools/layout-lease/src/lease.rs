// SPDX-License-Identifier: MIT OR Apache-2.0
//! The three calls: take or change a lease, read it, release it.

use crate::error::{Call, Error};
use std::os::fd::{AsFd, AsRawFd};

/// `F_LAYOUT` of `<linux/fcntl.h>`: the lease is on the file's layout.
pub const F_LAYOUT: i32 = 0x100;
/// `F_EXCLUSIVE` of `<linux/fcntl.h>`: the lease cannot be broken. Only together with [`F_LAYOUT`].
pub const F_EXCLUSIVE: i32 = 0x200;

bitflags::bitflags! {
    /// Flags or-ed into the argument of `F_SETLEASE`, and into the result of `F_GETLEASE`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LeaseFlags: i32 {
        /// A lease on the layout, not on the data.
        const LAYOUT = F_LAYOUT;
        /// A lease that cannot be broken; the only kind that allows long-term pins.
        const EXCLUSIVE = F_EXCLUSIVE;
        /// Bits a newer kernel may report.
        const _ = !0;
    }
}

/// How many holders there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseKind {
    /// `F_RDLCK`: any number of holders.
    Shared,
    /// `F_WRLCK`: the only lease of the inode.
    Sole,
}

impl LeaseKind {
    /// The value `fcntl` takes.
    #[must_use]
    pub fn as_raw(self) -> i32 {
        match self {
            LeaseKind::Shared => libc::F_RDLCK,
            LeaseKind::Sole => libc::F_WRLCK,
        }
    }
}

/// A lease as `F_GETLEASE` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Shared or sole.
    pub kind: LeaseKind,
    /// Empty for a plain lease.
    pub flags: LeaseFlags,
}

impl Lease {
    /// What `F_GETLEASE` returned, in types. `None` means no lease, or one that is being broken.
    ///
    /// Values no kernel gives are an error of [`Call::Get`] with `EINVAL`.
    pub fn from_raw(value: i32) -> Result<Option<Lease>, Error> {
        let kind = match value & 0xff {
            v if v == libc::F_UNLCK => return Ok(None),
            v if v == libc::F_RDLCK => LeaseKind::Shared,
            v if v == libc::F_WRLCK => LeaseKind::Sole,
            _ => return Err(Error::new(Call::Get, libc::EINVAL)),
        };
        let flags = LeaseFlags::from_bits_retain(value & !0xff);
        Ok(Some(Lease { kind, flags }))
    }

    /// Whether this is an exclusive layout lease, the kind that allows pins.
    #[must_use]
    pub fn allows_pins(&self) -> bool {
        self.flags
            .contains(LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE)
    }
}

/// Takes a lease on the open file description behind `fd`, or changes the one it has in place.
///
/// With empty `flags` this is an ordinary lease. The holder is the calling process (all of its
/// threads); the lease stays with the description over `dup`, `fork` and `exec`, and ends with its
/// last close.
///
/// ```no_run
/// use layout_lease::{set_lease, LeaseFlags, LeaseKind};
///
/// let file = std::fs::File::options().read(true).write(true).open("/mnt/pmem/data")?;
/// if let Err(error) = set_lease(&file, LeaseKind::Sole, LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE) {
///     // For instance: cannot take the lease: somebody else's lease on this file conflicts ... (EAGAIN)
///     eprintln!("{error}");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// See the table at [`Error`].
pub fn set_lease<Fd: AsFd>(fd: Fd, kind: LeaseKind, flags: LeaseFlags) -> Result<(), Error> {
    set_lease_raw(fd, kind.as_raw() | flags.bits()).map_err(|errno| Error::new(Call::Set, errno))
}

/// `fcntl(fd, F_SETLEASE, argument)` with any argument, sensible or not: for tests of the kernel.
///
/// # Errors
/// The errno.
pub fn set_lease_raw<Fd: AsFd>(fd: Fd, argument: i32) -> Result<(), i32> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of the caller; the descriptor is
    // borrowed, hence open, for the whole call.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETLEASE, argument) };
    if result < 0 {
        return Err(Error::last(Call::Set).errno());
    }
    Ok(())
}

/// The lease on the open file description behind `fd`; `None` where there is none, or while it is
/// being broken.
///
/// ```
/// let file = std::fs::File::open("/proc/self/exe")?;
/// assert_eq!(layout_lease::get_lease(&file)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See the table at [`Error`].
pub fn get_lease<Fd: AsFd>(fd: Fd) -> Result<Option<Lease>, Error> {
    // SAFETY: F_GETLEASE takes no argument; the descriptor is borrowed, hence open.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETLEASE) };
    if result < 0 {
        return Err(Error::last(Call::Get));
    }
    Lease::from_raw(result)
}

/// Releases the lease at once, pinned or not. Pins that exist stay protected; new ones fail.
///
/// ```no_run
/// # let file = std::fs::File::open("/mnt/pmem/data")?;
/// layout_lease::release(&file)?;
/// assert_eq!(layout_lease::get_lease(&file)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `EAGAIN` where the description holds no lease.
pub fn release<Fd: AsFd>(fd: Fd) -> Result<(), Error> {
    set_lease_raw(fd, libc::F_UNLCK).map_err(|errno| Error::new(Call::Release, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_contract() {
        assert_eq!(F_LAYOUT, 0x100);
        assert_eq!(F_EXCLUSIVE, 0x200);
        assert_eq!(LeaseKind::Shared.as_raw(), libc::F_RDLCK);
        assert_eq!(LeaseKind::Sole.as_raw(), libc::F_WRLCK);
    }

    #[test]
    fn raw_values_become_leases() {
        assert_eq!(Lease::from_raw(libc::F_UNLCK), Ok(None));
        let sole = Lease::from_raw(libc::F_WRLCK | F_LAYOUT | F_EXCLUSIVE)
            .unwrap()
            .unwrap();
        assert_eq!(sole.kind, LeaseKind::Sole);
        assert!(sole.allows_pins());
        let shared = Lease::from_raw(libc::F_RDLCK | F_LAYOUT).unwrap().unwrap();
        assert_eq!(shared.kind, LeaseKind::Shared);
        assert!(!shared.allows_pins());
        assert!(Lease::from_raw(0x7f).is_err());
    }

    #[test]
    fn a_plain_lease_round_trips_on_any_kernel() {
        let file = tempfile::tempfile().unwrap();
        match set_lease(&file, LeaseKind::Sole, LeaseFlags::empty()) {
            Ok(()) => {}
            // Sandboxes and some filesystems have no leases at all.
            Err(error) if matches!(error.errno(), libc::EINVAL | libc::EACCES | libc::EAGAIN) => {
                return
            }
            Err(error) => panic!("{error}"),
        }
        let lease = get_lease(&file).unwrap().unwrap();
        assert_eq!(lease.kind, LeaseKind::Sole);
        assert_eq!(lease.flags, LeaseFlags::empty());
        release(&file).unwrap();
        assert_eq!(get_lease(&file).unwrap(), None);
    }
}
