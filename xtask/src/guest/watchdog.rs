// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the kernel's console as it grows and judges every line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What a console line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The kernel is dead or stuck: there is nothing to wait for.
    Dead,
    /// The kernel complained and goes on; the run goes on too, and has failed.
    Splat,
}

const DEAD: &[&str] = &[
    "Kernel panic - not syncing",
    "Oops: ",
    "general protection fault",
    "BUG: unable to handle",
    "kernel BUG at",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on",
    "self-detected stall",
    "detected expedited stalls",
    "blocked for more than",
    "rcu: INFO: rcu_",
];

const SPLAT: &[&str] = &[
    "BUG:",
    "WARNING:",
    "possible recursive locking",
    "possible circular locking",
    "INFO: possible",
    "inconsistent lock state",
    "bad unlock balance",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "INFO: trying to register non-static key",
    "ODEBUG:",
    "Unreferenced object",
    "refcount_t:",
    "UBSAN:",
    "XFS: Assertion failed",
    "leaked pin",
];

/// Judges a line of the console.
pub fn judge(line: &str) -> Option<Severity> {
    // A line of a test's own report may well quote a warning.
    let body = line.split_once("] ").map_or(line, |(_, b)| b).trim_start();
    if body.starts_with("ok ") || body.starts_with("not ok ") || body.starts_with("# ") {
        return None;
    }
    if DEAD.iter().any(|p| line.contains(p)) {
        return Some(Severity::Dead);
    }
    SPLAT
        .iter()
        .any(|p| line.contains(p))
        .then_some(Severity::Splat)
}

/// The console's file, read from where the last look ended.
pub struct Console {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
    /// Has the kernel written anything?
    pub started: bool,
    /// The first line that says the kernel is in trouble.
    pub splat: Option<String>,
    /// The first line that says it is dead.
    pub dead: Option<String>,
}

impl Console {
    /// From the beginning of the file.
    pub fn new(path: &Path) -> Self {
        Console {
            path: path.into(),
            offset: 0,
            partial: vec![],
            started: false,
            splat: None,
            dead: None,
        }
    }

