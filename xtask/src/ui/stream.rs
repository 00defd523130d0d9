// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output and error that may go away: a pipe whose reader has seen enough, a terminal that
//! was closed, a full disk. What std's macros do then is to panic, in the middle of whatever runs.

use anyhow::{Context, Result};
use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write};
use std::sync::Mutex;

static LOST: Mutex<Option<Error>> = Mutex::new(None);

fn lost() -> std::sync::MutexGuard<'static, Option<Error>> {
    LOST.lock().unwrap_or_else(|e| e.into_inner())
}

/// Writes a line to stdout. That it cannot be written is for [`check`] to say.
pub fn line(text: Arguments) {
    keep(writeln!(std::io::stdout(), "{text}"));
}

/// Writes bytes to stdout, at once.
pub fn bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    keep(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Writes a line to stderr. There is nowhere to complain if that fails.
pub fn note(text: Arguments) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn keep(written: std::io::Result<()>) {
    if let Err(e) = written {
        lost().get_or_insert(e);
    }
}

/// Was everything written to stdout that its reader wanted to have?
pub fn check() -> Result<()> {
    keep(std::io::stdout().flush());
    match lost().take() {
        Some(e) => wanted(e),
        None => Ok(()),
    }
}

fn wanted(lost: Error) -> Result<()> {
    match lost.kind() {
        // `| head` has got what it wants.
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(lost).context("cannot write to stdout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
        assert!(wanted(ErrorKind::BrokenPipe.into()).is_ok());
        let e = wanted(ErrorKind::StorageFull.into()).unwrap_err();
        assert_eq!(e.to_string(), "cannot write to stdout");
    }
}
