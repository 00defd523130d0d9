// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series lint`: holds every patch against the rules of the kernel.

use crate::cmd::setup;
use crate::env::{tools, Ctx};
use crate::error::{Failure, Kind};
use crate::kernel::series;
use crate::kernel::tree::Tree;
use crate::submit::commits::{self, Commit, Selection};
use crate::submit::finding::{table, Finding};
use crate::submit::{accepted, checkpatch, kernel_doc, maintainers, message, parallel};
use crate::ui::table::layout;
use anyhow::{Context, Result};
use clap::Args;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const EXAMPLES: &str = "\
For each patch: checkpatch.pl --strict, the kernel-doc warnings that it adds, rustfmt, and the form
of its message. For the series as a whole: whether the entry it adds to MAINTAINERS has all new
files and is that of MAINTAINERS.snippet.

What is accepted stands in patches/lint-accepted, one a line: RULE FILE REASON. FILE may be a
directory (with a slash at its end), `message`, or end in `*`. A line that nothing needs is a
finding too, when the whole series is looked at.

What a compiler says is elsewhere: `cargo xtask variants w1 sparse clang` compiles the touched files
with W=1, under sparse and with clang, and fails for what the base does not have.

Examples:
  cargo xtask series lint
  cargo xtask series lint --patch 12
  cargo xtask series lint --patch 57-72";

/// Hold every patch against the kernel's rules: checkpatch, kernel-doc, rustfmt, message, MAINTAINERS
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Only these patches
    #[arg(long, value_name = "N|RANGE")]
    patch: Option<Selection>,
}

/// Looks, and prints what it finds.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    setup::submission_tools(ctx)?;
    let tree = Tree::required(ctx)?;
    if ctx.global.dry_run {
        println!(
            "for each patch: scripts/checkpatch.pl --strict, kernel-doc -none, rustfmt --check"
        );
        return Ok(());
    }
    let all = commits::list(&tree)?;
    let chosen: Vec<&Commit> = match &opts.patch {
        Some(s) => s.of(&all)?,
        None => all.iter().collect(),
    };
    at_tip(&tree, &all)?;
    let mut findings = each(ctx, &tree.dir, &chosen)?;
    if opts.patch.is_none() {
        findings.extend(maintainers::check(&ctx.root, &tree.dir, &all, ctx.jobs())?);
    }
    let unsigned = format!("checkpatch:{}", checkpatch::SIGN_OFF);
    let before = findings.len();
    findings.retain(|f| f.rule != unsigned);
    let without = before - findings.len();

    let entries = accepted::read(&series::dir(ctx).join(accepted::FILE))?;
    let mut sorted = accepted::sort(findings, &entries);
    if opts.patch.is_none() {
        let stale = sorted.stale();
        sorted.left.extend(stale);
    }
    let rows = sorted.rows();
    if !rows.is_empty() {
        println!("accepted (patches/{}):", accepted::FILE);
        layout(&rows, 2).iter().for_each(|l| println!("{l}"));
        println!();
    }
    if without > 0 {
        println!(
            "{without} patches have no Signed-off-by: the submitter adds it \
             (cargo xtask series prep --trailer)"
        );
    }
    println!("W=1, sparse and clang: cargo xtask variants w1 sparse clang");
    if sorted.left.is_empty() {
        println!("{} patches, no findings", chosen.len());
        return Ok(());
    }
    println!();
    table(&sorted.left, &chosen)
        .iter()
        .for_each(|l| println!("{l}"));
    Err(Failure::of(
        Kind::Test,
        format!("{} findings in {} patches", sorted.left.len(), chosen.len()),
    ))
}

/// The scripts of the tree and its MAINTAINERS are used as they lie there.
fn at_tip(tree: &Tree, all: &[Commit]) -> Result<()> {
    let head = tree.git().args(["rev-parse", "HEAD^{tree}"]).output()?;
    let last = all.last().context("the series is empty")?;
    if head == last.tree {
        return Ok(());
    }
    Err(Failure::of(
        Kind::Setup,
        format!(
            "{} has something else checked out than the branch `series`\nremedy: git -C {} switch \
             series",
            tree.dir.display(),
            tree.dir.display()
        ),
    ))
}

fn each(ctx: &Ctx, linux: &Path, chosen: &[&Commit]) -> Result<Vec<Finding>> {
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let path = tools::submission_path(ctx);
    let step = ctx.ui.step(&format!("checking {} patches", chosen.len()));
    let count = AtomicUsize::new(0);
    let found = parallel::map(ctx.jobs(), chosen, |c| {
        crate::ui::signals::check()?;
        let mut out = message::check(c);
        out.extend(checkpatch::check(linux, &path, c, tmp.path())?);
        out.extend(kernel_doc::check(linux, c, tmp.path())?);
        out.extend(kernel_doc::rustfmt(linux, c, tmp.path())?);
        count.fetch_add(out.len(), Ordering::SeqCst);
        Ok(out)
    })?;
    step.done(&format!("{} remarks", count.load(Ordering::SeqCst)));
    Ok(found.into_iter().flatten().collect())
}
