// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of ours that run in the guest, built on the host: the guest sees them at the same
//! path.
//!
//! A run has copies of its own: a build for another run may replace what cargo left.

use crate::env::cargo::{self, cargo, target_dir};
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

/// Builds them.
pub fn build(ctx: &Ctx, logs: &Path) -> Result<Tools> {
    let dir = logs.join("programs");
    let tools = Tools {
        guest: dir.join("guest"),
        daxpin: dir.join("daxpin"),
        examples: dir.clone(),
    };
    let commands = commands(ctx, &tools);
    if ctx.global.dry_run {
        commands.iter().for_each(|cmd| println!("{cmd}"));
        return Ok(tools);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let _lock = ctx.cache.lock("cargo", &ctx.ui)?;
    cargo::ready(ctx)?;
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
    for name in COMPILED_BY_CARGO {
        let from = target_dir(ctx).join("release").join(name);
        std::fs::copy(&from, dir.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    step.done("");
    Ok(tools)
}

const COMPILED_BY_CARGO: [&str; 3] = ["guest", "daxpin", "dax-receive-rs"];

fn commands(ctx: &Ctx, tools: &Tools) -> [Cmd; 3] {
    let release = ["build", "--locked", "--release", "--color", "never"];
    let c = Cmd::new("make").args(["-s", "-C"]);
    [
        cargo(ctx)
            .args(release)
            .args(["-p", "guest", "-p", "daxpin"]),
        c.arg(ctx.root.join("examples/c"))
            .arg(format!("BUILD={}", tools.examples.display())),
        // A workspace of its own: found from its directory.
        cargo(ctx)
            .args(release)
            .cwd(&ctx.root.join("examples/rust")),
    ]
}
