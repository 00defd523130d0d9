// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long buffers of io_uring stay pinned, and who is shown to have them: rings that are shared, passed
//! on, inherited or left behind.

use super::env::{must_be, op_is, Env, BEFORE, BEHIND, EXCLUSIVE, PINNED, SHARED};
use super::ring::{
    clone, create, drop_ring, holder, lease_and_map, let_go_of_the_file, line, listed, must,
    pinned, refused, register, soon_unpinned, take, unregister, Line, Shown,
};
use super::{tests, Test};
use crate::client::Client;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use crate::protocol::Request;
use crate::rings::{Buffer, Direction, RingCall};
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::{bail, ensure, Context};
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        close_and_unmap_are_free,
        ring_dropped,
        exit_drops_everything,
        killed_process_drops_everything,
        replaced_buffer,
        emptied_slot,
        request_in_flight_after_unregister,
        request_in_flight_at_exit,
        clone_outlives_its_source,
        source_outlives_its_clone,
        clone_of_a_clone,
        clone_without_a_lease,
        clone_held_elsewhere,
        ring_handed_to_another_process,
        registered_by_the_receiver,
        inherited_ring,
        mapped_ring_without_a_descriptor,
        two_descriptors,
        polled_ring,
        unlink_under_a_buffer,
        buffer_keeps_the_mount,
    ]
}

fn both(fd: u32) -> [Line; 2] {
    [line(Shown::Fd(fd), PINNED), line(Shown::Mm, PINNED)]
}

fn close_and_unmap_are_free(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    listed(who.pid(), &files.0, &both(fd))?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "nothing but the buffer is left")?;
    unregister(&mut who, "ring")?;
    listed(who.pid(), &files.0, &[])?;
    let what = "and now not even that";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}

fn ring_dropped(env: &Env) -> anyhow::Result<()> {
    let (mut who, _, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    drop_ring(&mut who, "ring")?;
    soon_unpinned(&mut who, &files, "after the ring")?;
    listed(who.pid(), &files.0, &[])
}

fn exit_drops_everything(env: &Env) -> anyhow::Result<()> {
    let (who, _, files) = holder(env)?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "while the process lives")?;
    who.end()?;
    soon_unpinned(&mut other, &files, "after its end")
}

fn killed_process_drops_everything(env: &Env) -> anyhow::Result<()> {
    let (who, _, files) = holder(env)?;
    // SAFETY: a signal to a child of this process, which is not reaped before `end`.
    unsafe { libc::kill(i32::try_from(who.pid())?, libc::SIGKILL) };
    who.end()?;
    soon_unpinned(&mut Client::worker()?, &files, "after it was killed")
}

fn update(who: &mut Client, slot: u32, buffer: Option<Buffer>) -> anyhow::Result<()> {
    let ring = "ring".to_owned();
    must(who, RingCall::Update { ring, slot, buffer })?;
    Ok(())
}

fn replaced_buffer(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    let behind = Buffer::new("map", BEHIND.offset, BEHIND.length);
    update(&mut who, 0, Some(behind))?;
    let wanted = [line(Shown::Fd(fd), BEHIND), line(Shown::Mm, BEHIND)];
    listed(who.pid(), &files.0, &wanted)?;
    let old = Expect::Succeeds;
    op_is(&mut who, Op::Punch, &files, PINNED, old, "the old one")?;
    let new = Expect::Refused(libc::ETXTBSY);
    op_is(&mut who, Op::Punch, &files, BEHIND, new, "the new one")
}

fn emptied_slot(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let fd = create(&mut who, "ring")?;
    let before = Buffer::new("map", BEFORE.offset, BEFORE.length);
    must_be(
        &register(&mut who, "ring", &[before, pinned()])?,
        0,
        "two buffers",
    )?;
    update(&mut who, 0, None)?;
    listed(who.pid(), &files.0, &both(fd))?;
    let emptied = Expect::Succeeds;
    op_is(&mut who, Op::Punch, &files, BEFORE, emptied, "emptied")?;
    refused(&mut who, &files, "the other slot")
}

/// A pipe with a name, which is removed on drop.
struct Fifo(PathBuf);

