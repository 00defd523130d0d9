// SPDX-License-Identifier: MIT OR Apache-2.0
//! `demo`: the whole idea working, in one command.

use super::build;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Session};
use crate::guest::steps::{self, Step};
use crate::guest::tools::{self, Tools};
use crate::kernel::profile::Profile;
use crate::ui::proc::quote;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

const EXAMPLES: &str = "\
Does all set-up that is missing, applies the series, builds the kernel, boots it in QEMU and runs
the scenario on XFS and ext4. Everything in the table is what the guest did.

Examples:
  cargo xtask demo
  cargo xtask demo --fs xfs --json | jq '.steps[] | select(.ok | not)'";

/// The whole idea on a booted kernel, as a table
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
    /// Only this filesystem (xfs, ext4); can be given twice
    #[arg(long, value_parser = ["xfs", "ext4"])]
    fs: Vec<String>,
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

#[derive(Serialize)]
struct Report<'a> {
    kernel: String,
    steps: &'a [Step],
    ok: bool,
}

/// Builds, boots, runs and prints.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("demo")?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let tools = tools::build(ctx, &logs)?;
    let script = format!(
        "uname -r >{}\n{}",
        quote(shared(&logs).join("release").as_os_str()),
        script(&tools, &logs, &opts.fs)
    );
    let session = Session {
        image: &image,
        logs: &logs,
        script,
        silence: Duration::from_secs(120) * opts.profile.slowness(),
        limit: None,
        attached: false,
    };
    let step = (!ctx.global.dry_run).then(|| ctx.ui.step("running the scenario in the guest"));
    let mut step = step;
    let outcome = session.run(ctx, |line| {
        if let Some(s) = &mut step {
            s.line(line);
        }
    })?;
    if ctx.global.dry_run {
        return Ok(());
    }
    let status = outcome.check(&logs)?;
    let (steps, complete) = read(&logs)?;
    if let Some(s) = step {
        s.done(&format!("{} steps", steps.len()));
    }
    let ok = status == 0 && complete && !steps.is_empty() && steps.iter().all(|s| s.ok);
    let release = std::fs::read_to_string(shared(&logs).join("release")).unwrap_or_default();
    if opts.json {
        let report = Report {
            kernel: release.trim().into(),
            steps: &steps,
            ok,
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\nLinux {}", release.trim());
        steps::table(&steps).iter().for_each(|l| println!("{l}"));
        let good = steps.iter().filter(|s| s.ok).count();
        println!("\n{good} of {} steps as the contract says", steps.len());
    }
    verdict(ok, status, complete, &steps, &logs)
}

/// The command line of the scenario in the guest.
pub fn script(tools: &Tools, logs: &Path, fs: &[String]) -> String {
    let word = |p: &Path| quote(p.as_os_str());
    let mut s = format!(
        "{} demo --results {} --daxpin {}",
        word(&tools.guest),
        word(&results(logs)),
        word(&tools.daxpin)
    );
    for f in fs {
        s.push_str(&format!(" --fs {f}"));
    }
    s
}

fn results(logs: &Path) -> std::path::PathBuf {
    shared(logs).join("steps.jsonl")
}

/// The steps the guest wrote, and whether it came to their end.
pub fn read(logs: &Path) -> Result<(Vec<Step>, bool)> {
    let path = results(logs);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("the guest wrote no results: {}", path.display()))?;
    steps::parse(&text)
}

fn verdict(ok: bool, status: i32, complete: bool, steps: &[Step], logs: &Path) -> Result<()> {
    if ok {
        return Ok(());
    }
    let bad = steps.iter().filter(|s| !s.ok).count();
    let said = std::fs::read_to_string(shared(logs).join("stderr")).unwrap_or_default();
    let said = crate::ui::proc::last_lines(&said, 6);
    let what = if bad > 0 {
        format!(
            "{bad} of {} steps are not as the contract says",
            steps.len()
        )
    } else if !complete {
        format!(
            "the scenario stopped after {} steps (status {status})",
            steps.len()
        )
    } else {
        format!("the scenario ended with status {status}")
    };
    Err(Failure::of(
        Kind::Test,
        if said.is_empty() {
            what
        } else {
            format!("{what}\n{said}")
        },
    ))
}
