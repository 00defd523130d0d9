// SPDX-License-Identifier: MIT OR Apache-2.0
//! A filesystem after a power loss, held against the ledger.

use super::block::{describe, judge, Found, BLOCK};
use super::ledger::Piece;
use super::state::{File, Names, State};
use crate::setup::Fs;
use crate::snapshot::{extents, Extent};
use anyhow::{ensure, Context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// So many inconsistencies of a directory are told.
const TOLD: usize = 8;
/// `FIEMAP_EXTENT_UNWRITTEN`.
const UNWRITTEN: u32 = 0x800;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Files.
    pub files: usize,
    /// Blocks that may have one content only.
    pub durable: usize,
    /// Blocks that may have several.
    pub pending: usize,
    /// Blocks with bytes of several.
    pub torn: usize,
    /// Files that were pinned, whose extents are as before.
    pub pinned: usize,
    /// Workers that an fsync had not returned to.
    pub in_fsync: usize,
    /// Files that a transfer was under way into.
    pub in_transfer: usize,
}

impl Count {
    /// Adds another one.
    pub fn add(&mut self, other: &Count) {
        self.files += other.files;
        self.durable += other.durable;
        self.pending += other.pending;
        self.torn += other.torn;
        self.pinned += other.pinned;
        self.in_fsync += other.in_fsync;
        self.in_transfer += other.in_transfer;
    }
}

/// Looks at all that the workers did on a filesystem, which is mounted there. What is not as it may be is
/// told, in words.
pub fn verify(root: &Path, fs: Fs, states: &[State]) -> anyhow::Result<(Count, Vec<String>)> {
    let mut count = Count::default();
    let mut problems = Vec::new();
    let states: Vec<&State> = states.iter().filter(|state| state.fs == fs).collect();
    let mut expected: BTreeSet<String> = states.iter().map(|s| s.directory.clone()).collect();
    expected.extend((fs == Fs::Ext4).then(|| "lost+found".to_owned()));
    let found = listing(root)?;
    if found != expected {
        problems.push(format!(
            "the root has {found:?}, and should have {expected:?}"
        ));
    }
    for state in states {
        let at = root.join(&state.directory);
        let (seen, wrong) =
            directory(&at, state).with_context(|| format!("directory {}", state.directory))?;
        count.add(&seen);
        let name = |problem| format!("{}/{problem}", state.directory);
        problems.extend(wrong.into_iter().map(name));
    }
    Ok((count, problems))
}

