// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registry by itself: what its KUnit suites print of their times.

use super::count::instructions;
use super::Bench;
use crate::setup::mounted;
use anyhow::{bail, Context};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// As many records as a large server may have.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    suite(bench, "file_pin_registry_scale")
}

/// A million.
pub fn million(bench: &mut Bench) -> anyhow::Result<()> {
    suite(bench, "slow_file_pin_registry")
}

/// Runs a suite and reads the log of the kernel.
fn suite(bench: &mut Bench, name: &str) -> anyhow::Result<()> {
    let root = mounted("debugfs", "/sys/kernel/debug", "kunit")?;
    let suite = root.join("kunit").join(name);
    let mut log = log()?;
    drain(&mut log)?;
    std::fs::write(suite.join("run"), "1")
        .with_context(|| format!("the kernel has no KUnit suite {name}"))?;
    let results = std::fs::read_to_string(suite.join("results"))?;
    let failed = |line: &str| line.trim_start().starts_with("not ok");
    if results.lines().any(failed) {
        bail!("{name} fails:\n{results}");
    }
    let times = times(&drain(&mut log)?);
    if times.is_empty() {
        bail!("{name} has printed no times");
    }
    // Each size begins with as many pins.
    let mut pins = None;
    for (what, count, ns) in &times {
        if what == "pin" {
            pins = Some(*count);
        }
        let cost = instructions(*ns) as f64;
        bench
            .sink
            .value("registry", what, pins, cost, super::sink::INSTRUCTIONS)?;
    }
    Ok(())
}

fn log() -> anyhow::Result<File> {
    let options = libc::O_NONBLOCK;
    Ok(File::options()
        .read(true)
        .custom_flags(options)
        .open("/dev/kmsg")?)
}

/// Everything up to now.
fn drain(log: &mut File) -> anyhow::Result<String> {
    let (mut text, mut record) = (String::new(), vec![0; 8192]);
    loop {
        match log.read(&mut record) {
            Ok(count) => text.push_str(&String::from_utf8_lossy(&record[..count])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(text),
            // Records were overwritten before they were read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `# pin: 100000 times in 420 ms, 4203 ns each`: what, how often, nanoseconds.
fn times(log: &str) -> Vec<(String, u64, u64)> {
    log.lines()
        .filter_map(|line| {
            let (what, rest) = line.split_once("# ")?.1.split_once(": ")?;
            let words: Vec<&str> = rest.split_whitespace().collect();
            match words[..] {
                [times, "times", "in", _, "ms,", ns, "ns", "each"] => {
                    Some((what.to_owned(), times.parse().ok()?, ns.parse().ok()?))
                }
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_log() {
        let log = "6,841,20011,-;    # pin: 1000 times in 4 ms, 4203 ns each\n6,842,20011,-;    # replace and ask: 125 times in 0 ms, 612 ns each\n6,843,1,-;# hundred: ok 3\n";
        assert_eq!(
            times(log),
            [
                ("pin".to_owned(), 1000, 4203),
                ("replace and ask".to_owned(), 125, 612)
            ]
        );
    }
}
