// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filesystem under a file that is held: unmounting, freezing, growing, and files with and without
//! DAX beside each other.

use super::env::{must_be, op_is, Env, PINNED, SIZE};
use super::held::Held;
use super::{tests, Test};
use crate::client::Client;
use crate::ioctls::{self, Shutdown};
use crate::names::errno_name;
use crate::ops::Op;
use crate::protocol::{pattern, Request};
use crate::setup::{is_dax, run, Fs};
use crate::slow::Frozen;
use crate::trial::Expect;
use anyhow::{bail, ensure, Context};
use rustix::mount::{mount_remount, unmount, MountFlags, UnmountFlags};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    for held in Held::ALL {
        let name = |what| format!("{}.{what}", held.slug());
        list.push(Test::cell(name("umount"), "EBUSY", move |env| {
            stays_mounted(env, held)
        }));
        list.push(Test::cell(name("remount_ro"), "EBUSY", move |env| {
            stays_writable(env, held)
        }));
    }
    list.extend([
        Test::cell("pinned_released.freeze", "success", freeze),
        Test::cell("pinned_released.lazy_umount", "success", lazy_umount),
        Test::cell("pinned_released.grow", "success", grow),
    ]);
    list.extend(tests![
        a_lazy_umount_ends_with_the_pin,
        shut_down_with_all_written,
        shut_down_with_nothing_written,
    ]);
    match fs {
        Fs::Xfs => {
            for op in [
                Op::ExchangeFirst,
                Op::ExchangeSecond,
                Op::SwapTarget,
                Op::SwapTemporary,
            ] {
                let name = format!("pinned_beside_no_dax.{}", op.slug());
                list.push(Test::cell(name, "ETXTBSY", move |env| {
                    exchange_with_no_dax(env, op)
                }));
            }
            list.extend(tests![no_reflink_with_no_dax]);
        }
        Fs::Ext4 => {
            for donor in [true, false] {
                let name = if donor { "move_ext_donor" } else { "move_ext" };
                let name = format!("pinned_beside_no_dax.{name}");
                list.push(Test::cell(name, "EOPNOTSUPP", move |env| {
                    move_extents_with_no_dax(env, donor)
                }));
            }
        }
    }
    list
}

fn stays_mounted(env: &Env, held: Held) -> anyhow::Result<()> {
    let file = env.file()?;
    let holder = held.hold(env, &file)?;
    let mut mounted = env.mounted();
    match unmount(&mounted.root, UnmountFlags::empty()) {
        Err(rustix::io::Errno::BUSY) => {}
        Err(error) => bail!("umount: {}", errno_name(error.raw_os_error())),
        Ok(()) => {
            mounted.mount()?;
            bail!("unmounted while held");
        }
    }
    drop(holder);
    mounted.unmount()?;
    mounted.mount()
}

