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
        // What says that a file does not end in a line is in neither file.
        if let Some(n) = line.filter(|_| !l.starts_with(['-', '\\'])) {
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
    fn the_end_of_a_file_without_newline_is_no_line() {
        let patch = "diff --git a/a.c b/a.c\n@@ -1 +1 @@\n-x\n\\ No newline at end of file\n+y\n";
        assert_eq!(places(patch)[4], ("a.c".into(), Some(1)));
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

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Hunks: where they begin in the new file, and their lines.
    fn hunks() -> impl Strategy<Value = Vec<(usize, Vec<(char, String)>)>> {
        let line = (prop::sample::select(&['+', '-', ' '][..]), "[ -~]{0,9}");
        vec((1usize..900, vec(line, 1..8)), 1..4)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn each_line_that_is_added_is_where_it_will_be(hunks in hunks(), ended in any::<bool>(), why in vec("[ -~]{0,9}", 0..4)) {
            let mut patch = String::from("From 0\nDate: x\nSubject: [PATCH] x\n\n");
            // The message is counted from its subject, whatever it says.
            why.iter().for_each(|l| patch.push_str(&format!(" {l}\n")));
            patch.push_str("---\n a.c | 2 +-\n\ndiff --git a/d/a.c b/d/a.c\n--- a/d/a.c\n+++ b/d/a.c\n");
            let mut want = vec![];
            for (start, lines) in &hunks {
                patch.push_str(&format!("@@ -1,9 +{start},9 @@ f()\n"));
                let mut at = *start;
                for (sign, text) in lines {
                    if *sign != '-' {
                        want.push((patch.lines().count(), at));
                        at += 1;
                    }
                    patch.push_str(&format!("{sign}{text}\n"));
                    if *sign == '-' && !ended {
                        patch.push_str("\\ No newline at end of file\n");
                    }
                }
            }
            let places = places(&patch);
            prop_assert_eq!(places.len(), patch.lines().count());
            for (line, at) in want {
                prop_assert_eq!(&places[line], &("d/a.c".to_string(), Some(at)));
            }
            for n in 0..why.len() {
                prop_assert_eq!(&places[4 + n], &(MESSAGE.to_string(), Some(3 + n)));
            }
        }

        #[test]
        fn noise_never_panics(
            out in noise(&["/t/1.patch:", ": WARNING:", "LINE: ", ": CHECK:", "ERROR:", "\n"]),
            patch in noise(&["diff --git a/x b/y", "@@ -1 +2 @@\n", "+x\n", "-y\n", "Subject: ", "\\ No\n", "\n"]),
        ) {
            if let Ok(found) = parse(1, &out, &patch) {
                prop_assert_eq!(found.len(), out.lines().filter(|l| !l.trim().is_empty()).count());
            }
        }
    }
}
