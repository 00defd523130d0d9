// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes, as `/proc` shows them.

use crate::text::shown;
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A process that holds something, as a person knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The short name the kernel keeps; nothing once the process is gone.
    pub name: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// Its user.
    pub uid: Option<u32>,
}

impl Process {
    /// What can be read about it.
    pub fn of(pid: u32) -> Process {
        let directory = directory(pid);
        let name = std::fs::read(directory.join("comm"))
            .ok()
            .map(|text| shown(OsString::from_vec(trimmed(text))));
        let line = std::fs::read(directory.join("cmdline")).unwrap_or_default();
        Process {
            pid,
            name,
            command: arguments(&line),
            uid: std::fs::metadata(&directory).ok().map(|stat| stat.uid()),
        }
    }

    /// `1142 ib_write_bw`
    pub fn brief(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {name}", self.pid),
            None => format!("{} (gone)", self.pid),
        }
    }

    /// The command line, or the short name in brackets, as ps(1) shows it.
    pub fn line(&self) -> String {
        if !self.command.is_empty() {
            return self.command.join(" ");
        }
        match &self.name {
            Some(name) => format!("[{name}]"),
            None => "(gone)".to_owned(),
        }
    }
}

fn trimmed(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    text
}

fn arguments(line: &[u8]) -> Vec<String> {
    let body = line.strip_suffix(b"\0").unwrap_or(line);
    if body.is_empty() {
        return Vec::new();
    }
    body.split(|&byte| byte == 0)
        .map(|argument| shown(OsString::from_vec(argument.to_vec())))
        .collect()
}

/// `/proc/<pid>`
pub fn directory(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Every process that can be seen.
///
/// # Errors
/// Without a readable `/proc`.
pub fn all() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// Whether that is how reading about a process ends which ends itself meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// The descriptors of a process, with what their links say.
///
/// # Errors
/// `PermissionDenied` for a process that may not be looked into, and what [`is_gone`] knows.
pub fn descriptors(pid: u32) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory(pid).join("fd"))? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // Closed meanwhile: not there any more.
        if let (Some(number), Ok(target)) = (number, std::fs::read_link(entry.path())) {
            found.push((number, target));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let me = Process::of(std::process::id());
        assert!(all().unwrap().contains(&me.pid));
        assert!(me.name.is_some() && me.uid.is_some());
        assert!(me.line().contains("daxpin"), "{}", me.line());
    }

    #[test]
    fn a_process_that_is_gone_is_said_to_be() {
        // Above the kernel's largest possible number.
        let gone = Process::of(1 << 23);
        assert_eq!(gone.line(), "(gone)");
        assert_eq!(gone.brief(), "8388608 (gone)");
        assert!(is_gone(&descriptors(1 << 23).unwrap_err()));
    }

    #[test]
    fn arguments_may_be_empty_and_odd() {
        assert_eq!(arguments(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(arguments(b"a\nb\0"), ["a\\012b"]);
        assert!(arguments(b"").is_empty());
    }

    #[test]
    fn descriptors_have_paths() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mine = descriptors(std::process::id()).unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(mine.iter().any(|(_, target)| *target == path));
    }
}
