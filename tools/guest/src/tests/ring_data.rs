// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers between buffers of io_uring in DAX files and other files: the right data, durable.

use super::env::{must_be, Env, EXCLUSIVE, SHARED, SIZE};
use super::ring::{
    create, drop_ring, lease_and_map, line, listed, must, pinned_kb, register, Shown,
};
use super::{tests, Test};
use crate::client::Client;
use crate::ops::{Op, Span};
use crate::protocol::{pattern, Request};
use crate::rings::{Buffer, Direction, RingCall};
use crate::setup::{run, Fs};
use crate::trace::{covered, inode, Writeback};
use crate::trial::Expect;
use anyhow::{bail, ensure, Context};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kind of file on the other side of a transfer.
#[derive(Clone, Copy)]
enum Partner {
    /// A file in memory.
    Tmpfs,
    /// A file on a disk, through the page cache.
    Buffered,
    /// The same with O_DIRECT: the disk reads and writes the buffer itself.
    Direct,
    /// The disk.
    Disk,
}

const PARTNERS: [(Partner, &str); 4] = [
    (Partner::Tmpfs, "tmpfs"),
    (Partner::Buffered, "buffered"),
    (Partner::Direct, "direct"),
    (Partner::Disk, "disk"),
];

pub fn tests(_: Fs) -> Vec<Test> {
    let mut all = tests![
        fsync_again_and_again,
        within_the_buffer_only,
        entries_of_2_mib,
        entries_of_2_mib_are_charged_once,
    ];
    for (partner, name) in PARTNERS {
        all.push(Test::new(format!("read_fixed.{name}"), move |env| {
            read_fixed(env, partner)
        }));
        all.push(Test::new(format!("write_fixed.{name}"), move |env| {
            write_fixed(env, partner)
        }));
    }
    all
}

/// A loop device over a file in memory, with ext4 on it, mounted; all of it goes on drop.
struct Disk {
    backing: PathBuf,
    device: PathBuf,
    root: Option<PathBuf>,
}

impl Disk {
    fn new(filesystem: bool) -> anyhow::Result<Disk> {
        let backing = PathBuf::from("/dev/shm/disk");
        std::fs::File::create(&backing)?.set_len(64 << 20)?;
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&backing))?;
        let mut disk = Disk {
            backing,
            device: PathBuf::from(device.trim()),
            root: None,
        };
        if filesystem {
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(&disk.device))?;
            let root = PathBuf::from("/tmp/disk");
            std::fs::create_dir_all(&root)?;
            run(Command::new("mount")
                .args(["-t", "ext4"])
                .args([&disk.device, &root]))?;
            disk.root = Some(root);
        }
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left of a test that has failed must not fail the next one for another reason.
        if let Some(root) = &self.root {
            let _ = rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = run(Command::new("losetup").arg("-d").arg(&self.device));
        let _ = std::fs::remove_file(&self.backing);
    }
}

/// The other side: a path, how to open it, and what it needs to be there.
struct Other {
    path: PathBuf,
    flags: i32,
    _disk: Option<Disk>,
}

