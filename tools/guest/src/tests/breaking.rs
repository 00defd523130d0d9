// SPDX-License-Identifier: MIT OR Apache-2.0
//! A layout lease that is not exclusive is broken by a layout change: signal, wait, go on.

use super::env::{
    getlease_is, lease_is, must_be, nonblocking_op_is, op_is, Env, Loan, EXCLUSIVE, PINNED, SHARED,
    SIZE, SOLE, UNLCK,
};
use super::{signalled, tests, Test};
use crate::client::process_state;
use crate::names::errno_name;
use crate::ops::{subtractive, Op};
use crate::protocol::{Call, Request};
use crate::setup::Fs;
use crate::snapshot::{make_capable, Snapshot};
use crate::trial::Expect;
use anyhow::{bail, ensure};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = tests![
        no_setlease_while_breaking,
        signal_of_choice,
        signal_goes_to_the_new_holder,
        chmod_while_waiting,
        lease_break_time,
        exclusive_holder_spares_the_others,
        own_lease_is_not_broken,
    ];
    for op in subtractive(fs) {
        let mut cell = |state: &str, expects: &str, check: fn(&Env, Op) -> anyhow::Result<()>| {
            let name = format!("{state}.{}", op.slug());
            list.push(Test::cell(name, expects, move |env| check(env, op)));
        };
        cell("waits", "SIGIO, waits, success", waits);
        cell("interrupted", "EINTR", interrupted);
        if matches!(op, Op::DedupeFrom | Op::DedupeTo) {
            cell("stopped", "EINTR", stopped);
        } else {
            cell("stopped", "waits, success", stopped);
        }
        if !op.takes_a_path() {
            cell("nonblock", "EWOULDBLOCK", nonblock);
        }
    }
    list
}

/// A file with a breakable lease, and an operation that waits for it.
struct Waiting<'a> {
    files: (PathBuf, PathBuf),
    before: (Snapshot, Snapshot),
    call: Call,
    holder: Loan<'a>,
    other: Loan<'a>,
}

impl<'a> Waiting<'a> {
    fn begin(env: &'a Env, op: Op) -> anyhow::Result<Self> {
        let files = env.pair()?;
        let (mut holder, mut other) = (env.worker()?, env.other(op)?);
        holder.open("file", &files.0)?;
        lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
        let before = (Snapshot::take(&files.0)?, Snapshot::take(&files.1)?);
        let call = op.call(&files.0, &files.1, SIZE, PINNED);
        other.send(&Request::Do(call.clone()))?;
        ensure!(
            signalled(&mut holder, libc::SIGIO, 10_000)?,
            "no SIGIO for the holder"
        );
        Ok(Waiting {
            files,
            before,
            call,
            holder,
            other,
        })
    }

    /// What is different from what it was.
    fn changed(&self) -> anyhow::Result<Option<String>> {
        let (file, partner) = &self.files;
        let file = self.before.0.difference(&Snapshot::take(file)?);
        let partner = self.before.1.difference(&Snapshot::take(partner)?);
        Ok(file.or(partner))
    }

    /// It still waits, or else it says what it did instead; and is done when the lease is released.
    fn goes_on_after_the_release(&mut self, or_else: &str) -> anyhow::Result<()> {
        if let Some(early) = self.other.receive_within(Duration::from_millis(100))? {
            bail!("{or_else}: {}", errno_name(early.errno));
        }
        if let Some(what) = self.changed()? {
            bail!("changed before the lease was released: {what}");
        }
        lease_is(&mut self.holder, "file", UNLCK, 0, "release")?;
        must_be(&self.other.receive()?, 0, "after the release")?;
        ensure!(self.changed()?.is_some(), "nothing changed");
        Ok(())
    }
}

/// The holder is told, the change waits, and goes on when the lease is released.
fn waits(env: &Env, op: Op) -> anyhow::Result<()> {
    let mut waiting = Waiting::begin(env, op)?;
    getlease_is(
        &mut waiting.holder,
        "file",
        UNLCK,
        "while a break is pending",
    )?;
    waiting.goes_on_after_the_release("did not wait for the holder")
}

