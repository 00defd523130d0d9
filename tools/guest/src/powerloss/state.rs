// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be on a filesystem after a power loss, by the ledger of one worker.
//!
//! What an fsync has returned for is there. Of what came later, any part of a file's blocks may be there, in
//! whole or torn, and names and sizes as they were after one of the changes: journals keep their order.

use super::block::{Content, Identity};
use super::ledger::{Piece, Record};
use crate::setup::Fs;
use anyhow::{bail, ensure, Context};
use std::collections::BTreeMap;

/// A change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Write {
        first: u64,
        count: u64,
        generation: u64,
    },
    Resize {
        blocks: u64,
    },
    Punch {
        first: u64,
        count: u64,
    },
}

impl Change {
    /// The size in blocks after it.
    fn size(self, before: u64) -> u64 {
        match self {
            Change::Write { first, count, .. } => before.max(first + count),
            Change::Resize { blocks } => blocks,
            Change::Punch { .. } => before,
        }
    }

    /// What becomes of a block: its generation, 0 for zeros, or nothing.
    fn of_block(self, index: u64) -> Option<u64> {
        match self {
            Change::Write {
                first,
                count,
                generation,
            } => (first..first + count)
                .contains(&index)
                .then_some(generation),
            Change::Resize { blocks } => (index >= blocks).then_some(0),
            Change::Punch { first, count } => (first..first + count).contains(&index).then_some(0),
        }
    }
}

/// A file: what is durable of it, and what came later.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The generation of each durable block; 0 for zeros.
    durable: Vec<u64>,
    changes: Vec<Change>,
    /// How many changes were made durable.
    before: usize,
    /// The fsync under way, and the number of changes that it covers.
    fsync: Option<usize>,
    /// A transfer into it is under way.
    pub transfer: bool,
    /// The extents that it has to keep.
    pub layout: Option<Vec<Piece>>,
    /// How often what had changed was made durable.
    pub syncs: usize,
}

impl File {
    /// Changes that no fsync has returned for.
    pub fn pending(&self) -> usize {
        self.changes.len()
    }

    /// Whether an fsync is under way.
    pub fn in_fsync(&self) -> bool {
        self.fsync.is_some()
    }

    /// Sizes in blocks that it may have: the durable one, and that after each change.
    pub fn sizes(&self) -> Vec<u64> {
        let mut size = self.durable.len() as u64;
        let mut sizes = vec![size];
        for change in &self.changes {
            size = change.size(size);
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        sizes
    }

    /// What a block may hold. `worker` and `file` are part of what was written.
    pub fn allowed(&self, worker: u32, file: u32, index: u64) -> Vec<Content> {
        let durable = usize::try_from(index)
            .ok()
            .and_then(|n| self.durable.get(n));
        let mut generations = vec![durable.copied().unwrap_or(0)];
        for change in &self.changes {
            if let Some(generation) = change.of_block(index) {
                if !generations.contains(&generation) {
                    generations.push(generation);
                }
            }
        }
        let content = |generation| match generation {
            0 => Content::Zeros,
            generation => Content::Written(Identity {
                worker,
                file,
                generation,
                index,
            }),
        };
        generations.into_iter().map(content).collect()
    }

    fn synced(&mut self) -> anyhow::Result<()> {
        let covers = self
            .fsync
            .take()
            .context("an fsync returns that did not begin")?;
        let number = covers
            .checked_sub(self.before)
            .filter(|&n| n <= self.changes.len())
            .with_context(|| format!("an fsync covers {covers} changes"))?;
        for change in self.changes.drain(..number) {
            let size = change.size(self.durable.len() as u64);
            self.durable.resize(usize::try_from(size)?, 0);
            for (index, block) in self.durable.iter_mut().enumerate() {
                if let Some(generation) = change.of_block(index as u64) {
                    *block = generation;
                }
            }
        }
        self.before = covers;
        self.syncs += 1;
        Ok(())
    }
}

/// A change of the names in the directory.
#[derive(Clone, Debug)]
enum Naming {
    Create { name: String, file: u32 },
    Rename { from: String, to: String },
    Unlink { name: String },
}

/// The files that names lead to.
pub type Names = BTreeMap<String, u32>;

impl Naming {
    fn apply(&self, names: &mut Names) -> anyhow::Result<()> {
        match self {
            Naming::Create { name, file } => {
                let old = names.insert(name.clone(), *file);
                ensure!(old.is_none(), "{name} is created twice");
            }
            Naming::Rename { from, to } => {
                let file = names.remove(from);
                let file = file.with_context(|| format!("{from}, renamed, is not there"))?;
                names.insert(to.clone(), file);
            }
            Naming::Unlink { name } => {
                let old = names.remove(name);
                old.with_context(|| format!("{name}, unlinked, is not there"))?;
            }
        }
        Ok(())
    }
}

/// All that a worker has done, on one directory.
#[derive(Clone, Debug)]
pub struct State {
    /// The worker's number.
    pub worker: u32,
    /// The filesystem.
    pub fs: Fs,
    /// The directory.
    pub directory: String,
    /// By the worker's numbers.
    pub files: BTreeMap<u32, File>,
    durable: Names,
    changes: Vec<Naming>,
    fsync: Option<usize>,
}

impl State {
    /// From what the worker wrote.
    pub fn new(worker: u32, records: &[Record]) -> anyhow::Result<State> {
        let Some((Record::Begin { fs, directory }, rest)) = records.split_first() else {
            bail!("worker {worker} wrote no beginning")
        };
        let mut state = State {
            worker,
            fs: *fs,
            directory: directory.clone(),
            files: BTreeMap::new(),
            durable: Names::new(),
            changes: Vec::new(),
            fsync: None,
        };
        for (n, record) in rest.iter().enumerate() {
            let context = || format!("worker {worker}, record {}: {record:?}", n + 1);
            state.add(record).with_context(context)?;
        }
        Ok(state)
    }

