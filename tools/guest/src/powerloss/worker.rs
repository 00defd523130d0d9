// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker: does things to the files of a directory of its own, and announces each in the ledger first.

use super::block::{Identity, BLOCK};
use super::ledger::{Part, Record};
use super::verify::layout;
use anyhow::{ensure, Context};
use fastrand::Rng;
use rustix::fs::{fallocate, FallocateFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const SIZE: u64 = BLOCK as u64;

/// What all workers have done, for the line that says how far it is.
#[derive(Default)]
pub struct Done {
    /// Changes of files and names.
    pub changes: AtomicU64,
    /// Calls of fsync that have returned.
    pub fsyncs: AtomicU64,
    /// Transfers that are complete.
    pub transfers: AtomicU64,
    /// Changes that were refused because of a pin.
    pub refused: AtomicU64,
}

impl Done {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How blocks are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `write(2)`.
    Call,
    /// Stores to a mapping, which must not go beyond the file's end.
    Stores,
}

/// How a file grows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grow {
    /// By a hole.
    Hole,
    /// By blocks that are allocated, and not written.
    Allocated,
}

/// A file as the worker knows it.
#[derive(Clone, Debug)]
struct Known {
    number: u32,
    blocks: u64,
    changes: usize,
}

/// One worker in one round.
pub struct Worker<'a> {
    /// Where its chances come from.
    pub random: Rng,
    /// What all workers have done.
    pub done: &'a Done,
    number: u32,
    part: Part<'a>,
    at: PathBuf,
    files: BTreeMap<String, Known>,
    next: u32,
    generation: u64,
    honest: bool,
}

impl<'a> Worker<'a> {
    /// One that works in this directory. Unless it is honest, it says that fsync has returned without having
    /// called it, as if fsync did nothing.
    pub fn new(
        (number, part): (u32, Part<'a>),
        at: &Path,
        random: Rng,
        done: &'a Done,
        honest: bool,
    ) -> Worker<'a> {
        Worker {
            random,
            done,
            number,
            part,
            at: at.to_owned(),
            files: BTreeMap::new(),
            next: 1,
            generation: 0,
            honest,
        }
    }

    /// Whether the round has to end.
    pub fn is_full(&self) -> bool {
        self.part.is_full()
    }

    /// Whether something is to be done that is done this often in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Some file, if there is one.
    pub fn any(&mut self) -> Option<String> {
        let number = self.random.usize(..self.files.len().max(1));
        self.files.keys().nth(number).cloned()
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// A file's path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// A file's blocks.
    pub fn blocks(&self, name: &str) -> u64 {
        self.files.get(name).map_or(0, |known| known.blocks)
    }

    fn known(&mut self, name: &str) -> anyhow::Result<&mut Known> {
        self.files
            .get_mut(name)
            .with_context(|| format!("no file {name}"))
    }

    fn open(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path(name);
        let file = File::options().read(true).write(true).open(&path);
        file.with_context(|| format!("open {}", path.display()))
    }

    fn naming(&mut self, record: &Record) -> anyhow::Result<()> {
        Done::count(&self.done.changes);
        self.part.add(record)
    }

    fn change(&mut self, name: &str, record: &Record) -> anyhow::Result<()> {
        self.known(name)?.changes += 1;
        self.naming(record)
    }

    /// Makes an empty file.
    pub fn create(&mut self, name: &str) -> anyhow::Result<()> {
        let number = self.next;
        self.next += 1;
        self.naming(&Record::Create {
            name: name.to_owned(),
            file: number,
        })?;
        File::create_new(self.path(name)).with_context(|| format!("create {name}"))?;
        let known = Known {
            number,
            blocks: 0,
            changes: 0,
        };
        self.files.insert(name.to_owned(), known);
        Ok(())
    }

    /// Renames a file, over what has the new name.
    pub fn rename(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        self.naming(&Record::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        })?;
        fs::rename(self.path(from), self.path(to))
            .with_context(|| format!("rename {from} to {to}"))?;
        let known = self.files.remove(from).context("no such file")?;
        self.files.insert(to.to_owned(), known);
        Ok(())
    }

