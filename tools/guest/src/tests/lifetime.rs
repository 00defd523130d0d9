// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a pin lasts, and what it keeps: the description, the inode, the mount; and durable data.

use super::env::{lease_is, must_be, op_is, Env, BEFORE, EXCLUSIVE, PINNED, SHARED, SIZE};
use super::{tests, Test};
use crate::client::{Client, ON_DEMAND, READ, WRITE};
use crate::ops::Op;
use crate::pins::{count, find, Wanted};
use crate::protocol::{pattern, Request};
use crate::setup::Fs;
use crate::trace::{covered, inode, Writeback};
use crate::trial::Expect;
use anyhow::{anyhow, bail, ensure};
use std::time::Duration;

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        close_and_unmap_are_free,
        mremap_takes_no_pin_along,
        fork_keeps_the_pin,
        pin_keeps_the_lease_of_a_closed_description,
        exit_drops_everything,
        killed_process_drops_everything,
        unlink_under_a_pin,
        dma_then_fsync,
        dma_then_fsync_twice,
        read_only_pin_then_fsync,
        clean_beside_the_pin,
        moved_data_is_flushed,
        data_survives_a_refused_change,
        on_demand_paging_then_fsync,
    ]
}

fn pinned_still(pid: u32, path: &std::path::Path) -> anyhow::Result<()> {
    let wanted = Wanted {
        path,
        span: PINNED,
        writable: true,
    };
    find(pid, wanted).map_err(|error| anyhow!(error))?;
    Ok(())
}

fn close_and_unmap_are_free(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let unmap = client.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    let close = client.must(Request::Close {
        name: "file".to_owned(),
    })?;
    for (what, reply) in [("munmap", unmap), ("close", close)] {
        let time = Duration::from_nanos(reply.ns);
        ensure!(time < crate::trial::AT_ONCE, "{what} took {time:?}");
    }
    pinned_still(client.pid(), &files.0)?;
    let mut other = env.worker()?;
    op_is(
        &mut other,
        Op::Ftruncate,
        &files,
        PINNED,
        REFUSED,
        "nothing but the pin is left",
    )?;
    client.dereg("pin")?;
    op_is(
        &mut other,
        Op::Ftruncate,
        &files,
        PINNED,
        Expect::Succeeds,
        "and now not even that",
    )
}

/// The pin is on the file, wherever in the address space it is mapped.
fn mremap_takes_no_pin_along(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = receiver(env, &files.0)?;
    client.must(Request::Remap {
        map: "map".to_owned(),
    })?;
    let refused = |client: &mut Client| {
        let what = "pinned before the mapping moved";
        op_is(client, Op::Punch, &files, PINNED, REFUSED, what)
    };
    refused(&mut client)?;
    transfer_and_fsync(&mut client, &files.0, 51)?;
    let found = client.must(Request::Compare {
        map: "map".to_owned(),
        offset: 0,
        length: SIZE,
        seed: 51,
    })?;
    ensure!(found.value == 1, "the moved mapping has other data");
    client.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    refused(&mut client)
}

