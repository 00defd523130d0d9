// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries of 2 MiB: a pinned page in one keeps all of it, and nothing beyond it.

use super::env::{lease_is, must_be, op_is, Env, Loan, EXCLUSIVE, SHARED, UNLCK};
use super::transient::Transfer;
use super::{tests, Test};
use crate::client::{READ, RW};
use crate::ioctls;
use crate::ops::{Op, Span};
use crate::pins::{count, find, Wanted};
use crate::protocol::{pattern, Request};
use crate::setup::Fs;
use crate::snapshot::extents;
use crate::trace::{covered, inode, PmdFaults, Writeback};
use crate::trial::Expect;
use anyhow::{anyhow, ensure};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
const PAGE: u64 = 4096;
const ENTRY: u64 = 2 << 20;
/// Three entries.
const SIZE: u64 = 3 * ENTRY;
/// A page in the middle of the second.
const PINNED: Span = Span::new(ENTRY + ENTRY / 2, PAGE);

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        one_page_keeps_its_entry,
        entries_and_pages_in_one_region,
        truncate_stops_at_the_entry,
        entry_mapped_by_a_page_too,
        entry_mapped_after_the_pin,
        direct_io_in_an_entry,
        dma_into_an_entry_then_fsync,
        data_beside_a_hole_is_flushed,
        hole_mapped_by_the_zero_folio,
    ]
}

/// An empty file whose blocks will come in pieces of 2 MiB.
fn empty(env: &Env) -> anyhow::Result<(PathBuf, std::fs::File)> {
    let path = env.path();
    let file = std::fs::File::create(&path)?;
    if env.fs == Fs::Xfs {
        let hint = ioctls::set_attributes(&path, ioctls::XFLAG_EXTSIZE, ENTRY as u32);
        let reply = env.worker()?.call(&hint)?;
        must_be(&reply, 0, "the extent size hint")?;
    }
    Ok((path, file))
}

/// A file of which each 2 MiB lie in one piece on the device, at a multiple of that.
fn aligned(env: &Env) -> anyhow::Result<PathBuf> {
    let (path, file) = empty(env)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE)?;
    file.write_all_at(&pattern(0, usize::try_from(SIZE)?), 0)?;
    for at in (0..SIZE).step_by(ENTRY as usize) {
        let all = extents(&std::fs::File::open(&path)?)?;
        let whole = all.iter().any(|e| {
            let inside = e.logical <= at && at + ENTRY <= e.logical + e.length;
            inside && (e.physical + at - e.logical) % ENTRY == 0
        });
        ensure!(whole, "no room for an entry at {at}: {all:?}");
    }
    Ok(path)
}

/// A holder with an exclusive lease whose mapping has an entry of 2 MiB at each multiple of that. The
/// other file is for the operations on two.
fn mapped(env: &Env) -> anyhow::Result<((PathBuf, PathBuf), Loan<'_>)> {
    let files = (aligned(env)?, env.file_of(SIZE)?);
    let mut holder = env.verbs()?;
    holder.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let faults = PmdFaults::on()?;
    for offset in (0..SIZE).step_by(ENTRY as usize) {
        touch(&mut holder, "map", offset)?;
    }
    let got = faults.mapped(inode(&files.0)?)?;
    ensure!(got == [0, ENTRY, 2 * ENTRY], "entries of 2 MiB at {got:?}");
    Ok((files, holder))
}

/// Writes to a page of a mapping.
fn touch(who: &mut Loan, map: &str, offset: u64) -> anyhow::Result<()> {
    who.must(Request::Fill {
        map: map.to_owned(),
        offset,
        length: 64,
        seed: 5,
    })?;
    Ok(())
}

fn listed(pid: u32, path: &Path, span: Span) -> anyhow::Result<()> {
    let wanted = Wanted {
        path,
        span,
        writable: true,
    };
    find(pid, wanted).map_err(|error| anyhow!(error))?;
    let lines = count(pid, path).map_err(|error| anyhow!(error))?;
    ensure!(lines == 1, "{lines} lines for one region");
    Ok(())
}

