// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table "Pinning" for buffers of io_uring: who may register what, and what failure leaves behind.

use super::env::{lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED, SIZE, SOLE, UNLCK};
use super::ring::{
    ask, create, holder, lease_and_map, line, listed, pinned, pinned_kb, refused, register,
    soon_unpinned, unregister, Shown,
};
use super::{tests, Test};
use crate::client::{Client, RW};
use crate::ops::{Op, Span, SUBTRACTIVE};
use crate::protocol::Request;
use crate::rings::{Buffer, RingCall};
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::ensure;
use std::path::{Path, PathBuf};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
const PART: u64 = 128 << 10;

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut all = tests![
        no_lease,
        lease_not_exclusive,
        exclusive_lease,
        lease_of_another_process,
        lease_released,
        private_mapping,
        read_only_mapping,
        hole,
        anonymous_and_shared_memory,
        several_files_and_anonymous_memory,
        failure_leaves_nothing,
        beyond_the_end,
        memory_is_charged_and_returned,
        memory_limit,
        unaligned_buffer,
        many_buffers,
        other_memory_of_a_ring,
        elsewhere_in_the_file,
    ];
    for op in SUBTRACTIVE.into_iter().filter(|op| op.exists_on(fs)) {
        all.push(Test::new(format!("refused.{}", op.slug()), move |env| {
            refused_to_anybody(env, op)
        }));
    }
    all
}

/// A worker with a ring and a mapping of the file.
fn mapped(path: &Path, prot: i32, flags: i32, lease: Option<i32>) -> anyhow::Result<Client> {
    let mut who = Client::worker()?;
    who.open("file", path)?;
    if let Some(lease) = lease {
        lease_is(&mut who, "file", lease, 0, "the lease")?;
    }
    who.map("map", Some("file"), 0, SIZE, prot, flags)?;
    create(&mut who, "ring")?;
    Ok(who)
}

/// The registration must fail with this errno and leave nothing behind.
fn fails(who: &mut Client, path: &Path, wanted: i32, what: &str) -> anyhow::Result<()> {
    must_be(&register(who, "ring", &[pinned()])?, wanted, what)?;
    listed(who.pid(), path, &[])
}

fn no_lease(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut who = mapped(&files.0, RW, libc::MAP_SHARED, None)?;
    fails(&mut who, &files.0, libc::EOPNOTSUPP, "without a lease")?;
    let what = "nothing is pinned";
    op_is(&mut who, Op::Punch, &files, PINNED, Expect::Succeeds, what)
}

fn lease_not_exclusive(env: &Env) -> anyhow::Result<()> {
    for lease in [SHARED, SOLE] {
        let file = env.file()?;
        let mut who = mapped(&file, RW, libc::MAP_SHARED, Some(lease))?;
        fails(&mut who, &file, libc::EPERM, "with a breakable lease")?;
    }
    Ok(())
}

fn exclusive_lease(env: &Env) -> anyhow::Result<()> {
    for lease in [SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        let file = env.file()?;
        let mut who = Client::worker()?;
        lease_and_map(&mut who, &file, lease)?;
        let fd = create(&mut who, "ring")?;
        must_be(
            &register(&mut who, "ring", &[pinned()])?,
            0,
            "with an exclusive lease",
        )?;
        let wanted = [line(Shown::Fd(fd), PINNED), line(Shown::Mm, PINNED)];
        listed(who.pid(), &file, &wanted)?;
        unregister(&mut who, "ring")?;
        listed(who.pid(), &file, &[])?;
    }
    Ok(())
}

fn lease_of_another_process(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut other = Client::worker()?;
    other.open("file", &file)?;
    lease_is(&mut other, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let mut who = mapped(&file, RW, libc::MAP_SHARED, None)?;
    fails(&mut who, &file, libc::EOPNOTSUPP, "the lease of another")
}

/// What is pinned stays so without the lease, and nothing can be added.
fn lease_released(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    lease_is(&mut who, "file", UNLCK, 0, "release")?;
    create(&mut who, "second")?;
    must_be(
        &register(&mut who, "second", &[pinned()])?,
        libc::EOPNOTSUPP,
        "a second registration after the release",
    )?;
    let wanted = [line(Shown::Fd(fd), PINNED), line(Shown::Mm, PINNED)];
    listed(who.pid(), &files.0, &wanted)?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "without the lease")?;
    unregister(&mut who, "ring")?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        "unpinned",
    )
}