fn stays_writable(env: &Env, held: Held) -> anyhow::Result<()> {
    let file = env.file()?;
    let holder = held.hold(env, &file)?;
    let mounted = env.mounted();
    let remount = |flags| mount_remount(&mounted.root, flags, "dax=always");
    let refused = remount(MountFlags::RDONLY);
    if refused.is_ok() {
        remount(MountFlags::empty())?;
    }
    ensure!(
        refused == Err(rustix::io::Errno::BUSY),
        "remounting read-only while held: {refused:?}"
    );
    drop(holder);
    // A description goes a moment after its last user.
    for _ in 0..100 {
        match remount(MountFlags::RDONLY) {
            Err(rustix::io::Errno::BUSY) => {}
            other => {
                other.context("remounting read-only")?;
                return remount(MountFlags::empty()).context("and back");
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("still busy when nobody holds a file")
}

/// Memory of the holder's, full of a pattern, that can be sent into the pinned range.
fn to_be_sent(holder: &mut Client, seed: u32) -> anyhow::Result<()> {
    holder.map_anonymous("memory", PINNED.length)?;
    let source = holder.reg("source", "memory", 0, PINNED.length)?;
    must_be(&source, 0, "anonymous memory")?;
    holder.must(Request::Fill {
        map: "memory".to_owned(),
        offset: 0,
        length: PINNED.length,
        seed,
    })?;
    Ok(())
}

/// Sends it.
fn send() -> Request {
    Request::RdmaWrite {
        from: "source".to_owned(),
        to: "pin".to_owned(),
        length: PINNED.length,
    }
}

/// The file has it.
fn has_arrived(file: &Path, seed: u32) -> anyhow::Result<()> {
    let (begin, length) = (PINNED.offset as usize, PINNED.length as usize);
    let found = std::fs::read(file)?;
    ensure!(
        found[begin..begin + length] == pattern(seed, length),
        "what the device wrote is not there"
    );
    Ok(())
}

/// A frozen filesystem does not stop the device, and what it wrote is there after the thaw.
fn freeze(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = Held::Pinned.hold(env, &files.0)?;
    to_be_sent(&mut holder, 61)?;
    let root = env.mounted().root.clone();
    let frozen = Frozen::freeze(&root)?;
    let reply = holder.ask(send());
    frozen.thaw()?;
    must_be(&reply?, 0, "RDMA into a frozen filesystem")?;
    has_arrived(&files.0, 61)?;
    let mut other = env.stranger()?;
    let what = "after the thaw";
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, what)
}

/// The mount is gone for those who look, but not the filesystem: mounted again, it is the same one, and
/// the file is still pinned.
fn lazy_umount(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = Held::Pinned.hold(env, &files.0)?;
    {
        let mut mounted = env.mounted();
        unmount(&mounted.root, UnmountFlags::DETACH)?;
        ensure!(!files.0.exists(), "still there after a lazy umount");
        mounted.mount()?;
    }
    let mut other = env.stranger()?;
    for op in [Op::Truncate, Op::Punch] {
        op_is(&mut other, op, &files, PINNED, REFUSED, "mounted again")?;
    }
    holder.dereg("pin")?;
    let expect = Expect::Succeeds;
    op_is(&mut other, Op::Truncate, &files, PINNED, expect, "unpinned")
}

/// The filesystem goes, and lets go of its device, when the last pin does.
fn a_lazy_umount_ends_with_the_pin(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = Held::Pinned.hold(env, &file)?;
    let device = env.fs.device();
    // Nobody else can have a device that a filesystem is on.
    let take = || {
        let mut options = std::fs::File::options();
        options.read(true).custom_flags(libc::O_EXCL).open(device)
    };
    let mut mounted = env.mounted();
    mounted.detach()?;
    let pinned = take().map(drop).map_err(|error| error.raw_os_error());
    let dereg = holder.dereg("pin");
    // The last reference to the filesystem is put a moment later.
    let deadline = Instant::now() + Duration::from_secs(10);
    let taken = loop {
        match take() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            other => break other.map(drop),
        }
    };
    mounted.mount()?;
    dereg?;
    ensure!(
        pinned == Err(Some(libc::EBUSY)),
        "the device under a pinned file: {pinned:?}"
    );
    taken.context("the device under a file that was pinned")
}

fn shut_down_with_all_written(env: &Env) -> anyhow::Result<()> {
    shut_down(env, Shutdown::Flush)
}

fn shut_down_with_nothing_written(env: &Env) -> anyhow::Result<()> {
    shut_down(env, Shutdown::NoFlush)
}

/// A filesystem that has given up leaves the device alone that has the pages: it goes on, its range stays,
/// and nobody hangs.
fn shut_down(env: &Env, how: Shutdown) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = Held::Pinned.hold(env, &files.0)?;
    let root = env.mounted().root.clone();
    // What is not in the log yet would be gone.
    run(Command::new("sync").arg("-f").arg(&root))?;
    let mut other = env.worker()?;
    let before = std::fs::metadata(&files.0)?;
    let reply = other.call(&ioctls::shut_down(&root, how))?;
    must_be(&reply, 0, "shutting down under a pin")?;
    let result = (|| {
        to_be_sent(&mut holder, 64)?;
        let reply = holder.ask(send())?;
        must_be(&reply, 0, "RDMA into a filesystem that was shut down")?;
        for op in [Op::Truncate, Op::Punch] {
            let reply = other.call(&op.call(&files.0, &files.1, SIZE, PINNED))?;
            // Whichever is looked at first.
            ensure!(
                [libc::EIO, libc::ETXTBSY].contains(&reply.errno),
                "{}: {}",
                op.title(),
                errno_name(reply.errno)
            );
        }
        Held::Pinned
            .listed(&holder, &files.0)
            .context("the pin of a filesystem that was shut down")?;
        let busy = unmount(&root, UnmountFlags::empty());
        ensure!(
            busy == Err(rustix::io::Errno::BUSY),
            "umount while pinned: {busy:?}"
        );
        holder.dereg("pin").map(drop)
    })();
    drop(holder);
    drop(other);
    {
        let mut mounted = env.mounted();
        mounted.unmount()?;
        mounted.mount()?;
    }
    result?;
    // XFS says nothing of a file while it is shut down.
    let after = std::fs::metadata(&files.0)?;
    ensure!(
        (after.len(), after.blocks()) == (before.len(), before.blocks()),
        "{} bytes in {} blocks became {} in {}",
        before.len(),
        before.blocks(),
        after.len(),
        after.blocks()
    );
    has_arrived(&files.0, 64)?;
    let mut other = env.worker()?;
    let expect = Expect::Succeeds;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        expect,
        "mounted again",
    )
}