fn listing(directory: &Path) -> anyhow::Result<BTreeSet<String>> {
    fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Names may be as after several of the changes; of those that fit, the files decide.
fn directory(at: &Path, state: &State) -> anyhow::Result<(Count, Vec<String>)> {
    if !at.is_dir() {
        return Ok((Count::default(), vec![": the directory is gone".to_owned()]));
    }
    let found = listing(at)?;
    let possible = state.names()?;
    let mut best: Option<(Count, Vec<String>)> = None;
    // What came last is tried first: most of it is there.
    for names in possible.iter().rev() {
        if !names.keys().eq(&found) {
            continue;
        }
        let (count, problems) = files(at, state, names)?;
        let better = |(_, old): &(_, Vec<String>)| problems.len() < old.len();
        if best.as_ref().is_none_or(better) {
            best = Some((count, problems));
        }
        if best
            .as_ref()
            .is_some_and(|(_, problems)| problems.is_empty())
        {
            break;
        }
    }
    let (mut count, mut problems) =
        best.unwrap_or_else(|| (Count::default(), vec![wrong_names(&found, &possible)]));
    count.in_fsync = usize::from(state.in_fsync() || state.files.values().any(File::in_fsync));
    let transfers = state.files.values().filter(|file| file.transfer);
    count.in_transfer = transfers.count();
    if problems.len() > TOLD {
        let more = problems.len() - TOLD;
        problems.truncate(TOLD);
        problems.push(format!(": and {more} more"));
    }
    Ok((count, problems))
}

fn wrong_names(found: &BTreeSet<String>, possible: &[Names]) -> String {
    let durable: BTreeSet<String> = possible.iter().flat_map(|n| n.keys().cloned()).collect();
    let always = |name: &&String| possible.iter().all(|names| names.contains_key(*name));
    let lost: Vec<&String> = durable
        .difference(found)
        .filter(|name| always(name))
        .collect();
    let unknown: Vec<&String> = found.difference(&durable).collect();
    format!(
        ": has {found:?}, as after none of the {} changes that may be there; {lost:?} must be there, since \
         fsync of the directory has returned; {unknown:?} must not",
        possible.len() - 1
    )
}

fn files(at: &Path, state: &State, names: &Names) -> anyhow::Result<(Count, Vec<String>)> {
    let mut count = Count::default();
    let mut problems = Vec::new();
    for (name, &number) in names {
        let file = state.files.get(&number).context("an unknown file")?;
        let owner = (state.worker, number);
        let (seen, wrong) =
            one(&at.join(name), file, owner).with_context(|| format!("file {name}"))?;
        count.add(&seen);
        problems.extend(
            wrong
                .into_iter()
                .map(|problem| format!("{name}: {problem}")),
        );
    }
    Ok((count, problems))
}

fn one(path: &Path, file: &File, owner: (u32, u32)) -> anyhow::Result<(Count, Vec<String>)> {
    let mut count = Count {
        files: 1,
        ..Count::default()
    };
    let mut problems = Vec::new();
    // Some of the damage there can be does not let the file be read.
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Ok((count, vec![format!("cannot be read: {error}")])),
    };
    let sizes = file.sizes();
    let is_size = |blocks: &u64| blocks * BLOCK as u64 == bytes.len() as u64;
    if !sizes.iter().any(is_size) {
        problems.push(format!(
            "has {} bytes, and should have blocks: {sizes:?}",
            bytes.len()
        ));
    }
    for (index, block) in bytes.chunks_exact(BLOCK).enumerate() {
        let allowed = file.allowed(owner.0, owner.1, index as u64);
        match judge(block, &allowed) {
            Found::Whole if allowed.len() == 1 => count.durable += 1,
            Found::Whole => count.pending += 1,
            Found::Torn => (count.pending, count.torn) = (count.pending + 1, count.torn + 1),
            Found::Wrong => {
                let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                problems.push(format!(
                    "block {index} is {}; it should be {} (file {}, made durable {} times, {} changes since)",
                    describe(block),
                    words.join(" or "),
                    owner.1,
                    file.syncs,
                    file.pending()
                ));
            }
        }
    }
    if let Some(pieces) = &file.layout {
        let found = layout(&fs::File::open(path)?)?;
        if found == *pieces {
            count.pinned += 1;
        } else {
            problems.push(format!(
                "was pinned with the extents {pieces:?}, and has {found:?}"
            ));
        }
    }
    Ok((count, problems))
}

/// Where a file's blocks are. Extents that continue each other are one.
pub fn layout(file: &fs::File) -> anyhow::Result<Vec<Piece>> {
    let size = file.metadata()?.len();
    let all = extents(file)?;
    let inside: Vec<Extent> = all.into_iter().filter(|e| e.logical < size).collect();
    joined(&inside)
}

