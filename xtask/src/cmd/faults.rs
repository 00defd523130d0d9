// SPDX-License-Identifier: MIT OR Apache-2.0
//! `faults`: every allocation and copy that an operation makes fails once.

use super::build;
use crate::env::Ctx;
use crate::guest::session::Session;
use crate::guest::tools;
use crate::kernel::profile::Profile;
use crate::ui::proc::quote;
use anyhow::Result;
use clap::Args;
use std::time::Duration;

const EXAMPLES: &str = "\
Boots the kernel of the profile `fault`. Each operation on leases and pins is tried with its first
allocation or copy failing, then with its second, and so on until nothing is left to fail. Each try
has to end in success or an error that leaves nothing behind, and the next one has to work.

Example:
  cargo xtask faults";

/// Let every allocation of the operations on leases and pins fail
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Only this filesystem (xfs, ext4); can be given twice
    #[arg(long, value_parser = ["xfs", "ext4"])]
    fs: Vec<String>,
}

/// Builds, boots and runs.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("faults")?;
    let image = build::image(ctx, Profile::Fault, &logs)?;
    let tools = tools::build(ctx, &logs)?;
    let mut script = format!("{} faults", quote(tools.guest.as_os_str()));
    for fs in &opts.fs {
        script.push_str(&format!(" --fs {fs}"));
    }
    let session = Session {
        image: &image,
        logs: &logs,
        script,
        silence: Duration::from_secs(180),
        limit: None,
        attached: true,
    };
    session.verdict(ctx, "an operation does not survive a failure")
}
