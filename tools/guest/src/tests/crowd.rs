// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thousand leases, pins and processes, and what others notice of them.

use super::env::{lease_is, must_be, Env, EXCLUSIVE, SHARED, SIZE};
use super::hostile::{set_lease, writable};
use super::{tests, Test};
use crate::client::Client;
use crate::gup::{self, GUP_TEST};
use crate::names::errno_name;
use crate::protocol::{Call, Request};
use crate::setup::mounted;
use crate::system::Listing;
use anyhow::{ensure, Context};
use rustix::fs::FallocateFlags;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
/// How many it takes to slow others down, if that can be done.
const MANY: usize = 1000;
/// Processes that were ended let go within this.
const SOON: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Test> {
    tests![thousand_leases_and_pins, thousand_processes]
}

/// What another user does all the time; nanoseconds. What else the host does makes some of many times
/// longer, and none shorter: the tenth part that was fastest counts.
fn ordinary_work(env: &Env, who: &mut Client) -> anyhow::Result<u64> {
    let file = env.file()?;
    let mut times = Vec::new();
    for round in 0..100 {
        who.open("work", &file)?;
        let mut ns = who.set_lease("work", SHARED | EXCLUSIVE)?.ns;
        for offset in [0, 16] {
            let call = Call::Fallocate {
                path: file.clone(),
                mode: (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).bits(),
                offset: (offset + round % 8) * PAGE,
                length: PAGE,
                flags: 0,
            };
            let reply = who.call(&call)?;
            must_be(&reply, 0, "a punch by the holder")?;
            ns += reply.ns;
        }
        who.close("work")?;
        times.push(ns);
    }
    times.sort_unstable();
    Ok(times[times.len() / 10])
}

/// Others must not be slower. The times of an emulated machine differ by half in any case; something that
/// goes through a thousand with a lock held makes them many times longer.
fn compare(what: &str, before: u64, during: u64) -> anyhow::Result<()> {
    let ratio = during as f64 / before.max(1) as f64;
    println!(
        "     {what}: {:.1} us before, {:.1} us with them, ratio {ratio:.2}",
        before as f64 / 1e3,
        during as f64 / 1e3,
    );
    ensure!(ratio < 4.0, "{what} make others {ratio:.1} times slower");
    Ok(())
}

/// One process with a thousand leased files, of each of which a page is pinned.
fn thousand_leases_and_pins(env: &Env) -> anyhow::Result<()> {
    mounted("debugfs", "/sys/kernel/debug", "gup_test")?;
    let mut worker = env.worker()?;
    let before = ordinary_work(env, &mut worker)?;
    raise_the_limit_of_descriptors()?;
    let owner = writable(Path::new(GUP_TEST))?;
    let mut held = Vec::new();
    for _ in 0..MANY {
        let path = env.path();
        std::fs::write(&path, [1; PAGE as usize])?;
        let fd = writable(&path)?;
        let errno = set_lease(&fd, SHARED | EXCLUSIVE);
        ensure!(errno == 0, "a lease: {}", errno_name(errno));
        // SAFETY: a new mapping at a place the kernel chooses, of a file of this length.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &fd,
                0,
            )
        }?;
        let pinned = gup::pin(owner.as_fd(), at as usize, PAGE as usize, true);
        // SAFETY: the mapping made above, to which nothing refers.
        unsafe { rustix::mm::munmap(at, PAGE as usize) }?;
        pinned.context("a pin")?;
        held.push((path, fd));
    }
    let during = ordinary_work(env, &mut worker)?;
    let listing = Listing::read()?;
    let pid = std::process::id();
    for (path, _) in &held {
        let (pins, leases) = (listing.pins_of(path), listing.leases_of(path));
        let one = pins.len() == 1 && leases.len() == 1;
        ensure!(one && pins[0].pids == [pid], "{}", path.display());
    }
    compare("a thousand leases and pins", before, during)?;
    drop(owner);
    let listing = Listing::read()?;
    let left = held
        .iter()
        .filter(|(path, _)| !listing.pins_of(path).is_empty());
    ensure!(left.count() == 0, "unpinned, yet listed");
    Ok(())
}

fn raise_the_limit_of_descriptors() -> anyhow::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 16 * MANY as u64,
        rlim_max: 16 * MANY as u64,
    };
    // SAFETY: reads one structure, which outlives the call.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(done == 0, "setrlimit: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A thousand processes that share one lease and one pin.
fn thousand_processes(env: &Env) -> anyhow::Result<()> {
    mounted("debugfs", "/sys/kernel/debug", "gup_test")?;
    let mut worker = env.worker()?;
    let before = ordinary_work(env, &mut worker)?;
    let files = env.pair()?;
    let mut holder = Client::worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    holder.map_shared("map", "file", SIZE)?;
    holder.open("owner", Path::new(GUP_TEST))?;
    let pin = holder.ask(Request::GupPin {
        name: "owner".to_owned(),
        map: "map".to_owned(),
        offset: 0,
        length: PAGE,
        write: true,
    })?;
    must_be(&pin, 0, "the pin")?;
    let mut children = Vec::new();
    let result = thousand_children(&mut holder, &mut children).and_then(|()| {
        with_children(
            env,
            &files.0,
            &mut worker,
            (&children, holder.pid()),
            before,
        )
    });
    for pid in children {
        // SAFETY: children of a process of this test; nobody reaps them before it ends.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    holder.end()?;
    result?;
    let deadline = Instant::now() + SOON;
    let truncate = Call::Ftruncate {
        path: files.0,
        size: 0,
        flags: 0,
    };
    while worker.call(&truncate)?.errno != 0 {
        ensure!(Instant::now() < deadline, "held by processes that ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn thousand_children(holder: &mut Client, children: &mut Vec<i32>) -> anyhow::Result<()> {
    for _ in 0..MANY {
        children.push(i32::try_from(holder.must(Request::Fork)?.value)?);
    }
    Ok(())
}

fn with_children(
    env: &Env,
    file: &Path,
    worker: &mut Client,
    who: (&[i32], u32),
    before: u64,
) -> anyhow::Result<()> {
    let during = ordinary_work(env, worker)?;
    let begun = Instant::now();
    let listing = Listing::read()?;
    let time = begun.elapsed();
    let pins = listing.pins_of(file);
    ensure!(pins.len() == 1, "{} lines for one pin", pins.len());
    let mut wanted: Vec<u32> = who.0.iter().map(|&pid| pid as u32).collect();
    wanted.push(who.1);
    wanted.sort_unstable();
    let listed = &pins[0].pids;
    ensure!(
        *listed == wanted,
        "{} of {} processes",
        listed.len(),
        wanted.len()
    );
    compare("a thousand processes", before, during)?;
    println!(
        "     /proc/file_pins read in {:.1} ms",
        time.as_secs_f64() * 1e3
    );
    Ok(())
}
