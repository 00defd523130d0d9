// SPDX-License-Identifier: MIT OR Apache-2.0
//! Additive operations succeed whoever holds and pins what, break no lease and move nothing.

use super::env::{
    getlease_is, lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED, SIZE, SOLE, UNLCK,
};
use super::{signalled, Test};
use crate::client::Client;
use crate::ioctls;
use crate::ops::{Op, Span, ADDITIVE};
use crate::protocol::{pattern, Call, Request};
use crate::setup::{is_dax, Fs};
use crate::snapshot::extents;
use crate::trial::Expect;
use anyhow::ensure;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every lease another process can hold.
const LEASES: [i32; 4] = [SHARED, SOLE, SHARED | EXCLUSIVE, SOLE | EXCLUSIVE];

type Files = (PathBuf, PathBuf);

/// Tries what a test is about; the words are those to complain in.
type Try = fn(&mut Client, &Files, &str) -> anyhow::Result<()>;

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    for op in ADDITIVE {
        let name = format!("any_state.{}", op.slug());
        list.push(Test::cell(name, "success", move |env| {
            in_any_state(env, move |who, files, what| {
                additive_is(who, op, files, what)
            })
        }));
    }
    let mut cell = |name: &str, tried: Try| {
        let name = format!("any_state.{name}");
        list.push(Test::cell(name, "success", move |env| {
            in_any_state(env, tried)
        }));
    };
    cell("fill_a_hole", fill_a_hole);
    cell("set_attributes", set_attributes);
    if fs == Fs::Xfs {
        cell("free_behind_eof", free_behind_eof);
    }
    list.push(Test::cell(
        "exclusive_of_another.copy_file_range",
        "success",
        copy_while_held,
    ));
    list.push(Test::cell(
        "pinned.copy_file_range",
        "success",
        copy_while_pinned,
    ));
    let breakable = match fs {
        // It shares blocks there, which changes the layout, but it can do without.
        Fs::Xfs => "waits, success",
        Fs::Ext4 => "success",
    };
    list.push(Test::cell(
        "breakable_of_another.copy_file_range",
        breakable,
        copy_while_leased,
    ));
    if fs == Fs::Ext4 {
        list.push(Test::cell("pinned.migrate", "success", migrate_both_ways));
    }
    list
}

/// Tries something by a holder of each lease and by others, then with a pin, kept and released.
fn in_any_state(
    env: &Env,
    tried: impl Fn(&mut Client, &Files, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.worker()?);
    holder.open("file", &files.0)?;
    for lease in LEASES {
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        tried(&mut other, &files, &format!("{lease:#x} of another"))?;
        getlease_is(&mut holder, "file", lease, "another one's operation")?;
        tried(&mut holder, &files, &format!("the holder of {lease:#x}"))?;
    }
    ensure!(
        !signalled(&mut holder, libc::SIGIO, 20)?,
        "the holder was signalled"
    );
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;

    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    let before = placed(&files.0, PINNED)?;
    tried(&mut other, &files, "pinned, another process")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    tried(&mut other, &files, "pinned and released")?;
    let after = placed(&files.0, PINNED)?;
    ensure!(before == after, "the pinned blocks moved");
    Ok(())
}

/// Where the blocks of a range are: the device's offset of each page.
pub fn placed(path: &Path, at: Span) -> anyhow::Result<Vec<Option<u64>>> {
    let extents = extents(&std::fs::File::open(path)?)?;
    let place = |page: u64| {
        let holds =
            |e: &&crate::snapshot::Extent| (e.logical..e.logical + e.length).contains(&page);
        let extent = extents.iter().find(holds)?;
        Some(extent.physical + (page - extent.logical))
    };
    let pages = (at.offset..at.offset + at.length).step_by(4096);
    Ok(pages.map(place).collect())
}

fn additive_is(who: &mut Client, op: Op, files: &Files, what: &str) -> anyhow::Result<()> {
    let expect = if op.may_change_nothing() {
        Expect::Allowed
    } else {
        Expect::Succeeds
    };
    op_is(who, op, files, PINNED, expect, what)
}

/// A write beyond the end leaves a hole, and another fills it.
fn fill_a_hole(who: &mut Client, files: &Files, what: &str) -> anyhow::Result<()> {
    let size = std::fs::metadata(&files.0)?.len();
    for offset in [size + 65536, size] {
        let call = Call::Pwrite {
            path: files.0.clone(),
            offset,
            length: 4096,
        };
        must_be(&who.call(&call)?, 0, &format!("{what}: write at {offset}"))?;
    }
    Ok(())
}

/// Whether a file is DAX is decided when its inode is loaded: the flag can be changed, but nothing
/// follows from it as long as somebody holds the file.
fn set_attributes(who: &mut Client, files: &Files, what: &str) -> anyhow::Result<()> {
    for flags in [ioctls::XFLAG_DAX, 0] {
        let call = ioctls::set_attributes(&files.0, flags, 0);
        must_be(&who.call(&call)?, 0, &format!("{what}: {flags:#x}"))?;
        ensure!(is_dax(&files.0)?, "{what}: not DAX with flags {flags:#x}");
    }
    Ok(())
}

