// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that nobody pins: created, written, cut, renamed, unlinked and synced by chance.

use super::worker::{By, Grow, Worker};

/// Names.
const NAMES: usize = 10;
/// Blocks of a file.
const LARGEST: u64 = 16;
/// The name of what will take the place of another file.
const NEW: &str = "new";

fn name(worker: &mut Worker) -> String {
    format!("f{}", worker.random.usize(..NAMES))
}

/// Part of a file of so many blocks: first and count.
fn part(worker: &mut Worker, blocks: u64) -> (u64, u64) {
    let first = worker.random.u64(..blocks);
    (first, worker.random.u64(1..=blocks - first))
}

fn grow(worker: &mut Worker) -> Grow {
    if worker.random.bool() {
        Grow::Hole
    } else {
        Grow::Allocated
    }
}

fn create(worker: &mut Worker, name: &str) -> anyhow::Result<()> {
    worker.create(name)?;
    let blocks = worker.random.u64(1..6);
    worker.write(name, 0, blocks, By::Call)
}

/// Does one thing, or a few that belong together.
pub fn step(worker: &mut Worker) -> anyhow::Result<()> {
    let Some(file) = worker.any() else {
        let name = name(worker);
        return create(worker, &name);
    };
    let blocks = worker.blocks(&file);
    match worker.random.u32(..100) {
        0..=17 => {
            let name = name(worker);
            if worker.has(&name) {
                return worker.fsync(&name);
            }
            create(worker, &name)?;
            if worker.chance(50) {
                worker.fsync(&name)?;
                worker.fsync_directory()?;
            }
            Ok(())
        }
        18..=33 if blocks < LARGEST => {
            let count = worker.random.u64(1..=(LARGEST - blocks).min(4));
            worker.write(&file, blocks, count, By::Call)
        }
        34..=53 if blocks > 0 => {
            let (first, count) = part(worker, blocks);
            let by = if worker.chance(50) {
                By::Call
            } else {
                By::Stores
            };
            worker.write(&file, first, count, by)
        }
        54..=60 => {
            let (blocks, grow) = (worker.random.u64(..=LARGEST), grow(worker));
            worker.resize(&file, blocks, grow)
        }
        61..=65 if blocks > 0 => {
            let (first, count) = part(worker, blocks);
            worker.punch(&file, first, count)
        }
        66..=70 => {
            let to = name(worker);
            if to == file {
                return Ok(());
            }
            worker.rename(&file, &to)
        }
        71..=75 => worker.unlink(&file),
        76..=81 => {
            // As editors and package managers do it.
            create(worker, NEW)?;
            worker.fsync(NEW)?;
            worker.rename(NEW, &file)?;
            worker.fsync_directory()
        }
        82..=93 => worker.fsync(&file),
        _ => worker.fsync_directory(),
    }
}
