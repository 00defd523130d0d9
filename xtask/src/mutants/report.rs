// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Documentation/mutants.md`: which mutant made which tests fail, and which tests none did.

use super::list::{Mutant, CONTROL};
use super::record::Record;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

const INTRODUCTION: &str = "\
<!-- SPDX-License-Identifier: MIT OR Apache-2.0 -->
<!-- Written by `cargo xtask mutants --write` from the results of its runs. -->
# Every test can fail

A test that passes on a kernel that is broken proves nothing. So hooks of the series are taken out, one at
a time, by a patch on top of it ([mutants/](../mutants/README.md)), and the tests that are about that hook
are run in a guest that has been booted so. The same tests have passed with all hooks in their place.

To see one of them:

    cargo xtask mutants pinned_range_ignored
";

/// How many tests are named.
const NAMED: usize = 2;

/// Who noticed, in a few words.
pub fn brief(record: &Record, noticed: &[&str]) -> String {
    let mut words: Vec<String> = noticed.iter().take(NAMED).map(|t| t.to_string()).collect();
    if noticed.len() > NAMED {
        words.push(format!("{} more", noticed.len() - NAMED));
    }
    if let Some(trouble) = &record.trouble {
        words.push(plain(trouble));
    }
    match words.is_empty() {
        true => "NOBODY".to_string(),
        false => words.join(", "),
    }
}

/// The first line of what the kernel said, without times and addresses, which differ each time.
fn plain(trouble: &str) -> String {
    let line = trouble.lines().next().unwrap_or_default();
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((inside, behind)) = after.split_once("] ") else {
            break;
        };
        if inside
            .chars()
            .all(|c| c.is_ascii_digit() || " .".contains(c))
        {
            out.push_str(before);
        } else {
            write!(out, "{before}[{inside}] ").unwrap_or_default();
        }
        rest = behind;
    }
    out.push_str(rest);
    // `WARNING: fs/dax.c:457 at f+0x1/0x2, CPU#0: guest/83`
    match out.split_once(", CPU#") {
        Some((place, _)) => place.to_string(),
        None => out,
    }
}

/// `layout.xfs.pinned.punch`: the file of its source, the filesystem, the rest.
fn parts(test: &str) -> Option<(&str, &str, &str)> {
    let (file, rest) = test.split_once('.')?;
    let (fs, name) = rest.split_once('.')?;
    Some((file, fs, name))
}

/// What is known of the tests of one source file.
#[derive(Default)]
struct File<'a> {
    /// By name, on whichever filesystem: the mutants that made it fail.
    tests: BTreeMap<&'a str, BTreeSet<&'a str>>,
    mutants: BTreeSet<&'a str>,
}

/// The document. `listed` are all tests of the contract that there are.
pub fn markdown<'a>(
    dir: &Path,
    mutants: &[Mutant],
    listed: impl Iterator<Item = &'a str>,
) -> Result<String> {
    let control = Record::read(dir, CONTROL)?.context("no result of the run without a mutant")?;
    let mut records = vec![];
    for m in mutants {
        // What has not been run yet is said below.
        records.push(Record::read(dir, &m.name)?.filter(|r| r.image == control.image));
    }
    let listed: Vec<&str> = listed.collect();
    let mut files: BTreeMap<&str, File> = BTreeMap::new();
    for test in listed.iter().copied().chain(ran(&control)) {
        if let Some((file, _, name)) = parts(test) {
            files
                .entry(file)
                .or_default()
                .tests
                .entry(name)
                .or_default();
        }
    }
    for record in records.iter().flatten() {
        for test in record.noticed(&control) {
            if let Some((file, _, name)) = parts(test) {
                let file = files.entry(file).or_default();
                file.mutants.insert(&record.mutant.name);
                let by = file.tests.entry(name).or_default();
                by.insert(&record.mutant.name);
            }
        }
    }
    let mut out = INTRODUCTION.to_string();
    summary(&mut out, &records, &files)?;
    writeln!(out, "\n## Mutants\n")?;
    writeln!(
        out,
        "| mutant | what is wrong | tests that failed | among them |\n|---|---|---:|---|"
    )?;
    for (m, record) in mutants.iter().zip(&records) {
        let (number, who) = match record {
            None => (String::new(), "not run".to_string()),
            Some(r) => {
                let noticed: Vec<&str> = r.noticed(&control).map(String::as_str).collect();
                (noticed.len().to_string(), code(r, &noticed))
            }
        };
        writeln!(out, "| `{}` | {} | {number} | {who} |", m.name, m.breaks)?;
    }
    writeln!(out, "\n## Files of tests\n")?;
    writeln!(
        out,
        "A test counts once, on whichever filesystem it failed.\n"
    )?;
    writeln!(
        out,
        "| file | tests | made to fail | by |\n|---|---:|---:|---|"
    )?;
    for (name, file) in &files {
        let failed = file.tests.values().filter(|by| !by.is_empty()).count();
        let by: Vec<String> = file.mutants.iter().map(|m| format!("`{m}`")).collect();
        let (number, by) = (file.tests.len(), by.join(", "));
        writeln!(out, "| `{}` | {number} | {failed} | {by} |", source(name))?;
    }
    writeln!(out, "\n## Tests that no mutant made fail\n")?;
    for (name, file) in &files {
        let never: Vec<String> = file
            .tests
            .iter()
            .filter(|(_, by)| by.is_empty())
            .map(|(test, _)| format!("`{test}`"))
            .collect();
        if !never.is_empty() {
            writeln!(out, "**{name}**: {}\n", never.join(", "))?;
        }
    }
    Ok(format!("{}\n", out.trim_end()))
}

