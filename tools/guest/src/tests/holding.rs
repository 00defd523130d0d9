// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a lease lasts and who shares it: dup, fork, exec, passing on; and how it shows.

use super::env::{getlease_is, lease_is, must_be, Env, EXCLUSIVE, SHARED, SOLE, UNLCK};
use super::lease::{opened, LAYOUT_LEASES, PLAIN_WRITE};
use super::{tests, Test};
use crate::client::Client;
use crate::protocol::{Call, Request};
use crate::setup::Fs;
use anyhow::ensure;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        last_close_releases,
        survives_fork,
        survives_exec,
        handed_to_another_process,
        proc_locks,
        ordinary_use_breaks_nothing,
        plain_leases_as_before,
    ]
}

fn dup(worker: &mut Client) -> anyhow::Result<()> {
    worker.must(Request::Dup {
        name: "file".to_owned(),
        new: "copy".to_owned(),
    })?;
    Ok(())
}

fn last_close_releases(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    lease_is(&mut first, "file", SOLE | EXCLUSIVE, 0, "the lease")?;
    dup(&mut first)?;
    first.close("file")?;
    lease_is(&mut second, "file", SHARED, libc::EAGAIN, "a copy is open")?;
    getlease_is(&mut first, "copy", SOLE | EXCLUSIVE, "through the copy")?;
    first.close("copy")?;
    lease_is(&mut second, "file", SHARED, 0, "after the last close")
}

/// Asks until it is granted: a process that ends lets go of its files a moment later.
fn soon_granted(who: &mut Client, what: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let reply = who.set_lease("file", SHARED)?;
        if reply.errno != libc::EAGAIN || Instant::now() > deadline {
            return must_be(&reply, 0, what);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn survives_fork(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    lease_is(&mut first, "file", SOLE | EXCLUSIVE, 0, "the lease")?;
    let child = first.must(Request::Fork)?.value;
    let result = first.close("file").and_then(|()| {
        lease_is(
            &mut second,
            "file",
            SHARED,
            libc::EAGAIN,
            "the child has it open",
        )
    });
    // SAFETY: a signal to the child this test made, which is not reaped before its parent ends.
    unsafe { libc::kill(i32::try_from(child)?, libc::SIGKILL) };
    result?;
    soon_granted(&mut second, "after the child's end")
}

fn survives_exec(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    lease_is(&mut first, "file", SOLE | EXCLUSIVE, 0, "the lease")?;
    first.must(Request::Exec)?;
    getlease_is(&mut first, "file", SOLE | EXCLUSIVE, "after exec")?;
    lease_is(&mut second, "file", SHARED, libc::EAGAIN, "after exec")?;
    let call = Call::Ftruncate {
        path: file,
        size: 4096,
        flags: 0,
    };
    must_be(
        &second.call(&call)?,
        libc::ETXTBSY,
        "another process truncates",
    )?;
    must_be(
        &first.call(&call)?,
        0,
        "the holder truncates after its exec",
    )
}

fn handed_to_another_process(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let fd = first.open("leased", &file)?;
    lease_is(&mut first, "leased", SOLE | EXCLUSIVE, 0, "the lease")?;
    let mut second = env.worker()?;
    second.must(Request::Take {
        pid: first.pid(),
        fd: i32::try_from(fd)?,
        name: "received".to_owned(),
    })?;
    getlease_is(&mut second, "received", SOLE | EXCLUSIVE, "the receiver")?;
    first.close("leased")?;
    lease_is(
        &mut first,
        "file",
        SHARED,
        libc::EAGAIN,
        "the receiver keeps it open",
    )?;
    lease_is(&mut second, "received", UNLCK, 0, "release through a copy")?;
    lease_is(&mut first, "file", SHARED, 0, "after the release")
}

/// The lines of /proc/locks about a file.
fn locks_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = std::fs::metadata(path)?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let text = std::fs::read_to_string("/proc/locks")?;
    let about = |line: &&str| line.split_whitespace().any(|word| word == wanted);
    Ok(text.lines().filter(about).map(str::to_owned).collect())
}

fn proc_locks(env: &Env) -> anyhow::Result<()> {
    let (mut worker, file) = opened(env)?;
    for lease in LAYOUT_LEASES {
        lease_is(&mut worker, "file", lease, 0, "a lease")?;
        let lines = locks_of(&file)?;
        ensure!(lines.len() == 1, "{lease:#x}: /proc/locks has {lines:?}");
        let line = &lines[0];
        ensure!(
            line.contains(" LAYOUT "),
            "{lease:#x}: no LAYOUT in {line:?}"
        );
        ensure!(!line.contains("LEASE"), "{lease:#x}: LEASE in {line:?}");
        let exclusive = line.to_uppercase().contains("EXCL");
        ensure!(
            exclusive == (lease & EXCLUSIVE != 0),
            "{lease:#x}: {line:?}"
        );
        let word = if lease & 0xff == libc::F_WRLCK {
            " WRITE "
        } else {
            " READ "
        };
        ensure!(line.contains(word), "{lease:#x}: no{word}in {line:?}");
        let pid = format!(" {} ", worker.pid());
        ensure!(line.contains(&pid), "{lease:#x}: no pid{pid}in {line:?}");
    }
    lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    lease_is(&mut worker, "file", PLAIN_WRITE, 0, "a plain lease")?;
    let lines = locks_of(&file)?;
    ensure!(
        lines.len() == 1 && lines[0].contains(" LEASE "),
        "a plain lease: {lines:?}"
    );
    Ok(())
}

fn ordinary_use_breaks_nothing(env: &Env) -> anyhow::Result<()> {
    let (mut holder, file) = opened(env)?;
    lease_is(&mut holder, "file", SOLE, 0, "a breakable lease")?;
    let mut other = env.worker()?;
    other.open("reader", &file)?;
    must_be(
        &other.call(&Call::Pwrite {
            path: file,
            offset: 0,
            length: 4096,
        })?,
        0,
        "write in place",
    )?;
    other.map_shared("map", "reader", 65536)?;
    other.must(Request::Fill {
        map: "map".to_owned(),
        offset: 0,
        length: 65536,
        seed: 3,
    })?;
    getlease_is(
        &mut holder,
        "file",
        SOLE,
        "after open, write and mmap by another",
    )?;
    let signal = holder.must(Request::WaitSignal {
        signal: libc::SIGIO,
        milliseconds: 50,
    })?;
    ensure!(signal.value == 0, "the holder got signal {}", signal.value);
    Ok(())
}

fn plain_leases_as_before(env: &Env) -> anyhow::Result<()> {
    let (mut holder, file) = opened(env)?;
    lease_is(&mut holder, "file", PLAIN_WRITE, 0, "a plain lease")?;
    let mut other = env.worker()?;
    let reply = other.ask(Request::Open {
        name: "file".to_owned(),
        path: file,
        flags: libc::O_RDWR | libc::O_NONBLOCK,
    })?;
    must_be(&reply, libc::EWOULDBLOCK, "open without waiting")?;
    let signal = holder.must(Request::WaitSignal {
        signal: libc::SIGIO,
        milliseconds: 5000,
    })?;
    ensure!(
        signal.value == i64::from(libc::SIGIO),
        "no SIGIO for the holder"
    );
    lease_is(&mut holder, "file", UNLCK, 0, "release")
}
