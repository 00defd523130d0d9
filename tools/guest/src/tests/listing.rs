// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/file_pins`: all pins and exclusive leases of the system, and who has to let go of them.

use super::env::{lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED, SIZE, SOLE, UNLCK};
use super::{tests, Test};
use crate::client::{Client, READ};
use crate::ops::Op;
use crate::protocol::Request;
use crate::setup::Fs;
use crate::system::{parse, read_by, Lease, Listing, Pin, FILE_PINS};
use crate::trial::Expect;
use anyhow::{ensure, Context};
use layout_lease::escape;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        pins_and_leases,
        only_exclusive_leases,
        lease_of_a_process_that_is_gone,
        names_are_escaped,
        unlinked_file,
        names_of_the_longest_kind,
        shared_owner,
        owner_in_a_descriptor_table_of_a_thread,
        owner_in_flight,
        reads_of_any_size,
        reads_from_anywhere,
        rewound_listing_is_new,
        reader_delays_nothing,
        many_leases,
        many_pins,
        hundred_processes_come_and_go,
        listing_of_a_task,
    ]
}

/// The one pin of a file.
pub fn pin_of(path: &Path) -> anyhow::Result<Pin> {
    let listing = Listing::read()?;
    let pins = listing.pins_of(path);
    ensure!(pins.len() == 1, "{} is listed as {pins:?}", path.display());
    Ok(pins[0].clone())
}

/// The uverbs descriptor of a process.
pub fn owner_of(pid: u32) -> anyhow::Result<i32> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.starts_with("/dev/infiniband") {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("process {pid} has no uverbs file")
}

/// A process with a lease, the file, and the number of its descriptor.
pub fn leased(env: &Env, lease: i32) -> anyhow::Result<(Client, PathBuf, i32)> {
    let file = env.file()?;
    let mut worker = Client::worker()?;
    let fd = worker.open("file", &file)?;
    lease_is(&mut worker, "file", lease, 0, "the lease")?;
    Ok((worker, file, i32::try_from(fd)?))
}

fn pins_and_leases(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let rest = client.reg_for("rest", "map", 0, PAGE, READ)?;
    must_be(&rest, 0, "a page for reading")?;
    let fd = owner_of(client.pid())?;
    let owner = std::fs::read_link(format!("/proc/{}/fd/{fd}", client.pid()))?;
    let pin = |first, last, writable| Pin {
        owner: Some(owner.clone()),
        pids: vec![client.pid()],
        path: file.clone(),
        first,
        last,
        writable,
    };
    let end = PINNED.offset + PINNED.length - 1;
    let wanted = [pin(PINNED.offset, end, true), pin(0, PAGE - 1, false)];
    let listing = Listing::read()?;
    let found = listing.pins_of(&file);
    ensure!(
        found.iter().copied().eq(wanted.iter()),
        "{found:?}, not {wanted:?}"
    );
    let lease = Lease {
        pid: client.pid(),
        path: file.clone(),
        sole: false,
    };
    let leases = listing.leases_of(&file);
    ensure!(leases == [&lease], "{leases:?}, not {lease:?}");

    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    let listing = Listing::read()?;
    ensure!(listing.leases_of(&file).is_empty(), "released, yet listed");
    ensure!(
        listing.pins_of(&file).len() == 2,
        "the lease went, not the pins"
    );
    client.dereg("rest")?;
    ensure!(pin_of(&file)? == wanted[0], "the other pin stays as it was");
    client.dereg("pin")?;
    ensure!(
        Listing::read()?.pins_of(&file).is_empty(),
        "unpinned, yet listed"
    );
    Ok(())
}

fn only_exclusive_leases(env: &Env) -> anyhow::Result<()> {
    for (lease, wanted) in [
        (SHARED | EXCLUSIVE, Some(false)),
        (SOLE | EXCLUSIVE, Some(true)),
        (SHARED, None),
        (SOLE, None),
    ] {
        let (worker, file, _) = leased(env, lease)?;
        let listing = Listing::read()?;
        let found: Vec<_> = listing
            .leases_of(&file)
            .iter()
            .map(|lease| (lease.pid, lease.sole))
            .collect();
        let wanted: Vec<_> = wanted.iter().map(|&sole| (worker.pid(), sole)).collect();
        ensure!(found == wanted, "{lease:#x}: {found:?}, not {wanted:?}");
    }
    Ok(())
}

