// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the workers are about to do, and what they were told is durable, in memory that is not lost
//! with the power: a file of the host's, which the machine sees as a PCI device (ivshmem).
//!
//! A store is in that file at once, as those to persistent memory are in theirs. So when the machine is
//! stopped or killed, the ledger is exactly as old as the filesystems are. A record is there before the call
//! that it announces begins, and the acknowledgement after the call has returned. Each worker has a part of
//! its own, with one JSON object a line; only its length says what is in it.

use crate::setup::Fs;
use anyhow::{bail, ensure, Context};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u64 = 0x5245_4744_454c_5750;
/// Bytes of a worker's part, its length included.
const PART: usize = 256 << 10;
/// Before the first part.
const HEADER: usize = 4096;
/// A part with less room than this is full.
const RESERVE: usize = 8 << 10;
const LENGTH: usize = 8;

/// Words of the header.
#[derive(Clone, Copy)]
enum Word {
    Magic = 0,
    Round = 8,
    Order = 16,
    Parts = 24,
}

/// An extent: offset in the file, on the device, and bytes.
pub type Piece = [u64; 3];

/// Something a worker is about to do, or knows. Offsets and sizes are in blocks; files go by a number of the
/// worker's that is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The first one: whose part it is. The directory is durable.
    Begin { fs: Fs, directory: String },
    /// Makes an empty file.
    Create { name: String, file: u32 },
    /// Renames, over what has that name.
    Rename { from: String, to: String },
    /// Takes a name away.
    Unlink { name: String },
    /// Writes blocks; the file grows when they lie beyond its end.
    Write {
        file: u32,
        first: u64,
        count: u64,
        generation: u64,
        /// Into pinned memory, by a ring or a device.
        #[serde(default)]
        transfer: bool,
    },
    /// The transfer is complete.
    Arrived { file: u32 },
    /// Sets the size. What is added reads as zeros.
    Resize { file: u32, blocks: u64 },
    /// Frees blocks, which read as zeros.
    Punch { file: u32, first: u64, count: u64 },
    /// fsync begins; so many of the file's changes are complete.
    Fsync { file: u32, covers: usize },
    /// It has returned 0.
    Synced { file: u32 },
    /// Everything done to it so far is durable without fsync: it is pinned by a mapping with MAP_SYNC.
    Durable { file: u32 },
    /// fsync of the directory begins.
    FsyncDirectory,
    /// It has returned 0.
    SyncedDirectory,
    /// The file is pinned, and has these extents. They are durable, and stay until `Free`.
    Layout { file: u32, pieces: Vec<Piece> },
    /// From now on the layout may change.
    Free { file: u32 },
}

/// The memory.
pub struct Ledger {
    at: *mut u8,
    length: usize,
}

// SAFETY: the header and the lengths are only accessed atomically, and each part's text is written by one
// worker, before the length that covers it.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// The machine's, by the device's second region of memory.
    pub fn of_the_machine() -> anyhow::Result<Ledger> {
        Ledger::open(&device()?)
    }

    /// A file.
    pub fn open(path: &Path) -> anyhow::Result<Ledger> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        let length = usize::try_from(file.metadata()?.len())?;
        ensure!(length >= HEADER + PART, "{} is too short", path.display());
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which nothing else refers to.
        let at = unsafe { mmap(std::ptr::null_mut(), length, rw, MapFlags::SHARED, &file, 0) };
        let at = at.with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Ledger {
            at: at.cast(),
            length,
        })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at % 8 == 0 && at + 8 <= self.length);
        // SAFETY: inside the mapping, which lives as long as the reference, and aligned.
        unsafe { AtomicU64::from_ptr(self.at.add(at).cast()) }
    }

    /// The number of the round that is under way; 0 while the filesystems are being made.
    pub fn round(&self) -> u64 {
        match self.word(Word::Magic as usize).load(Ordering::Acquire) {
            MAGIC => self.word(Word::Round as usize).load(Ordering::Acquire),
            _ => 0,
        }
    }

    /// Between two rounds: what the parts hold counts no more.
    pub fn clear(&self, parts: usize) -> anyhow::Result<()> {
        self.word(Word::Round as usize).store(0, Ordering::Release);
        for part in 0..parts {
            ensure!(
                HEADER + (part + 1) * PART <= self.length,
                "no room for {parts} parts"
            );
            self.word(HEADER + part * PART).store(0, Ordering::Release);
        }
        let parts = u64::try_from(parts)?;
        self.word(Word::Parts as usize)
            .store(parts, Ordering::Release);
        self.word(Word::Magic as usize)
            .store(MAGIC, Ordering::Release);
        Ok(())
    }

    /// A round begins.
    pub fn begin(&self, round: u64) {
        self.word(Word::Round as usize)
            .store(round, Ordering::Release);
    }

    /// The order that the host has put there, for the machine that checks.
    pub fn order(&self) -> u64 {
        self.word(Word::Order as usize).load(Ordering::Acquire)
    }

    /// A worker's part.
    pub fn part(&self, number: usize) -> Part<'_> {
        Part {
            ledger: self,
            at: HEADER + number * PART,
        }
    }

    /// What all of it says: the records of each part.
    pub fn read(&self) -> anyhow::Result<Vec<Vec<Record>>> {
        if self.round() == 0 {
            bail!("the ledger has no round");
        }
        let parts = self.word(Word::Parts as usize).load(Ordering::Acquire);
        let parts = usize::try_from(parts)?;
        ensure!(
            parts <= (self.length - HEADER) / PART,
            "the ledger has {parts} parts"
        );
        (0..parts)
            .map(|part| {
                let part = self.part(part);
                part.read()
            })
            .collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: the mapping made when it was opened; every part borrows the ledger.
        let _ = unsafe { munmap(self.at.cast(), self.length) };
    }
}

