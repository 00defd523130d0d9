// SPDX-License-Identifier: MIT OR Apache-2.0
//! `patches/`: the series as files. One patch a commit, made by `git format-patch`, never by hand.

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The directory with the patches.
pub fn dir(ctx: &Ctx) -> PathBuf {
    ctx.root.join("patches")
}

/// The patches in the order `patches/series` gives.
pub fn list(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    let dir = dir(ctx);
    let file = dir.join("series");
    // Without patches there need be no list; with patches and no list they are not listed.
    let text = if file.exists() {
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?
    } else {
        String::new()
    };
    let listed = parse_list(&text);
    let mut wrong: Vec<String> = vec![];
    for name in &listed {
        if !dir.join(name).exists() {
            wrong.push(format!("{name} is listed and not there"));
        }
    }
    for name in patch_files(&dir) {
        if !listed.contains(&name) {
            wrong.push(format!("{name} is there and not listed"));
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::of(
            Kind::Test,
            format!(
                "patches/series is wrong: {}\nremedy: git checkout patches/, or, when the branch \
                 `series` has them, cargo xtask series export",
                wrong.join(", ")
            ),
        ));
    }
    Ok(listed.iter().map(|n| dir.join(n)).collect())
}

/// The names in a series file: one a line, `#` begins a comment.
pub fn parse_list(text: &str) -> Vec<String> {
    text.lines()
        .map(|l| l.split('#').next().unwrap_or_default().trim())
        .filter(|l| !l.is_empty())
        .map(str::to_string)
        .collect()
}

fn patch_files(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".patch"))
        .collect()
}

/// The files a patch touches. What a hunk removes or adds may look like the head of another file.
pub fn touched(patch: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    // Lines of the hunk that are still to come, of the old file and of the new one.
    let (mut old, mut new) = (0usize, 0usize);
    for line in patch.lines() {
        if old > 0 || new > 0 {
            match line.as_bytes().first() {
                Some(b'-') => old = old.saturating_sub(1),
                Some(b'+') => new = new.saturating_sub(1),
                Some(b'\\') => {}
                _ => (old, new) = (old.saturating_sub(1), new.saturating_sub(1)),
            }
        } else if let Some(lengths) = line.strip_prefix("@@ -").and_then(hunk) {
            (old, new) = lengths;
        } else if let Some(file) = line
            .strip_prefix("+++ b/")
            .or_else(|| line.strip_prefix("--- a/"))
        {
            files.insert(file.split('\t').next().unwrap_or_default().to_string());
        }
    }
    files
}

/// How many lines of both files `1,2 +3,4 @@` speaks of.
fn hunk(ranges: &str) -> Option<(usize, usize)> {
    let mut ranges = ranges.split(' ');
    let length = |range: &str| match range.split_once(',') {
        Some((_, n)) => n.parse().ok(),
        None => Some(1),
    };
    Some((
        length(ranges.next()?)?,
        length(ranges.next()?.strip_prefix('+')?)?,
    ))
}

/// The files that any of the patches touches.
pub fn touched_by(patches: &[PathBuf]) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for p in patches {
        let text = fs::read(p).with_context(|| format!("cannot read {}", p.display()))?;
        files.extend(touched(&String::from_utf8_lossy(&text)));
    }
    Ok(files)
}

