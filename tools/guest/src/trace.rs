// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an fsync flushed, and what was mapped by entries of 2 MiB: trace events of `fs_dax`.

use crate::setup::mounted;
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4096;

/// Where tracefs is.
///
/// The names of commands are not recorded with events: to do so, the kernel patches the scheduler
/// while it runs on the other CPU. QEMU's emulation of two CPUs now and then still runs the
/// breakpoint of such a patch after it is complete, and the kernel takes that for an oops (int3).
fn tracing() -> anyhow::Result<PathBuf> {
    let tracing = mounted("tracefs", "/sys/kernel/tracing", "trace")?;
    fs::write(tracing.join("options/record-cmd"), "0").context("cannot set record-cmd")?;
    Ok(tracing)
}

/// The event, switched on until drop.
pub struct Writeback {
    tracing: PathBuf,
}

/// A flushed range of an inode, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    inode: u64,
    begin: u64,
    end: u64,
}

impl Writeback {
    /// Empties the trace and switches the event on.
    pub fn on() -> anyhow::Result<Writeback> {
        let tracing = tracing()?;
        let trace = Writeback { tracing };
        trace
            .enable("1")
            .context("no trace event fs_dax:dax_writeback_one")?;
        fs::write(trace.tracing.join("tracing_on"), "1")?;
        trace.clear()?;
        Ok(trace)
    }

    /// Forgets what was recorded.
    pub fn clear(&self) -> anyhow::Result<()> {
        fs::write(self.tracing.join("trace"), "").context("cannot clear the trace")
    }

    /// What was flushed since.
    pub fn flushed(&self) -> anyhow::Result<Vec<Flushed>> {
        let text = fs::read_to_string(self.tracing.join("trace"))?;
        Ok(text.lines().filter_map(parse).collect())
    }

    fn enable(&self, value: &str) -> std::io::Result<()> {
        fs::write(
            self.tracing.join("events/fs_dax/dax_writeback_one/enable"),
            value,
        )
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        let _ = self.enable("0");
    }
}

/// `... dax_writeback_one: dev 259:0 ino 0x83 pgoff 0x10 pglen 0x1`
fn parse(line: &str) -> Option<Flushed> {
    let (_, event) = line.split_once("dax_writeback_one: ")?;
    let mut words = event.split_ascii_whitespace();
    let mut after = |key: &str| {
        words.find(|word| *word == key)?;
        let value = words.next()?;
        u64::from_str_radix(value.trim_start_matches("0x"), 16).ok()
    };
    let inode = after("ino")?;
    let begin = after("pgoff")? * PAGE;
    let end = begin + after("pglen")? * PAGE;
    Some(Flushed { inode, begin, end })
}

/// The event `dax_pmd_fault_done`, switched on until drop.
pub struct PmdFaults {
    tracing: PathBuf,
}

impl PmdFaults {
    /// Empties the trace and switches the event on.
    pub fn on() -> anyhow::Result<PmdFaults> {
        let tracing = tracing()?;
        let faults = PmdFaults { tracing };
        faults
            .enable("1")
            .context("no trace event fs_dax:dax_pmd_fault_done")?;
        fs::write(faults.tracing.join("tracing_on"), "1")?;
        fs::write(faults.tracing.join("trace"), "")?;
        Ok(faults)
    }

    /// The file offsets at which the inode got an entry of 2 MiB since.
    pub fn mapped(&self, inode: u64) -> anyhow::Result<Vec<u64>> {
        let text = fs::read_to_string(self.tracing.join("trace"))?;
        let faults = text.lines().filter_map(parse_pmd_fault);
        let mut mapped: Vec<u64> = faults
            .filter(|fault| fault.0 == inode)
            .map(|fault| fault.1)
            .collect();
        mapped.sort_unstable();
        mapped.dedup();
        Ok(mapped)
    }

    fn enable(&self, value: &str) -> std::io::Result<()> {
        let event = "events/fs_dax/dax_pmd_fault_done/enable";
        fs::write(self.tracing.join(event), value)
    }
}

impl Drop for PmdFaults {
    fn drop(&mut self) {
        let _ = self.enable("0");
    }
}

/// `... dax_pmd_fault_done: dev 259:0 ino 0x83 shared WRITE|... pgoff 0x200 max_pgoff 0x400 NOPAGE`: the
/// inode and the offset of the entry, if there is one now.
fn parse_pmd_fault(line: &str) -> Option<(u64, u64)> {
    let (_, event) = line.split_once("dax_pmd_fault_done: ")?;
    let mut words = event.split_ascii_whitespace();
    let mut after = |key: &str| {
        words.find(|word| *word == key)?;
        u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()
    };
    let (inode, page) = (after("ino")?, after("pgoff")?);
    let result = event.rsplit(' ').next()?;
    let offset = page * PAGE;
    result
        .split('|')
        .any(|word| word == "NOPAGE")
        .then_some((inode, offset - offset % (2 << 20)))
}

