// SPDX-License-Identifier: MIT OR Apache-2.0
//! `shell`: an interactive shell in the guest.

use super::build;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::shared;
use crate::guest::vm::{Clock, Machine, Vm};
use crate::kernel::profile::Profile;
use anyhow::{Context, Result};
use clap::Args;
use std::io::IsTerminal;

const EXAMPLES: &str = "\
The guest has two pmem devices and the host's files, changes to which are lost. Ctrl-D ends it, so
does Ctrl-A x.

Examples:
  cargo xtask shell
  cargo xtask shell --profile base";

/// A shell in the guest
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Boots and hands over the terminal.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    if !ctx.global.dry_run && !std::io::stdin().is_terminal() {
        return Err(Failure::of(
            Kind::Usage,
            "shell needs a terminal; without one: cargo xtask run -- COMMAND",
        ));
    }
    let logs = ctx.logs("shell")?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let shared = shared(&logs);
    let vm = Vm {
        image: &image,
        shared: &shared,
        script: None,
        machine: Machine::SMALL,
        clock: Clock::Host,
        qemu: &[],
        options: &[],
    };
    let cmd = vm.command(ctx)?;
    if ctx.global.dry_run {
        println!("{cmd}");
        return Ok(());
    }
    std::fs::create_dir_all(&shared)
        .with_context(|| format!("cannot make {}", shared.display()))?;
    ctx.ui
        .note(&format!("files written to {} stay", shared.display()));
    cmd.interactive()?;
    Ok(())
}
