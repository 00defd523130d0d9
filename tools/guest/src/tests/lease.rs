// SPDX-License-Identifier: MIT OR Apache-2.0
//! F_SETLEASE and F_GETLEASE: arguments, errors, conflicts, changes in place.

use super::env::{getlease_is, lease_is, must_be, Env, Loan, EXCLUSIVE, SHARED, SOLE, UNLCK};
use super::{tests, Test};
use crate::protocol::{Call, Request};
use crate::setup::Fs;
use anyhow::Context;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(super) const PLAIN_WRITE: i32 = libc::F_WRLCK;

/// The four layout leases.
pub(super) const LAYOUT_LEASES: [i32; 4] = [SHARED, SOLE, SHARED | EXCLUSIVE, SOLE | EXCLUSIVE];

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = tests![
        exclusive_needs_layout,
        unknown_bits,
        flags_on_unlock,
        not_a_regular_file,
        not_dax,
        exclusive_needs_a_writable_description,
        only_the_owner,
        conflicts,
        change_in_place,
        change_in_place_conflicts,
        getlease_tells_everything,
        flavours_do_not_mix,
        unlock_frees_the_file,
    ];
    if fs == Fs::Xfs {
        list.push(Test::new("reflinked_inode", reflinked_inode));
    }
    list
}

pub(super) fn opened(env: &Env) -> anyhow::Result<(Loan<'_>, std::path::PathBuf)> {
    let file = env.file_of(65536)?;
    let mut worker = env.worker()?;
    worker.open("file", &file)?;
    Ok((worker, file))
}

fn exclusive_needs_layout(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    for plain in [libc::F_RDLCK, PLAIN_WRITE] {
        let argument = plain | EXCLUSIVE;
        lease_is(
            &mut worker,
            "file",
            argument,
            libc::EINVAL,
            "F_EXCLUSIVE alone",
        )?;
    }
    getlease_is(&mut worker, "file", UNLCK, "after refusals")
}

fn unknown_bits(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    // So that the refusal is that of the bit, not that of a kernel without the feature.
    lease_is(&mut worker, "file", SHARED, 0, "a layout lease")?;
    lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    for bit in [0x80, 0x400, 0x1000, 0x0100_0000] {
        let argument = SHARED | bit;
        lease_is(&mut worker, "file", argument, libc::EINVAL, "unknown bit")?;
    }
    getlease_is(&mut worker, "file", UNLCK, "after refusals")
}

fn flags_on_unlock(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    lease_is(&mut worker, "file", SHARED | EXCLUSIVE, 0, "a lease")?;
    for flags in [
        layout_lease::F_LAYOUT,
        EXCLUSIVE,
        layout_lease::F_LAYOUT | EXCLUSIVE,
    ] {
        let argument = UNLCK | flags;
        lease_is(
            &mut worker,
            "file",
            argument,
            libc::EINVAL,
            "flags on F_UNLCK",
        )?;
    }
    getlease_is(&mut worker, "file", SHARED | EXCLUSIVE, "the lease stays")
}

fn not_a_regular_file(env: &Env) -> anyhow::Result<()> {
    let (mut worker, file) = opened(env)?;
    lease_is(&mut worker, "file", SHARED, 0, "a regular file")?;
    let directory = file.parent().context("a parent")?;
    worker.open_as("directory", directory, libc::O_RDONLY)?;
    lease_is(
        &mut worker,
        "directory",
        SHARED,
        libc::EINVAL,
        "a directory",
    )?;
    worker.open("null", Path::new("/dev/null"))?;
    lease_is(&mut worker, "null", SHARED, libc::EINVAL, "a device")
}

fn not_dax(env: &Env) -> anyhow::Result<()> {
    let path = Path::new("/dev/shm/not-dax");
    std::fs::write(path, [0; 4096])?;
    let mut worker = env.worker()?;
    worker.open("file", path)?;
    for lease in LAYOUT_LEASES {
        lease_is(
            &mut worker,
            "file",
            lease,
            libc::EOPNOTSUPP,
            "a file of tmpfs",
        )?;
    }
    Ok(())
}

fn reflinked_inode(env: &Env) -> anyhow::Result<()> {
    let (mut worker, file) = opened(env)?;
    let other = env.file_of(65536)?;
    let clone = Call::CloneRange {
        from: file,
        from_offset: 0,
        length: 65536,
        to: other,
        to_offset: 0,
        flags: 0,
    };
    must_be(&worker.call(&clone)?, 0, "reflink")?;
    let argument = SHARED | EXCLUSIVE;
    lease_is(
        &mut worker,
        "file",
        argument,
        libc::EOPNOTSUPP,
        "a reflinked inode",
    )
}

fn exclusive_needs_a_writable_description(env: &Env) -> anyhow::Result<()> {
    let file = env.file_of(65536)?;
    let mut worker = env.worker()?;
    worker.open_as("file", &file, libc::O_RDONLY)?;
    for lease in [SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        lease_is(
            &mut worker,
            "file",
            lease,
            libc::EBADF,
            "read-only description",
        )?;
    }
    lease_is(
        &mut worker,
        "file",
        SHARED,
        0,
        "not exclusive, read-only description",
    )?;
    let what = "made exclusive in place";
    lease_is(&mut worker, "file", SHARED | EXCLUSIVE, libc::EBADF, what)?;
    getlease_is(&mut worker, "file", SHARED, "after the refusal")
}

