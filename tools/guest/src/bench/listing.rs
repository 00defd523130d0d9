// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listings with many pins: what a line costs, and how long nothing else runs.

use super::count::{instructions, ticks, Costs};
use super::memory::file;
use super::refused::{Pinned, PINS};
use super::sys::check;
use super::Bench;
use crate::setup::{Fs, Mounted};
use anyhow::{ensure, Context};
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LENGTH: u64 = 16 << 20;

/// Pins of one file, more and more.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut mounted = Mounted::roomy(Fs::Xfs)?;
    let path = file(&mounted, "listed", LENGTH)?;
    // What the test device itself keeps for each pin: nobody records those of anonymous memory.
    let without = grown(&mut Pinned::of_anonymous(LENGTH)?, 20_000)?;
    let mut pinned = Pinned::of(&path, LENGTH)?;
    let idle = usually_latest(|| {
        std::hint::spin_loop();
        Ok(())
    })?;
    bench.latency("nothing-runs", "no listing", None, idle)?;
    for pins in PINS {
        let bytes = grown(&mut pinned, pins)?;
        if pins >= 10_000 {
            let own = bytes - without;
            let place = Some(pins);
            bench
                .sink
                .value("memory-per-record", "slab", place, own, "bytes")?;
        }
        for place in ["/proc/self/file_pins", "/proc/file_pins"] {
            let mut costs = Vec::new();
            for _ in 0..3 {
                let begin = ticks();
                let lines = read(place)?;
                let cost = instructions(ticks() - begin);
                ensure!(lines >= pins, "{place} has {lines} lines for {pins} pins");
                costs.push(cost / lines);
            }
            bench
                .sink
                .curve("listing-line", place, pins, &Costs::of(costs))?;
        }
        let late = usually_latest(|| read("/proc/self/file_pins").map(drop))?;
        bench.latency("nothing-runs", "/proc/self/file_pins", Some(pins), late)?;
    }
    drop(pinned);
    mounted.unmount()
}

/// Adds pins until there are so many; what each of them takes of the kernel's memory.
fn grown(pinned: &mut Pinned, pins: u64) -> anyhow::Result<f64> {
    let (before, had) = (slab()?, pinned.count());
    pinned.grow(pins)?;
    Ok((slab()? as f64 - before as f64) / (pins - had) as f64)
}

/// Lines of a listing, read as `cat` does.
fn read(place: &str) -> anyhow::Result<u64> {
    let mut file = File::open(place)?;
    let (mut piece, mut lines) = (vec![0; 128 << 10], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(lines),
            count => lines += piece[..count].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

/// Bytes of slab memory that cannot be reclaimed.
fn slab() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no SUnreclaim")?.parse::<u64>()? * 1024)
}

/// For so long that the timer ticks, and what the kernel does then now and again, are in it, however
/// short the listing is: it is the longest time that counts.
fn again_and_again(mut what: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        what()?;
    }
    Ok(())
}

/// How late is usual: what the kernel does once in a while, for others, is in one of three tries at most; what
/// comes of `what` is in all of them.
fn usually_latest(mut what: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let mut tries = [0; 3];
    for late in &mut tries {
        *late = latest(|| again_and_again(&mut what))?;
    }
    tries.sort_unstable();
    Ok(tries[1])
}

/// How late a thread with real-time priority gets to run, at most, while `what` runs: no longer than
/// the longest part of it that cannot be preempted. In instructions.
fn latest(what: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let done = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let done = Arc::clone(&done);
        move || lateness(&done)
    });
    std::thread::sleep(Duration::from_millis(2));
    let result = what();
    done.store(true, Ordering::Relaxed);
    let late = thread.join().ok().context("the thread panicked")?;
    result?;
    late
}

fn lateness(done: &AtomicBool) -> anyhow::Result<u64> {
    /// Between two looks, in nanoseconds: no divisor of the timer tick.
    const PERIOD: i64 = 47_000;
    let priority = libc::sched_param { sched_priority: 50 };
    // SAFETY: the structure outlives the call; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) })?;
    let mut latest = 0;
    while !done.load(Ordering::Relaxed) {
        let now = monotonic()?;
        let due = now + PERIOD;
        let until = libc::timespec {
            tv_sec: due / 1_000_000_000,
            tv_nsec: due % 1_000_000_000,
        };
        let remaining = std::ptr::null_mut();
        // SAFETY: the time outlives the call; with an absolute time nothing is written.
        unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &until,
                remaining,
            )
        };
        latest = latest.max(monotonic()? - due);
    }
    Ok(instructions(u64::try_from(latest)?))
}

fn monotonic() -> anyhow::Result<i64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) })?;
    Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}
