// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenario: RDMA straight into files of a DAX filesystem, and layout changes that cannot hurt it.

mod data;
mod holder;
mod memory;
mod transfer;

use crate::client::Client;
use crate::names::errno_name;
use crate::protocol::Reply;
use crate::results::{Results, Row};
use crate::setup::{Fs, Mounted, Rdma};
use crate::trial::Verdict;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// The contract's argument for an exclusive lease any number of processes may hold.
pub const EXCLUSIVE: i32 = libc::F_RDLCK | layout_lease::F_LAYOUT | layout_lease::F_EXCLUSIVE;

/// What to show, and where to.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the results go: JSON Lines, the last one {"done":true,"steps":N}
    #[arg(long, value_name = "FILE")]
    pub results: PathBuf,
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    pub fs: Vec<Fs>,
    /// The launcher that takes leases [default: beside this program]
    #[arg(long, value_name = "PATH")]
    pub daxpin: Option<PathBuf>,
}

struct Demo {
    results: Results,
    rdma: Rdma,
    daxpin: PathBuf,
    /// Verbs clients take seconds to start on an emulated CPU: one is always started ahead.
    spare: Option<Client>,
}

/// Runs everything; whether all of it was as the contract says.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let daxpin = match &options.daxpin {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("daxpin"),
    };
    anyhow::ensure!(
        daxpin.is_file(),
        "no launcher at {}: say where with --daxpin",
        daxpin.display()
    );
    let rdma = Rdma::ready()?;
    let mut demo = Demo {
        results: Results::create(&options.results)?,
        spare: Some(Client::verbs(rdma.device, rdma.gid_index)?),
        rdma,
        daxpin,
    };
    let chosen = if options.fs.is_empty() {
        &Fs::ALL[..]
    } else {
        &options.fs
    };
    for &fs in chosen {
        demo.on(fs).with_context(|| format!("on {}", fs.name()))?;
    }
    demo.without_files()?;
    demo.results.finish()
}

impl Demo {
    fn on(&mut self, fs: Fs) -> anyhow::Result<()> {
        let mut mounted = Mounted::fresh(fs)?;
        let mut client = self.verbs_client()?;
        self.without_lease(&mounted, &mut client)?;
        self.transfer(&mounted)?;
        self.on_an_unleased_file(&mounted)?;
        self.holder(&mounted, client)?;
        let mut client = self.verbs_client()?;
        self.data(&mut mounted, &mut client)?;
        self.spare = Some(client);
        mounted.unmount()
    }

    /// A verbs client that holds nothing.
    fn verbs_client(&mut self) -> anyhow::Result<Client> {
        match self.spare.take() {
            Some(client) => Ok(client),
            None => Client::verbs(self.rdma.device, self.rdma.gid_index),
        }
    }

    /// Starts the next one while other work goes on.
    fn prepare_verbs_client(&mut self) -> anyhow::Result<()> {
        if self.spare.is_none() {
            self.spare = Some(Client::verbs(self.rdma.device, self.rdma.gid_index)?);
        }
        Ok(())
    }

    /// A row of a trial.
    fn trial(
        &mut self,
        fs: &str,
        group: &str,
        step: &str,
        verdict: anyhow::Result<Verdict>,
    ) -> anyhow::Result<()> {
        let mut row = Row {
            fs: fs.to_owned(),
            group: group.to_owned(),
            step: step.to_owned(),
            ..Row::default()
        };
        match verdict {
            Ok(verdict) => {
                row.expected = verdict.expected;
                row.got = verdict.got;
                row.errno = Some(verdict.errno);
                row.nanoseconds = Some(verdict.ns);
                row.ok = verdict.ok;
            }
            Err(error) => {
                row.expected = "an outcome".to_owned();
                row.got = format!("{error:#}");
            }
        }
        self.results.add(&row)
    }

    /// A row of a request that has one right errno.
    fn errno(
        &mut self,
        fs: &str,
        group: &str,
        step: &str,
        wanted: i32,
        reply: anyhow::Result<Reply>,
    ) -> anyhow::Result<()> {
        let verdict = reply.map(|reply| Verdict {
            expected: errno_name(wanted),
            got: errno_name(reply.errno),
            errno: reply.errno,
            ns: reply.ns,
            ok: reply.errno == wanted,
        });
        self.trial(fs, group, step, verdict)
    }

    /// A row of anything else: what was found, or what was found instead.
    fn finding(
        &mut self,
        fs: &str,
        group: &str,
        step: &str,
        expected: &str,
        found: Result<String, String>,
    ) -> anyhow::Result<()> {
        let ok = found.is_ok();
        self.results.add(&Row {
            fs: fs.to_owned(),
            group: group.to_owned(),
            step: step.to_owned(),
            expected: expected.to_owned(),
            got: found.unwrap_or_else(|instead| instead),
            ok,
            ..Row::default()
        })
    }
}

fn same_name(path: &Path, suffix: &str) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}{suffix}")
}