/// The pages at both ends of the entry are refused, those beyond it are not; the listing names the page.
fn one_page_keeps_its_entry(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = mapped(env)?;
    let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering a page of an entry")?;
    listed(holder.pid(), &files.0, PINNED)?;
    let page = |offset| Span::new(offset, PAGE);
    let mut cases = vec![
        (Op::Punch, page(ENTRY), REFUSED),
        (Op::Punch, page(2 * ENTRY - PAGE), REFUSED),
        (Op::ZeroRange, page(PINNED.offset + PAGE), REFUSED),
        (Op::Punch, page(ENTRY - PAGE), Expect::Succeeds),
        (Op::ZeroRange, page(2 * ENTRY), Expect::Succeeds),
    ];
    if env.fs == Fs::Xfs {
        for op in [
            Op::ReflinkFrom,
            Op::ReflinkTo,
            Op::ExchangeFirst,
            Op::DedupeTo,
        ] {
            cases.push((op, page(2 * ENTRY - PAGE), REFUSED));
        }
    }
    for (op, at, expect) in cases {
        op_is(&mut holder, op, &files, at, expect, "the holder")?;
    }
    // The entry at an end goes with the hole; the others are still there.
    holder.dereg("pin")?;
    let expect = Expect::Succeeds;
    op_is(
        &mut holder,
        Op::Punch,
        &files,
        page(ENTRY),
        expect,
        "unpinned",
    )
}

/// An entry can be mapped by single pages as well, of a mapping too small for all of it. If a hole takes
/// the entry away, such a page has to be mapped anew: a store to it must not get past the entry, which is
/// what says that it is to be flushed.
fn entry_mapped_by_a_page_too(env: &Env) -> anyhow::Result<()> {
    let page = |offset| Span::new(offset, PAGE);
    for (op, at, kept) in [
        (Op::Punch, page(ENTRY + PAGE), ENTRY + 7 * PAGE),
        (Op::Punch, page(2 * ENTRY - PAGE), ENTRY),
        (Op::Ftruncate, page(ENTRY + 9 * PAGE), ENTRY + 7 * PAGE),
    ] {
        let (files, mut holder) = mapped(env)?;
        holder.must(Request::Map {
            map: "page".to_owned(),
            name: Some("file".to_owned()),
            offset: kept,
            length: PAGE,
            prot: RW,
            flags: libc::MAP_SHARED,
            inside: None,
        })?;
        touch(&mut holder, "page", 0)?;
        op_is(&mut holder, op, &files, at, Expect::Succeeds, "the holder")?;
        let fsync = Request::Fsync {
            name: "file".to_owned(),
        };
        holder.must(fsync.clone())?;
        let trace = Writeback::on()?;
        touch(&mut holder, "page", 128)?;
        holder.must(fsync)?;
        let bytes = covered(&trace.flushed()?, inode(&files.0)?, kept, kept + PAGE);
        ensure!(
            bytes == PAGE,
            "stored to the page at {kept}, after {op:?} at {}: {bytes} bytes flushed",
            at.offset
        );
    }
    Ok(())
}

/// A region that begins with pages, goes on with an entry and ends with a page: pages keep themselves,
/// the entry all of itself.
fn entries_and_pages_in_one_region(env: &Env) -> anyhow::Result<()> {
    let files = (aligned(env)?, env.file_of(SIZE)?);
    let mut holder = env.verbs()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    // Only the second entry lies in this mapping as a whole.
    let (begin, end) = (ENTRY - 4 * PAGE, 2 * ENTRY + PAGE);
    let flags = libc::MAP_SHARED;
    holder.map("map", Some("file"), begin, end - begin, RW, flags)?;
    let faults = PmdFaults::on()?;
    must_be(&holder.reg("pin", "map", 0, end - begin)?, 0, "registering")?;
    let got = faults.mapped(inode(&files.0)?)?;
    ensure!(got == [ENTRY], "entries of 2 MiB at {got:?}");
    listed(holder.pid(), &files.0, Span::new(begin, end - begin))?;
    for (offset, expect) in [
        (begin - PAGE, Expect::Succeeds),
        (begin, REFUSED),
        (ENTRY, REFUSED),
        (2 * ENTRY - PAGE, REFUSED),
        (2 * ENTRY, REFUSED),
        (end, Expect::Succeeds),
    ] {
        let at = Span::new(offset, PAGE);
        op_is(&mut holder, Op::Punch, &files, at, expect, "the holder")?;
    }
    holder.dereg("pin")?;
    let (at, expect) = (Span::new(begin, PAGE), Expect::Succeeds);
    op_is(&mut holder, Op::Punch, &files, at, expect, "unpinned")
}

