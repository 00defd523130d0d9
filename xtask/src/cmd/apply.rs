// SPDX-License-Identifier: MIT OR Apache-2.0
//! `apply`: puts the series on the kernel tree.

use super::source;
use crate::env::cache::Lock;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::series;
use crate::kernel::switch;
use crate::kernel::tree::{Status, Tree, BRANCH};
use anyhow::Result;
use clap::Args;

const EXAMPLES: &str = "\
The patches go onto the branch `series`, made from the base commit with `git am -3`. Commits and
changes of yours are never discarded: with commits on `series` that patches/ does not have, apply
stops, and --force keeps them on a branch `series-before-...`.

Examples:
  cargo xtask apply
  cargo xtask --linux ~/src/linux apply";

/// Put the series onto the kernel tree
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Apply anew although `series` has other commits; they are kept on a backup branch
    #[arg(long)]
    force: bool,
}

/// Applies, or says why not.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    source::ensure(ctx)?;
    let tree = match Tree::find(ctx)? {
        None => {
            println!("git am -3 {}/*.patch", series::dir(ctx).display());
            return Ok(());
        }
        Some(t) => t,
    };
    let patches = series::list(ctx)?;
    let _lock = lock(ctx, &tree)?;
    let (status, _) = tree.status(ctx, &patches)?;
    if status == Status::Applied {
        return Ok(());
    }
    if status == Status::OwnCommits && !opts.force {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "the branch {BRANCH} in {} has commits that patches/ does not have\n\
                 to keep them as patches:  cargo xtask series export\n\
                 to start over from patches/ (they stay on a backup branch):  \
                 cargo xtask apply --force",
                tree.dir.display()
            ),
        ));
    }
    put(ctx, &tree, &patches)
}

/// Another run may be applying the series to the same tree, or what one that was killed has left.
fn lock(ctx: &Ctx, tree: &Tree) -> Result<Option<Lock>> {
    if ctx.global.dry_run {
        return Ok(None);
    }
    let lock = ctx.cache.lock_tree(&tree.dir, &ctx.ui)?;
    if switch::undo_unfinished(ctx, tree)? {
        ctx.ui
            .note("took back a switch to the series that was killed in the middle");
    }
    Ok(Some(lock))
}

fn put(ctx: &Ctx, tree: &Tree, patches: &[std::path::PathBuf]) -> Result<()> {
    if ctx.global.dry_run {
        return tree.apply(ctx, patches);
    }
    let step = ctx.ui.step(&format!("applying {} patches", patches.len()));
    tree.apply(ctx, patches)?;
    step.done("");
    Ok(())
}

/// For the commands that build: source and series are there afterwards; commits of the user's own
/// are built as they are.
pub fn ensure(ctx: &Ctx) -> Result<Option<Tree>> {
    source::ensure(ctx)?;
    let Some(tree) = Tree::find(ctx)? else {
        println!("git am -3 {}/*.patch", series::dir(ctx).display());
        return Ok(None);
    };
    let patches = series::list(ctx)?;
    let _lock = lock(ctx, &tree)?;
    match tree.status(ctx, &patches)?.0 {
        Status::Applied => {}
        Status::OwnCommits => ctx.ui.note(&format!(
            "note: {} is not what patches/ gives; using the tree as it is \
             (`cargo xtask series export` writes its commits out)",
            tree.dir.display()
        )),
        Status::Pristine if tree.tip().is_some() && patches.is_empty() => {}
        Status::Pristine | Status::Outdated => put(ctx, &tree, &patches)?,
    }
    Ok(Some(tree))
}
