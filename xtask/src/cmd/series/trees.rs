// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series matrix`: on which releases and trees the series applies and builds.

use crate::cmd::setup;
use crate::cmd::variants::{self, Place};
use crate::env::base::makefile_version;
use crate::env::Ctx;
use crate::error::{text, Failure, Kind};
use crate::kernel::profile::Profile;
use crate::kernel::series;
use crate::kernel::snapshot::{self, State};
use crate::kernel::tree::Tree;
use crate::kernel::variant::ELSEWHERE;
use crate::submit::scratch::Scratch;
use crate::ui::{signals, table};
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
For each REF: does the series go on (git am -3), and do the files it touches compile then? Without a
REF, the base. The others need no entry anywhere:

  v7.3-rc7             a tag; fetched from the repository in base.toml if need be
  ~/src/mm             a tree on this machine, as it is checked out
  ~/src/mm#mm-unstable or a branch of it
  URL#REF              fetched from there
  FILE.tar.xz          the source of a release

The work tree is in the cache; linux/ stays as it is.

Examples:
  cargo xtask series matrix
  cargo xtask series matrix v7.2.9 v7.3-rc7 v7.3.4 ~/src/mm#mm-unstable
  cargo xtask series matrix --no-build linux_7.2.9.orig.tar.xz";

/// A table: on which releases and trees the series applies, and builds
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Commits, trees, tarballs
    #[arg(value_name = "REF")]
    refs: Vec<String>,
    /// Only try whether it applies
    #[arg(long)]
    no_build: bool,
}

/// Tries them all and prints the table.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    if !opts.no_build {
        setup::ensure(ctx)?;
    }
    let tree = Tree::required(ctx)?;
    let patches = series::list(ctx)?;
    let refs = match opts.refs.is_empty() {
        true => vec![tree.base.clone()],
        false => opts.refs.clone(),
    };
    if ctx.global.dry_run {
        for r in &refs {
            println!("on {r}: git am -3 {}/*.patch", series::dir(ctx).display());
        }
        return Ok(());
    }
    let logs = ctx.logs("series-matrix")?;
    let scratch = Scratch::open(ctx, "matrix", &tree.dir, false)?;
    let mut rows = vec![["tree", "release", "applies", "builds"]
        .map(String::from)
        .to_vec()];
    let mut failed = 0;
    for (i, r) in refs.iter().enumerate() {
        let name = shown(r, &tree);
        let log = logs.join(format!("{}.log", i + 1));
        let build = (!opts.no_build).then_some(log.as_path());
        let outcome = one(ctx, &scratch, (r, &name), &patches, build);
        signals::check()?;
        let (row, good) = outcome.unwrap_or_else(|e| {
            eprintln!("{name}: {}", text(&e));
            (["?", "not to be had", "-"].map(String::from), false)
        });
        failed += usize::from(!good);
        rows.push([vec![name], row.to_vec()].concat());
    }
    println!();
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    if failed > 0 {
        return Err(Failure::of(
            Kind::Test,
            format!(
                "the series does not apply and build on {failed} of {}",
                refs.len()
            ),
        ));
    }
    Ok(())
}

fn shown(r: &str, tree: &Tree) -> String {
    match r == tree.base {
        true => "the base".into(),
        false => r.into(),
    }
}

/// Release, whether it applies, whether it builds; and whether all is well.
fn one(
    ctx: &Ctx,
    scratch: &Scratch,
    (r, name): (&str, &str),
    patches: &[PathBuf],
    build: Option<&Path>,
) -> Result<([String; 3], bool)> {
    let commit = scratch.resolve(ctx, r)?;
    for under_way in ["am", "rebase"] {
        scratch.git().args([under_way, "--abort"]).succeeds();
    }
    let step = ctx
        .ui
        .step(&format!("{name}: applying {} patches", patches.len()));
    scratch.checkout("matrix", &commit)?;
    let makefile = scratch.git().args(["show", "HEAD:Makefile"]).output()?;
    let release = makefile_version(&makefile).unwrap_or_else(|| "?".into());
    let (done, stopped) = scratch.am(patches)?;
    let applies = applies(done, patches, stopped.as_deref());
    step.done(&applies);
    if stopped.is_some() {
        return Ok(([release, applies, "-".into()], false));
    }
    let Some(log) = build else {
        return Ok(([release, applies, "not tried".into()], true));
    };
    Ok(match compile(ctx, scratch, &commit, name, log) {
        Ok(objects) => ([release, applies, format!("{objects} objects")], true),
        Err(e) => {
            signals::check()?;
            eprintln!("{name}: {}", text(&e));
            let said = format!("FAILED, see {}", log.display());
            ([release, applies, said], false)
        }
    })
}

/// In words, with the patch it stops at.
fn applies(done: usize, patches: &[PathBuf], stopped: Option<&str>) -> String {
    let Some(why) = stopped else {
        return format!("all {}", patches.len());
    };
    let name = patches.get(done).and_then(|p| p.file_name());
    let number: String = name
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    format!("{done} of {}, not {number}: {why}", patches.len())
}

fn compile(ctx: &Ctx, scratch: &Scratch, base: &str, name: &str, log: &Path) -> Result<usize> {
    let flavour = "elsewhere";
    let _lock = ctx.cache.lock_source(flavour, &ctx.ui)?;
    let touched = scratch
        .git()
        .args(["diff", "--name-only", "--diff-filter=d", base, "HEAD"])
        .output()?;
    let (src, _) = snapshot::update(ctx, &scratch.dir, &State::Commit("HEAD"), flavour)?;
    let place = Place {
        src,
        dir: ctx.cache.build(flavour),
        log: log.to_path_buf(),
    };
    let label = format!("{name}: compiling what the series touches");
    let (split, complaints) =
        variants::compile_at(ctx, &place, &ELSEWHERE, Profile::Default, &touched, &label)?;
    let warnings: Vec<&String> = complaints
        .iter()
        .filter(|c| c.contains("warning:"))
        .collect();
    for w in &warnings {
        eprintln!("{name}: {w}");
    }
    anyhow::ensure!(warnings.is_empty(), "{} warnings", warnings.len());
    Ok(split.objects.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_that_stops_it_is_named() {
        let p = ["p/0001-a.patch", "p/0002-b.patch"].map(PathBuf::from);
        assert_eq!(applies(2, &p, None), "all 2");
        assert_eq!(applies(1, &p, Some("mm/a.c")), "1 of 2, not 0002: mm/a.c");
    }
}
