// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests of one configuration on one kernel, in as many boots of the guest as it takes.

use super::config::Config;
use super::result::{outcomes, Outcome, Outcomes, Verdict};
use super::store::Unit;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Session};
use crate::ui::proc::quote;
use crate::ui::signals;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Boots in which no test has come to an end, one after the other, until that is given up.
const ATTEMPTS: usize = 2;

/// What is to be run.
pub struct Job<'a> {
    /// The kernel's image.
    pub image: &'a Path,
    /// `patched` or `base`.
    pub kernel: &'a str,
    /// The configuration.
    pub config: Config,
    /// Which time, from 1.
    pub round: usize,
    /// The tests, in order, without those that are excluded.
    pub tests: &'a [String],
    /// The archive that the guest unpacks.
    pub stage: &'a Path,
    /// The program that pins, as `LAYOUT_PINNER` has it.
    pub pinner: &'a str,
    /// With nothing new for this long, a test hangs.
    pub silence: Duration,
    /// Everything about this job goes here.
    pub dir: PathBuf,
}

/// Where the guest has everything, and the root directory of the tests in it. In the guest's own one
/// even `/bin` would be looked up over 9p each time.
const PLACE: &str = "/run/fstests";

impl Job<'_> {
    /// What the guest's shell is given: it unpacks everything, and runs `check`.
    fn script(&self, logs: &Path, tests: &[String]) -> String {
        let Config {
            fs, mkfs, mount, ..
        } = self.config;
        let path = |p: &Path| quote(p.as_os_str());
        let results = path(&shared(logs).join("results"));
        let names = tests.join(" ");
        let stage = path(self.stage);
        format!(
            "set -e\n\
             mkdir -p {PLACE}\n\
             mount -t tmpfs tmpfs {PLACE}\n\
             cd {PLACE}\n\
             tar -b 1024 -xf {stage}\n\
             mkdir upper work\n\
             cd root\n\
             mkdir dev etc proc results root run scratch sys test tmp usr var var/lock var/tmp\n\
             ln -s usr/bin usr/lib usr/lib64 usr/sbin .\n\
             chmod 1777 tmp var/tmp\n\
             mount -t overlay -o lowerdir={PLACE}/usr:/usr overlay usr\n\
             mount -t overlay -o \
             lowerdir={PLACE}/etc:/etc,upperdir={PLACE}/upper,workdir={PLACE}/work overlay etc\n\
             for dir in dev proc sys; do mount --rbind /$dir $dir; done\n\
             mount --bind /run run\n\
             mkdir -p {results}\n\
             mount --bind {results} results\n\
             for user in fsgqa:1001 fsgqa2:1002 123456-fsgqa:1003; do\n\
             \x20   echo \"${{user%:*}}:x:${{user#*:}}:${{user#*:}}::/tmp:/bin/bash\" >>etc/passwd\n\
             \x20   echo \"${{user%:*}}:x:${{user#*:}}:\" >>etc/group\n\
             done\n\
             mountpoint -q sys/kernel/debug || mount -t debugfs debugfs sys/kernel/debug\n\
             {rdma}\
             cat >config <<'END'\n\
             export FSTYP={fs}\n\
             export TEST_DEV=/dev/pmem0 TEST_DIR=/test\n\
             export SCRATCH_DEV=/dev/pmem1 SCRATCH_MNT=/scratch\n\
             export LOGWRITES_DEV=/dev/pmem2\n\
             export MKFS_OPTIONS='{mkfs}' MOUNT_OPTIONS='{mount}' TEST_FS_MOUNT_OPTS='{mount}'\n\
             export RESULT_BASE=/results\n\
             export LAYOUT_PINNER={pinner} DIFF_LENGTH=60\n\
             END\n\
             cat >run-check <<'END'\n\
             export HOST_OPTIONS=/config PATH=/usr/sbin:/usr/bin\n\
             mkfs.{fs} -q {force} {mkfs} /dev/pmem0\n\
             cd /tree\n\
             bash ./check --exact-order {names}\n\
             END\n\
             chroot . sh /run-check\n",
            rdma = match self.pinner {
                "rdma" =>
                    "ip link add d1 type dummy\nip link set d1 up\n\
                     rdma link add rxe0 type rxe netdev d1\n",
                _ => "",
            },
            pinner = self.pinner,
            force = if fs == "xfs" { "-f" } else { "-F" },
        )
    }

    fn sessions(&self) -> PathBuf {
        self.dir.join("sessions")
    }

    /// What earlier sessions have found out. One that was interrupted blames no test.
    fn known(&self) -> Outcomes {
        let mut all = Outcomes::new();
        for n in 1.. {
            let logs = self.sessions().join(n.to_string());
            if !logs.exists() {
                break;
            }
            let trouble = fs::read_to_string(logs.join("trouble")).ok();
            all.extend(self.outcomes(&logs, trouble.as_deref()));
        }
        all
    }

    fn outcomes(&self, logs: &Path, trouble: Option<&str>) -> Outcomes {
        let read = |p: PathBuf| {
            let bytes = fs::read(p).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let console = read(logs.join("serial.log"));
        outcomes(&read(shared(logs).join("stdout")), &console, trouble)
    }

    fn next_session(&self) -> PathBuf {
        let dir = self.sessions();
        let free = (1..).map(|n| dir.join(n.to_string())).find(|d| !d.exists());
        free.unwrap_or(dir)
    }

    /// Runs what has not been run, in a new boot after each crash.
    pub fn run(&self, ctx: &Ctx) -> Result<Unit> {
        let mut all = self.known();
        let mut in_vain = 0;
        loop {
            let left: Vec<String> = self
                .tests
                .iter()
                .filter(|t| !all.contains_key(*t))
                .cloned()
                .collect();
            if left.is_empty() {
                break;
            }
            let before = all.len();
            all.extend(self.session(ctx, &left)?);
            if ctx.global.dry_run {
                break;
            }
            in_vain = if all.len() == before { in_vain + 1 } else { 0 };
            if in_vain == ATTEMPTS {
                let dir = self.sessions();
                return Err(Failure::of(
                    Kind::Setup,
                    format!(
                        "{} on the {} kernel: no test comes to an end, the next would be {}; see {}",
                        self.config,
                        self.kernel,
                        left[0],
                        dir.display()
                    ),
                ));
            }
        }
        all.retain(|name, _| self.tests.contains(name));
        for (name, why) in self.config.excluded(ctx)? {
            all.insert(
                name,
                Outcome {
                    verdict: Verdict::Excluded,
                    detail: vec![why],
                    seconds: None,
                },
            );
        }
        Ok(Unit {
            kernel: self.kernel.to_string(),
            config: self.config.to_string(),
            round: self.round,
            outcomes: all,
        })
    }

    fn session(&self, ctx: &Ctx, tests: &[String]) -> Result<Outcomes> {
        let logs = self.next_session();
        let session = Session {
            image: self.image,
            logs: &logs,
            script: self.script(&logs, tests),
            silence: self.silence,
            limit: None,
            attached: false,
        };
        if ctx.global.dry_run {
            session.run_large(ctx, |_| {})?;
            return Ok(Outcomes::new());
        }
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let label = format!(
            "{} on the {} kernel, {} tests",
            self.config,
            self.kernel,
            tests.len()
        );
        let mut step = ctx.ui.step(&label);
        let ended = session.run_large(ctx, |line| step.line(line))?;
        signals::check()?;
        // A complaint that the kernel has survived is the business of `check`.
        let trouble = match (ended.status, ended.trouble) {
            (Some(_), _) => None,
            (None, Some(why)) => Some(why),
            (None, None) => Some("the guest ended before the tests did".to_string()),
        };
        if let Some(why) = &trouble {
            fs::write(logs.join("trouble"), why).context("cannot write what went wrong")?;
        }
        let found = self.outcomes(&logs, trouble.as_deref());
        step.done(
            &match found.values().find(|o| o.verdict == Verdict::Crash) {
                Some(_) => format!("{} have ended, the last one in a crash", found.len()),
                None => format!("{} have ended", found.len()),
            },
        );
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::ALL;
    use super::*;

    fn job<'a>(dir: &Path, tests: &'a [String]) -> Job<'a> {
        Job {
            image: Path::new("/k/bzImage"),
            kernel: "patched",
            config: ALL[1],
            round: 1,
            tests,
            stage: Path::new("/x/a stage.tar"),
            pinner: "gup_test",
            silence: Duration::from_secs(1),
            dir: dir.to_path_buf(),
        }
    }

    #[test]
    fn the_script_is_one_that_the_shell_reads() {
        let dir = tempfile::tempdir().unwrap();
        let tests = ["generic/001".to_string()];
        let script = job(dir.path(), &tests).script(dir.path(), &tests);
        let sh = crate::ui::proc::Cmd::new("sh").args(["-n", "-c", &script]);
        assert!(sh.succeeds(), "{script}");
        assert!(script.contains("tar -b 1024 -xf '/x/a stage.tar'"));
        assert!(script.contains("MKFS_OPTIONS='-b 4096'"));
        assert!(script.contains("check --exact-order generic/001\nEND\n"));
    }

    #[test]
    fn what_was_found_out_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let tests: Vec<String> = (1..4).map(|n| format!("generic/00{n}")).collect();
        let job = job(dir.path(), &tests);
        let session = |printed: &str, trouble: Option<&str>| {
            let logs = job.next_session();
            fs::create_dir_all(shared(&logs)).unwrap();
            fs::write(shared(&logs).join("stdout"), printed).unwrap();
            if let Some(why) = trouble {
                fs::write(logs.join("trouble"), why).unwrap();
            }
        };
        session("generic/001   3s\ngeneric/002   ", Some("it hangs"));
        // Interrupted by the user: that test is run again.
        session("generic/003   ", None);
        let known = job.known();
        assert_eq!(known["generic/001"].verdict, Verdict::Pass);
        assert_eq!(known["generic/002"].verdict, Verdict::Crash);
        assert_eq!(known.len(), 2);
        assert!(job.next_session().ends_with("3"));
    }
}