/// A child that has a copy of the uverbs descriptor keeps the region, and with it the pin.
fn fork_keeps_the_pin(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let child = client.must(Request::Fork)?.value;
    let child_pid = u32::try_from(child)?;
    pinned_still(client.pid(), &files.0)?;
    pinned_still(child_pid, &files.0)?;
    client.signal(libc::SIGKILL);
    let ended = client.end();
    let mut other = env.worker()?;
    let refused = ended.and_then(|()| {
        pinned_still(child_pid, &files.0)?;
        let what = "the child has the uverbs file open";
        op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, what)
    });
    // SAFETY: a signal to the child this test made, which is this process's grandchild.
    unsafe { libc::kill(i32::try_from(child)?, libc::SIGKILL) };
    refused?;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let punch = Op::Punch.call(&files.0, &files.1, SIZE, PINNED);
    loop {
        // Nobody here can wait for the grandchild's end.
        let reply = other.call(&punch)?;
        if reply.errno != libc::ETXTBSY || std::time::Instant::now() > deadline {
            return must_be(&reply, 0, "after the child's end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The description lives while a pin holds it, and the lease with it.
fn pin_keeps_the_lease_of_a_closed_description(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    client.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    client.close("file")?;
    let mut other = env.worker()?;
    other.open("file", &file)?;
    let sole = super::env::SOLE;
    lease_is(
        &mut other,
        "file",
        sole,
        libc::EAGAIN,
        "the pinned description's lease is there",
    )?;
    client.dereg("pin")?;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let reply = other.set_lease("file", sole)?;
        if reply.errno != libc::EAGAIN || std::time::Instant::now() > deadline {
            return must_be(&reply, 0, "a sole lease after the last pin");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn exit_drops_everything(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let mut other = env.worker()?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        REFUSED,
        "while the client lives",
    )?;
    client.end()?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        "after its end",
    )
}

fn killed_process_drops_everything(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    // SAFETY: a signal to a child of this process, which is not reaped before `end`.
    unsafe { libc::kill(i32::try_from(client.pid())?, libc::SIGKILL) };
    client.end()?;
    let what = "after the client was killed";
    op_is(
        &mut *env.worker()?,
        Op::Ftruncate,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}

fn unlink_under_a_pin(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let begun = std::time::Instant::now();
    std::fs::remove_file(&file)?;
    let time = begun.elapsed();
    ensure!(time < crate::trial::AT_ONCE, "unlink took {time:?}");
    let mut deleted = file.clone().into_os_string();
    deleted.push(" (deleted)");
    pinned_still(client.pid(), deleted.as_ref())?;
    client.map_anonymous("memory", PINNED.length)?;
    must_be(
        &client.reg("source", "memory", 0, PINNED.length)?,
        0,
        "anonymous memory",
    )?;
    let reply = client.ask(Request::RdmaWrite {
        from: "source".to_owned(),
        to: "pin".to_owned(),
        length: PINNED.length,
    })?;
    must_be(&reply, 0, "RDMA into the unlinked file")?;
    client.dereg("pin")?;
    ensure!(
        count(client.pid(), deleted.as_ref()) == Ok(0),
        "still listed after deregistration"
    );
    Ok(())
}

/// What a device may write to stays dirty, and nothing else: the second fsync flushes the pin only.
fn clean_beside_the_pin(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    client.must(Request::Fill {
        map: "map".to_owned(),
        offset: 0,
        length: SIZE,
        seed: 31,
    })?;
    let end = PINNED.offset + PINNED.length;
    for wanted in [SIZE, PINNED.length] {
        let trace = Writeback::on()?;
        client.must(Request::Fsync {
            name: "file".to_owned(),
        })?;
        let (flushed, inode) = (trace.flushed()?, inode(&file)?);
        let all = covered(&flushed, inode, 0, SIZE);
        let pin = covered(&flushed, inode, PINNED.offset, end);
        ensure!(
            all == wanted && pin == PINNED.length,
            "fsync flushed {all} bytes, {pin} of the pin's; not {wanted} and all"
        );
    }
    file_holds(&file, 31)
}

/// A client with a pin on the whole file and a source full of a pattern.
fn receiver<'a>(env: &'a Env, file: &std::path::Path) -> anyhow::Result<super::env::Loan<'a>> {
    let mut client = env.verbs()?;
    client.lease_and_map(file, SHARED | EXCLUSIVE)?;
    must_be(&client.reg("target", "map", 0, SIZE)?, 0, "the whole file")?;
    client.map_anonymous("memory", SIZE)?;
    must_be(&client.reg("source", "memory", 0, SIZE)?, 0, "the source")?;
    Ok(client)
}

/// Sends a pattern over RDMA; the fsync after it must flush the whole file.
fn send_and_fsync(client: &mut Client, file: &std::path::Path, seed: u32) -> anyhow::Result<()> {
    client.must(Request::Fill {
        map: "memory".to_owned(),
        offset: 0,
        length: SIZE,
        seed,
    })?;
    let trace = Writeback::on()?;
    client.must(Request::RdmaWrite {
        from: "source".to_owned(),
        to: "target".to_owned(),
        length: SIZE,
    })?;
    client.must(Request::Fsync {
        name: "file".to_owned(),
    })?;
    let bytes = covered(&trace.flushed()?, inode(file)?, 0, SIZE);
    ensure!(
        bytes == SIZE,
        "fsync after the DMA flushed {bytes} of {SIZE} bytes"
    );
    Ok(())
}

/// The same, and read(2) must find what was sent.
fn transfer_and_fsync(
    client: &mut Client,
    file: &std::path::Path,
    seed: u32,
) -> anyhow::Result<()> {
    send_and_fsync(client, file, seed)?;
    file_holds(file, seed)
}

fn file_holds(file: &std::path::Path, seed: u32) -> anyhow::Result<()> {
    let (found, sent) = (std::fs::read(file)?, pattern(seed, usize::try_from(SIZE)?));
    let differs = |at: &usize| found.get(*at..at + 8) != Some(&sent[*at..at + 8]);
    let wrong: Vec<usize> = (0..sent.len()).step_by(8).filter(differs).collect();
    if let Some(&first) = wrong.first() {
        let count = wrong.len();
        bail!(
            "read(2) finds {count} other words, the first at {first}: {:x?}, not {:x?}",
            &found[first..first + 8],
            &sent[first..first + 8]
        );
    }
    Ok(())
}

/// The entries were cleaned before the transfer: the fsync after it must flush them all the same.
fn dma_then_fsync(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = receiver(env, &file)?;
    client.must(Request::Fsync {
        name: "file".to_owned(),
    })?;
    transfer_and_fsync(&mut client, &file, 11)
}

fn dma_then_fsync_twice(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = receiver(env, &file)?;
    for seed in 21..24 {
        transfer_and_fsync(&mut client, &file, seed)?;
    }
    Ok(())
}

/// Writes to the pinned pages of the mapping.
pub(super) fn dirty(client: &mut Client) -> anyhow::Result<()> {
    client.must(Request::Fill {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: PINNED.length,
        seed: 13,
    })?;
    Ok(())
}

/// A device that only reads makes nothing dirty: the first fsync flushes what the process has written,
/// the next one nothing.
fn read_only_pin_then_fsync(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, READ)?;
    must_be(&reply, 0, "registering for reading only")?;
    dirty(&mut client)?;
    let trace = Writeback::on()?;
    for wanted in [PINNED.length, 0] {
        trace.clear()?;
        client.must(Request::Fsync {
            name: "file".to_owned(),
        })?;
        let end = PINNED.offset + PINNED.length;
        let bytes = covered(&trace.flushed()?, inode(&file)?, PINNED.offset, end);
        ensure!(bytes == wanted, "fsync flushed {bytes} bytes, not {wanted}");
    }
    Ok(())
}

/// Blocks that move within the file take no dirty data along that is flushed by nobody.
fn moved_data_is_flushed(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.worker()?;
    client.open("file", &files.0)?;
    client.map_shared("map", "file", SIZE)?;
    let fsync = || Request::Fsync {
        name: "file".to_owned(),
    };
    client.must(fsync())?;
    dirty(&mut client)?;
    let trace = Writeback::on()?;
    let expect = Expect::Succeeds;
    let what = "unpinned";
    op_is(&mut client, Op::Insert, &files, BEFORE, expect, what)?;
    client.must(fsync())?;
    let (flushed, number) = (trace.flushed()?, inode(&files.0)?);
    let at = |begin| covered(&flushed, number, begin, begin + PINNED.length);
    let bytes = at(PINNED.offset).max(at(PINNED.offset + BEFORE.length));
    ensure!(
        bytes == PINNED.length,
        "{bytes} of {} dirty bytes were flushed",
        PINNED.length
    );
    Ok(())
}

/// What was refused has not cut the device off: the next transfer lands in the file.
fn data_survives_a_refused_change(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = receiver(env, &files.0)?;
    for op in [Op::Ftruncate, Op::Punch, Op::Collapse, Op::OpenTruncate] {
        op_is(&mut client, op, &files, PINNED, REFUSED, "the holder")?;
    }
    transfer_and_fsync(&mut client, &files.0, 31)
}

/// A region with on-demand paging receives without a lease, and its pages are dirty like any others.
/// What they hold is not compared: in 7.3.4 rxe copies to an on-demand region without regard to the
/// offset in the page (`__rxe_odp_mr_copy`), with or without the series.
fn on_demand_paging_then_fsync(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.open("file", &file)?;
    client.map_shared("map", "file", SIZE)?;
    let reply = client.reg_for("target", "map", 0, SIZE, WRITE | ON_DEMAND)?;
    must_be(&reply, 0, "on-demand paging without a lease")?;
    client.map_anonymous("memory", SIZE)?;
    must_be(&client.reg("source", "memory", 0, SIZE)?, 0, "the source")?;
    send_and_fsync(&mut client, &file, 41)
}
