// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ending the processes that are in the way, and no others.

use crate::process::Process;
use anyhow::Context;
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;

/// A signal that ends processes, or asks them to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(&'static str, Signal);

const NAMES: [Name; 7] = [
    Name("TERM", Signal::TERM),
    Name("INT", Signal::INT),
    Name("HUP", Signal::HUP),
    Name("QUIT", Signal::QUIT),
    Name("USR1", Signal::USR1),
    Name("USR2", Signal::USR2),
    Name("KILL", Signal::KILL),
];

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .into_iter()
            .find(|name| name.0 == bare)
            .ok_or_else(|| {
                let names: Vec<&str> = NAMES.iter().map(|name| name.0).collect();
                format!("one of {}", names.join(", "))
            })
    }
}

/// Signals those of `processes` that `still` names once they are held by descriptors: a number alone could be
/// another process's by now.
///
/// # Errors
/// Where `still` fails. A process that may not be signalled is reported, and the others are signalled.
pub fn send(
    name: Name,
    processes: &[&Process],
    still: impl Fn() -> anyhow::Result<HashSet<u32>>,
) -> anyhow::Result<()> {
    let held: Vec<(&Process, OwnedFd)> = processes
        .iter()
        .filter_map(|process| Some((*process, hold(process)?)))
        .collect();
    let still = still().context("looking again before signalling")?;
    for (process, fd) in held {
        if !still.contains(&process.pid) {
            continue;
        }
        match pidfd_send_signal(&fd, name.1) {
            Ok(()) => eprintln!("daxpin: sent {name} to {}", process.brief()),
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => eprintln!("daxpin: cannot signal {}: {error}", process.brief()),
        }
    }
    Ok(())
}

fn hold(process: &Process) -> Option<OwnedFd> {
    // The system ends with process 1, and this one has to tell how it went.
    if process.pid == 1 || process.pid == std::process::id() {
        eprintln!("daxpin: {} is left alone", process.brief());
        return None;
    }
    let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Some(fd),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => {
            eprintln!("daxpin: cannot signal {}: {error}", process.brief());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    #[test]
    fn signals_have_the_names_of_kill() {
        for text in ["TERM", "term", "SIGTERM"] {
            assert_eq!(text.parse::<Name>().unwrap().1, Signal::TERM);
        }
        assert!("STOP".parse::<Name>().unwrap_err().contains("TERM"));
        assert!("9".parse::<Name>().is_err());
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn only_those_that_are_still_in_the_way_are_signalled() {
        let mut children = [sleeper(), sleeper()];
        let processes = [0, 1].map(|index: usize| Process::of(children[index].id()));
        let me = Process::of(std::process::id());
        let all = [&processes[0], &processes[1], &me];
        let still = HashSet::from([processes[0].pid, me.pid]);
        send(Name("TERM", Signal::TERM), &all, || Ok(still.clone())).unwrap();
        assert_eq!(children[0].wait().unwrap().signal(), Some(15));
        assert!(children[1].try_wait().unwrap().is_none());
        children[1].kill().unwrap();
        children[1].wait().unwrap();
    }
}
