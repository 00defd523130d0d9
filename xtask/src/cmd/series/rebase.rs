// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series rebase`: the series on another base.

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::series;
use crate::kernel::tree::{Tree, BRANCH};
use crate::submit::scratch::Scratch;
use anyhow::{bail, Context, Result};
use clap::Args;

const EXAMPLES: &str = "\
Done in a work tree in the cache; the tree in linux/ gets a new branch at the end, and nothing else of
it changes. When a patch does not apply, it is left there as `git am -3` leaves it: resolve it, `git
am --continue` (as often as it takes), then --continue here.

REF is a commit of the kernel tree, DIR#REF or URL#REF of another one, the tarball of a release, or a
tag (v7.3-rc7), which is fetched from the repository in base.toml if need be.

Examples:
  cargo xtask series rebase --onto v7.4-rc1
  cargo xtask series rebase --onto ~/src/mm#mm-new
  cargo xtask series rebase --continue";

/// The branch in the scratch tree.
const WORK: &str = "rebase";
/// Where the scratch tree remembers what it was asked for.
const ONTO_KEY: &str = "xtask.onto";
const FROM_KEY: &str = "xtask.from";

/// Put the series on another base, on a branch of its own
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// The new base
    #[arg(long, value_name = "REF", required_unless_present = "go_on")]
    onto: Option<String>,
    /// Take what was resolved by hand
    #[arg(long = "continue", conflicts_with = "onto")]
    go_on: bool,
}

/// Rebases, or takes the result.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let tree = Tree::required(ctx)?;
    let patches = series::list(ctx)?;
    if ctx.global.dry_run {
        println!("git am -3 {}/*.patch", series::dir(ctx).display());
        return Ok(());
    }
    let scratch = Scratch::open(ctx, "rebase", &tree.dir, opts.go_on)?;
    let (onto, from) = match &opts.onto {
        None => under_way(&scratch)?,
        Some(onto) => {
            let from = scratch.resolve(ctx, onto)?;
            let step = ctx.ui.step(&format!("checking out {onto}"));
            scratch.checkout(WORK, &from)?;
            step.done("");
            for (key, value) in [(ONTO_KEY, onto), (FROM_KEY, &from)] {
                scratch.git().args(["config", key, value]).output()?;
            }
            let step = ctx.ui.step(&format!("applying {} patches", patches.len()));
            let (done, stopped) = scratch.am(&patches)?;
            if let Some(why) = stopped {
                let patch = patches.get(done).and_then(|p| p.file_name());
                let patch = patch.unwrap_or_default().to_string_lossy().into_owned();
                return Err(Failure::of(
                    Kind::Test,
                    format!(
                        "{patch} does not apply to {onto}: {why}\nremedy: resolve it in {dir} (git \
                         add, git am --continue), then: cargo xtask series rebase --continue",
                        dir = scratch.dir.display()
                    ),
                ));
            }
            step.done("");
            (onto.clone(), from)
        }
    };
    let tip = scratch.git().args(["rev-parse", WORK]).output()?;
    let count = scratch
        .git()
        .args(["rev-list", "--count", &format!("{from}..{tip}")])
        .output()?;
    let name = format!("{BRANCH}-on-{}", branch_name(&onto));
    let dir = &tree.dir;
    // Both: the base may be from somewhere else.
    let fetch = tree
        .git()
        .args(["fetch", "-q", "--no-tags", "--update-shallow"])
        .arg(&scratch.dir)
        .arg(format!("+refs/heads/{WORK}:refs/heads/{name}"));
    ctx.exec(&fetch)
        .with_context(|| format!("bringing the result into {}", dir.display()))?;
    println!(
        "{count} of {} patches on {onto}: branch {name}",
        patches.len()
    );
    println!("what changed: cargo xtask series range-diff {BRANCH} {from}..{name}");
    Ok(())
}

/// What an earlier run was asked for, once nothing is left to resolve.
fn under_way(scratch: &Scratch) -> Result<(String, String)> {
    let get = |key: &str| scratch.git().args(["config", "--get", key]).output();
    let (Ok(onto), Ok(from)) = (get(ONTO_KEY), get(FROM_KEY)) else {
        bail!("no rebase is under way (cargo xtask series rebase --onto REF)");
    };
    if scratch.dir.join(".git/rebase-apply").exists() {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "a patch is still to be resolved in {} (git am --continue)",
                scratch.dir.display()
            ),
        ));
    }
    Ok((onto, from))
}

/// The part of a branch's name that says what it is on.
fn branch_name(onto: &str) -> String {
    let last = onto.rsplit(['#', '/']).find(|p| !p.is_empty());
    let last = last.unwrap_or(onto).trim_end_matches(".tar.xz");
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = last.chars().map(|c| if ok(c) { c } else { '-' }).collect();
    name.trim_matches(['.', '-']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_is_named_after_its_base() {
        assert_eq!(branch_name("v7.3-rc7"), "v7.3-rc7");
        assert_eq!(branch_name("https://h/mm.git#mm-new"), "mm-new");
        assert_eq!(branch_name("/srv/linux/"), "linux");
        assert_eq!(
            branch_name("/x/linux_7.2.9.orig.tar.xz"),
            "linux_7.2.9.orig"
        );
        assert_eq!(branch_name("HEAD~3"), "HEAD-3");
    }
}