    fn file(&mut self, file: u32) -> anyhow::Result<&mut File> {
        self.files.get_mut(&file).context("there is no such file")
    }

    fn change(&mut self, file: u32, change: Change) -> anyhow::Result<&mut File> {
        let file = self.file(file)?;
        file.changes.push(change);
        Ok(file)
    }

    fn add(&mut self, record: &Record) -> anyhow::Result<()> {
        match *record {
            Record::Begin { .. } => bail!("a second beginning"),
            Record::Create { ref name, file } => {
                let old = self.files.insert(file, File::default());
                ensure!(old.is_none(), "the number is in use");
                let name = name.clone();
                self.changes.push(Naming::Create { name, file });
            }
            Record::Rename { ref from, ref to } => self.changes.push(Naming::Rename {
                from: from.clone(),
                to: to.clone(),
            }),
            Record::Unlink { ref name } => self.changes.push(Naming::Unlink { name: name.clone() }),
            Record::Write {
                file,
                first,
                count,
                generation,
                transfer,
            } => {
                let change = Change::Write {
                    first,
                    count,
                    generation,
                };
                self.change(file, change)?.transfer |= transfer;
            }
            Record::Arrived { file } => self.file(file)?.transfer = false,
            Record::Resize { file, blocks } => {
                self.change(file, Change::Resize { blocks })?;
            }
            Record::Punch { file, first, count } => {
                self.change(file, Change::Punch { first, count })?;
            }
            Record::Fsync { file, covers } => self.file(file)?.fsync = Some(covers),
            Record::Synced { file } => self.file(file)?.synced()?,
            Record::Durable { file } => {
                let file = self.file(file)?;
                file.fsync = Some(file.before + file.changes.len());
                file.synced()?;
            }
            Record::FsyncDirectory => self.fsync = Some(self.changes.len()),
            Record::SyncedDirectory => {
                let covers = self.fsync.take();
                let covers = covers.context("an fsync returns that did not begin")?;
                for change in self.changes.drain(..covers) {
                    change.apply(&mut self.durable)?;
                }
            }
            Record::Layout { file, ref pieces } => {
                self.file(file)?.layout = Some(pieces.clone());
            }
            Record::Free { file } => self.file(file)?.layout = None,
        }
        Ok(())
    }

    /// Whether an fsync of the directory is under way.
    pub fn in_fsync(&self) -> bool {
        self.fsync.is_some()
    }

