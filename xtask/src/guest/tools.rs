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
    /// The tool for administrators.
    pub daxpin: PathBuf,
    /// The directory of the examples' programs.
    pub examples: PathBuf,
}

fn target(ctx: &Ctx) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    ctx.root.join(target.unwrap_or_else(|| "target".into()))
}

/// Where the examples are built, beside what is the workspace's own.
pub fn examples_dir(ctx: &Ctx) -> PathBuf {
    target(ctx).join("examples")
}

/// Builds them.
pub fn build(ctx: &Ctx, logs: &Path) -> Result<Tools> {
    let dir = target(ctx);
    let tools = Tools {
        guest: dir.join("release/guest"),
        daxpin: dir.join("release/daxpin"),
        examples: examples_dir(ctx),
    };
    let commands = commands(ctx, &tools);
    if ctx.global.dry_run {
        commands.iter().for_each(|cmd| println!("{cmd}"));
        return Ok(tools);
    }
    let mut step = ctx.ui.step("building the guest's programs");
    let mut log = String::new();
    for cmd in &commands {
        let (status, text) = step.run(cmd)?;
        log.push_str(&format!("{cmd}\n{text}"));
        std::fs::write(logs.join("tools.log"), &log).context("cannot write tools.log")?;
        if !status.success() {
            bail!("`{cmd}` failed\n{}", last_lines(&text, 20));
        }
    }
    step.done("");
    Ok(tools)
}

fn commands(ctx: &Ctx, tools: &Tools) -> [Cmd; 3] {
    let release = ["build", "--locked", "--release", "--color", "never"];
    let ours = Cmd::new("cargo").args(release);
    let c = Cmd::new("make")
        .args(["-s", "-C"])
        .arg(ctx.root.join("examples/c"));
    [
        ours.args(["-p", "guest", "-p", "daxpin"]).cwd(&ctx.root),
        c.arg(format!("BUILD={}", tools.examples.display())),
        Cmd::new("cargo")
            .args(release)
            .arg("--target-dir")
            .arg(&tools.examples)
            // A workspace of its own: found from its directory.
            .cwd(&ctx.root.join("examples/rust")),
    ]
}
