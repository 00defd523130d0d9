// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is tested on the host: the style and the logic of the project's own programs.

use crate::env::{cargo::cargo, Ctx};
use crate::fstests::lint;
use crate::report::tally::Tally;
use crate::report::{libtest, Case, Verdict};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{Context, Result};
use std::path::Path;

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

/// Runs it all; a failure stops nothing.
pub fn run(ctx: &Ctx, logs: &Path, tally: &mut Tally) -> Result<()> {
    // The manual pages and the examples are checked with packages of the system.
    crate::cmd::setup::ensure(ctx)?;
    for (name, cmd) in commands(ctx) {
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
    // They are run by `xtask fstests`, where there is a tree of xfstests.
    tally.add(lint::cases(ctx)?);
    Ok(())
}
