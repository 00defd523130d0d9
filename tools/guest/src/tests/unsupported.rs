// SPDX-License-Identifier: MIT OR Apache-2.0
//! What would move blocks but does not exist for DAX files, or not here: it fails the same way in every
//! state of the file, and leaves no trace.

use super::env::{getlease_is, lease_is, must_be, Env, EXCLUSIVE, PINNED, SHARED, UNLCK};
use super::Test;
use crate::client::Client;
use crate::ioctls;
use crate::names::errno_name;
use crate::protocol::Call;
use crate::setup::Fs;
use crate::snapshot::Snapshot;
use crate::trial::AT_ONCE;
use anyhow::{bail, ensure};
use std::path::Path;
use std::time::Duration;

/// An operation on the first of two files.
struct Tried {
    slug: &'static str,
    call: fn(&Path, &Path) -> Call,
    /// The errno when nobody holds anything.
    free: i32,
    /// The errno when somebody does: another where the holders are asked first.
    held: i32,
    /// Whether the filesystem sets the file's times before it finds that it does not have the operation.
    /// A refusal of ours leaves them alone all the same.
    times: bool,
}

const fn tried(slug: &'static str, call: fn(&Path, &Path) -> Call, errno: i32) -> Tried {
    Tried {
        slug,
        call,
        free: errno,
        held: errno,
        times: false,
    }
}

const XFS: [Tried; 4] = [
    Tried {
        held: libc::ETXTBSY,
        times: true,
        ..tried("write_zeroes", write_zeroes, libc::EOPNOTSUPP)
    },
    tried("fitrim", trim, libc::EOPNOTSUPP),
    tried("swapon", swapon, libc::EINVAL),
    tried(
        "shrink",
        |file, _| ioctls::resize_xfs(file, 60_000),
        libc::EINVAL,
    ),
];

const EXT4: [Tried; 9] = [
    tried(
        "move_ext",
        |a, b| ioctls::move_extents(a, b, PINNED),
        libc::EOPNOTSUPP,
    ),
    tried(
        "move_ext_donor",
        |a, b| ioctls::move_extents(b, a, PINNED),
        libc::EOPNOTSUPP,
    ),
    tried("write_zeroes", write_zeroes, libc::EOPNOTSUPP),
    tried("unshare", |file, _| fallocate(file, 0x40), libc::EOPNOTSUPP),
    tried("fitrim", trim, libc::EOPNOTSUPP),
    tried("swapon", swapon, libc::EINVAL),
    tried(
        "shrink",
        |file, _| ioctls::resize_ext4(file, 60_000),
        libc::EINVAL,
    ),
    tried(
        "verity",
        |file, _| ioctls::enable_verity(file),
        libc::EOPNOTSUPP,
    ),
    tried("encrypt", |file, _| ioctls::encrypt(file), libc::EOPNOTSUPP),
];

fn fallocate(path: &Path, mode: u32) -> Call {
    Call::Fallocate {
        path: path.to_owned(),
        mode,
        offset: PINNED.offset,
        length: PINNED.length,
        flags: 0,
    }
}

/// The device has no command to write zeroes, and the filesystems do not write them themselves.
fn write_zeroes(file: &Path, _: &Path) -> Call {
    fallocate(file, 0x80)
}

/// The device has nothing to trim; where it does, only free blocks are.
fn trim(file: &Path, _: &Path) -> Call {
    ioctls::trim(file)
}

/// Memory that is no page cache cannot be swapped to.
fn swapon(file: &Path, _: &Path) -> Call {
    Call::Swapon {
        path: file.to_owned(),
    }
}

