// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of the tests under one mutant, as a file.

use super::list::{matches, union, Mutant};
use crate::env::cache::write_atomic;
use crate::report::{Case, Verdict};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A run of the guest with one hook taken out, or none.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Record {
    /// What was tried.
    pub mutant: Mutant,
    /// The checksum of the kernel image.
    pub image: String,
    /// Tests as `file.filesystem.name`.
    pub passed: BTreeSet<String>,
    pub failed: BTreeSet<String>,
    pub skipped: BTreeSet<String>,
    /// What the kernel said, or that the guest did not come to its end.
    pub trouble: Option<String>,
    pub seconds: u64,
}

/// Where the record of a mutant is.
fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).join("result.json")
}

impl Record {
    /// Of a run whose results are still to be added.
    pub fn new(mutant: &Mutant, image: &str) -> Record {
        Record {
            mutant: mutant.clone(),
            image: image.into(),
            passed: BTreeSet::new(),
            failed: BTreeSet::new(),
            skipped: BTreeSet::new(),
            trouble: None,
            seconds: 0,
        }
    }

    /// The one in the file; `None` if there is none.
    pub fn read(dir: &Path, name: &str) -> Result<Option<Record>> {
        let path = file(dir, name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(None);
        };
        let record = serde_json::from_str(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Some(record))
    }

    /// Writes the file.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_atomic(&file(dir, &self.mutant.name), text.as_bytes())
    }

    /// Is it the result of the same tests on the same kernel?
    pub fn is_of(&self, mutant: &Mutant, image: &str) -> bool {
        self.mutant == *mutant && self.image == image
    }

    /// What of `wanted` has not been run on this kernel, if anything.
    pub fn missing(&self, wanted: &Mutant, image: &str) -> Option<Mutant> {
        let mut left = wanted.clone();
        let own = &self.mutant;
        if self.image == image && wanted.fs.iter().all(|fs| own.fs.contains(fs)) {
            left.contract.retain(|glob| !own.contract.contains(glob));
            left.kselftest.retain(|p| !own.kselftest.contains(p));
        }
        let nothing = left.contract.is_empty() && left.kselftest.is_empty();
        (!nothing).then_some(left)
    }

    /// Adds what has been run later on the same kernel.
    pub fn join(&mut self, later: Record) {
        for test in later
            .passed
            .iter()
            .chain(&later.failed)
            .chain(&later.skipped)
        {
            self.passed.remove(test);
            self.failed.remove(test);
            self.skipped.remove(test);
        }
        self.passed.extend(later.passed);
        self.failed.extend(later.failed);
        self.skipped.extend(later.skipped);
        self.mutant = union(&self.mutant, &later.mutant);
        self.trouble = self.trouble.take().or(later.trouble);
        self.seconds += later.seconds;
    }

    /// Adds a report's results, each by the name that `name` gives it. What is no test, such as
    /// that a program died, is trouble.
    pub fn add(&mut self, cases: Vec<Case>, name: impl Fn(&str) -> Option<String>) {
        for case in cases {
            let Some(test) = name(&case.name) else {
                if case.verdict == Verdict::Fail {
                    let why = case.detail.join(" ");
                    self.trouble
                        .get_or_insert_with(|| format!("{}: {why}", case.name));
                }
                continue;
            };
            match case.verdict {
                Verdict::Pass => self.passed.insert(test),
                Verdict::Fail => self.failed.insert(test),
                Verdict::Skip => self.skipped.insert(test),
            };
        }
    }

    /// Tests that noticed: they fail, and do not when all hooks are there.
    pub fn noticed<'a>(&'a self, control: &'a Record) -> impl Iterator<Item = &'a String> {
        self.failed
            .iter()
            .filter(|test| control.passed.contains(*test))
    }

    /// Did anything notice?
    pub fn is_noticed(&self, control: &Record) -> bool {
        self.trouble.is_some() || self.noticed(control).next().is_some()
    }

    /// What is listed and has not noticed. A guest that dies tells nothing of the tests that it
    /// did not get to.
    pub fn blind(&self, control: &Record) -> Vec<String> {
        if self.trouble.is_some() {
            return vec![];
        }
        let noticed: Vec<&String> = self.noticed(control).collect();
        let contract = self
            .mutant
            .contract
            .iter()
            .filter(|glob| !noticed.iter().any(|test| matches(glob, test)));
        let programs = self.mutant.kselftest.iter().filter(|program| {
            let prefix = format!("{program}.");
            !noticed.iter().any(|test| test.starts_with(&prefix))
        });
        contract.chain(programs).cloned().collect()
    }
}

