// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table "Layout changes": each subtractive operation in each state of the file, by the holder and
//! by others. Leases that can be broken are the subject of `breaking`, transient pins of `transient`.

use super::env::{lease_is, op_is, Env, BEFORE, BEHIND, EXCLUSIVE, PINNED, SHARED, SOLE, UNLCK};
use super::held::Held;
use super::lifetime::dirty;
use super::Test;
use crate::client::minor_faults;
use crate::ops::{subtractive, Op, Span};
use crate::setup::Fs;
use crate::snapshot::{is_capable, make_capable};
use crate::trial::Expect;
use anyhow::ensure;
use std::fs::File;
use std::os::unix::fs::FileExt;

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

/// What a file of these tests can be like.
struct State {
    name: &'static str,
    /// Whether the operation is aimed beside the pin, which only one that has a range can be.
    beside: bool,
    /// What the contract says.
    expects: fn(Fs, Op) -> &'static str,
    check: fn(&Env, Op) -> anyhow::Result<()>,
}

const fn state(
    name: &'static str,
    beside: bool,
    expects: fn(Fs, Op) -> &'static str,
    check: fn(&Env, Op) -> anyhow::Result<()>,
) -> State {
    State {
        name,
        beside,
        expects,
        check,
    }
}

const STATES: [State; 9] = [
    state("free", false, succeeds, free),
    state("own_lease", false, succeeds, own_lease),
    state("exclusive_of_another", false, refused, exclusive_of_another),
    state(
        "exclusive_of_another_and_own",
        false,
        refused,
        exclusive_of_another_and_own,
    ),
    state("pinned", false, refused, pinned),
    state("pinned_released", false, refused, pinned_released),
    state("pinned_behind", true, succeeds, pinned_behind),
    state("pinned_before", true, before, pinned_before),
    state("pinned_adjacent", true, adjacent, pinned_adjacent),
];

fn succeeds(_: Fs, _: Op) -> &'static str {
    "success"
}

fn refused(_: Fs, _: Op) -> &'static str {
    "ETXTBSY"
}

fn before(_: Fs, op: Op) -> &'static str {
    if op.reaches_the_end() {
        "ETXTBSY"
    } else {
        "success"
    }
}

fn adjacent(fs: Fs, op: Op) -> &'static str {
    if shifts_the_page_before(fs, op) {
        "ETXTBSY"
    } else {
        "success"
    }
}

/// XFS tries to merge what it shifts with what is before that, and drops its cache.
fn shifts_the_page_before(fs: Fs, op: Op) -> bool {
    fs == Fs::Xfs && matches!(op, Op::Collapse | Op::Insert)
}

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    for state in STATES {
        for op in subtractive(fs).filter(|op| !state.beside || op.has_range()) {
            let name = format!("{}.{}", state.name, op.slug());
            let check = state.check;
            list.push(Test::cell(name, (state.expects)(fs, op), move |env| {
                check(env, op)
            }));
        }
    }
    for op in subtractive(fs).filter(|op| op.takes_capabilities_away()) {
        let name = format!("capabilities.{}", op.slug());
        list.push(Test::new(name, move |env| capabilities(env, op)));
    }
    list
}

/// What takes a file's capabilities away does not if it is refused.
fn capabilities(env: &Env, op: Op) -> anyhow::Result<()> {
    for held in Held::ALL {
        let files = env.pair()?;
        make_capable(&files.0)?;
        let mut holder = held.hold(env, &files.0)?;
        let mut other = env.other(op)?;
        let when = format!("{} and capable", held.slug());
        op_is(&mut other, op, &files, PINNED, REFUSED, &when)?;
        ensure!(is_capable(&files.0)?, "refused, yet without capabilities");
        held.let_go(&mut holder)?;
        op_is(&mut other, op, &files, PINNED, Expect::Succeeds, "let go")?;
        ensure!(!is_capable(&files.0)?, "the file keeps its capabilities");
    }
    Ok(())
}

fn free(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut anybody = env.other(op)?;
    op_is(
        &mut anybody,
        op,
        &files,
        PINNED,
        Expect::Succeeds,
        "anybody",
    )
}

fn own_lease(env: &Env, op: Op) -> anyhow::Result<()> {
    let mut holder = env.worker()?;
    for lease in [SHARED, SOLE | EXCLUSIVE] {
        let files = env.pair()?;
        holder.open("file", &files.0)?;
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        let what = format!("the holder of {lease:#x}");
        op_is(&mut holder, op, &files, PINNED, Expect::Succeeds, &what)?;
    }
    Ok(())
}

