// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout changes by NFS clients: refused, or put off, without a thread of the server waiting.

use super::env::{
    getlease_is, lease_is, must_be, Env, Loan, BEFORE, EXCLUSIVE, PINNED, SHARED, UNLCK,
};
use super::nfs::{holder, name_of, unpin, SOON};
use super::{signalled, tests, Test};
use crate::client::Client;
use crate::nfs::{OpenFile, Server, Session, Status, PORT};
use crate::ops::Span;
use crate::setup::Fs;
use crate::snapshot::Snapshot;
use anyhow::{ensure, Context};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The filesystem does not matter, except that only XFS shares blocks.
pub fn tests(fs: Fs) -> Vec<Test> {
    if fs != Fs::Xfs {
        return Vec::new();
    }
    let mut list = tests![copy_comes_again, copy_from_a_pinned_range];
    for change in Change::ALL {
        let name = |what| format!("{what}.{}", change.slug());
        list.push(Test::new(name("refused"), move |env| refused(env, change)));
        list.push(Test::new(name("comes_again"), move |env| {
            comes_again(env, change)
        }));
        list.push(Test::new(name("pinned"), move |env| pinned(env, change)));
    }
    for change in [Change::CloneFrom, Change::CloneTo] {
        list.push(Test::new(
            format!("other_file_refuses.{}", change.slug()),
            move |env| other_file_refuses(env, change),
        ));
    }
    list
}

/// What a client asks the server to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    SetSize,
    Deallocate,
    CloneFrom,
    CloneTo,
}

impl Change {
    const ALL: [Change; 4] = [
        Change::SetSize,
        Change::Deallocate,
        Change::CloneFrom,
        Change::CloneTo,
    ];

    fn slug(self) -> &'static str {
        match self {
            Change::SetSize => "setattr",
            Change::Deallocate => "deallocate",
            Change::CloneFrom => "clone_from",
            Change::CloneTo => "clone_to",
        }
    }
}

/// Two exported files, both open at a client.
struct Remote {
    session: Session,
    file: OpenFile,
    other: OpenFile,
    _server: Server,
}

impl Remote {
    fn new(files: &(PathBuf, PathBuf)) -> anyhow::Result<Remote> {
        let server = Server::start(files.0.parent().context("a parent")?)?;
        let mut session = Session::begin(PORT)?;
        let file = session.open(name_of(&files.0)?)?;
        let other = session.open(name_of(&files.1)?)?;
        Ok(Remote {
            session,
            file,
            other,
            _server: server,
        })
    }

    /// The answer, which must not take as long as a process has to give up a lease.
    fn answers(&mut self, change: Change, at: Span, wanted: Status) -> anyhow::Result<()> {
        let (session, file, other) = (&mut self.session, &self.file, &self.other);
        let begun = Instant::now();
        let status = match change {
            Change::SetSize => session.set_size(file, at.offset),
            Change::Deallocate => session.deallocate(file, at),
            Change::CloneFrom => session.clone_range(file, other, at),
            Change::CloneTo => session.clone_range(other, file, at),
        }?;
        let time = begun.elapsed();
        ensure!(
            status == wanted && time < SOON,
            "{change:?} says {status} after {time:?}, not {wanted}"
        );
        Ok(())
    }
}

/// Pins a range of the file, and holds no lease any more.
fn pinner<'a>(env: &'a Env, path: &Path) -> anyhow::Result<Loan<'a>> {
    let mut verbs = env.verbs()?;
    verbs.lease_and_map(path, SHARED | EXCLUSIVE)?;
    let reply = verbs.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering")?;
    lease_is(&mut verbs, "file", UNLCK, 0, "release")?;
    Ok(verbs)
}

/// Nobody has asked the holder of a lease that can be broken to let go.
fn is_left_alone(holder: &mut Client, what: &str) -> anyhow::Result<()> {
    ensure!(
        !signalled(holder, libc::SIGIO, 100)?,
        "{what}: the holder of a lease got SIGIO"
    );
    getlease_is(holder, "file", SHARED, what)
}

