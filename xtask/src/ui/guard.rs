// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that outlives xtask by a moment, and ends what xtask had started.
//!
//! Whoever kills xtask by SIGKILL leaves it no time. Its children are told to end by the kernel, but
//! not theirs: compilers of a make that has ended would go on writing objects.

use super::signals::{self, Ending};
use rustix::process::{test_kill_process_group, Pid, Signal};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What it is started with.
const ARGUMENT: &str = "--end-what-is-left";
/// How long process groups may take to end when they are told to.
const PATIENCE: Duration = Duration::from_secs(3);

static GUARD: Mutex<Option<(Child, ChildStdin)>> = Mutex::new(None);

fn guard() -> std::sync::MutexGuard<'static, Option<(Child, ChildStdin)>> {
    GUARD.lock().unwrap_or_else(|e| e.into_inner())
}

/// Is this process to be the guard of another?
pub fn is_meant() -> bool {
    std::env::args_os().nth(1).is_some_and(|a| a == ARGUMENT)
}

/// Does what a guard does: its stdin ends when xtask does.
pub fn main() -> ExitCode {
    let left = groups(std::io::stdin());
    finish(&left);
    ExitCode::SUCCESS
}

/// Starts the guard of this process. Where that cannot be, there is still the signal that the kernel
/// sends to the children.
pub fn install() {
    let child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What ends xtask's group, such as Ctrl-C, does not end it.
        .process_group(0)
        .spawn();
    if let Ok(mut child) = child {
        *guard() = child.stdin.take().map(|pipe| (child, pipe));
    }
}

/// Lets the guard go: xtask has ended everything itself.
pub fn dismiss() {
    if let Some((mut child, pipe)) = guard().take() {
        drop(pipe);
        let _ = child.wait();
    }
}

/// Tells it of a process group that has been started, or that has ended.
pub fn tell(pid: Pid, ending: Ending, there: bool) {
    if let Some((_, pipe)) = guard().as_mut() {
        let sign = if there { '+' } else { '-' };
        let how = if ending == Ending::Firm { 'F' } else { 'P' };
        // It may have been killed as well.
        let _ = writeln!(pipe, "{sign} {} {how}", pid.as_raw_nonzero());
    }
}

/// The groups that are left when nothing more is told.
fn groups(told: impl Read) -> Vec<(Pid, Ending)> {
    let mut groups = vec![];
    for line in BufReader::new(told).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let [sign, pid, how] = words[..] else {
            continue;
        };
        // 1 is no group of ours, whatever is read.
        let Some(pid) = pid.parse().ok().filter(|n| *n > 1).and_then(Pid::from_raw) else {
            continue;
        };
        groups.retain(|(p, _)| *p != pid);
        let ending = match how {
            "F" => Ending::Firm,
            _ => Ending::Patient,
        };
        if sign == "+" {
            groups.push((pid, ending));
        }
    }
    groups
}

/// Ends them as Ctrl-C would.
fn finish(groups: &[(Pid, Ending)]) {
    for &(pid, ending) in groups {
        signals::end(pid, ending, Signal::TERM);
    }
    let begun = Instant::now();
    let there = |(pid, _): &(Pid, Ending)| test_kill_process_group(*pid).is_ok();
    while groups.iter().any(there) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    for &(pid, ending) in groups.iter().filter(|g| there(g)) {
        signals::end(pid, ending, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_has_not_ended() {
        let left = groups(&b"+ 70 F\n+ 71 P\n+ 72 F\n- 70 F\nnoise\n+ 1 F\n+ x F\n+ 73"[..]);
        let left: Vec<(i32, Ending)> = left
            .iter()
            .map(|(p, e)| (p.as_raw_nonzero().get(), *e))
            .collect();
        assert_eq!(left, [(71, Ending::Patient), (72, Ending::Firm)]);
    }

    #[test]
    fn a_group_ends_with_the_children_of_its_first_process() {
        // The shell's child holds the pipe open until it has ended as well.
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100 & trap '' TERM; echo begun; sleep 100"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let told = format!("+ {} F\n", child.id());
        let begun = Instant::now();
        finish(&groups(told.as_bytes()));
        assert_eq!(out.read_line(&mut line).unwrap(), 0);
        assert!(!child.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