impl Fifo {
    fn new(name: &str) -> anyhow::Result<Fifo> {
        let path = PathBuf::from(format!("/dev/shm/{name}"));
        let _ = std::fs::remove_file(&path);
        let text = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a string that ends in NUL and outlives the call.
        let result = unsafe { libc::mkfifo(text.as_ptr(), 0o600) };
        ensure!(result == 0, "mkfifo: {}", std::io::Error::last_os_error());
        Ok(Fifo(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts to read from an empty pipe into the start of the buffer.
fn read_from(who: &mut Client, fifo: &Fifo) -> anyhow::Result<()> {
    who.open("pipe", fifo.path())?;
    must(
        who,
        RingCall::Submit {
            ring: "ring".to_owned(),
            direction: Direction::Read,
            name: "pipe".to_owned(),
            offset: 0,
            slot: 0,
            part: Buffer::new("map", PINNED.offset, 4096),
        },
    )?;
    Ok(())
}

fn request_in_flight_after_unregister(env: &Env) -> anyhow::Result<()> {
    let fifo = Fifo::new("in-flight")?;
    let (mut who, fd, files) = holder(env)?;
    read_from(&mut who, &fifo)?;
    unregister(&mut who, "ring")?;
    listed(who.pid(), &files.0, &both(fd))?;
    refused(&mut who, &files, "a request uses the buffer")?;
    std::fs::File::options()
        .write(true)
        .open(fifo.path())?
        .write_all(b"at last")?;
    let reply = must(
        &mut who,
        RingCall::Wait {
            ring: "ring".to_owned(),
        },
    )?;
    ensure!(reply.value == 7, "read {} bytes, not 7", reply.value);
    let text = std::fs::read(&files.0)?;
    let at = usize::try_from(PINNED.offset)?;
    ensure!(
        text.get(at..at + 7) == Some(b"at last"),
        "the request wrote elsewhere"
    );
    soon_unpinned(&mut who, &files, "after the request")?;
    listed(who.pid(), &files.0, &[])
}

fn request_in_flight_at_exit(env: &Env) -> anyhow::Result<()> {
    let fifo = Fifo::new("in-flight-at-exit")?;
    let (mut who, _, files) = holder(env)?;
    read_from(&mut who, &fifo)?;
    who.end()?;
    let what = "after a process with a request in flight";
    soon_unpinned(&mut Client::worker()?, &files, what)
}

/// The holder of a buffer in `ring` and of a clone of it in `second`.
fn cloned(env: &Env) -> anyhow::Result<(Client, [u32; 2], (PathBuf, PathBuf))> {
    let (mut who, first, files) = holder(env)?;
    let second = create(&mut who, "second")?;
    clone(&mut who, "ring", "second")?;
    let_go_of_the_file(&mut who)?;
    let wanted = [both(first), both(second)].concat();
    listed(who.pid(), &files.0, &wanted)?;
    Ok((who, [first, second], files))
}

fn clone_outlives_its_source(env: &Env) -> anyhow::Result<()> {
    let (mut who, [_, second], files) = cloned(env)?;
    unregister(&mut who, "ring")?;
    listed(who.pid(), &files.0, &both(second))?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "the clone has it")?;
    drop_ring(&mut who, "second")?;
    soon_unpinned(&mut other, &files, "after both")?;
    listed(who.pid(), &files.0, &[])
}

fn source_outlives_its_clone(env: &Env) -> anyhow::Result<()> {
    let (mut who, [first, _], files) = cloned(env)?;
    unregister(&mut who, "second")?;
    listed(who.pid(), &files.0, &both(first))?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "the source has it")?;
    drop_ring(&mut who, "ring")?;
    soon_unpinned(&mut other, &files, "after both")
}

fn clone_of_a_clone(env: &Env) -> anyhow::Result<()> {
    let (mut who, _, files) = cloned(env)?;
    let third = create(&mut who, "third")?;
    unregister(&mut who, "ring")?;
    clone(&mut who, "second", "third")?;
    unregister(&mut who, "second")?;
    listed(who.pid(), &files.0, &both(third))?;
    refused(&mut who, &files, "the clone's clone has it")?;
    unregister(&mut who, "third")?;
    let what = "after all three";
    op_is(&mut who, Op::Punch, &files, PINNED, Expect::Succeeds, what)
}

/// Nothing is pinned that was not before.
fn clone_without_a_lease(env: &Env) -> anyhow::Result<()> {
    let (mut who, first, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    let second = create(&mut who, "second")?;
    clone(&mut who, "ring", "second")?;
    let wanted = [both(first), both(second)].concat();
    listed(who.pid(), &files.0, &wanted)
}

/// The ring with the clone is another process's by the time that the source goes.
fn clone_held_elsewhere(env: &Env) -> anyhow::Result<()> {
    let (who, [_, second], files) = cloned(env)?;
    let mut heir = Client::worker()?;
    let fd = take(&mut heir, &who, second, "received")?;
    listed(heir.pid(), &files.0, &[line(Shown::Fd(fd), PINNED)])?;
    who.end()?;
    // The process that had both is gone, and its first ring soon will be.
    let mut other = Client::worker()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    listed(heir.pid(), &files.0, &[line(Shown::Fd(fd), PINNED)])?;
    refused(&mut other, &files, "another process has the clone")?;
    heir.close("received")?;
    soon_unpinned(&mut other, &files, "after the clone")
}

fn ring_handed_to_another_process(env: &Env) -> anyhow::Result<()> {
    let (mut who, sent, files) = holder(env)?;
    let mut heir = Client::worker()?;
    let fd = take(&mut heir, &who, sent, "received")?;
    let theirs = [line(Shown::Fd(fd), PINNED)];
    listed(heir.pid(), &files.0, &theirs)?;
    listed(who.pid(), &files.0, &both(sent))?;
    let_go_of_the_file(&mut who)?;
    drop_ring(&mut who, "ring")?;
    // Its memory is charged for as long as the ring is there.
    listed(who.pid(), &files.0, &[line(Shown::Mm, PINNED)])?;
    who.end()?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "the receiver has the ring")?;
    listed(heir.pid(), &files.0, &theirs)?;
    heir.close("received")?;
    soon_unpinned(&mut other, &files, "after the last one has closed it")?;
    listed(heir.pid(), &files.0, &[])
}

/// The receiver's own memory, its own lease; the ring is charged to who made it.
fn registered_by_the_receiver(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut maker = Client::worker()?;
    let made = create(&mut maker, "ring")?;
    let mut who = Client::worker()?;
    let fd = take(&mut who, &maker, made, "received")?;
    let attempt = |who: &mut Client| {
        who.ask(Request::Ring(RingCall::RegisterThrough {
            name: "received".to_owned(),
            buffers: vec![pinned()],
        }))
    };
    who.open("file", &files.0)?;
    who.map_shared("map", "file", super::env::SIZE)?;
    must_be(&attempt(&mut who)?, libc::EOPNOTSUPP, "without a lease")?;
    let reply = who.set_lease("file", SHARED | EXCLUSIVE)?;
    must_be(&reply, 0, "the lease")?;
    must_be(&attempt(&mut who)?, 0, "with the receiver's lease")?;
    listed(who.pid(), &files.0, &[line(Shown::Fd(fd), PINNED)])?;
    listed(maker.pid(), &files.0, &both(made))?;
    who.end()?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "the maker has the ring")?;
    listed(maker.pid(), &files.0, &both(made))?;
    drop_ring(&mut maker, "ring")?;
    soon_unpinned(&mut other, &files, "after the ring")
}

fn inherited_ring(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    let child = who.must(Request::Fork)?.value;
    let mut other = Client::worker()?;
    let result = (|| {
        let pid = u32::try_from(child)?;
        listed(pid, &files.0, &[line(Shown::Fd(fd), PINNED)])?;
        who.end()?;
        refused(&mut other, &files, "the child has the ring")?;
        listed(pid, &files.0, &[line(Shown::Fd(fd), PINNED)])
    })();
    // SAFETY: a signal to the child this test made; it outlives its parent for a minute.
    unsafe { libc::kill(i32::try_from(child)?, libc::SIGKILL) };
    result?;
    soon_unpinned(&mut other, &files, "after the child's end")
}

fn mapped_ring_without_a_descriptor(env: &Env) -> anyhow::Result<()> {
    let (mut who, _, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    must(
        &mut who,
        RingCall::CloseDescriptor {
            ring: "ring".to_owned(),
        },
    )?;
    let mut other = Client::worker()?;
    refused(&mut other, &files, "the ring is mapped")?;
    listed(who.pid(), &files.0, &[line(Shown::Mm, PINNED)])?;
    who.end()?;
    soon_unpinned(&mut other, &files, "after the mapping")
}

fn two_descriptors(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    let mut friend = Client::worker()?;
    let theirs = [
        take(&mut friend, &who, fd, "one")?,
        take(&mut friend, &who, fd, "another")?,
    ];
    let wanted = theirs.map(|fd| line(Shown::Fd(fd), PINNED));
    listed(friend.pid(), &files.0, &wanted)?;
    unregister(&mut who, "ring")?;
    listed(friend.pid(), &files.0, &[])
}

/// With IORING_SETUP_SQPOLL a kernel thread submits; it is part of the process.
fn polled_ring(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let reply = must(
        &mut who,
        RingCall::Create {
            ring: "ring".to_owned(),
            sqpoll: true,
        },
    )?;
    let fd = u32::try_from(reply.value)?;
    must_be(&register(&mut who, "ring", &[pinned()])?, 0, "registering")?;
    listed(who.pid(), &files.0, &both(fd))?;

    let source = Path::new("/dev/shm/polled");
    std::fs::write(source, crate::protocol::pattern(5, 4096))?;
    who.open("source", source)?;
    std::fs::remove_file(source)?;
    must(
        &mut who,
        RingCall::Submit {
            ring: "ring".to_owned(),
            direction: Direction::Read,
            name: "source".to_owned(),
            offset: 0,
            slot: 0,
            part: Buffer::new("map", PINNED.offset, 4096),
        },
    )?;
    let ring = "ring".to_owned();
    let reply = must(&mut who, RingCall::Wait { ring })?;
    ensure!(reply.value == 4096, "read {} bytes", reply.value);
    let reply = who.must(Request::Compare {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 4096,
        seed: 5,
    })?;
    ensure!(reply.value == 1, "other data than in the file");

    // The thread is listed like any other of the process, and may do no more than that.
    let tasks: Vec<PathBuf> = std::fs::read_dir(format!("/proc/{}/task", who.pid()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    ensure!(tasks.len() > 1, "no thread polls");
    for task in tasks {
        let text = std::fs::read_to_string(task.join("file_pins"))?;
        let count = text.matches(&*files.0.to_string_lossy()).count();
        ensure!(count == 2, "{} has {text:?}", task.display());
    }
    let mut other = Client::worker()?;
    refused(&mut other, &files, "another process")?;
    who.end()?;
    soon_unpinned(&mut other, &files, "after the end")
}

fn unlink_under_a_buffer(env: &Env) -> anyhow::Result<()> {
    let (mut who, fd, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    let begun = std::time::Instant::now();
    std::fs::remove_file(&files.0)?;
    let time = begun.elapsed();
    ensure!(time < crate::trial::AT_ONCE, "unlink took {time:?}");
    let mut deleted = files.0.clone().into_os_string();
    deleted.push(" (deleted)");
    listed(who.pid(), deleted.as_ref(), &both(fd))?;
    unregister(&mut who, "ring")?;
    listed(who.pid(), deleted.as_ref(), &[])
}

/// And lets go of it in the end.
fn buffer_keeps_the_mount(env: &Env) -> anyhow::Result<()> {
    let (mut who, _, files) = holder(env)?;
    let_go_of_the_file(&mut who)?;
    let mut mounted = env.mounted();
    let flags = rustix::mount::UnmountFlags::empty();
    match rustix::mount::unmount(&mounted.root, flags) {
        Err(rustix::io::Errno::BUSY) => {}
        Err(error) => bail!("umount: {}", errno_name(error.raw_os_error())),
        Ok(()) => {
            mounted.mount()?;
            bail!("unmounted under a buffer")
        }
    }
    drop_ring(&mut who, "ring")?;
    mounted.unmount().context("after the ring")?;
    mounted.mount()?;
    drop(mounted);
    let at = Span::new(0, 4096);
    let what = "after it was mounted again";
    op_is(&mut who, Op::Punch, &files, at, Expect::Succeeds, what)
}