/// `lease.xfs: conflicts` in the report of the guest's program.
pub fn contract_name(case: &str) -> Option<String> {
    let (group, test) = case.split_once(": ")?;
    (group.contains('.') && !test.contains(' ')).then(|| format!("{group}.{test}"))
}

/// `filesystems/layout_lease: layout_lease.sh: xfs.pin_test: pin.several` in that of the kernel's
/// selftests.
pub fn selftest_name(case: &str) -> Option<String> {
    let (_, rest) = case.split_once("layout_lease.sh: ")?;
    let (program, test) = rest.split_once(": ")?;
    let (fs, program) = program.split_once('.')?;
    (!test.contains(' ')).then(|| format!("{program}.{fs}.{test}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::list::Fs;

    fn record(name: &str, passed: &[&str], failed: &[&str]) -> Record {
        let set = |tests: &[&str]| tests.iter().map(|t| t.to_string()).collect();
        let mutant = Mutant {
            name: name.into(),
            breaks: "A.".into(),
            fs: vec![Fs::Xfs],
            contract: vec!["a.*".into(), "b.*".into()],
            kselftest: vec!["pin_test".into()],
        };
        Record {
            passed: set(passed),
            failed: set(failed),
            ..Record::new(&mutant, "image")
        }
    }

    #[test]
    fn only_tests_that_pass_otherwise_notice() {
        let control = record("none", &["a.xfs.x", "pin_test.xfs.y"], &["b.xfs.z"]);
        let m = record("m", &["pin_test.xfs.y"], &["a.xfs.x", "b.xfs.z"]);
        assert_eq!(m.noticed(&control).collect::<Vec<_>>(), ["a.xfs.x"]);
        assert_eq!(m.blind(&control), ["b.*", "pin_test"]);
        assert!(m.is_noticed(&control));
        let survivor = record("m", &["a.xfs.x"], &["b.xfs.z"]);
        assert!(!survivor.is_noticed(&control));
        let panicked = Record {
            trouble: Some("panic".into()),
            ..survivor
        };
        assert!(panicked.is_noticed(&control) && panicked.blind(&control).is_empty());
    }

    #[test]
    fn names_of_tests_and_of_what_is_none() {
        let name = contract_name("layout.xfs: pinned.punch");
        assert_eq!(name.as_deref(), Some("layout.xfs.pinned.punch"));
        assert_eq!(contract_name("layout.xfs: missing results"), None);
        assert_eq!(contract_name("missing results"), None);
        let name = selftest_name(
            "kselftest: filesystems/layout_lease: layout_lease.sh: xfs.pin_test: pin.several",
        );
        assert_eq!(name.as_deref(), Some("pin_test.xfs.pin.several"));
        assert_eq!(
            selftest_name("kselftest: filesystems/layout_lease: layout_lease.sh"),
            None
        );
    }

    #[test]
    fn a_program_that_died_is_trouble() {
        let mut r = record("m", &[], &[]);
        let fail = |name: &str| Case::new(name, Verdict::Fail, vec!["it died".into()]);
        r.add(
            vec![fail("a.xfs: x"), fail("missing results")],
            contract_name,
        );
        assert!(r.failed.contains("a.xfs.x"));
        assert_eq!(r.trouble.as_deref(), Some("missing results: it died"));
    }

    #[test]
    fn records_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let r = record("m", &["a.xfs.x"], &[]);
        assert_eq!(Record::read(dir.path(), "m").unwrap(), None);
        r.write(dir.path()).unwrap();
        let back = Record::read(dir.path(), "m").unwrap().unwrap();
        assert_eq!(back, r);
        assert!(back.is_of(&r.mutant, "image") && !back.is_of(&r.mutant, "other"));
        let mut some = r.mutant.clone();
        some.contract.pop();
        assert_eq!(back.missing(&some, "image"), None);
        some.contract.push("c.*".into());
        let left = back.missing(&some, "image").unwrap();
        assert_eq!(
            (left.contract, left.kselftest.len()),
            (vec!["c.*".into()], 0)
        );
        assert_eq!(back.missing(&some, "other").unwrap(), some);
        some.fs = vec![Fs::Ext4];
        assert_eq!(back.missing(&some, "image").unwrap(), some);
    }

    #[test]
    fn later_results_count() {
        let mut r = record("none", &["a.xfs.x"], &["a.xfs.y"]);
        let mut later = record("none", &["a.xfs.y"], &["b.xfs.z"]);
        later.mutant.contract = vec!["c.*".into()];
        r.join(later);
        assert_eq!(r.passed.iter().collect::<Vec<_>>(), ["a.xfs.x", "a.xfs.y"]);
        assert_eq!(r.failed.iter().collect::<Vec<_>>(), ["b.xfs.z"]);
        assert_eq!(r.mutant.contract, ["a.*", "b.*", "c.*"]);
    }
}

#[cfg(test)]
mod properties {
    use super::super::list::Fs;
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    fn record() -> impl Strategy<Value = Record> {
        let verdict = select(&[Verdict::Pass, Verdict::Fail, Verdict::Skip][..]);
        let results = btree_map("[ab]\\.xfs\\.[a-d]", verdict, 0..6);
        let globs = vec("[ab]\\.\\*", 0..3);
        (results, globs, proptest::option::of("[ -~]{1,9}")).prop_map(
            |(results, contract, trouble)| {
                let mutant = Mutant {
                    name: "m".into(),
                    breaks: "It breaks.".into(),
                    fs: vec![Fs::Xfs],
                    contract,
                    kselftest: vec![],
                };
                let mut record = Record {
                    trouble,
                    ..Record::new(&mutant, "image")
                };
                let cases = results.into_iter().map(|(n, v)| Case::new(&n, v, vec![]));
                record.add(cases.collect(), |name| Some(name.to_string()));
                record
            },
        )
    }

    fn all(record: &Record) -> BTreeSet<&String> {
        let sets = [&record.passed, &record.failed, &record.skipped];
        sets.into_iter().flatten().collect()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_record_is_read_back_and_a_part_of_it_is_refused(record in record(), at in any::<Index>()) {
            let dir = tempfile::tempdir().unwrap();
            record.write(dir.path()).unwrap();
            prop_assert_eq!(Record::read(dir.path(), "m").unwrap(), Some(record));
            let path = file(dir.path(), "m");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, cut(text.trim_end(), at)).unwrap();
            prop_assert!(Record::read(dir.path(), "m").is_err());
        }

        #[test]
        fn later_results_count_and_each_test_is_there_once(one in record(), later in record()) {
            let mut both = one.clone();
            both.join(later.clone());
            prop_assert_eq!(all(&both), all(&one).union(&all(&later)).copied().collect::<BTreeSet<_>>());
            let count = both.passed.len() + both.failed.len() + both.skipped.len();
            prop_assert_eq!(count, all(&both).len());
            prop_assert!(later.failed.is_subset(&both.failed) && later.passed.is_subset(&both.passed));
            let mut again = both.clone();
            again.join(later);
            prop_assert_eq!((&again.passed, &again.failed), (&both.passed, &both.failed));
            prop_assert_eq!(both.missing(&both.mutant, "image"), None);
        }

        #[test]
        fn names_never_panic(text in noise(&["layout_lease.sh: ", ": ", ".", "xfs", " "])) {
            contract_name(&text);
            selftest_name(&text);
        }
    }
}
