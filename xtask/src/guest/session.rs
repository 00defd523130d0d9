// SPDX-License-Identifier: MIT OR Apache-2.0
//! One boot of the guest: run a script in it, watch console and results, tell how it ended.

use super::vm::{Clock, Machine, Vm};
use super::watchdog::Console;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::{quote, Running};
use crate::ui::{signals, stream};
use anyhow::{bail, Context, Result};
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long the kernel may take to user space. Twenty seconds is usual without KVM.
const BOOT: Duration = Duration::from_secs(180);
/// How long until its first line. It is there within a second or two when there is one at all, but
/// on a machine with five times as much to do it has taken more than a minute.
const FIRST_LINE: Duration = Duration::from_secs(120);
/// How long a dead kernel may go on writing its backtrace.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// A script to run in the guest.
pub struct Session<'a> {
    /// The kernel image.
    pub image: &'a Path,
    /// Where console and results go.
    pub logs: &'a Path,
    /// A command line for the guest's shell.
    pub script: String,
    /// With nothing new on the console or in the results for this long, the guest is stuck.
    pub silence: Duration,
    /// At the end of this time the run is stopped in any case.
    pub limit: Option<Duration>,
    /// Pass the terminal's input and the script's output through.
    pub attached: bool,
}

/// How a session ended.
#[derive(Debug)]
pub struct Outcome {
    /// The script's exit status; `None` when it did not come to its end.
    pub status: Option<i32>,
    /// What the watchdog says, if it says anything.
    pub trouble: Option<String>,
}

impl Outcome {
    /// An error of the right kind if the kernel was in trouble or the script did not end.
    pub fn check(&self, logs: &Path) -> Result<i32> {
        let serial = logs.join("serial.log");
        if let Some(t) = &self.trouble {
            return Err(Failure::of(
                Kind::Kernel,
                format!("{t}\nconsole: {}", serial.display()),
            ));
        }
        self.status.ok_or_else(|| {
            Failure::of(
                Kind::Kernel,
                format!(
                    "the guest ended before its script did\nconsole: {}:\n{}",
                    serial.display(),
                    tail(&serial, 6)
                ),
            )
        })
    }
}

/// The directory of results that the guest may write to, inside the logs.
pub fn shared(logs: &Path) -> PathBuf {
    logs.join("guest")
}

