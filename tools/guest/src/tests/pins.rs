// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table "Pinning": who may register what, and the errno for everybody else.

use super::env::{lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED, SIZE, SOLE, UNLCK};
use super::{tests, Test};
use crate::client::{Client, ON_DEMAND, READ, RW, WRITE};
use crate::ops::Op;
use crate::pins::{count, find, Wanted};
use crate::protocol::Request;
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::{anyhow, ensure};
use std::path::Path;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        no_lease,
        lease_not_exclusive,
        exclusive_lease,
        lease_of_another_process,
        lease_released,
        lease_made_breakable,
        private_mapping,
        through_another_description,
        through_a_received_descriptor,
        read_only_pin,
        hole_for_writing,
        hole_for_reading,
        hole_in_a_read_only_mapping,
        unwritten_blocks,
        anonymous_memory,
        shared_memory,
        on_demand_paging_needs_no_lease,
        listing_is_private,
    ]
}

fn registering(client: &mut Client, wanted: i32, what: &str) -> anyhow::Result<()> {
    let reply = client.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, wanted, &format!("registering {what}"))
}

fn nothing_listed(client: &Client, path: &Path) -> anyhow::Result<()> {
    let pins = count(client.pid(), path).map_err(|error| anyhow!(error))?;
    ensure!(pins == 0, "{pins} pins are listed");
    Ok(())
}

fn listed(client: &Client, path: &Path, writable: bool) -> anyhow::Result<()> {
    let wanted = Wanted {
        path,
        span: PINNED,
        writable,
    };
    find(client.pid(), wanted).map_err(|error| anyhow!(error))?;
    let pins = count(client.pid(), path).map_err(|error| anyhow!(error))?;
    ensure!(pins == 1, "{pins} pins are listed, not one");
    Ok(())
}

fn no_lease(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.open("file", &file)?;
    client.map_shared("map", "file", SIZE)?;
    registering(&mut client, libc::EOPNOTSUPP, "without a lease")?;
    nothing_listed(&client, &file)
}

fn lease_not_exclusive(env: &Env) -> anyhow::Result<()> {
    for lease in [SHARED, SOLE] {
        let file = env.file()?;
        let mut client = env.verbs()?;
        client.lease_and_map(&file, lease)?;
        registering(&mut client, libc::EPERM, "with a breakable lease")?;
        nothing_listed(&client, &file)?;
    }
    Ok(())
}

fn exclusive_lease(env: &Env) -> anyhow::Result<()> {
    for lease in [SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        let file = env.file()?;
        let mut client = env.verbs()?;
        client.lease_and_map(&file, lease)?;
        registering(&mut client, 0, "with an exclusive lease")?;
        listed(&client, &file, true)?;
        client.dereg("pin")?;
        nothing_listed(&client, &file)?;
    }
    Ok(())
}

fn lease_of_another_process(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let mut client = env.verbs()?;
    client.open("file", &file)?;
    client.map_shared("map", "file", SIZE)?;
    registering(&mut client, libc::EOPNOTSUPP, "with the lease of another")
}

fn lease_released(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    registering(&mut client, libc::EOPNOTSUPP, "after the release")
}

fn lease_made_breakable(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&file, SHARED | EXCLUSIVE)?;
    lease_is(&mut client, "file", SHARED, 0, "no longer exclusive")?;
    registering(&mut client, libc::EPERM, "with a lease no longer exclusive")
}

fn private_mapping(env: &Env) -> anyhow::Result<()> {
    for prot in [RW, libc::PROT_READ] {
        let file = env.file()?;
        let mut client = env.verbs()?;
        client.open("file", &file)?;
        lease_is(&mut client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
        client.map("map", Some("file"), 0, SIZE, prot, libc::MAP_PRIVATE)?;
        let access = if prot == RW { WRITE } else { READ };
        let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, access)?;
        must_be(&reply, libc::EOPNOTSUPP, "registering a private mapping")?;
        nothing_listed(&client, &file)?;
    }
    Ok(())
}

/// What perftest does: the launcher's description has the lease, the program opens the file itself.
fn through_another_description(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.open("leased", &file)?;
    lease_is(&mut client, "leased", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.open("file", &file)?;
    client.map_shared("map", "file", SIZE)?;
    client.close("file")?;
    registering(&mut client, 0, "through another description")?;
    listed(&client, &file, true)
}

/// A process that is not the holder pins through the leased description itself.
fn through_a_received_descriptor(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    let fd = holder.open("file", &file)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let mut client = env.verbs()?;
    client.must(Request::Take {
        pid: holder.pid(),
        fd: i32::try_from(fd)?,
        name: "received".to_owned(),
    })?;
    client.map_shared("map", "received", SIZE)?;
    registering(&mut client, 0, "through the leased description")?;
    listed(&client, &file, true)
}

fn read_only_pin(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut client = env.verbs()?;
    client.lease_and_map(&files.0, SHARED | EXCLUSIVE)?;
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, READ)?;
    must_be(&reply, 0, "registering for reading only")?;
    listed(&client, &files.0, false)?;
    let expect = Expect::Refused(libc::ETXTBSY);
    let what = "pinned for reading";
    op_is(&mut client, Op::Punch, &files, PINNED, expect, what)
}