fn joined(extents: &[Extent]) -> anyhow::Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    for extent in extents {
        ensure!(
            extent.flags & UNWRITTEN == 0,
            "an extent of a pinned file is not written: {extent:?}"
        );
        match pieces.last_mut() {
            Some([logical, physical, length])
                if *logical + *length == extent.logical
                    && *physical + *length == extent.physical =>
            {
                *length += extent.length;
            }
            _ => pieces.push([extent.logical, extent.physical, extent.length]),
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::super::block::Identity;
    use super::super::ledger::Record;
    use super::super::state::tests::{begin, create, write};
    use super::*;

    fn content(file: u32, generation: u64, blocks: std::ops::Range<u64>) -> Vec<u8> {
        let block = |index| Identity {
            worker: 0,
            file,
            generation,
            index,
        };
        blocks.flat_map(|index| block(index).content()).collect()
    }

    /// Two files, one of them synced: `a` with generations 1 and 2; `b` not at all.
    fn records() -> Vec<Record> {
        vec![
            begin(),
            create("a", 1),
            write(1, 0, 3, 1),
            write(1, 1, 1, 2),
            Record::Fsync { file: 1, covers: 2 },
            Record::Synced { file: 1 },
            Record::FsyncDirectory,
            Record::SyncedDirectory,
            create("b", 2),
            write(2, 0, 2, 3),
        ]
    }

    fn good() -> Vec<u8> {
        let mut a = content(1, 1, 0..3);
        a[BLOCK..2 * BLOCK].copy_from_slice(&content(1, 2, 1..2));
        a
    }

    fn check(records: &[Record], files: &[(&str, Vec<u8>)]) -> (Count, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("0")).unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join("0").join(name), bytes).unwrap();
        }
        let state = State::new(0, records).unwrap();
        verify(dir.path(), Fs::Xfs, &[state]).unwrap()
    }

    fn complaint(records: &[Record], files: &[(&str, Vec<u8>)]) -> String {
        let (_, problems) = check(records, files);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    }

    #[test]
    fn what_was_not_synced_may_be_there_or_not() {
        let all = records();
        for b in [vec![], content(2, 3, 0..2), vec![0; 2 * BLOCK]] {
            let (_, problems) = check(&all, &[("a", good()), ("b", b)]);
            assert_eq!(problems, [""; 0]);
        }
        let (count, problems) = check(&all, &[("a", good())]);
        assert_eq!((count.files, count.durable, problems.len()), (1, 3, 0));
        let mut torn = content(2, 3, 0..2);
        torn[BLOCK + 100..].fill(0);
        let (count, problems) = check(&all, &[("a", good()), ("b", torn)]);
        assert_eq!((count.pending, count.torn, problems.len()), (2, 1, 0));
    }

    #[test]
    fn a_reverted_block_is_found() {
        let old = content(1, 1, 0..3);
        assert_eq!(
            complaint(&records(), &[("a", old)]),
            "0/a: block 1 is block 1 of file 1 of worker 0, generation 1; it should be generation 2 \
             (file 1, made durable 1 times, 0 changes since)"
        );
    }

    #[test]
    fn a_lost_or_short_file_is_found() {
        let lost = complaint(&records(), &[("b", vec![])]);
        assert!(lost.contains("[\"a\"] must be there"), "{lost}");
        let short = complaint(&records(), &[("a", good()[..2 * BLOCK].to_vec())]);
        assert!(short.contains("has 8192 bytes"), "{short}");
        let odd = complaint(&records(), &[("a", good()), ("b", vec![0; 100])]);
        assert!(odd.contains("has 100 bytes"), "{odd}");
        let more = complaint(&records(), &[("a", good()), ("c", vec![])]);
        assert!(more.contains("[\"c\"] must not"), "{more}");
    }

    #[test]
    fn blocks_of_other_files_are_found() {
        let mut b = content(2, 3, 0..2);
        b[..BLOCK].copy_from_slice(&content(1, 1, 0..1));
        let foreign = complaint(&records(), &[("a", good()), ("b", b)]);
        assert!(
            foreign.contains("0/b: block 0 is block 0 of file 1"),
            "{foreign}"
        );
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_written_is_found() {
        let mut all = records();
        all.push(Record::Fsync { file: 2, covers: 1 });
        all.push(Record::Synced { file: 2 });
        let (_, problems) = check(&all, &[("a", good()), ("b", vec![0; 2 * BLOCK])]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("is zeros; it should be generation 3"));
    }

    #[test]
    fn of_several_files_that_a_name_may_mean_the_content_decides() {
        let mut all = records();
        all.push(Record::Rename {
            from: "b".into(),
            to: "a".into(),
        });
        for a in [good(), content(2, 3, 0..2)] {
            assert_eq!(check(&all, &[("a", a)]).1, [""; 0]);
        }
        assert_eq!(check(&all, &[("a", content(2, 4, 0..2))]).1.len(), 2);
    }

    #[test]
    fn extents_that_continue_each_other_are_one() {
        let extent = |logical, physical, length| Extent {
            logical,
            physical,
            length,
            flags: 0,
        };
        let all = [extent(0, 50, 5), extent(5, 55, 5), extent(10, 100, 5)];
        assert_eq!(joined(&all).unwrap(), [[0, 50, 10], [10, 100, 5]]);
        let mut unwritten = all;
        unwritten[1].flags = UNWRITTEN;
        assert!(joined(&unwritten).is_err());
    }
}