fn private_mapping(env: &Env) -> anyhow::Result<()> {
    for prot in [RW, libc::PROT_READ] {
        let file = env.file()?;
        let lease = Some(SHARED | EXCLUSIVE);
        let mut who = mapped(&file, prot, libc::MAP_PRIVATE, lease)?;
        fails(&mut who, &file, libc::EOPNOTSUPP, "a private mapping")?;
    }
    Ok(())
}

/// Buffers are always registered for writing.
fn read_only_mapping(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let lease = Some(SHARED | EXCLUSIVE);
    let mut who = mapped(&file, libc::PROT_READ, libc::MAP_SHARED, lease)?;
    fails(&mut who, &file, libc::EFAULT, "a read-only mapping")
}

fn hole(env: &Env) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = env.path();
    std::fs::File::create(&file)?.set_len(SIZE)?;
    let lease = Some(SHARED | EXCLUSIVE);
    let mut who = mapped(&file, RW, libc::MAP_SHARED, lease)?;
    must_be(&register(&mut who, "ring", &[pinned()])?, 0, "a hole")?;
    let bytes = std::fs::metadata(&file)?.blocks() * 512;
    ensure!(
        bytes >= PINNED.length,
        "the pin is on the zero page: {bytes} bytes were allocated"
    );
    Ok(())
}

fn anonymous_and_shared_memory(_: &Env) -> anyhow::Result<()> {
    let path = Path::new("/dev/shm/register-me");
    std::fs::write(path, vec![1; usize::try_from(SIZE)?])?;
    let mut who = Client::worker()?;
    let fd = create(&mut who, "ring")?;
    who.map_anonymous("memory", SIZE)?;
    who.open("file", path)?;
    who.map_shared("map", "file", SIZE)?;
    let buffers = [pinned(), Buffer::new("memory", 0, SIZE)];
    must_be(&register(&mut who, "ring", &buffers)?, 0, "without a lease")?;
    std::fs::remove_file(path)?;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", who.pid()));
    let text = read("file_pins")?;
    ensure!(text.is_empty(), "file_pins has {text:?}");
    let text = read(&format!("fdinfo/{fd}"))?;
    ensure!(!text.contains("file_pin:"), "fdinfo has {text:?}");
    Ok(())
}

/// Maps part of a file over part of the anonymous mapping `region`.
fn place(who: &mut Client, name: &str, offset: u64, at: u64) -> anyhow::Result<()> {
    who.must(Request::Map {
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

/// Anonymous memory, `first` [128K..256K), `second` [0..128K), anonymous memory, side by side in
/// `region`; and a ring.
fn side_by_side(files: &(PathBuf, PathBuf)) -> anyhow::Result<(Client, u32)> {
    let mut who = Client::worker()?;
    who.open("first", &files.0)?;
    who.open("second", &files.1)?;
    who.map_anonymous("region", 4 * PART)?;
    place(&mut who, "first", PART, PART)?;
    place(&mut who, "second", 0, 2 * PART)?;
    let fd = create(&mut who, "ring")?;
    Ok((who, fd))
}

fn several_files_and_anonymous_memory(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut who, fd) = side_by_side(&files)?;
    for name in ["first", "second"] {
        lease_is(&mut who, name, SHARED | EXCLUSIVE, 0, "a lease")?;
    }
    let all = Buffer::new("region", 0, 4 * PART);
    must_be(
        &register(&mut who, "ring", &[all])?,
        0,
        "one buffer over four mappings",
    )?;
    let parts = [
        (&files.0, Span::new(PART, PART)),
        (&files.1, Span::new(0, PART)),
    ];
    for (file, span) in parts {
        let wanted = [line(Shown::Fd(fd), span), line(Shown::Mm, span)];
        listed(who.pid(), file, &wanted)?;
    }
    for name in ["first", "second"] {
        lease_is(&mut who, name, UNLCK, 0, "release")?;
    }
    let mut other = Client::worker()?;
    let swapped = (files.1.clone(), files.0.clone());
    let at = Span::new(PART, PART);
    op_is(&mut other, Op::Punch, &files, at, REFUSED, "the first file")?;
    let beside = "beside the second pin";
    op_is(
        &mut other,
        Op::Punch,
        &swapped,
        at,
        Expect::Succeeds,
        beside,
    )?;
    unregister(&mut who, "ring")?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        at,
        Expect::Succeeds,
        "unpinned",
    )
}

/// The second file has no lease: the whole registration fails, and the first is as if never pinned.
fn failure_leaves_nothing(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut who, _) = side_by_side(&files)?;
    lease_is(&mut who, "first", SHARED | EXCLUSIVE, 0, "a lease")?;
    let all = Buffer::new("region", 0, 4 * PART);
    let good = Buffer::new("region", PART, PART);
    for buffers in [vec![all.clone()], vec![good, all]] {
        must_be(
            &register(&mut who, "ring", &buffers)?,
            libc::EOPNOTSUPP,
            "a buffer with an unleased file in it",
        )?;
        for file in [&files.0, &files.1] {
            listed(who.pid(), file, &[])?;
        }
    }
    let at = Span::new(PART, PART);
    op_is(
        &mut who,
        Op::Punch,
        &files,
        at,
        Expect::Succeeds,
        "the holder",
    )
}