    /// Reads what is new; gives the new whole lines.
    pub fn poll(&mut self) -> Vec<String> {
        let mut bytes = vec![];
        if let Ok(mut file) = File::open(&self.path) {
            if file.seek(SeekFrom::Start(self.offset)).is_ok() {
                // What cannot be read now is read at the next look.
                let _ = file.read_to_end(&mut bytes);
            }
        }
        self.offset += bytes.len() as u64;
        self.feed(&bytes)
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|&b| b == b'\n') else {
            return vec![];
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&whole).into_owned();
        let lines: Vec<String> = text
            .lines()
            .map(|l| l.trim_end_matches('\r').to_string())
            .collect();
        for l in &lines {
            self.started |= l.contains("Linux version");
            match judge(l) {
                Some(Severity::Dead) => {
                    self.dead.get_or_insert_with(|| l.clone());
                }
                Some(Severity::Splat) => {
                    self.splat.get_or_insert_with(|| l.clone());
                }
                None => {}
            }
        }
        lines
    }

    /// Nothing more will come: a line that was not finished counts as well.
    pub fn end(&mut self) {
        if !self.partial.is_empty() {
            self.feed(b"\n");
        }
    }

    /// Bytes seen, for telling progress from silence.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// The line that condemns the run, if there is one.
    pub fn verdict(&self) -> Option<&str> {
        self.splat.as_deref().or(self.dead.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_recognised() {
        use Severity::{Dead, Splat};
        for (line, want) in [
            (
                "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
                Some(Dead),
            ),
            (
                "[   60.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
                Some(Dead),
            ),
            (
                "[   60.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
                Some(Dead),
            ),
            (
                "[  120.1] INFO: task xfsaild:12 blocked for more than 120 seconds.",
                Some(Dead),
            ),
            (
                "[    2.0] WARNING: CPU: 1 PID: 9 at mm/gup.c:1 f+0x1/0x2",
                Some(Splat),
            ),
            (
                "[    2.0] WARNING: possible circular locking dependency detected",
                Some(Splat),
            ),
            ("[    2.0] WARNING: suspicious RCU usage", Some(Splat)),
            (
                "[    2.0] BUG: sleeping function called from invalid context",
                Some(Splat),
            ),
            ("[    2.0] XFS (pmem0): Mounting V5 Filesystem", None),
            (
                "[    2.0] EXT4-fs (pmem1): DAX enabled. Warning: EXPERIMENTAL",
                None,
            ),
            ("[    2.0]     not ok 3 no WARNING: in the log", None),
            ("[    2.0] # WARNING: quoted by a test", None),
        ] {
            assert_eq!(judge(line), want, "{line}");
        }
    }

    #[test]
    fn lines_in_pieces_are_put_together() {
        let mut c = Console::new(Path::new("/nonexistent"));
        assert!(c.feed(b"[1] Kernel pa").is_empty());
        assert_eq!(c.verdict(), None);
        assert_eq!(c.feed(b"nic - not syncing: x\r\n[2] next").len(), 1);
        assert_eq!(c.verdict(), Some("[1] Kernel panic - not syncing: x"));
    }

    #[test]
    fn the_last_words_count_without_the_end_of_their_line() {
        let mut c = Console::new(Path::new("/nonexistent"));
        c.feed(b"[1] x\n[2] Kernel panic - not syncing: cut o");
        assert_eq!(c.verdict(), None);
        c.end();
        assert_eq!(c.verdict(), Some("[2] Kernel panic - not syncing: cut o"));
    }

    #[test]
    fn the_first_complaint_is_the_one_told() {
        let mut c = Console::new(Path::new("/nonexistent"));
        c.feed(b"[1] WARNING: first\n[2] WARNING: second\n[3] Kernel panic - not syncing: x\n");
        assert_eq!(c.verdict(), Some("[1] WARNING: first"));
        assert!(c.dead.is_some());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const WORDS: &[&str] = &[
        "[    1.0] ",
        "Kernel panic - not syncing",
        "WARNING: CPU: 0",
        "Linux version 7",
        "BUG:",
        "ok 1 ",
        "not ok 2",
        "# ",
        "] ",
        "Oops: ",
        "\r\n",
        "\n",
    ];

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn pieces_make_no_difference(
            text in noise(WORDS),
            bytes in vec(any::<u8>(), 0..40),
            cuts in vec(any::<Index>(), 0..8),
        ) {
            let all = [text.as_bytes(), &bytes, b"\nend\n"].concat();
            let mut whole = Console::new(Path::new("/nonexistent"));
            let lines = whole.feed(&all);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(all.len())).collect();
            cuts.push(all.len());
            cuts.sort_unstable();
            let (mut pieces, mut heard, mut from) = (Console::new(Path::new("/nonexistent")), vec![], 0);
            for to in cuts {
                heard.extend(pieces.feed(&all[from..to]));
                from = to;
            }
            prop_assert_eq!(heard, lines);
            prop_assert_eq!(pieces.verdict(), whole.verdict());
            prop_assert_eq!(pieces.dead, whole.dead);
            prop_assert_eq!(pieces.started, whole.started);
        }

        #[test]
        fn trouble_is_heard_among_whatever_else(
            before in noise(WORDS),
            after in noise(WORDS),
            sign in prop::sample::select(DEAD),
            ended in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("serial.log");
            let end = if ended { format!("\n{after}") } else { String::new() };
            std::fs::write(&path, format!("{before}\n[    5.0] {sign} x{end}")).unwrap();
            let mut console = Console::new(&path);
            console.poll();
            console.end();
            prop_assert!(console.dead.is_some() && console.verdict().is_some());
        }
    }
}
