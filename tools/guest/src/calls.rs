// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out one timed call of a layout change, in this process.

use crate::protocol::{pattern, Call, Ioctl, Reply};
use rustix::fs::{fallocate, ftruncate, FallocateFlags};
use rustix::io::{pwrite, Errno};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

/// Does it and reports errno and time. Errors of opening the file count as the call's own.
pub fn carry_out(call: &Call) -> Reply {
    match attempt(call) {
        Ok(reply) => reply,
        Err(error) => Reply {
            errno: error.raw_os_error().unwrap_or(libc::EPROTO),
            text: format!("{call:?}: {error}"),
            ..Reply::default()
        },
    }
}

fn attempt(call: &Call) -> std::io::Result<Reply> {
    Ok(match call {
        Call::Ftruncate { path, size, flags } => {
            let file = open(path, *flags)?;
            timed(|| ftruncate(&file, *size))
        }
        Call::Truncate { path, size } => {
            let path = CString::new(path.as_os_str().as_bytes())?;
            let size = i64::try_from(*size).map_err(|_| Errno::FBIG)?;
            // SAFETY: the path is a string that ends in NUL and outlives the call.
            timed(|| check(unsafe { libc::truncate(path.as_ptr(), size) }))
        }
        Call::OpenTruncate { path } => {
            let path = CString::new(path.as_os_str().as_bytes())?;
            let flags = libc::O_RDWR | libc::O_TRUNC | libc::O_CLOEXEC;
            let mut fd = -1;
            let reply = timed(|| {
                // SAFETY: the path is a string that ends in NUL and outlives the call.
                fd = unsafe { libc::open(path.as_ptr(), flags) };
                check(fd)
            });
            if fd >= 0 {
                // SAFETY: just opened, and nobody else knows the number.
                unsafe { libc::close(fd) };
            }
            reply
        }
        Call::Fallocate {
            path,
            mode,
            offset,
            length,
            flags,
        } => {
            let file = open(path, *flags)?;
            let mode = FallocateFlags::from_bits_retain(*mode);
            timed(|| fallocate(&file, mode, *offset, *length))
        }
        Call::CloneRange {
            from,
            from_offset,
            length,
            to,
            to_offset,
            flags,
        } => {
            let source = open(from, *flags)?;
            let target = open(to, *flags)?;
            let range = libc::file_clone_range {
                src_fd: i64::from(source.as_raw_fd()),
                src_offset: *from_offset,
                src_length: *length,
                dest_offset: *to_offset,
            };
            // SAFETY: FICLONERANGE reads the structure it is given, which outlives the call.
            timed(|| check(unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &range) }))
        }
        Call::CopyRange { from, to, length } => {
            let source = open(from, 0)?;
            let target = open(to, 0)?;
            let length = usize::try_from(*length).map_err(|_| Errno::INVAL)?;
            let mut copied = 0;
            let mut reply = timed(|| {
                copied = rustix::fs::copy_file_range(&source, None, &target, None, length)?;
                Ok(())
            });
            reply.value = i64::try_from(copied).unwrap_or(i64::MAX);
            reply
        }
        Call::Pwrite {
            path,
            offset,
            length,
        } => {
            let file = open(path, 0)?;
            let data = pattern(1, usize::try_from(*length).map_err(|_| Errno::INVAL)?);
            timed(|| pwrite(&file, &data, *offset).map(drop))
        }
        Call::Swapon { path } => {
            let path = CString::new(path.as_os_str().as_bytes())?;
            // SAFETY: the path is a string that ends in NUL and outlives the call.
            timed(|| check(unsafe { libc::swapon(path.as_ptr(), 0) }))
        }
        Call::Ioctl(ioctl) => structure(ioctl)?,
    })
}

/// An ioctl with a structure, which may hold descriptors and, afterwards, an errno.
fn structure(ioctl: &Ioctl) -> std::io::Result<Reply> {
    let mut argument = ioctl.argument.clone();
    let mut opened = Vec::new();
    for other in &ioctl.others {
        let file = open(&other.path, ioctl.flags)?;
        let number = i64::from(file.as_raw_fd()).to_le_bytes();
        let place = argument.get_mut(other.at..other.at + other.width);
        place
            .ok_or(Errno::INVAL)?
            .copy_from_slice(&number[..other.width]);
        opened.push(file);
    }
    let file = File::options()
        .read(true)
        // Directories stand for their filesystem.
        .write(!ioctl.path.is_dir())
        .custom_flags(ioctl.flags)
        .open(&ioctl.path)?;
    let mut reply = timed(|| {
        let argument = argument.as_mut_ptr();
        // SAFETY: the buffer is as long as the structure the request is about.
        check(unsafe { libc::ioctl(file.as_raw_fd(), ioctl.request as libc::Ioctl, argument) })
    });
    if let Some(at) = ioctl.status.filter(|_| reply.errno == 0) {
        let bytes = argument.get(at..at + 4).ok_or(Errno::INVAL)?;
        let status = i32::from_le_bytes(bytes.try_into().map_err(|_| Errno::INVAL)?);
        reply.errno = (-status).max(0);
        reply.value = status.into();
    }
    Ok(reply)
}

fn open(path: &Path, flags: i32) -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

fn check(result: i32) -> Result<(), Errno> {
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Runs a system call and puts errno and time into a reply.
pub fn timed(call: impl FnOnce() -> Result<(), Errno>) -> Reply {
    let begin = Instant::now();
    let result = call();
    let ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Reply {
        errno: result.err().map_or(0, Errno::raw_os_error),
        ns,
        ..Reply::default()
    }
}
