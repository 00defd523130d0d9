// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C, SIGTERM and SIGHUP: end every process that was started, then let `main` unwind.
//!
//! Children run in process groups of their own, so a Ctrl-C on the terminal reaches only xtask;
//! this module passes it on. Code that waits calls [`check`], and temporary directories disappear
//! as the error unwinds.

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
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn groups() -> std::sync::MutexGuard<'static, Vec<Pid>> {
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
                std::thread::sleep(Duration::from_secs(3));
                kill_all(Signal::KILL);
            });
        }
    });
    Ok(())
}

fn kill_all(signal: Signal) {
    for &pid in groups().iter() {
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
pub fn register(pid: Pid) {
    groups().push(pid);
    if interrupted() {
        let _ = kill_process_group(pid, Signal::TERM);
    }
}

/// Ends what is left of a process group and forgets it.
pub fn release(pid: Pid) {
    groups().retain(|&p| p != pid);
    let _ = kill_process_group(pid, Signal::KILL);
}
