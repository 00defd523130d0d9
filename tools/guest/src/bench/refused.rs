// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout changes that are refused, with few pins and with many, in small files and in large ones; and
//! those that succeed beside them.

use super::count::{costs, Costs, COLD};
use super::gup::{GupTest, How};
use super::memory::{file, Grain, Mapping, HUGE, PAGE};
use super::sys::{check, punch, refused, settle, truncate, write};
use super::Bench;
use crate::client::Client;
use crate::setup::{Fs, Mounted};
use anyhow::ensure;
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use std::fs::File;
use std::path::Path;

/// How many pins.
pub const PINS: [u64; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// How large the file is.
const SIZES: [u64; 4] = [HUGE, 16 << 20, 128 << 20, 1 << 30];
/// More than this has no blocks: the device is not that large.
const BLOCKS: u64 = 128 << 20;
/// The part of the file that pins are in, one page each, over and over.
const PINNED: u64 = 16 << 20;
/// How many of them are measured.
const ONE_BY_ONE: u64 = 25;
const ETXTBSY: i32 = libc::ETXTBSY;

/// All of it, on both filesystems.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for fs in Fs::ALL {
        let mut mounted = Mounted::roomy(fs)?;
        with_pins(bench, &mounted)?;
        with_sizes(bench, &mounted)?;
        mounted.unmount()?;
    }
    Ok(())
}

/// One-page pins of a mapping, by the test device; unpinned on drop.
pub struct Pinned {
    device: GupTest,
    mapping: Mapping,
    pins: u64,
    pages: u64,
}

impl Pinned {
    /// None yet, of a file with this much to pin.
    pub fn of(path: &Path, length: u64) -> anyhow::Result<Pinned> {
        Ok(Pinned {
            device: GupTest::open()?,
            mapping: Mapping::leased(path, Grain::Small, length)?,
            pins: 0,
            pages: length / PAGE,
        })
    }

    /// The same of anonymous memory.
    pub fn of_anonymous(length: u64) -> anyhow::Result<Pinned> {
        Ok(Pinned {
            device: GupTest::open()?,
            mapping: Mapping::anonymous(Grain::Small, length)?,
            pins: 0,
            pages: length / PAGE,
        })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.pins
    }

    /// Adds pins until there are so many.
    pub fn grow(&mut self, pins: u64) -> anyhow::Result<()> {
        while self.pins < pins {
            let offset = self.pins % self.pages * PAGE;
            self.device
                .pin(self.mapping.address() + offset, PAGE, How::Owned)?;
            self.pins += 1;
        }
        Ok(())
    }
}

fn with_pins(bench: &mut Bench, mounted: &Mounted) -> anyhow::Result<()> {
    let fs = mounted.fs.name();
    let path = file(mounted, "crowded", 2 * PINNED)?;
    let file = File::options().read(true).write(true).open(&path)?;
    let block = [3; PAGE as usize];
    let free = PINNED + PAGE;
    let refill = || write(&file, &block, free);
    let beside = |bench: &mut Bench, pins: u64| {
        let cost = costs(30, refill, || check(punch(&file, free, PAGE)).map(drop))?;
        bench.sink.curve("punch-beside-pins", fs, pins, &cost)
    };
    let mut pinned = Pinned::of(&path, PINNED)?;
    settle();
    beside(bench, 0)?;
    for pins in PINS {
        if pins >= 100 {
            // The last of them one by one, to see what another one costs.
            pinned.grow(pins - ONE_BY_ONE)?;
            let mut next = pinned.pins;
            let more = || {
                next += 1;
                pinned.grow(next)
            };
            let cost = costs(ONE_BY_ONE as usize - COLD, || Ok(()), more)?;
            bench.sink.curve("pin-one-more", fs, pins, &cost)?;
        }
        pinned.grow(pins)?;
        let cost = costs(15, || Ok(()), || refused(truncate(&file, 0), ETXTBSY))?;
        bench
            .sink
            .curve("ftruncate-refused", &format!("{fs}, pins"), pins, &cost)?;
        let cost = costs(15, || Ok(()), || refused(punch(&file, 0, PAGE), ETXTBSY))?;
        bench
            .sink
            .curve("punch-refused", &format!("{fs}, pins"), pins, &cost)?;
        beside(bench, pins)?;
    }
    drop(pinned);
    std::fs::remove_file(&path)?;
    Ok(())
}

/// A pin at the end, a lease of another process, and neither.
fn with_sizes(bench: &mut Bench, mounted: &Mounted) -> anyhow::Result<()> {
    let fs = mounted.fs.name();
    for size in SIZES {
        let path = file(mounted, "sized", size.min(BLOCKS))?;
        let file = File::options().read(true).write(true).open(&path)?;
        file.set_len(size)?;
        // Pages that have been in use.
        drop(Mapping::shared(&path, Grain::Huge, size.min(BLOCKS))?);
        settle();

        let mut pinned = Pinned::of(&path, HUGE)?;
        pinned.grow(1)?;
        let cost = costs(15, || Ok(()), || refused(truncate(&file, 0), ETXTBSY))?;
        bench
            .sink
            .curve("ftruncate-refused", &format!("{fs}, size"), size, &cost)?;
        let cost = costs(15, || Ok(()), || refused(punch(&file, 0, size), ETXTBSY))?;
        bench
            .sink
            .curve("punch-refused", &format!("{fs}, size"), size, &cost)?;
        drop(pinned);

        let mut holder = Client::worker()?.patient();
        holder.open("file", &path)?;
        let lease = libc::F_RDLCK | F_LAYOUT | F_EXCLUSIVE;
        let reply = holder.set_lease("file", lease)?;
        ensure!(reply.errno == 0, "the lease: errno {}", reply.errno);
        let cost = costs(15, || Ok(()), || refused(truncate(&file, 0), ETXTBSY))?;
        bench
            .sink
            .curve("ftruncate-refused", &format!("{fs}, lease"), size, &cost)?;
        let cost = costs(15, || Ok(()), || refused(punch(&file, 0, size), ETXTBSY))?;
        bench
            .sink
            .curve("punch-refused", &format!("{fs}, lease"), size, &cost)?;
        holder.end()?;

        let whole = punch_of(&file, size)?;
        bench.sink.curve("punch-succeeds", fs, size, &whole)?;
        let again = || {
            check(truncate(&file, size))?;
            write(&file, &[7; PAGE as usize], 0)
        };
        // One block to free, which is the least that there can be.
        let shrunk = costs(9, again, || check(truncate(&file, 0)).map(drop))?;
        bench.sink.curve("ftruncate-succeeds", fs, size, &shrunk)?;
        drop(file);
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// The blocks are freed the first time; afterwards there is nothing to free, which is the least that a
/// punch that succeeds can cost.
fn punch_of(file: &File, size: u64) -> anyhow::Result<Costs> {
    costs(
        9,
        || Ok(()),
        || check(punch(file, HUGE, size - HUGE + PAGE)).map(drop),
    )
}
