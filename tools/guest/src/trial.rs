// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lets a process try a call, and judges the outcome: the errno, the time, and the file afterwards.

use crate::client::Client;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use crate::protocol::Call;
use crate::snapshot::Snapshot;
use std::path::Path;
use std::time::Duration;

/// A refusal must not wait for anything; this is generous for an emulated CPU that is not alone.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// What succeeds does not wait for others either; it has work to do, though.
const SOON: Duration = Duration::from_secs(5);

/// What the contract says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Refused at once with this errno, every file involved left as it was.
    Refused(i32),
    /// Succeeds, and the file it is about is not as before.
    Succeeds,
    /// Succeeds, though there may have been nothing to do.
    Allowed,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What the contract says, in words.
    pub expected: String,
    /// What happened, in words.
    pub got: String,
    /// The call's errno.
    pub errno: i32,
    /// The call's time.
    pub ns: u64,
    /// Whether the two agree.
    pub ok: bool,
}

/// The files of a trial.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The one in question.
    pub file: &'a Path,
    /// Another of the same filesystem, for operations on two.
    pub partner: &'a Path,
}

/// Lets `who` try `op` on the range of the file.
pub fn attempt(
    who: &mut Client,
    op: Op,
    files: Files,
    at: Span,
    expect: Expect,
) -> anyhow::Result<Verdict> {
    let size = std::fs::metadata(files.file)?.len();
    let call = op.call(files.file, files.partner, size, at);
    attempt_call(who, &call, files, expect)
}

/// Lets `who` make this call.
pub fn attempt_call(
    who: &mut Client,
    call: &Call,
    files: Files,
    expect: Expect,
) -> anyhow::Result<Verdict> {
    let before = (Snapshot::take(files.file)?, Snapshot::take(files.partner)?);
    let reply = who.call(call)?;
    let after = (Snapshot::take(files.file)?, Snapshot::take(files.partner)?);
    let mut changes = Vec::new();
    changes.extend(before.0.difference(&after.0));
    changes.extend(
        before
            .1
            .difference(&after.1)
            .map(|what| format!("{what} of the other file")),
    );
    let changed = (!changes.is_empty()).then(|| changes.join("; "));
    Ok(judge(expect, reply.errno, reply.ns, changed.as_deref()))
}

fn judge(expect: Expect, errno: i32, ns: u64, changed: Option<&str>) -> Verdict {
    let mut got = errno_name(errno);
    let (expected, ok) = match expect {
        Expect::Refused(wanted) => {
            let quick = Duration::from_nanos(ns) <= AT_ONCE;
            match changed {
                _ if errno == 0 => {}
                None => got += ", unchanged",
                Some(what) => got += &format!(", yet changed: {what}"),
            }
            if !quick {
                got += ", late";
            }
            let ok = errno == wanted && changed.is_none() && quick;
            (format!("{}, unchanged", errno_name(wanted)), ok)
        }
        Expect::Succeeds | Expect::Allowed => {
            let done = changed.is_some() || expect == Expect::Allowed;
            let soon = Duration::from_nanos(ns) <= SOON;
            if errno == 0 && !done {
                got += ", but nothing changed";
            }
            if !soon {
                got += ", late";
            }
            ("success".to_owned(), errno == 0 && done && soon)
        }
    };
    Verdict {
        expected,
        got,
        errno,
        ns,
        ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_right_only_if_quick_and_without_a_trace() {
        let expect = Expect::Refused(libc::ETXTBSY);
        assert!(judge(expect, libc::ETXTBSY, 1000, None).ok);
        let changed = judge(expect, libc::ETXTBSY, 1000, Some("mtime"));
        assert!(!changed.ok && changed.got == "ETXTBSY, yet changed: mtime");
        assert!(!judge(expect, libc::ETXTBSY, 2_000_000_000, None).ok);
        assert!(!judge(expect, libc::EINVAL, 1000, None).ok);
        let success = judge(expect, 0, 1000, Some("size 2 to 1"));
        assert!(!success.ok && success.got == "success");
    }

    #[test]
    fn a_success_must_have_done_something() {
        assert!(judge(Expect::Succeeds, 0, 1, Some("size 2 to 1")).ok);
        assert!(!judge(Expect::Succeeds, 0, 1, None).ok);
        assert!(!judge(Expect::Succeeds, libc::ETXTBSY, 1, None).ok);
        assert!(judge(Expect::Allowed, 0, 1, None).ok);
        assert!(!judge(Expect::Allowed, libc::ETXTBSY, 1, None).ok);
        assert!(!judge(Expect::Succeeds, 0, 9_000_000_000, Some("mtime")).ok);
    }
}
