// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errno an unmodified program got from the verbs device: it prints none, so look over its shoulder.

use anyhow::{bail, Context};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// What the program got to see.
#[derive(Debug, Default)]
pub struct Seen {
    /// errno of the last call on a verbs device that failed before the first complaint about the
    /// region, and how long the call took.
    pub refusal: Option<(i32, u64)>,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// Its exit status.
    pub success: bool,
}

/// A system call under way.
struct Entered {
    verbs: bool,
    stderr: Option<(u64, u64)>,
    at: Instant,
}

/// Runs the command to its end under ptrace.
pub fn watch(mut command: Command, limit: Duration) -> anyhow::Result<Seen> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(|| {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let pid = libc::pid_t::try_from(child.id())?;
    let (over, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            // SAFETY: a signal to a child of this process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        late
    });
    let result = follow(&child);
    drop(over);
    let late = watchdog.join().unwrap_or(false);
    if result.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    anyhow::ensure!(
        !late,
        "hung: the traced program did not end within {limit:?}"
    );
    result
}

fn follow(child: &Child) -> anyhow::Result<Seen> {
    let pid = libc::pid_t::try_from(child.id())?;
    let mut seen = Seen::default();
    let mut last_refusal = None;
    let mut entered: Option<Entered> = None;
    let mut first_stop = true;
    loop {
        let status = wait(pid)?;
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            seen.success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
            return Ok(seen);
        }
        let mut deliver = 0;
        if first_stop {
            first_stop = false;
            let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
            request(libc::PTRACE_SETOPTIONS, pid, options)?;
        } else if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
            match stop(pid)? {
                Stop::Entry { number, args } => entered = Some(enter(pid, number, args)),
                Stop::Exit { value } => {
                    let Some(call) = entered.take() else {
                        resume(pid, 0)?;
                        continue;
                    };
                    let errno = i32::try_from(-value).ok().filter(|e| (1..4096).contains(e));
                    if let (true, Some(errno)) = (call.verbs, errno) {
                        let ns = u64::try_from(call.at.elapsed().as_nanos())?;
                        last_refusal = Some((errno, ns));
                    }
                    if let Some((at, length)) = call.stderr {
                        seen.stderr += &text(pid, at, length);
                        if seen.refusal.is_none() && seen.stderr.contains("allocate MR") {
                            seen.refusal = last_refusal;
                        }
                    }
                }
            }
        } else if libc::WSTOPSIG(status) != libc::SIGTRAP {
            deliver = libc::WSTOPSIG(status);
        }
        resume(pid, deliver)?;
    }
}

fn resume(pid: libc::pid_t, signal: i32) -> anyhow::Result<()> {
    request(libc::PTRACE_SYSCALL, pid, signal)
}

/// A request on the stopped child that takes a number.
fn request(what: libc::c_uint, pid: libc::pid_t, data: i32) -> anyhow::Result<()> {
    // SAFETY: these requests read no memory of this process; all arguments are as wide as the
    // variadic call reads them.
    let result = unsafe { libc::ptrace(what, pid, 0 as libc::c_long, libc::c_long::from(data)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("ptrace");
    }
    Ok(())
}

fn wait(pid: libc::pid_t) -> anyhow::Result<i32> {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    if unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } < 0 {
        return Err(std::io::Error::last_os_error()).context("waitpid");
    }
    Ok(status)
}

enum Stop {
    Entry { number: u64, args: [u64; 6] },
    Exit { value: i64 },
}

fn stop(pid: libc::pid_t) -> anyhow::Result<Stop> {
    // SAFETY: all zeroes is a valid value; the kernel writes at most the size it is given.
    let info: libc::ptrace_syscall_info = unsafe {
        let mut info = std::mem::zeroed();
        let size = std::mem::size_of::<libc::ptrace_syscall_info>();
        if libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &mut info) < 0 {
            return Err(std::io::Error::last_os_error()).context("PTRACE_GET_SYSCALL_INFO");
        }
        info
    };
    // SAFETY: which member is valid is what `op` says.
    unsafe {
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => Ok(Stop::Entry {
                number: info.u.entry.nr,
                args: info.u.entry.args,
            }),
            libc::PTRACE_SYSCALL_INFO_EXIT => Ok(Stop::Exit {
                value: info.u.exit.sval,
            }),
            other => bail!("a stop of kind {other}"),
        }
    }
}

fn enter(pid: libc::pid_t, number: u64, args: [u64; 6]) -> Entered {
    let number = i64::try_from(number).unwrap_or(-1);
    let on_a_file = number == libc::SYS_ioctl || number == libc::SYS_write;
    let verbs = on_a_file
        && fs::read_link(format!("/proc/{pid}/fd/{}", args[0]))
            .is_ok_and(|path| path.to_string_lossy().contains("/infiniband/uverbs"));
    Entered {
        verbs,
        stderr: (number == libc::SYS_write && args[0] == 2).then_some((args[1], args[2])),
        at: Instant::now(),
    }
}

fn text(pid: libc::pid_t, at: u64, length: u64) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0).min(4096)];
    match fs::File::open(format!("/proc/{pid}/mem")) {
        Ok(memory) if memory.read_exact_at(&mut bytes, at).is_ok() => {
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_stderr_and_the_exit_status() {
        let mut command = Command::new("/bin/cat");
        command.arg("/no/allocate MR");
        let seen = match watch(command, Duration::from_secs(10)) {
            Ok(seen) => seen,
            // Some sandboxes have no ptrace.
            Err(error) if format!("{error:#}").contains("cannot start") => return,
            Err(error) => panic!("{error:#}"),
        };
        assert!(seen.stderr.contains("/no/allocate MR"), "{seen:?}");
        assert!(!seen.success);
        assert_eq!(seen.refusal, None);
    }
}
