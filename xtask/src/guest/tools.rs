// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of ours that run in the guest, built on the host: the guest sees them at the same
//! path.

use crate::env::Ctx;
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};

/// Where they are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The scenario and the tests.
    pub guest: PathBuf,
    /// The launcher that takes a lease.
    pub daxpin: PathBuf,
}

/// Builds them.
pub fn build(ctx: &Ctx, logs: &Path) -> Result<Tools> {
    let cmd = Cmd::new("cargo")
        .args([
            "build",
            "--locked",
            "--release",
            "--color",
            "never",
            "-p",
            "guest",
            "-p",
            "daxpin",
        ])
        .cwd(&ctx.root);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let dir = ctx
        .root
        .join(target.unwrap_or_else(|| "target".into()))
        .join("release");
    let tools = Tools {
        guest: dir.join("guest"),
        daxpin: dir.join("daxpin"),
    };
    if ctx.global.dry_run {
        println!("{cmd}");
        return Ok(tools);
    }
    let mut step = ctx.ui.step("building the guest's programs");
    let (status, text) = step.run(&cmd)?;
    std::fs::write(logs.join("tools.log"), &text).context("cannot write tools.log")?;
    if !status.success() {
        bail!("`{cmd}` failed\n{}", last_lines(&text, 20));
    }
    step.done("");
    Ok(tools)
}
