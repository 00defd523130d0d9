// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions that are not one range of one file, and registrations that fail half-way.

use super::env::{lease_is, must_be, op_is, Env, Loan, EXCLUSIVE, PINNED, SHARED, SIZE, UNLCK};
use super::{tests, Test};
use crate::client::{Client, RW, WINDOWS, WRITE};
use crate::ops::{Op, Span};
use crate::pins::{count, find, Wanted};
use crate::protocol::Request;
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::{anyhow, ensure, Context};
use std::path::{Path, PathBuf};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
const PART: u64 = 128 << 10;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        several_files_and_anonymous_memory,
        one_file_twice_in_one_region,
        failure_leaves_nothing,
        beyond_the_mapping,
        overlapping_regions,
        unaligned_region,
        whole_large_file,
        many_regions,
        driver_keeps_a_region_with_a_window,
        closed_while_the_driver_refuses,
    ]
}

fn listed(pid: u32, path: &Path, span: Span) -> anyhow::Result<()> {
    let wanted = Wanted {
        path,
        span,
        writable: true,
    };
    find(pid, wanted).map_err(|error| anyhow!(error))?;
    Ok(())
}

fn number_listed(pid: u32, path: &Path) -> anyhow::Result<usize> {
    count(pid, path).map_err(|error| anyhow!(error))
}

/// kB of memory charged to a process for pins.
fn pinned_kb(client: &Client) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmPin:"));
    let line = line.context("no VmPin")?;
    Ok(line.split_whitespace().nth(1).context("VmPin")?.parse()?)
}

/// Maps part of a file over part of the anonymous mapping `region`.
fn place(client: &mut Client, name: &str, offset: u64, at: u64) -> anyhow::Result<()> {
    client.must(Request::Map {
        map: format!("{name} at {at}"),
        name: Some(name.to_owned()),
        offset,
        length: PART,
        prot: RW,
        flags: libc::MAP_SHARED,
        inside: Some(("region".to_owned(), at)),
    })?;
    Ok(())
}

/// `first` [128K..256K), anonymous memory, `second` [0..128K), side by side in `region`.
fn side_by_side<'a>(env: &'a Env, files: &(PathBuf, PathBuf)) -> anyhow::Result<Loan<'a>> {
    let mut client = env.verbs()?;
    client.open("first", &files.0)?;
    client.open("second", &files.1)?;
    client.map_anonymous("region", 3 * PART)?;
    place(&mut client, "first", PART, 0)?;
    place(&mut client, "second", 0, 2 * PART)?;
    Ok(client)
}

fn several_files_and_anonymous_memory(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = side_by_side(env, &files)?;
    for name in ["first", "second"] {
        lease_is(&mut client, name, SHARED | EXCLUSIVE, 0, "a lease")?;
    }
    must_be(
        &client.reg("mr", "region", 0, 3 * PART)?,
        0,
        "one region over three mappings",
    )?;
    listed(client.pid(), &files.0, Span::new(PART, PART))?;
    listed(client.pid(), &files.1, Span::new(0, PART))?;
    for name in ["first", "second"] {
        lease_is(&mut client, name, UNLCK, 0, "release")?;
    }
    let mut other = env.worker()?;
    let swapped = (files.1.clone(), files.0.clone());
    let at = Span::new(PART, PART);
    op_is(&mut other, Op::Punch, &files, at, REFUSED, "the first file")?;
    op_is(
        &mut other,
        Op::Punch,
        &swapped,
        at,
        Expect::Succeeds,
        "beside the second pin",
    )?;
    client.dereg("mr")?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        at,
        Expect::Succeeds,
        "unpinned",
    )
}