/// A client with a leased and mapped file that is one hole.
fn sparse(env: &Env, prot: i32) -> anyhow::Result<(std::path::PathBuf, super::env::Loan<'_>)> {
    let file = env.path();
    std::fs::File::create(&file)?.set_len(SIZE)?;
    let mut client = env.verbs()?;
    client.open("file", &file)?;
    lease_is(&mut client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.map("map", Some("file"), 0, SIZE, prot, libc::MAP_SHARED)?;
    Ok((file, client))
}

fn has_blocks(file: &Path) -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(file)?.blocks() * 512 >= PINNED.length)
}

fn hole_for_writing(env: &Env) -> anyhow::Result<()> {
    let (file, mut client) = sparse(env, RW)?;
    registering(&mut client, 0, "a hole for writing")?;
    listed(&client, &file, true)?;
    ensure!(
        has_blocks(&file)?,
        "no blocks were allocated for the pinned hole"
    );
    Ok(())
}

/// In a writable mapping the hole is write-faulted even for a pin that only reads.
fn hole_for_reading(env: &Env) -> anyhow::Result<()> {
    let (file, mut client) = sparse(env, RW)?;
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, READ)?;
    must_be(
        &reply,
        0,
        "registering a hole for reading, writable mapping",
    )?;
    listed(&client, &file, false)?;
    ensure!(
        has_blocks(&file)?,
        "the pin is on the zero page: no blocks were allocated"
    );
    Ok(())
}

fn hole_in_a_read_only_mapping(env: &Env) -> anyhow::Result<()> {
    let (file, mut client) = sparse(env, libc::PROT_READ)?;
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, READ)?;
    must_be(
        &reply,
        libc::EFAULT,
        "registering a hole in a read-only mapping",
    )?;
    nothing_listed(&client, &file)?;
    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    let files = (file, env.file()?);
    let expect = crate::trial::Expect::Succeeds;
    let op = crate::ops::Op::Ftruncate;
    super::env::op_is(
        &mut *env.worker()?,
        op,
        &files,
        PINNED,
        expect,
        "after the failure",
    )
}

fn unwritten_blocks(env: &Env) -> anyhow::Result<()> {
    let (file, mut client) = sparse(env, RW)?;
    let handle = std::fs::File::options().write(true).open(&file)?;
    rustix::fs::fallocate(&handle, rustix::fs::FallocateFlags::empty(), 0, SIZE)?;
    drop(handle);
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, READ)?;
    must_be(&reply, 0, "registering unwritten blocks")?;
    listed(&client, &file, false)
}

fn anonymous_memory(env: &Env) -> anyhow::Result<()> {
    let mut client = env.verbs()?;
    client.map_anonymous("map", SIZE)?;
    registering(&mut client, 0, "anonymous memory")
}

fn shared_memory(env: &Env) -> anyhow::Result<()> {
    let path = Path::new("/dev/shm/pin-me");
    std::fs::write(path, vec![1; usize::try_from(SIZE)?])?;
    let mut client = env.verbs()?;
    client.open("file", path)?;
    client.map_shared("map", "file", SIZE)?;
    registering(&mut client, 0, "a file of tmpfs")
}

fn on_demand_paging_needs_no_lease(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.open("file", &file)?;
    client.map_shared("map", "file", SIZE)?;
    let access = WRITE | ON_DEMAND;
    let reply = client.reg_for("pin", "map", PINNED.offset, PINNED.length, access)?;
    must_be(&reply, 0, "on-demand paging without a lease")?;
    let files = (file, env.file()?);
    let expect = crate::trial::Expect::Succeeds;
    let op = crate::ops::Op::Punch;
    super::env::op_is(
        &mut *env.worker()?,
        op,
        &files,
        PINNED,
        expect,
        "it pins nothing",
    )
}

fn listing_is_private(env: &Env) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let client = env.verbs()?;
    let path = format!("/proc/{}/file_pins", client.pid());
    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o400, "{path} has mode {mode:o}");
    let mut stranger = env.worker()?;
    stranger.must(Request::SetUid { uid: 65534 })?;
    let reply = stranger.ask(Request::Open {
        name: "listing".to_owned(),
        path: path.into(),
        flags: libc::O_RDONLY,
    })?;
    must_be(&reply, libc::EACCES, "a stranger opens the listing")
}