/// Blocks behind the end of the file are nobody's.
fn free_behind_eof(who: &mut Client, files: &Files, what: &str) -> anyhow::Result<()> {
    additive_is(who, Op::AllocateBehind, files, what)?;
    let call = ioctls::free_behind_eof(&files.0);
    must_be(&who.call(&call)?, 0, what)
}

fn copy(from: &Path, to: &Path) -> Call {
    Call::CopyRange {
        from: from.to_owned(),
        to: to.to_owned(),
        length: SIZE,
    }
}

/// A file of other contents than those of `env.file()`.
fn other_contents(env: &Env) -> anyhow::Result<PathBuf> {
    let path = env.file()?;
    std::fs::write(&path, pattern(7, usize::try_from(SIZE)?))?;
    Ok(path)
}

fn copied(who: &mut Client, from: &Path, to: &Path, what: &str) -> anyhow::Result<()> {
    let reply = who.call(&copy(from, to))?;
    must_be(&reply, 0, what)?;
    let bytes = reply.value;
    ensure!(bytes == SIZE as i64, "{what}: {bytes} bytes were copied");
    ensure!(
        std::fs::read(from)? == std::fs::read(to)?,
        "{what}: not the same contents"
    );
    Ok(())
}

/// copy_file_range falls back to copying bytes where blocks cannot be shared.
fn copy_while_held(env: &Env) -> anyhow::Result<()> {
    let files = (env.file()?, other_contents(env)?);
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let before = placed(&files.0, Span::new(0, SIZE))?;
    copied(&mut other, &files.1, &files.0, "onto a leased file")?;
    std::fs::write(&files.1, pattern(9, usize::try_from(SIZE)?))?;
    copied(&mut other, &files.0, &files.1, "from a leased file")?;
    ensure!(
        before == placed(&files.0, Span::new(0, SIZE))?,
        "the leased blocks moved"
    );
    Ok(())
}

fn copy_while_pinned(env: &Env) -> anyhow::Result<()> {
    let files = (env.file()?, other_contents(env)?);
    let (mut holder, mut other) = (env.verbs()?, env.stranger()?);
    holder.pin(&files.0)?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    let before = placed(&files.0, PINNED)?;
    copied(&mut other, &files.1, &files.0, "onto a pinned file")?;
    std::fs::write(&files.1, pattern(9, usize::try_from(SIZE)?))?;
    copied(&mut other, &files.0, &files.1, "from a pinned file")?;
    ensure!(
        before == placed(&files.0, PINNED)?,
        "the pinned blocks moved"
    );
    Ok(())
}

/// Where it would share blocks, it is a layout change that breaks the lease first.
fn copy_while_leased(env: &Env) -> anyhow::Result<()> {
    let files = (env.file()?, other_contents(env)?);
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    other.send(&Request::Do(copy(&files.1, &files.0)))?;
    if env.fs == Fs::Xfs {
        ensure!(
            signalled(&mut holder, libc::SIGIO, 10_000)?,
            "no SIGIO for the holder"
        );
        let early = other.receive_within(Duration::from_millis(50))?;
        ensure!(early.is_none(), "did not wait for the holder");
        lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    }
    let reply = other.receive()?;
    must_be(&reply, 0, "copy_file_range")?;
    ensure!(
        reply.value == SIZE as i64,
        "{} bytes were copied",
        reply.value
    );
    ensure!(
        std::fs::read(&files.0)? == std::fs::read(&files.1)?,
        "not the same contents"
    );
    if env.fs == Fs::Ext4 {
        getlease_is(&mut holder, "file", SHARED, "after a copy of bytes")?;
    }
    Ok(())
}

/// From extents to indirect blocks and back: it is the map that is written anew, and the blocks stay.
fn migrate_both_ways(env: &Env) -> anyhow::Result<()> {
    const SMALL: u64 = 32 << 10;
    let file = env.file_of(SMALL)?;
    let mut holder = env.verbs()?;
    holder.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    must_be(&holder.reg("pin", "map", 4096, 8192)?, 0, "registering")?;
    let before = placed(&file, Span::new(0, SMALL))?;
    let flags = ioctls::flags(&file)?;
    let mut other = env.worker()?;
    for (what, call) in [
        (
            "to indirect blocks",
            ioctls::set_flags(&file, flags & !ioctls::EXTENTS),
        ),
        ("to extents", ioctls::migrate(&file)),
    ] {
        must_be(&other.call(&call)?, 0, what)?;
        ensure!(
            before == placed(&file, Span::new(0, SMALL))?,
            "{what}: blocks moved"
        );
        let changed = ioctls::flags(&file)?;
        let wanted = what == "to extents";
        ensure!(
            (changed & ioctls::EXTENTS != 0) == wanted,
            "{what}: flags are {changed:#x}"
        );
    }
    let punch = Op::Punch.call(&file, &file, SMALL, Span::new(4096, 4096));
    must_be(
        &other.call(&punch)?,
        libc::ETXTBSY,
        "a hole in the pinned blocks",
    )
}
