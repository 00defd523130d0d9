// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many processes do with files whatever there is to do, by chance; an oracle says what must come of it.
//!
//! First one step at a time, each with the answer that the contract gives: a failure is replayed from the
//! seed and made short. Then all at once, where each answer has to be one of those that are possible, and
//! what a process holds has to stay where it is. Freed blocks go to canaries all the while.

mod actor;
mod canary;
mod effect;
mod generator;
mod listed;
mod machine;
mod oracle;
mod run;
#[cfg(test)]
mod simulated;
mod step;
mod storm;
mod world;

pub use actor::{act, Options as ActorOptions};
pub use canary::Canaries;

use crate::setup::{Fs, Mounted, Rdma};
use crate::system::Listing;
use anyhow::{bail, ensure, Context};
use generator::Generator;
use machine::Machine;
use run::{Count, Failure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use step::Step;
use world::Role;

/// How long a failing script is made shorter.
const SHRINK: Duration = Duration::from_secs(180);
/// A line says how far it is this often.
const PROGRESS: Duration = Duration::from_secs(5);
/// Megabytes that may come to be canaries.
const ROOM: u64 = 200;
/// The share of the time that everything happens at once.
const STORM: u32 = 3;

/// What to do, and for how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the steps come from [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// How many steps on each filesystem
    #[arg(long, value_name = "N")]
    ops: Option<usize>,
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    fs: Vec<Fs>,
    /// How long on each filesystem, when no number of steps is given
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    minutes: f64,
    /// Issue the steps of a script that has failed, and no others
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Where the script of a failure goes
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    out: PathBuf,
    /// Do what a kernel with a bug would do: the run has to fail
    #[arg(long, value_enum)]
    disturb: Option<Disturb>,
}

/// What a kernel with a bug would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Disturb {
    /// Leave a device a block that was freed: in the end, something is written to a canary
    Canary,
    /// Drop a process's pins by gup_test with its lease
    Unpin,
}

/// A script in a file.
#[derive(Serialize, Deserialize)]
struct Script {
    fs: Fs,
    seed: u64,
    why: String,
    steps: Vec<Step>,
}

/// A run on one filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the steps come from.
    pub seed: u64,
    /// How many, if not as many as there is time for.
    pub ops: Option<usize>,
    /// How long in all; the storm takes its share, also if the number of steps is given.
    pub time: Duration,
    /// Bytes that may come to be canaries.
    pub room: u64,
    /// Whether what takes seconds is done as well.
    pub slow: bool,
    /// What is done as by a kernel with a bug.
    pub disturb: Option<Disturb>,
}

/// The processes of a run.
fn roles(slow: bool) -> Vec<Role> {
    let mut roles = vec![Role::Root; if slow { 8 } else { 4 }];
    roles.extend([Role::Nobody, Role::Verbs]);
    roles
}

/// Runs on each filesystem; whether nothing was wrong.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let rdma = Rdma::ready()?;
    if let Some(path) = &options.replay {
        return replay(path, rdma, options.disturb);
    }
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
    let seed = options.seed.unwrap_or(now.as_secs());
    let chosen = if options.fs.is_empty() {
        &Fs::ALL[..]
    } else {
        &options.fs
    };
    let mut good = true;
    for &fs in chosen {
        let plan = Plan {
            seed,
            ops: options.ops,
            time: Duration::from_secs_f64(options.minutes * 60.0),
            room: ROOM << 20,
            slow: true,
            disturb: options.disturb,
        };
        println!("{}: seed {seed}", fs.name());
        let mut mounted = Mounted::roomy(fs)?;
        let result = on(&mut mounted, &rdma, plan, &options.out, true);
        match result {
            Ok(summary) => println!("{}: {summary}", fs.name()),
            Err(error) => {
                println!("{}: FAILED: {error:#}", fs.name());
                good = false;
            }
        }
    }
    Ok(good)
}

/// Sets lease-break-time until drop.
struct BreakTime {
    before: String,
}

impl BreakTime {
    const SYSCTL: &'static str = "/proc/sys/fs/lease-break-time";

    fn set(seconds: u32) -> anyhow::Result<BreakTime> {
        let before = fs::read_to_string(Self::SYSCTL)?;
        fs::write(Self::SYSCTL, seconds.to_string())?;
        Ok(BreakTime { before })
    }
}

impl Drop for BreakTime {
    fn drop(&mut self) {
        let _ = fs::write(Self::SYSCTL, self.before.trim());
    }
}

/// A run on a mounted filesystem, at whose end it is unmounted, checked and mounted again. What was
/// done, in words.
pub fn on(
    mounted: &mut Mounted,
    rdma: &Rdma,
    plan: Plan,
    out: &Path,
    progress: bool,
) -> anyhow::Result<String> {
    let result = all(mounted, rdma, plan, out, progress);
    remove_files(&mounted.root)?;
    result
}

