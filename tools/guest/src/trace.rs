// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an fsync flushed: the trace event `fs_dax:dax_writeback_one`.

use crate::setup::mounted;
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4096;

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
        let tracing = mounted("tracefs", "/sys/kernel/tracing", "trace")?;
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