/// Somebody else has the description open: the lease is there, but its holder's number means nothing.
fn lease_of_a_process_that_is_gone(env: &Env) -> anyhow::Result<()> {
    let (holder, file, fd) = leased(env, SHARED | EXCLUSIVE)?;
    let mut heir = env.worker()?;
    heir.must(Request::Take {
        pid: holder.pid(),
        fd,
        name: "file".to_owned(),
    })?;
    holder.end()?;
    let pid = |listing: Listing| listing.leases_of(&file).first().map(|lease| lease.pid);
    ensure!(
        pid(Listing::read()?) == Some(0),
        "the holder is gone, but not the lease"
    );
    lease_is(&mut heir, "file", SHARED | EXCLUSIVE, 0, "taken over")?;
    ensure!(
        pid(Listing::read()?) == Some(heir.pid()),
        "it has a holder again"
    );
    heir.close("file")?;
    ensure!(
        pid(Listing::read()?).is_none(),
        "the description is closed for the last time"
    );
    Ok(())
}

/// Gives a file another name.
fn renamed(file: &Path, name: &[u8]) -> anyhow::Result<PathBuf> {
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    let path = file.parent().context("a directory")?.join(name);
    std::fs::rename(file, &path)?;
    Ok(path)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn names_are_escaped(env: &Env) -> anyhow::Result<()> {
    let file = renamed(&env.file()?, b" a\tb\nc\\d\xff\xc3\xa4 ")?;
    let mut client = env.verbs()?;
    // The name is no text, so the client cannot be told: it is renamed meanwhile.
    let plain = renamed(&file, b"plain")?;
    client.pin(&plain)?;
    let file = renamed(&plain, file.file_name().context("a name")?.as_bytes())?;
    let text = std::fs::read(FILE_PINS)?;
    let mut line = escape::encode(file.as_os_str().as_bytes());
    line.extend(b" 524288-589823 rw\n");
    ensure!(
        contains(&line, b"/\\040a\\011b\\012c\\134d\xff"),
        "the test itself"
    );
    ensure!(contains(&text, &line), "no escaped name in the pin's line");
    let listing = parse(&text)?;
    ensure!(listing.pins_of(&file).len() == 1, "one pin");
    ensure!(listing.leases_of(&file).len() == 1, "one lease");
    std::fs::remove_file(&file)?;
    Ok(())
}

fn unlinked_file(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    std::fs::remove_file(&file)?;
    let mut name = file.clone().into_os_string();
    name.push(" (deleted)");
    ensure!(
        contains(&std::fs::read(FILE_PINS)?, b"\\040(deleted) "),
        "the blank of (deleted) is escaped"
    );
    let listing = Listing::read()?;
    ensure!(listing.pins_of(&file).is_empty(), "the name is gone");
    ensure!(listing.pins_of(Path::new(&name)).len() == 1, "one pin");
    ensure!(listing.leases_of(Path::new(&name)).len() == 1, "one lease");
    Ok(())
}

/// Directories with names full of blanks, so that the path gets this long.
fn deep(root: &Path, length: usize) -> anyhow::Result<PathBuf> {
    let mut path = root.to_owned();
    while path.as_os_str().len() < length {
        let left = (length - path.as_os_str().len() - 1).clamp(1, 255);
        path.push(format!("{:<left$}", "d"));
        std::fs::create_dir(&path)?;
    }
    Ok(path)
}

/// As long as open(2) takes, where each line is longer than a page; and longer than that.
fn names_of_the_longest_kind(env: &Env) -> anyhow::Result<()> {
    let root = env.path();
    std::fs::create_dir(&root)?;
    let directory = deep(&root, 4088)?;
    let file = directory.join("leaf  ");
    ensure!(file.as_os_str().len() == 4095, "the test itself");
    std::fs::rename(env.file()?, &file)?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    ensure!(
        pin_of(&file)?.pids == [client.pid()],
        "a name of 4095 bytes"
    );
    let mut slow = File::open(FILE_PINS)?;
    let text = read_by(&mut slow, 100)?;
    ensure!(parse(&text)?.pins_of(&file).len() == 1, "in small pieces");

    // Below another directory: nobody can open it by its name any more.
    let other = env.path();
    std::fs::create_dir(&other)?;
    let target = deep(&other, 2000)?.join("moved");
    std::fs::rename(&root, &target)?;
    let longer = target.join(file.strip_prefix(&root)?);
    ensure!(longer.as_os_str().len() > 6000, "the test itself");
    ensure!(
        pin_of(&longer)?.pids == [client.pid()],
        "a name of more than 6000 bytes"
    );
    ensure!(
        Listing::read()?.leases_of(&longer).len() == 1,
        "and its lease"
    );
    Ok(())
}

/// Ending one of them does not unpin, and the listing says so.
fn shared_owner(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let fd = owner_of(client.pid())?;
    let mut heirs = [env.worker()?, env.worker()?];
    let mut pids = vec![client.pid()];
    for heir in &mut heirs {
        heir.must(Request::Take {
            pid: client.pid(),
            fd,
            name: "owner".to_owned(),
        })?;
        // Twice in one process is one process.
        heir.must(Request::Dup {
            name: "owner".to_owned(),
            new: "again".to_owned(),
        })?;
        pids.push(heir.pid());
    }
    pids.sort_unstable();
    let found = pin_of(&files.0)?.pids;
    ensure!(found == pids, "{found:?}, not {pids:?}");
    client.end()?;
    pids.retain(|&pid| heirs.iter().any(|heir| heir.pid() == pid));
    let found = pin_of(&files.0)?.pids;
    ensure!(found == pids, "{found:?}, not {pids:?}");
    let mut other = env.worker()?;
    let refused = Expect::Refused(libc::ETXTBSY);
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        refused,
        "still pinned",
    )?;
    for heir in heirs {
        heir.end()?;
    }
    ensure!(
        Listing::read()?.pins_of(&files.0).is_empty(),
        "all have ended"
    );
    let what = "nobody is left";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}