/// A signal ends the wait, and the change is not done, not even later.
fn interrupted(env: &Env, op: Op) -> anyhow::Result<()> {
    let mut waiting = Waiting::begin(env, op)?;
    waiting.other.signal(libc::SIGALRM);
    must_be(&waiting.other.receive()?, libc::EINTR, "after a signal")?;
    lease_is(&mut waiting.holder, "file", UNLCK, 0, "release")?;
    if let Some(what) = waiting.changed()? {
        bail!("interrupted, yet changed: {what}");
    }
    let again = waiting.other.call(&waiting.call)?;
    must_be(&again, 0, "once more, after the release")?;
    ensure!(waiting.changed()?.is_some(), "nothing changed");
    Ok(())
}

/// Waits until a process is in `state`, as `/proc/<pid>/stat` calls it.
fn becomes(pid: u32, state: char) -> anyhow::Result<()> {
    for _ in 0..500 {
        if process_state(pid) == Some(state) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} is not in state {state} after 5 s")
}

/// Who is stopped and goes on waits again: no handler has run that could explain an EINTR. The same
/// holds for task work, such as that of io_uring. Only a deduplication has to say EINTR, in the
/// status of its one file: there is no going back to before the files that came first.
fn stopped(env: &Env, op: Op) -> anyhow::Result<()> {
    let mut waiting = Waiting::begin(env, op)?;
    waiting.other.signal(libc::SIGSTOP);
    becomes(waiting.other.pid(), 'T')?;
    if let Some(early) = waiting.other.receive_within(Duration::from_millis(50))? {
        bail!("answered although stopped: {}", errno_name(early.errno));
    }
    waiting.other.signal(libc::SIGCONT);
    if matches!(op, Op::DedupeFrom | Op::DedupeTo) {
        must_be(&waiting.other.receive()?, libc::EINTR, "after going on")?;
        return lease_is(&mut waiting.holder, "file", UNLCK, 0, "release");
    }
    waiting.goes_on_after_the_release("did not wait again")
}

/// A nonblocking caller is told at once; the holder is signalled all the same.
fn nonblock(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.worker()?;
    let mut other = env.other(op)?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    if op.takes_capabilities_away() {
        make_capable(&files.0)?;
    }
    let expect = Expect::Refused(libc::EWOULDBLOCK);
    nonblocking_op_is(&mut other, op, &files, PINNED, expect)?;
    ensure!(
        signalled(&mut holder, libc::SIGIO, 5000)?,
        "no SIGIO for the holder"
    );
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    nonblocking_op_is(&mut other, op, &files, PINNED, Expect::Succeeds)
}

fn no_setlease_while_breaking(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.worker()?;
    let mut other = env.worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    other.send(&Request::Do(
        Op::Punch.call(&files.0, &files.1, SIZE, PINNED),
    ))?;
    ensure!(
        signalled(&mut holder, libc::SIGIO, 10_000)?,
        "no SIGIO for the holder"
    );
    for lease in [SHARED, SOLE, SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        lease_is(
            &mut holder,
            "file",
            lease,
            libc::EAGAIN,
            "while it is being broken",
        )?;
    }
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    must_be(&other.receive()?, 0, "after the release")
}

fn signal_of_choice(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.worker()?;
    let mut other = env.worker()?;
    holder.open("file", &files.0)?;
    holder.must(Request::SetSignal {
        name: "file".to_owned(),
        signal: libc::SIGUSR1,
    })?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    let expect = Expect::Refused(libc::EWOULDBLOCK);
    nonblocking_op_is(&mut other, Op::Ftruncate, &files, PINNED, expect)?;
    ensure!(
        signalled(&mut holder, libc::SIGUSR1, 5000)?,
        "no SIGUSR1 for the holder"
    );
    Ok(())
}

