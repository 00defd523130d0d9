// SPDX-License-Identifier: MIT OR Apache-2.0
//! Named configurations: a filesystem and how it is made and mounted, and what is left out of them.

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// As it is asked for.
    pub name: &'static str,
    /// The filesystem.
    pub fs: &'static str,
    /// Options of mkfs for both devices.
    pub mkfs: &'static str,
    /// Options of mount for both devices.
    pub mount: &'static str,
}

/// Blocks of DAX files are pages; on a small device ext4 would take smaller ones.
const EXT4_MKFS: &str = "-b 4096";

/// All of them. Without DAX the devices are the same.
pub const ALL: [Config; 4] = [
    Config {
        name: "xfs/dax",
        fs: "xfs",
        mkfs: "",
        mount: "-o dax=always",
    },
    Config {
        name: "ext4/dax",
        fs: "ext4",
        mkfs: EXT4_MKFS,
        mount: "-o dax=always",
    },
    Config {
        name: "xfs/nodax",
        fs: "xfs",
        mkfs: "",
        mount: "-o dax=never",
    },
    Config {
        name: "ext4/nodax",
        fs: "ext4",
        mkfs: EXT4_MKFS,
        mount: "-o dax=never",
    },
];

impl FromStr for Config {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        ALL.into_iter().find(|c| c.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
            format!("one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Config {
    /// For names of files.
    pub fn slug(self) -> String {
        self.name.replace('/', "-")
    }

    /// The directories with tests for it, as `check` has them.
    pub fn directories(self) -> [&'static str; 2] {
        ["generic", self.fs]
    }

    /// The list of what is left out.
    pub fn exclude_file(self, ctx: &Ctx) -> PathBuf {
        super::source(ctx).join("exclude").join(self.slug())
    }

    /// What is left out, and why.
    pub fn excluded(self, ctx: &Ctx) -> Result<BTreeMap<String, String>> {
        let file = self.exclude_file(ctx);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
        };
        parse_exclude(&text)
            .map_err(|why| Failure::of(Kind::Usage, format!("{}: {why}", file.display())))
    }
}

/// Lines `generic/001  # reason`; whole lines of comment and empty ones are nothing.
pub fn parse_exclude(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, why) = line.split_once('#').unwrap_or((line, ""));
        let (name, why) = (name.trim(), why.trim());
        if !super::result::is_test(name) {
            return Err(format!("line {}: {name:?} is no test", n + 1));
        }
        if !why.contains(char::is_alphanumeric) {
            return Err(format!(
                "line {}: {name} is left out without a reason",
                n + 1
            ));
        }
        out.insert(name.to_string(), why.to_string());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_reason() {
        let ok = parse_exclude("# SPDX\n\ngeneric/001  # too slow\n").unwrap();
        assert_eq!(ok["generic/001"], "too slow");
        for without in ["generic/001\n", "generic/001  ##\n"] {
            assert!(parse_exclude(without).unwrap_err().contains("reason"));
        }
        assert!(parse_exclude("generic # x\n")
            .unwrap_err()
            .contains("no test"));
    }

    #[test]
    fn names_are_those_of_the_list() {
        assert_eq!("ext4/dax".parse::<Config>().unwrap().fs, "ext4");
        assert!("btrfs".parse::<Config>().unwrap_err().contains("xfs/nodax"));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_list_is_read_back_and_no_reason_may_be_missing(
            list in btree_map("(generic|xfs|ext4)/[0-9]{3,4}", "[a-z][a-z #]{0,9}[a-z]", 0..6),
            without in "generic/[0-9]{3}[ #]{0,3}",
        ) {
            let text: String = list.iter().map(|(n, why)| format!("{n}  # {why}\n\n# x\n")).collect();
            prop_assert_eq!(parse_exclude(&text), Ok(list));
            let wrong = format!("{text}{without}\n");
            prop_assert!(parse_exclude(&wrong).is_err());
        }

        #[test]
        fn what_is_taken_has_a_name_and_a_reason(text in noise(&["generic/001", " # ", "why", "\n#"])) {
            if let Ok(list) = parse_exclude(&text) {
                prop_assert!(list.iter().all(|(n, why)| super::super::result::is_test(n) && why.contains(char::is_alphanumeric)));
            }
        }
    }
}