/// Removes what the processes have worked on.
fn remove_files(root: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if ["stress-", "storm-", "new-"]
            .iter()
            .any(|begin| name.starts_with(begin))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn all(
    mounted: &mut Mounted,
    rdma: &Rdma,
    plan: Plan,
    out: &Path,
    progress: bool,
) -> anyhow::Result<String> {
    let begun = Instant::now();
    let mut machine = Machine::new(
        &mounted.root,
        mounted.fs,
        rdma.clone(),
        &roles(plan.slow),
        plan.room,
    )?;
    machine.drops_pins = plan.disturb == Some(Disturb::Unpin);
    let (count, failure) = steps(&mut machine, plan, progress)?;
    if let Some(failure) = failure {
        let failure = if progress {
            println!("{}", failure.why);
            println!(
                "making the script of {} steps shorter",
                failure.script.len()
            );
            run::shrink(&mut machine, failure, Instant::now() + SHRINK)?
        } else {
            failure
        };
        let path = save(mounted.fs, plan.seed, &failure, out)?;
        bail!(
            "seed {}: {} ({} steps in {})",
            plan.seed,
            failure.why,
            failure.script.len(),
            path.display()
        );
    }
    machine.quieten()?;
    nothing_held(&mounted.root)?;
    let sequential = begun.elapsed();
    let storm = storm::storm(mounted, &mut machine, plan, progress)
        .with_context(|| format!("seed {}: all at once", plan.seed))?;
    nothing_held(&mounted.root)?;
    if plan.disturb == Some(Disturb::Canary) {
        machine.canaries.disturb(mounted.fs.device())?;
    }
    let canaries = machine.canaries.count();
    let looks = end(&mut machine, mounted)?;
    Ok(format!(
        "{} steps ({} with one right answer, {} changes refused, {} pins) in {:.0} s; {storm}; \
         {canaries} canaries unchanged, {looks} looks; nothing left pinned, filesystem clean",
        count.steps,
        count.exact,
        count.refused,
        count.pins,
        sequential.as_secs_f64()
    ))
}

/// The steps, one at a time.
fn steps(
    machine: &mut Machine,
    plan: Plan,
    progress: bool,
) -> anyhow::Result<(Count, Option<Failure>)> {
    let _patient = BreakTime::set(3600)?;
    let mut generator = Generator::new(plan.seed, plan.slow);
    let deadline = Instant::now() + plan.time - plan.time / STORM;
    let mut issued = 0;
    let next = |world: &world::World| {
        let enough = match plan.ops {
            Some(ops) => issued >= ops,
            None => Instant::now() > deadline,
        };
        issued += 1;
        (!enough).then(|| generator.next(world))
    };
    let mut said = Instant::now();
    let begun = Instant::now();
    run::issue(machine, next, |count| {
        if progress && said.elapsed() > PROGRESS {
            said = Instant::now();
            println!(
                "{:6.0} s  {} steps, {} changes refused, {} pins",
                begun.elapsed().as_secs_f64(),
                count.steps,
                count.refused,
                count.pins
            );
        }
    })
}

fn save(fs: Fs, seed: u64, failure: &Failure, out: &Path) -> anyhow::Result<PathBuf> {
    let path = out.join(format!("stress-{}-{seed}.json", fs.name()));
    let script = Script {
        fs,
        seed,
        why: failure.why.clone(),
        steps: failure.script.clone(),
    };
    let mut file = fs::File::create(&path).with_context(|| path.display().to_string())?;
    serde_json::to_writer_pretty(&mut file, &script)?;
    file.write_all(b"\n")?;
    Ok(path)
}

/// Issues the steps of a script; whether none failed.
fn replay(path: &Path, rdma: Rdma, disturb: Option<Disturb>) -> anyhow::Result<bool> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let script: Script = serde_json::from_str(&text)?;
    println!("{}: {} steps", script.fs.name(), script.steps.len());
    let mut mounted = Mounted::roomy(script.fs)?;
    let _patient = BreakTime::set(3600)?;
    // Few steps free few blocks.
    let mut machine = Machine::new(&mounted.root, script.fs, rdma, &roles(true), 8 << 20)?;
    machine.drops_pins = disturb == Some(Disturb::Unpin);
    if let Some(failure) = run::replay(&mut machine, &script.steps)? {
        println!("{}", failure.why);
        return Ok(false);
    }
    println!("every step turned out as the contract says");
    drop(machine);
    mounted.unmount().context("in the end")?;
    Ok(true)
}

/// Nobody holds a file below `root`, and every page that was pinned is unpinned.
fn nothing_held(root: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listing = Listing::read()?;
        let pins = listing.pins.iter().filter(|p| p.path.starts_with(root));
        let leases = listing.leases.iter().filter(|l| l.path.starts_with(root));
        let (pins, leases) = (pins.count(), leases.count());
        let (acquired, released) = pinned_pages()?;
        if pins + leases == 0 && acquired == released {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "in the end {pins} pins and {leases} leases are listed; {acquired} pages were pinned, \
             {released} unpinned"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many pages were pinned and unpinned since the machine was started.
fn pinned_pages() -> anyhow::Result<(u64, u64)> {
    // The counters lag behind on each CPU until they are asked for.
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("no such counter")?.trim().parse()?)
    };
    Ok((
        value("nr_foll_pin_acquired ")?,
        value("nr_foll_pin_released ")?,
    ))
}

/// Canaries are looked at before and after the filesystem was unmounted and found clean.
fn end(machine: &mut Machine, mounted: &mut Mounted) -> anyhow::Result<usize> {
    let canaries: &mut Canaries = &mut machine.canaries;
    remove_files(&mounted.root)?;
    canaries.look_at_all()?;
    mounted.check().context("in the end")?;
    canaries.end()
}
