// SPDX-License-Identifier: MIT OR Apache-2.0
//! `run -- COMMAND`: any command in the guest.

use super::build;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Session};
use crate::kernel::profile::Profile;
use crate::ui::proc::quote;
use anyhow::Result;
use clap::Args;
use std::ffi::OsString;
use std::time::Duration;

const EXAMPLES: &str = "\
The command runs as root on the host's files, changes to which are lost, with two pmem devices.
What it writes below $DAXPIN_OUT stays. One word is given to the shell as it is.

Examples:
  cargo xtask run -- uname -a
  cargo xtask run -- 'mkfs.xfs -f /dev/pmem0 && mount -o dax=always /dev/pmem0 /mnt && df /mnt'
  cargo xtask run --profile base -- cat /proc/version";

/// Run a command in the guest
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Stop the guest after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Boots and runs.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("run")?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let command = match &opts.command[..] {
        [one] => one.to_string_lossy().into_owned(),
        many => many.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    };
    let session = Session {
        image: &image,
        logs: &logs,
        script: format!(
            "export DAXPIN_OUT={}\n{command}",
            quote(shared(&logs).as_os_str())
        ),
        // Nobody knows how long a command of the user's may be silent.
        silence: Duration::from_secs(opts.timeout.unwrap_or(24 * 3600)),
        limit: opts.timeout.map(Duration::from_secs),
        attached: true,
    };
    let status = session.run(ctx, |_| {})?.check(&logs)?;
    if status != 0 {
        return Err(Failure::of(
            Kind::Test,
            format!("the command ended with status {status}"),
        ));
    }
    Ok(())
}
