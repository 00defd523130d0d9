// SPDX-License-Identifier: MIT OR Apache-2.0
//! kernel-doc comments and the format of Rust code, in the state of each commit.

use super::commits::Commit;
use super::finding::Finding;
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The script, which has moved from `scripts/` to `tools/docs/`.
pub fn script(linux: &Path) -> Result<PathBuf> {
    ["tools/docs/kernel-doc", "scripts/kernel-doc"]
        .iter()
        .map(|p| linux.join(p))
        .find(|p| p.exists())
        .context("the kernel tree has no kernel-doc")
}

/// The warnings that a commit adds about the files it touches.
pub fn check(linux: &Path, commit: &Commit, tmp: &Path) -> Result<Vec<Finding>> {
    let files: Vec<&str> = commit
        .files
        .iter()
        .filter(|f| f.remains() && (f.path.ends_with(".c") || f.path.ends_with(".h")))
        .map(|f| f.path.as_str())
        .collect();
    if files.is_empty() {
        return Ok(vec![]);
    }
    let script = script(linux)?;
    let warnings = |rev: &str, name: &str| -> Result<Vec<Warning>> {
        let dir = tmp.join(format!("{:04}-{name}", commit.number));
        let there: Vec<&str> = write(linux, rev, &files, &dir)?;
        if there.is_empty() {
            return Ok(vec![]);
        }
        let cmd = Cmd::new(&script).cwd(&dir).arg("-none").args(&there);
        let (status, out, err) = cmd.try_output()?;
        if err.contains("Traceback") || (!status.success() && err.trim().is_empty()) {
            bail!("`{cmd}` failed: {}", last_lines(&format!("{out}{err}"), 6));
        }
        Ok(parse(&err))
    };
    let old = warnings(&format!("{}^", commit.hash), "before")?;
    let new = warnings(&commit.hash, "after")?;
    Ok(added(&old, new)
        .into_iter()
        .map(|w| Finding::new(commit.number, "kernel-doc", &w.file, w.text).at(w.line))
        .collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Warning {
    file: String,
    line: Option<usize>,
    text: String,
}

/// `Warning: FILE:LINE TEXT`; what is not of that form is kept as it is.
fn parse(err: &str) -> Vec<Warning> {
    let said = |l: &str| {
        let (_, rest) = l.split_once(": ").filter(|(level, _)| {
            matches!(
                *level,
                "Warning" | "warning" | "Error" | "error" | "ERROR" | "WARNING"
            )
        })?;
        let (place, text) = rest.split_once(' ')?;
        let (file, line) = place.trim_end_matches(':').rsplit_once(':')?;
        Some(Warning {
            file: file.trim_start_matches("./").to_string(),
            line: Some(line.parse().ok()?),
            text: text.trim().to_string(),
        })
    };
    err.lines()
        .map(str::trim_end)
        .filter(|l| !l.is_empty() && !l.starts_with("Info:") && !l.starts_with("INFO:"))
        .filter(|l| !l.ends_with(" warnings as errors") && !l.ends_with(" warnings"))
        .filter_map(|l| match said(l) {
            Some(w) => Some(w),
            // The next line of a warning.
            None if l.starts_with(' ') => None,
            None => Some(Warning {
                file: "kernel-doc".into(),
                line: None,
                text: l.to_string(),
            }),
        })
        .collect()
}

/// The warnings in `new` that are not in `old`, wherever in the file.
fn added(old: &[Warning], new: Vec<Warning>) -> Vec<Warning> {
    let mut left: Vec<&Warning> = old.iter().collect();
    new.into_iter()
        .filter(|w| {
            let known = left
                .iter()
                .position(|o| (&o.file, &o.text) == (&w.file, &w.text));
            known.map(|i| left.swap_remove(i)).is_none()
        })
        .collect()
}

/// Writes files of a commit below `dir`; gives those that it has.
fn write<'a>(linux: &Path, rev: &str, files: &[&'a str], dir: &Path) -> Result<Vec<&'a str>> {
    let mut there = vec![];
    for file in files {
        let (status, text, _) = Cmd::git(linux)
            .args(["show", &format!("{rev}:{file}")])
            .try_output()?;
        if !status.success() {
            continue;
        }
        let path = dir.join(file);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
        there.push(*file);
    }
    Ok(there)
}