/// The holder is who set the lease last, on the same description.
fn signal_goes_to_the_new_holder(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut first, mut second) = (env.worker()?, env.worker()?);
    let mut other = env.worker()?;
    let fd = first.open("file", &files.0)?;
    lease_is(&mut first, "file", SHARED, 0, "a breakable lease")?;
    second.must(Request::Take {
        pid: first.pid(),
        fd: i32::try_from(fd)?,
        name: "file".to_owned(),
    })?;
    lease_is(
        &mut second,
        "file",
        SHARED,
        0,
        "the same by another process",
    )?;
    let expect = Expect::Refused(libc::EWOULDBLOCK);
    nonblocking_op_is(&mut other, Op::Ftruncate, &files, PINNED, expect)?;
    ensure!(
        signalled(&mut second, libc::SIGIO, 5000)?,
        "no SIGIO for the new holder"
    );
    ensure!(
        !signalled(&mut first, libc::SIGIO, 100)?,
        "a SIGIO for the old one"
    );
    lease_is(&mut second, "file", UNLCK, 0, "release")
}

/// Somebody whose truncate takes the suid bits away waits. What is done to the mode meanwhile stands.
fn chmod_while_waiting(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.worker()?);
    other.become_nobody()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    let shrink = Op::Ftruncate.call(&files.0, &files.1, SIZE, PINNED);
    other.send(&Request::Do(shrink))?;
    ensure!(
        signalled(&mut holder, libc::SIGIO, 10_000)?,
        "no SIGIO for the holder"
    );
    std::fs::set_permissions(&files.0, Permissions::from_mode(0o4600))?;
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    must_be(&other.receive()?, 0, "after the release")?;
    let mode = std::fs::metadata(&files.0)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "the mode is {mode:o}, not 600");
    // What nobody has become stays so.
    other.end()
}

/// A holder that does nothing is waited for only so long.
fn lease_break_time(env: &Env) -> anyhow::Result<()> {
    const SYSCTL: &str = "/proc/sys/fs/lease-break-time";
    let files = env.pair()?;
    let mut holder = env.worker()?;
    let mut other = env.worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    let before = std::fs::read_to_string(SYSCTL)?;
    std::fs::write(SYSCTL, "2")?;
    let reply = other.call(&Op::Ftruncate.call(&files.0, &files.1, SIZE, PINNED));
    std::fs::write(SYSCTL, before)?;
    let reply = reply?;
    must_be(&reply, 0, "when lease-break-time is over")?;
    let seconds = Duration::from_nanos(reply.ns).as_secs_f64();
    ensure!(
        (1.0..10.0).contains(&seconds),
        "waited {seconds:.1} s, not 2"
    );
    getlease_is(&mut holder, "file", UNLCK, "after the break")
}

/// Refusals are looked for first: a refused change breaks and signals nobody.
fn exclusive_holder_spares_the_others(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut breakable, mut exclusive) = (env.worker()?, env.worker()?);
    breakable.open("file", &files.0)?;
    exclusive.open("file", &files.0)?;
    lease_is(&mut breakable, "file", SHARED, 0, "a breakable lease")?;
    lease_is(
        &mut exclusive,
        "file",
        SHARED | EXCLUSIVE,
        0,
        "an exclusive lease",
    )?;
    let mut other = env.worker()?;
    for op in [Op::Ftruncate, Op::Punch] {
        let refused = Expect::Refused(libc::ETXTBSY);
        op_is(&mut other, op, &files, PINNED, refused, "another process")?;
    }
    ensure!(
        !signalled(&mut breakable, libc::SIGIO, 100)?,
        "the other holder was signalled"
    );
    getlease_is(&mut breakable, "file", SHARED, "after refusals")
}

fn own_lease_is_not_broken(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SOLE, 0, "a breakable lease")?;
    op_is(
        &mut holder,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        "the holder",
    )?;
    ensure!(
        !signalled(&mut holder, libc::SIGIO, 100)?,
        "the holder was signalled"
    );
    getlease_is(&mut holder, "file", SOLE, "after one's own change")
}
