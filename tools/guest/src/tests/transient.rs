// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of the file under direct I/O: layout changes wait for them, as they always did, and only where
//! they touch them.

use super::env::{
    lease_is, must_be, op_is, Env, Loan, BEFORE, BEHIND, EXCLUSIVE, PINNED, SHARED, SIZE,
};
use super::{tests, Test};
use crate::client::process_state;
use crate::names::errno_name;
use crate::ops::{subtractive, Op, Span};
use crate::protocol::Request;
use crate::setup::Fs;
use crate::slow::Held;
use crate::snapshot::Snapshot;
use crate::trial::Expect;
use anyhow::{bail, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Long enough for what does not wait; what waits is there for good.
const A_MOMENT: Duration = Duration::from_millis(60);

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    for op in subtractive(fs) {
        let mut cell = |state: &str, expects: &str, check: fn(&Env, Op) -> anyhow::Result<()>| {
            let name = format!("{state}.{}", op.slug());
            list.push(Test::cell(name, expects, move |env| check(env, op)));
        };
        cell("in_range", "waits, success", in_range);
        if op.has_range() {
            cell("behind", "success", behind);
        }
        if op.has_range() && !op.reaches_the_end() {
            cell("before", "success", before);
        }
    }
    for op in [Op::Ftruncate, Op::Punch, Op::Insert] {
        let name = format!("interrupted.{}", op.slug());
        list.push(Test::cell(name, "EINTR", move |env| {
            interrupted(env, op, false)
        }));
    }
    for op in subtractive(fs).filter(|op| op.takes_two_files()) {
        let name = format!("in_range_of_the_other_file.{}", op.slug());
        list.push(Test::cell(name, "waits, success", move |env| {
            in_range_of(env, op, true)
        }));
        let name = format!("interrupted_for_the_other_file.{}", op.slug());
        list.push(Test::cell(name, "EINTR", move |env| {
            interrupted(env, op, true)
        }));
    }
    list.extend(tests![
        page_in_a_pipe,
        mapped_meanwhile,
        registered_meanwhile
    ]);
    list
}

/// Direct I/O from a range of a file that is under way for as long as this exists.
pub(super) struct Transfer<'a> {
    // Dropped first: `who` cannot come back before.
    held: Held<'a>,
    who: Loan<'a>,
}

impl<'a> Transfer<'a> {
    pub(super) fn begin(env: &'a Env, file: &Path, at: Span) -> anyhow::Result<Self> {
        let slow = env.slow()?;
        let mut who = env.worker()?;
        who.open("source", file)?;
        let size = std::fs::metadata(file)?.len();
        who.map_shared("source", "source", size)?;
        let held = slow.hold()?;
        who.send(&Request::DirectWrite {
            map: "source".to_owned(),
            offset: at.offset,
            length: at.length,
            path: slow.device().to_owned(),
        })?;
        held.busy()?;
        Ok(Transfer { held, who })
    }

    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.held.release()?;
        must_be(&self.who.receive()?, 0, "the direct I/O")
    }
}

fn in_range(env: &Env, op: Op) -> anyhow::Result<()> {
    in_range_of(env, op, false)
}

/// A pair of files, the second of which was there first if `swapped`: filesystems lock in this order.
fn pair(env: &Env, swapped: bool) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (first, second) = env.pair()?;
    Ok(if swapped {
        (second, first)
    } else {
        (first, second)
    })
}

/// It waits until the I/O from the first file is over, without using the processor, and then succeeds.
fn in_range_of(env: &Env, op: Op, swapped: bool) -> anyhow::Result<()> {
    let files = pair(env, swapped)?;
    let mut other = env.other(op)?;
    let before = (Snapshot::take(&files.0)?, Snapshot::take(&files.1)?);
    let transfer = Transfer::begin(env, &files.0, PINNED)?;
    // No look at the file now: whoever waits for a page keeps its readers out.
    other.send(&Request::Do(op.call(&files.0, &files.1, SIZE, PINNED)))?;
    if let Some(early) = other.receive_within(A_MOMENT)? {
        bail!("did not wait for the I/O: {}", errno_name(early.errno));
    }
    sleeps(other.pid())?;
    transfer.end()?;
    must_be(&other.receive()?, 0, "after the I/O")?;
    let after = (Snapshot::take(&files.0)?, Snapshot::take(&files.1)?);
    ensure!(before != after, "nothing changed");
    Ok(())
}