/// Refuses patches to files that differ from upstream's in this base.
pub fn refuse_patched(patches: &[PathBuf], debian_patched: &[String]) -> Result<()> {
    let mut bad = vec![];
    for p in patches {
        let text = fs::read(p).with_context(|| format!("cannot read {}", p.display()))?;
        for file in touched(&String::from_utf8_lossy(&text)) {
            if debian_patched.contains(&file) {
                let name = p.file_name().unwrap_or_default().to_string_lossy();
                bad.push(format!("{name}: {file}"));
            }
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(Failure::of(
        Kind::Test,
        format!(
            "the base at hand is Debian's patched source, and the series touches files Debian \
             changed; made on upstream's tree these patches could look different:\n  {}\n\
             remedy: leave these files alone, or `cargo xtask source --from git` for upstream's",
            bad.join("\n  ")
        ),
    ))
}

/// A repository's objects and an index of one's own: applies patches to trees without a work tree.
pub struct Bench {
    dir: tempfile::TempDir,
    objects: PathBuf,
}

impl Bench {
    /// On the objects of the repository at `repo`; what is made here is dropped again.
    pub fn new(ctx: &Ctx, repo: &Path) -> Result<Self> {
        let objects = Cmd::git(repo)
            .args(["rev-parse", "--git-path", "objects"])
            .output()?;
        let dir = ctx.cache.temp_dir()?;
        Cmd::new("git")
            .args(["init", "-q", "--bare"])
            .arg(dir.path())
            .output()?;
        Ok(Bench {
            dir,
            objects: repo.join(objects),
        })
    }

    /// `git` in here, with its own index.
    pub fn git(&self) -> Cmd {
        Cmd::git(self.dir.path())
            .env("GIT_DIR", self.dir.path())
            .env("GIT_INDEX_FILE", self.dir.path().join("index"))
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &self.objects)
    }

    /// The tree that the patches make of `base`. The error names the first patch that does not
    /// apply.
    pub fn apply(&self, base: &str, patches: &[PathBuf]) -> Result<String> {
        self.git().args(["read-tree", base]).output()?;
        if !patches.is_empty() {
            let all = self
                .git()
                .args(["apply", "--cached", "--whitespace=nowarn"])
                .args(patches);
            if all.output().is_err() {
                self.git().args(["read-tree", base]).output()?;
                for p in patches {
                    let one = self
                        .git()
                        .args(["apply", "--cached", "--whitespace=nowarn"])
                        .arg(p);
                    one.output().map_err(|e| does_not_apply(p, &e))?;
                }
            }
        }
        self.git().arg("write-tree").output()
    }
}

/// The error for a patch that does not apply.
pub fn does_not_apply(patch: &Path, cause: &anyhow::Error) -> anyhow::Error {
    let cause = cause.to_string();
    // The hints git gives are for a tree that stays in the middle of it; ours does not.
    let mut told: Vec<&str> = cause.lines().filter(|l| l.starts_with("error:")).collect();
    if told.is_empty() {
        told = cause.lines().collect();
    }
    let cause = told.join("\n");
    Failure::of(
        Kind::Setup,
        format!(
            "{} does not apply to the base\n{cause}\nremedy: if the patch was edited by hand, \
             restore it (git checkout patches/); if the base moved, rebase the branch `series` in \
             linux/ and run `cargo xtask series export`",
            patch.display()
        ),
    )
}

/// Formats the commits `base..tip` of the tree at `linux` into `out`, and the list of them.
pub fn format(linux: &Path, base: &str, tip: &str, out: &Path) -> Result<Vec<String>> {
    // What the user has configured must not show in the files.
    let cmd = Cmd::git(linux)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "diff.algorithm=myers", "-c", "diff.renames=true"])
        .args([
            "format-patch",
            "-q",
            "--numbered",
            "--zero-commit",
            "--no-signature",
        ])
        .args([
            "--no-attach",
            "--no-thread",
            "--abbrev=12",
            "--no-cover-letter",
            "--no-base",
        ])
        .args([
            "--no-notes",
            "--no-to",
            "--no-cc",
            "--no-add-header",
            "--subject-prefix=PATCH",
        ])
        .args(["--encode-email-headers", "-o"])
        .arg(out)
        .arg(format!("{base}..{tip}"));
    cmd.output()?;
    let names: Vec<String> = patch_files(out).into_iter().collect();
    let text: String = names.iter().map(|n| format!("{n}\n")).collect();
    fs::write(out.join("series"), text).context("cannot write the list of patches")?;
    Ok(names)
}

