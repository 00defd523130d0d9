// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power losses: workers write, fsync and transfer into pinned memory until the host ends or stops the
//! machine; afterwards everything that fsync has returned for must be there, on a consistent filesystem.
//!
//! The filesystems are on nvdimms that are files of the host's. What the guest has stored is in them, so they
//! are at any moment as they are after a power loss then, but for what a real processor would still have had
//! in its caches.

mod block;
mod check;
mod device;
mod ledger;
mod pinned;
mod plain;
mod state;
mod transfer;
mod verify;
mod work;
mod worker;

use crate::setup::Fs;
use serde::Serialize;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Options {
    /// Write, fsync and transfer until the machine is ended
    Work(work::Options),
    /// Look at what the host puts on the nvdimms
    Check(check::Options),
}

/// What was found on a filesystem after a power loss.
#[derive(Serialize)]
struct Report {
    /// The number of the power loss.
    point: u64,
    fs: Fs,
    #[serde(flatten)]
    count: verify::Count,
    /// What is not as it has to be.
    problems: Vec<String>,
    milliseconds: u64,
}

/// Those named, or both.
fn chosen(named: &[Fs]) -> &[Fs] {
    if named.is_empty() {
        &Fs::ALL
    } else {
        named
    }
}

/// Does it; whether it could be done.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    match options {
        Options::Work(options) => work::run(options),
        Options::Check(options) => check::run(options),
    }
}
