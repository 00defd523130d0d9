// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that does what it likes with files, beside others that do the same. What it is told must
//! be among what is possible, and what it holds must stay where it is.

use super::world::SMALL;
use crate::calls::carry_out;
use crate::gup::{self, GUP_TEST};
use crate::names::errno_name;
use crate::ops::{subtractive, Op, Span, ADDITIVE};
use crate::protocol::pattern;
use crate::setup::Fs;
use crate::snapshot::extents;
use anyhow::{bail, ensure, Context};
use fastrand::Rng;
use io_uring::{opcode, types::Fd, IoUring};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
/// Others write in place behind this, and pins are before it.
pub const WRITTEN: u64 = SMALL / 4 * 3;
/// What all devices write, so that those that write to the same pages agree.
pub const SOURCE: &str = "/dev/shm/storm-source";
/// The byte that all of it is.
pub const SOURCE_BYTE: u8 = 0xa5;
/// No call may take longer: leases are broken within two seconds, and nothing waits for pins.
const HUNG: Duration = Duration::from_secs(20);

/// What an actor is told.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the files are
    #[arg(long)]
    root: PathBuf,
    #[arg(long, value_enum)]
    fs: Fs,
    #[arg(long)]
    seed: u64,
    /// How many files there are
    #[arg(long)]
    files: usize,
    #[arg(long)]
    milliseconds: u64,
}

/// What an actor has done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Calls that change layouts, or might.
    pub changes: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Leases granted.
    pub leases: u64,
    /// Of these, broken by others.
    pub broken: u64,
    /// Pins made.
    pub pins: u64,
    /// What was wrong.
    pub wrong: Option<String>,
}

struct Actor {
    root: PathBuf,
    fs: Fs,
    rng: Rng,
    files: usize,
    renewed: u64,
    report: Report,
}

/// Acts until the time is over, and reports.
pub fn act(options: &Options) -> anyhow::Result<()> {
    block_the_signal();
    let deadline = Instant::now() + Duration::from_millis(options.milliseconds);
    let mut actor = Actor {
        root: options.root.clone(),
        fs: options.fs,
        rng: Rng::with_seed(options.seed),
        files: options.files,
        renewed: 0,
        report: Report::default(),
    };
    while Instant::now() < deadline && actor.report.wrong.is_none() {
        let done = if actor.rng.u32(..3) == 0 {
            actor.hold()
        } else {
            actor.change()
        };
        if let Err(error) = done {
            actor.report.wrong = Some(format!("{error:#}"));
        }
    }
    println!("{}", serde_json::to_string(&actor.report)?);
    Ok(())
}

/// SIGIO waits until it is asked for.
fn block_the_signal() {
    // SAFETY: the set is initialised before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGIO);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// Waits for SIGIO; whether it came.
fn signalled(milliseconds: u64) -> bool {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: (milliseconds * 1_000_000) as libc::c_long,
    };
    // SAFETY: the set is initialised before it is read, and both outlive the call.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGIO);
        libc::sigtimedwait(&set, std::ptr::null_mut(), &time) == libc::SIGIO
    }
}

fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `F_SETLEASE`; the errno.
fn set_lease(file: &File, argument: i32) -> i32 {
    // SAFETY: F_SETLEASE takes an int.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, argument) } {
        0 => 0,
        _ => last(),
    }
}

/// Where each page of the range is on the device.
fn placed(file: &File, at: Span) -> anyhow::Result<Vec<u64>> {
    let extents = extents(file)?;
    let place = |page: u64| {
        let holds = |e: &&crate::snapshot::Extent| e.logical <= page && page < e.logical + e.length;
        let extent = extents
            .iter()
            .find(holds)
            .context("a hole in what is pinned")?;
        Ok(extent.physical + (page - extent.logical))
    };
    (at.offset..at.offset + at.length)
        .step_by(PAGE as usize)
        .map(place)
        .collect()
}

/// A shared mapping of the beginning of a file, unmapped on drop.
struct Mapped {
    at: *mut libc::c_void,
    length: usize,
}

impl Mapped {
    fn of(file: &File, length: u64) -> anyhow::Result<Mapped> {
        let length = usize::try_from(length)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at a place the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, libc::MAP_SHARED, fd, 0) };
        ensure!(at != libc::MAP_FAILED, "mmap: {}", errno_name(last()));
        Ok(Mapped { at, length })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by this object, and nobody refers to it. A ring or a device that has pinned
        // it knows the pages, not the mapping.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

/// What owns the pin.
enum Owner {
    Gup(File),
    Ring(Box<IoUring>),
}

