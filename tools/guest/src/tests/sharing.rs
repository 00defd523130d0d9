// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks that files share, beside blocks that are pinned: XFS only, as ext4 shares none.

use super::additive::placed;
use super::env::{lease_is, must_be, op_is, Env, Loan, EXCLUSIVE, SHARED, SIZE, UNLCK};
use super::{tests, Test};
use crate::client::{Client, READ, WRITE};
use crate::ops::{Op, Span};
use crate::protocol::{pattern, Call, Request};
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::ensure;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4096;
/// Pages 0 to 3: pinned.
const PINNED: Span = Span::new(0, 4 * PAGE);
/// Pages 16 to 19: shared with another file.
const CLONED: Span = Span::new(16 * PAGE, 4 * PAGE);

pub fn tests(fs: Fs) -> Vec<Test> {
    match fs {
        Fs::Xfs => tests![
            write_beside_copies_only_what_is_shared,
            unshare_leaves_pinned_blocks,
            no_pin_on_shared_blocks,
            no_pin_on_a_file_that_shares,
        ],
        Fs::Ext4 => Vec::new(),
    }
}

/// A file with `PINNED` pinned and `CLONED` shared, by the holder of an exclusive lease.
fn pinned_and_cloned(env: &Env) -> anyhow::Result<((PathBuf, PathBuf), Loan<'_>)> {
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering")?;
    op_is(
        &mut holder,
        Op::ReflinkFrom,
        &files,
        CLONED,
        Expect::Succeeds,
        "the holder clones what is not pinned",
    )?;
    Ok((files, holder))
}

fn write(who: &mut Client, path: &Path, page: u64, what: &str) -> anyhow::Result<()> {
    let call = Call::Pwrite {
        path: path.to_owned(),
        offset: page * PAGE,
        length: PAGE,
    };
    must_be(&who.call(&call)?, 0, what)
}

/// A write to a shared page gets a block of its own; one to a pinned page of the same file stays where
/// the device writes.
fn write_beside_copies_only_what_is_shared(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = pinned_and_cloned(env)?;
    let all = Span::new(0, SIZE);
    let before = placed(&files.0, all)?;
    let partner = placed(&files.1, all)?;
    let page = |number: u64| Span::new(number * PAGE, PAGE);

    write(&mut holder, &files.0, 16, "a write to a shared page")?;
    ensure!(
        placed(&files.0, page(16))? != placed(&files.1, page(16))?,
        "the page is still shared after a write"
    );
    write(&mut holder, &files.0, 0, "a write to a pinned page")?;
    let mut stranger = env.stranger()?;
    write(
        &mut stranger,
        &files.0,
        3,
        "another's write to a pinned page",
    )?;
    ensure!(
        before[..16] == placed(&files.0, Span::new(0, CLONED.offset))?,
        "blocks moved that are not shared"
    );
    ensure!(
        before[17..] == placed(&files.0, all)?[17..],
        "blocks moved that were not written to"
    );
    ensure!(
        partner == placed(&files.1, all)?,
        "the clone's blocks moved"
    );

    // The device reaches what read(2) finds.
    holder.map_anonymous("memory", PINNED.length)?;
    must_be(
        &holder.reg("source", "memory", 0, PINNED.length)?,
        0,
        "anonymous memory",
    )?;
    holder.must(Request::Fill {
        map: "memory".to_owned(),
        offset: 0,
        length: PINNED.length,
        seed: 77,
    })?;
    holder.must(Request::RdmaWrite {
        from: "source".to_owned(),
        to: "pin".to_owned(),
        length: PINNED.length,
    })?;
    let length = usize::try_from(PINNED.length)?;
    let found = std::fs::read(&files.0)?;
    ensure!(
        found[..length] == pattern(77, length),
        "the device writes elsewhere"
    );
    Ok(())
}

fn unshare_leaves_pinned_blocks(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = pinned_and_cloned(env)?;
    let before = placed(&files.0, PINNED)?;
    let refused = Expect::Refused(libc::ETXTBSY);
    let what = "unsharing what is pinned";
    op_is(&mut holder, Op::Unshare, &files, PINNED, refused, what)?;
    let what = "unsharing what is shared";
    let expect = Expect::Succeeds;
    op_is(&mut holder, Op::Unshare, &files, CLONED, expect, what)?;
    ensure!(
        placed(&files.0, CLONED)? != placed(&files.1, CLONED)?,
        "the blocks are still shared"
    );
    ensure!(before == placed(&files.0, PINNED)?, "pinned blocks moved");
    Ok(())
}

/// Neither the shared blocks nor others of a file that shares any can be pinned, for reading or writing.
fn no_pin_on_shared_blocks(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = pinned_and_cloned(env)?;
    for access in [READ, WRITE] {
        for at in [CLONED, Span::new(64 * PAGE, PAGE)] {
            let reply = holder.reg_for("more", "map", at.offset, at.length, access)?;
            let what = format!("registering at {} after a reflink", at.offset);
            must_be(&reply, libc::EOPNOTSUPP, &what)?;
        }
    }
    // What was pinned before stays so.
    let refused = Expect::Refused(libc::ETXTBSY);
    let what = "the pin from before";
    op_is(&mut holder, Op::Punch, &files, PINNED, refused, what)?;
    holder.dereg("pin")?;
    let expect = Expect::Succeeds;
    op_is(&mut holder, Op::Punch, &files, PINNED, expect, what)
}

/// No lease is given on a file that shares blocks, on either side; one that exists allows no pins.
fn no_pin_on_a_file_that_shares(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    op_is(
        &mut holder,
        Op::ReflinkTo,
        &files,
        CLONED,
        Expect::Succeeds,
        "the holder replaces blocks by shared ones",
    )?;
    let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, libc::EOPNOTSUPP, "registering")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    for path in [&files.0, &files.1] {
        let mut worker = env.worker()?;
        worker.open("file", path)?;
        let what = "a lease on a file that shares blocks";
        lease_is(
            &mut worker,
            "file",
            SHARED | EXCLUSIVE,
            libc::EOPNOTSUPP,
            what,
        )?;
    }
    Ok(())
}
