// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine with memory that outlives it, running on a thread of its own.

use super::memory::Memory;
use super::qmp::Qmp;
use super::report::{Report, Reports};
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Outcome, Session};
use crate::ui::proc::{last_lines, quote};
use crate::ui::signals;
use anyhow::{bail, Context, Result};
use rustix::process::{kill_process, Pid, Signal};
use std::path::{Path, PathBuf};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// With nothing new from a guest for this long, it is stuck. While it is stopped, it is silent.
const SILENCE: Duration = Duration::from_secs(300);
/// Between two looks.
pub const TICK: Duration = Duration::from_millis(3);

/// What every machine is booted with.
pub struct Boot<'a> {
    /// What there is on this host.
    pub ctx: &'a Ctx,
    /// The kernel.
    pub image: &'a Path,
    /// The program that runs in it.
    pub program: &'a Path,
    /// The directory for a directory of logs for each machine.
    pub logs: &'a Path,
}

/// A machine. It is killed on drop.
pub struct Guest<'scope> {
    thread: Option<ScopedJoinHandle<'scope, Result<Outcome>>>,
    /// For the socket, whose path must not be long, and QEMU's pid.
    places: TempDir,
    logs: PathBuf,
    reports: Reports,
}

impl Boot<'_> {
    /// The session, and QEMU's arguments.
    fn session<'a>(&'a self, logs: &'a Path, arguments: &str) -> Session<'a> {
        Session {
            image: self.image,
            logs,
            script: format!(
                "{} powerloss {arguments} --out {}",
                quote(self.program.as_os_str()),
                quote(reports(logs).as_os_str())
            ),
            silence: SILENCE,
            limit: None,
            attached: false,
        }
    }

    fn qemu(memory: &Path, places: &Path) -> Vec<String> {
        let mut qemu = Memory::qemu(memory);
        qemu.extend([
            "-pidfile".into(),
            places.join("pid").display().to_string(),
            "-qmp".into(),
            format!("unix:{},server=on,wait=off", places.join("qmp").display()),
        ]);
        qemu
    }

    /// Boots a machine that has this memory, and runs the guest program's `powerloss` with these arguments.
    pub fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        memory: &Memory,
        arguments: &str,
    ) -> Result<Guest<'scope>> {
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        let places = tempfile::tempdir().context("cannot make a temporary directory")?;
        let qemu = Self::qemu(memory.dir(), places.path());
        let arguments = arguments.to_owned();
        let thread = {
            let logs = logs.clone();
            scope.spawn(move || {
                let session = self.session(&logs, &arguments);
                session.run_nvdimm(self.ctx, &qemu, |_| {})
            })
        };
        Ok(Guest {
            thread: Some(thread),
            places,
            reports: Reports::new(reports(&logs)),
            logs,
        })
    }

    /// What `start` would run, for a dry run.
    pub fn show(&self, name: &str, arguments: &str) -> Result<()> {
        let logs = self.logs.join(name);
        let qemu = Self::qemu(&self.ctx.cache.dir, &self.ctx.cache.dir);
        let session = self.session(&logs, arguments);
        session.run_nvdimm(self.ctx, &qemu, |_| {}).map(drop)
    }
}

fn reports(logs: &Path) -> PathBuf {
    shared(logs).join("reports.jsonl")
}

impl Guest<'_> {
    /// An error if it has ended.
    pub fn alive(&mut self) -> Result<()> {
        signals::check()?;
        if self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            return Ok(());
        }
        let status = self.ended()?.check(&self.logs)?;
        let read = |name| std::fs::read_to_string(shared(&self.logs).join(name));
        let said = [read("stdout"), read("stderr")].map(Result::unwrap_or_default);
        Err(Failure::of(
            Kind::Test,
            format!(
                "the guest has ended with status {status}: {}\n{}",
                self.logs.display(),
                last_lines(&said.concat(), 4)
            ),
        ))
    }

    fn ended(&mut self) -> Result<Outcome> {
        let thread = self.thread.take().context("the guest has ended before")?;
        match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("the thread of a guest has panicked"),
        }
    }

    /// What it has reported.
    pub fn poll(&mut self) -> Result<Vec<Option<Report>>> {
        self.alive()?;
        self.reports.poll()
    }

    /// Waits until it is ready; what it has reported till then.
    pub fn ready(&mut self) -> Result<Vec<Report>> {
        let mut before = vec![];
        loop {
            for report in self.poll()? {
                match report {
                    Some(report) => before.push(report),
                    None => return Ok(before),
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits until a round of work is under way in its memory.
    pub fn working(&mut self, memory: &Memory) -> Result<()> {
        while memory.round()? == 0 {
            self.alive()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Lets so much time pass.
    pub fn goes_on(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.alive()?;
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// A connection to QEMU.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.places.path().join("qmp"))
    }

    /// Kills QEMU. What the kernel had complained about before is an error.
    pub fn kill(mut self) -> Result<()> {
        self.end();
        let outcome = self.ended()?;
        if outcome.trouble.is_some() {
            outcome.check(&self.logs)?;
        }
        Ok(())
    }

    /// Waits for its end, which must be a good one.
    pub fn wait(mut self) -> Result<()> {
        let status = self.ended()?.check(&self.logs)?;
        if status != 0 {
            bail!(
                "the guest has ended with status {status}: {}",
                self.logs.display()
            );
        }
        Ok(())
    }

    /// Kills QEMU as soon as it is there, and waits until the session knows.
    fn end(&mut self) {
        let pid = self.places.path().join("pid");
        while self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            let text = std::fs::read_to_string(&pid).unwrap_or_default();
            if let Some(qemu) = text.trim().parse().ok().and_then(Pid::from_raw) {
                // Once only: another process could come to have the number.
                let _ = kill_process(qemu, Signal::KILL);
                let _ = std::fs::remove_file(&pid);
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
