// SPDX-License-Identifier: MIT OR Apache-2.0
//! `build`: builds the kernel.

use super::{apply, setup};
use crate::env::Ctx;
use crate::kernel::make;
use crate::kernel::profile::Profile;
use crate::kernel::tree::Tree;
use anyhow::{ensure, Result};
use clap::Args;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
What is in the kernel tree is built, uncommitted changes included. Progress goes to stderr; stdout
is one line, the image's absolute path.

Examples:
  cargo xtask build
  image=$(cargo xtask build --profile debug)";

/// Build the kernel; stdout is the image's path
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to build
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Builds and prints the path.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("build")?;
    let image = image(ctx, opts.profile, &logs)?;
    if !ctx.global.dry_run {
        println!("{}", image.display());
    }
    Ok(())
}

/// The image to boot: `--kernel IMAGE`, or one built now with everything that takes.
pub fn image(ctx: &Ctx, profile: Profile, logs: &Path) -> Result<PathBuf> {
    setup::ensure(ctx)?;
    if let Some(image) = &ctx.global.kernel {
        ensure!(
            image.is_file(),
            "--kernel {}: no such file",
            image.display()
        );
        return Ok(image.clone());
    }
    let tree = apply::ensure(ctx)?.unwrap_or_else(|| Tree {
        // Only in a dry run before there is a tree.
        dir: ctx.linux(),
        base: "base".into(),
    });
    make::build(ctx, &tree, profile, logs)
}
