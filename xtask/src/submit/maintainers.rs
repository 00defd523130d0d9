// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry that the series adds to MAINTAINERS: does it have every new file, and is it that of
//! `MAINTAINERS.snippet`?

use super::commits::Commit;
use super::finding::Finding;
use super::parallel;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rule's name.
const RULE: &str = "maintainers";
/// The copy of the entry in the project.
pub const SNIPPET: &str = "MAINTAINERS.snippet";

/// An entry: its title and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Such as `FILE PINS AND LAYOUT LEASES`.
    pub title: String,
    /// `F:` and the like with their values.
    pub lines: Vec<String>,
}

/// Reads an entry: the title, then lines with a letter, a colon and a tab.
pub fn parse(text: &str) -> Option<Entry> {
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let title = lines.next()?.trim().to_string();
    let lines = lines
        .take_while(|l| is_field(l))
        .map(|l| l.trim_end().to_string())
        .collect();
    Some(Entry { title, lines })
}

fn is_field(line: &str) -> bool {
    let b = line.as_bytes();
    b.len() > 3 && b[0].is_ascii_uppercase() && b[1] == b':' && b[2] == b'\t'
}

/// The entry of this title.
pub fn find(maintainers: &str, title: &str) -> Option<Entry> {
    let start = maintainers.lines().position(|l| l.trim_end() == title)?;
    let rest: Vec<&str> = maintainers.lines().skip(start).collect();
    parse(&rest.join("\n"))
}

/// Compares the two copies. The `M:` line is the submitter's and may be in one of them only.
pub fn compare(snippet: &Entry, tree: &Entry) -> Vec<String> {
    let lines = |e: &Entry| -> BTreeSet<String> {
        let kept = e.lines.iter().filter(|l| !l.starts_with("M:"));
        kept.cloned().collect()
    };
    let (ours, theirs) = (lines(snippet), lines(tree));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>, where_: &str| -> Vec<String> {
        let diff = a.difference(b);
        diff.map(|l| format!("{:?} is {where_} only", l.replace('\t', " ")))
            .collect()
    };
    let mut out = only(&ours, &theirs, &format!("in {SNIPPET}"));
    out.extend(only(&theirs, &ours, "in the series' MAINTAINERS"));
    out
}

/// Checks the state of the tree at `linux`, which has to be that at the end of the series.
pub fn check(root: &Path, linux: &Path, commits: &[Commit], jobs: usize) -> Result<Vec<Finding>> {
    let path = root.join(SNIPPET);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let snippet = parse(&text).with_context(|| format!("{} is empty", path.display()))?;
    let maintainers =
        fs::read_to_string(linux.join("MAINTAINERS")).context("cannot read MAINTAINERS")?;
    let Some(entry) = find(&maintainers, &snippet.title) else {
        let text = format!("the series adds no entry {:?}", snippet.title);
        return Ok(vec![Finding::new(0, RULE, "MAINTAINERS", text)]);
    };
    let mut out: Vec<Finding> = compare(&snippet, &entry)
        .into_iter()
        .map(|text| Finding::new(0, RULE, SNIPPET, text))
        .collect();
    let files: Vec<String> = new_files(commits)
        .into_iter()
        .filter(|f| linux.join(f).exists())
        .collect();
    let missed = parallel::map(jobs, &files, |file| {
        let found = Cmd::new("perl")
            .cwd(linux)
            .arg("scripts/get_maintainer.pl")
            .args(["--nogit", "--nogit-fallback", "--sections", "-f", file])
            .output()?;
        Ok(!found.lines().any(|l| l == entry.title))
    })?;
    for (file, _) in files.iter().zip(missed).filter(|(_, missed)| *missed) {
        let text = format!(
            "get_maintainer.pl does not find {:?} for this new file",
            entry.title
        );
        out.push(Finding::new(0, RULE, file, text));
    }
    for line in &entry.lines {
        let Some(pattern) = line.strip_prefix("F:\t") else {
            continue;
        };
        let there = Cmd::git(linux)
            .args(["ls-files", "--error-unmatch", "--", pattern])
            .succeeds();
        if !there {
            let text = format!("no file matches {pattern}");
            out.push(Finding::new(0, RULE, "MAINTAINERS", text));
        }
    }
    Ok(out)
}

/// Files that the series adds and does not remove again.
fn new_files(commits: &[Commit]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for f in commits.iter().flat_map(|c| &c.files) {
        match f.status {
            'A' => out.insert(f.path.clone()),
            'D' => out.remove(&f.path),
            _ => false,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::commits::{tests::commit, Change};
    use super::*;

    const TREE: &str =
        "FILE LOCKING\nM:\tX\nF:\tfs/locks.c\n\nFILE PINS\nL:\tlist\nS:\tMaintained\n\
                        F:\tmm/file_pins/\n\nNEXT\nF:\tx\n";

    #[test]
    fn the_entry_is_cut_out() {
        let e = find(TREE, "FILE PINS").unwrap();
        assert_eq!(e.lines, ["L:\tlist", "S:\tMaintained", "F:\tmm/file_pins/"]);
        assert!(find(TREE, "FILE").is_none());
    }

    #[test]
    fn differences_are_named_but_for_the_maintainer() {
        let tree = find(TREE, "FILE PINS").unwrap();
        let ours =
            parse("FILE PINS\nM:\tSubmitter\nL:\tlist\nS:\tMaintained\nF:\tmm/pins/\n").unwrap();
        assert_eq!(
            compare(&ours, &tree),
            [
                "\"F: mm/pins/\" is in MAINTAINERS.snippet only",
                "\"F: mm/file_pins/\" is in the series' MAINTAINERS only"
            ]
        );
        assert!(compare(&tree, &tree).is_empty());
    }

    #[test]
    fn a_file_that_goes_again_is_not_new() {
        let mut c = [commit(1, "a", ""), commit(2, "b", "")];
        let change = |status, path: &str| Change {
            status,
            path: path.into(),
        };
        c[0].files = vec![change('A', "x"), change('A', "y"), change('M', "z")];
        c[1].files = vec![change('D', "x")];
        assert_eq!(new_files(&c).into_iter().collect::<Vec<_>>(), ["y"]);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let lines = vec("[A-Z]:\t[a-z/]{1,9}", 1..5);
        vec(lines, 1..5).prop_map(|all| {
            let titled = all.into_iter().enumerate();
            titled
                .map(|(n, lines)| Entry {
                    title: format!("ENTRY {n}"),
                    lines,
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn each_entry_is_found_among_others(entries in entries(), at in any::<Index>()) {
            let text: String = entries.iter().map(|e| format!("{}\n{}\n\n", e.title, e.lines.join("\n"))).collect();
            for e in &entries {
                let found = find(&text, &e.title).unwrap();
                prop_assert_eq!(&found, e);
                prop_assert!(compare(&found, e).is_empty());
            }
            prop_assert_eq!(find(&text, "ENTRY"), None);
            // A line that one of two copies lacks is told, unless it names the maintainer.
            let one = &entries[at.index(entries.len())];
            let mut less = one.clone();
            let gone = less.lines.remove(at.index(one.lines.len()));
            let told = gone.starts_with("M:") || less.lines.contains(&gone);
            prop_assert_eq!(compare(one, &less).len(), usize::from(!told));
            prop_assert_eq!(compare(&less, one).len(), usize::from(!told));
        }

        #[test]
        fn noise_never_panics(text in noise(&["TITLE\n", "F:\tmm/\n", "M:\tx\n", "\n", "é:\t"])) {
            parse(&text);
            find(&text, "TITLE");
        }
    }
}
