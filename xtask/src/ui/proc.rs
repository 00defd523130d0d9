// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running other programs: in a process group of their own, ended when xtask ends (even by
//! SIGKILL), with errors that name the exact command.

use super::signals::{self, Ending};
use anyhow::{anyhow, bail, Context, Result};
use rustix::io::{fcntl_setfd, FdFlags};
use rustix::process::{getpid, getppid, set_parent_process_death_signal, Pid, Signal};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

thread_local! {
    static KEPT: RefCell<Vec<RawFd>> = const { RefCell::new(vec![]) };
}

/// A descriptor that whatever this thread starts has as well: a lock is held until all of it has
/// ended, even when xtask has been killed.
pub struct Kept {
    fd: OwnedFd,
    /// It stays with its thread.
    _thread: PhantomData<*const ()>,
}

impl Kept {
    /// From now on until it is dropped.
    pub fn new(fd: OwnedFd) -> Self {
        KEPT.with_borrow_mut(|kept| kept.push(fd.as_raw_fd()));
        Kept {
            fd,
            _thread: PhantomData,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let fd = self.fd.as_raw_fd();
        KEPT.with_borrow_mut(|kept| kept.retain(|&k| k != fd));
    }
}

/// A command line, its environment and its working directory.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    ending: Ending,
}