fn summary(
    out: &mut String,
    records: &[Option<Record>],
    files: &BTreeMap<&str, File>,
) -> Result<()> {
    let run: Vec<&Record> = records.iter().flatten().collect();
    let died = run.iter().filter(|r| r.trouble.is_some()).count();
    let tests: usize = files.values().map(|f| f.tests.len()).sum();
    let of = |f: &File| f.tests.values().filter(|by| !by.is_empty()).count();
    let failed: usize = files.values().map(of).sum();
    writeln!(
        out,
        "\n{} of {} mutants have been tried; under {died} of them the kernel complained, or the guest did \
         not come to its end. Of {tests} tests, {failed} have been seen failing.",
        run.len(),
        records.len()
    )?;
    Ok(())
}

/// Tests that did run.
fn ran(record: &Record) -> impl Iterator<Item = &str> {
    record
        .passed
        .iter()
        .chain(&record.failed)
        .map(String::as_str)
}

fn code(record: &Record, noticed: &[&str]) -> String {
    let named: Vec<String> = noticed
        .iter()
        .take(NAMED)
        .map(|t| format!("`{t}`"))
        .collect();
    let trouble = record.trouble.as_deref().map(plain);
    let words: Vec<String> = named.into_iter().chain(trouble).collect();
    match words.is_empty() {
        true => "**nobody**".into(),
        false => words.join(", ").replace('|', "\\|"),
    }
}

/// Where the tests of a file are.
fn source(name: &str) -> String {
    match name.ends_with("_test") {
        true => format!("selftests: {name}.c"),
        false => format!("tests/{name}.rs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::list::Fs;

    fn mutant(name: &str) -> Mutant {
        Mutant {
            name: name.into(),
            breaks: "Something.".into(),
            fs: vec![Fs::Xfs],
            contract: vec!["*".into()],
            kselftest: vec![],
        }
    }

    #[test]
    fn tests_count_once_and_those_that_never_failed_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (all, m, later) = (mutant(CONTROL), mutant("m"), mutant("later"));
        let mut control = Record::new(&all, "i");
        for test in ["a.xfs.x", "a.ext4.x", "a.xfs.y", "pin_test.xfs.p.q"] {
            control.passed.insert(test.into());
        }
        control.write(dir.path()).unwrap();
        let mut r = Record::new(&m, "i");
        r.failed.extend(["a.xfs.x".to_string(), "a.ext4.x".into()]);
        r.write(dir.path()).unwrap();
        let listed = ["a.xfs.x", "a.ext4.x", "a.xfs.y", "b.xfs.z"];
        let text = markdown(dir.path(), &[m, later], listed.into_iter()).unwrap();
        assert!(text.contains("1 of 2 mutants"), "{text}");
        assert!(text.contains("Of 4 tests, 1 have"), "{text}");
        assert!(text.contains("| `tests/a.rs` | 2 | 1 | `m` |"), "{text}");
        assert!(
            text.contains("| `later` | Something. |  | not run |"),
            "{text}"
        );
        assert!(text.contains("**b**: `z`"), "{text}");
        assert!(text.contains("**pin_test**: `p.q`"), "{text}");
    }

    #[test]
    fn what_differs_each_time_is_left_out() {
        let said = "the kernel is in trouble: [   31.123456] WARNING: fs/dax.c:457 at f+0x1/0x2, \
                    CPU#0: guest/83\nmore";
        assert_eq!(
            plain(said),
            "the kernel is in trouble: WARNING: fs/dax.c:457 at f+0x1/0x2"
        );
        assert_eq!(
            plain("the guest is stuck: nothing new for 120 s"),
            "the guest is stuck: nothing new for 120 s"
        );
    }
}
