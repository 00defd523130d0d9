// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots a guest for each mutant and runs its tests.

use super::list::{Mutant, CONTROL};
use super::record::{contract_name, selftest_name, Record};
use crate::cmd::test::share::selftest_cases;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::ktap;
use crate::guest::session::{shared, Session};
use crate::guest::tools::Tools;
use crate::guest::vm;
use crate::kernel::selftests;
use crate::ui::proc::quote;
use crate::ui::signals;
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The parameter of the kernel that takes a hook out.
const PARAMETER: &str = "file_pin_mutant.on";
/// Where the guest sees it.
const SYSFS: &str = "/sys/module/file_pin_mutant/parameters/on";
/// The script's status if the kernel has not got the mutant.
const UNKNOWN: i32 = 99;
/// A guest that tells nothing for so long hangs. Each request of a test has a shorter limit.
const SILENCE: Duration = Duration::from_secs(180);
/// How often a guest is started that does not get to user space.
const BOOTS: usize = 3;
/// Guests at once.
const GUESTS: usize = 2;

/// What every run needs.
pub struct Runner<'a> {
    pub ctx: &'a Ctx,
    pub image: &'a Path,
    /// The image's checksum.
    pub checksum: &'a str,
    pub tools: &'a Tools,
    /// Where the kernel's selftests were installed.
    pub selftests: &'a Path,
    /// Where the results go.
    pub dir: &'a Path,
}

/// What is heard of runs under way.
enum News {
    Line(String),
    Done(Box<Record>),
}

impl Runner<'_> {
    /// Runs them, and calls `done` with each record as soon as it is there.
    pub fn all(
        &self,
        mutants: &[Mutant],
        mut line: impl FnMut(&str),
        mut done: impl FnMut(&Record),
    ) -> Result<()> {
        let queue: Mutex<VecDeque<&Mutant>> = Mutex::new(mutants.iter().collect());
        let guests = match vm::room_for(GUESTS) {
            true => GUESTS.min(self.ctx.jobs()),
            false => 1,
        };
        let (sender, news) = channel();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..guests)
                .map(|_| {
                    let (queue, sender) = (&queue, sender.clone());
                    scope.spawn(move || self.some(queue, &sender))
                })
                .collect();
            drop(sender);
            for n in news {
                match n {
                    News::Line(text) => line(&text),
                    News::Done(record) => done(&record),
                }
            }
            let ended = |t: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of a guest panicked")))
            };
            // All of them are waited for before the first error counts.
            let results: Vec<Result<()>> = threads.into_iter().map(ended).collect();
            results.into_iter().collect()
        })
    }

    fn some(&self, queue: &Mutex<VecDeque<&Mutant>>, news: &Sender<News>) -> Result<()> {
        loop {
            signals::check()?;
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(mutant) = next else { return Ok(()) };
            let record = self.one(mutant, |text| {
                // Nobody listens any more when the run was interrupted.
                let _ = news.send(News::Line(text.to_string()));
            });
            match record {
                Ok(Some(record)) => drop(news.send(News::Done(Box::new(record)))),
                // It is missed where all of them are judged.
                Ok(None) => {}
                Err(e) => {
                    // What is left would fail in the same way.
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return Err(e.context(mutant.name.clone()));
                }
            }
        }
    }

    /// Boots with this hook taken out. That the kernel dies of it, or the guest hangs, is a result; that
    /// it never gets to user space is none.
    fn one(&self, mutant: &Mutant, mut note: impl FnMut(&str)) -> Result<Option<Record>> {
        let logs = self.dir.join(&mutant.name);
        let old = Record::read(self.dir, &mutant.name)?.filter(|r| r.image == self.checksum);
        if logs.exists() && !self.ctx.global.dry_run {
            fs::remove_dir_all(&logs)
                .with_context(|| format!("cannot remove the old {}", logs.display()))?;
        }
        let session = Session {
            image: self.image,
            logs: &logs,
            script: self.script(mutant, &logs),
            silence: SILENCE,
            limit: None,
            attached: false,
        };
        let begun = Instant::now();
        let options = [format!("{PARAMETER}={}", mutant.name)];
        let booted = || shared(&logs).join("booted").exists();
        let mut outcome = session.run_with(self.ctx, &options, &mut note)?;
        // Emulation does not survive every boot, and a busy host lets it time out.
        for _ in 1..BOOTS {
            if booted() || self.ctx.global.dry_run {
                break;
            }
            signals::check()?;
            outcome = session.run_with(self.ctx, &options, &mut note)?;
        }
        if !booted() && !self.ctx.global.dry_run {
            note(&format!("{}: no guest got to user space", mutant.name));
            return Ok(None);
        }
        let mut record = Record::new(mutant, self.checksum);
        if self.ctx.global.dry_run {
            return Ok(Some(record));
        }
        if outcome.status == Some(UNKNOWN) {
            return Err(Failure::of(
                Kind::Setup,
                format!(
                    "the kernel {} has no mutant {}",
                    self.image.display(),
                    mutant.name
                ),
            ));
        }
        record.seconds = begun.elapsed().as_secs();
        let read = |name: &str| fs::read_to_string(shared(&logs).join(name)).ok();
        if let Some(text) = read("contract.ktap") {
            record.add(ktap::parse(&text, ""), contract_name);
        }
        if let Some(text) = read("kselftest.ktap") {
            record.add(selftest_cases(&text), selftest_name);
        }
        if outcome.status.is_none() || outcome.trouble.is_some() {
            let end = "the guest did not come to its end";
            record.trouble = Some(outcome.trouble.unwrap_or_else(|| end.into()));
        }
        if let Some(trouble) = record.trouble.as_ref().filter(|_| mutant.name == CONTROL) {
            return Err(Failure::of(
                Kind::Kernel,
                format!("without any mutant: {trouble}"),
            ));
        }
        // Without a mutant only what is missing is run.
        if let Some(mut all) = old.filter(|_| mutant.name == CONTROL) {
            all.join(record);
            record = all;
        }
        record.write(self.dir)?;
        Ok(Some(record))
    }

    fn script(&self, mutant: &Mutant, logs: &Path) -> String {
        let file = |name: &str| shared(logs).join(name);
        let ktap = |name: &str| quote(file(name).as_os_str());
        let mut script = format!(
            "test \"$(cat {SYSFS})\" = {} || exit {UNKNOWN}\n",
            mutant.name
        );
        if !mutant.contract.is_empty() {
            let guest = quote(self.tools.guest.as_os_str());
            script += &format!("{guest} test --ktap {}", ktap("contract.ktap"));
            for fs in &mutant.fs {
                script += &format!(" --fs {}", fs.name());
            }
            for glob in &mutant.contract {
                script += &format!(" --filter {}", quote(glob.as_ref()));
            }
            script += "\n";
        }
        if !mutant.kselftest.is_empty() {
            let fs: Vec<&str> = mutant.fs.iter().map(|fs| fs.name()).collect();
            let report: PathBuf = file("kselftest.ktap");
            let only = mutant.kselftest.join(" ");
            script += &selftests::script(self.selftests, &fs.join(" "), &only, 1, &report);
            script += "\n";
        }
        // The reports say how the tests ended.
        script + "true"
    }
}
