// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filesystems on device mapper: a file may lie on several devices, and nobody tells the filesystem when one
//! of them goes.

use super::env::{lease_is, must_be, Env, EXCLUSIVE, SHARED};
use super::loss::{device_writes, Away};
use super::{tests, Test};
use crate::kmsg::Kmsg;
use crate::protocol::{pattern, Request};
use crate::setup::{run, Fs};
use crate::snapshot::extents;
use crate::system::Listing;
use anyhow::{ensure, Context};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![one_region_on_two_devices, unbinding_waits_for_the_unmount]
}

/// Of each of two devices, in bytes.
const PIECE: u64 = 256 << 20;
/// Of one: XFS wants 300 MiB.
const ALONE: u64 = 400 << 20;
const SECTOR: u64 = 512;
/// To each side of the seam, in bytes.
const SIDE: u64 = 1 << 20;
const NAME: &str = "stacked";

/// Nobody but dmsetup makes nodes in the guest.
fn dmsetup(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("dmsetup")
        .args(arguments)
        .env("DM_DISABLE_UDEV", "1"))?;
    Ok(())
}

/// A filesystem on pieces of pmem devices, one behind the other. It goes on drop.
struct Stack {
    fs: Fs,
    root: PathBuf,
    node: PathBuf,
}

impl Stack {
    fn on(fs: Fs, devices: &[&Path], piece: u64) -> anyhow::Result<Stack> {
        let sectors = piece / SECTOR;
        let table: Vec<String> = (0..)
            .zip(devices)
            .map(|(at, device)| {
                let begin = at * sectors;
                format!("{begin} {sectors} linear {} 0", device.display())
            })
            .collect();
        dmsetup(&["create", NAME, "--table", &table.join("\n")])?;
        let stack = Stack {
            fs,
            root: PathBuf::from("/tmp/stacked"),
            node: Path::new("/dev/mapper").join(NAME),
        };
        run(fs.mkfs().arg(&stack.node))?;
        std::fs::create_dir_all(&stack.root)?;
        stack.mount()?;
        Ok(stack)
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(Command::new("mount")
            .args(["-t", self.fs.name(), "-o", "dax=always"])
            .arg(&self.node)
            .arg(&self.root))?;
        Ok(())
    }

    fn unmount(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.root))?;
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        if let Err(error) = dmsetup(&["remove", "--retry", NAME]) {
            eprintln!("the mapped device: {error:#}");
        }
    }
}

/// Where a file goes from the one device to the other, in bytes from its beginning: blocks that follow each
/// other in the file and on the mapped device, at its middle.
fn seam(path: &Path) -> anyhow::Result<u64> {
    let all = extents(&File::open(path)?)?;
    let across = all
        .iter()
        .find(|e| e.physical + SIDE <= PIECE && PIECE + SIDE <= e.physical + e.length);
    if let Some(extent) = across {
        return Ok(extent.logical + PIECE - extent.physical);
    }
    // No extent reaches beyond an allocation group.
    let beside = all.iter().any(|e| e.physical >= PIECE);
    let end = all
        .iter()
        .find(|e| {
            let end = e.logical + e.length;
            let next = all.iter().find(|next| next.logical == end);
            e.physical < PIECE && next.is_some_and(|next| next.physical >= PIECE)
        })
        .map(|e| e.logical + e.length);
    end.with_context(|| format!("no seam (blocks behind it: {beside}): {all:?}"))
}

/// One registration has a record for each device mapping, and lets go of both.
fn one_region_on_two_devices(env: &Env) -> anyhow::Result<()> {
    let away = Away::soon(env)?;
    env.mounted().unmount()?;
    let devices = [Fs::Xfs.device(), Fs::Ext4.device()];
    let stack = Stack::on(env.fs, &devices, PIECE)?;
    let path = stack.root.join("large");
    let file = File::create(&path)?;
    let size = PIECE + PIECE / 2;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)?;
    file.sync_all()?;
    let at = seam(&path)?;
    let region = (at - SIDE, 2 * SIDE);

    let mut client = env.verbs()?;
    client.open("file", &path)?;
    lease_is(&mut client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    client.map_shared("map", "file", size)?;
    let reply = client.reg("pin", "map", region.0, region.1)?;
    must_be(&reply, 0, "a region on two devices")?;
    let listed = |what| -> anyhow::Result<Vec<(u64, u64)>> {
        let mut lines: Vec<_> = Listing::read()
            .context(what)?
            .pins_of(&path)
            .iter()
            .map(|pin| (pin.first, pin.last))
            .collect();
        lines.sort_unstable();
        Ok(lines)
    };
    let wanted = [(at - SIDE, at - 1), (at, at + SIDE - 1)];
    let got = listed("pinned")?;
    ensure!(got == wanted, "pins {got:?}, not {wanted:?}");
    device_writes(&mut client, region.1, 71)?;
    client.must(Request::Fsync {
        name: "file".to_owned(),
    })?;
    client.dereg("pin")?;
    let left = listed("unpinned")?;
    ensure!(left.is_empty(), "unpinned, yet {left:?}");

    // What was received is on both devices.
    drop(client);
    drop(file);
    stack.unmount()?;
    stack.mount()?;
    let mut data = vec![0; usize::try_from(region.1)?];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(&path)?, &mut data, region.0)?;
    ensure!(
        data == pattern(71, data.len()),
        "not what was received across the seam"
    );
    drop(stack);
    away.back()
}

/// A filesystem that is not told keeps the memory until it is unmounted. The log says so.
fn unbinding_waits_for_the_unmount(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    env.mounted().unmount()?;
    let device = env.fs.device();
    let stack = Stack::on(env.fs, &[device], ALONE)?;
    let path = stack.root.join("file");
    std::fs::write(&path, pattern(0, 1 << 20))?;
    let mut reader = env.worker()?;
    reader.open("file", &path)?;
    reader.map_shared("map", "file", 1 << 20)?;
    reader.must(Request::Compare {
        map: "map".to_owned(),
        offset: 0,
        length: 1 << 20,
        seed: 0,
    })?;
    drop(reader);
    let mut kmsg = Kmsg::from_now()?;
    away.begin_to_unbind();
    let says = "waits until filesystems on it are unmounted";
    kmsg.wait_for(&["removal of memory ", says], Duration::from_secs(30))?;
    ensure!(away.goes_on(), "mounted, and it has not waited");
    stack.unmount()?;
    away.has_ended("unmounted")?;
    drop(stack);
    away.back()
}