/// Rust files of a commit that rustfmt would change.
pub fn rustfmt(linux: &Path, commit: &Commit, tmp: &Path) -> Result<Vec<Finding>> {
    let files: Vec<&str> = commit
        .files
        .iter()
        .filter(|f| f.remains() && f.path.ends_with(".rs"))
        .map(|f| f.path.as_str())
        .collect();
    let dir = tmp.join(format!("{:04}-rust", commit.number));
    let mut out = vec![];
    for file in write(linux, &commit.hash, &files, &dir)? {
        // On its stdin rustfmt takes a file by itself, without the modules that it names.
        let cmd = Cmd::new("sh")
            .args([
                "-c",
                "exec rustfmt --check --config-path \"$1\" <\"$2\"",
                "sh",
            ])
            .arg(linux.join(".rustfmt.toml"))
            .arg(dir.join(file));
        let (status, text, err) = cmd.try_output()?;
        if status.success() {
            continue;
        }
        if !text.starts_with("Diff in ") {
            bail!("rustfmt cannot read {file}: {}", last_lines(&err, 4));
        }
        out.push(
            Finding::new(
                commit.number,
                "rustfmt",
                file,
                "rustfmt formats it otherwise",
            )
            .at(diff_line(&text)),
        );
    }
    Ok(out)
}

/// The line of `Diff in <stdin>:12:` (of older versions: `Diff in <stdin> at line 12:`).
fn diff_line(text: &str) -> Option<usize> {
    let first = text.lines().next()?;
    first
        .trim_end_matches(':')
        .rsplit([':', ' '])
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERR: &str = "Warning: mm/a.c:12 function parameter 'x' not described in 'f'\n\
                       Warning: ./mm/a.c:40 This comment starts with '/**'\n * Undocumented\n\
                       2 warnings as errors\n";

    #[test]
    fn warnings_are_read() {
        let w = parse(ERR);
        assert_eq!(w.len(), 2);
        assert_eq!((w[0].file.as_str(), w[0].line), ("mm/a.c", Some(12)));
        assert_eq!(w[1].file, "mm/a.c");
        let odd = parse("Cannot find file mm/b.c\n");
        assert_eq!(odd[0].text, "Cannot find file mm/b.c");
    }

    #[test]
    fn only_what_is_new_counts() {
        let old = parse("Warning: mm/a.c:99 function parameter 'x' not described in 'f'\n");
        let new = added(&old, parse(ERR));
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].line, Some(40));
    }

    #[test]
    fn the_line_that_rustfmt_names() {
        assert_eq!(diff_line("Diff in <stdin>:12:\n fn"), Some(12));
        assert_eq!(diff_line("Diff in <stdin> at line 7:\n fn"), Some(7));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn warnings_are_read_back_and_only_new_ones_count(
            warnings in vec(("(mm|fs)/[a-c]\\.[ch]", 1usize..999, "[a-z]{3,6} [a-z ]{0,9}[a-z]"), 0..5),
            shift in 0usize..50,
        ) {
            let text = |by: usize| -> String {
                let each = warnings.iter();
                each.map(|(f, n, t)| format!("Warning: {f}:{} {t}\n", n + by)).collect()
            };
            let read = parse(&text(0));
            let all = warnings.iter().map(|(f, n, t)| (f.clone(), Some(*n), t.clone()));
            prop_assert!(read.iter().map(|w| (w.file.clone(), w.line, w.text.clone())).eq(all));
            // Lines move with each patch.
            prop_assert_eq!(added(&parse(&text(shift)), read.clone()), vec![]);
            let mut more = read.clone();
            more.extend(read.first().cloned());
            prop_assert_eq!(added(&read, more).len(), usize::from(!read.is_empty()));
            prop_assert_eq!(added(&[], read.clone()), read);
        }

        #[test]
        fn noise_is_told_as_it_is(text in noise(&["Warning: ", "mm/a.c:12 ", "\n", " * x", "Info: ", " warnings", "ERROR: "])) {
            parse(&text);
            diff_line(&text);
        }
    }
}