fn truncate_stops_at_the_entry(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = mapped(env)?;
    let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering a page of an entry")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    let mut other = env.worker()?;
    let end = 2 * ENTRY;
    for (size, expect) in [
        (end - PAGE, REFUSED),
        (PINNED.offset + PAGE, REFUSED),
        (end, Expect::Succeeds),
        (end - 1, REFUSED),
    ] {
        let at = Span::new(size, PAGE);
        let what = "another process";
        op_is(&mut other, Op::Ftruncate, &files, at, expect, what)?;
    }
    holder.dereg("pin")?;
    let (at, expect) = (Span::new(ENTRY, PAGE), Expect::Succeeds);
    op_is(&mut other, Op::Ftruncate, &files, at, expect, "unpinned")
}

/// Pages pinned one by one stay what they are when somebody maps the 2 MiB around them.
fn entry_mapped_after_the_pin(env: &Env) -> anyhow::Result<()> {
    let files = (aligned(env)?, env.file_of(SIZE)?);
    let mut holder = env.verbs()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let small = Span::new(ENTRY + 8 * PAGE, PAGE);
    let flags = libc::MAP_SHARED;
    holder.map("small", Some("file"), small.offset, small.length, RW, flags)?;
    must_be(&holder.reg("pin", "small", 0, PAGE)?, 0, "registering")?;
    let mut other = env.worker()?;
    other.open("file", &files.0)?;
    other.map_shared("map", "file", SIZE)?;
    let faults = PmdFaults::on()?;
    other.must(Request::Fill {
        map: "map".to_owned(),
        offset: ENTRY,
        length: ENTRY,
        seed: 6,
    })?;
    let got = faults.mapped(inode(&files.0)?)?;
    ensure!(
        got.is_empty(),
        "an entry of 2 MiB over a pinned page: {got:?}"
    );
    let expect = Expect::Succeeds;
    let beside = Span::new(small.offset + PAGE, PAGE);
    op_is(&mut holder, Op::Punch, &files, small, REFUSED, "the page")?;
    op_is(
        &mut holder,
        Op::Punch,
        &files,
        beside,
        expect,
        "its neighbour",
    )
}

/// What is transient keeps an entry together as well, for as long as it lasts.
fn direct_io_in_an_entry(env: &Env) -> anyhow::Result<()> {
    let file = aligned(env)?;
    let mut other = env.worker()?;
    other.open("file", &file)?;
    other.map_shared("map", "file", SIZE)?;
    let faults = PmdFaults::on()?;
    other.must(Request::Fill {
        map: "map".to_owned(),
        offset: ENTRY,
        length: 64,
        seed: 8,
    })?;
    let got = faults.mapped(inode(&file)?)?;
    ensure!(got == [ENTRY], "entries of 2 MiB at {got:?}");
    let transfer = Transfer::begin(env, &file, PINNED)?;
    let page = |offset| Op::Punch.call(&file, &file, SIZE, Span::new(offset, PAGE));
    must_be(&other.call(&page(ENTRY - PAGE))?, 0, "before the entry")?;
    must_be(&other.call(&page(2 * ENTRY))?, 0, "behind the entry")?;
    other.send(&Request::Do(page(ENTRY)))?;
    let early = other.receive_within(std::time::Duration::from_millis(60))?;
    ensure!(early.is_none(), "did not wait for I/O in the same entry");
    transfer.end()?;
    must_be(&other.receive()?, 0, "after the I/O")
}