    /// What names there may be, and for which files: the durable ones, and those after each change.
    pub fn names(&self) -> anyhow::Result<Vec<Names>> {
        let mut names = self.durable.clone();
        let mut all = vec![names.clone()];
        for change in &self.changes {
            change.apply(&mut names)?;
            all.push(names.clone());
        }
        Ok(all)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn begin() -> Record {
        Record::Begin {
            fs: Fs::Xfs,
            directory: "0".into(),
        }
    }

    pub fn create(name: &str, file: u32) -> Record {
        let name = name.into();
        Record::Create { name, file }
    }

    pub fn write(file: u32, first: u64, count: u64, generation: u64) -> Record {
        Record::Write {
            file,
            first,
            count,
            generation,
            transfer: false,
        }
    }

    fn state(records: &[Record]) -> State {
        let all: Vec<Record> = std::iter::once(begin())
            .chain(records.iter().cloned())
            .collect();
        State::new(3, &all).unwrap()
    }

    fn allowed(state: &State, index: u64) -> Vec<String> {
        let all = state.files[&1].allowed(3, 1, index);
        all.iter().map(Content::to_string).collect()
    }

    const SYNCED: Record = Record::Synced { file: 1 };

    #[test]
    fn what_was_synced_is_the_only_thing_allowed() {
        let fsync = Record::Fsync { file: 1, covers: 1 };
        let state = state(&[create("a", 1), write(1, 0, 2, 5), fsync, SYNCED]);
        assert_eq!(state.files[&1].sizes(), [2]);
        assert_eq!(allowed(&state, 0), ["generation 5"]);
        assert_eq!(allowed(&state, 1), ["generation 5"]);
        assert_eq!(state.files[&1].syncs, 1);
    }

    #[test]
    fn what_a_device_wrote_by_a_synchronous_mapping_is_durable() {
        let durable = Record::Durable { file: 1 };
        let records = [
            create("a", 1),
            write(1, 0, 2, 5),
            durable,
            write(1, 1, 1, 6),
        ];
        let begun = state(&records);
        assert_eq!(allowed(&begun, 0), ["generation 5"]);
        assert_eq!(allowed(&begun, 1), ["generation 5", "generation 6"]);
        let arrived = state(&[&records[..], &[Record::Durable { file: 1 }]].concat());
        assert_eq!(allowed(&arrived, 1), ["generation 6"]);
        assert_eq!(arrived.files[&1].syncs, 2);
    }

    #[test]
    fn an_fsync_covers_what_was_complete_when_it_began() {
        let fsync = Record::Fsync { file: 1, covers: 1 };
        let state = state(&[
            create("a", 1),
            write(1, 0, 2, 5),
            write(1, 0, 1, 6),
            fsync,
            SYNCED,
        ]);
        assert_eq!(allowed(&state, 0), ["generation 5", "generation 6"]);
        assert_eq!(allowed(&state, 1), ["generation 5"]);
        assert_eq!(state.files[&1].pending(), 1);
    }

    #[test]
    fn an_fsync_that_has_not_returned_promises_nothing() {
        let fsync = Record::Fsync { file: 1, covers: 1 };
        let state = state(&[create("a", 1), write(1, 0, 2, 5), fsync]);
        assert_eq!(state.files[&1].sizes(), [0, 2]);
        assert_eq!(allowed(&state, 0), ["zeros", "generation 5"]);
        assert!(state.files[&1].in_fsync());
    }

    #[test]
    fn freed_blocks_read_as_zeros_and_never_as_before() {
        let fsync = |covers| Record::Fsync { file: 1, covers };
        let records = [
            create("a", 1),
            write(1, 0, 4, 5),
            fsync(1),
            SYNCED,
            Record::Resize { file: 1, blocks: 1 },
            write(1, 3, 1, 6),
            Record::Punch {
                file: 1,
                first: 0,
                count: 1,
            },
        ];
        let pending = state(&records);
        assert_eq!(pending.files[&1].sizes(), [4, 1]);
        assert_eq!(allowed(&pending, 0), ["generation 5", "zeros"]);
        assert_eq!(allowed(&pending, 1), ["generation 5", "zeros"]);
        assert_eq!(
            allowed(&pending, 3),
            ["generation 5", "zeros", "generation 6"]
        );
        let durable = state(&[&records[..], &[fsync(4), SYNCED]].concat());
        assert_eq!(durable.files[&1].sizes(), [4]);
        assert_eq!(allowed(&durable, 0), ["zeros"]);
        assert_eq!(allowed(&durable, 2), ["zeros"]);
        assert_eq!(allowed(&durable, 3), ["generation 6"]);
    }

    #[test]
    fn names_change_in_order_and_as_a_whole() {
        let rename = Record::Rename {
            from: "b".into(),
            to: "a".into(),
        };
        let begun = [
            create("a", 1),
            Record::FsyncDirectory,
            Record::SyncedDirectory,
            create("b", 2),
            rename,
        ];
        let names = |state: &State| -> Vec<String> {
            let text = |names: &Names| {
                let all: Vec<String> = names.iter().map(|(n, f)| format!("{n}{f}")).collect();
                all.join(" ")
            };
            state.names().unwrap().iter().map(text).collect()
        };
        assert_eq!(names(&state(&begun)), ["a1", "a1 b2", "a2"]);
        let end = [Record::FsyncDirectory, Record::SyncedDirectory];
        assert_eq!(names(&state(&[&begun[..], &end].concat())), ["a2"]);
    }

    #[test]
    fn a_transfer_is_under_way_until_it_has_arrived() {
        let transfer = Record::Write {
            file: 1,
            first: 0,
            count: 1,
            generation: 2,
            transfer: true,
        };
        let begun = [create("a", 1), transfer];
        assert!(state(&begun).files[&1].transfer);
        let arrived = Record::Arrived { file: 1 };
        assert!(!state(&[&begun[..], &[arrived]].concat()).files[&1].transfer);
    }

    #[test]
    fn a_ledger_that_makes_no_sense_is_refused() {
        for records in [
            vec![write(1, 0, 1, 1)],
            vec![create("a", 1), SYNCED],
            vec![create("a", 1), Record::Fsync { file: 1, covers: 2 }, SYNCED],
            vec![create("a", 1), create("b", 1)],
            vec![begin()],
        ] {
            let all: Vec<Record> = std::iter::once(begin()).chain(records).collect();
            assert!(State::new(0, &all).is_err(), "{all:?}");
        }
        assert!(State::new(0, &[]).is_err());
    }
}