/// Any events, switched on until drop.
pub struct Events {
    tracing: PathBuf,
    names: Vec<&'static str>,
}

/// What was recorded: the event's name, and what it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub text: String,
}

impl Events {
    /// Empties the trace and switches them on; `names` are `group/event`.
    pub fn on(names: &[&'static str]) -> anyhow::Result<Events> {
        let events = Events {
            tracing: tracing()?,
            names: names.to_vec(),
        };
        for name in names {
            let enabled = events.enable(name, "1");
            enabled.with_context(|| format!("no trace event {name}"))?;
        }
        fs::write(events.tracing.join("tracing_on"), "1")?;
        fs::write(events.tracing.join("trace"), "")?;
        Ok(events)
    }

    /// What was recorded since the last look.
    pub fn take(&self) -> anyhow::Result<Vec<Event>> {
        let trace = self.tracing.join("trace");
        let text = fs::read_to_string(&trace)?;
        fs::write(&trace, "").context("cannot clear the trace")?;
        Ok(text.lines().filter_map(parse_event).collect())
    }

    fn enable(&self, name: &str, value: &str) -> std::io::Result<()> {
        fs::write(self.tracing.join("events").join(name).join("enable"), value)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = self.enable(name, "0");
        }
    }
}

/// `guest-1 [000] ..... 1.5: file_pin_add: dev 259:0 ino 0x83 pages 1-2 rw`
fn parse_event(line: &str) -> Option<Event> {
    let (before, rest) = line.split_once(": ")?;
    let (name, text) = rest.split_once(": ")?;
    (!before.starts_with('#')).then(|| Event {
        name: name.to_owned(),
        text: text.to_owned(),
    })
}

/// How many bytes of `[begin, end)` of the inode the flushes cover.
pub fn covered(flushed: &[Flushed], inode: u64, begin: u64, end: u64) -> u64 {
    (begin..end)
        .step_by(PAGE as usize)
        .filter(|at| {
            flushed
                .iter()
                .any(|range| range.inode == inode && range.begin <= *at && *at < range.end)
        })
        .count() as u64
        * PAGE
}

/// The inode number the trace shows for a file.
pub fn inode(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_event() {
        let line =
            " guest-1 [000] ..... 1.5: dax_writeback_one: dev 259:0 ino 0x83 pgoff 0x10 pglen 0x2";
        let flushed = parse(line).unwrap();
        assert_eq!(
            flushed,
            Flushed {
                inode: 0x83,
                begin: 0x10000,
                end: 0x12000
            }
        );
        assert_eq!(parse("# tracer: nop"), None);
        // The kernel writes a zero without 0x.
        assert_eq!(
            parse("x dax_writeback_one: dev 1:0 ino 0x1 pgoff 0 pglen 0x1")
                .unwrap()
                .begin,
            0
        );
    }

    #[test]
    fn reads_faults_that_gave_an_entry() {
        let line =
            "x dax_pmd_fault_done: dev 259:0 ino 0x83 shared WRITE|ALLOW_RETRY address 0x7f \
                    vm_start 0x7f vm_end 0x80 pgoff 0x2ff max_pgoff 0x600 NOPAGE";
        assert_eq!(parse_pmd_fault(line), Some((0x83, 2 << 20)));
        let refused = line.replace("NOPAGE", "FALLBACK");
        assert_eq!(parse_pmd_fault(&refused), None);
    }

    #[test]
    fn reads_any_event() {
        let line = " guest-1 [000] ..... 1.5: file_pin_add: dev 259:0 ino 0x83 pages 1-2 rw";
        let event = parse_event(line).unwrap();
        assert_eq!(event.name, "file_pin_add");
        assert_eq!(event.text, "dev 259:0 ino 0x83 pages 1-2 rw");
        assert_eq!(parse_event("# entries: 1: x: y"), None);
    }

    #[test]
    fn counts_only_the_range_of_the_inode() {
        let flushed = [
            Flushed {
                inode: 1,
                begin: 4096,
                end: 12288,
            },
            Flushed {
                inode: 2,
                begin: 0,
                end: 4096,
            },
        ];
        assert_eq!(covered(&flushed, 1, 0, 16384), 8192);
        assert_eq!(covered(&flushed, 1, 4096, 8192), 4096);
        assert_eq!(covered(&flushed, 2, 4096, 8192), 0);
    }
}
