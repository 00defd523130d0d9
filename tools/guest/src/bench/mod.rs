// SPDX-License-Identifier: MIT OR Apache-2.0
//! `guest bench`: what everything costs on the running kernel.
//!
//! What is counted in instructions runs on a machine that counts them (see `count`), the rest, where
//! several processors are needed, on any other. `cargo xtask bench` boots both, with this kernel and with
//! the one it is compared with.

mod count;
mod files;
mod gup;
mod layouts;
mod leases;
mod listing;
mod memory;
mod processes;
mod refused;
mod regions;
mod registry;
mod sink;
mod sys;
mod transfer;

use crate::kunit::glob;
use anyhow::{ensure, Context};
use sink::Sink;
use std::path::PathBuf;

/// What to measure, and where the results go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the results go, one JSON object a line
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// Only groups of this name (`*` stands for anything); can be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The tool that starts programs under a lease
    #[arg(long, value_name = "PROGRAM", default_value = "daxpin")]
    daxpin: PathBuf,
    /// Print the names of the groups and measure nothing
    #[arg(long)]
    list: bool,
}

/// What every group gets.
pub struct Bench {
    sink: Sink,
    daxpin: PathBuf,
}

impl Bench {
    /// How late something came, in instructions.
    fn latency(
        &mut self,
        name: &str,
        variant: &str,
        x: Option<u64>,
        late: u64,
    ) -> anyhow::Result<()> {
        let unit = sink::INSTRUCTIONS;
        self.sink.value(name, variant, x, late as f64, unit)
    }
}

/// What a group needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// A machine that counts instructions.
    Counting,
    /// That, and a kernel with leases and pins.
    CountingPins,
    /// Such a kernel, and more than one processor.
    Processors,
}

type Group = (&'static str, Needs, fn(&mut Bench) -> anyhow::Result<()>);

const GROUPS: [Group; 13] = [
    ("files", Needs::Counting, files::run),
    ("layouts", Needs::Counting, layouts::run),
    ("gup", Needs::Counting, gup::run),
    ("owned", Needs::CountingPins, gup::owned),
    ("regions", Needs::CountingPins, regions::run),
    ("leases", Needs::CountingPins, leases::run),
    ("refused", Needs::CountingPins, refused::run),
    ("listing", Needs::CountingPins, listing::run),
    ("registry", Needs::CountingPins, registry::run),
    ("million", Needs::CountingPins, registry::million),
    ("job", Needs::CountingPins, transfer::job),
    ("perftest", Needs::CountingPins, transfer::perftest),
    ("processes", Needs::Processors, processes::run),
];

/// Whether this kernel has layout leases: others do not know the flag.
fn has_leases() -> anyhow::Result<bool> {
    let path = std::env::temp_dir().join("bench-probe");
    let file = std::fs::File::create(&path)?;
    let result = layout_lease::set_lease_raw(&file, libc::F_RDLCK | layout_lease::F_LAYOUT);
    std::fs::remove_file(path)?;
    Ok(result != Err(libc::EINVAL))
}

/// Measures what can be measured here.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let (counted, leases) = (count::is_counted(), has_leases()?);
    let possible = |needs| match needs {
        Needs::Counting => counted,
        Needs::CountingPins => counted && leases,
        Needs::Processors => !counted && leases,
    };
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|pattern| glob(pattern, name))
    };
    let names = GROUPS.map(|(name, ..)| name);
    for pattern in &options.only {
        ensure!(
            names.iter().any(|name| glob(pattern, name)),
            "there is no group {pattern}: {}",
            names.join(", ")
        );
    }
    let groups: Vec<&Group> = GROUPS
        .iter()
        .filter(|(name, needs, _)| possible(*needs) && wanted(name))
        .collect();
    if options.list {
        groups.iter().for_each(|(name, ..)| println!("{name}"));
        return Ok(true);
    }
    let mut bench = Bench {
        sink: Sink::create(&options.results)?,
        daxpin: options.daxpin.clone(),
    };
    let mut failed = Vec::new();
    for (name, _, run) in groups {
        println!("# {name}");
        if let Err(error) = run(&mut bench).with_context(|| (*name).to_owned()) {
            eprintln!("guest: {error:#}");
            failed.push(*name);
        }
    }
    bench.sink.finish()?;
    if !failed.is_empty() {
        eprintln!("guest: could not measure {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

#[cfg(test)]
mod unit_tests {
    #[test]
    fn groups_have_names_of_their_own() {
        let mut names: Vec<&str> = super::GROUPS.iter().map(|group| group.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::GROUPS.len());
    }
}