    /// Unlinks a file.
    pub fn unlink(&mut self, name: &str) -> anyhow::Result<()> {
        self.naming(&Record::Unlink {
            name: name.to_owned(),
        })?;
        fs::remove_file(self.path(name)).with_context(|| format!("unlink {name}"))?;
        self.files.remove(name);
        Ok(())
    }

    /// Announces that blocks will be written: what is to be written.
    fn announce(
        &mut self,
        name: &str,
        first: u64,
        count: u64,
        transfer: bool,
    ) -> anyhow::Result<Vec<u8>> {
        self.generation += 1;
        let (worker, generation) = (self.number, self.generation);
        let known = self.known(name)?;
        known.blocks = known.blocks.max(first + count);
        let file = known.number;
        self.change(
            name,
            &Record::Write {
                file,
                first,
                count,
                generation,
                transfer,
            },
        )?;
        let block = |index| Identity {
            worker,
            file,
            generation,
            index,
        };
        let blocks = first..first + count;
        Ok(blocks.flat_map(|index| block(index).content()).collect())
    }

    /// Writes blocks.
    pub fn write(&mut self, name: &str, first: u64, count: u64, by: By) -> anyhow::Result<()> {
        let data = self.announce(name, first, count, false)?;
        let file = self.open(name)?;
        let done = match by {
            By::Call => file.write_all_at(&data, first * SIZE),
            By::Stores => store(&file, first * SIZE, &data),
        };
        done.with_context(|| format!("write {count} blocks at {first} of {name}"))
    }

    /// What a transfer into pinned memory, which it announces, has to bring.
    pub fn transfer(&mut self, name: &str, first: u64, count: u64) -> anyhow::Result<Vec<u8>> {
        self.announce(name, first, count, true)
    }

    /// The transfer is complete.
    pub fn arrived(&mut self, name: &str) -> anyhow::Result<()> {
        Done::count(&self.done.transfers);
        let file = self.known(name)?.number;
        self.part.add(&Record::Arrived { file })
    }

    /// Sets a file's size.
    pub fn resize(&mut self, name: &str, blocks: u64, grow: Grow) -> anyhow::Result<()> {
        let known = self.known(name)?;
        let (file, before) = (known.number, known.blocks);
        known.blocks = blocks;
        self.change(name, &Record::Resize { file, blocks })?;
        let file = self.open(name)?;
        if grow == Grow::Allocated && blocks > before {
            fallocate(&file, FallocateFlags::empty(), 0, blocks * SIZE).map_err(Into::into)
        } else {
            file.set_len(blocks * SIZE)
        }
        .with_context(|| format!("{name} from {before} to {blocks} blocks"))
    }

