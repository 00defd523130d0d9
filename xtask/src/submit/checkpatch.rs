// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's `checkpatch.pl`: how it is called and what it says.

use super::commits::Commit;
use super::finding::{Finding, MESSAGE};
use crate::ui::proc::Cmd;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::Path;

/// The one complaint that is the submitter's to answer.
pub const SIGN_OFF: &str = "MISSING_SIGN_OFF";

/// Looks at one commit with the script of the tree at `linux`; `path` is `$PATH`, with a Python that
/// has what `spdxcheck.py` imports.
pub fn check(linux: &Path, path: &str, commit: &Commit, tmp: &Path) -> Result<Vec<Finding>> {
    let patch = Cmd::git(linux)
        .args(["format-patch", "--stdout", "--no-signature", "-1"])
        .arg(&commit.hash)
        .output()?;
    let file = tmp.join(format!("{:04}.patch", commit.number));
    fs::write(&file, &patch).with_context(|| format!("cannot write {}", file.display()))?;
    let (_, out, err) = Cmd::new("perl")
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .cwd(linux)
        .arg("scripts/checkpatch.pl")
        .args([
            "--strict",
            "--terse",
            "--show-types",
            "--no-summary",
            "--color=never",
        ])
        .arg(&file)
        .try_output()?;
    // It exits with 1 when it complains and when it cannot run; only the former is on stdout.
    if !err.trim().is_empty() {
        bail!(
            "checkpatch.pl cannot check {:04}: {}",
            commit.number,
            crate::ui::proc::last_lines(&err, 6)
        );
    }
    parse(commit.number, &out, &patch)
}

/// Reads the terse output, whose line numbers are those of the patch.
fn parse(number: usize, out: &str, patch: &str) -> Result<Vec<Finding>> {
    let places = places(patch);
    out.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let (n, kind, text) =
                split(line).with_context(|| format!("checkpatch.pl says {line:?}"))?;
            let (file, at) = n
                .checked_sub(1)
                .and_then(|i| places.get(i))
                .cloned()
                .unwrap_or((MESSAGE.into(), None));
            Ok(Finding::new(number, format!("checkpatch:{kind}"), &file, text).at(at))
        })
        .collect()
}

/// `FILE:LINE: LEVEL:TYPE: TEXT`.
fn split(line: &str) -> Option<(usize, &str, &str)> {
    let level = ["ERROR:", "WARNING:", "CHECK:"]
        .iter()
        .filter_map(|l| Some((line.find(&format!(": {l}"))?, l.len())))
        .min()?;
    let (head, rest) = line.split_at(level.0);
    let n = head.rsplit(':').next()?.parse().ok()?;
    let (kind, text) = rest.get(2 + level.1..)?.split_once(": ")?;
    Some((n, kind, text))
}

/// For each line of a patch, the file and the line it will be there; of the head, the line of the
/// message, counted from the subject.
fn places(patch: &str) -> Vec<(String, Option<usize>)> {
    let mut out = vec![];
    let mut file: Option<String> = None;
    let mut line = None;
    let mut subject = None;
    for (i, l) in patch.lines().enumerate() {
        if l.starts_with("diff --git ") {
            file = l.rsplit_once(" b/").map(|(_, f)| f.to_string());
            line = None;
        }
        let Some(name) = &file else {
            if subject.is_none() && l.starts_with("Subject: ") {
                subject = Some(i);
            }
            out.push((MESSAGE.into(), subject.map(|s| i - s + 1)));
            continue;
        };
        if let Some(start) = l.strip_prefix("@@ ").and_then(hunk_start) {
            out.push((name.clone(), Some(start)));
            line = Some(start);
            continue;
        }
        out.push((name.clone(), line));
        if let Some(n) = line.filter(|_| !l.starts_with('-')) {
            line = Some(n + 1);
        }
    }
    out
}

/// The first new line of `-1,2 +3,4 @@`.
fn hunk_start(rest: &str) -> Option<usize> {
    let new = rest.split_whitespace().find_map(|w| w.strip_prefix('+'))?;
    new.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "From abc\nFrom: x\nDate: y\nSubject: [PATCH] mm: add x\n\nWhy.\n---\n mm/a.c | 2 +-\n\n\
diff --git a/mm/a.c b/mm/a.c\nindex 1..2 100644\n--- a/mm/a.c\n+++ b/mm/a.c\n@@ -10,3 +20,3 @@ f()\n \
context\n-old\n+new\n more\n";

    #[test]
    fn lines_of_the_patch_are_lines_of_the_file() {
        let p = places(PATCH);
        let at = |text: &str| p[PATCH.lines().position(|l| l == text).unwrap()].clone();
        assert_eq!(
            at("Subject: [PATCH] mm: add x"),
            ("message".into(), Some(1))
        );
        assert_eq!(at("Why."), ("message".into(), Some(3)));
        assert_eq!(at("From: x"), ("message".into(), None));
        assert_eq!(at(" context"), ("mm/a.c".into(), Some(20)));
        assert_eq!(at("+new"), ("mm/a.c".into(), Some(21)));
        assert_eq!(at(" more"), ("mm/a.c".into(), Some(22)));
    }

    #[test]
    fn the_terse_output_is_read() {
        let new = PATCH.lines().position(|l| l == "+new").unwrap() + 1;
        let out = format!(
            "/t/1.patch:6: WARNING:COMMIT_LOG_LONG_LINE: Prefer: 75\n\
             /t/1.patch:{new}: CHECK:LINE_SPACING: blank line\n\
             /t/1.patch:99: ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)\n"
        );
        let f = parse(4, &out, PATCH).unwrap();
        let seen: Vec<_> = f.iter().map(|f| (f.rule.as_str(), f.place())).collect();
        assert_eq!(
            seen,
            [
                ("checkpatch:COMMIT_LOG_LONG_LINE", "message:3".to_string()),
                ("checkpatch:LINE_SPACING", "mm/a.c:21".to_string()),
                ("checkpatch:MISSING_SIGN_OFF", "message".to_string()),
            ]
        );
        assert_eq!(f[0].text, "Prefer: 75");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(parse(1, "Global symbol requires explicit package\n", PATCH).is_err());
    }
}
