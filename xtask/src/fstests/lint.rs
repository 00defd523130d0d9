// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said of our tests without a tree of xfstests: they are complete, their groups exist,
//! and shellcheck finds nothing wrong.

use super::config::ALL;
use super::overlay::{self, Test, GROUP};
use super::source;
use crate::env::Ctx;
use crate::report::{Case, Verdict};
use crate::ui::proc::Cmd;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The groups of xfstests that our tests are in, besides the one they add.
const GROUPS: [&str; 31] = [
    "auto",
    "clone",
    "collapse",
    "copy_range",
    "dax",
    "dedupe",
    "defrag",
    "fiexchange",
    "fsr",
    "insert",
    "io_uring",
    "ioctl",
    "locks",
    "log",
    "mmap",
    "mount",
    "perms",
    "prealloc",
    "punch",
    "quick",
    "recoveryloop",
    "rename",
    "replay",
    "rw",
    "shutdown",
    "stress",
    "swapext",
    "unlink",
    "unshare",
    "zero",
    GROUP,
];

/// What does not apply to scripts that are sourced, or that others source: variables that come from
/// elsewhere, files that are not there, words that are to be split, and traps by name.
const SHELLCHECK: &str =
    "--exclude=SC1090,SC1091,SC2034,SC2046,SC2048,SC2086,SC2120,SC2154,SC2164,SC2068,SC2206,SC2317";

/// The checks, one case each.
pub fn cases(ctx: &Ctx) -> Result<Vec<Case>> {
    let tests = overlay::tests(ctx)?;
    let mut cases: Vec<Case> = tests.iter().map(|t| case(&t.name, problems(t))).collect();
    for config in ALL {
        let wrong = config.excluded(ctx).err().map(|e| format!("{e:#}"));
        cases.push(case(
            &format!("exclude list of {config}"),
            wrong.into_iter().collect(),
        ));
    }
    cases.push(case("shellcheck", shellcheck(ctx, &tests)?));
    Ok(cases)
}

fn case(name: &str, wrong: Vec<String>) -> Case {
    let verdict = if wrong.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    Case::new(&format!("fstests: {name}"), verdict, wrong)
}

fn problems(test: &Test) -> Vec<String> {
    let number = overlay::file_name(&test.path);
    let script = fs::read_to_string(&test.path).unwrap_or_default();
    let golden = fs::read_to_string(test.path.with_extension("out")).ok();
    let mode = fs::metadata(&test.path).map_or(0, |m| m.permissions().mode());
    let mut wrong = faults(&number, &script, golden.as_deref(), &test.groups);
    if mode & 0o111 == 0 {
        wrong.push("it is not executable".into());
    }
    wrong
}

fn faults(number: &str, script: &str, golden: Option<&str>, groups: &[String]) -> Vec<String> {
    let mut wrong = vec![];
    let mut lines = script.lines();
    if lines.next() != Some("#! /bin/bash") {
        wrong.push("the first line is not `#! /bin/bash`".to_string());
    }
    if !lines
        .next()
        .is_some_and(|l| l.starts_with("# SPDX-License-Identifier: GPL-2.0"))
    {
        wrong.push("the second line is no SPDX line".to_string());
    }
    if !script.contains(&format!("# FS QA Test No. {number}\n")) {
        wrong.push(format!("it does not say that it is test {number}"));
    }
    if !script.contains("_require_layout_leases\n") {
        wrong.push("it does not skip where there are no layout leases".to_string());
    }
    match golden {
        None => wrong.push("there is no golden output".to_string()),
        Some(g) if g.lines().next() != Some(&format!("QA output created by {number}")) => {
            wrong.push("the golden output is that of another test".to_string());
        }
        Some(g) if g.lines().count() < 2 => wrong.push("the golden output is empty".to_string()),
        Some(_) => {}
    }
    for group in groups {
        if !GROUPS.contains(&group.as_str()) {
            wrong.push(format!("there is no group {group}"));
        }
    }
    for group in ["auto", "dax", GROUP] {
        if !groups.iter().any(|g| g == group) {
            wrong.push(format!("it is not in group {group}"));
        }
    }
    wrong
}

fn shellcheck(ctx: &Ctx, tests: &[Test]) -> Result<Vec<String>> {
    let cmd = Cmd::new("shellcheck")
        .args([
            "--shell=bash",
            "--severity=warning",
            "--format=gcc",
            SHELLCHECK,
        ])
        .args(tests.iter().map(|t| &t.path))
        .args(overlay::files(&source(ctx).join("common"))?);
    let (status, out, err) = cmd.try_output()?;
    if status.success() {
        return Ok(vec![]);
    }
    Ok(out.lines().chain(err.lines()).map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "#! /bin/bash\n# SPDX-License-Identifier: GPL-2.0-only\n#\n\
        # FS QA Test No. 901\n_begin_fstest auto dax layoutlease\n_require_layout_leases\n";

    #[test]
    fn a_complete_test_has_no_faults() {
        let groups = overlay::groups_in(SCRIPT);
        let golden = Some("QA output created by 901\nx\n");
        assert!(faults("901", SCRIPT, golden, &groups).is_empty());
        assert_eq!(faults("902", SCRIPT, golden, &groups).len(), 2);
        assert_eq!(faults("901", SCRIPT, None, &groups).len(), 1);
        let groups = ["auto".to_string(), "daxx".to_string()];
        assert_eq!(faults("901", SCRIPT, golden, &groups).len(), 3);
    }
}