    /// Frees blocks inside the file.
    pub fn punch(&mut self, name: &str, first: u64, count: u64) -> anyhow::Result<()> {
        let file = self.known(name)?.number;
        self.change(name, &Record::Punch { file, first, count })?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.open(name)?, mode, first * SIZE, count * SIZE)
            .with_context(|| format!("punch {count} blocks at {first} of {name}"))
    }

    /// fsync of a file, on which nothing is under way.
    pub fn fsync(&mut self, name: &str) -> anyhow::Result<()> {
        self.fsync_during(name, 0)
    }

    /// fsync of a file, on which so many changes are under way.
    pub fn fsync_during(&mut self, name: &str, under_way: usize) -> anyhow::Result<()> {
        let known = self.known(name)?;
        let (file, covers) = (known.number, known.changes - under_way);
        self.part.add(&Record::Fsync { file, covers })?;
        if self.honest {
            let file = self.open(name)?;
            file.sync_all().with_context(|| format!("fsync {name}"))?;
        }
        Done::count(&self.done.fsyncs);
        self.part.add(&Record::Synced { file })
    }

    /// All that was done to a file is durable, since it is pinned by a mapping with MAP_SYNC.
    pub fn is_durable(&mut self, name: &str) -> anyhow::Result<()> {
        let file = self.known(name)?.number;
        self.part.add(&Record::Durable { file })
    }

    /// fsync of the directory.
    pub fn fsync_directory(&mut self) -> anyhow::Result<()> {
        self.part.add(&Record::FsyncDirectory)?;
        if self.honest {
            let file = File::open(&self.at)?;
            file.sync_all().context("fsync of the directory")?;
        }
        Done::count(&self.done.fsyncs);
        self.part.add(&Record::SyncedDirectory)
    }

    /// A pinned file, for which fsync has returned, or need not be called: its extents have to stay until `free`.
    pub fn keeps_its_layout(&mut self, name: &str) -> anyhow::Result<()> {
        let pieces = layout(&self.open(name)?)?;
        let known = self.known(name)?;
        let (file, wanted) = (known.number, known.blocks * SIZE);
        let bytes: u64 = pieces.iter().map(|[_, _, length]| length).sum();
        ensure!(bytes == wanted, "pinned, and has {bytes} of {wanted} bytes");
        self.part.add(&Record::Layout { file, pieces })
    }

    /// It will be unpinned.
    pub fn free(&mut self, name: &str) -> anyhow::Result<()> {
        let file = self.known(name)?.number;
        self.part.add(&Record::Free { file })
    }
}

/// Writes by a mapping of the file.
fn store(file: &File, offset: u64, data: &[u8]) -> std::io::Result<()> {
    let rw = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping of a file that is not cut while it is there, written to within its length,
    // and taken away when nothing refers to it any more.
    unsafe {
        let at = mmap(
            std::ptr::null_mut(),
            data.len(),
            rw,
            MapFlags::SHARED,
            file,
            offset,
        )?;
        std::ptr::copy_nonoverlapping(data.as_ptr(), at.cast(), data.len());
        munmap(at, data.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::super::state::State;
    use super::super::verify::verify;
    use super::*;
    use crate::setup::Fs;

    /// What a worker does to real files is what the ledger says.
    #[test]
    fn the_ledger_tells_what_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("ledger");
        File::create(&memory).unwrap().set_len(1 << 20).unwrap();
        let ledger = Ledger::open(&memory).unwrap();
        ledger.clear(1).unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("0")).unwrap();
        let part = ledger.part(0);
        let directory = "0".to_owned();
        let fs = Fs::Xfs;
        part.add(&Record::Begin { fs, directory }).unwrap();
        let done = Done::default();
        let at = root.join("0");
        let mut worker = Worker::new((0, part), &at, Rng::with_seed(1), &done, true);

        worker.create("a").unwrap();
        worker.write("a", 0, 4, By::Call).unwrap();
        worker.write("a", 1, 2, By::Stores).unwrap();
        worker.resize("a", 3, Grow::Hole).unwrap();
        worker.resize("a", 6, Grow::Allocated).unwrap();
        worker.punch("a", 0, 1).unwrap();
        worker.create("b").unwrap();
        worker.write("b", 2, 1, By::Call).unwrap();
        worker.fsync("a").unwrap();
        worker.fsync("b").unwrap();
        worker.rename("b", "c").unwrap();
        worker.create("d").unwrap();
        worker.unlink("d").unwrap();
        worker.fsync_directory().unwrap();
        ledger.begin(1);

        let state = State::new(0, &ledger.read().unwrap()[0]).unwrap();
        assert_eq!(state.names().unwrap().len(), 1);
        let (count, problems) = verify(&root, fs, &[state]).unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!((count.files, count.durable, count.pending), (2, 9, 0));
        assert_eq!(done.fsyncs.into_inner(), 3);
    }
}