impl Other {
    /// One that holds the pattern of `seed`.
    fn new(partner: Partner, seed: u32) -> anyhow::Result<Other> {
        let disk = match partner {
            Partner::Tmpfs => None,
            Partner::Buffered | Partner::Direct => Some(Disk::new(true)?),
            Partner::Disk => Some(Disk::new(false)?),
        };
        let path = match &disk {
            None => PathBuf::from("/dev/shm/partner"),
            Some(Disk {
                root: Some(root), ..
            }) => root.join("partner"),
            Some(disk) => disk.device.clone(),
        };
        let direct = matches!(partner, Partner::Direct | Partner::Disk);
        let flags = libc::O_RDWR | if direct { libc::O_DIRECT } else { 0 };
        let other = Other {
            path,
            flags,
            _disk: disk,
        };
        std::fs::write(&other.path, pattern(seed, usize::try_from(SIZE)?))?;
        std::fs::File::open(&other.path)?.sync_all()?;
        Ok(other)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if self._disk.is_none() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A worker whose ring has all of the file as a buffer.
fn receiver(file: &Path) -> anyhow::Result<Client> {
    let mut who = Client::worker()?;
    lease_and_map(&mut who, file, SHARED | EXCLUSIVE)?;
    create(&mut who, "ring")?;
    let size = std::fs::metadata(file)?.len();
    let all = Buffer::new("map", 0, size);
    must_be(&register(&mut who, "ring", &[all])?, 0, "the whole file")?;
    Ok(who)
}

/// One transfer, of which every byte must go through.
fn transfer(
    who: &mut Client,
    direction: Direction,
    offset: u64,
    part: Buffer,
) -> anyhow::Result<()> {
    let length = part.length;
    must(
        who,
        RingCall::Submit {
            ring: "ring".to_owned(),
            direction,
            name: "other".to_owned(),
            offset,
            slot: 0,
            part,
        },
    )?;
    let ring = "ring".to_owned();
    let reply = must(who, RingCall::Wait { ring })?;
    let done = u64::try_from(reply.value)?;
    ensure!(done == length, "{done} of {length} bytes were transferred");
    Ok(())
}

fn fsync(who: &mut Client) -> anyhow::Result<()> {
    who.must(Request::Fsync {
        name: "file".to_owned(),
    })?;
    Ok(())
}

/// The fsync after the transfer flushes every byte of the file.
fn flushes_everything(who: &mut Client, file: &Path, trace: &Writeback) -> anyhow::Result<()> {
    fsync(who)?;
    let size = std::fs::metadata(file)?.len();
    let bytes = covered(&trace.flushed()?, inode(file)?, 0, size);
    ensure!(bytes == size, "fsync flushed {bytes} of {size} bytes");
    Ok(())
}

/// What read(2) finds in a file must be this, to the byte.
fn holds(file: &Path, wanted: &[u8]) -> anyhow::Result<()> {
    let found = std::fs::read(file)?;
    let found = found.get(..wanted.len()).context("the file is shorter")?;
    if let Some(at) = (0..wanted.len()).find(|&at| found[at] != wanted[at]) {
        let count = (0..wanted.len())
            .filter(|&at| found[at] != wanted[at])
            .count();
        bail!(
            "{count} bytes of {} are others, the first one at {at}",
            file.display()
        );
    }
    Ok(())
}

/// The entries were cleaned before the transfer: the fsync after it must flush them all the same.
fn read_fixed(env: &Env, partner: Partner) -> anyhow::Result<()> {
    const SEED: u32 = 61;
    let file = env.file()?;
    let other = Other::new(partner, SEED)?;
    let wanted = pattern(SEED, usize::try_from(SIZE)?);
    let mut who = receiver(&file)?;
    fsync(&mut who)?;
    who.open_as("other", &other.path, other.flags)?;

    let trace = Writeback::on()?;
    let all = Buffer::new("map", 0, SIZE);
    transfer(&mut who, Direction::Read, 0, all)?;
    flushes_everything(&mut who, &file, &trace)?;
    holds(&file, &wanted)?;

    who.end()?;
    let mut mounted = env.mounted();
    mounted.unmount()?;
    mounted.mount()?;
    drop(mounted);
    holds(&file, &wanted).context("after it was mounted again")
}

fn write_fixed(env: &Env, partner: Partner) -> anyhow::Result<()> {
    const SEED: u32 = 71;
    let file = env.file()?;
    let other = Other::new(partner, 0)?;
    let mut who = receiver(&file)?;
    who.must(Request::Fill {
        map: "map".to_owned(),
        offset: 0,
        length: SIZE,
        seed: SEED,
    })?;
    who.open_as("other", &other.path, other.flags)?;
    let all = Buffer::new("map", 0, SIZE);
    transfer(&mut who, Direction::Write, 0, all)?;
    who.close("other")?;
    if matches!(partner, Partner::Disk) {
        // udev looks at a disk that has been written to. What it read through the page cache during
        // the transfer may be the old pattern.
        run(Command::new("blockdev").arg("--flushbufs").arg(&other.path))?;
    }
    holds(&other.path, &pattern(SEED, usize::try_from(SIZE)?))
}

/// Each fsync flushes what came since the one before, and so does one after the buffer is gone.
fn fsync_again_and_again(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut who = receiver(&file)?;
    for seed in 81..84 {
        let other = Other::new(Partner::Tmpfs, seed)?;
        who.open_as("other", &other.path, other.flags)?;
        let trace = Writeback::on()?;
        let all = Buffer::new("map", 0, SIZE);
        transfer(&mut who, Direction::Read, 0, all)?;
        if seed == 83 {
            drop_ring(&mut who, "ring")?;
        }
        flushes_everything(&mut who, &file, &trace)?;
        holds(&file, &pattern(seed, usize::try_from(SIZE)?))?;
        who.close("other")?;
    }
    Ok(())
}

/// A part of the buffer that is on no boundary; nothing else of the file changes.
fn within_the_buffer_only(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut wanted = std::fs::read(&file)?;
    let other = Other::new(Partner::Tmpfs, 91)?;
    let source = pattern(91, usize::try_from(SIZE)?);
    let mut who = receiver(&file)?;
    who.open_as("other", &other.path, other.flags)?;
    for (offset, at, length) in [(0, 12_289, 1), (77, 40_001, 70_003), (4095, 4095, 2)] {
        let part = Buffer::new("map", at as u64, length as u64);
        transfer(&mut who, Direction::Read, offset as u64, part)?;
        wanted[at..at + length].copy_from_slice(&source[offset..offset + length]);
    }
    holds(&file, &wanted)
}

/// A filesystem of the same kind whose extents begin at 2 MiB, on the device that is not in use now.
struct Aligned {
    root: PathBuf,
}

impl Aligned {
    fn new(fs: Fs) -> anyhow::Result<Aligned> {
        let (mkfs, options, device): (_, &[&str], _) = match fs {
            Fs::Xfs => (
                "mkfs.xfs",
                &[
                    "-q",
                    "-f",
                    "-d",
                    "su=2m,sw=1,agcount=4",
                    "-l",
                    "size=64m,su=32k",
                ],
                "/dev/pmem1",
            ),
            Fs::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-b",
                    "4096",
                    "-E",
                    "stride=512,stripe_width=512",
                ],
                "/dev/pmem0",
            ),
        };
        run(Command::new(mkfs).args(options).arg(device))?;
        let root = PathBuf::from("/tmp/dax-aligned");
        std::fs::create_dir_all(&root)?;
        run(Command::new("mount")
            .args(["-t", fs.name(), "-o", "dax=always", device])
            .arg(&root))?;
        Ok(Aligned { root })
    }