/// Held exclusively: an I/O error, and nothing has changed.
fn refused(env: &Env, change: Change) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files)?;
    let mut holder = holder(&files.0, SHARED | EXCLUSIVE)?;
    let before = Snapshot::take(&files.0)?;
    remote.answers(change, BEFORE, Status::IO)?;
    if let Some(what) = before.difference(&Snapshot::take(&files.0)?) {
        anyhow::bail!("{change:?} was refused, yet changed {what}");
    }
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    remote.answers(change, BEFORE, Status::OK)
}

/// A process that has to let go of the layout is asked to, but no thread of the server waits for it.
fn comes_again(env: &Env, change: Change) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files)?;
    let mut holder = holder(&files.0, SHARED)?;
    remote.answers(change, BEFORE, Status::DELAY)?;
    ensure!(
        signalled(&mut holder, libc::SIGIO, 10_000)?,
        "no SIGIO for the holder"
    );
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    remote.answers(change, BEFORE, Status::OK)
}

/// A pinned range refuses, and then nobody is asked to let go of a lease; elsewhere, he is.
fn pinned(env: &Env, change: Change) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files)?;
    let mut verbs = pinner(env, &files.0)?;
    let mut holder = holder(&files.0, SHARED)?;
    remote.answers(change, PINNED, Status::IO)?;
    is_left_alone(&mut holder, "a pinned range")?;
    // A size refuses all that is behind it.
    let elsewhere = match change {
        Change::SetSize => Span::new(PINNED.offset + PINNED.length, 0),
        _ => BEFORE,
    };
    remote.answers(change, elsewhere, Status::DELAY)?;
    unpin(&mut verbs)
}

/// If one of two files refuses, holders of leases on the other one are left alone.
fn other_file_refuses(env: &Env, change: Change) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files)?;
    let mut breakable = holder(&files.0, SHARED)?;
    let mut exclusive = holder(&files.1, SHARED | EXCLUSIVE)?;
    remote.answers(change, BEFORE, Status::IO)?;
    is_left_alone(&mut breakable, "the other file refuses")?;
    lease_is(&mut exclusive, "file", UNLCK, 0, "release")?;
    remote.answers(change, BEFORE, Status::DELAY)
}

/// COPY shares blocks where it can, so it does not wait for processes either.
fn copy_comes_again(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files)?;
    let mut holder = holder(&files.0, SHARED)?;
    for wanted in [Status::DELAY, Status::OK] {
        let begun = Instant::now();
        let status = remote.session.copy(&remote.file, &remote.other, BEFORE)?;
        let time = begun.elapsed();
        ensure!(
            status == wanted && time < SOON,
            "COPY says {status} after {time:?}, not {wanted}"
        );
        if wanted == Status::DELAY {
            ensure!(
                signalled(&mut holder, libc::SIGIO, 10_000)?,
                "no SIGIO for the holder"
            );
            lease_is(&mut holder, "file", UNLCK, 0, "release")?;
        }
    }
    Ok(())
}

/// Where blocks cannot be shared, COPY copies the data.
fn copy_from_a_pinned_range(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&files.0)?;
    let mut data = vec![0; usize::try_from(PINNED.length)?];
    file.read_exact_at(&mut data, PINNED.offset)?;
    data.reverse();
    data[0] ^= 0xff;
    file.write_all_at(&data, PINNED.offset)?;
    file.sync_all()?;

    let mut remote = Remote::new(&files)?;
    let mut verbs = pinner(env, &files.0)?;
    let mut holder = holder(&files.0, SHARED)?;
    let status = remote.session.copy(&remote.file, &remote.other, PINNED)?;
    ensure!(status == Status::OK, "COPY says {status}");
    is_left_alone(&mut holder, "a pinned range")?;

    let mut copied = vec![0; data.len()];
    std::fs::File::open(&files.1)?.read_exact_at(&mut copied, PINNED.offset)?;
    ensure!(
        copied == data,
        "the copy is not what the pinned range holds"
    );
    unpin(&mut verbs)
}
