// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are pinned, and written to by a ring or a device: fsync during and after transfers, changes that
//! have to be refused, and changes after the pin is gone.

use super::block::BLOCK;
use super::transfer::{Device, Mapping, PARTS};
use super::worker::{By, Done, Grow, Worker};
use anyhow::{bail, Context};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use rustix::fs::{fallocate, ftruncate, FallocateFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;

/// Files that stay when they are not pinned any more.
const KEPT: usize = 3;
/// Sizes, in blocks.
const SIZES: [u64; 5] = [4, 8, 16, 32, 64];

/// From a new file to what becomes of it after it was pinned.
pub fn cycle(worker: &mut Worker, device: &mut dyn Device, number: u64) -> anyhow::Result<()> {
    if worker.files() >= KEPT {
        let old = worker.any().context("a file")?;
        worker.unlink(&old)?;
    }
    let name = format!("p{number}");
    let blocks = SIZES[worker.random.usize(..SIZES.len())];
    create(worker, &name, blocks)?;
    let path = worker.path(&name);
    let lease = lease(worker);
    let bytes = blocks * BLOCK as u64;
    let by = if worker.chance(33) {
        Mapping::Synchronous
    } else {
        Mapping::Shared
    };
    device
        .pin(&path, bytes, lease, by)
        .with_context(|| format!("pin {name}, {blocks} blocks"))?;
    let stays = transfers(worker, device, &name, by)?;
    if stays {
        worker.free(&name)?;
    }
    device.unpin().with_context(|| format!("unpin {name}"))?;
    match worker.random.u32(..5) {
        0 => worker.resize(&name, blocks / 2, Grow::Hole)?,
        1 => worker.punch(&name, 1, blocks / 2)?,
        2 => worker.unlink(&name)?,
        _ => worker.write(&name, 0, blocks / 2, By::Stores)?,
    }
    if worker.has(&name) && worker.chance(50) {
        worker.fsync(&name)?;
    }
    if worker.chance(50) {
        worker.fsync_directory()?;
    }
    Ok(())
}

/// Holes and allocated blocks come to be written by the pin; what of that is durable is up to fsync.
fn create(worker: &mut Worker, name: &str, blocks: u64) -> anyhow::Result<()> {
    worker.create(name)?;
    match worker.random.u32(..3) {
        0 => worker.resize(name, blocks, Grow::Hole)?,
        1 => worker.resize(name, blocks, Grow::Allocated)?,
        _ => worker.write(name, 0, blocks, By::Call)?,
    }
    if worker.chance(50) {
        worker.fsync(name)?;
    }
    if worker.chance(70) {
        worker.fsync_directory()?;
    }
    Ok(())
}

fn lease(worker: &mut Worker) -> i32 {
    let kind = if worker.random.bool() {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    kind | F_LAYOUT | F_EXCLUSIVE
}

/// Whether the layout has to stay from now on.
fn transfers(
    worker: &mut Worker,
    device: &mut dyn Device,
    name: &str,
    by: Mapping,
) -> anyhow::Result<bool> {
    let part = worker.blocks(name) / PARTS;
    let mut stays = by == Mapping::Synchronous;
    if stays {
        // All of its blocks can be written to.
        worker.is_durable(name)?;
        worker.keeps_its_layout(name)?;
    }
    for _ in 0..worker.random.u32(3..12) {
        let to = worker.random.u64(..PARTS);
        let count = worker.random.u64(1..=part);
        let data = worker.transfer(name, to * part, count)?;
        device.start(to, &data)?;
        if worker.chance(40) {
            worker.fsync_during(name, 1)?;
        }
        device
            .finish()
            .with_context(|| format!("a transfer of {count} blocks into part {to} of {name}"))?;
        worker.arrived(name)?;
        if by == Mapping::Synchronous {
            worker.is_durable(name)?;
        }
        if worker.chance(25) {
            refused(&worker.path(name))?;
            Done::count(&worker.done.refused);
        }
        if worker.chance(50) {
            worker.fsync(name)?;
            if !stays {
                worker.keeps_its_layout(name)?;
                stays = true;
            }
        }
    }
    Ok(stays)
}

/// Whoever asks, a pinned range is not changed.
fn refused(path: &Path) -> anyhow::Result<()> {
    const ONE: u64 = BLOCK as u64;
    let file = File::options().read(true).write(true).open(path)?;
    let change = |mode| fallocate(&file, mode, 0, ONE);
    let keep = FallocateFlags::KEEP_SIZE;
    for (what, result) in [
        ("truncate", ftruncate(&file, ONE)),
        ("punch", change(FallocateFlags::PUNCH_HOLE | keep)),
        ("zero a range", change(FallocateFlags::ZERO_RANGE | keep)),
        ("collapse", change(FallocateFlags::COLLAPSE_RANGE)),
        ("insert", change(FallocateFlags::INSERT_RANGE)),
    ] {
        if result != Err(Errno::TXTBSY) {
            bail!("{what} of a pinned range was not refused: {result:?}");
        }
    }
    Ok(())
}
