// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trace events tell of pins, of refused changes, and of leases that are granted and broken.

use super::env::{lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED};
use super::env::{nonblocking_op_is, UNLCK};
use super::{tests, Test};
use crate::ops::Op;
use crate::setup::Fs;
use crate::trace::{inode, Events};
use crate::trial::Expect;
use anyhow::ensure;
use std::path::Path;

const PAGE: u64 = 4096;
const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        pins,
        refusals_by_pins,
        refusals_by_leases,
        grants_and_breaks
    ]
}

/// Each event in `wanted` must have been recorded once since the last look, with these words, and no
/// other one of the file.
fn told(events: &Events, file: &Path, wanted: &[(&str, &[&str])]) -> anyhow::Result<()> {
    let number = format!("{:#x}", inode(file)?);
    let of_file = |text: &str| {
        let mut words = text.split([' ', '=']);
        words.any(|word| word == "ino") && words.next() == Some(number.as_str())
    };
    let recorded = events.take()?;
    // Whoever opens a file asks for its plain leases as well.
    let of_layouts = |text: &str| !text.contains(" flags=LEASE|");
    let recorded: Vec<_> = recorded
        .iter()
        .filter(|e| of_file(&e.text) && of_layouts(&e.text))
        .collect();
    let as_wanted = recorded.len() == wanted.len()
        && recorded.iter().zip(wanted).all(|(event, (name, words))| {
            event.name == *name && words.iter().all(|word| event.text.contains(word))
        });
    ensure!(as_wanted, "recorded {recorded:?}, not {wanted:?}");
    Ok(())
}

/// The range that is pinned, and the same when it is unpinned.
fn pins(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    let events = Events::on(&["file_pin/file_pin_add", "file_pin/file_pin_remove"])?;
    let (first, last) = (
        PINNED.offset / PAGE,
        (PINNED.offset + PINNED.length) / PAGE - 1,
    );
    let pages = format!("pages {first}-{last} rw");
    let reply = client.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering")?;
    told(&events, &file, &[("file_pin_add", &[&pages])])?;
    client.dereg("pin")?;
    told(&events, &file, &[("file_pin_remove", &[&pages])])
}

const REFUSAL: &str = "layout_change_refused";
const REFUSALS: &[&str] = &["filelock/layout_change_refused"];

/// A change that a pin refuses: which range it was about.
fn refusals_by_pins(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let events = Events::on(REFUSALS)?;
    op_is(&mut client, Op::Punch, &files, PINNED, REFUSED, "pinned")?;
    let range = format!(
        "start={} end={} ",
        PINNED.offset,
        PINNED.offset + PINNED.length - 1
    );
    told(&events, &files.0, &[(REFUSAL, &[&range, "by=pin"])])
}

/// One that a lease refuses.
fn refusals_by_leases(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let events = Events::on(REFUSALS)?;
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, "leased")?;
    told(&events, &files.0, &[(REFUSAL, &["by=lease"])])
}

/// A lease that is granted, and one that is asked for by somebody who does not wait.
fn grants_and_breaks(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut holder, mut other) = (env.worker()?, env.stranger()?);
    holder.open("file", &files.0)?;
    let names = ["filelock/generic_add_lease", "filelock/break_lease"];
    let events = Events::on(&names)?;
    let grants = [
        (
            SHARED | EXCLUSIVE,
            "fl_flags=FL_LAYOUT|FL_USER|FL_EXCLUSIVE ",
        ),
        (SHARED, "fl_flags=FL_LAYOUT|FL_USER "),
    ];
    for (lease, flags) in grants {
        lease_is(&mut holder, "file", lease, 0, "a lease")?;
        let grant: &[&str] = &[flags, "fl_type=F_RDLCK"];
        told(&events, &files.0, &[("generic_add_lease", grant)])?;
        lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    }
    lease_is(&mut holder, "file", SHARED, 0, "a breakable lease")?;
    events.take()?;
    let expect = Expect::Refused(libc::EWOULDBLOCK);
    nonblocking_op_is(&mut other, Op::Punch, &files, PINNED, expect)?;
    told(&events, &files.0, &[("break_lease", &["LAYOUT", "USER"])])
}