/// A copy of another process's descriptor.
fn copy_of(pid: u32, fd: i32) -> anyhow::Result<File> {
    use std::os::fd::{FromRawFd, RawFd};
    // SAFETY: neither call touches memory of this process, and what they return is new.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd;
        ensure!(
            pidfd >= 0,
            "pidfd_open: {}",
            std::io::Error::last_os_error()
        );
        let pidfd = File::from_raw_fd(pidfd);
        let copy = libc::syscall(
            libc::SYS_pidfd_getfd,
            std::os::fd::AsRawFd::as_raw_fd(&pidfd),
            fd,
            0,
        ) as RawFd;
        ensure!(
            copy >= 0,
            "pidfd_getfd: {}",
            std::io::Error::last_os_error()
        );
        Ok(File::from_raw_fd(copy))
    }
}

/// Threads may have descriptors of their own, which /proc/<pid>/fd does not show.
fn owner_in_a_descriptor_table_of_a_thread(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let (pid, fd) = (client.pid(), owner_of(client.pid())?);
    let (begun, waiting) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        // SAFETY: gives this thread a copy of the table, no more.
        ensure!(unsafe { libc::unshare(libc::CLONE_FILES) } == 0, "unshare");
        let copy = copy_of(pid, fd)?;
        begun.send(())?;
        // Until the other side goes away.
        let _ = stopped.recv();
        drop(copy);
        Ok(())
    });
    let ready = waiting.recv_timeout(Duration::from_secs(20));
    let found = pin_of(&file).map(|pin| pin.pids);
    drop(stop);
    let result = thread.join();
    ready.context("the thread")?;
    ensure!(matches!(result, Ok(Ok(()))), "the thread: {result:?}");
    let mut wanted = vec![client.pid(), std::process::id()];
    wanted.sort_unstable();
    let found = found?;
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    Ok(())
}

/// Nobody can be ended, but the pin is listed; it goes with the socket.
fn owner_in_flight(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&files.0)?;
    let address = PathBuf::from("/tmp/owner-in-flight");
    let _ = std::fs::remove_file(&address);
    let socket = std::os::unix::net::UnixListener::bind(&address)?;
    let sent = client.must(Request::SendOwner {
        socket: address.clone(),
    })?;
    ensure!(sent.value == 1, "{} descriptors were sent", sent.value);
    std::fs::remove_file(&address)?;
    ensure!(
        pin_of(&files.0)?.pids == [client.pid()],
        "its process is still there"
    );
    client.end()?;
    let pin = pin_of(&files.0)?;
    ensure!(pin.pids.is_empty(), "{pin:?}: nobody has it open");
    ensure!(
        contains(&std::fs::read(FILE_PINS)?, b" - "),
        "no holder is written as -"
    );
    let mut other = env.worker()?;
    let refused = Expect::Refused(libc::ETXTBSY);
    op_is(&mut other, Op::Punch, &files, PINNED, refused, "in flight")?;
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !Listing::read()?.pins_of(&files.0).is_empty() {
        ensure!(
            Instant::now() < deadline,
            "the socket is gone, but not the pin"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let what = "the socket is gone";
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        what,
    )
}

