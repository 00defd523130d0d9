// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls with nothing around them that would be counted as well.

use anyhow::{bail, Context};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a call returned, or its error.
pub fn check(result: i32) -> anyhow::Result<i32> {
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(result)
}

/// What must fail, and with this errno.
pub fn refused(result: i32, errno: i32) -> anyhow::Result<()> {
    let error = std::io::Error::last_os_error();
    if result >= 0 {
        bail!("succeeded, and should not have");
    }
    if error.raw_os_error() != Some(errno) {
        bail!("{error}, and not errno {errno}");
    }
    Ok(())
}

/// A descriptor that a call has just returned.
pub fn file_of(fd: i32) -> File {
    // SAFETY: just opened by the caller, and owned by nobody else.
    unsafe { File::from_raw_fd(fd) }
}

/// A path for a system call.
pub fn path_string(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path")
}

/// `fcntl(F_SETLEASE)`.
pub fn set_lease(file: &File, argument: i32) -> anyhow::Result<()> {
    // SAFETY: F_SETLEASE takes an int.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, argument) }).map(drop)
}

/// `ftruncate`.
pub fn truncate(file: &File, size: u64) -> i32 {
    // SAFETY: touches no memory.
    unsafe { libc::ftruncate(file.as_raw_fd(), size as i64) }
}

/// `fallocate` that makes a hole.
pub fn punch(file: &File, offset: u64, length: u64) -> i32 {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: touches no memory.
    unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) }
}

/// `pwrite` of all of the data.
pub fn write(file: &File, data: &[u8], offset: u64) -> anyhow::Result<()> {
    let (at, length) = (data.as_ptr().cast(), data.len());
    // SAFETY: the data outlive the call.
    let done = unsafe { libc::pwrite(file.as_raw_fd(), at, length, offset as i64) };
    if usize::try_from(done).ok() != Some(length) {
        bail!(
            "wrote {done} of {length}: {}",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}

/// Everything written, and the machine at rest.
pub fn settle() {
    // SAFETY: touches no memory.
    unsafe { libc::sync() };
    std::thread::sleep(std::time::Duration::from_millis(50));
}
