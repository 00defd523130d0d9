// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes KTAP version 1: groups, and the tests in them. Lines go out as the tests end.

use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Pass,
    /// Not as it should, and why.
    Fail(String),
    /// Could not be tried here, and why.
    Skip(String),
}

/// A KTAP file in the making.
pub struct Writer {
    out: Box<dyn Write>,
    group: usize,
    test: usize,
    failed_in_group: usize,
    /// How many of each so far: passed, failed, skipped.
    pub totals: (usize, usize, usize),
}

impl Writer {
    /// A file with this many groups to come.
    pub fn create(path: &Path, groups: usize) -> anyhow::Result<Writer> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the results to {}", path.display()))?;
        Writer::to(Box::new(file), groups)
    }

    fn to(mut out: Box<dyn Write>, groups: usize) -> anyhow::Result<Writer> {
        writeln!(out, "KTAP version 1\n1..{groups}")?;
        Ok(Writer {
            out,
            group: 0,
            test: 0,
            failed_in_group: 0,
            totals: (0, 0, 0),
        })
    }

    /// Begins a group of this many tests.
    pub fn begin(&mut self, name: &str, tests: usize) -> anyhow::Result<()> {
        self.group += 1;
        self.test = 0;
        self.failed_in_group = 0;
        writeln!(
            self.out,
            "    KTAP version 1\n    # Subtest: {name}\n    1..{tests}"
        )?;
        Ok(())
    }

    /// A test of the current group.
    pub fn test(&mut self, name: &str, outcome: &Outcome) -> anyhow::Result<()> {
        self.test += 1;
        let number = self.test;
        match outcome {
            Outcome::Pass => {
                self.totals.0 += 1;
                writeln!(self.out, "    ok {number} {name}")?;
            }
            Outcome::Fail(why) => {
                self.totals.1 += 1;
                self.failed_in_group += 1;
                for line in why.lines() {
                    writeln!(self.out, "    # {name}: {line}")?;
                }
                writeln!(self.out, "    not ok {number} {name}")?;
            }
            Outcome::Skip(why) => {
                self.totals.2 += 1;
                let why = why.replace('\n', " ");
                writeln!(self.out, "    ok {number} {name} # SKIP {why}")?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Ends the current group.
    pub fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let verdict = if self.failed_in_group == 0 {
            "ok"
        } else {
            "not ok"
        };
        writeln!(self.out, "{verdict} {} {name}", self.group)?;
        Ok(())
    }
}

/// Puts results of single suites (each with its own header) under one header, renumbered.
pub fn join(suites: &[(String, String)]) -> String {
    let mut out = format!("KTAP version 1\n1..{}\n", suites.len());
    for (index, (name, text)) in suites.iter().enumerate() {
        let mut verdict = None;
        for line in text.lines() {
            let top = !line.starts_with(' ');
            if top && (line.starts_with("KTAP version") || line.starts_with("1..")) {
                continue;
            }
            match line.split_once(' ') {
                Some(("ok", _)) if top => verdict = Some("ok"),
                Some(("not", _)) if top => verdict = Some("not ok"),
                _ => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        let verdict = verdict.unwrap_or("not ok");
        out.push_str(&format!("{verdict} {} {name}\n", index + 1));
    }
    out
}

/// The results in a text that `Writer` wrote, by the group's and the test's name.
pub fn results(text: &str) -> BTreeMap<String, Outcome> {
    let mut results = BTreeMap::new();
    let mut group = "";
    for line in text.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        if let Some(name) = line.strip_prefix("# Subtest: ") {
            group = name;
        }
        let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => continue,
        };
        // The number, the name, and maybe why it was not tried.
        let Some((_, rest)) = rest.split_once(' ') else {
            continue;
        };
        let (name, outcome) = match rest.split_once(" # SKIP ") {
            Some((name, why)) => (name, Outcome::Skip(why.to_owned())),
            None if passed => (rest, Outcome::Pass),
            None => (rest, Outcome::Fail(String::new())),
        };
        results.insert(format!("{group}.{name}"), outcome);
    }
    results
}

/// Whether a text of KTAP has a failure in it, at any depth.
pub fn failed(text: &str) -> bool {
    text.lines()
        .any(|line| line.trim_start().starts_with("not ok "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_tests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ktap");
        let mut writer = Writer::create(&path, 2).unwrap();
        writer.begin("lease.xfs", 2).unwrap();
        writer.test("a", &Outcome::Pass).unwrap();
        writer.test("b", &Outcome::Fail("one\ntwo".into())).unwrap();
        writer.end("lease.xfs").unwrap();
        writer.begin("pins.xfs", 1).unwrap();
        writer
            .test("c", &Outcome::Skip("no\ndevice".into()))
            .unwrap();
        writer.end("pins.xfs").unwrap();
        assert_eq!(writer.totals, (1, 1, 1));
        drop(writer);
        let expected = "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: lease.xfs\n    1..2\n    ok 1 a\n    # b: one\n    # b: two\n    not ok 2 b\nnot ok 1 lease.xfs\n    KTAP version 1\n    # Subtest: pins.xfs\n    1..1\n    ok 1 c # SKIP no device\nok 2 pins.xfs\n";
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, expected);
        let results = results(&text);
        assert_eq!(results.len(), 3);
        assert_eq!(results["lease.xfs.a"], Outcome::Pass);
        assert_eq!(results["lease.xfs.b"], Outcome::Fail(String::new()));
        assert_eq!(results["pins.xfs.c"], Outcome::Skip("no device".into()));
    }

    #[test]
    fn suites_are_renumbered() {
        let suite = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: a\n    1..1\n    ok 1 t\nok 1 a\n";
        let broken = suite.replace("ok 1 a", "not ok 1 a");
        let text = join(&[("a".into(), suite.into()), ("b".into(), broken)]);
        assert!(text.starts_with("KTAP version 1\n1..2\n    KTAP"));
        assert!(text.contains("\nok 1 a\n"));
        assert!(text.ends_with("\nnot ok 2 b\n"));
        assert!(failed(&text));
        assert!(!failed(&join(&[("a".into(), suite.into())])));
    }

    #[test]
    fn a_suite_without_a_verdict_failed() {
        assert!(failed(&join(&[("a".into(), String::new())])));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Keeps what is written, and can be looked at meanwhile.
    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        // What a test says may have lines that look like results.
        let why = || "([a-z #]{0,9}|ok 1 a|not ok 1 b|1\\.\\.9)(\n[ -~]{0,9}){0,3}";
        prop_oneof![
            Just(Outcome::Pass),
            why().prop_map(Outcome::Fail),
            why().prop_map(Outcome::Skip),
        ]
    }

    fn groups() -> impl Strategy<Value = Vec<Vec<Outcome>>> {
        vec(vec(outcome(), 1..5), 1..4)
    }

    fn write(groups: &[Vec<Outcome>]) -> (String, (usize, usize, usize)) {
        let kept = Kept::default();
        let mut writer = Writer::to(Box::new(kept.clone()), groups.len()).unwrap();
        for (g, tests) in groups.iter().enumerate() {
            let name = format!("g{g}.xfs");
            writer.begin(&name, tests.len()).unwrap();
            for (t, outcome) in tests.iter().enumerate() {
                writer.test(&format!("t{t}"), outcome).unwrap();
            }
            writer.end(&name).unwrap();
        }
        let text = String::from_utf8(kept.0.borrow().clone()).unwrap();
        (text, writer.totals)
    }

    fn is_fail(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Fail(_))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_back(groups in groups()) {
            let (text, totals) = write(&groups);
            let read = results(&text);
            let all: Vec<&Outcome> = groups.iter().flatten().collect();
            prop_assert_eq!(read.len(), all.len());
            prop_assert_eq!(totals.0 + totals.1 + totals.2, all.len());
            prop_assert_eq!(totals.1, all.iter().filter(|o| is_fail(o)).count());
            prop_assert_eq!(failed(&text), totals.1 > 0);
            for (g, tests) in groups.iter().enumerate() {
                for (t, outcome) in tests.iter().enumerate() {
                    let name = format!("g{g}.xfs.t{t}");
                    let want = match outcome {
                        Outcome::Pass => Outcome::Pass,
                        Outcome::Fail(_) => Outcome::Fail(String::new()),
                        Outcome::Skip(why) => Outcome::Skip(why.replace('\n', " ")),
                    };
                    prop_assert_eq!(read.get(&name), Some(&want));
                }
            }
        }

        #[test]
        fn suites_that_are_put_together_keep_their_results(suites in vec(groups(), 1..4), at in any::<Index>()) {
            let texts: Vec<(String, String)> = suites
                .iter()
                .enumerate()
                .map(|(n, groups)| (format!("s{n}"), write(&groups[..1]).0))
                .collect();
            let text = join(&texts);
            prop_assert_eq!(failed(&text), texts.iter().any(|(_, t)| failed(t)));
            let top = text.lines().filter(|l| l.starts_with("ok ") || l.starts_with("not ok "));
            prop_assert_eq!(top.count(), texts.len());
            // One that was cut off has not passed.
            let mut broken = texts.clone();
            let suite = &mut broken[0].1;
            let last = suite.trim_end().rfind('\n').unwrap();
            suite.truncate(at.index(last));
            prop_assert!(failed(&join(&broken)));
        }

        #[test]
        fn noise_never_panics(text in "([ a-z]{0,4}|ok |not ok |# SKIP |# Subtest: |1\\.\\.|[0-9]{1,3}|\n|\\PC){0,40}") {
            results(&text);
            failed(&join(&[("a".into(), text)]));
        }
    }
}