/// Some pins and leases, in one process each.
fn some<'a>(env: &'a Env) -> anyhow::Result<(super::env::Loan<'a>, Client)> {
    let mut client = env.verbs()?;
    client.pin(&env.file()?)?;
    for index in 0..20 {
        let reply = client.reg(&format!("mr {index}"), "map", index * 3 * PAGE, PAGE)?;
        must_be(&reply, 0, "a page")?;
    }
    let mut worker = Client::worker()?;
    for index in 0..5 {
        let name = format!("file {index}");
        worker.open(&name, &env.file()?)?;
        lease_is(&mut worker, &name, SHARED | EXCLUSIVE, 0, "a lease")?;
    }
    Ok((client, worker))
}

fn reads_of_any_size(env: &Env) -> anyhow::Result<()> {
    let _held = some(env)?;
    let whole = std::fs::read(FILE_PINS)?;
    let listing = parse(&whole)?;
    ensure!(
        listing.pins.len() >= 21 && listing.leases.len() >= 6,
        "the test itself: {listing:?}"
    );
    for size in [1, 2, 7, 64, 100, 4095, 4096, 65536] {
        let text = read_by(&mut File::open(FILE_PINS)?, size)?;
        ensure!(
            text == whole,
            "in pieces of {size}: {:?}",
            String::from_utf8_lossy(&text)
        );
    }
    Ok(())
}

fn reads_from_anywhere(env: &Env) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let _held = some(env)?;
    let whole = std::fs::read(FILE_PINS)?;
    let file = File::open(FILE_PINS)?;
    // Backwards, so that nothing goes on where the last one ended.
    for offset in (0..whole.len()).step_by(97).rev() {
        let mut piece = [0; 150];
        let count = file.read_at(&mut piece, offset as u64)?;
        let end = (offset + count).min(whole.len());
        ensure!(
            count > 0 && piece[..count] == whole[offset..end],
            "at {offset}"
        );
    }
    let mut piece = [0; 16];
    let behind = file.read_at(&mut piece, whole.len() as u64)?;
    ensure!(behind == 0, "{behind} bytes behind the end");
    Ok(())
}

/// Who watches it has to see what is, not what was when the file was opened.
fn rewound_listing_is_new(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let mut watched = File::open(FILE_PINS)?;
    let pids = |watched: &mut File| -> anyhow::Result<Vec<u32>> {
        watched.rewind()?;
        let listing = parse(&read_by(watched, 4096)?)?;
        let pins = listing.pins_of(&file);
        Ok(pins.first().map_or(Vec::new(), |pin| pin.pids.clone()))
    };
    ensure!(pids(&mut watched)? == [client.pid()], "one process");
    let mut heir = env.worker()?;
    heir.must(Request::Take {
        pid: client.pid(),
        fd: owner_of(client.pid())?,
        name: "owner".to_owned(),
    })?;
    ensure!(pids(&mut watched)?.len() == 2, "two processes");
    client.end()?;
    ensure!(pids(&mut watched)? == [heir.pid()], "the other process");
    heir.end()?;
    ensure!(pids(&mut watched)?.is_empty(), "no process, and no pin");
    Ok(())
}

/// A reader that has stopped in the middle of it keeps no owner, no file, no lease.
fn reader_delays_nothing(env: &Env) -> anyhow::Result<()> {
    for bytes in [1, 5000] {
        let files = env.pair()?;
        let mut client = env.verbs()?;
        client.pin(&files.0)?;
        for index in 0..100 {
            let reply = client.reg(&format!("mr {index}"), "map", index * PAGE, PAGE)?;
            must_be(&reply, 0, "a page")?;
        }
        let mut reader = File::open(FILE_PINS)?;
        let mut piece = vec![0; bytes];
        reader.read_exact(&mut piece)?;
        client.end()?;
        let mut other = env.worker()?;
        let what = "while somebody reads the listing";
        op_is(
            &mut other,
            Op::Punch,
            &files,
            PINNED,
            Expect::Succeeds,
            what,
        )?;
        other.open("file", &files.0)?;
        lease_is(&mut other, "file", SOLE | EXCLUSIVE, 0, what)?;
        // What is left of the listing is whole lines.
        piece.extend(read_by(&mut reader, 4096)?);
        parse(&piece)?;
    }
    Ok(())
}