/// The mapping goes on behind the end of the file, where nothing can be faulted in.
fn beyond_the_end(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut who = Client::worker()?;
    who.open("file", &files.0)?;
    lease_is(&mut who, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    who.map_shared("map", "file", SIZE + PART)?;
    create(&mut who, "ring")?;
    let at = Span::new(SIZE - PART, PART);
    let buffer = Buffer::new("map", at.offset, 2 * PART);
    must_be(
        &register(&mut who, "ring", &[buffer])?,
        libc::EFAULT,
        "a buffer that ends behind the file",
    )?;
    listed(who.pid(), &files.0, &[])?;
    op_is(
        &mut who,
        Op::Ftruncate,
        &files,
        at,
        Expect::Succeeds,
        "the holder",
    )
}

/// A worker without privileges, whose pinned memory may be this large, and its lease.
fn charged(path: &Path, limit: u64) -> anyhow::Result<(Client, u32)> {
    let mut who = Client::worker()?;
    lease_and_map(&mut who, path, SHARED | EXCLUSIVE)?;
    let limits = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    let pid = i32::try_from(who.pid())?;
    // SAFETY: reads one structure, which outlives the call; the old limits are not asked for.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_MEMLOCK, &limits, std::ptr::null_mut()) };
    ensure!(result == 0, "prlimit: {}", std::io::Error::last_os_error());
    who.must(Request::SetUid { uid: 65534 })?;
    let fd = create(&mut who, "ring")?;
    Ok((who, fd))
}

fn memory_is_charged_and_returned(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let (mut who, fd) = charged(&file, 4 * SIZE)?;
    ensure!(pinned_kb(&who)? == 0, "charged for nothing");
    let buffers = [pinned(), Buffer::new("map", 0, PART)];
    must_be(&register(&mut who, "ring", &buffers)?, 0, "two buffers")?;
    let kb = pinned_kb(&who)?;
    let wanted = (PINNED.length + PART) / 1024;
    ensure!(kb == wanted, "{kb} kB are charged, not {wanted}");
    listed(
        who.pid(),
        &file,
        &[
            line(Shown::Fd(fd), PINNED),
            line(Shown::Fd(fd), Span::new(0, PART)),
            line(Shown::Mm, PINNED),
            line(Shown::Mm, Span::new(0, PART)),
        ],
    )?;
    unregister(&mut who, "ring")?;
    let kb = pinned_kb(&who)?;
    ensure!(kb == 0, "{kb} kB are charged after the end");
    Ok(())
}

/// Pages are pinned before they are charged, so this fails late.
fn memory_limit(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let (mut who, _) = charged(&files.0, PINNED.length / 2)?;
    must_be(
        &register(&mut who, "ring", &[pinned()])?,
        libc::ENOMEM,
        "more than RLIMIT_MEMLOCK",
    )?;
    ensure!(pinned_kb(&who)? == 0, "charged after the failure");
    listed(who.pid(), &files.0, &[])?;
    who.end()?;
    soon_unpinned(&mut Client::worker()?, &files, "after the failure")
}

fn unaligned_buffer(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let fd = create(&mut who, "ring")?;
    let odd = Span::new(8192 + 123, 5000);
    let buffer = Buffer::new("map", odd.offset, odd.length);
    must_be(&register(&mut who, "ring", &[buffer])?, 0, "unaligned")?;
    let wanted = [line(Shown::Fd(fd), odd), line(Shown::Mm, odd)];
    listed(who.pid(), &files.0, &wanted)?;
    for (at, expect) in [
        (Span::new(4096, 4096), Expect::Succeeds),
        (Span::new(8192, 4096), REFUSED),
        (Span::new(12288, 4096), REFUSED),
        (Span::new(16384, 4096), Expect::Succeeds),
    ] {
        op_is(&mut who, Op::Punch, &files, at, expect, "page by page")?;
    }
    Ok(())
}

/// One line for each, in the order of the slots, and as many reads of the listing as it takes.
fn many_buffers(env: &Env) -> anyhow::Result<()> {
    const PAGE: u64 = 4096;
    let files = env.pair()?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let fd = create(&mut who, "ring")?;
    let spans: Vec<Span> = (0..SIZE / PAGE / 2)
        .map(|index| Span::new(index * 2 * PAGE, PAGE))
        .collect();
    let buffers: Vec<Buffer> = spans
        .iter()
        .map(|span| Buffer::new("map", span.offset, span.length))
        .collect();
    must_be(
        &register(&mut who, "ring", &buffers)?,
        0,
        "every second page",
    )?;
    let wanted: Vec<_> = [Shown::Fd(fd), Shown::Mm]
        .into_iter()
        .flat_map(|shown| spans.iter().map(move |span| line(shown, *span)))
        .collect();
    listed(who.pid(), &files.0, &wanted)?;
    let gap = Span::new(101 * PAGE, PAGE);
    op_is(&mut who, Op::Punch, &files, gap, Expect::Succeeds, "a gap")?;
    let pinned = Span::new(102 * PAGE, PAGE);
    op_is(&mut who, Op::Punch, &files, pinned, REFUSED, "a buffer")
}

/// The lease permits buffers only. What else of a ring can be in a process's own memory has no owner.
fn other_memory_of_a_ring(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let lease = Some(SHARED | EXCLUSIVE);
    let mut who = mapped(&file, RW, libc::MAP_SHARED, lease)?;
    let at = |map| RingCall::ProvideBuffers {
        ring: "ring".to_owned(),
        at: Buffer::new(map, 0, 4096),
    };
    who.map_anonymous("memory", 4096)?;
    must_be(&ask(&mut who, at("map"))?, libc::EOPNOTSUPP, "in the file")?;
    listed(who.pid(), &file, &[])?;
    must_be(&ask(&mut who, at("memory"))?, 0, "in anonymous memory")
}

fn elsewhere_in_the_file(env: &Env) -> anyhow::Result<()> {
    let (mut who, _, files) = holder(env)?;
    for at in [super::env::BEFORE, super::env::BEHIND] {
        let what = "the holder beside the pin";
        op_is(&mut who, Op::Punch, &files, at, Expect::Succeeds, what)?;
        let what = "another beside the pin, under the lease";
        let mut other = Client::worker()?;
        op_is(&mut other, Op::Punch, &files, at, REFUSED, what)?;
    }
    Ok(())
}

/// The holder and another process, with and without the lease.
fn refused_to_anybody(env: &Env, op: Op) -> anyhow::Result<()> {
    let (mut who, _, files) = holder(env)?;
    let mut other = Client::worker()?;
    op_is(&mut who, op, &files, PINNED, REFUSED, "the holder")?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "another process")?;
    lease_is(&mut who, "file", UNLCK, 0, "release")?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "without a lease")?;
    unregister(&mut who, "ring")?;
    let what = "after the buffer";
    op_is(&mut other, op, &files, PINNED, Expect::Succeeds, what)
}
