// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is tested on the host: the style and the logic of the project's own programs.

use crate::env::cargo::{self, cargo};
use crate::env::Ctx;
use crate::fstests::lint;
use crate::report::tally::Tally;
use crate::report::{libtest, Case, Verdict};
use crate::ui::proc::{last_lines, Cmd};
use crate::ui::progress::human;
use anyhow::{bail, Context, Result};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is run, and what it is called.
pub fn commands(ctx: &Ctx) -> [(&'static str, Cmd); 6] {
    let cargo = |args: &[&str]| cargo(ctx).args(args);
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
                .args(["--", "-D", "warnings"])
                .cwd(&example),
        ),
    ]
}

/// The checks under way, beside what else the run does.
pub struct Checks(JoinHandle<Vec<Ended>>);

/// A check that came to its end, or could not be begun.
struct Ended {
    name: &'static str,
    took: Duration,
    /// Whether it succeeded, and what it said.
    outcome: Result<(bool, String)>,
}

/// Begins them all, one after another; a failure stops nothing. The guests, which take longer, leave
/// some of the machine's time, and go first.
pub fn begin(ctx: &Ctx) -> Result<Checks> {
    // The manual pages and the examples are checked with packages of the system.
    crate::cmd::setup::ensure(ctx)?;
    cargo::ready(ctx)?;
    let commands = commands(ctx);
    ctx.ui
        .note("meanwhile: formatting, clippy, unit tests, manual pages");
    // Its commands end with this thread, and that ends with xtask.
    Ok(Checks(std::thread::spawn(move || {
        commands.into_iter().map(Ended::of).collect()
    })))
}

impl Ended {
    fn of((name, cmd): (&'static str, Cmd)) -> Ended {
        let begun = Instant::now();
        let (status, text) = cmd.in_background().collected();
        Ended {
            name,
            took: begun.elapsed(),
            outcome: status.map(|status| (status.success(), text)),
        }
    }

    fn cases(&self, logs: &Path) -> Result<Vec<Case>> {
        let single = format!("host: {}", self.name);
        let (success, text) = match &self.outcome {
            Ok((success, text)) => (*success, text),
            Err(e) => {
                let why = vec![format!("{e:#}")];
                return Ok(vec![Case::new(&single, Verdict::Fail, why)]);
            }
        };
        let log = logs.join(format!("{}.log", self.name.replace(' ', "-")));
        std::fs::write(&log, text).with_context(|| format!("cannot write {}", log.display()))?;
        let mut cases = match self.name {
            "unit tests" => libtest::parse(text),
            _ => vec![],
        };
        let failed = cases.iter().any(|c| c.verdict == Verdict::Fail);
        if success && cases.is_empty() {
            cases.push(Case::new(&single, Verdict::Pass, vec![]));
        } else if !success && !failed {
            let end = last_lines(text, 25);
            let detail = end.lines().map(str::to_string).collect();
            cases.push(Case::new(&single, Verdict::Fail, detail));
        }
        Ok(cases)
    }
}

impl Checks {
    /// Waits for them and reports.
    pub fn finish(self, ctx: &Ctx, logs: &Path, tally: &mut Tally) -> Result<()> {
        let step = ctx.ui.step("waiting for the checks on the host");
        let ended = self.0.join();
        crate::ui::signals::check()?;
        step.done("");
        let Ok(ended) = ended else {
            bail!("the thread of the checks on the host has panicked");
        };
        for check in &ended {
            let failed = match &check.outcome {
                Ok((true, _)) => "",
                _ => ", FAILED",
            };
            ctx.ui
                .note(&format!("{}: {}{failed}", check.name, human(check.took)));
            tally.add(check.cases(logs)?);
        }
        // They are run by `xtask fstests`, where there is a tree of xfstests.
        tally.add(lint::cases(ctx)?);
        Ok(())
    }
}
