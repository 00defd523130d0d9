// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our tests as patches to xfstests. They are made from `fstests/` and the user's tree: their context
//! is upstream's, so they are not kept in the repository.

use super::overlay::{self, Test, GROUP, HELPER};
use super::source;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::series;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What a commit says, and the tests it adds.
struct Part {
    subject: &'static str,
    body: &'static str,
    tests: fn(&str) -> bool,
}

const HELPERS: (&str, &str) = (
    "fstests: add helpers for layout leases and file pins",
    "A process takes an exclusive layout lease on a DAX file to have its pages\n\
     pinned for long, by RDMA memory regions for instance. Add a program that\n\
     holds leases and pins, and changes files, as a test tells it; and functions\n\
     to talk to it. It pins by way of gup_test, or registered buffers of io_uring,\n\
     or memory regions of a software RDMA device, as LAYOUT_PINNER says.\n",
);

const PARTS: [Part; 4] = [
    Part {
        subject: "generic: test layout leases",
        body: "What a process can hold, what excludes what, what breaks a lease, and what an\n\
               exclusive one refuses.\n",
        tests: |name| ("generic/901"..="generic/905").contains(&name),
    },
    Part {
        subject: "generic: test long-term pins of DAX files",
        body: "Who may pin what, which changes of the layout are refused, and that what is\n\
               written to pinned pages is in the file.\n",
        tests: |name| ("generic/906"..="generic/999").contains(&name),
    },
    Part {
        subject: "xfs: test operations on two files with pinned pages",
        body: "XFS_IOC_EXCHANGE_RANGE and XFS_IOC_SWAPEXT, and what shifts and unshares\n\
               blocks on XFS.\n",
        tests: |name| name.starts_with("xfs/"),
    },
    Part {
        subject: "ext4: test operations on two files with pinned pages",
        body: "EXT4_IOC_MOVE_EXT and EXT4_IOC_SWAP_BOOT.\n",
        tests: |name| name.starts_with("ext4/"),
    },
];

/// The line for a sorted list, put where it belongs among the lines that begin as it does.
fn insert_sorted(text: &str, line: &str, among: impl Fn(&str) -> bool) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let last_before = lines.iter().rposition(|l| among(l) && *l < line);
    let at = match last_before {
        Some(n) => n + 1,
        None => lines.iter().position(|l| among(l))?,
    };
    let mut out = lines[..at].to_vec();
    out.push(line);
    out.extend(&lines[at..]);
    Some(out.join("\n") + "\n")
}

/// Adds our directory to those that `src/Makefile` goes into.
fn add_directory(makefile: &str) -> Option<String> {
    let line = makefile.lines().find(|l| l.starts_with("SUBDIRS = "))?;
    let new = line.replacen("SUBDIRS = ", &format!("SUBDIRS = {HELPER} "), 1);
    Some(makefile.replacen(line, &new, 1))
}

/// Adds our group to the documentation of groups.
fn add_group(document: &str) -> Option<String> {
    let line = format!("{GROUP}\t\tlayout leases and long-term pins of DAX files");
    insert_sorted(document, &line, |l| {
        l.starts_with(|c: char| c.is_ascii_lowercase()) && l.contains('\t')
    })
}

fn add_ignored(list: &str) -> Option<String> {
    let line = format!("/src/{HELPER}/{HELPER}");
    insert_sorted(list, &line, |l| {
        l.starts_with("/src/") && l.matches('/').count() > 2
    })
}

fn edit(file: &Path, how: fn(&str) -> Option<String>) -> Result<()> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let new = how(&text).ok_or_else(|| {
        Failure::of(
            Kind::Setup,
            format!("{} is not as it was when this was written", file.display()),
        )
    })?;
    fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
}

fn git(work: &Path) -> Cmd {
    Cmd::git(work).env("GIT_CONFIG_NOSYSTEM", "1")
}

/// A clone of the tree's HEAD that shares its objects.
fn clone(tree: &Path, work: &Path) -> Result<()> {
    let clone = Cmd::new("git")
        .args(["clone", "-q", "--shared", "--no-tags"])
        .arg(tree)
        .arg(work);
    clone.output().map(drop).map_err(|e| {
        Failure::of(
            Kind::Setup,
            format!("{} is no git repository: {e:#}", tree.display()),
        )
    })
}

fn commit(work: &Path, date: &str, subject: &str, body: &str) -> Result<()> {
    git(work).args(["add", "-A"]).output()?;
    git(work)
        .env("GIT_AUTHOR_DATE", date)
        .env("GIT_COMMITTER_DATE", date)
        .args(["commit", "-q", "--no-verify", "-m", subject, "-m", body])
        .output()?;
    Ok(())
}

fn add_helpers(ours: &Path, work: &Path) -> Result<()> {
    let to = work.join("src").join(HELPER);
    fs::create_dir_all(&to)?;
    for file in overlay::files(&ours.join("src").join(HELPER))? {
        fs::copy(&file, to.join(overlay::file_name(&file)))?;
    }
    for file in overlay::files(&ours.join("common"))? {
        fs::copy(&file, work.join("common").join(overlay::file_name(&file)))?;
    }
    edit(&work.join("src/Makefile"), add_directory)?;
    edit(&work.join("doc/group-names.txt"), add_group)?;
    edit(&work.join(".gitignore"), add_ignored)
}

