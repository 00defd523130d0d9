// SPDX-License-Identifier: MIT OR Apache-2.0
//! `test`: everything that tests the project.

use super::{build, demo, series};
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::ktap;
use crate::guest::session::{shared, Outcome, Session};
use crate::guest::tools::{self, Tools};
use crate::kernel::profile::Profile;
use crate::kernel::selftests;
use crate::report::tally::Tally;
use crate::report::{junit, libtest, Case, Verdict};
use crate::ui::proc::{last_lines, quote, Cmd};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
On the host: formatting, clippy, unit tests, the series. In one boot of the guest: the kernel's own
tests (KUnit and selftests), the tests of the contract, the scenario of the demo. Nothing stops at
the first failure; the last line counts everything. On a kernel without the feature (--profile off
or base) the tests of the contract are those of a kernel that refuses what it does not know.

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
    if opts.filter.is_none() {
        host(ctx, &logs, &mut tally)?;
    }
    let booted = in_guest(ctx, opts, &logs, &mut tally);
    if let Err(e) = &booted {
        crate::ui::signals::check()?;
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

fn host_commands(ctx: &Ctx) -> [(&'static str, Cmd); 6] {
    let cargo = |args: &[&str]| Cmd::new("cargo").args(args).cwd(&ctx.root);
    let example = ctx.root.join("examples/rust");
    // Pages refer to pages that are not installed yet: that is no more than a matter of style.
    let lint = "mandoc -T lint -W warning tools/daxpin/man/*.1";
    [
        ("formatting", cargo(&["fmt", "--all", "--check"])),
        (
            "clippy",
            cargo(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--color",
                "never",
            ])
            .args(["--", "-D", "warnings"]),
        ),
        (
            "unit tests",
            cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]),
        ),
        (
            "manual pages",
            Cmd::new("sh").args(["-c", lint]).cwd(&ctx.root),
        ),
        (
            "formatting of the example",
            cargo(&["fmt", "--check"]).cwd(&example),
        ),
        (
            "clippy of the example",
            // In the profile it is built in for the guest: bindgen is compiled once.
            cargo(&["clippy", "--locked", "--release", "--color", "never"])
                .arg("--target-dir")
                .arg(tools::examples_dir(ctx))
                .args(["--", "-D", "warnings"])
                .cwd(&example),
        ),
    ]
}

fn host(ctx: &Ctx, logs: &Path, tally: &mut Tally) -> Result<()> {
    // The manual pages and the examples are checked with packages of the system.
    super::setup::ensure(ctx)?;
    for (name, cmd) in host_commands(ctx) {
        let mut step = ctx.ui.step(name);
        let (status, text) = step.run(&cmd)?;
        let log = logs.join(format!("{}.log", name.replace(' ', "-")));
        std::fs::write(&log, &text).with_context(|| format!("cannot write {}", log.display()))?;
        let mut cases = if name == "unit tests" {
            libtest::parse(&text)
        } else {
            vec![]
        };
        let failed = cases.iter().any(|c| c.verdict == Verdict::Fail);
        if cases.is_empty() || (!status.success() && !failed) {
            let verdict = if status.success() {
                Verdict::Pass
            } else {
                Verdict::Fail
            };
            let detail = match verdict {
                Verdict::Fail => last_lines(&text, 25).lines().map(str::to_string).collect(),
                _ => vec![],
            };
            cases.push(Case::new(&format!("host: {name}"), verdict, detail));
        }
        step.done(if status.success() { "" } else { "FAILED" });
        tally.add(cases);
    }
    Ok(())
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
    let session = session(opts, &image, logs, &tools, selftests.as_deref());
    let mut step = ctx.ui.step("running the tests in the guest");
    let outcome = session.run(ctx, |l| step.line(l))?;
    step.done(match &outcome.trouble {
        Some(_) => "the kernel is in trouble",
        None => "",
    });
    collect(opts, logs, &outcome, selftests.is_some(), tally);
    outcome.check(logs).map(drop)
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

fn session<'a>(
    opts: &Opts,
    image: &'a Path,
    logs: &'a Path,
    tools: &Tools,
    selftests: Option<&Path>,
) -> Session<'a> {
    let out = |name: &str| quote(shared(logs).join(name).as_os_str());
    let guest = quote(tools.guest.as_os_str());
    let filter = match &opts.filter {
        Some(f) => format!(" --filter {}", quote(f.as_ref())),
        None => String::new(),
    };
    let without = if opts.profile.has_feature() {
        ""
    } else {
        " --without-feature"
    };
    let mut script = format!(
        "{guest} test --ktap {}{filter}{without}; echo $? >{}\n",
        out("contract.ktap"),
        out("contract.status")
    );
    if let Some(dir) = selftests {
        script = format!(
            "{}; echo $? >{}\n{script}",
            selftests::script(
                dir,
                opts.profile.slowness(),
                &shared(logs).join("kselftest.tap")
            ),
            out("kselftest.status")
        );
    }
    if opts.whole() {
        script = format!(
            "{guest} kunit --ktap {} --suite 'file_pin*'; echo $? >{}\n{script}{}; echo $? >{}\n",
            out("kunit.ktap"),
            out("kunit.status"),
            demo::script(tools, logs, &[]),
            out("demo.status")
        );
    }
    Session {
        image,
        logs,
        script: format!("{script}true"),
        silence: Duration::from_secs(120) * opts.profile.slowness(),
        limit: None,
        attached: false,
    }
}