impl Session<'_> {
    /// Runs a script whose status is its verdict; `what` says what a status other than 0 means.
    pub fn verdict(&self, ctx: &Ctx, what: &str) -> Result<()> {
        match self.run(ctx, |_| {})?.check(self.logs)? {
            0 => Ok(()),
            _ => Err(Failure::of(
                Kind::Test,
                format!("{what}: {}", self.logs.display()),
            )),
        }
    }

    /// Boots, runs, waits.
    pub fn run(&self, ctx: &Ctx, note: impl FnMut(&str)) -> Result<Outcome> {
        self.run_on(ctx, Clock::Host, &[], note)
    }

    /// The same on a machine with such a clock, and with more arguments for QEMU.
    pub fn run_on(
        &self,
        ctx: &Ctx,
        clock: Clock,
        qemu: &[String],
        note: impl FnMut(&str),
    ) -> Result<Outcome> {
        self.boot(ctx, (Machine::SMALL, clock, qemu, &[]), note)
    }

    /// The same with more words of the kernel's command line.
    pub fn run_with(
        &self,
        ctx: &Ctx,
        options: &[String],
        note: impl FnMut(&str),
    ) -> Result<Outcome> {
        self.boot(ctx, (Machine::SMALL, Clock::Host, &[], options), note)
    }

    /// The same on a machine with large devices.
    pub fn run_large(&self, ctx: &Ctx, note: impl FnMut(&str)) -> Result<Outcome> {
        self.boot(ctx, (Machine::LARGE, Clock::Host, &[], &[]), note)
    }

    /// The same on a machine with nvdimms, which the arguments for QEMU are about.
    pub fn run_nvdimm(
        &self,
        ctx: &Ctx,
        qemu: &[String],
        note: impl FnMut(&str),
    ) -> Result<Outcome> {
        self.boot(ctx, (Machine::NVDIMM, Clock::Host, qemu, &[]), note)
    }

    fn boot(
        &self,
        ctx: &Ctx,
        (machine, clock, qemu, options): (Machine, Clock, &[String], &[String]),
        mut note: impl FnMut(&str),
    ) -> Result<Outcome> {
        let shared = shared(self.logs);
        let script_file = shared.join("script.sh");
        let vm = Vm {
            image: self.image,
            shared: &shared,
            script: Some(format!("sh {}", quote(script_file.as_os_str()))),
            machine,
            clock,
            qemu,
            options,
        };
        let cmd = vm.command(ctx)?;
        if ctx.global.dry_run {
            println!("{cmd}");
            if crate::env::tools::venv_stamp(ctx).exists() {
                println!("{}", vm.qemu_line(ctx)?);
            }
            return Ok(Outcome {
                status: Some(0),
                trouble: None,
            });
        }
        fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
        fs::write(&script_file, self.wrapped(&shared))?;
        if ctx.global.verbose {
            eprintln!("+ {cmd}");
        }
        let serial = self.logs.join("serial.log");
        let console_file =
            File::create(&serial).with_context(|| format!("cannot write {}", serial.display()))?;
        let mut child = cmd.spawn(|c| {
            c.stdout(Stdio::null()).stderr(console_file);
            // A terminal stays ours: QEMU, in the background, would be stopped for reading it.
            if self.attached && !std::io::stdin().is_terminal() {
                c.stdin(Stdio::inherit());
            }
        })?;
        let outcome = self.watch(&mut child, &serial, &shared, &mut note);
        if outcome.is_err() {
            drop(child);
        }
        outcome
    }

    /// The script with its output going to files, for the virtual console loses what is in flight
    /// when the guest ends, and with its exit status written when all of it is done. virtme-ng has
    /// made /dev/stdout and /dev/stderr doors to the host; programs that open them, as the runner of
    /// the kernel's selftests does, mean what they were started with.
    fn wrapped(&self, shared: &Path) -> String {
        let file = |name: &str| quote(shared.join(name).as_os_str());
        format!(
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n\
             for door in 1:/dev/stdout 2:/dev/stderr; do\n\
             case \"$(readlink ${{door#*:}})\" in\n\
             */virtio-ports/*) ln -sfn /proc/self/fd/${{door%:*}} ${{door#*:}};;\n\
             esac\n\
             done\n\
             : >{booted}\n\
             ( {script}\n) >{out} 2>{err}\n\
             status=$?\n\
             echo $status >{tmp} && mv {tmp} {done}\n\
             sync\n\
             exit $status\n",
            booted = file("booted"),
            script = self.script,
            out = file("stdout"),
            err = file("stderr"),
            tmp = file("status.new"),
            done = file("status"),
        )
    }

    fn watch(
        &self,
        child: &mut Running,
        serial: &Path,
        shared: &Path,
        note: &mut impl FnMut(&str),
    ) -> Result<Outcome> {
        let mut console = Console::new(serial);
        let mut follow = [
            Follow::new(shared.join("stdout")),
            Follow::new(shared.join("stderr")),
        ];
        let started = Instant::now();
        let mut heard = (0, Instant::now());
        let mut died: Option<Instant> = None;
        let mut trouble = None;
        loop {
            signals::check()?;
            let ended = child.try_wait()?.is_some();
            for line in console.poll() {
                note(&line);
            }
            for (n, f) in follow.iter_mut().enumerate() {
                let new = f.read();
                if self.attached {
                    match n {
                        0 => stream::bytes(&new),
                        _ => drop(std::io::stderr().write_all(&new)),
                    }
                } else {
                    String::from_utf8_lossy(&new).lines().for_each(&mut *note);
                }
            }
            if ended {
                break;
            }
            let activity = console.size() + size_of_all(shared);
            if activity != heard.0 {
                heard = (activity, Instant::now());
            }
            let booted = shared.join("booted").exists();
            trouble = if console.dead.is_some() {
                let since = *died.get_or_insert_with(Instant::now);
                (since.elapsed() > LAST_WORDS).then(String::new)
            } else if !booted && started.elapsed() > if console.started { BOOT } else { FIRST_LINE }
            {
                Some(never_booted(&console, serial))
            } else if booted && heard.1.elapsed() > self.silence {
                Some(format!(
                    "the guest is stuck: nothing new for {} s",
                    self.silence.as_secs()
                ))
            } else if self.limit.is_some_and(|l| started.elapsed() > l) {
                Some(format!(
                    "the guest is not done after {} s",
                    started.elapsed().as_secs()
                ))
            } else {
                None
            };
            if trouble.is_some() {
                child.terminate();
                break;
            }
            std::thread::sleep(TICK);
        }
        if trouble.is_none() {
            console.poll();
        }
        console.end();
        let status = fs::read_to_string(shared.join("status")).ok();
        let status = status.and_then(|s| s.trim().parse().ok());
        if status.is_none() && trouble.is_none() && !shared.join("booted").exists() {
            if !console.started {
                bail!(
                    "the guest did not start, see {}:\n{}",
                    serial.display(),
                    tail(serial, 8)
                );
            }
            trouble = Some(never_booted(&console, serial));
        }
        let trouble = match (console.verdict(), trouble) {
            (Some(line), _) => Some(format!("the kernel is in trouble: {line}")),
            (None, t) => t,
        };
        Ok(Outcome { status, trouble })
    }
}

