// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo run -p model --release`: searches all scenarios, then plants each bug.

use anyhow::{bail, Context, Result};
use clap::Parser;
use model::check;
use model::diagram;
use model::document::{self, Caught, Searched};
use model::mutation::Mutation;
use model::protocol::Protocol;
use model::scenario::Scenario;
use std::path::Path;
use std::time::Instant;

/// Search the protocol of pins and layout changes exhaustively
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo run -p model --release                 search everything
  cargo run -p model --release -- pins leases  two scenarios
  cargo run -p model --release -- --write      and write Documentation/model.md
  cargo run -p model --release -- --check      fail if Documentation/model.md is out of date")]
struct Opts {
    /// Scenarios to search; all of them, and the planted bugs, without any
    scenarios: Vec<String>,
    /// Write Documentation/model.md
    #[arg(long, conflicts_with_all = ["check", "scenarios"])]
    write: bool,
    /// Fail if Documentation/model.md is not what would be written
    #[arg(long, conflicts_with = "scenarios")]
    check: bool,
    /// How many threads search
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
}

fn main() -> Result<()> {
    let opts = Opts::parse();
    let start = Instant::now();
    let scenarios = chosen(&opts.scenarios)?;
    let mut searched = vec![];
    for scenario in scenarios {
        searched.push(search(scenario, opts.threads)?);
    }
    let total: usize = searched.iter().map(|s| s.states).sum();
    println!("{total:>10} states in {:.1?}", start.elapsed());
    if !opts.scenarios.is_empty() {
        return Ok(());
    }

    let mut caught = vec![];
    for mutation in Mutation::ALL {
        let result = check::catch(*mutation);
        let Some((property, actions)) = result.broken else {
            bail!("{mutation} breaks nothing in {} states", result.states);
        };
        println!(
            "{:>10} states {:>3} steps  {mutation} breaks {property}",
            result.states,
            actions.len()
        );
        caught.push(Caught {
            mutation: *mutation,
            property,
            actions,
        });
    }
    println!("{:.1?}", start.elapsed());

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Documentation/model.md");
    let text = document::render(&searched, &caught);
    if opts.write {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    } else if opts.check {
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        if old != text {
            bail!("Documentation/model.md is out of date: cargo run -p model --release -- --write");
        }
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let all = Scenario::all();
    if let Some(name) = names.iter().find(|n| all.iter().all(|s| s.name != **n)) {
        let known: Vec<_> = all.iter().map(|s| s.name).collect();
        bail!(
            "no scenario is called {name:?}; there are: {}",
            known.join(", ")
        );
    }
    let wanted = |s: &Scenario| names.is_empty() || names.iter().any(|n| n == s.name);
    Ok(all.into_iter().filter(wanted).collect())
}

fn search(scenario: Scenario, threads: usize) -> Result<Searched> {
    let start = Instant::now();
    let protocol = Protocol::new(scenario);
    let result = check::search(&protocol, threads);
    let scenario = protocol.scenario.clone();
    println!(
        "{:>10} states {:>3} steps  {:.1?}  {}: {}",
        result.states,
        result.depth,
        start.elapsed(),
        scenario.name,
        scenario.about
    );
    if let Some((property, actions)) = result.broken {
        eprintln!("{}", diagram::sequence(&protocol, &actions, property));
        bail!("{property} is broken: {}", property.says());
    }
    Ok(Searched {
        scenario,
        states: result.states,
        depth: result.depth,
    })
}
