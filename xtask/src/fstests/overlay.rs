// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is laid over the user's tree of xfstests: our tests, their helper programs, and
//! the lists of groups with ours in them.

use super::source;
use crate::env::Ctx;
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The directories of `tests/` that there are tests of ours in.
pub const DIRECTORIES: [&str; 3] = ["generic", "xfs", "ext4"];
/// The group of our tests.
pub const GROUP: &str = "layoutlease";
/// The helper program, below `src/`.
pub const HELPER: &str = "layout-lease";

/// A test of ours.
#[derive(Debug)]
pub struct Test {
    /// `generic/901`
    pub name: String,
    /// The script.
    pub path: PathBuf,
    /// Its groups.
    pub groups: Vec<String>,
}

/// The groups in a test's line `_begin_fstest auto quick dax`.
pub fn groups_in(script: &str) -> Vec<String> {
    let line = script
        .lines()
        .find_map(|l| l.strip_prefix("_begin_fstest "));
    line.unwrap_or_default()
        .split_whitespace()
        .map(str::to_string)
        .collect()
}

/// Our tests, in order.
pub fn tests(ctx: &Ctx) -> Result<Vec<Test>> {
    let mut all = vec![];
    for dir in DIRECTORIES {
        let path = source(ctx).join("tests").join(dir);
        for file in files(&path)? {
            let name = format!("{dir}/{}", file_name(&file));
            if !super::result::is_test(&name) {
                continue;
            }
            let text = fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            all.push(Test {
                name,
                groups: groups_in(&text),
                path: file,
            });
        }
    }
    Ok(all)
}

/// The files of a directory, sorted.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    Ok(files)
}

/// The last part of a path, as text.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Makes the layer for `tree` in `dir`, which is replaced.
pub fn make(ctx: &Ctx, tree: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let ours = source(ctx);
    let common = dir.join("common");
    fs::create_dir_all(&common)?;
    for file in files(&ours.join("common"))? {
        fs::copy(&file, common.join(file_name(&file)))?;
    }
    build_helper(&ours, &dir.join("src").join(HELPER))?;
    let tests = tests(ctx)?;
    for name in DIRECTORIES {
        let (from, to) = (ours.join("tests").join(name), dir.join("tests").join(name));
        fs::create_dir_all(&to)?;
        for file in files(&from)? {
            fs::copy(&file, to.join(file_name(&file)))?;
        }
        let list = tree.join("tests").join(name).join("group.list");
        let mut text =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        for test in tests.iter().filter(|t| t.name.starts_with(name)) {
            let number = file_name(&test.path);
            text.push_str(&format!("{number} {}\n", test.groups.join(" ")));
        }
        fs::write(to.join("group.list"), text)?;
    }
    Ok(())
}

/// The same program as the Makefile beside it makes in a tree of xfstests.
fn build_helper(ours: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let sources: Vec<PathBuf> = files(&ours.join("src").join(HELPER))?
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "c"))
        .collect();
    let cmd = Cmd::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o"])
        .arg(dir.join(HELPER))
        .args(&sources);
    let (status, out, err) = cmd.try_output()?;
    if !status.success() {
        bail!("`{cmd}` failed\n{}", last_lines(&format!("{out}{err}"), 20));
    }
    Ok(())
}

#[cfg(test)]
mod tests_of_it {
    use super::*;

    #[test]
    fn groups_are_those_of_the_line() {
        let script = "#! /bin/bash\n. ./common/preamble\n_begin_fstest auto quick dax\n";
        assert_eq!(groups_in(script), ["auto", "quick", "dax"]);
        assert!(groups_in("echo _begin_fstest auto\n").is_empty());
    }
}
