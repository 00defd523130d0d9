// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what is missing, and how to get it.

use crate::env::check::{self, State};
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::table;
use anyhow::Result;
use clap::Args;

/// Say what is missing and how to get it
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask doctor")]
pub struct Opts {}

/// Prints every check; fails when one of them keeps the others from working.
pub fn run(ctx: &Ctx, _: &Opts) -> Result<()> {
    let checks = check::all(ctx)?;
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|c| {
            let (mark, text) = match &c.state {
                State::Ok(t) => (console::style("✓").green(), t.clone()),
                State::Note(t) => (console::style("-").dim(), t.clone()),
                State::Missing(t, remedy, _) => (
                    console::style("✗").red(),
                    format!("{t}\n      remedy: {remedy}"),
                ),
            };
            vec![mark.to_string(), c.name.to_string(), text]
        })
        .collect();
    for line in table::layout(&rows, 0) {
        println!("{line}");
    }
    let blocking = checks.iter().filter(|c| c.blocks()).count();
    if blocking > 0 {
        return Err(Failure::of(
            Kind::Setup,
            format!("{blocking} missing, see above"),
        ));
    }
    println!("everything that must be there is there");
    Ok(())
}
