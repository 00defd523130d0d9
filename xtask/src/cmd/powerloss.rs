// SPDX-License-Identifier: MIT OR Apache-2.0
//! `powerloss`: the guest loses its power at random points; what fsync has returned for must be there.

mod guest;
mod memory;
mod qmp;
mod report;

use super::build;
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::tools;
use crate::kernel::profile::Profile;
use anyhow::{Context, Result};
use clap::Args;
use fastrand::Rng;
use guest::{Boot, Guest, TICK};
use memory::Memory;
use report::{Loss, Report, Tally};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
The filesystems are on nvdimms that are files of the host's. One guest writes, syncs, and has a ring
and an RDMA device write into pinned files. It is stopped again and again, the nvdimms are copied, and
another guest recovers each copy and compares it with what fsync had returned for. Then guests are
killed, and booted again on the nvdimms that they had.

Examples:
  cargo xtask powerloss
  cargo xtask powerloss --times 500 --kills 20 --seed 7
  cargo xtask powerloss --check out/powerloss/stop-17";

/// Stop and kill the guest at random points: what fsync has returned for must be there
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// What kernel to boot
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Where what is done, and when it ends, comes from (default: the time)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often the guest is stopped, and what it had stored is checked
    #[arg(long, value_name = "N", default_value_t = 200)]
    times: u64,
    /// How often a guest is killed, and booted again
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: u64,
    /// Only this filesystem (xfs, ext4); can be given twice
    #[arg(long, value_parser = ["xfs", "ext4"])]
    fs: Vec<String>,
    /// Look again at what was kept of a power loss, and do nothing else
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
    /// Fail: acknowledge what was not synced (fsync), look at nvdimms that are older than what was
    /// acknowledged (old), or damage the filesystems after recovery (damage)
    #[arg(long, value_name = "BUG", value_parser = ["fsync", "old", "damage"])]
    disturb: Option<String>,
}

/// The order to end.
const END: u64 = u64::MAX;
/// How many copies wait for the guest that checks. With more, the one that works is not let go on.
const WAITING: usize = 2;
/// How long the guest works between two stops, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 5..700;
/// The same before it is killed.
const BEFORE_KILL: std::ops::Range<u64> = 50..4000;
/// So many power losses that something was lost in are enough, and are kept.
const ENOUGH: usize = 3;

/// So many things that are wrong are shown.
const SHOWN: usize = 8;

/// Boots, stops, kills, compares.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let check = opts.check.as_deref().map(std::path::absolute).transpose()?;
    // What is to be looked at again is among the logs of an earlier run.
    let logs = ctx.logs(if check.is_some() {
        "powerloss-check"
    } else {
        "powerloss"
    })?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let tools = tools::build(ctx, &logs)?;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let seed = opts.seed.unwrap_or(now.map_or(0, |time| time.as_secs()));
    let run = Run {
        boot: Boot {
            ctx,
            image: &image,
            program: &tools.guest,
            logs: &logs,
        },
        opts,
        seed,
    };
    if ctx.global.dry_run {
        return run.boot.show("work", &run.work(0));
    }
    let mut tally = Tally::default();
    match check {
        Some(dir) => run.check(&dir, &mut tally)?,
        None => {
            println!("seed {seed}");
            if opts.times > 0 {
                run.stops(&mut tally)?;
            }
            if opts.kills > 0 && tally.failed < ENOUGH {
                run.kills(&mut tally)?;
            }
        }
    }
    tally.summary().iter().for_each(|line| println!("{line}"));
    if tally.failed > 0 {
        return Err(Failure::of(Kind::Test, told(&tally, seed, &logs)?));
    }
    println!("every filesystem consistent, and everything there that fsync has returned for");
    Ok(())
}

