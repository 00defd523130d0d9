// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that nobody writes to, where blocks that are freed go next: a device that still writes to one
//! changes a canary.

use crate::protocol::pattern;
use crate::snapshot::extents;
use anyhow::{bail, ensure, Context};
use rustix::fs::{fallocate, FallocateFlags};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of each.
const SIZE: u64 = 256 << 10;
/// With less than this left, canaries make room.
const LOW: u64 = 14 << 20;
/// With more than this left, there are more of them.
const HIGH: u64 = 18 << 20;

/// The canaries of a filesystem.
pub struct Canaries {
    directory: PathBuf,
    files: Vec<(PathBuf, u32)>,
    next: u32,
    /// How many were looked at.
    pub verified: usize,
}

fn free(path: &Path) -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

impl Canaries {
    /// Canaries in this part of what is free. What no file under test can come to have is taken by
    /// one large file, whose blocks nobody ever had.
    pub fn release(root: &Path, room: u64) -> anyhow::Result<Canaries> {
        let directory = root.join("canaries");
        fs::create_dir_all(&directory)?;
        let left = free(root)?;
        if left > room + HIGH {
            let ballast = File::create(directory.join("ballast"))?;
            let length = left - room - HIGH;
            fallocate(&ballast, FallocateFlags::empty(), 0, length).context("ballast")?;
        }
        let mut canaries = Canaries {
            directory,
            files: Vec::new(),
            next: 1,
            verified: 0,
        };
        canaries.balance()?;
        Ok(canaries)
    }

    /// Takes what was freed, or gives room.
    pub fn balance(&mut self) -> anyhow::Result<()> {
        let mut left = free(&self.directory)?;
        while left < LOW && !self.files.is_empty() {
            let index = fastrand::usize(..self.files.len());
            self.verify(index)?;
            let (path, _) = self.files.swap_remove(index);
            fs::remove_file(path)?;
            left = free(&self.directory)?;
        }
        while left > HIGH {
            let seed = self.next;
            self.next += 1;
            let path = self.directory.join(format!("canary-{seed}"));
            File::create(&path)?.write_all(&pattern(seed, SIZE as usize))?;
            self.files.push((path, seed));
            left = free(&self.directory)?;
        }
        Ok(())
    }

    fn verify(&mut self, index: usize) -> anyhow::Result<()> {
        let (path, seed) = &self.files[index];
        let mut found = Vec::new();
        File::open(path)?.read_to_end(&mut found)?;
        let wanted = pattern(*seed, SIZE as usize);
        self.verified += 1;
        if found == wanted {
            return Ok(());
        }
        let differs = found.iter().zip(&wanted).position(|(a, b)| a != b);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        bail!("{name} changed at byte {differs:?} ({} bytes)", found.len())
    }

    /// Looks at one of them.
    pub fn look(&mut self) -> anyhow::Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        self.verify(fastrand::usize(..self.files.len()))
    }

    /// Looks at all of them.
    pub fn look_at_all(&mut self) -> anyhow::Result<()> {
        (0..self.files.len()).try_for_each(|index| self.verify(index))
    }

    /// Writes to a block of a canary behind the filesystem's back, as a device would that kept the
    /// block after it was freed.
    pub fn disturb(&self, device: &Path) -> anyhow::Result<()> {
        let (path, _) = self.files.last().context("no canary")?;
        let file = File::open(path)?;
        file.sync_all()?;
        let extents = extents(&file)?;
        let first = extents.first().context("no extent")?;
        let device = File::options().write(true).open(device)?;
        device.write_all_at(b"a device wrote this", first.physical + 64)?;
        device.sync_all()?;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Looks at all of them for the last time; how often any was looked at.
    pub fn end(&mut self) -> anyhow::Result<usize> {
        self.look_at_all()?;
        ensure!(!self.files.is_empty(), "there was no canary");
        Ok(self.verified)
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        // What is left takes room from others on the filesystem, no more.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