fn add_test(test: &Test, work: &Path) -> Result<()> {
    let to = work.join("tests").join(&test.name);
    if to.exists() {
        return Err(Failure::of(
            Kind::Setup,
            format!("this tree of xfstests has a test {} of its own", test.name),
        ));
    }
    fs::copy(&test.path, &to)?;
    fs::copy(test.path.with_extension("out"), to.with_extension("out"))?;
    Ok(())
}

/// Writes the patches for this tree to `out`, which must be empty; gives their names.
pub fn export(ctx: &Ctx, tree: &Path, out: &Path) -> Result<Vec<String>> {
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let work = tmp.path().join("xfstests");
    clone(tree, &work)?;
    let base = git(&work).args(["rev-parse", "HEAD"]).output()?;
    // The same files give the same patches, whenever.
    let date = Cmd::git(&ctx.root)
        .args(["log", "-1", "--format=%cI", "--", "fstests"])
        .output()?;
    add_helpers(&source(ctx), &work)?;
    commit(&work, &date, HELPERS.0, HELPERS.1)?;
    let tests = overlay::tests(ctx)?;
    for part in PARTS {
        for test in tests.iter().filter(|t| (part.tests)(&t.name)) {
            add_test(test, &work)?;
        }
        commit(&work, &date, part.subject, part.body)?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    series::format(&work, &base, "HEAD", out)
}

/// Applies what `export` writes to a pristine clone with `git am`, and has xfstests' own tool read
/// the groups; gives a line on what was checked.
pub fn check(ctx: &Ctx, tree: &Path) -> Result<String> {
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (out, work) = (tmp.path().join("patches"), tmp.path().join("xfstests"));
    let names = export(ctx, tree, &out)?;
    clone(tree, &work)?;
    let patches: Vec<PathBuf> = names.iter().map(|n| out.join(n)).collect();
    git(&work)
        .args(["am", "-q", "--whitespace=error-all"])
        .args(&patches)
        .output()?;
    for dir in overlay::DIRECTORIES {
        // It complains of groups that are not documented.
        Cmd::new("../../tools/mkgroupfile")
            .cwd(&work.join("tests").join(dir))
            .output()?;
    }
    let missing: Vec<String> = overlay::tests(ctx)?
        .into_iter()
        .map(|t| t.name)
        .filter(|n| !work.join("tests").join(n).exists())
        .collect();
    if !missing.is_empty() {
        return Err(Failure::of(
            Kind::Test,
            format!("no patch adds {}", missing.join(", ")),
        ));
    }
    Ok(format!(
        "{} patches apply, and add {} tests",
        names.len(),
        overlay::tests(ctx)?.len()
    ))
}

#[cfg(test)]
mod tests_of_it {
    use super::*;

    #[test]
    fn lines_go_where_they_belong() {
        let text = "head\n\nlabel\t\tx\nlimit\t\ty\n\ntail\n";
        let new = add_group(text).unwrap();
        let lines: Vec<&str> = new.lines().collect();
        assert!(lines[3].starts_with("layoutlease\t\t") && lines[4] == "limit\t\ty");
        assert_eq!(lines.len(), text.lines().count() + 1);
        assert!(add_group("nothing\n").is_none());
        let first = insert_sorted("# x\n/src/z/z\n", "/src/a/a", |l| l.starts_with("/src/"));
        assert_eq!(first.unwrap(), "# x\n/src/a/a\n/src/z/z\n");
    }

    #[test]
    fn the_directory_is_one_of_many() {
        let new = add_directory("A = b\nSUBDIRS = log-writes perf\n").unwrap();
        assert_eq!(new, "A = b\nSUBDIRS = layout-lease log-writes perf\n");
        assert!(add_directory("A = b\n").is_none());
    }

    #[test]
    fn every_directory_has_its_patch() {
        for name in [
            "generic/901",
            "generic/906",
            "generic/924",
            "xfs/901",
            "ext4/902",
        ] {
            assert_eq!(
                PARTS.iter().filter(|p| (p.tests)(name)).count(),
                1,
                "{name}"
            );
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_sorted_list_stays_one(list in btree_set("/src/[a-z]{1,4}/[a-z]{1,4}", 1..8), new in "/src/[a-z]{1,4}/[a-z]{1,4}") {
            let lines: Vec<&str> = list.iter().map(String::as_str).collect();
            let text = format!("# x\n{}\n\ntail\n", lines.join("\n"));
            let out = insert_sorted(&text, &new, |l| l.starts_with("/src/")).unwrap();
            let ours: Vec<&str> = out.lines().filter(|l| l.starts_with("/src/")).collect();
            prop_assert!(ours.is_sorted() && ours.len() == list.len() + 1 && ours.contains(&&*new));
            prop_assert_eq!(out.replacen(&format!("{new}\n"), "", 1), text);
        }

        #[test]
        fn noise_never_panics(text in noise(&["/src/a/b\n", "SUBDIRS = ", "lock\t\tx\n", "\n"])) {
            add_group(&text);
            add_ignored(&text);
            add_directory(&text);
        }
    }
}
