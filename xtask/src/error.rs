// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, told apart by exit code.

use crate::ui::signals;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

/// The kinds of failure a caller (a person, a script, CI) must be able to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something was run and its result is not what it must be.
    Test = 1,
    /// The command line or a file of the project makes no sense. (clap uses 2 as well.)
    Usage = 2,
    /// The kernel panicked, warned or stalled.
    Kernel = 3,
    /// The run could not be set up: no root, no network, no space, a patch that does not apply.
    Setup = 4,
    /// Ctrl-C, SIGTERM or SIGHUP.
    Interrupted = 130,
}

/// An error that knows its [`Kind`]. Any other error counts as [`Kind::Setup`].
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// An error of this kind as an [`anyhow::Error`].
    pub fn of(kind: Kind, message: impl Into<String>) -> anyhow::Error {
        Failure {
            kind,
            message: message.into(),
        }
        .into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

static LOGS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Remembers where this run's logs are, so that every error can name the place.
pub fn set_log_dir(dir: PathBuf) {
    *LOGS.lock().unwrap_or_else(|e| e.into_inner()) = Some(dir);
}

/// The kind of an error: that of the first [`Failure`] in its chain.
pub fn kind(e: &anyhow::Error) -> Kind {
    if signals::interrupted() {
        return Kind::Interrupted;
    }
    e.chain()
        .find_map(|c| c.downcast_ref::<Failure>())
        .map_or(Kind::Setup, |f| f.kind)
}

/// The text of an error: the message, then what caused it, each cause on a line of its own.
pub fn text(e: &anyhow::Error) -> String {
    let mut out = format!("error: {e}");
    for cause in e.chain().skip(1) {
        let cause = cause.to_string().replace('\n', "\n    ");
        out.push_str("\n  because: ");
        out.push_str(&cause);
    }
    out
}

/// What helps when the machine is to blame, whichever program came upon it; what such programs say,
/// and the remedy.
const REMEDIES: [(&[&str], &str); 3] = [
    (
        &[
            "No space left on device",
            "Out of diskspace",
            "Disk quota exceeded",
        ],
        "make room, or let DAXPIN_CACHE name a directory on a larger disk",
    ),
    (
        &[
            "Could not resolve host",
            "Temporary failure resolving",
            "Temporary failure in name resolution",
            "Failed to establish a new connection",
            "Failed to connect to",
            "Could not connect to",
            "Network is unreachable",
            "Connection timed out",
            "Operation timed out",
            "Read timed out",
        ],
        "connect the machine to the network (http_proxy and https_proxy name a proxy, if there is \
         one); the next run carries on",
    ),
    (
        &["Read-only file system", "Permission denied"],
        "the clone of this project and the cache have to be writable: clone it as the user who \
         runs this, or let DAXPIN_CACHE name another directory",
    ),
];

/// The remedy for what the text of an error tells, unless it has one of its own.
fn remedy(text: &str) -> Option<&'static str> {
    let told = |(signs, _): &&(&[&str], _)| signs.iter().any(|s| text.contains(s));
    let known = REMEDIES.iter().find(told)?;
    (!text.contains("remedy: ")).then_some(known.1)
}

/// Prints an error and gives the exit code that goes with it.
pub fn report(e: &anyhow::Error) -> ExitCode {
    let kind = kind(e);
    if kind == Kind::Interrupted {
        eprintln!("interrupted: everything that was started has ended; the next run carries on");
    } else {
        let text = text(e);
        eprintln!("{text}");
        if let Some(remedy) = remedy(&text) {
            eprintln!("  remedy: {remedy}");
        }
        if let Some(dir) = LOGS.lock().unwrap_or_else(|e| e.into_inner()).as_ref() {
            eprintln!("logs: {}", dir.display());
        }
    }
    ExitCode::from(kind as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn kind_is_found_below_context() {
        let e = Err::<(), _>(Failure::of(Kind::Kernel, "panic"))
            .context("running the demo")
            .unwrap_err();
        assert_eq!(kind(&e), Kind::Kernel);
    }

    #[test]
    fn other_errors_are_set_up_errors() {
        assert_eq!(kind(&anyhow::anyhow!("no space")), Kind::Setup);
    }

    #[test]
    fn what_is_the_machines_fault_has_a_remedy() {
        let of = |text| remedy(text).unwrap_or_default();
        assert!(
            of("error: x\n  because: write: No space left on device (os error 28)")
                .contains("DAXPIN_CACHE")
        );
        assert!(
            of("fatal: unable to access: Could not resolve host: git.example").contains("network")
        );
        assert!(of("cannot make out/demo\n  because: Read-only file system").contains("writable"));
        assert_eq!(remedy("error: 3 tests failed"), None);
        let own = "error: no space\n  because: No space left on device\n  remedy: a larger disk";
        assert_eq!(remedy(own), None);
    }

    #[test]
    fn causes_are_listed_in_order() {
        let e = Err::<(), _>(anyhow::anyhow!("exit status 1\nfatal: nope"))
            .context("`git am` failed")
            .unwrap_err();
        assert_eq!(
            text(&e),
            "error: `git am` failed\n  because: exit status 1\n    fatal: nope"
        );
    }
}