impl Cmd {
    /// A command without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Cmd {
            program: program.as_ref().into(),
            args: vec![],
            env: vec![],
            cwd: None,
            ending: Ending::Firm,
        }
    }

    /// `git -C dir`.
    pub fn git(dir: &Path) -> Self {
        Cmd::new("git").arg("-C").arg(dir)
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// The same, which an interrupt asks to end and does not kill.
    pub fn patiently(mut self) -> Self {
        self.ending = Ending::Patient;
        self
    }

    /// The same, leaving the processors to what else runs.
    pub fn in_background(self) -> Self {
        let words = [&["-n".into(), "10".into(), self.program], &self.args[..]].concat();
        Cmd {
            program: "nice".into(),
            args: words,
            ..self
        }
    }

    /// The [`Command`], which the kernel ends when xtask dies.
    ///
    /// The death signal is tied to the *thread* that spawns, so only long-lived threads may.
    fn command(&self, own_group: bool) -> Command {
        let mut c = self.plain();
        if own_group {
            c.process_group(0);
        }
        let parent = getpid();
        // SAFETY: prctl(2) and getppid(2) are async-signal-safe and touch nothing of the parent's.
        unsafe {
            c.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::TERM))?;
                // It may have died before that: then nobody would be told.
                if getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(rustix::io::Errno::SRCH.into())
                }
            });
        }
        c
    }

    fn plain(&self) -> Command {
        let mut c = Command::new(&self.program);
        c.args(&self.args).stdin(Stdio::null());
        for (k, v) in &self.env {
            c.env(k, v);
        }
        if let Some(d) = &self.cwd {
            c.current_dir(d);
        }
        let kept = match self.ending {
            Ending::Firm => KEPT.with_borrow(Vec::clone),
            // It may start services that never end.
            Ending::Patient => vec![],
        };
        // SAFETY: fcntl(2) is async-signal-safe. The command is run by this thread, and at once: the
        // descriptors are still open.
        unsafe {
            c.pre_exec(move || {
                for &fd in &kept {
                    let _ = fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty());
                }
                Ok(())
            });
        }
        c
    }

    fn spawn_error(&self, e: std::io::Error) -> anyhow::Error {
        let what = match e.kind() {
            std::io::ErrorKind::NotFound => {
                format!(
                    "{} is not installed (cargo xtask doctor)",
                    self.program.to_string_lossy()
                )
            }
            _ => e.to_string(),
        };
        anyhow!("cannot run `{self}`: {what}")
    }

    /// Starts the command; `configure` may connect its stdin, stdout and stderr.
    pub fn spawn(&self, configure: impl FnOnce(&mut Command)) -> Result<Running> {
        signals::check()?;
        let mut c = self.command(true);
        configure(&mut c);
        let child = c.spawn().map_err(|e| self.spawn_error(e))?;
        let pid = Pid::from_child(&child);
        signals::register(pid, self.ending);
        Ok(Running {
            child,
            pid,
            ending: self.ending,
            done: false,
        })
    }

    /// Runs the command on the user's terminal, in the foreground.
    pub fn interactive(&self) -> Result<ExitStatus> {
        let _foreground = signals::Foreground::enter();
        let mut c = self.command(false);
        c.stdin(Stdio::inherit());
        c.status().map_err(|e| self.spawn_error(e))
    }

    /// Runs the command and gives its status, stdout and stderr.
    pub fn try_output(&self) -> Result<(ExitStatus, String, String)> {
        let mut child = self.spawn(|c| {
            c.stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        let stderr = child.child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![];
            if let Some(mut s) = stderr {
                let _ = s.read_to_end(&mut bytes);
            }
            bytes
        });
        let mut out = vec![];
        if let Some(mut s) = child.child.stdout.take() {
            s.read_to_end(&mut out)
                .with_context(|| format!("reading from `{self}`"))?;
        }
        let err = reader.join().unwrap_or_default();
        let status = child.wait()?;
        signals::check()?;
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Ok((status, text(out), text(err)))
    }

    /// Runs the command and gives its stdout without the last newline; an error if it fails.
    pub fn output(&self) -> Result<String> {
        let (status, out, err) = self.try_output()?;
        if !status.success() {
            let err = if err.trim().is_empty() { &out } else { &err };
            bail!("`{self}` failed ({status})\n{}", last_lines(err, 12));
        }
        Ok(out.trim_end_matches('\n').to_string())
    }

    /// The same for a short command that leaves a mess when it is cut off: neither Ctrl-C nor the
    /// end of xtask reaches it.
    pub fn to_the_end(&self) -> Result<String> {
        let output = self.plain().process_group(0).output();
        let output = output.map_err(|e| self.spawn_error(e))?;
        if !output.status.success() {
            let err = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{self}` failed ({})\n{}",
                output.status,
                last_lines(&err, 12)
            );
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.trim_end_matches('\n').to_string())
    }

    /// Does the command succeed? Its output is dropped.
    pub fn succeeds(&self) -> bool {
        self.try_output().is_ok_and(|(s, _, _)| s.success())
    }

    /// Runs the command; how it ended, and what it had written till then, stdout and stderr alike.
    pub fn collected(&self) -> (Result<ExitStatus>, String) {
        let mut text = String::new();
        let status = self.lines(|line| {
            text.push_str(line);
            text.push('\n');
        });
        (status, text)
    }

    /// Runs the command and passes every line it writes (stdout and stderr alike) to `line`.
    pub fn lines(&self, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context("cannot make a pipe")?;
        let write2 = write.try_clone().context("cannot duplicate a pipe")?;
        let mut child = self.spawn(move |c| {
            c.stdout(write).stderr(write2);
        })?;
        let mut reader = BufReader::new(std::fs::File::from(read));
        let mut buf = vec![];
        while reader
            .read_until(b'\n', &mut buf)
            .with_context(|| format!("reading from `{self}`"))?
            > 0
        {
            line(String::from_utf8_lossy(&buf).trim_end_matches(['\n', '\r']));
            buf.clear();
        }
        let status = child.wait()?;
        signals::check()?;
        Ok(status)
    }
}

/// Shell-quoted, environment first: what a user can paste into a terminal.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(d) = &self.cwd {
            write!(f, "cd {} && ", quote(d.as_os_str()))?;
        }
        for (k, v) in &self.env {
            write!(f, "{}={} ", k.to_string_lossy(), quote(v))?;
        }
        f.write_str(&quote(&self.program))?;
        for a in &self.args {
            write!(f, " {}", quote(a))?;
        }
        Ok(())
    }
}

/// Quotes a word for the shell where that is needed.
pub fn quote(word: &OsStr) -> String {
    let w = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%^".contains(c);
    if !w.is_empty() && w.chars().all(plain) {
        w.into_owned()
    } else {
        format!("'{}'", w.replace('\'', r"'\''"))
    }
}

/// The last `n` lines of a text.
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// A running child. Dropping it ends the child and everything in its process group.
pub struct Running {
    /// The child, for its pipes.
    pub child: Child,
    pid: Pid,
    ending: Ending,
    done: bool,
}

impl Running {
    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("waiting for a child")?;
        self.done = true;
        signals::release(self.pid, self.ending);
        Ok(status)
    }

    /// Has it ended?
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("waiting for a child")?;
        if status.is_some() && !self.done {
            self.done = true;
            signals::release(self.pid, self.ending);
        }
        Ok(status)
    }

    /// Asks the whole group to end.
    pub fn terminate(&self) {
        signals::end(self.pid, self.ending, Signal::TERM);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            self.terminate();
            for _ in 0..20 {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            signals::release(self.pid, self.ending);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_print_as_a_shell_takes_them() {
        let c = Cmd::new("make")
            .arg("CC=ccache gcc")
            .arg("O=/a b")
            .env("V", "1")
            .arg("it's");
        assert_eq!(
            c.to_string(),
            r"V=1 make 'CC=ccache gcc' 'O=/a b' 'it'\''s'"
        );
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let e = Cmd::new("no-such-program-here")
            .output()
            .unwrap_err()
            .to_string();
        assert!(e.contains("no-such-program-here is not installed"), "{e}");
        assert!(e.contains("cargo xtask doctor"), "{e}");
    }

    #[test]
    fn a_failure_names_the_command_and_shows_what_it_said() {
        let e = Cmd::new("sh")
            .args(["-c", "echo oops >&2; exit 3"])
            .output()
            .unwrap_err();
        let e = e.to_string();
        assert!(
            e.contains("sh -c") && e.contains("exit status: 3") && e.contains("oops"),
            "{e}"
        );
    }

    #[test]
    fn lines_come_from_both_streams() {
        let mut seen = vec![];
        let status = Cmd::new("sh")
            .args(["-c", "echo one; echo two >&2; printf three"])
            .lines(|l| seen.push(l.to_string()))
            .unwrap();
        assert!(status.success());
        assert_eq!(seen, ["one", "two", "three"]);
    }
}
