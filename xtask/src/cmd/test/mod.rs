// SPDX-License-Identifier: MIT OR Apache-2.0
//! `test`: everything that tests the project.

mod host;
pub mod share;

use super::{build, series};
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::Outcome;
use crate::guest::tools;
use crate::kernel::profile::Profile;
use crate::kernel::selftests;
use crate::report::tally::Tally;
use crate::report::{junit, Case, Verdict};
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
On the host: formatting, clippy, unit tests, the series. In two guests at once: the kernel's own tests
(KUnit and selftests), the tests of the contract, the scenario of the demo. Nothing stops at the
first failure; the last line counts everything. On a kernel without the feature (--profile off
or base) the tests of the contract are those of a kernel that refuses what it does not know. What does
not depend on the filesystem is tested on one of them; --filter '*' tests everything on both.

Examples:
  cargo xtask test
  cargo xtask test --profile debug --junit results.xml
  cargo xtask test --filter 'lease*'";

/// Run everything that tests the project
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Write the results as JUnit XML as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Only contract tests whose name matches; leaves out the host's tests and the scenario
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,
}

impl Opts {
    /// Is all of it to be run in the guest? A kernel without the feature has no registry to test
    /// and no scenario to show.
    fn whole(&self) -> bool {
        self.filter.is_none() && self.profile.has_feature()
    }
}

/// Tests and reports.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("test")?;
    if ctx.global.dry_run {
        return dry_run(ctx, opts, &logs);
    }
    let mut tally = Tally::default();
    let checks = match &opts.filter {
        None => Some(host::begin(ctx)?),
        Some(_) => None,
    };
    let booted = in_guest(ctx, opts, &logs, &mut tally);
    crate::ui::signals::check()?;
    if let Some(checks) = checks {
        checks.finish(ctx, &logs, &mut tally)?;
    }
    if let Err(e) = &booted {
        tally.add([Case::check("guest", &Err(anyhow::anyhow!("{e:#}")))]);
    }
    if let Some(glob) = opts.filter.as_ref().filter(|_| tally.cases.is_empty()) {
        return Err(Failure::of(
            Kind::Usage,
            format!("no contract test matches {glob:?}"),
        ));
    }
    if let Some(path) = &opts.junit {
        write_atomic(
            &std::path::absolute(path)?,
            junit::render(&tally).as_bytes(),
        )?;
    }
    let failed = tally.count(Verdict::Fail);
    if failed > 0 {
        eprintln!("logs: {}", logs.display());
    }
    tally.report().iter().for_each(|l| println!("{l}"));
    // The counting line is the last; the exit code says the rest.
    let kind = match &booted {
        Err(e) => crate::error::kind(e),
        Ok(()) if failed > 0 => Kind::Test,
        Ok(()) => return Ok(()),
    };
    std::process::exit(kind as i32);
}

fn in_guest(ctx: &Ctx, opts: &Opts, logs: &Path, tally: &mut Tally) -> Result<()> {
    let image = build::image(ctx, opts.profile, logs)?;
    if opts.filter.is_none() {
        tally.add([Case::check(
            "host: series check",
            &series::check(ctx).map(drop),
        )]);
    }
    let tools = tools::build(ctx, logs)?;
    let selftests = match &opts.filter {
        None => selftests(ctx, logs, tally)?,
        Some(_) => None,
    };
    let shares = share::divide(opts, logs, selftests);
    let mut step = ctx.ui.step("running the tests in the guest");
    let outcomes = share::run(ctx, &shares, &image, &tools, |l| step.line(l));
    crate::ui::signals::check()?;
    let sound = |o: &Result<Outcome>| o.as_ref().is_ok_and(|o| o.trouble.is_none());
    step.done(match outcomes.iter().all(sound) {
        true => "",
        false => "the kernel is in trouble",
    });
    if opts.filter.is_none() && !opts.profile.has_feature() {
        let why = || format!("the kernel {} has not got the feature", opts.profile);
        let skipped = ["kunit: file_pin", "demo"];
        tally.add(skipped.map(|name| Case::new(name, Verdict::Skip, vec![why()])));
    }
    let mut result = Ok(());
    for (share, outcome) in shares.iter().zip(outcomes) {
        tally.add(share.cases());
        let ended = outcome.and_then(|o| o.check(&share.logs));
        if ended.is_ok() && opts.filter.is_none() {
            let name = "guest: console without a complaint";
            tally.add([Case::new(name, Verdict::Pass, vec![])]);
        }
        result = result.and(ended.map(drop));
    }
    result
}

/// The kernel tree's selftests. That there are none, or that they do not build, keeps nothing else
/// from being tested.
fn selftests(ctx: &Ctx, logs: &Path, tally: &mut Tally) -> Result<Option<PathBuf>> {
    let built = selftests::build(ctx, logs);
    crate::ui::signals::check()?;
    let name = "kselftest: build";
    match built {
        Ok(Some(dir)) => return Ok(Some(dir)),
        Ok(None) => {
            let why = vec!["the kernel tree has no selftests of the feature".to_string()];
            tally.add([Case::new(name, Verdict::Skip, why)]);
        }
        Err(e) => tally.add([Case::check(name, &Err(e))]),
    }
    Ok(None)
}

fn dry_run(ctx: &Ctx, opts: &Opts, logs: &Path) -> Result<()> {
    if opts.filter.is_none() {
        host::commands(ctx)
            .iter()
            .for_each(|(_, c)| println!("{c}"));
    }
    let image = build::image(ctx, opts.profile, logs)?;
    let tools = tools::build(ctx, logs)?;
    let selftests = match &opts.filter {
        None => selftests::build(ctx, logs)?,
        Some(_) => None,
    };
    for share in share::divide(opts, logs, selftests) {
        share.session(&image, &tools).run(ctx, |_| {})?;
    }
    Ok(())
}
