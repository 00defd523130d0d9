// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C, SIGTERM and SIGHUP: end every process that was started, then let `main` unwind.
//!
//! Children run in process groups of their own, so a Ctrl-C on the terminal reaches only xtask;
//! this module passes it on. Code that waits calls [`check`], and temporary directories disappear
//! as the error unwinds.

use super::guard;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use rustix::process::{kill_process_group, Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static FOREGROUND: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<Vec<(Pid, Ending)>> = Mutex::new(Vec::new());

/// How a process group is made to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is told to, and after a while it is made to.
    #[default]
    Firm,
    /// It is asked as Ctrl-C asks, and ends when it thinks fit: apt-get does not let go of dpkg.
    Patient,
}

impl Ending {
    /// The signal that is sent instead of this one, if any is.
    pub fn signal(self, wanted: Signal) -> Option<Signal> {
        match self {
            Ending::Firm => Some(wanted),
            Ending::Patient => (wanted == Signal::TERM).then_some(Signal::INT),
        }
    }
}

fn groups() -> std::sync::MutexGuard<'static, Vec<(Pid, Ending)>> {
    GROUPS.lock().unwrap_or_else(|e| e.into_inner())
}

/// Starts the thread that handles signals.
pub fn install() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot install signal handlers")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            // A program that owns the terminal (the guest's shell) gets Ctrl-C itself.
            if signal == SIGINT && FOREGROUND.load(Ordering::SeqCst) {
                continue;
            }
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                kill_all(Signal::KILL);
                continue;
            }
            kill_all(Signal::TERM);
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_secs(1));
                eprintln!("interrupted: waiting for what was started to end, and cleaning up");
                std::thread::sleep(Duration::from_secs(2));
                kill_all(Signal::KILL);
            });
        }
    });
    Ok(())
}

fn kill_all(signal: Signal) {
    for &(pid, ending) in groups().iter() {
        end(pid, ending, signal);
    }
}

/// Sends the signal to a process group, or what it gets instead.
pub fn end(pid: Pid, ending: Ending, signal: Signal) {
    if let Some(signal) = ending.signal(signal) {
        // A group that has ended in the meantime is what we want.
        let _ = kill_process_group(pid, signal);
    }
}

/// Was the run interrupted?
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error once the run was interrupted.
pub fn check() -> Result<()> {
    if interrupted() {
        return Err(Failure::of(Kind::Interrupted, "interrupted"));
    }
    Ok(())
}

/// Leaves Ctrl-C to a program that shares our terminal while the guard lives.
pub struct Foreground;

impl Foreground {
    /// From now on SIGINT is the other program's.
    pub fn enter() -> Self {
        FOREGROUND.store(true, Ordering::SeqCst);
        Foreground
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        FOREGROUND.store(false, Ordering::SeqCst);
    }
}

/// Registers a process group to be ended with us.
pub fn register(pid: Pid, ending: Ending) {
    groups().push((pid, ending));
    guard::tell(pid, ending, true);
    if interrupted() {
        end(pid, ending, Signal::TERM);
    }
}

/// Ends what is left of a process group and forgets it.
pub fn release(pid: Pid, ending: Ending) {
    groups().retain(|&(p, _)| p != pid);
    end(pid, ending, Signal::KILL);
    guard::tell(pid, ending, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_never_killed() {
        let sent = |wanted| Ending::Patient.signal(wanted);
        assert_eq!(sent(Signal::TERM), Some(Signal::INT));
        assert_eq!(sent(Signal::KILL), None);
        assert_eq!(Ending::Firm.signal(Signal::KILL), Some(Signal::KILL));
    }
}