impl Owner {
    fn pin(&self, mapped: &Mapped, at: Span) -> anyhow::Result<()> {
        let start = mapped.at as usize + usize::try_from(at.offset)?;
        let length = usize::try_from(at.length)?;
        match self {
            Owner::Gup(file) => gup::pin(file.as_fd(), start, length, true)?,
            Owner::Ring(ring) => {
                let buffer = libc::iovec {
                    iov_base: start as *mut libc::c_void,
                    iov_len: length,
                };
                // SAFETY: memory of the mapping, to which nothing of this program refers.
                unsafe { ring.submitter().register_buffers(&[buffer]) }?;
            }
        }
        Ok(())
    }

    /// The kernel, as a device would, writes what `source` has to the pinned pages.
    fn dma(&mut self, address: usize, length: u64, source: &File) -> anyhow::Result<bool> {
        let Owner::Ring(ring) = self else {
            return Ok(false);
        };
        let length = u32::try_from(length)?;
        let entry =
            opcode::ReadFixed::new(Fd(source.as_raw_fd()), address as *mut u8, length, 0).build();
        // SAFETY: the kernel checks that the part lies in the registered buffer.
        unsafe { ring.submission().push(&entry) }?;
        ring.submit_and_wait(1)?;
        let result = ring.completion().next().context("no completion")?.result();
        ensure!(result == length as i32, "a transfer gave {result}");
        Ok(true)
    }

    fn unpin(&self) -> anyhow::Result<()> {
        match self {
            Owner::Gup(file) => gup::unpin(file.as_fd())?,
            Owner::Ring(ring) => ring.submitter().unregister_buffers()?,
        }
        Ok(())
    }
}

impl Actor {
    fn one_in(&mut self, number: u32) -> bool {
        self.rng.u32(..number) == 0
    }

    fn path(&mut self) -> PathBuf {
        let file = self.rng.usize(..self.files);
        self.root.join(format!("storm-{file}"))
    }

    fn open(path: &Path) -> anyhow::Result<File> {
        let file = File::options().read(true).write(true).open(path);
        file.with_context(|| path.display().to_string())
    }

    fn nap(&mut self) {
        std::thread::sleep(Duration::from_micros(self.rng.u64(..3000)));
    }

    /// Puts a new file in the place of one that is of no use any more.
    fn renew(&mut self, path: &Path) -> anyhow::Result<()> {
        self.renewed += 1;
        let name = format!("new-{}-{}", std::process::id(), self.renewed);
        let fresh = self.root.join(name);
        let mut file = File::create(&fresh)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
        file.write_all(&pattern(0, SMALL as usize))?;
        Ok(std::fs::rename(fresh, path)?)
    }

    /// Tries to change a layout, by chance.
    fn change(&mut self) -> anyhow::Result<()> {
        let (path, partner) = (self.path(), self.path());
        let size = std::fs::metadata(&path)?.len();
        let pages = SMALL / PAGE;
        let offset = self.rng.u64(..pages);
        let length = 1 + self.rng.u64(..(pages - offset).min(16));
        let mut at = Span::new(offset * PAGE, length * PAGE);
        let all: Vec<Op> = subtractive(self.fs).chain(ADDITIVE).collect();
        let op = all[self.rng.usize(..all.len())];
        if size > 2 * SMALL || (path == partner && op.takes_two_files()) {
            return self.renew(&path);
        }
        if op == Op::Overwrite {
            at = Span::new(WRITTEN, SMALL - WRITTEN);
        }
        let mut call = op.call(&path, &partner, size, at);
        let mut allowed = vec![0, libc::ETXTBSY];
        // Sizes and extents may not be any more what they were when the call was made up.
        allowed.extend([libc::EINVAL, libc::EFAULT, libc::EBUSY, libc::EOPNOTSUPP]);
        if self.one_in(2) {
            if let Some(nonblocking) = call.clone().nonblocking() {
                call = nonblocking;
                allowed.push(libc::EWOULDBLOCK);
            }
        }
        let reply = carry_out(&call);
        self.report.changes += 1;
        self.report.refused += u64::from(reply.errno == libc::ETXTBSY);
        ensure!(
            allowed.contains(&reply.errno),
            "{}: {} {}",
            op.title(),
            errno_name(reply.errno),
            reply.text
        );
        // Those that set a size may have turned into the opposite.
        let additive = matches!(op, Op::Append | Op::Overwrite | Op::Allocate);
        let refused = reply.errno == libc::ETXTBSY;
        ensure!(!(additive && refused), "{}: refused", op.title());
        let time = Duration::from_nanos(reply.ns);
        ensure!(time < HUNG, "{}: took {time:?}", op.title());
        Ok(())
    }

    /// Takes a lease and makes use of it.
    fn hold(&mut self) -> anyhow::Result<()> {
        let path = self.path();
        let file = Self::open(&path)?;
        let kind = if self.one_in(3) {
            libc::F_WRLCK
        } else {
            libc::F_RDLCK
        };
        let exclusive = !self.one_in(4);
        let argument = kind | F_LAYOUT | if exclusive { F_EXCLUSIVE } else { 0 };
        match set_lease(&file, argument) {
            0 => self.report.leases += 1,
            libc::EAGAIN => return Ok(()),
            libc::EOPNOTSUPP => return self.renew(&path),
            errno => bail!("F_SETLEASE {argument:#x}: {}", errno_name(errno)),
        }
        if exclusive {
            self.pin(&path, file)
        } else {
            self.give_way(&file)
        }
    }