fn only_the_owner(env: &Env) -> anyhow::Result<()> {
    let file = env.file_of(65536)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
    let mut worker = env.worker()?;
    worker.must(Request::SetUid { uid: 65534 })?;
    worker.open("file", &file)?;
    for lease in LAYOUT_LEASES {
        lease_is(
            &mut worker,
            "file",
            lease,
            libc::EACCES,
            "somebody else's file",
        )?;
    }
    std::os::unix::fs::chown(&file, Some(65534), None)?;
    lease_is(&mut worker, "file", SHARED | EXCLUSIVE, 0, "one's own file")
}

fn conflicts(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    for held in LAYOUT_LEASES {
        for wanted in LAYOUT_LEASES {
            lease_is(&mut first, "file", held, 0, "the first lease")?;
            let sole = |lease: i32| lease & 0xff == libc::F_WRLCK;
            let expected = if sole(held) || sole(wanted) {
                libc::EAGAIN
            } else {
                0
            };
            let what = format!("another process, with {held:#x} held");
            lease_is(&mut second, "file", wanted, expected, &what)?;
            if expected == 0 {
                lease_is(&mut second, "file", UNLCK, 0, "release")?;
            }
            getlease_is(&mut first, "file", held, "the first lease")?;
            lease_is(&mut first, "file", UNLCK, 0, "release")?;
        }
    }
    Ok(())
}

fn change_in_place(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    for from in LAYOUT_LEASES {
        for to in LAYOUT_LEASES {
            lease_is(&mut worker, "file", from, 0, "a lease")?;
            lease_is(
                &mut worker,
                "file",
                to,
                0,
                &format!("from {from:#x} in place"),
            )?;
            getlease_is(&mut worker, "file", to, &format!("from {from:#x}"))?;
        }
    }
    lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    getlease_is(&mut worker, "file", UNLCK, "one release is enough")
}

fn change_in_place_conflicts(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    lease_is(&mut first, "file", SHARED, 0, "the first lease")?;
    lease_is(
        &mut second,
        "file",
        SHARED | EXCLUSIVE,
        0,
        "the second lease",
    )?;
    for sole in [SOLE, SOLE | EXCLUSIVE] {
        lease_is(
            &mut first,
            "file",
            sole,
            libc::EAGAIN,
            "sole, with another holder",
        )?;
        getlease_is(&mut first, "file", SHARED, "after the refusal")?;
    }
    lease_is(
        &mut first,
        "file",
        SHARED | EXCLUSIVE,
        0,
        "exclusive and shared",
    )?;
    lease_is(&mut second, "file", UNLCK, 0, "release")?;
    lease_is(
        &mut first,
        "file",
        SOLE | EXCLUSIVE,
        0,
        "sole, and nobody else",
    )
}

fn getlease_tells_everything(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    getlease_is(&mut worker, "file", UNLCK, "no lease")?;
    for lease in LAYOUT_LEASES {
        lease_is(&mut worker, "file", lease, 0, "a lease")?;
        getlease_is(&mut worker, "file", lease, "a layout lease")?;
        lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    }
    lease_is(&mut worker, "file", PLAIN_WRITE, 0, "a plain lease")?;
    getlease_is(&mut worker, "file", PLAIN_WRITE, "a plain lease")
}

fn flavours_do_not_mix(env: &Env) -> anyhow::Result<()> {
    let (mut worker, _) = opened(env)?;
    lease_is(&mut worker, "file", PLAIN_WRITE, 0, "a plain lease")?;
    for lease in LAYOUT_LEASES {
        lease_is(&mut worker, "file", lease, libc::EBUSY, "layout over plain")?;
    }
    getlease_is(&mut worker, "file", PLAIN_WRITE, "after refusals")?;
    lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    for lease in LAYOUT_LEASES {
        lease_is(&mut worker, "file", lease, 0, "a layout lease")?;
        lease_is(
            &mut worker,
            "file",
            PLAIN_WRITE,
            libc::EBUSY,
            "plain over layout",
        )?;
        getlease_is(&mut worker, "file", lease, "after the refusal")?;
        lease_is(&mut worker, "file", UNLCK, 0, "release")?;
    }
    Ok(())
}

fn unlock_frees_the_file(env: &Env) -> anyhow::Result<()> {
    let (mut first, file) = opened(env)?;
    let mut second = env.worker()?;
    second.open("file", &file)?;
    lease_is(&mut first, "file", SOLE | EXCLUSIVE, 0, "the first lease")?;
    lease_is(&mut first, "file", UNLCK, 0, "release")?;
    getlease_is(&mut first, "file", UNLCK, "after release")?;
    lease_is(&mut second, "file", SOLE | EXCLUSIVE, 0, "the next holder")
}