/// The device writes to one page; the fsync after it flushes the entry that holds it.
fn dma_into_an_entry_then_fsync(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = mapped(env)?;
    let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering a page of an entry")?;
    holder.map_anonymous("memory", PAGE)?;
    must_be(&holder.reg("source", "memory", 0, PAGE)?, 0, "the source")?;
    let fsync = || Request::Fsync {
        name: "file".to_owned(),
    };
    holder.must(fsync())?;
    for _ in 0..2 {
        holder.must(Request::RdmaWrite {
            from: "source".to_owned(),
            to: "pin".to_owned(),
            length: PAGE,
        })?;
        let trace = Writeback::on()?;
        holder.must(fsync())?;
        let flushed = trace.flushed()?;
        let bytes = covered(&flushed, inode(&files.0)?, ENTRY, 2 * ENTRY);
        ensure!(bytes == ENTRY, "fsync flushed {bytes} bytes of the entry");
    }
    Ok(())
}

/// A hole in an entry takes the entry away. What was dirty beside the hole is flushed all the same.
fn data_beside_a_hole_is_flushed(env: &Env) -> anyhow::Result<()> {
    let (files, mut holder) = mapped(env)?;
    let fsync = || Request::Fsync {
        name: "file".to_owned(),
    };
    holder.must(fsync())?;
    touch(&mut holder, "map", PINNED.offset)?;
    let trace = Writeback::on()?;
    let hole = Span::new(2 * ENTRY - PAGE, PAGE);
    let (expect, what) = (Expect::Succeeds, "a hole in the entry");
    op_is(&mut holder, Op::Punch, &files, hole, expect, what)?;
    holder.must(fsync())?;
    let page = PINNED.offset + PAGE;
    let bytes = covered(&trace.flushed()?, inode(&files.0)?, PINNED.offset, page);
    ensure!(bytes == PAGE, "{bytes} bytes of a dirty page were flushed");
    Ok(())
}

/// What is read of a hole of 2 MiB maps the huge zero folio. A pin that only reads has blocks put in its
/// place, or fails if the mapping is for reading.
fn hole_mapped_by_the_zero_folio(env: &Env) -> anyhow::Result<()> {
    let (path, file) = empty(env)?;
    file.set_len(SIZE)?;
    let files = (path, env.file_of(SIZE)?);
    let mut holder = env.verbs()?;
    holder.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let prot = libc::PROT_READ;
    holder.map("read only", Some("file"), 0, SIZE, prot, libc::MAP_SHARED)?;
    for map in ["read only", "map"] {
        let faults = PmdFaults::on()?;
        for offset in [0, ENTRY] {
            holder.must(Request::Compare {
                map: map.to_owned(),
                offset,
                length: 64,
                seed: 0,
            })?;
        }
        let got = faults.mapped(inode(&files.0)?)?;
        ensure!(got == [0, ENTRY], "{map}: entries of 2 MiB at {got:?}");
    }
    let blocks = || -> anyhow::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(&files.0)?.blocks() * 512)
    };
    let none = blocks()?;
    ensure!(none < ENTRY, "{none} bytes of blocks in a hole");

    let reply = holder.reg_for("pin", "read only", 0, 2 * ENTRY, READ)?;
    must_be(&reply, libc::EFAULT, "a hole, for reading only")?;
    ensure!(blocks()? == none, "blocks for a pin that has failed");
    let reply = holder.reg_for("pin", "map", 0, 2 * ENTRY, READ)?;
    must_be(&reply, 0, "a hole in a mapping that can be written to")?;
    let filled = blocks()?;
    ensure!(
        filled >= 2 * ENTRY,
        "{filled} bytes of blocks: the zero folio is pinned"
    );
    let at = Span::new(ENTRY + PAGE, PAGE);
    op_is(
        &mut holder,
        Op::Punch,
        &files,
        at,
        REFUSED,
        "a hole that is pinned",
    )
}