fn one_file_twice_in_one_region(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.open("first", &files.0)?;
    lease_is(&mut client, "first", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.map_anonymous("region", 2 * PART)?;
    place(&mut client, "first", 4 * PART, 0)?;
    place(&mut client, "first", 0, PART)?;
    must_be(
        &client.reg("mr", "region", 0, 2 * PART)?,
        0,
        "two ranges of a file",
    )?;
    listed(client.pid(), &files.0, Span::new(4 * PART, PART))?;
    listed(client.pid(), &files.0, Span::new(0, PART))?;
    let between = Span::new(2 * PART, PART);
    op_is(
        &mut client,
        Op::Punch,
        &files,
        between,
        Expect::Succeeds,
        "between the pins",
    )?;
    let last = Span::new(4 * PART, PART);
    op_is(
        &mut client,
        Op::Punch,
        &files,
        last,
        REFUSED,
        "the pin behind",
    )
}

/// The second file has no lease: the whole registration fails, and the first is as if never pinned.
fn failure_leaves_nothing(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = side_by_side(env, &files)?;
    lease_is(&mut client, "first", SHARED | EXCLUSIVE, 0, "a lease")?;
    let before = pinned_kb(&client)?;
    let reply = client.reg("mr", "region", 0, 3 * PART)?;
    must_be(
        &reply,
        libc::EOPNOTSUPP,
        "a region with an unleased file at its end",
    )?;
    for file in [&files.0, &files.1] {
        let pins = number_listed(client.pid(), file)?;
        ensure!(pins == 0, "{pins} pins are listed after the failure");
    }
    let after = pinned_kb(&client)?;
    ensure!(before == after, "VmPin went from {before} to {after} kB");
    let at = Span::new(PART, PART);
    op_is(
        &mut client,
        Op::Punch,
        &files,
        at,
        Expect::Succeeds,
        "the holder",
    )?;
    lease_is(&mut client, "first", UNLCK, 0, "release")?;
    op_is(
        &mut *env.worker()?,
        Op::ZeroRange,
        &files,
        at,
        Expect::Succeeds,
        "another process",
    )
}

/// The mapping goes on behind the end of the file, where nothing can be faulted in.
fn beyond_the_mapping(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.open("file", &files.0)?;
    lease_is(&mut client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.map_shared("map", "file", SIZE + PART)?;
    let before = pinned_kb(&client)?;
    let reply = client.reg("mr", "map", SIZE - PART, 2 * PART)?;
    must_be(&reply, libc::EFAULT, "a region that ends behind the file")?;
    let pins = number_listed(client.pid(), &files.0)?;
    ensure!(pins == 0, "{pins} pins are listed after the failure");
    ensure!(before == pinned_kb(&client)?, "VmPin is still charged");
    let at = Span::new(SIZE - PART, PART);
    op_is(
        &mut client,
        Op::Ftruncate,
        &files,
        at,
        Expect::Succeeds,
        "the holder",
    )
}

fn overlapping_regions(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    must_be(
        &client.reg("again", "map", PINNED.offset, PINNED.length)?,
        0,
        "the same again",
    )?;
    let half = PINNED.length / 2;
    must_be(
        &client.reg("half", "map", PINNED.offset + half, PART)?,
        0,
        "an overlap",
    )?;
    ensure!(
        number_listed(client.pid(), &files.0)? == 3,
        "three regions, three lines"
    );
    for mr in ["pin", "again"] {
        op_is(
            &mut client,
            Op::Punch,
            &files,
            PINNED,
            REFUSED,
            "still pinned",
        )?;
        client.dereg(mr)?;
    }
    let first_half = Span::new(PINNED.offset, half);
    let what = "only the second half is pinned";
    op_is(
        &mut client,
        Op::Punch,
        &files,
        first_half,
        Expect::Succeeds,
        what,
    )?;
    op_is(&mut client, Op::Punch, &files, PINNED, REFUSED, what)?;
    client.dereg("half")?;
    op_is(
        &mut client,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        "unpinned",
    )
}

fn unaligned_region(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let odd = Span::new(8192 + 123, 5000);
    must_be(
        &client.reg("mr", "map", odd.offset, odd.length)?,
        0,
        "an unaligned region",
    )?;
    listed(client.pid(), &files.0, odd)?;
    for (at, expect) in [
        (Span::new(4096, 4096), Expect::Succeeds),
        (Span::new(8192, 4096), REFUSED),
        (Span::new(12288, 4096), REFUSED),
        (Span::new(16384, 4096), Expect::Succeeds),
    ] {
        op_is(&mut client, Op::Punch, &files, at, expect, "page by page")?;
    }
    Ok(())
}

fn whole_large_file(env: &Env) -> anyhow::Result<()> {
    const LARGE: u64 = 16 << 20;
    let files = (env.file_of(LARGE)?, env.file()?);
    let mut client = env.verbs()?;
    client.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    must_be(&client.reg("mr", "map", 0, LARGE)?, 0, "a region of 16 MiB")?;
    ensure!(
        number_listed(client.pid(), &files.0)? == 1,
        "one region, one line"
    );
    listed(client.pid(), &files.0, Span::new(0, LARGE))?;
    let end = Span::new(LARGE - 4096, 4096);
    op_is(
        &mut client,
        Op::Ftruncate,
        &files,
        end,
        REFUSED,
        "the last page",
    )?;
    client.dereg("mr")?;
    op_is(
        &mut client,
        Op::Ftruncate,
        &files,
        end,
        Expect::Succeeds,
        "unpinned",
    )
}

fn many_regions(env: &Env) -> anyhow::Result<()> {
    const PAGE: u64 = 4096;
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let pages = SIZE / PAGE / 2;
    for index in 0..pages {
        let reply = client.reg(&format!("mr {index}"), "map", index * 2 * PAGE, PAGE)?;
        must_be(&reply, 0, "every second page")?;
    }
    ensure!(
        number_listed(client.pid(), &files.0)? as u64 == pages,
        "a line for each region"
    );
    let gap = Span::new(101 * PAGE, PAGE);
    op_is(
        &mut client,
        Op::Punch,
        &files,
        gap,
        Expect::Succeeds,
        "a gap",
    )?;
    let pinned = Span::new(102 * PAGE, PAGE);
    op_is(
        &mut client,
        Op::Punch,
        &files,
        pinned,
        REFUSED,
        "a pinned page",
    )?;
    client.dereg("mr 51")?;
    op_is(
        &mut client,
        Op::Punch,
        &files,
        pinned,
        Expect::Succeeds,
        "that page, unpinned",
    )
}

/// `window`, bound to `mr`, a region over `PINNED` of the file; the lease is released. The window is the
/// older one: when the uverbs file is closed, the region's turn comes first.
fn region_with_a_window<'a>(env: &'a Env, path: &Path) -> anyhow::Result<Loan<'a>> {
    let mut client = env.verbs()?;
    client.lease_and_map(path, SHARED | EXCLUSIVE)?;
    client.must(Request::Window {
        mw: "window".into(),
    })?;
    let access = WRITE | WINDOWS;
    let reply = client.reg_for("mr", "map", PINNED.offset, PINNED.length, access)?;
    must_be(&reply, 0, "a region for windows")?;
    client.must(Request::Bind {
        mw: "window".into(),
        mr: "mr".into(),
    })?;
    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    Ok(client)
}

/// The driver does not let go of the region, so its pins stay.
fn driver_keeps_a_region_with_a_window(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = region_with_a_window(env, &files.0)?;
    let mut other = env.worker()?;
    let reply = client.ask(Request::Dereg { mr: "mr".into() })?;
    must_be(&reply, libc::EINVAL, "deregistering under a window")?;
    listed(client.pid(), &files.0, PINNED)?;
    let what = "the driver has refused to deregister";
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, what)?;
    client.must(Request::DropWindow {
        mw: "window".into(),
    })?;
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, "no window")?;
    client.dereg("mr")?;
    ensure!(number_listed(client.pid(), &files.0)? == 0, "unpinned");
    let what = "deregistered at last";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}

/// The end of the process closes the uverbs file: the driver refuses to destroy the region, and is asked
/// again when the window is gone.
fn closed_while_the_driver_refuses(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let client = region_with_a_window(env, &files.0)?;
    let mut other = env.worker()?;
    let what = "the region is there";
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, what)?;
    client.end()?;
    let what = "after the end";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}