/// The differences between two directories of patches, in words.
pub fn differences(have: &Path, want: &Path) -> Result<Vec<String>> {
    let read = |dir: &Path| -> Result<BTreeMap<String, Vec<u8>>> {
        let mut names = patch_files(dir);
        names.insert("series".into());
        let mut out = BTreeMap::new();
        for n in names {
            match fs::read(dir.join(&n)) {
                Ok(bytes) => out.insert(n, bytes),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot read {n}")),
            };
        }
        Ok(out)
    };
    let (have, want) = (read(have)?, read(want)?);
    let mut out = vec![];
    for (name, bytes) in &want {
        match have.get(name) {
            None => out.push(format!("{name} is missing")),
            Some(b) if b != bytes => out.push(format!("{name} differs")),
            Some(_) => {}
        }
    }
    out.extend(
        have.keys()
            .filter(|n| !want.contains_key(*n))
            .map(|n| format!("{n} is stale")),
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_file_is_read() {
        assert_eq!(
            parse_list("# head\n0001-a.patch\n\n 0002-b.patch # why\n"),
            ["0001-a.patch", "0002-b.patch"]
        );
    }

    #[test]
    fn touched_files_include_new_and_deleted() {
        let p = "--- /dev/null\n+++ b/mm/new.rs\n@@\n--- a/fs/old.c\n+++ /dev/null\n-- \n";
        let t: Vec<_> = touched(p).into_iter().collect();
        assert_eq!(t, ["fs/old.c", "mm/new.rs"]);
    }

    #[test]
    fn what_a_patch_quotes_is_not_touched() {
        let p =
            "--- a/a.c\n+++ b/a.c\n@@ -1,2 +1 @@\n--- a/b.c\n-x\n+++ b/c.c\n--- a/d.c\n+++ b/d.c\n";
        let t: Vec<_> = touched(p).into_iter().collect();
        assert_eq!(t, ["a.c", "d.c"]);
    }

    #[test]
    fn a_patch_to_a_file_debian_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("0001-x.patch");
        fs::write(&p, "--- a/mm/memory.c\n+++ b/mm/memory.c\n").unwrap();
        refuse_patched(std::slice::from_ref(&p), &["fs/file.c".into()]).unwrap();
        let e = refuse_patched(&[p], &["mm/memory.c".into()])
            .unwrap_err()
            .to_string();
        assert!(e.contains("0001-x.patch: mm/memory.c"), "{e}");
    }

    #[test]
    fn differences_are_named() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(a.path().join("0001-a.patch"), "x").unwrap();
        fs::write(a.path().join("0009-z.patch"), "x").unwrap();
        fs::write(b.path().join("0001-a.patch"), "y").unwrap();
        fs::write(b.path().join("0002-b.patch"), "x").unwrap();
        assert_eq!(
            differences(a.path(), b.path()).unwrap(),
            [
                "0001-a.patch differs",
                "0002-b.patch is missing",
                "0009-z.patch is stale"
            ]
        );
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named_with_the_remedy() {
        let cause = anyhow::anyhow!("error: patch failed: mm/gup.c:1");
        let e = does_not_apply(Path::new("patches/0003-x.patch"), &cause).to_string();
        assert!(
            e.contains("0003-x.patch does not apply") && e.contains("remedy"),
            "{e}"
        );
        assert!(e.contains("mm/gup.c:1"), "{e}");
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    fn names() -> impl Strategy<Value = BTreeSet<String>> {
        btree_set("[0-9]{4}-[a-z-]{1,9}\\.patch", 1..6)
    }

    /// A patch to these files, with contents that look like the head of another.
    fn patch(files: &BTreeSet<String>, lines: &[String]) -> String {
        let mut out = String::from("From 0\nSubject: [PATCH] x\n\nWhy.\n---\n a | 2 +-\n\n");
        for file in files {
            out.push_str(&format!(
                "diff --git a/{file} b/{file}\nindex 1..2 100644\n--- a/{file}\n+++ b/{file}\n\
                 @@ -1,{n} +1,{n} @@ f()\n",
                n = lines.len()
            ));
            lines
                .iter()
                .for_each(|l| out.push_str(&format!("-{l}\n+{l}\n")));
        }
        out.push_str("-- \n2.47\n\n");
        out
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_list_is_read_back(
            names in names(),
            between in vec(select(&["\n", "# why\n", "   \n", ""][..]), 6),
            remark in select(&["", " # why", "  "][..]),
        ) {
            let lines = names.iter().zip(&between);
            let text: String = lines.map(|(n, b)| format!("{b}{n}{remark}\n")).collect();
            prop_assert_eq!(parse_list(&text), names.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_list_that_was_cut_off_is_refused(names in names(), at in any::<Index>()) {
            let tmp = tempfile::tempdir().unwrap();
            let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
            ctx.root = tmp.path().into();
            fs::create_dir(dir(&ctx)).unwrap();
            for name in &names {
                fs::write(dir(&ctx).join(name), "x").unwrap();
            }
            prop_assert!(list(&ctx).is_err());
            let text: Vec<&str> = names.iter().map(String::as_str).collect();
            let text = text.join("\n");
            fs::write(dir(&ctx).join("series"), cut(&text, at)).unwrap();
            prop_assert!(list(&ctx).is_err());
            fs::write(dir(&ctx).join("series"), &text).unwrap();
            prop_assert_eq!(list(&ctx).unwrap().len(), names.len());
        }

        #[test]
        fn exactly_the_files_of_a_patch_are_touched(
            files in btree_set("[a-z]{1,5}/[a-z]{1,5}\\.[ch]", 1..4),
            lines in vec(prop_oneof![
                Just("- a/other.c".to_string()),
                Just("++ b/other.c".to_string()),
                "[ -~]{0,12}",
            ], 1..5),
        ) {
            prop_assert_eq!(touched(&patch(&files, &lines)), files);
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "--- a/", "+++ b/", "@@ -1,2 +3 @@", "diff --git ", "\n", "-x\n", "+x\n", "rename to ",
        ])) {
            touched(&text);
            parse_list(&text);
        }
    }
}