    /// A file of written blocks, all of which are allocated at once.
    fn file(&self, name: &str, size: u64) -> anyhow::Result<PathBuf> {
        use std::io::Write;
        let path = self.root.join(name);
        let mut file = std::fs::File::create(&path)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)?;
        file.write_all(&pattern(0, usize::try_from(size)?))?;
        file.sync_all()?;
        Ok(path)
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // A ring that its process has just left still has the file open for a moment.
        for _ in 0..250 {
            let flags = rustix::mount::UnmountFlags::empty();
            if rustix::mount::unmount(&self.root, flags) != Err(rustix::io::Errno::BUSY) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
    }
}

const HUGE: u64 = 2 << 20;

/// Entries of 2 MiB become one segment each, whose first and last ones the buffer has in part.
fn entries_of_2_mib(env: &Env) -> anyhow::Result<()> {
    let aligned = Aligned::new(env.fs)?;
    let files = (
        aligned.file("huge", 4 * HUGE)?,
        aligned.file("partner", 4 * HUGE)?,
    );
    let disk = Disk::new(true)?;
    let source = disk.root.as_ref().context("mounted")?.join("partner");
    let data = pattern(101, usize::try_from(4 * HUGE)?);
    std::fs::write(&source, &data)?;
    std::fs::File::open(&source)?.sync_all()?;

    let mut who = Client::worker()?;
    lease_and_map(&mut who, &files.0, SHARED | EXCLUSIVE)?;
    let fd = create(&mut who, "ring")?;
    // Three quarters of the first one, the second one, one page of the third one.
    let span = Span::new(HUGE / 4, HUGE / 4 * 3 + HUGE + 4096);
    let buffer = Buffer::new("map", span.offset, span.length);
    must_be(&register(&mut who, "ring", &[buffer])?, 0, "the buffer")?;
    let wanted = [line(Shown::Fd(fd), span), line(Shown::Mm, span)];
    listed(who.pid(), &files.0, &wanted)?;

    let mut wanted = std::fs::read(&files.0)?;
    let parts = [
        (0, span.offset, span.length),
        (4096, HUGE - 8192, 3 * 4096),
        (512, HUGE + 512, 1024),
        (8192, 2 * HUGE - 512, 4608),
    ];
    for flags in [libc::O_RDWR, libc::O_RDWR | libc::O_DIRECT] {
        who.open_as("other", &source, flags)?;
        let trace = Writeback::on()?;
        for (offset, at, length) in parts {
            let part = Buffer::new("map", at, length);
            transfer(&mut who, Direction::Read, offset, part)?;
            let (at, offset) = (usize::try_from(at)?, usize::try_from(offset)?);
            let length = usize::try_from(length)?;
            wanted[at..at + length].copy_from_slice(&data[offset..offset + length]);
        }
        fsync(&mut who)?;
        let bytes = covered(&trace.flushed()?, inode(&files.0)?, 0, 3 * HUGE);
        ensure!(bytes == 3 * HUGE, "fsync flushed {bytes} bytes");
        holds(&files.0, &wanted)?;
        for (offset, at, length) in parts {
            let part = Buffer::new("map", at, length);
            transfer(&mut who, Direction::Write, offset, part)?;
            let (at, offset) = (usize::try_from(at)?, usize::try_from(offset)?);
            let length = usize::try_from(length)?;
            let target = std::fs::read(&source)?;
            ensure!(
                target[offset..offset + length] == wanted[at..at + length],
                "other data at {offset} of the target"
            );
        }
        std::fs::write(&source, &data)?;
        std::fs::File::open(&source)?.sync_all()?;
        who.close("other")?;
    }

    // Of the third entry one page is registered. It cannot be split while it is.
    let refused = Expect::Refused(libc::ETXTBSY);
    let same = Span::new(3 * HUGE - 4096, 4096);
    let what = "in an entry of 2 MiB with a registered page";
    super::env::op_is(&mut who, Op::Punch, &files, same, refused, what)?;
    let next = Span::new(3 * HUGE, 4096);
    let what = "in the next one";
    super::env::op_is(&mut who, Op::Punch, &files, next, Expect::Succeeds, what)?;
    who.end()
}