/// More than are looked up at a time.
fn many_leases(env: &Env) -> anyhow::Result<()> {
    const FILES: usize = 100;
    let mut worker = env.worker()?;
    let mut files = Vec::new();
    for index in 0..FILES {
        let file = env.path();
        std::fs::write(&file, [0])?;
        let name = format!("file {index}");
        worker.open(&name, &file)?;
        lease_is(&mut worker, &name, SHARED | EXCLUSIVE, 0, "a lease")?;
        files.push(file);
    }
    for size in [1, 300, 65536] {
        let text = read_by(&mut File::open(FILE_PINS)?, size)?;
        let listing = parse(&text)?;
        for file in &files {
            let found = listing.leases_of(file);
            ensure!(
                found.len() == 1 && found[0].pid == worker.pid(),
                "in pieces of {size}: {found:?} of {}",
                file.display()
            );
        }
    }
    // Those that go meanwhile are left out or not; the others are there.
    let mut slow = File::open(FILE_PINS)?;
    let mut text = vec![0; 200];
    slow.read_exact(&mut text)?;
    for index in (0..FILES).step_by(2) {
        worker.close(&format!("file {index}"))?;
    }
    text.extend(read_by(&mut slow, 200)?);
    let listing = parse(&text)?;
    for (index, file) in files.iter().enumerate() {
        let count = listing.leases_of(file).len();
        ensure!(
            count == 1 || (count == 0 && index % 2 == 0),
            "lease {index} is listed {count} times"
        );
    }
    Ok(())
}

/// Pins that go while they are listed do not take others off the list.
fn many_pins(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    let pages = SIZE / PAGE / 2;
    for index in 0..pages {
        let reply = client.reg(&format!("mr {index}"), "map", index * 2 * PAGE, PAGE)?;
        must_be(&reply, 0, "every second page")?;
    }
    let mut slow = File::open(FILE_PINS)?;
    let mut text = vec![0; 600];
    slow.read_exact(&mut text)?;
    for index in (0..pages).step_by(2) {
        client.dereg(&format!("mr {index}"))?;
    }
    text.extend(read_by(&mut slow, 600)?);
    let listing = parse(&text)?;
    let pins = listing.pins_of(&file);
    for index in 0..pages {
        let at = index * 2 * PAGE;
        let count = pins.iter().filter(|pin| pin.first == at).count();
        ensure!(
            count == 1 || (count == 0 && index % 2 == 0),
            "pin {index} is listed {count} times"
        );
    }
    let now = Listing::read()?.pins_of(&file).len() as u64;
    ensure!(now == pages / 2, "{now} pins are left");
    Ok(())
}

fn hundred_processes_come_and_go(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut steady = env.verbs()?;
    steady.pin(&files.1)?;
    let mut parent = env.verbs()?;
    parent.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    parent.send(&Request::Swarm {
        map: "map".to_owned(),
        length: PAGE,
        processes: 100,
    })?;
    let (mut listings, mut met) = (0, std::collections::BTreeSet::<u32>::new());
    let deadline = Instant::now() + Duration::from_secs(150);
    let reply = loop {
        if let Some(reply) = parent.receive_within(Duration::ZERO)? {
            break reply;
        }
        ensure!(Instant::now() < deadline, "the processes do not end");
        let size = [1, 50, 4096][listings % 3];
        let listing = parse(&read_by(&mut File::open(FILE_PINS)?, size)?)?;
        let kept = listing.pins_of(&files.1);
        ensure!(
            kept.len() == 1 && kept[0].pids == [steady.pid()],
            "the one that stays is listed as {kept:?}"
        );
        let mut pages = std::collections::BTreeSet::new();
        for pin in listing.pins_of(&files.0) {
            ensure!(pages.insert(pin.first), "twice in one listing: {pin:?}");
            ensure!(pin.pids.len() <= 1, "several processes: {pin:?}");
            met.extend(&pin.pids);
        }
        listings += 1;
    };
    ensure!(reply.value == 100, "{reply:?}: not all could register");
    ensure!(
        listings >= 3 && !met.is_empty(),
        "{listings} listings met {} of them",
        met.len()
    );
    ensure!(
        Listing::read()?.pins_of(&files.0).is_empty(),
        "all have ended"
    );
    Ok(())
}

/// A task's own file says what its process's does.
fn listing_of_a_task(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let pid = client.pid();
    let process = std::fs::read(format!("/proc/{pid}/file_pins"))?;
    let task = std::fs::read(format!("/proc/{pid}/task/{pid}/file_pins"))?;
    ensure!(
        !process.is_empty() && process == task,
        "{:?} for the process, {:?} for the task",
        String::from_utf8_lossy(&process),
        String::from_utf8_lossy(&task)
    );
    Ok(())
}
