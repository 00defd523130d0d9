// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of every kind that can be pinned, with pages of a size that is made sure of.

use super::sys::{check, file_of, write};
use crate::calls::carry_out;
use crate::ioctls;
use crate::setup::{Fs, Mounted};
use anyhow::{ensure, Context};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A small page.
pub const PAGE: u64 = 4096;
/// A huge one.
pub const HUGE: u64 = 2 << 20;

/// How large pages, or entries of a DAX file, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Huge,
}

impl Grain {
    /// Both.
    pub const ALL: [Grain; 2] = [Grain::Small, Grain::Huge];

    /// As the variants are called.
    pub fn name(self) -> &'static str {
        match self {
            Grain::Small => "4k",
            Grain::Huge => "2m",
        }
    }
}

/// A mapping, unmapped on drop, with what it is a mapping of.
pub struct Mapping {
    whole: (usize, usize),
    at: usize,
    length: u64,
    /// Kept open: a lease ends with the last close.
    pub file: Option<File>,
}

impl Mapping {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.at as u64
    }

    fn reserve(length: u64) -> anyhow::Result<(usize, usize)> {
        let whole = usize::try_from(length + 2 * HUGE)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place the kernel chooses.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        ensure!(
            base != libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Ok((base as usize, whole))
    }

    /// Maps so that pages of 2 MiB are possible, or so that they are not.
    fn new(
        grain: Grain,
        length: u64,
        flags: i32,
        file: Option<File>,
        advice: Option<i32>,
    ) -> anyhow::Result<Mapping> {
        let whole = Mapping::reserve(length)?;
        let aligned = (whole.0 as u64).next_multiple_of(HUGE);
        // A mapping that does not begin where its file does, counted in units of 2 MiB, has no entries
        // of that size.
        let shift = if grain == Grain::Small && file.is_some() {
            PAGE
        } else {
            0
        };
        let at = usize::try_from(aligned + shift)?;
        let mapping = Mapping {
            whole,
            at,
            length,
            file,
        };
        let fd = mapping.file.as_ref().map_or(-1, |file| file.as_raw_fd());
        let size = usize::try_from(length)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: replaces part of the mapping reserved for it above.
        let got = unsafe {
            libc::mmap(
                at as *mut c_void,
                size,
                prot,
                flags | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        ensure!(
            got != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        if let Some(advice) = advice {
            // SAFETY: the mapping just made.
            check(unsafe { libc::madvise(at as *mut c_void, size, advice) })?;
        }
        Ok(mapping)
    }

    /// Anonymous memory, written to.
    pub fn anonymous(grain: Grain, length: u64) -> anyhow::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let advice = match grain {
            Grain::Small => libc::MADV_NOHUGEPAGE,
            Grain::Huge => libc::MADV_HUGEPAGE,
        };
        Mapping::new(grain, length, flags, None, Some(advice))?.touched(grain)
    }

    /// Shared memory.
    pub fn shmem(length: u64) -> anyhow::Result<Mapping> {
        let name = c"bench";
        // SAFETY: the name ends in NUL and outlives the call.
        let fd = check(unsafe { libc::memfd_create(name.as_ptr(), 0) })?;
        let file = file_of(fd);
        file.set_len(length)?;
        Mapping::new(Grain::Small, length, libc::MAP_SHARED, Some(file), None)?
            .touched(Grain::Small)
    }

    /// Pages of hugetlb.
    pub fn hugetlb(length: u64) -> anyhow::Result<Mapping> {
        let pages = length / HUGE;
        std::fs::write("/proc/sys/vm/nr_hugepages", pages.to_string())?;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        let mapping = Mapping::new(Grain::Huge, length, flags, None, None);
        mapping
            .context("huge pages of hugetlb")?
            .touched(Grain::Huge)
    }

    /// A file, or a device of DAX, from its beginning.
    pub fn shared(path: &Path, grain: Grain, length: u64) -> anyhow::Result<Mapping> {
        let file = File::options().read(true).write(true).open(path)?;
        Mapping::new(grain, length, libc::MAP_SHARED, Some(file), None)?.touched(grain)
    }

    /// A file of a DAX filesystem with an exclusive lease, which ends with the mapping.
    pub fn leased(path: &Path, grain: Grain, length: u64) -> anyhow::Result<Mapping> {
        let mapping = Mapping::shared(path, grain, length)?;
        let file = mapping.file.as_ref().context("a file")?;
        layout_lease::set_lease(
            file,
            layout_lease::LeaseKind::Shared,
            layout_lease::LeaseFlags::LAYOUT | layout_lease::LeaseFlags::EXCLUSIVE,
        )?;
        Ok(mapping)
    }

    /// Writes to each page, and sees from the faults how large they are.
    fn touched(self, grain: Grain) -> anyhow::Result<Mapping> {
        let before = faults()?;
        for offset in (0..self.length).step_by(PAGE as usize) {
            // SAFETY: inside the mapping, which is writable.
            unsafe { (self.at as *mut u8).add(offset as usize).write_volatile(1) };
        }
        let (got, pages) = (faults()? - before, self.length / PAGE);
        let right = match grain {
            Grain::Small => got >= pages,
            Grain::Huge => got < (pages / 64).max(8),
        };
        ensure!(
            right,
            "{got} faults for {pages} pages: they are not of {}",
            grain.name()
        );
        Ok(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping's own place, of which nobody keeps a reference.
        unsafe { libc::munmap(self.whole.0 as *mut c_void, self.whole.1) };
    }
}

/// Faults of this process so far.
fn faults() -> anyhow::Result<u64> {
    // SAFETY: all zeroes is a valid structure, and the kernel fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        check(libc::getrusage(libc::RUSAGE_SELF, &mut usage))?;
        usage
    };
    Ok(u64::try_from(usage.ru_minflt + usage.ru_majflt)?)
}

/// A file full of blocks, in pieces of 2 MiB that lie at multiples of that on the device.
pub fn file(mounted: &Mounted, name: &str, size: u64) -> anyhow::Result<PathBuf> {
    let path = mounted.root.join(name);
    let file = File::create(&path)?;
    if mounted.fs == Fs::Xfs {
        let hint = ioctls::set_attributes(&path, ioctls::XFLAG_EXTSIZE, HUGE as u32);
        let reply = carry_out(&hint);
        ensure!(reply.errno == 0, "the extent size hint: {}", reply.text);
    }
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)
        .with_context(|| format!("fallocate {}", path.display()))?;
    // Blocks that have been written to: a fault only maps them.
    let piece = vec![1; usize::try_from(size.min(1 << 20))?];
    for offset in (0..size).step_by(piece.len()) {
        write(&file, &piece, offset)?;
    }
    file.sync_all()?;
    Ok(path)
}