/// A huge page is charged once, whatever part of it is registered and by how many buffers and clones,
/// and is returned with the last one.
fn entries_of_2_mib_are_charged_once(env: &Env) -> anyhow::Result<()> {
    let aligned = Aligned::new(env.fs)?;
    let file = aligned.file("huge", 2 * HUGE)?;
    let mut who = Client::worker()?;
    lease_and_map(&mut who, &file, SHARED | EXCLUSIVE)?;
    who.must(Request::SetUid { uid: 65534 })?;
    create(&mut who, "ring")?;
    create(&mut who, "second")?;
    let buffers = [
        Buffer::new("map", 4096, 8192),
        Buffer::new("map", HUGE - 4096, 8192),
    ];
    must_be(&register(&mut who, "ring", &buffers)?, 0, "two buffers")?;
    let charged = |who: &Client, wanted: u64, what: &str| {
        let kb = pinned_kb(who)?;
        ensure!(kb == wanted, "{what}: {kb} kB are charged, not {wanted}");
        Ok(())
    };
    charged(&who, 2 * HUGE / 1024, "parts of two entries")?;
    super::ring::clone(&mut who, "ring", "second")?;
    charged(&who, 2 * HUGE / 1024, "a clone")?;
    super::ring::unregister(&mut who, "ring")?;
    super::ring::unregister(&mut who, "second")?;
    charged(&who, 0, "nothing")?;
    who.end()
}
