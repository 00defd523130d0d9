// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table "Layout changes": each operation in each state of the file, by the holder and by others.

use super::env::{lease_is, op_is, Env, BEFORE, BEHIND, EXCLUSIVE, PINNED, SHARED, SOLE, UNLCK};
use super::{tests, Test};
use crate::ops::{Op, ADDITIVE, SUBTRACTIVE};
use crate::setup::Fs;
use crate::trial::Expect;

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

/// What a file of these tests can be like.
type State = (&'static str, bool, fn(&Env, Op) -> anyhow::Result<()>);

/// Name, whether the operation is aimed beside the pin, and the test.
const STATES: [State; 8] = [
    ("free", false, free),
    ("own_lease", false, own_lease),
    ("exclusive_of_another", false, exclusive_of_another),
    (
        "exclusive_of_another_and_own",
        false,
        exclusive_of_another_and_own,
    ),
    ("pinned", false, pinned),
    ("pinned_released", false, pinned_released),
    ("pinned_behind", true, pinned_behind),
    ("pinned_before", true, pinned_before),
];

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    for (state, beside, check) in STATES {
        for op in SUBTRACTIVE.into_iter().filter(|op| op.exists_on(fs)) {
            if !beside || op.has_range() {
                let name = format!("{state}.{}", op.slug());
                list.push(Test::new(name, move |env| check(env, op)));
            }
        }
    }
    for op in ADDITIVE {
        let name = format!("additive.{}", op.slug());
        list.push(Test::new(name, move |env| additive(env, op)));
    }
    list.extend(tests![copy_file_range_is_no_layout_change]);
    list
}

fn free(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    op_is(
        &mut env.worker()?,
        op,
        &files,
        PINNED,
        Expect::Succeeds,
        "anybody",
    )
}

fn own_lease(env: &Env, op: Op) -> anyhow::Result<()> {
    for lease in [SHARED, SOLE | EXCLUSIVE] {
        let files = env.pair()?;
        let mut holder = env.worker()?;
        holder.open("file", &files.0)?;
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        let what = format!("the holder of {lease:#x}");
        op_is(&mut holder, op, &files, PINNED, Expect::Succeeds, &what)?;
    }
    Ok(())
}

fn exclusive_of_another(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.worker()?);
    holder.open("file", &files.0)?;
    for lease in [SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        for at in [BEFORE, BEHIND] {
            op_is(&mut other, op, &files, at, REFUSED, "another process")?;
        }
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

/// The pinned range, lease kept: nobody.
fn pinned(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    let mut other = env.worker()?;
    holder.pin(&files.0)?;
    op_is(&mut holder, op, &files, PINNED, REFUSED, "the holder")?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "another process")?;
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
    let mut other = env.worker()?;
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
    let mut holder = env.verbs()?;
    let mut other = env.worker()?;
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
    let mut holder = env.verbs()?;
    let mut other = env.worker()?;
    holder.pin(&files.0)?;
    let expect = if op.reaches_the_end() {
        REFUSED
    } else {
        Expect::Succeeds
    };
    op_is(&mut holder, op, &files, BEFORE, expect, "the holder")?;
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

/// Additive operations succeed whoever holds and pins what.
fn additive(env: &Env, op: Op) -> anyhow::Result<()> {
    let mut other = env.worker()?;
    for lease in [SHARED, SOLE, SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        let files = env.pair()?;
        let mut holder = env.worker()?;
        holder.open("file", &files.0)?;
        lease_is(&mut holder, "file", lease, 0, "the lease")?;
        additive_is(&mut other, op, &files, &format!("{lease:#x} of another"))?;
        additive_is(
            &mut holder,
            op,
            &files,
            &format!("the holder of {lease:#x}"),
        )?;
    }
    let files = env.pair()?;
    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    additive_is(&mut holder, op, &files, "pinned, the holder")?;
    additive_is(&mut other, op, &files, "pinned, another process")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    additive_is(&mut other, op, &files, "pinned and released")
}

fn additive_is(
    who: &mut crate::client::Client,
    op: Op,
    files: &(std::path::PathBuf, std::path::PathBuf),
    what: &str,
) -> anyhow::Result<()> {
    if op == Op::Allocate {
        // Nothing is left to allocate in a full file: an errno is all there is to see.
        let call = op.call(&files.0, &files.1, super::env::SIZE, PINNED);
        return super::env::must_be(&who.call(&call)?, 0, what);
    }
    op_is(who, op, files, PINNED, Expect::Succeeds, what)
}

/// copy_file_range falls back to copying bytes: it succeeds on a leased file.
fn copy_file_range_is_no_layout_change(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = env.worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let call = crate::protocol::Call::CopyRange {
        from: files.1,
        to: files.0,
        length: 65536,
    };
    let reply = env.worker()?.call(&call)?;
    super::env::must_be(&reply, 0, "copy_file_range by another process")
}
