// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rounds of work on new filesystems. A round ends when the ledger is full.

use super::check::{look, Reports};
use super::device::{prepare, Small};
use super::ledger::{Ledger, Record};
use super::transfer::{Device, Remote, Ring};
use super::worker::{Done, Worker};
use super::{chosen, pinned, plain};
use crate::setup::{Fs, Rdma};
use anyhow::{bail, Context};
use fastrand::Rng;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Workers on each filesystem whose files nobody pins.
const PLAIN: usize = 2;
/// How far it is, this often.
const PROGRESS: Duration = Duration::from_secs(3);
/// Without any progress for this long, something hangs.
const HUNG: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where what is done comes from
    #[arg(long)]
    seed: u64,
    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    fs: Vec<Fs>,
    /// First recover what is there, and look at it, as after this power loss
    #[arg(long, value_name = "N")]
    recover: Option<u64>,
    /// Then end
    #[arg(long)]
    only: bool,
    /// Damage the filesystems before they are checked: the run has to fail
    #[arg(long)]
    damage: bool,
    /// Acknowledge what was not synced: the run has to fail
    #[arg(long)]
    no_fsync: bool,
}

/// Works until the machine is ended.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    prepare()?;
    let ledger = Ledger::of_the_machine()?;
    let filesystems = chosen(&options.fs);
    let mut out = Reports::create(&options.out)?;
    if let Some(point) = options.recover {
        look(&ledger, point, filesystems, options.damage, &mut out)?;
    }
    // What was there before counts no more, and the host can tell when the first round begins.
    ledger.clear(0)?;
    out.ready()?;
    if options.only {
        return Ok(true);
    }
    let rdma = Rdma::ready()?;
    let mut hands: Vec<Hand> = Vec::new();
    let mut remotes = Vec::new();
    for &fs in filesystems {
        hands.extend((0..PLAIN).map(|_| (fs, None)));
        hands.push((fs, Some(Box::new(Ring::new()?))));
        remotes.push((fs, Remote::new(&rdma, fs)?));
    }
    for (fs, mut remote) in remotes {
        remote.prepare()?;
        hands.push((fs, Some(Box::new(remote))));
    }
    let work = Work {
        ledger: &ledger,
        filesystems,
        seed: options.seed,
        honest: !options.no_fsync,
        done: Done::default(),
    };
    for round in 1.. {
        if let Err(error) = work.round(round, &mut hands) {
            println!("FAILED: round {round}, seed {}: {error:#}", options.seed);
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whom a worker works for: the filesystem, and what it pins files with, if it does.
type Hand = (Fs, Option<Box<dyn Device>>);

struct Work<'a> {
    ledger: &'a Ledger,
    filesystems: &'a [Fs],
    seed: u64,
    honest: bool,
    done: Done,
}

impl Work<'_> {
    fn round(&self, round: u64, hands: &mut [Hand]) -> anyhow::Result<()> {
        self.ledger.clear(hands.len())?;
        let mut mounted = Vec::new();
        for &fs in self.filesystems {
            let mut small = Small::on(fs)?;
            small.make()?;
            small.mount()?;
            mounted.push(small);
        }
        let root = |fs: Fs| mounted.iter().find(|small| small.fs == fs);
        let mut workers = Vec::new();
        for (number, (fs, device)) in hands.iter_mut().enumerate() {
            let (fs, directory) = (*fs, number.to_string());
            let at = root(fs).context("not mounted")?.root.join(&directory);
            fs::create_dir(&at)?;
            let part = self.ledger.part(number);
            part.add(&Record::Begin { fs, directory })?;
            let number = u32::try_from(number)?;
            let random = Rng::with_seed(self.seed ^ round << 32 ^ u64::from(number) << 16);
            let worker = Worker::new((number, part), &at, random, &self.done, self.honest);
            workers.push((worker, device.as_deref_mut()));
        }
        for small in &mounted {
            rustix::fs::syncfs(File::open(&small.root)?)?;
        }
        self.ledger.begin(round);
        self.until_full(round, workers)?;
        mounted.iter_mut().try_for_each(Small::unmount)
    }

    fn until_full<'d>(
        &self,
        round: u64,
        workers: Vec<(Worker<'_>, Option<&'d mut (dyn Device + 'static)>)>,
    ) -> anyhow::Result<()> {
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .into_iter()
                .map(|(worker, device)| {
                    let end = &end;
                    scope.spawn(move || {
                        let result = one(worker, device, end);
                        // The others need not go on after a failure either.
                        end.store(true, Ordering::Relaxed);
                        result
                    })
                })
                .collect();
            let mut heard = (0, Instant::now());
            let mut told = Instant::now();
            while !threads.iter().all(|thread| thread.is_finished()) {
                let count =
                    |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
                let done = &self.done;
                let sum = count(&done.changes) + count(&done.fsyncs) + count(&done.transfers);
                if sum != heard.0 {
                    heard = (sum, Instant::now());
                }
                if heard.1.elapsed() > HUNG {
                    println!("FAILED: round {round}: hung: no worker gets on");
                    // The threads cannot be waited for.
                    std::process::exit(1);
                }
                if told.elapsed() > PROGRESS {
                    told = Instant::now();
                    println!(
                        "round {round}: {} changes, {} fsyncs, {} transfers, {} times refused",
                        count(&done.changes),
                        count(&done.fsyncs),
                        count(&done.transfers),
                        count(&done.refused)
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            for (number, thread) in threads.into_iter().enumerate() {
                match thread.join() {
                    Ok(result) => result.with_context(|| format!("worker {number}"))?,
                    Err(_) => bail!("worker {number} has panicked"),
                }
            }
            Ok(())
        })
    }
}

fn one(
    mut worker: Worker,
    mut device: Option<&mut (dyn Device + 'static)>,
    end: &AtomicBool,
) -> anyhow::Result<()> {
    let mut number = 0;
    while !end.load(Ordering::Relaxed) && !worker.is_full() {
        match device.as_deref_mut() {
            Some(device) => pinned::cycle(&mut worker, device, number)?,
            None => plain::step(&mut worker)?,
        }
        number += 1;
    }
    Ok(())
}
