// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recovers filesystems, and holds them against the ledger: those that the machine finds when it boots, or one
//! pair after the other that the host puts on its nvdimms.

use super::device::{prepare, Small};
use super::ledger::Ledger;
use super::state::State;
use super::verify::{verify, Count};
use super::{chosen, Report};
use crate::setup::Fs;
use anyhow::{bail, Context};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The host's order to end.
const END: u64 = u64::MAX;
/// Between two looks for an order.
const TICK: Duration = Duration::from_millis(5);

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the reports go
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    fs: Vec<Fs>,
    /// Damage the filesystems before they are checked: the run has to fail
    #[arg(long)]
    damage: bool,
}

/// Does what the host orders, until it orders the end.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    prepare()?;
    let ledger = Ledger::of_the_machine()?;
    let mut out = Reports::create(&options.out)?;
    let mut last = 0;
    out.ready()?;
    loop {
        let order = ledger.order();
        if order == END {
            return Ok(true);
        }
        if order != 0 && order != last {
            look(
                &ledger,
                order,
                chosen(&options.fs),
                options.damage,
                &mut out,
            )?;
            last = order;
        }
        std::thread::sleep(TICK);
    }
}

/// Looks at what is on the nvdimms.
pub fn look(
    ledger: &Ledger,
    point: u64,
    filesystems: &[Fs],
    damage: bool,
    out: &mut Reports,
) -> anyhow::Result<()> {
    let records = ledger.read()?;
    let states = records.iter().enumerate().map(|(worker, records)| {
        let worker = u32::try_from(worker)?;
        State::new(worker, records)
    });
    let states = states.collect::<anyhow::Result<Vec<State>>>()?;
    let states = &states[..];
    std::thread::scope(|scope| {
        let threads: Vec<_> = filesystems
            .iter()
            .map(|&fs| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    (one(fs, states, damage), begun.elapsed())
                })
            })
            .collect();
        for (thread, &fs) in threads.into_iter().zip(filesystems) {
            let Ok((result, time)) = thread.join() else {
                bail!("the thread that looks at {} has panicked", fs.name());
            };
            let (count, problems) =
                result.unwrap_or_else(|error| (Count::default(), vec![format!("{error:#}")]));
            out.add(&Report {
                point,
                fs,
                count,
                problems,
                milliseconds: u64::try_from(time.as_millis())?,
            })?;
        }
        Ok(())
    })
}

fn one(fs: Fs, states: &[State], damage: bool) -> anyhow::Result<(Count, Vec<String>)> {
    let mut small = Small::on(fs)?;
    small.changed()?;
    small.mount().context("recovery")?;
    let (count, mut problems) = verify(&small.root, fs, states)?;
    small.unmount()?;
    if damage {
        small.damage()?;
    }
    if let Err(error) = small.check() {
        problems.push(format!("the filesystem is not consistent: {error:#}"));
    }
    Ok((count, problems))
}

/// Where the reports go: a JSON object a line.
pub struct Reports(File);

impl Reports {
    /// A new file.
    pub fn create(path: &Path) -> anyhow::Result<Reports> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Reports(file))
    }

    fn line(&mut self, mut line: Vec<u8>) -> anyhow::Result<()> {
        line.push(b'\n');
        Ok(self.0.write_all(&line)?)
    }

    fn add(&mut self, report: &Report) -> anyhow::Result<()> {
        self.line(serde_json::to_vec(report)?)
    }

    /// An empty line says that what was to be done first is done.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        self.line(Vec::new())
    }
}
