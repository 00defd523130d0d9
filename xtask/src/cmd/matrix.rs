// SPDX-License-Identifier: MIT OR Apache-2.0
//! `matrix`: which test proves what, from the results of the last run.

use super::test::share;
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::tools;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Writes Documentation/matrix.md: operations by states of a file, with what the contract says and the
tests for it. Every contract test must have passed on both filesystems in the last run, so in one of
`cargo xtask test --filter '*'`.

Examples:
  cargo xtask matrix
  cargo xtask matrix --check";

/// Write Documentation/matrix.md from the results of the last test run
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Write nothing; fail if the file is not what would be written
    #[arg(long)]
    check: bool,
    /// Results of another run, as KTAP; more than once for those of several guests
    #[arg(long, value_name = "FILE")]
    ktap: Vec<PathBuf>,
}

/// Asks the guest's program, which knows the tests, and writes what it says.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let ktap = match &opts.ktap[..] {
        [] => share::contract_reports(&ctx.root.join("out").join("test")),
        given => given.to_vec(),
    };
    let document = ctx.root.join("Documentation").join("matrix.md");
    let logs = ctx.logs("matrix")?;
    let tools = tools::build(ctx, &logs)?;
    let mut cmd = Cmd::new(&tools.guest).arg("matrix");
    for file in &ktap {
        cmd = cmd.arg("--ktap").arg(file);
    }
    if ctx.global.dry_run {
        println!("{cmd} >{}", document.display());
        return Ok(());
    }
    let text = cmd.output().with_context(|| {
        format!(
            "not every contract test has passed in the last run ({})\n\
             remedy: `cargo xtask test`",
            ktap.iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        )
    })?;
    // What a command prints comes without the newline at its end.
    let text = format!("{}\n", text.trim_end());
    println!("{}", write_or_compare(&document, &text, opts.check)?);
    Ok(())
}

/// Writes a document that is made from results, unless it is the same; with `check`, that is an
/// error. Says what became of it.
pub fn write_or_compare(document: &Path, text: &str, check: bool) -> Result<String> {
    let old = std::fs::read_to_string(document).unwrap_or_default();
    if check && old != text {
        return Err(Failure::of(
            Kind::Test,
            format!(
                "{} is not what the last run gives\nremedy: write it without --check",
                document.display()
            ),
        ));
    }
    if old != text {
        write_atomic(document, text.as_bytes())?;
    }
    let state = if old == text { "as it was" } else { "written" };
    Ok(format!("{}: {state}", document.display()))
}
