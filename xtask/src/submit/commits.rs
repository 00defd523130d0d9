// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commits of the series, in order, with their messages and the files they touch.

use crate::error::{Failure, Kind};
use crate::kernel::tree::Tree;
use crate::ui::proc::Cmd;
use anyhow::{ensure, Context, Result};
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

/// One patch of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the series, counted from 1.
    pub number: usize,
    /// The commit.
    pub hash: String,
    /// The state of the source with it.
    pub tree: String,
    /// The first line of the message.
    pub subject: String,
    /// What follows the subject and the empty line after it.
    pub body: String,
    /// The files it touches.
    pub files: Vec<Change>,
}

/// What a commit does to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `A`, `M`, `D` ... as `git diff --name-status` has them.
    pub status: char,
    /// The file.
    pub path: String,
}

impl Change {
    /// Is the file there afterwards?
    pub fn remains(&self) -> bool {
        self.status != 'D'
    }
}

/// The commits of the branch `series`.
pub fn list(tree: &Tree) -> Result<Vec<Commit>> {
    let tip = tree
        .tip()
        .context("the tree has no branch `series` (cargo xtask apply)")?;
    between(&tree.dir, &tree.base, &tip)
}

/// The commits `base..tip`, the oldest first.
pub fn between(dir: &Path, base: &str, tip: &str) -> Result<Vec<Commit>> {
    let log = Cmd::git(dir)
        .args(["log", "--reverse", "--no-merges", "--no-renames", "-z"])
        .args(["--name-status", "--format=%x01%H%n%T%n%B%x02"])
        .arg(format!("{base}..{tip}"))
        .output()?;
    parse_log(&log)
}

fn parse_log(log: &str) -> Result<Vec<Commit>> {
    let records = log.split('\u{1}').skip(1).enumerate();
    records
        .map(|(i, record)| {
            let (message, names) = record.split_once('\u{2}').context("git log broke off")?;
            let mut parts = message.splitn(3, '\n');
            let mut next = || parts.next().context("git log broke off");
            let (hash, tree, text) = (next()?, next()?, next()?);
            let (subject, body) = text.split_once('\n').unwrap_or((text, ""));
            // Between two NULs: a status, then the name it is about.
            let words: Vec<&str> = names
                .split('\0')
                .map(|w| w.trim_matches('\n'))
                .filter(|w| !w.is_empty())
                .collect();
            ensure!(
                words.len() % 2 == 0 && (names.is_empty() || names.ends_with('\0')),
                "git log broke off"
            );
            let files = words
                .chunks_exact(2)
                .map(|c| Change {
                    status: c[0].chars().next().unwrap_or('?'),
                    path: c[1].to_string(),
                })
                .collect();
            Ok(Commit {
                number: i + 1,
                hash: hash.into(),
                tree: tree.into(),
                subject: subject.into(),
                body: body.trim_matches('\n').into(),
                files,
            })
        })
        .collect()
}

/// Patches by number: `7`, `3-9`, `60-`, `-5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(RangeInclusive<usize>);

impl Selection {
    /// From one number to another; either may be left out.
    pub fn new(from: Option<usize>, to: Option<usize>) -> Self {
        Selection(from.unwrap_or(1)..=to.unwrap_or(usize::MAX))
    }