fn exclusive_of_another(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.other(op)?);
    holder.open("file", &files.0)?;
    for (lease, at) in [(SHARED | EXCLUSIVE, BEFORE), (SOLE | EXCLUSIVE, BEHIND)] {
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        op_is(&mut other, op, &files, at, REFUSED, "another process")?;
    }
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    op_is(
        &mut other,
        op,
        &files,
        BEFORE,
        Expect::Succeeds,
        "after the release",
    )
}

/// An exclusive lease of one's own does not help against somebody else's.
fn exclusive_of_another_and_own(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut first, mut second) = (env.worker()?, env.worker()?);
    for holder in [&mut first, &mut second] {
        holder.open("file", &files.0)?;
        lease_is(holder, "file", SHARED | EXCLUSIVE, 0, "a lease")?;
    }
    for holder in [&mut first, &mut second] {
        op_is(holder, op, &files, PINNED, REFUSED, "one of two holders")?;
    }
    lease_is(&mut first, "file", UNLCK, 0, "release")?;
    op_is(
        &mut second,
        op,
        &files,
        PINNED,
        Expect::Succeeds,
        "the last holder",
    )
}

/// The pinned range, lease kept: nobody. Nor is it unmapped for that.
fn pinned(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    let mut other = env.other(op)?;
    holder.pin(&files.0)?;
    let data = std::fs::read(&files.0)?;
    dirty(&mut holder)?;
    let before = minor_faults(holder.pid())?;
    dirty(&mut holder)?;
    let usual = minor_faults(holder.pid())? - before;
    op_is(&mut holder, op, &files, PINNED, REFUSED, "the holder")?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "another process")?;
    let before = minor_faults(holder.pid())?;
    dirty(&mut holder)?;
    let faults = minor_faults(holder.pid())? - before;
    ensure!(
        faults < usual + PINNED.length / 4096 / 2,
        "{faults} page faults after it was refused, {usual} before: it has been unmapped"
    );
    // Deduplication takes two files that are equal.
    File::options()
        .write(true)
        .open(&files.0)?
        .write_all_at(&data, 0)?;
    holder.dereg("pin")?;
    op_is(
        &mut holder,
        op,
        &files,
        PINNED,
        Expect::Succeeds,
        "the holder, unpinned",
    )
}

/// The pinned range, lease released: nobody, until it is unpinned.
fn pinned_released(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    let mut other = env.other(op)?;
    holder.pin(&files.0)?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    op_is(
        &mut holder,
        op,
        &files,
        PINNED,
        REFUSED,
        "the holder that was",
    )?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "another process")?;
    holder.dereg("pin")?;
    op_is(
        &mut other,
        op,
        &files,
        PINNED,
        Expect::Succeeds,
        "another process, unpinned",
    )
}

/// Behind the pinned range: the holder's, then everybody's.
fn pinned_behind(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut other = env.other(op)?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    op_is(&mut other, op, &files, BEHIND, REFUSED, "another process")?;
    op_is(
        &mut holder,
        op,
        &files,
        BEHIND,
        Expect::Succeeds,
        "the holder",
    )?;
    drop(holder);
    // A file that shares blocks with another takes a fresh one for the second half.
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    op_is(
        &mut other,
        op,
        &files,
        BEHIND,
        Expect::Succeeds,
        "another process, released",
    )
}

/// Before the pinned range: what stays there succeeds, what reaches on to the end is refused.
fn pinned_before(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut other = env.other(op)?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    let expect = if op.reaches_the_end() {
        REFUSED
    } else {
        Expect::Succeeds
    };
    op_is(&mut holder, op, &files, BEFORE, expect, "the holder")?;
    drop(holder);
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    op_is(
        &mut other,
        op,
        &files,
        BEFORE,
        expect,
        "another process, released",
    )
}

/// From the very next page on, and up to the page before; the pages at both ends are still refused.
fn pinned_adjacent(env: &Env, op: Op) -> anyhow::Result<()> {
    const SHORT: u64 = 16384;
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    let end = PINNED.offset + PINNED.length;
    let (last, next) = (Span::new(end - 4096, 4096), Span::new(end, SHORT));
    op_is(&mut holder, op, &files, last, REFUSED, "the last page")?;
    let expect = if shifts_the_page_before(env.fs, op) {
        REFUSED
    } else {
        Expect::Succeeds
    };
    op_is(&mut holder, op, &files, next, expect, "the next page")?;
    if op.reaches_the_end() {
        return Ok(());
    }
    let first = Span::new(PINNED.offset, 4096);
    let before = Span::new(PINNED.offset - SHORT, SHORT);
    op_is(&mut holder, op, &files, first, REFUSED, "the first page")?;
    let what = "up to the first page";
    op_is(&mut holder, op, &files, before, Expect::Succeeds, what)
}