/// Whoever waits sleeps, in several looks in a row.
fn sleeps(pid: u32) -> anyhow::Result<()> {
    let mut asleep = 0;
    for _ in 0..250 {
        asleep = match process_state(pid) {
            Some('S' | 'D') => asleep + 1,
            _ => 0,
        };
        if asleep == 10 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} does not sleep while it waits")
}

fn behind(env: &Env, op: Op) -> anyhow::Result<()> {
    elsewhere(env, op, BEHIND)
}

fn before(env: &Env, op: Op) -> anyhow::Result<()> {
    elsewhere(env, op, BEFORE)
}

/// Elsewhere it succeeds while the I/O is under way.
fn elsewhere(env: &Env, op: Op, at: Span) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut other = env.other(op)?;
    let transfer = Transfer::begin(env, &files.0, PINNED)?;
    let what = "during the I/O";
    op_is(&mut other, op, &files, at, Expect::Succeeds, what)?;
    transfer.end()
}

/// A signal ends the wait, and nothing is changed.
fn interrupted(env: &Env, op: Op, swapped: bool) -> anyhow::Result<()> {
    let files = pair(env, swapped)?;
    let mut other = env.other(op)?;
    let before = Snapshot::take(&files.0)?;
    let transfer = Transfer::begin(env, &files.0, PINNED)?;
    other.send(&Request::Do(op.call(&files.0, &files.1, SIZE, PINNED)))?;
    if let Some(early) = other.receive_within(A_MOMENT)? {
        bail!("did not wait for the I/O: {}", errno_name(early.errno));
    }
    other.signal(libc::SIGALRM);
    must_be(&other.receive()?, libc::EINTR, "after a signal")?;
    transfer.end()?;
    if let Some(what) = before.difference(&Snapshot::take(&files.0)?) {
        bail!("interrupted, yet changed: {what}");
    }
    Ok(())
}

/// A reference without a pin is waited for just the same: a page spliced into a pipe.
fn page_in_a_pipe(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &files.0)?;
    holder.map_shared("map", "file", SIZE)?;
    holder.must(Request::Splice {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 8192,
        name: "pipe".to_owned(),
    })?;
    let what = "a page is in a pipe";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        BEHIND,
        Expect::Succeeds,
        what,
    )?;
    let call = Op::Punch.call(&files.0, &files.1, SIZE, PINNED);
    other.send(&Request::Do(call))?;
    ensure!(
        other.receive_within(A_MOMENT)?.is_none(),
        "did not wait for the page"
    );
    holder.close("pipe.read")?;
    holder.close("pipe.write")?;
    must_be(&other.receive()?, 0, "when the pipe is gone")
}

/// While a change waits for a page, somebody maps it again. When its last user is done it does not go
/// idle then, but the change goes on.
fn mapped_meanwhile(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &file)?;
    holder.map_shared("map", "file", SIZE)?;
    holder.must(Request::Splice {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 8192,
        name: "pipe".to_owned(),
    })?;
    other.send(&Request::Do(Op::Punch.call(&file, &file, SIZE, PINNED)))?;
    ensure!(
        other.receive_within(A_MOMENT)?.is_none(),
        "did not wait for the page"
    );
    holder.must(Request::Fill {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 8192,
        seed: 3,
    })?;
    holder.close("pipe.read")?;
    holder.close("pipe.write")?;
    match other.receive_within(Duration::from_secs(5))? {
        Some(reply) => must_be(&reply, 0, "when the pipe is gone"),
        None => bail!("still waits, though the page is only mapped"),
    }
}

/// A change that waits for direct I/O fails as soon as the same page is registered: the region may live
/// for ever.
fn registered_meanwhile(env: &Env) -> anyhow::Result<()> {
    let file: PathBuf = env.file()?;
    let mut holder = env.worker()?;
    let fd = holder.open("file", &file)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let mut client = env.verbs()?;
    client.must(Request::Take {
        pid: holder.pid(),
        fd: i32::try_from(fd)?,
        name: "received".to_owned(),
    })?;
    client.map_shared("map", "received", SIZE)?;
    let transfer = Transfer::begin(env, &file, PINNED)?;
    holder.send(&Request::Do(Op::Punch.call(&file, &file, SIZE, PINNED)))?;
    ensure!(
        holder.receive_within(A_MOMENT)?.is_none(),
        "did not wait for the I/O"
    );
    let reply = client.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering what is waited for")?;
    let refused = holder.receive_within(Duration::from_secs(5))?;
    transfer.end()?;
    match refused {
        Some(reply) => must_be(&reply, libc::ETXTBSY, "registered meanwhile"),
        None => bail!("still waits, though the page is registered"),
    }
}
