// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs KUnit suites of the running kernel by way of debugfs, and puts their results into one file.

use crate::ktap;
use crate::setup::mounted;
use anyhow::{bail, Context};
use std::fs;
use std::path::PathBuf;

/// Which suites, and where the results go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the results go, as KTAP
    #[arg(long, value_name = "FILE")]
    ktap: PathBuf,
    /// Names of suites; `*` stands for anything
    #[arg(long, value_name = "GLOB", default_value = "file_pin*")]
    suite: String,
}

/// Runs them; whether every one of them passed.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let debugfs = mounted("debugfs", "/sys/kernel/debug", "kunit")
        .context("no debugfs: the kernel needs CONFIG_KUNIT_DEBUGFS")?;
    let root = debugfs.join("kunit");
    let entries = fs::read_dir(&root).with_context(|| {
        format!(
            "no {}: the kernel needs CONFIG_KUNIT_DEBUGFS",
            root.display()
        )
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if glob(&options.suite, &name) {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("the kernel has no KUnit suite {}", options.suite);
    }
    let mut suites = Vec::new();
    for name in names {
        let suite = root.join(&name);
        fs::write(suite.join("run"), "1").with_context(|| format!("cannot run {name}"))?;
        suites.push((name, fs::read_to_string(suite.join("results"))?));
    }
    let text = ktap::join(&suites);
    fs::write(&options.ktap, &text)
        .with_context(|| format!("cannot write the results to {}", options.ktap.display()))?;
    print!("{text}");
    Ok(!ktap::failed(&text))
}

/// Whether a name matches a pattern in which `*` stands for anything and `?` for one character.
pub fn glob(pattern: &str, name: &str) -> bool {
    fn matches(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
            Some(('?', rest)) => !name.is_empty() && matches(rest, &name[1..]),
            Some((c, rest)) => name.first() == Some(c) && matches(rest, &name[1..]),
        }
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    matches(&pattern, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(glob("file_pin*", "file_pins"));
        assert!(glob("*", ""));
        assert!(glob("*.xfs.*punch", "layout.xfs.pinned_punch"));
        assert!(glob("a?c", "abc"));
        assert!(!glob("file_pin*", "rust_file_pin"));
        assert!(!glob("a?c", "ac"));
    }
}