pub fn tests(fs: Fs) -> Vec<Test> {
    let cases = match fs {
        Fs::Xfs => &XFS[..],
        Fs::Ext4 => &EXT4[..],
    };
    let mut list: Vec<Test> = cases
        .iter()
        .map(|case| {
            let mut expects = errno_name(case.free);
            if case.held != case.free {
                expects = format!("{expects}; {} if held", errno_name(case.held));
            }
            let name = format!("any_state.{}", case.slug);
            Test::cell(name, expects, |env| in_any_state(env, case))
        })
        .collect();
    match fs {
        Fs::Xfs => {
            let expects = "ETXTBSY if held; ENOTTY without online repair";
            list.push(Test::cell("any_state.repair", expects, repair));
        }
        Fs::Ext4 => {
            let name = "any_state.journal_data";
            list.push(Test::cell(name, "EBUSY", journal_data));
        }
    }
    list
}

fn is_refused(
    who: &mut Client,
    case: &Tried,
    files: &(std::path::PathBuf, std::path::PathBuf),
    wanted: i32,
    what: &str,
) -> anyhow::Result<()> {
    let before = (Snapshot::take(&files.0)?, Snapshot::take(&files.1)?);
    let reply = who.call(&(case.call)(&files.0, &files.1))?;
    must_be(&reply, wanted, what)?;
    let time = Duration::from_nanos(reply.ns);
    ensure!(time < AT_ONCE, "{what}: refused after {time:?}");
    let after = (Snapshot::take(&files.0)?, Snapshot::take(&files.1)?);
    let changed = before.0.difference(&after.0);
    match changed.or(before.1.difference(&after.1)) {
        Some(difference) if wanted == libc::ETXTBSY || !case.times => {
            bail!("{what}: refused, yet changed: {difference}")
        }
        _ => Ok(()),
    }
}

fn in_any_state(env: &Env, case: &Tried) -> anyhow::Result<()> {
    let files = env.pair()?;
    // The operations that only root may try must not be refused for that.
    let mut other = env.worker()?;
    is_refused(&mut other, case, &files, case.free, "nobody holds it")?;

    let mut holder = env.worker()?;
    holder.open("file", &files.0)?;
    lease_is(&mut holder, "file", SHARED, 0, "a lease")?;
    is_refused(&mut holder, case, &files, case.free, "the holder's")?;
    // Where the holder would be asked, and waited for, the errno below shows that he is.
    if case.free == case.held {
        is_refused(&mut other, case, &files, case.free, "another holds it")?;
        getlease_is(&mut holder, "file", SHARED, "after that")?;
    }
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "exclusive")?;
    is_refused(&mut other, case, &files, case.held, "another's exclusive")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;

    let mut holder = env.verbs()?;
    holder.pin(&files.0)?;
    is_refused(&mut other, case, &files, case.held, "pinned")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
    is_refused(&mut other, case, &files, case.held, "pinned, released")
}

/// The flag that journals a file's data is refused, but other flags set in the same call are not: the
/// inode's change time moves.
fn journal_data(env: &Env) -> anyhow::Result<()> {
    const CASE: Tried = Tried {
        times: true,
        ..tried(
            "journal_data",
            |file, _| {
                let flags = ioctls::flags(file).unwrap_or(ioctls::EXTENTS);
                ioctls::set_flags(file, flags | ioctls::JOURNAL_DATA)
            },
            libc::EBUSY,
        )
    };
    in_any_state(env, &CASE)
}

/// Online repair of the data fork asks the holders before it looks at anything. Without it in the kernel,
/// there is nothing to refuse.
fn repair(env: &Env) -> anyhow::Result<()> {
    const CASE: Tried = Tried {
        held: libc::ETXTBSY,
        ..tried(
            "repair",
            |file, _| ioctls::repair_data_fork(file),
            // This filesystem has no reverse mapping to build anew from.
            libc::EOPNOTSUPP,
        )
    };
    const ABSENT: Tried = tried(
        "repair",
        |file, _| ioctls::repair_data_fork(file),
        libc::ENOTTY,
    );
    let file = env.file()?;
    let reply = env.worker()?.call(&ioctls::repair_data_fork(&file))?;
    let case = match reply.errno {
        libc::ENOTTY => &ABSENT,
        _ => &CASE,
    };
    in_any_state(env, case)
}
