// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series range-diff`: what changed from one version of the series to another.

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::series::{self, Bench};
use crate::kernel::tree::{rev, Tree};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
A version is a branch, tag or commit of the kernel tree (on the base of the series, or BASE..TIP), a
commit or tag of this repository (its patches/ as it was then), or a directory with patches.

Examples:
  cargo xtask series range-diff HEAD~5 series
  cargo xtask series range-diff v1 v2
  cargo xtask series range-diff ~/old/patches patches";

/// Show what changed between two versions of the series
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// The earlier version
    #[arg(value_name = "V1")]
    old: String,
    /// The later version
    #[arg(value_name = "V2", default_value = "series")]
    new: String,
    /// Only the list of patches, without the differences
    #[arg(long, short)]
    short: bool,
}

/// Prints git's range-diff.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let tree = Tree::required(ctx)?;
    let bench = Bench::new(ctx, &tree.dir)?;
    let old = range(ctx, &tree, &bench, &opts.old)?;
    let new = range(ctx, &tree, &bench, &opts.new)?;
    let mut git = bench
        .git()
        .args(["range-diff", "--creation-factor=80", "--no-color"]);
    if opts.short {
        git = git.arg("--no-patch");
    }
    let git = git.args([&old, &new]);
    if ctx.global.dry_run {
        println!("{git}");
        return Ok(());
    }
    println!("{}", git.output()?);
    Ok(())
}

/// `BASE..TIP` of a version.
fn range(ctx: &Ctx, tree: &Tree, bench: &Bench, name: &str) -> Result<String> {
    if let Some((base, tip)) = name.split_once("..") {
        let commit = |n: &str| {
            rev(&tree.dir, n).with_context(|| format!("{} has no {n}", tree.dir.display()))
        };
        return Ok(format!("{}..{}", commit(base)?, commit(tip)?));
    }
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let dir = if Path::new(name).join("series").is_file() {
        Path::new(name).to_path_buf()
    } else if let Some(tip) = named(tree, name).filter(|t| on_base(tree, t)) {
        return Ok(format!("{}..{tip}", tree.base));
    } else if archive(ctx, name, tmp.path())? {
        tmp.path().join("patches")
    } else if let Some(tip) = rev(&tree.dir, name).filter(|t| on_base(tree, t)) {
        return Ok(format!("{}..{tip}", tree.base));
    } else {
        return Err(Failure::of(
            Kind::Usage,
            format!(
                "{name} is no directory with patches, no commit of {} on its base, and no commit \
                 of {} that has patches/",
                tree.dir.display(),
                ctx.root.display()
            ),
        ));
    };
    let tip = commits(bench, &tree.base, &patches(&dir)?)
        .with_context(|| format!("making commits of the patches of {name}"))?;
    Ok(format!("{}..{tip}", tree.base))
}

/// A branch or tag of the kernel tree; anything else, such as HEAD~5, is of this repository first.
fn named(tree: &Tree, name: &str) -> Option<String> {
    ["heads", "tags"]
        .iter()
        .find_map(|kind| rev(&tree.dir, &format!("refs/{kind}/{name}")))
}

fn on_base(tree: &Tree, tip: &str) -> bool {
    let is = ["merge-base", "--is-ancestor", &tree.base, tip];
    tree.git().args(is).succeeds()
}

/// Unpacks `patches/` of a commit of this repository, if it has one.
fn archive(ctx: &Ctx, name: &str, to: &Path) -> Result<bool> {
    let Some(commit) = rev(&ctx.root, name) else {
        return Ok(false);
    };
    let tar = to.join("patches.tar");
    let made = Cmd::git(&ctx.root)
        .args(["archive", "--format=tar", "-o"])
        .arg(&tar)
        .args([&commit, "patches"])
        .succeeds();
    if made {
        let file = fs::File::open(&tar).context("git archive wrote nothing")?;
        tar::Archive::new(file)
            .unpack(to)
            .context("unpacking patches/")?;
    }
    Ok(made)
}

fn patches(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(dir.join("series"))
        .with_context(|| format!("cannot read the list of patches in {}", dir.display()))?;
    Ok(series::parse_list(&text)
        .iter()
        .map(|n| dir.join(n))
        .collect())
}

/// Commits of the patches on the base, in the bench's own objects, without a work tree.
fn commits(bench: &Bench, base: &str, patches: &[PathBuf]) -> Result<String> {
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (message, diff) = (tmp.path().join("message"), tmp.path().join("diff"));
    bench.git().args(["read-tree", base]).output()?;
    let mut tip = base.to_string();
    for patch in patches {
        let info = Cmd::new("sh")
            .args(["-c", "exec git mailinfo \"$1\" \"$2\" <\"$3\"", "sh"])
            .args([&message, &diff, patch])
            .output()?;
        let field = |name: &str| {
            let line = info.lines().find_map(|l| l.strip_prefix(name));
            line.unwrap_or_default().trim().to_string()
        };
        let body = fs::read_to_string(&message).unwrap_or_default();
        fs::write(&message, format!("{}\n\n{body}", field("Subject:")))?;
        bench
            .git()
            .args(["apply", "--cached", "--whitespace=nowarn"])
            .arg(&diff)
            .output()
            .map_err(|e| series::does_not_apply(patch, &e))?;
        let tree = bench.git().arg("write-tree").output()?;
        tip = bench
            .git()
            .env("GIT_AUTHOR_NAME", field("Author:"))
            .env("GIT_AUTHOR_EMAIL", field("Email:"))
            .env("GIT_AUTHOR_DATE", field("Date:"))
            .env("GIT_COMMITTER_NAME", "Linux base")
            .env("GIT_COMMITTER_EMAIL", "base@localhost")
            .args(["commit-tree", &tree, "-p", &tip, "-F"])
            .arg(&message)
            .output()?;
    }
    Ok(tip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::series::format;

    #[test]
    fn patches_become_the_commits_they_were_made_of() {
        let tmp = tempfile::tempdir().unwrap();
        let linux = tmp.path().join("linux");
        fs::create_dir(&linux).unwrap();
        let git = |args: &[&str]| {
            Cmd::git(&linux)
                .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
                .args(args)
                .output()
                .unwrap()
        };
        git(&["init", "-q", "-b", "base"]);
        git(&["commit", "-q", "--allow-empty", "-m", "base"]);
        git(&["checkout", "-q", "-b", "series"]);
        for (file, message) in [
            ("a.c", "mm: add a\n\nWhy: it is ä."),
            ("b.c", "mm: add b\n\nWhy."),
        ] {
            fs::write(linux.join(file), file).unwrap();
            git(&["add", "."]);
            git(&["commit", "-q", "-m", message]);
        }
        let out = tmp.path().join("p");
        fs::create_dir(&out).unwrap();
        format(&linux, "base", "series", &out).unwrap();

        let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        ctx.cache.dir = tmp.path().join("cache");
        let bench = Bench::new(&ctx, &linux).unwrap();
        let base = git(&["rev-parse", "base"]);
        let tip = commits(&bench, &base, &patches(&out).unwrap()).unwrap();
        let log = |r: &str| {
            let args = ["log", "--format=%T %an %s%n%b", r];
            bench.git().args(args).output().unwrap()
        };
        assert_eq!(log(&tip), log(&git(&["rev-parse", "series"])));
    }
}
