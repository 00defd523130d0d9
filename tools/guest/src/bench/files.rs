// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs do that know nothing of leases and pins: on DAX and without it, on both filesystems.

use super::count::costs;
use super::memory::{file, PAGE};
use super::sys::{check, path_string, punch, set_lease, settle, truncate, write};
use super::Bench;
use crate::setup::{Fs, Mounted};
use anyhow::ensure;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The size of the file.
const SIZE: u64 = 256 << 10;
/// How much is truncated, and mapped.
const PART: u64 = 64 << 10;

/// All of it.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    without_files(bench)?;
    for fs in Fs::ALL {
        let mut mounted = Mounted::roomy(fs)?;
        for (suffix, option) in [("-dax", "dax=always"), ("", "dax=never")] {
            mounted.unmount()?;
            mounted.mount_with(option)?;
            let variant = format!("{}{suffix}", fs.name());
            on(bench, &variant, &mounted)?;
        }
        mounted.unmount()?;
    }
    Ok(())
}

fn without_files(bench: &mut Bench) -> anyhow::Result<()> {
    let cost = costs(
        400,
        || Ok(()),
        || {
            // SAFETY: touches no memory.
            unsafe { libc::syscall(libc::SYS_getppid) };
            Ok(())
        },
    )?;
    bench.sink.costs("getppid", "-", &cost)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let cost = costs(50, || Ok(()), || faulted(-1, flags))?;
    bench.sink.costs("mmap-fault", "anonymous", &cost)
}

/// Maps, writes to each page, unmaps.
fn faulted(fd: i32, flags: i32) -> anyhow::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let length = PART as usize;
    // SAFETY: a new mapping at a place the kernel chooses.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, fd, 0) };
    ensure!(
        map != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    for offset in (0..length).step_by(PAGE as usize) {
        // SAFETY: inside the mapping just made.
        unsafe { map.cast::<u8>().add(offset).write_volatile(7) };
    }
    // SAFETY: the mapping just made, of which nothing is kept.
    check(unsafe { libc::munmap(map, length) }).map(drop)
}

fn on(bench: &mut Bench, variant: &str, mounted: &Mounted) -> anyhow::Result<()> {
    let path = file(mounted, "plain", SIZE)?;
    let file = File::options().read(true).write(true).open(&path)?;
    let data = vec![5; PART as usize];
    let block = &data[..PAGE as usize];
    for offset in (0..SIZE).step_by(PART as usize) {
        write(&file, &data, offset)?;
    }
    settle();
    let none = || Ok(());
    let sink = &mut bench.sink;

    let name = path_string(&path)?;
    let cost = costs(100, none, || {
        // SAFETY: the path ends in NUL; the descriptor is closed by whoever opened it.
        unsafe { check(libc::close(check(libc::open(name.as_ptr(), libc::O_RDWR))?)) }.map(drop)
    })?;
    sink.costs("open-close", variant, &cost)?;

    let cost = costs(100, none, || write(&file, block, 0))?;
    sink.costs("write-4k", variant, &cost)?;

    let fd = file.as_raw_fd();
    let dirty = || {
        write(&file, block, 0)?;
        faulted(fd, libc::MAP_SHARED)
    };
    // SAFETY: touches no memory.
    let cost = costs(40, dirty, || check(unsafe { libc::fsync(fd) }).map(drop))?;
    sink.costs("fsync", variant, &cost)?;

    let longer = || write(&file, &data, SIZE);
    let cost = costs(40, longer, || check(truncate(&file, SIZE)).map(drop))?;
    sink.costs("ftruncate-shrink", variant, &cost)?;

    let filled = || write(&file, block, PART);
    let cost = costs(40, filled, || check(punch(&file, PART, PAGE)).map(drop))?;
    sink.costs("punch-4k", variant, &cost)?;

    let cost = costs(40, none, || faulted(fd, libc::MAP_SHARED))?;
    sink.costs("mmap-fault", variant, &cost)?;
    drop(file);
    plain_leases(bench, variant, &path)
}

/// A lease as it always was, and an open that breaks it.
fn plain_leases(bench: &mut Bench, variant: &str, path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let cost = costs(
        100,
        || Ok(()),
        || {
            set_lease(&file, libc::F_RDLCK)?;
            set_lease(&file, libc::F_UNLCK)
        },
    )?;
    bench
        .sink
        .costs("lease", &format!("{variant}, plain"), &cost)?;

    // SAFETY: a signal that is ignored needs no handler. It would end this process.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let name = path_string(path)?;
    let taken = || {
        // There is none the first time.
        let _ = set_lease(&file, libc::F_UNLCK);
        set_lease(&file, libc::F_RDLCK)
    };
    let cost = costs(60, taken, || {
        let flags = libc::O_WRONLY | libc::O_NONBLOCK;
        // SAFETY: the path ends in NUL.
        super::sys::refused(
            unsafe { libc::open(name.as_ptr(), flags) },
            libc::EWOULDBLOCK,
        )
    })?;
    bench.sink.costs("open-breaks-lease", variant, &cost)?;
    set_lease(&file, libc::F_UNLCK)
}
