// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which tests are run: by name, by group, and which share of them.

use super::config::Config;
use super::result::is_test;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

/// Tests and their groups.
pub type Groups = BTreeMap<String, BTreeSet<String>>;

/// One of several machines that divide a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| {
            let (index, count) = (i.parse().ok()?, n.parse().ok()?);
            Some(Shard { index, count })
        });
        parts
            .filter(|s| (1..=s.count).contains(&s.index))
            .ok_or_else(|| "I/N, with I from 1 to N".to_string())
    }
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names, `*` and `?` allowed.
    pub names: Vec<String>,
    /// Groups; `generic/quick` is those of one directory.
    pub groups: Vec<String>,
    /// Groups to leave out.
    pub without: Vec<String>,
}

/// Reads a directory's `group.list`: a number and groups in each line.
pub fn parse_group_list(dir: &str, text: &str) -> Groups {
    let mut groups = Groups::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(number) = words.next() else { continue };
        let name = format!("{dir}/{number}");
        if is_test(&name) {
            groups.insert(name, words.map(str::to_string).collect());
        }
    }
    groups
}

/// The groups of the tests in these directories of a tree.
pub fn groups_of(tests: &Path, dirs: &[&str]) -> Result<Groups> {
    let mut all = Groups::new();
    for dir in dirs {
        let file = tests.join(dir).join("group.list");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        all.extend(parse_group_list(dir, &text));
    }
    Ok(all)
}

/// Does the pattern, with `*` and `?`, match all of the text?
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            matches(rest, text) || (!text.is_empty() && matches(pattern, &text[1..]))
        }
        ([b'?', rest @ ..], [_, more @ ..]) => matches(rest, more),
        ([a, rest @ ..], [b, more @ ..]) if a == b => matches(rest, more),
        _ => false,
    }
}

fn in_group(name: &str, groups: &BTreeSet<String>, wanted: &str) -> bool {
    match wanted.split_once('/') {
        Some((dir, group)) => name.starts_with(&format!("{dir}/")) && groups.contains(group),
        None => wanted == "all" || groups.contains(wanted),
    }
}

impl Selection {
    /// The tests for a configuration, in order. Names for other filesystems are left out, those that
    /// there are nowhere are an error.
    pub fn tests(&self, config: Config, groups: &Groups) -> Result<Vec<String>> {
        let dirs = config.directories();
        let mut chosen = BTreeSet::new();
        for pattern in &self.names {
            let found: Vec<&String> = groups
                .keys()
                .filter(|name| matches(pattern.as_bytes(), name.as_bytes()))
                .collect();
            let elsewhere = !dirs.iter().any(|d| pattern.starts_with(&format!("{d}/")));
            if found.is_empty() && !elsewhere {
                return Err(Failure::of(
                    Kind::Usage,
                    format!("there is no test {pattern}"),
                ));
            }
            chosen.extend(found);
        }
        for wanted in &self.groups {
            let found = groups.iter().filter(|(n, g)| in_group(n, g, wanted));
            let before = chosen.len();
            chosen.extend(found.map(|(n, _)| n));
            if chosen.len() == before && !groups.iter().any(|(n, g)| in_group(n, g, wanted)) {
                return Err(Failure::of(
                    Kind::Usage,
                    format!("no test is in the group {wanted}"),
                ));
            }
        }
        let left_out = |name: &str| {
            let of = groups.get(name);
            self.without
                .iter()
                .any(|w| of.is_some_and(|g| in_group(name, g, w)))
        };
        Ok(chosen
            .into_iter()
            .filter(|n| !left_out(n))
            .cloned()
            .collect())
    }
}

impl Shard {
    /// Every so-manieth test: long ones often stand side by side.
    pub fn of<T>(self, all: Vec<T>) -> Vec<T> {
        all.into_iter()
            .enumerate()
            .filter(|(n, _)| n % self.count == self.index - 1)
            .map(|(_, t)| t)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::ALL;
    use super::*;

    fn groups() -> Groups {
        let mut g = parse_group_list(
            "generic",
            "# made by a tool\n\n001 auto quick rw\n002 auto dax\n1003 dax quick\n",
        );
        g.extend(parse_group_list("xfs", "001 auto quick fuzzers\n"));
        g
    }

    fn select(names: &[&str], include: &[&str], without: &[&str]) -> Result<Vec<String>> {
        let strings = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
        Selection {
            names: strings(names),
            groups: strings(include),
            without: strings(without),
        }
        .tests(ALL[0], &groups())
    }

    #[test]
    fn by_group_and_by_name() {
        assert_eq!(
            select(&[], &["dax"], &[]).unwrap(),
            ["generic/002", "generic/1003"]
        );
        assert_eq!(
            select(&[], &["quick"], &["dax", "fuzzers"]).unwrap(),
            ["generic/001"]
        );
        assert_eq!(select(&[], &["xfs/quick"], &[]).unwrap(), ["xfs/001"]);
        assert_eq!(select(&["generic/00?"], &[], &[]).unwrap().len(), 2);
        assert_eq!(select(&["*/001"], &[], &[]).unwrap().len(), 2);
        // For another filesystem.
        assert!(select(&["ext4/001"], &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(select(&["generic/999"], &[], &[]).is_err());
        assert!(select(&[], &["dxa"], &[]).is_err());
    }

    #[test]
    fn shards_make_up_the_whole() {
        let all: Vec<u32> = (0..10).collect();
        let mut seen = vec![];
        for i in 1..=3 {
            seen.extend(format!("{i}/3").parse::<Shard>().unwrap().of(all.clone()));
        }
        seen.sort_unstable();
        assert_eq!(seen, all);
        assert!("0/3".parse::<Shard>().is_err());
        assert!("4/3".parse::<Shard>().is_err());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, glob, noise};
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn groups_are_read_back(
            groups in btree_map("x/[0-9]{3,4}", btree_set("[a-z]{1,5}", 0..4), 0..6),
            remark in "(# [a-z]{0,5})?",
        ) {
            let mut text = String::from("# QA groups\n\n");
            for (name, of) in &groups {
                let of: Vec<&str> = of.iter().map(String::as_str).collect();
                text.push_str(&format!("{} {} {remark}\n", name.trim_start_matches("x/"), of.join(" ")));
            }
            prop_assert_eq!(parse_group_list("x", &text), groups);
        }

        #[test]
        fn shards_make_up_the_whole(all in 0usize..40, count in 1usize..9) {
            let mut seen = vec![];
            for index in 1..=count {
                let shard: Shard = format!("{index}/{count}").parse().unwrap();
                let part = shard.of((0..all).collect::<Vec<_>>());
                prop_assert!(part.len().abs_diff(all / count) <= 1);
                seen.extend(part);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..all).collect::<Vec<_>>());
        }

        #[test]
        fn patterns_mean_what_they_mean_elsewhere(pattern in "[ab*]{0,5}", name in "[ab]{0,6}") {
            prop_assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), glob(&pattern, &name));
            let any_one = pattern.replace('a', "?");
            prop_assert!(!glob(&pattern, &name) || matches(any_one.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn noise_never_panics(text in noise(&["001 ", "auto quick\n", "1/3", "/", "generic"])) {
            parse_group_list("generic", &text);
            if let Ok(shard) = text.parse::<Shard>() {
                shard.of(vec![1, 2, 3]);
            }
        }
    }
}
