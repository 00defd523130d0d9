// SPDX-License-Identifier: MIT OR Apache-2.0
//! `clean`: removes what can be made again.

use crate::env::Ctx;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
linux/ is never removed: it may hold commits of yours.

Examples:
  cargo xtask clean
  cargo xtask clean --all --dry-run";

/// Remove logs and kernel builds; with --all the whole cache
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Downloads, the base repository, ccache and the tools as well
    #[arg(long)]
    all: bool,
}

/// Removes.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let mut gone: Vec<PathBuf> = vec![ctx.root.join("out")];
    if opts.all {
        // By name: DAXPIN_CACHE may be a directory that has other things too.
        let names = [
            "apt",
            "build",
            "built",
            "cargo",
            "ccache",
            "downloads",
            "scratch",
            "selftests",
            "src",
            "submission-venv",
            "venv",
        ];
        gone.extend(names.iter().map(|n| ctx.cache.dir.join(n)));
        for entry in std::fs::read_dir(&ctx.cache.dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = ["base-", "bindgen-", "rust-src-", "qemu-that-", ".tmp-"];
            if ours.iter().any(|p| name.starts_with(p)) || name.ends_with(".lock") {
                gone.push(entry.path());
            }
        }
    } else {
        gone.push(ctx.cache.dir.join("build"));
    }
    let _locks = if ctx.global.dry_run || !ctx.cache.dir.exists() {
        vec![]
    } else {
        ["setup", "cache", "src-series", "src-base"]
            .iter()
            .map(|l| ctx.cache.lock(l, &ctx.ui))
            .collect::<Result<Vec<_>>>()?
    };
    for path in gone.into_iter().filter(|p| p.exists()) {
        if ctx.global.dry_run {
            println!("rm -r {}", path.display());
            continue;
        }
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
        ctx.ui.note(&format!("removed {}", path.display()));
    }
    Ok(())
}
