// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stress`: processes that lease, pin and change files by chance, held against an oracle.

use super::build;
use crate::env::Ctx;
use crate::guest::session::{shared, Session};
use crate::guest::tools;
use crate::kernel::profile::Profile;
use crate::ui::proc::quote;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
First one step at a time: each call has to return what the contract says, and all listings have to be
right. Then everything at once. Blocks that are freed go to files whose contents are checked. In the
end nothing may be pinned, and the filesystems have to be clean. A failing script is made short, and
kept beside the logs.

Examples:
  cargo xtask stress
  cargo xtask stress --profile debug --seed 7 --ops 100000 --fs xfs
  cargo xtask stress --replay out/stress/guest/stress-xfs-7.json";

/// Lease, pin and change files by chance, held against an oracle
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Where the steps come from (default: the time)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many steps on each filesystem (default: as many as there is time for)
    #[arg(long, value_name = "N")]
    ops: Option<u64>,
    /// Only this filesystem (xfs, ext4); can be given twice
    #[arg(long, value_parser = ["xfs", "ext4"])]
    fs: Vec<String>,
    /// How long on each filesystem; a third of it is for everything at once
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    minutes: f64,
    /// Issue the steps of a script that has failed, and no others
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Do what a kernel with a bug would do, and fail: leave a device a freed block (canary), or drop
    /// pins with the lease (unpin)
    #[arg(long, value_name = "BUG", value_parser = ["canary", "unpin"])]
    disturb: Option<String>,
}

impl Opts {
    fn arguments(&self) -> Result<String> {
        let mut s = format!(" --minutes {}", self.minutes);
        if let Some(seed) = self.seed {
            s.push_str(&format!(" --seed {seed}"));
        }
        if let Some(ops) = self.ops {
            s.push_str(&format!(" --ops {ops}"));
        }
        for fs in &self.fs {
            s.push_str(&format!(" --fs {fs}"));
        }
        if let Some(path) = &self.replay {
            let path = std::path::absolute(path)
                .with_context(|| format!("cannot find {}", path.display()))?;
            s.push_str(&format!(" --replay {}", quote(path.as_os_str())));
        }
        if let Some(bug) = &self.disturb {
            s.push_str(&format!(" --disturb {bug}"));
        }
        Ok(s)
    }
}

/// Boots and runs; what the guest says goes to the terminal as it comes.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("stress")?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let tools = tools::build(ctx, &logs)?;
    let session = Session {
        image: &image,
        logs: &logs,
        script: format!(
            "{} stress --out {}{}",
            quote(tools.guest.as_os_str()),
            quote(shared(&logs).as_os_str()),
            opts.arguments()?
        ),
        // Making a failing script short is quiet, and takes its time.
        silence: Duration::from_secs(300) * opts.profile.slowness(),
        limit: None,
        attached: true,
    };
    session.verdict(ctx, "something did not turn out as the contract says")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        opts: Opts,
    }

    #[test]
    fn options_are_passed_on() {
        let parse = |words: &[&str]| Line::parse_from(words).opts.arguments().unwrap();
        assert_eq!(parse(&["stress"]), " --minutes 5");
        let all = [
            "stress",
            "--seed",
            "7",
            "--ops",
            "9",
            "--fs",
            "xfs",
            "--disturb",
            "unpin",
        ];
        assert_eq!(
            parse(&all),
            " --minutes 5 --seed 7 --ops 9 --fs xfs --disturb unpin"
        );
        let replay = parse(&["stress", "--replay", "a b"]);
        assert!(
            replay.contains(" --replay '/") && replay.ends_with("a b'"),
            "{replay}"
        );
    }
}