    /// Holds a lease until somebody wants it, or for a moment.
    fn give_way(&mut self, file: &File) -> anyhow::Result<()> {
        let told = signalled(self.rng.u64(..10));
        // SAFETY: F_GETLEASE takes no argument.
        let says = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
        if told {
            self.report.broken += 1;
            // The signal may be an old one, of a file that is closed.
            ensure!(says >= 0, "F_GETLEASE: {}", errno_name(last()));
        }
        match set_lease(file, libc::F_UNLCK) {
            // Taken away, because nobody gave it up in time.
            0 | libc::EAGAIN => Ok(()),
            errno => bail!("F_UNLCK: {}", errno_name(errno)),
        }
    }

    /// With an exclusive lease: pins, transfers, and sees that all stays where it is.
    fn pin(&mut self, path: &Path, file: File) -> anyhow::Result<()> {
        let size = file.metadata()?.len().min(WRITTEN);
        let pages = size / PAGE;
        if pages == 0 {
            return self.renew(path);
        }
        let first = self.rng.u64(..pages);
        let length = 1 + self.rng.u64(..(pages - first).min(16));
        let at = Span::new(first * PAGE, length * PAGE);
        let mapped = Mapped::of(&file, size)?;
        let mut owner = if self.one_in(2) {
            Owner::Ring(Box::new(IoUring::new(8)?))
        } else {
            Owner::Gup(Self::open(Path::new(GUP_TEST))?)
        };
        // Nobody can have changed anything since the lease was granted.
        owner
            .pin(&mapped, at)
            .with_context(|| format!("pin of {} bytes at {}", at.length, at.offset))?;
        self.report.pins += 1;
        let before = placed(&file, at)?;
        let address = mapped.at as usize + usize::try_from(at.offset)?;
        // Another description, for what comes after the close of the first.
        let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let mut file = Some(file);
        let mut mapped = Some(mapped);
        for _ in 0..self.rng.u32(1..4) {
            match self.rng.u32(..6) {
                0 => drop(mapped.take()),
                1 => {
                    if let Some(file) = &file {
                        // A second time there is none.
                        set_lease(file, libc::F_UNLCK);
                    }
                }
                2 => drop(file.take()),
                3 => self.leave_to_a_child()?,
                _ => self.attack(&again, at)?,
            }
            self.nap();
            if mapped.is_some() {
                self.transfer(&mut owner, address, at, &again)?;
            }
            let after = placed(&again, at)?;
            ensure!(
                before == after,
                "pinned blocks went from {before:?} to {after:?}"
            );
        }
        if self.one_in(300) {
            // SAFETY: the process's own end; others see whether all it held goes with it.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        if self.one_in(2) {
            owner.unpin()?;
        }
        Ok(())
    }

    /// What the device writes is what the file has. Others may share the lease, and pin the same.
    fn transfer(
        &mut self,
        owner: &mut Owner,
        address: usize,
        at: Span,
        file: &File,
    ) -> anyhow::Result<()> {
        let source = File::open(SOURCE)?;
        if !owner.dma(address, at.length, &source)? {
            return Ok(());
        }
        let mut found = vec![0; usize::try_from(at.length)?];
        file.read_exact_at(&mut found, at.offset)?;
        let same = found.iter().all(|&byte| byte == SOURCE_BYTE);
        ensure!(same, "what the device wrote is not in the file");
        Ok(())
    }

    /// The holder's own change of what is pinned is refused as well.
    fn attack(&mut self, file: &File, at: Span) -> anyhow::Result<()> {
        use rustix::fs::FallocateFlags;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = Self::open(Path::new(&path))?;
        let result = if self.one_in(2) {
            rustix::fs::ftruncate(&file, at.offset)
        } else {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, mode, at.offset, at.length)
        };
        self.report.changes += 1;
        self.report.refused += 1;
        ensure!(
            result == Err(Errno::TXTBSY),
            "a change of what is pinned: {result:?}"
        );
        Ok(())
    }

    /// A child that has all of it open and mapped for a moment.
    fn leave_to_a_child(&mut self) -> anyhow::Result<()> {
        // SAFETY: the process has one thread; both children call only what is safe after fork.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", errno_name(last()));
        if pid == 0 {
            // SAFETY: as above. The grandchild is nobody's to wait for.
            unsafe {
                if libc::fork() == 0 {
                    libc::usleep(5000);
                }
                libc::_exit(0);
            }
        }
        // SAFETY: a child of this process that ends at once.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        Ok(())
    }
}
