// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several processes that pin at once: how often each of them can, on two processors.

use super::gup::{GupTest, How};
use super::memory::{file, Grain, Mapping, HUGE};
use super::sys::check;
use super::Bench;
use crate::setup::{Fs, Mounted};
use anyhow::{bail, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long they go on.
const WHILE: Duration = Duration::from_millis(1500);
/// How long each of them has to get ready.
const SETUP: Duration = Duration::from_secs(1);
/// How often it is tried: whoever else uses the host can only make it slower.
const ROUNDS: usize = 3;
/// What each of them pins at a time.
const LENGTH: u64 = 256 << 10;

/// Where each process pins.
#[derive(Clone, Copy)]
enum Where {
    Same,
    Disjoint,
    Files,
}

/// One process, two and four.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut mounted = Mounted::roomy(Fs::Xfs)?;
    let files: Vec<PathBuf> = (0..4)
        .map(|index| file(&mounted, &format!("shared-{index}"), 4 * HUGE))
        .collect::<anyhow::Result<_>>()?;
    for (place, word) in [
        (Where::Same, "the same range"),
        (Where::Disjoint, "ranges of one file"),
        (Where::Files, "files of their own"),
    ] {
        for processes in [1, 2, 4] {
            let mut best = 0.0_f64;
            for _ in 0..ROUNDS {
                best = best.max(rate(&files, place, processes)?);
            }
            let x = Some(processes as u64);
            bench
                .sink
                .value("pins-at-once", word, x, best, "per second")?;
        }
    }
    mounted.unmount()
}

fn rate(files: &[PathBuf], place: Where, processes: usize) -> anyhow::Result<f64> {
    let mut children = Vec::new();
    let start = Instant::now() + SETUP;
    for index in 0..processes {
        let (path, offset) = match place {
            Where::Same => (&files[0], 0),
            Where::Disjoint => (&files[0], index as u64 * HUGE),
            Where::Files => (&files[index], 0),
        };
        let (reader, writer) = rustix::pipe::pipe()?;
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        // SAFETY: this process has one thread here; the child ends with _exit.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            let count = pins(path, offset, start).unwrap_or(0);
            let written = writer.write_all(&count.to_le_bytes()).is_ok();
            // SAFETY: ends the child at once, and nothing of what it has a copy of is undone.
            unsafe { libc::_exit(i32::from(!written)) };
        }
        drop(writer);
        children.push((pid, move || -> anyhow::Result<u64> {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        }));
    }
    let mut total = 0;
    for (pid, mut count) in children {
        let count = count()?;
        ensure!(count > 0, "a process of {processes} could not pin");
        total += count;
        let mut status = 0;
        // SAFETY: the status outlives the call.
        check(unsafe { libc::waitpid(pid, &mut status, 0) })?;
        if status != 0 {
            bail!("a process ended with status {status}");
        }
    }
    Ok(total as f64 / WHILE.as_secs_f64())
}

/// Pins and unpins from the start on, and counts.
fn pins(path: &std::path::Path, offset: u64, start: Instant) -> anyhow::Result<u64> {
    let mapping = Mapping::leased(path, Grain::Small, 4 * HUGE)?;
    let device = GupTest::open()?;
    std::thread::sleep(start.saturating_duration_since(Instant::now()));
    let mut count = 0;
    while start.elapsed() < WHILE {
        device.pin(mapping.address() + offset, LENGTH, How::Owned)?;
        device.unpin()?;
        count += 1;
    }
    Ok(count)
}