fn never_booted(console: &Console, serial: &Path) -> String {
    let what = if console.started {
        format!(
            "the guest never got to user space; its last lines:\n{}",
            tail(serial, 6)
        )
    } else {
        format!(
            "the guest never booted: the kernel wrote nothing to its console in {} s",
            FIRST_LINE.as_secs()
        )
    };
    format!(
        "{what}\nremedy: an image for --kernel needs the options in configs/guest.config; without \
         --kernel one is built that has them"
    )
}

fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    crate::ui::proc::last_lines(&String::from_utf8_lossy(&bytes), lines)
}

fn size_of_all(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

/// A file that grows.
struct Follow {
    path: PathBuf,
    offset: u64,
}

impl Follow {
    fn new(path: PathBuf) -> Self {
        Follow { path, offset: 0 }
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        if let Ok(mut f) = File::open(&self.path) {
            if f.seek(SeekFrom::Start(self.offset)).is_ok() {
                let _ = f.read_to_end(&mut bytes);
            }
        }
        self.offset += bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_beats_a_good_status() {
        let o = Outcome {
            status: Some(0),
            trouble: Some("WARNING: x".into()),
        };
        let e = o.check(Path::new("/logs")).unwrap_err();
        assert_eq!(crate::error::kind(&e), Kind::Kernel);
        assert!(e.to_string().contains("/logs/serial.log"), "{e}");
    }

    #[test]
    fn no_status_means_the_guest_died() {
        let o = Outcome {
            status: None,
            trouble: None,
        };
        assert_eq!(
            crate::error::kind(&o.check(Path::new("/logs")).unwrap_err()),
            Kind::Kernel
        );
        assert_eq!(
            Outcome {
                status: Some(1),
                trouble: None
            }
            .check(Path::new("/"))
            .unwrap(),
            1
        );
    }

    #[test]
    fn the_script_reports_its_status_last() {
        let dir = tempfile::tempdir().unwrap();
        let s = Session {
            image: Path::new("x"),
            logs: dir.path(),
            script: "echo out; echo err >&2; false".into(),
            silence: BOOT,
            limit: None,
            attached: false,
        };
        let sh = crate::ui::proc::Cmd::new("sh")
            .arg("-c")
            .arg(s.wrapped(dir.path()));
        assert!(!sh.succeeds());
        let read = |n: &str| fs::read_to_string(dir.path().join(n)).unwrap();
        assert_eq!(
            (read("stdout").as_str(), read("stderr").as_str()),
            ("out\n", "err\n")
        );
        assert_eq!(read("status"), "1\n");
    }
}
