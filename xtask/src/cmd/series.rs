// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series`: the commits in the kernel tree and the files in `patches/`.

mod bisect;
mod lint;
mod prep;
mod range_diff;
mod rebase;
mod trees;

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::import::BASE_BRANCH;
use crate::kernel::series::{self, Bench};
use crate::kernel::tree::Tree;
use anyhow::{Context, Result};
use clap::Subcommand;
use std::fs;
use std::path::PathBuf;

/// Commits in the kernel tree to patches/, and checks of them
#[derive(Subcommand)]
pub enum Opts {
    /// Write the commits of the branch `series` to patches/
    #[command(after_help = "Example:\n  cargo xtask series export")]
    Export,
    /// Check that patches/ applies to the pristine base and is what export would write
    #[command(after_help = "Example:\n  cargo xtask series check")]
    Check,
    Lint(lint::Opts),
    Bisect(bisect::Opts),
    Rebase(rebase::Opts),
    Matrix(trees::Opts),
    RangeDiff(range_diff::Opts),
    Prep(prep::PrepOpts),
    Send(prep::SendOpts),
}

/// Runs the subcommand.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    match opts {
        Opts::Export => export(ctx),
        Opts::Check => {
            let outcome = check(ctx)?;
            println!("{outcome}");
            Ok(())
        }
        Opts::Lint(o) => lint::run(ctx, o),
        Opts::Bisect(o) => bisect::run(ctx, o),
        Opts::Rebase(o) => rebase::run(ctx, o),
        Opts::Matrix(o) => trees::run(ctx, o),
        Opts::RangeDiff(o) => range_diff::run(ctx, o),
        Opts::Prep(o) => prep::prep(ctx, o),
        Opts::Send(o) => prep::send(ctx, o),
    }
}

/// Replaces `patches/` as a whole, so that no stale patch stays behind.
fn export(ctx: &Ctx) -> Result<()> {
    let tree = Tree::required(ctx)?;
    let tip = tree
        .tip()
        .context("the tree has no branch `series` (cargo xtask apply)")?;
    let dir = series::dir(ctx);
    if ctx.global.dry_run {
        println!(
            "git -C {} format-patch -o {} {}..{tip}",
            tree.dir.display(),
            dir.display(),
            tree.base
        );
        return Ok(());
    }
    let tmp = tempfile::Builder::new()
        .prefix(".patches-")
        .tempdir_in(&ctx.root)?;
    let new = tmp.path().join("new");
    fs::create_dir(&new)?;
    let names = series::format(&tree.dir, &tree.base, &tip, &new)?;
    let files: Vec<PathBuf> = names.iter().map(|n| new.join(n)).collect();
    series::refuse_patched(&files, &tree.debian_patched(ctx))?;
    // What else lies in patches/ (a README, a cover letter) moves along.
    if dir.exists() {
        for entry in fs::read_dir(&dir)?.flatten() {
            let name = entry.file_name();
            let ours = name == "series" || name.to_string_lossy().ends_with(".patch");
            if !ours {
                fs::copy(entry.path(), new.join(&name))?;
            }
        }
        fs::rename(&dir, tmp.path().join("old")).context("cannot move patches/ aside")?;
    }
    fs::rename(&new, &dir).context("cannot put the new patches/ in place")?;
    println!("{} patches in {}", names.len(), dir.display());
    Ok(())
}

/// The check, also run by `test`; gives a line on what was checked.
pub fn check(ctx: &Ctx) -> Result<String> {
    let patches = series::list(ctx)?;
    let tree = Tree::find(ctx)?;
    let cached = ctx.cache.base_git(&ctx.base.base.version);
    let (repo, base) = match &tree {
        Some(t) => (t.dir.clone(), t.base.clone()),
        None if cached.exists() => (cached, BASE_BRANCH.to_string()),
        None => {
            return Err(Failure::of(
                Kind::Setup,
                "there is no base kernel to check against (cargo xtask source)",
            ))
        }
    };
    let bench = Bench::new(ctx, &repo)?;
    let result = bench.apply(&base, &patches)?;
    let Some((tree, tip)) = tree.and_then(|t| t.tip().map(|tip| (t, tip))) else {
        return Ok(format!("{} patches apply to the base", patches.len()));
    };
    series::refuse_patched(&patches, &tree.debian_patched(ctx))?;
    let have = tree
        .git()
        .args(["rev-parse", &format!("{tip}^{{tree}}")])
        .output()?;
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    series::format(&tree.dir, &tree.base, &tip, tmp.path())?;
    let mut wrong = series::differences(&series::dir(ctx), tmp.path())?;
    if patches.is_empty() && wrong == ["series is missing"] {
        wrong.clear();
    }
    if have != result {
        wrong.insert(
            0,
            format!("patches/ and {} give different trees", tree.dir.display()),
        );
    }
    if !wrong.is_empty() {
        return Err(Failure::of(
            Kind::Test,
            format!(
                "patches/ is not what the branch `series` gives: {}\n\
                 remedy: `cargo xtask series export` (or `cargo xtask apply --force`, when it is \
                 the tree that is behind)",
                wrong.join(", ")
            ),
        ));
    }
    Ok(format!(
        "{} patches apply to the base and are what export would write",
        patches.len()
    ))
}
