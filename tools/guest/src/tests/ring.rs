// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of io_uring share: requests by name, and what has to be listed where.

use super::env::{lease_is, must_be, Env, EXCLUSIVE, PINNED, SHARED};
use crate::client::Client;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use crate::pins::of;
use crate::protocol::{Reply, Request};
use crate::rings::{Buffer, RingCall};
use anyhow::{anyhow, ensure, Context};
use layout_lease::proc::Owner;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
/// How long the kernel may take to let go of a ring that nobody has any more: it waits for what is in
/// flight, and for grace periods.
const EXIT: Duration = Duration::from_secs(10);

/// A request about a ring, answered whatever way.
pub fn ask(who: &mut Client, call: RingCall) -> anyhow::Result<Reply> {
    who.ask(Request::Ring(call))
}

/// A request about a ring that must succeed.
pub fn must(who: &mut Client, call: RingCall) -> anyhow::Result<Reply> {
    who.must(Request::Ring(call))
}

/// Makes a ring; its descriptor.
pub fn create(who: &mut Client, ring: &str) -> anyhow::Result<u32> {
    let reply = must(
        who,
        RingCall::Create {
            ring: ring.to_owned(),
            sqpoll: false,
        },
    )?;
    Ok(u32::try_from(reply.value)?)
}

/// Registers buffers with a ring.
pub fn register(who: &mut Client, ring: &str, buffers: &[Buffer]) -> anyhow::Result<Reply> {
    ask(
        who,
        RingCall::Register {
            ring: ring.to_owned(),
            buffers: buffers.to_owned(),
        },
    )
}

/// Unregisters all buffers of a ring.
pub fn unregister(who: &mut Client, ring: &str) -> anyhow::Result<()> {
    must(
        who,
        RingCall::Unregister {
            ring: ring.to_owned(),
        },
    )?;
    Ok(())
}

/// Clones all buffers of a ring to another one that has none.
pub fn clone(who: &mut Client, from: &str, to: &str) -> anyhow::Result<()> {
    must(
        who,
        RingCall::Clone {
            from: from.to_owned(),
            to: to.to_owned(),
        },
    )?;
    Ok(())
}

/// Lets go of a ring.
pub fn drop_ring(who: &mut Client, ring: &str) -> anyhow::Result<()> {
    must(
        who,
        RingCall::Drop {
            ring: ring.to_owned(),
        },
    )?;
    Ok(())
}

/// A copy of a descriptor of another process.
pub fn take(who: &mut Client, from: &Client, fd: u32, name: &str) -> anyhow::Result<u32> {
    let reply = who.must(Request::Take {
        pid: from.pid(),
        fd: i32::try_from(fd)?,
        name: name.to_owned(),
    })?;
    Ok(u32::try_from(reply.value)?)
}

/// The part of the mapping `map` that most tests pin.
pub fn pinned() -> Buffer {
    Buffer::new("map", PINNED.offset, PINNED.length)
}

/// Opens, leases and maps a whole file as `file` and `map`.
pub fn lease_and_map(who: &mut Client, path: &Path, lease: i32) -> anyhow::Result<()> {
    who.open("file", path)?;
    lease_is(who, "file", lease, 0, "the lease")?;
    who.map_shared("map", "file", std::fs::metadata(path)?.len())
}

/// A file, and another one for operations on two; a holder of a lease whose ring `ring`, with this
/// descriptor, pins `PINNED` of the first file.
pub fn holder(env: &Env) -> anyhow::Result<(Client, u32, (PathBuf, PathBuf))> {
    let files = env.pair()?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let fd = create(&mut who, "ring")?;
    must_be(
        &register(&mut who, "ring", &[pinned()])?,
        0,
        "registering with an exclusive lease",
    )?;
    Ok((who, fd, files))
}

/// Leaves nothing but the ring to hold the file.
pub fn let_go_of_the_file(who: &mut Client) -> anyhow::Result<()> {
    lease_is(who, "file", super::env::UNLCK, 0, "release")?;
    who.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    who.close("file")
}

/// Where a pin is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// Under a descriptor.
    Fd(u32),
    /// Under `mm:`.
    Mm,
}

/// Where, from which byte to which.
pub type Line = (Shown, u64, u64);

/// The line for this range, widened to pages.
pub fn line(shown: Shown, span: Span) -> Line {
    let first = span.offset / PAGE * PAGE;
    let last = (span.offset + span.length).div_ceil(PAGE) * PAGE - 1;
    (shown, first, last)
}

/// All pins of the file that the process is shown to have, each for writing.
fn lines(pid: u32, path: &Path) -> anyhow::Result<Vec<Line>> {
    let mut found = Vec::new();
    for owned in of(pid).map_err(|error| anyhow!(error))? {
        let shown = match owned.owner {
            Owner::Mm => Shown::Mm,
            Owner::File { fd, path } => {
                ensure!(
                    path == Path::new("anon_inode:[io_uring]"),
                    "descriptor {fd} is {}",
                    path.display()
                );
                Shown::Fd(fd)
            }
        };
        for pin in owned.pins.iter().filter(|pin| pin.path == path) {
            ensure!(pin.writable, "a buffer that is listed as read-only");
            found.push((shown, pin.first, pin.last));
        }
    }
    Ok(found)
}

/// These pins of the file must be listed for the process, in any order, and no others.
pub fn listed(pid: u32, path: &Path, wanted: &[Line]) -> anyhow::Result<()> {
    let mut found = lines(pid, path)?;
    let mut wanted = wanted.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    ensure!(
        found == wanted,
        "file_pins of {pid}: {found:?}, but the contract says {wanted:?}"
    );
    Ok(())
}

/// Punching a hole at this place must be refused at once, and leave the file as it was.
pub fn refused(who: &mut Client, files: &(PathBuf, PathBuf), what: &str) -> anyhow::Result<()> {
    let expect = crate::trial::Expect::Refused(libc::ETXTBSY);
    super::env::op_is(who, Op::Punch, files, PINNED, expect, what)
}

/// The same must succeed a moment after the last one has let go of the ring.
pub fn soon_unpinned(
    who: &mut Client,
    files: &(PathBuf, PathBuf),
    what: &str,
) -> anyhow::Result<()> {
    let size = std::fs::metadata(&files.0)?.len();
    let call = Op::Punch.call(&files.0, &files.1, size, PINNED);
    let deadline = Instant::now() + EXIT;
    loop {
        let reply = who.call(&call)?;
        if reply.errno != libc::ETXTBSY || Instant::now() > deadline {
            ensure!(
                reply.errno == 0,
                "{what}: {} after {} s",
                errno_name(reply.errno),
                EXIT.as_secs()
            );
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// kB of memory charged to a process for pins.
pub fn pinned_kb(who: &Client) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", who.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmPin:"));
    let line = line.context("no VmPin")?;
    Ok(line.split_whitespace().nth(1).context("VmPin")?.parse()?)
}
