// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long-term pins in the name of an open file of the kernel's gup_test.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The file to open; only root may.
pub const GUP_TEST: &str = "/sys/kernel/debug/gup_test";

/// `PIN_LONGTERM_TEST_START`.
const START: libc::Ioctl = 0x4018_6707;
/// `PIN_LONGTERM_TEST_STOP`.
const STOP: libc::Ioctl = 0x6708;
const USE_WRITE: u32 = 1;
const USE_OWNED: u32 = 4;

/// `struct pin_longterm_test`.
#[repr(C)]
struct Start {
    address: u64,
    size: u64,
    flags: u32,
}

fn control(fd: BorrowedFd, request: libc::Ioctl, argument: u64) -> Result<(), Errno> {
    // SAFETY: START reads the structure that its argument points to, STOP ignores it.
    if unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Pins memory of this process; the pages of DAX files in it are recorded as the file's.
pub fn pin(fd: BorrowedFd, address: usize, length: usize, write: bool) -> Result<(), Errno> {
    let start = Start {
        address: address as u64,
        size: length as u64,
        flags: USE_OWNED | if write { USE_WRITE } else { 0 },
    };
    control(fd, START, &raw const start as u64)
}

/// Lets go of all that the file has pinned.
pub fn unpin(fd: BorrowedFd) -> Result<(), Errno> {
    control(fd, STOP, 0)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn structure_has_the_size_in_the_request() {
        let size = std::mem::size_of::<Start>() as libc::Ioctl;
        assert_eq!((START >> 16) & 0x3fff, size);
    }
}