/// Reads what the guest wrote. What is missing is a failure, never silence.
fn collect(opts: &Opts, logs: &Path, outcome: &Outcome, selftests: bool, tally: &mut Tally) {
    let dir = shared(logs);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let status = |name: &str| read(name).trim().parse::<i32>().ok();
    // A part that failed must have said why: exit status and report are held against each other.
    let hold = |what: &str, status: Option<i32>, mut cases: Vec<Case>| {
        let failed = cases.iter().any(|c| c.verdict == Verdict::Fail);
        if status != Some(0) && !failed {
            let said = last_lines(&read("stderr"), 6);
            let why = match status {
                Some(s) => format!("it ended with status {s}"),
                None => "it did not come to its end".into(),
            };
            cases.push(Case::new(
                &format!("{what}: end"),
                Verdict::Fail,
                vec![why, said],
            ));
        }
        cases
    };
    if opts.whole() {
        let cases = ktap::parse(&read("kunit.ktap"), "kunit");
        tally.add(hold("kunit", status("kunit.status"), cases));
    } else if opts.filter.is_none() {
        let why = || {
            vec![format!(
                "the kernel {} has not got the feature",
                opts.profile
            )]
        };
        let skipped = ["kunit: file_pin", "demo"];
        tally.add(skipped.map(|name| Case::new(name, Verdict::Skip, why())));
    }
    if selftests {
        let cases = ktap::parse_kselftest(&read("kselftest.tap"), "kselftest");
        tally.add(hold("kselftest", status("kselftest.status"), cases));
    }
    let cases = ktap::parse(&read("contract.ktap"), "contract");
    tally.add(hold("contract", status("contract.status"), cases));
    if opts.whole() {
        tally.add(hold("demo", status("demo.status"), demo_cases(logs)));
    }
    if opts.filter.is_none() && outcome.trouble.is_none() && outcome.status.is_some() {
        tally.add([Case::new(
            "guest: console without a complaint",
            Verdict::Pass,
            vec![],
        )]);
    }
}

fn demo_cases(logs: &Path) -> Vec<Case> {
    let failure = |why: String| vec![Case::new("demo: results", Verdict::Fail, vec![why])];
    match demo::read(logs) {
        Err(e) => failure(format!("{e:#}")),
        Ok((steps, complete)) => {
            let mut cases: Vec<Case> = steps
                .iter()
                .map(|s| {
                    let name = format!("demo: {}: {}: {}", s.fs, s.group, s.step);
                    let detail = format!("expected {}, got {}", s.expected, s.got);
                    match s.ok {
                        true => Case::new(&name, Verdict::Pass, vec![]),
                        false => Case::new(&name, Verdict::Fail, vec![detail]),
                    }
                })
                .collect();
            if !complete {
                cases.extend(failure("the scenario did not come to its end".into()));
            }
            cases
        }
    }
}

fn dry_run(ctx: &Ctx, opts: &Opts, logs: &Path) -> Result<()> {
    if opts.filter.is_none() {
        host_commands(ctx).iter().for_each(|(_, c)| println!("{c}"));
    }
    let image = build::image(ctx, opts.profile, logs)?;
    let tools = tools::build(ctx, logs)?;
    let selftests = match &opts.filter {
        None => selftests::build(ctx, logs)?,
        Some(_) => None,
    };
    session(opts, &image, logs, &tools, selftests.as_deref()).run(ctx, |_| {})?;
    Ok(())
}
