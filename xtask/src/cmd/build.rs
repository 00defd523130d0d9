// SPDX-License-Identifier: MIT OR Apache-2.0
//! `build`: builds the kernel.

use super::{apply, setup};
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::make;
use crate::kernel::profile::Profile;
use crate::kernel::tree::Tree;
use anyhow::Result;
use clap::Args;
use std::fs::File;
use std::io::Read;
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
    if let Some(image) = &ctx.global.kernel {
        setup::ensure(ctx)?;
        check_image(image)?;
        return Ok(image.clone());
    }
    let tree = setup::ensure_during(ctx, || apply::ensure(ctx))?;
    let tree = tree.unwrap_or_else(|| Tree {
        // Only in a dry run before there is a tree.
        dir: ctx.linux(),
        base: "base".into(),
    });
    make::build(ctx, &tree, profile, logs)
}

/// A file that is no kernel would boot into minutes of silence.
fn check_image(path: &Path) -> Result<()> {
    let bad = |why: &str| Failure::of(Kind::Setup, format!("--kernel {}: {why}", path.display()));
    let mut header = [0; 0x206];
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut header))
        .map_err(|e| bad(&format!("cannot read it: {e}")))?;
    if &header[0x202..] != b"HdrS" {
        return Err(bad(
            "not a kernel image (a bzImage is wanted, from arch/x86/boot/)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bzImage");
        let e = |p: &Path| check_image(p).unwrap_err().to_string();
        assert!(e(&path).contains("cannot read it"));
        let mut image = vec![0; 4096];
        std::fs::write(&path, &image).unwrap();
        assert!(e(&path).contains("not a kernel image"));
        image[0x202..0x206].copy_from_slice(b"HdrS");
        std::fs::write(&path, &image).unwrap();
        check_image(&path).unwrap();
    }
}