/// A filesystem can grow under a pin: what is there stays where it is.
fn grow(env: &Env) -> anyhow::Result<()> {
    const BLOCKS: u64 = 512 << 20 >> 12;
    let files = env.pair()?;
    let mut holder = Held::Pinned.hold(env, &files.0)?;
    let before = super::additive::placed(&files.0, PINNED)?;
    let root = env.mounted().root.clone();
    let size = || rustix::fs::statvfs(&root).map(|stat| stat.f_blocks);
    let old = size()?;
    let call = match env.fs {
        Fs::Xfs => ioctls::resize_xfs(&root, BLOCKS),
        Fs::Ext4 => ioctls::resize_ext4(&root, BLOCKS),
    };
    let mut other = env.worker()?;
    must_be(&other.call(&call)?, 0, "growing")?;
    let new = size()?;
    ensure!(new > old, "{old} blocks became {new}");
    ensure!(
        before == super::additive::placed(&files.0, PINNED)?,
        "the pinned blocks moved"
    );
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, "grown")?;
    holder.dereg("pin")?;
    let expect = Expect::Succeeds;
    op_is(&mut other, Op::Punch, &files, PINNED, expect, "unpinned")
}

/// The filesystem mounted so that each file says for itself whether it is DAX; back to the usual way on
/// drop.
struct PerInode<'a> {
    env: &'a Env,
}

impl<'a> PerInode<'a> {
    /// A DAX file and one that is not.
    fn mount(env: &'a Env) -> anyhow::Result<(PerInode<'a>, (PathBuf, PathBuf))> {
        {
            let mut mounted = env.mounted();
            mounted.unmount()?;
            if let Err(error) = mounted.mount_with("dax=inode") {
                mounted.mount()?;
                return Err(error);
            }
        }
        let per_inode = PerInode { env };
        let directory = env.mounted().root.join("dax");
        std::fs::create_dir_all(&directory)?;
        // Files inherit the flag from their directory.
        let call = ioctls::set_attributes(&directory, ioctls::XFLAG_DAX, 0);
        let reply = env.worker()?.call(&call)?;
        must_be(&reply, 0, "the DAX flag of a directory")?;
        let dax = env.mounted().file("dax/file", SIZE)?;
        let plain = env.mounted().file("no-dax", SIZE)?;
        ensure!(is_dax(&dax)?, "no DAX with the flag set");
        ensure!(!is_dax(&plain)?, "DAX without the flag");
        Ok((per_inode, (dax, plain)))
    }
}

impl Drop for PerInode<'_> {
    fn drop(&mut self) {
        let mut mounted = self.env.mounted();
        let _ = std::fs::remove_dir_all(mounted.root.join("dax"));
        let _ = std::fs::remove_file(mounted.root.join("no-dax"));
        let again = mounted.unmount().and_then(|()| mounted.mount());
        if let Err(error) = again {
            eprintln!("the mount for the other tests: {error:#}");
        }
    }
}

/// That the other file is not DAX does not make a difference to the one that is pinned.
fn exchange_with_no_dax(env: &Env, op: Op) -> anyhow::Result<()> {
    let (per_inode, files) = PerInode::mount(env)?;
    let mut other = env.worker()?;
    {
        let _holder = Held::Leased.hold(env, &files.0)?;
        let what = "another's exclusive lease";
        op_is(&mut other, op, &files, PINNED, REFUSED, what)?;
    }
    let mut holder = Held::Pinned.hold(env, &files.0)?;
    op_is(&mut other, op, &files, PINNED, REFUSED, "pinned")?;
    holder.dereg("pin")?;
    drop(holder);
    op_is(&mut other, op, &files, PINNED, Expect::Succeeds, "unpinned")?;
    drop(other);
    drop(per_inode);
    Ok(())
}

/// XFS shares no blocks between a DAX file and one that is not, held or not.
fn no_reflink_with_no_dax(env: &Env) -> anyhow::Result<()> {
    let (_per_inode, files) = PerInode::mount(env)?;
    let mut other = env.worker()?;
    for op in [Op::ReflinkFrom, Op::ReflinkTo, Op::DedupeFrom] {
        let expect = Expect::Refused(libc::EINVAL);
        op_is(&mut other, op, &files, PINNED, expect, "not pinned")?;
    }
    let _holder = Held::Pinned.hold(env, &files.0)?;
    for op in [Op::ReflinkFrom, Op::ReflinkTo, Op::DedupeTo] {
        op_is(&mut other, op, &files, PINNED, REFUSED, "pinned")?;
    }
    Ok(())
}

/// ext4 does not exchange blocks of DAX files, on neither side.
fn move_extents_with_no_dax(env: &Env, donor: bool) -> anyhow::Result<()> {
    let (_per_inode, files) = PerInode::mount(env)?;
    let call = match donor {
        true => ioctls::move_extents(&files.1, &files.0, PINNED),
        false => ioctls::move_extents(&files.0, &files.1, PINNED),
    };
    let trial = crate::trial::Files {
        file: &files.0,
        partner: &files.1,
    };
    let mut other = env.worker()?;
    let _holder = Held::Pinned.hold(env, &files.0)?;
    let expect = Expect::Refused(libc::EOPNOTSUPP);
    let verdict = crate::trial::attempt_call(&mut other, &call, trial, expect)?;
    ensure!(verdict.ok, "{}, not {}", verdict.got, verdict.expected);
    Ok(())
}