/// What was wrong, for the terminal; all of it is in a file.
fn told(tally: &Tally, seed: u64, logs: &Path) -> Result<String> {
    let all = logs.join("problems.txt");
    write_atomic(&all, tally.problems.join("\n").as_bytes())?;
    let some: Vec<String> = tally
        .problems
        .iter()
        .take(SHOWN)
        .map(|problem| console::truncate_str(&problem.replace('\n', " "), 300, "...").into_owned())
        .collect();
    Ok(format!(
        "after {} of {} power losses something was lost, or not consistent (seed {seed})\n{}\nall of \
         it: {}; what the nvdimms held is beside it, for --check",
        tally.failed,
        tally.losses(),
        some.join("\n"),
        all.display()
    ))
}

struct Run<'a> {
    boot: Boot<'a>,
    opts: &'a Opts,
    seed: u64,
}

/// What the nvdimms held at a stop.
struct Copy {
    number: u64,
    round: u64,
    memory: Memory,
}

impl Run<'_> {
    fn disturbed(&self, by: &str) -> bool {
        self.opts.disturb.as_deref() == Some(by)
    }

    /// Arguments of all guests.
    fn common(&self) -> String {
        let fs = self.opts.fs.iter().map(|fs| format!(" --fs {fs}"));
        let damage = self.disturbed("damage").then(|| " --damage".to_owned());
        fs.chain(damage).collect()
    }

    /// Arguments of the guest that works, for the nth time.
    fn work(&self, time: u64) -> String {
        let fsync = if self.disturbed("fsync") {
            " --no-fsync"
        } else {
            ""
        };
        let seed = self.seed.wrapping_add(time);
        format!("work --seed {seed}{fsync}{}", self.common())
    }

    fn filesystems(&self) -> usize {
        match self.opts.fs.len() {
            0 => 2,
            _ => self
                .opts
                .fs
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
        }
    }

    /// Keeps what shows that something was lost.
    fn keep(&self, name: &str, memory: &Memory) -> Result<()> {
        memory.keep(&self.boot.logs.join(name))
    }

    fn stops(&self, tally: &mut Tally) -> Result<()> {
        let cache = &self.boot.ctx.cache;
        let (worked, checked) = (Memory::new(cache)?, Memory::new(cache)?);
        std::thread::scope(|scope| {
            let common = self.common();
            let mut checker =
                self.boot
                    .start(scope, "check", &checked, &format!("check{common}"))?;
            let mut worker = self.boot.start(scope, "work", &worked, &self.work(0))?;
            self.stop_again_and_again((&mut worker, &worked), (&mut checker, &checked), tally)?;
            worker.kill()?;
            checked.order(END)?;
            checker.wait()
        })
    }

    fn stop_again_and_again(
        &self,
        (worker, worked): (&mut Guest, &Memory),
        (checker, checked): (&mut Guest, &Memory),
        tally: &mut Tally,
    ) -> Result<()> {
        let ctx = self.boot.ctx;
        let mut step = ctx.ui.step("stopping the guest at random points");
        let times = self.opts.times;
        let mut random = Rng::with_seed(self.seed);
        let mut between = || Duration::from_millis(random.u64(BETWEEN));
        checker.ready()?;
        worker.working(worked)?;
        let mut qmp = worker.qmp()?;
        // When the guest that works, and is let go on, is to be stopped.
        let mut next = Some(Instant::now() + between());
        let mut waiting: VecDeque<Copy> = VecDeque::new();
        let mut looked_at: Option<(Copy, Vec<Report>)> = None;
        let mut before: Option<Copy> = None;
        let (mut taken, mut judged) = (0, 0);
        while judged < times && tally.failed < ENOUGH {
            worker.alive()?;
            let new = checker.poll()?;
            if let Some((copy, mut reports)) = looked_at.take() {
                reports.extend(new.into_iter().flatten());
                if reports.len() < self.filesystems() {
                    looked_at = Some((copy, reports));
                } else {
                    if !tally.add(Loss::Stop, &reports) {
                        self.keep(&format!("stop-{}", copy.number), &copy.memory)?;
                    }
                    judged += 1;
                    step.status(format!("{judged} of {times}, {} failed", tally.failed));
                    before = Some(copy);
                }
            }
            if looked_at.is_none() {
                if let Some(copy) = waiting.pop_front() {
                    checked.load_from(&copy.memory)?;
                    let older = before.as_ref().filter(|old| old.round == copy.round);
                    if let (true, Some(old)) = (self.disturbed("old"), older) {
                        checked.load_nvdimms_from(&old.memory)?;
                    }
                    checked.order(copy.number)?;
                    looked_at = Some((copy, vec![]));
                }
            }
            match next {
                None if taken < times && waiting.len() < WAITING => {
                    qmp.resume()?;
                    next = Some(Instant::now() + between());
                }
                Some(time) if Instant::now() >= time => {
                    qmp.stop()?;
                    next = None;
                    let round = worked.round()?;
                    // Between two rounds there is nothing to be lost.
                    if round > 0 {
                        taken += 1;
                        waiting.push_back(Copy {
                            number: taken,
                            round,
                            memory: worked.copied(&ctx.cache)?,
                        });
                    }
                }
                _ => {}
            }
            std::thread::sleep(TICK);
        }
        step.done(&format!("{judged} times"));
        Ok(())
    }

    fn kills(&self, tally: &mut Tally) -> Result<()> {
        let ctx = self.boot.ctx;
        let mut step = ctx.ui.step("killing guests at random points");
        let memory = Memory::new(&ctx.cache)?;
        let mut random = Rng::with_seed(!self.seed);
        let mut left: Option<Memory> = None;
        for kill in 0..=self.opts.kills {
            let last = kill == self.opts.kills;
            let mut arguments = self.work(kill + 1);
            if kill > 0 {
                arguments.push_str(&format!(" --recover {kill}"));
            }
            if last {
                arguments.push_str(" --only");
            }
            let name = format!("kill-{kill}");
            std::thread::scope(|scope| -> Result<()> {
                let mut guest = self.boot.start(scope, &name, &memory, &arguments)?;
                let reports = guest.ready()?;
                if let Some(left) = left.take() {
                    if !tally.add(Loss::Kill, &reports) {
                        self.keep(&name, &left)?;
                    }
                    step.status(format!(
                        "{kill} of {}, {} failed",
                        self.opts.kills, tally.failed
                    ));
                }
                if last {
                    return guest.wait();
                }
                guest.working(&memory)?;
                guest.goes_on(Duration::from_millis(random.u64(BEFORE_KILL)))?;
                guest.kill()
            })?;
            if tally.failed >= ENOUGH {
                break;
            }
            if !last {
                left = Some(memory.copied(&ctx.cache)?);
            }
        }
        step.done(&format!("{} times", self.opts.kills));
        Ok(())
    }

    /// Looks at what was kept.
    fn check(&self, dir: &Path, tally: &mut Tally) -> Result<()> {
        let cache = &self.boot.ctx.cache;
        let (kept, checked) = (Memory::new(cache)?, Memory::new(cache)?);
        kept.load(dir)
            .with_context(|| format!("{} is not what was kept of a power loss", dir.display()))?;
        let step = self.boot.ctx.ui.step("looking at what was kept");
        std::thread::scope(|scope| {
            let arguments = format!("check{}", self.common());
            let mut checker = self.boot.start(scope, "check", &checked, &arguments)?;
            checker.ready()?;
            checked.load_from(&kept)?;
            checked.order(1)?;
            let mut reports = vec![];
            while reports.len() < self.filesystems() {
                reports.extend(checker.poll()?.into_iter().flatten());
                std::thread::sleep(TICK);
            }
            tally.add(Loss::Stop, &reports);
            checked.order(END)?;
            checker.wait()
        })?;
        step.done("");
        Ok(())
    }
}