    /// The commits chosen; an error when there are none.
    pub fn of<'a>(&self, commits: &'a [Commit]) -> Result<Vec<&'a Commit>> {
        let chosen: Vec<&Commit> = commits
            .iter()
            .filter(|c| self.0.contains(&c.number))
            .collect();
        if chosen.is_empty() {
            return Err(Failure::of(
                Kind::Usage,
                format!(
                    "the series has {} patches, none of them these",
                    commits.len()
                ),
            ));
        }
        Ok(chosen)
    }
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str| match s.trim() {
            "" => Ok(None),
            n => n
                .parse::<usize>()
                .ok()
                .filter(|n| *n > 0)
                .map(Some)
                .ok_or_else(|| format!("{n:?} is no number of a patch")),
        };
        let (from, to) = match s.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(s)?, number(s)?),
        };
        if from.is_none() && to.is_none() {
            return Err("a number or a range is wanted, such as 7, 3-9 or 60-".into());
        }
        if from.unwrap_or(1) > to.unwrap_or(usize::MAX) {
            return Err(format!("{s} ends before it begins"));
        }
        Ok(Selection::new(from, to))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A commit for tests of the rules.
    pub fn commit(number: usize, subject: &str, body: &str) -> Commit {
        Commit {
            number,
            hash: format!("{number:040}"),
            tree: format!("{number:040}"),
            subject: subject.into(),
            body: body.into(),
            files: vec![],
        }
    }

    #[test]
    fn the_log_is_read() {
        let log = "\u{1}aa\ntt\nmm: add x\n\nWhy.\n\nBecause.\n\u{2}\0A\0mm/x.c\0M\0mm/Makefile\0\
                   \u{1}bb\nuu\nmm: drop y\n\u{2}\0\nD\0mm/y.c\0";
        let c = parse_log(log).unwrap();
        assert_eq!(c.len(), 2);
        assert_eq!((c[0].number, c[0].subject.as_str()), (1, "mm: add x"));
        assert_eq!(c[0].body, "Why.\n\nBecause.");
        let names: Vec<_> = c[0].files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["mm/x.c", "mm/Makefile"]);
        assert_eq!((c[1].hash.as_str(), c[1].tree.as_str()), ("bb", "uu"));
        assert!(c[1].body.is_empty() && !c[1].files[0].remains());
    }

    #[test]
    fn a_repository_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            Cmd::git(dir.path())
                .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
                .args(args)
                .output()
                .unwrap()
        };
        git(&["init", "-q"]);
        git(&["commit", "-q", "--allow-empty", "-m", "base"]);
        std::fs::write(dir.path().join("a b.c"), "x").unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "mm: add a file\n\nBody."]);
        git(&["rm", "-q", "a b.c"]);
        git(&["commit", "-q", "-m", "mm: remove it\n\nBody too."]);
        let c = between(dir.path(), "HEAD~2", "HEAD").unwrap();
        let seen: Vec<_> = c
            .iter()
            .map(|c| {
                (
                    c.subject.as_str(),
                    c.files[0].status,
                    c.files[0].path.as_str(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("mm: add a file", 'A', "a b.c"),
                ("mm: remove it", 'D', "a b.c")
            ]
        );
    }

    #[test]
    fn selections() {
        let all: Vec<_> = (1..=9).map(|n| commit(n, "", "")).collect();
        let of = |s: &str| -> Vec<usize> {
            let chosen = s.parse::<Selection>().unwrap();
            chosen.of(&all).unwrap().iter().map(|c| c.number).collect()
        };
        assert_eq!(of("7"), [7]);
        assert_eq!(of("3-5"), [3, 4, 5]);
        assert_eq!(of("8-"), [8, 9]);
        assert_eq!(of("-2"), [1, 2]);
        for bad in ["", "-", "0", "x", "5-3"] {
            assert!(bad.parse::<Selection>().is_err(), "{bad}");
        }
        assert!("12".parse::<Selection>().unwrap().of(&all).is_err());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn commits() -> impl Strategy<Value = Vec<Commit>> {
        let change = ("[AMDT]", "[a-z]{1,5}(/[a-z .]{0,5}[a-z])?").prop_map(|(s, path)| Change {
            status: s.chars().next().unwrap(),
            path,
        });
        let commit = (
            "[0-9a-f]{40}",
            "[0-9a-f]{40}",
            "[ -~]{0,20}",
            "([ -~]{1,9}\n?){0,4}",
            vec(change, 1..4),
        );
        vec(commit, 0..4).prop_map(|all| {
            let numbered = all.into_iter().enumerate();
            numbered
                .map(|(n, (hash, tree, subject, body, files))| Commit {
                    number: n + 1,
                    hash,
                    tree,
                    subject,
                    body: body.trim_matches('\n').to_string(),
                    files,
                })
                .collect()
        })
    }

    /// What git prints: see `a_repository_is_read`.
    fn write(commits: &[Commit]) -> String {
        let mut out = String::new();
        for c in commits {
            let body = if c.body.is_empty() {
                String::new()
            } else {
                format!("\n{}\n", c.body)
            };
            out.push_str(&format!(
                "\u{1}{}\n{}\n{}\n{body}\u{2}\0",
                c.hash, c.tree, c.subject
            ));
            c.files
                .iter()
                .for_each(|f| out.push_str(&format!("{}\0{}\0", f.status, f.path)));
        }
        out
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_log_is_read_back(commits in commits()) {
            prop_assert_eq!(parse_log(&write(&commits)).unwrap(), commits);
        }

        #[test]
        fn of_a_log_that_broke_off_no_commit_is_made_up(commits in commits(), at in any::<Index>()) {
            prop_assume!(!commits.is_empty());
            let text = write(&commits);
            if let Ok(read) = parse_log(cut(&text, at)) {
                // All that was read is as it was, but for files of the last that were never told.
                for (n, (got, was)) in read.iter().zip(&commits).enumerate() {
                    let last = n + 1 == read.len();
                    prop_assert_eq!((&got.hash, &got.subject, &got.body), (&was.hash, &was.subject, &was.body));
                    prop_assert!(got.files == was.files || last && was.files.starts_with(&got.files));
                }
            }
        }

        #[test]
        fn selections_are_read_back(from in 1usize..50, to in 1usize..50) {
            let text = format!("{from}-{to}");
            prop_assert_eq!(text.parse::<Selection>().is_ok(), from <= to);
            prop_assert_eq!(format!("{from}-").parse(), Ok(Selection::new(Some(from), None)));
            prop_assert_eq!(format!("-{to}").parse(), Ok(Selection::new(None, Some(to))));
        }

        #[test]
        fn noise_never_panics(text in noise(&["\u{1}", "\u{2}", "\0", "A\0", "\n", "3-9"])) {
            let _ = parse_log(&text);
            let _ = text.parse::<Selection>();
        }
    }
}