/// The ledger's device among the PCI devices: the memory that it shares is its third region.
fn device() -> anyhow::Result<PathBuf> {
    const IVSHMEM: [&str; 2] = ["0x1af4", "0x1110"];
    for entry in std::fs::read_dir("/sys/bus/pci/devices")? {
        let device = entry?.path();
        let is = |file: &str, value: &str| {
            std::fs::read_to_string(device.join(file)).is_ok_and(|text| text.trim() == value)
        };
        if is("vendor", IVSHMEM[0]) && is("device", IVSHMEM[1]) {
            return Ok(device.join("resource2"));
        }
    }
    bail!("the machine has no memory for the ledger (ivshmem-plain)")
}

/// What one worker writes, and nobody else.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    ledger: &'a Ledger,
    at: usize,
}

impl Part<'_> {
    fn length(&self) -> usize {
        let length = self.ledger.word(self.at).load(Ordering::Acquire);
        usize::try_from(length).unwrap_or(usize::MAX)
    }

    /// Whether the round has to end.
    pub fn is_full(&self) -> bool {
        self.length() > PART - LENGTH - RESERVE
    }

    /// Adds a record, which is there when this returns.
    pub fn add(&self, record: &Record) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let length = self.length();
        if length > PART - LENGTH || line.len() > PART - LENGTH - length {
            bail!("a worker's part of the ledger is full");
        }
        // SAFETY: the bytes lie in the part, beyond what its length says; nobody else accesses them.
        unsafe {
            let place = self.ledger.at.add(self.at + LENGTH + length);
            std::ptr::copy_nonoverlapping(line.as_ptr(), place, line.len());
        }
        let length = u64::try_from(length + line.len())?;
        self.ledger.word(self.at).store(length, Ordering::Release);
        Ok(())
    }

    fn read(&self) -> anyhow::Result<Vec<Record>> {
        let length = self.length();
        ensure!(length <= PART - LENGTH, "a part of {length} bytes");
        let mut text = vec![0; length];
        // SAFETY: the bytes that the length covers, which nobody writes to.
        unsafe {
            let place = self.ledger.at.add(self.at + LENGTH);
            std::ptr::copy_nonoverlapping(place, text.as_mut_ptr(), length);
        }
        let lines = text.split(|&byte| byte == b'\n').filter(|l| !l.is_empty());
        lines
            .map(|line| {
                serde_json::from_slice(line)
                    .with_context(|| format!("the ledger says {:?}", String::from_utf8_lossy(line)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(parts: usize) -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let file = File::create(&path).unwrap();
        file.set_len((HEADER + parts * PART) as u64).unwrap();
        (dir, Ledger::open(&path).unwrap())
    }

    #[test]
    fn records_come_back_as_they_were() {
        let (_dir, ledger) = ledger(2);
        assert!(ledger.read().is_err(), "no round yet");
        ledger.clear(2).unwrap();
        let create = Record::Create {
            name: "a".into(),
            file: 1,
        };
        ledger.part(1).add(&create).unwrap();
        ledger.part(1).add(&Record::SyncedDirectory).unwrap();
        ledger.begin(1);
        let read = ledger.read().unwrap();
        assert_eq!(read, [vec![], vec![create, Record::SyncedDirectory]]);
        ledger.clear(2).unwrap();
        assert_eq!(ledger.round(), 0);
        ledger.begin(2);
        assert_eq!(ledger.read().unwrap(), [vec![], vec![]]);
    }

    #[test]
    fn what_the_length_does_not_cover_is_not_there() {
        let (dir, ledger) = ledger(1);
        ledger.clear(1).unwrap();
        ledger.begin(1);
        ledger.part(0).add(&Record::FsyncDirectory).unwrap();
        // A record that was being written when the power was lost.
        let text = b"{\"write\":{";
        let file = File::options()
            .write(true)
            .open(dir.path().join("ledger"))
            .unwrap();
        let end = HEADER + LENGTH + "\"fsync_directory\"\n".len();
        std::os::unix::fs::FileExt::write_all_at(&file, text, end as u64).unwrap();
        assert_eq!(ledger.read().unwrap(), [[Record::FsyncDirectory]]);
    }

    #[test]
    fn a_part_is_full_before_it_overflows() {
        let (_dir, ledger) = ledger(1);
        ledger.clear(1).unwrap();
        let part = ledger.part(0);
        let mut records = 0;
        while !part.is_full() {
            part.add(&Record::Synced { file: 1 }).unwrap();
            records += 1;
        }
        assert!(records > 1000);
        let large = Record::Layout {
            file: 1,
            pieces: vec![[1 << 40; 3]; 100],
        };
        part.add(&large).unwrap();
        ledger.begin(1);
        assert_eq!(ledger.read().unwrap()[0].len(), records + 1);
        assert!(ledger.clear(2).is_err());
    }
}
