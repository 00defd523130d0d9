// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation and copy that an operation makes fails once: it ends in success or an error, an error
//! leaves nothing behind, and the next try works.

use crate::client::Client;
use crate::gup::{self, GUP_TEST};
use crate::names::errno_name;
use crate::setup::{mounted, Fs, Mounted};
use crate::softdev::SoftDevice;
use crate::system::{Listing, FILE_PINS};
use crate::uverbs::{self, Driver, Region};
use anyhow::{bail, ensure, Context};
use io_uring::IoUring;
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// More than any operation has of what can fail.
const ENOUGH: u32 = 2000;
const SIZE: usize = 1 << 20;
const PINNED: usize = 64 << 10;
/// Bytes that are not pinned.
const BESIDE: u64 = 4 * PINNED as u64;
/// `IBV_ACCESS_LOCAL_WRITE`.
const LOCAL_WRITE: u32 = 1;
const EXCLUSIVE: i32 = libc::F_RDLCK | F_LAYOUT | F_EXCLUSIVE;
const BREAKABLE: i32 = libc::F_RDLCK | F_LAYOUT;

/// Which filesystems.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which filesystem, more than once for several [default: xfs and ext4]
    #[arg(long, value_enum)]
    fs: Vec<Fs>,
}

/// What becomes of the allocations that come after the one that fails.
///
/// The first alone tries almost every error path. But the XArray, and others, try again in another way: that
/// these can fail as well shows when that fails too. It cannot be all, for XFS tries again until it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Succeed,
    Fail,
}

impl Rest {
    const ALL: [Rest; 2] = [Rest::Succeed, Rest::Fail];

    fn name(self) -> &'static str {
        match self {
            Rest::Succeed => "one fails",
            Rest::Fail => "some in a row fail",
        }
    }
}

/// How many slab allocations in a row.
const IN_A_ROW: &str = "6";
const TIMES: &str = "/sys/kernel/debug/failslab/times";

/// What the thread's next failure is.
struct FailNth {
    nth: File,
    /// Whether slab allocations fail that are not counted.
    others: File,
}

impl FailNth {
    fn open() -> anyhow::Result<FailNth> {
        let open = |name: &str| {
            File::options()
                .read(true)
                .write(true)
                .open(Path::new("/proc/thread-self").join(name))
                .context("the kernel injects no faults: cargo xtask faults builds one that does")
        };
        Ok(FailNth {
            nth: open("fail-nth")?,
            others: open("make-it-fail")?,
        })
    }

    /// Copying this number fails as well, if its turn has come: the next try does not.
    fn set(&self, nth: u32) -> anyhow::Result<()> {
        let mut result = self.nth.write_all_at(nth.to_string().as_bytes(), 0);
        if result
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT))
        {
            result = self.nth.write_all_at(nth.to_string().as_bytes(), 0);
        }
        Ok(result?)
    }

    /// Whether the failure has come.
    fn has_come(&self) -> anyhow::Result<bool> {
        let mut text = [0; 16];
        match self.nth.read_at(&mut text, 0) {
            Ok(length) => Ok(std::str::from_utf8(&text[..length])?.trim() == "0"),
            // It has come just now, to this copy.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the nth allocation or copy of a call fail; the call's errno, and whether there was an nth.
    ///
    /// Up to the nth none fails, for the kernel asks nothing else as long as it counts.
    fn during(
        &self,
        nth: u32,
        rest: Rest,
        call: &mut dyn FnMut() -> i32,
    ) -> anyhow::Result<(i32, bool)> {
        // The copies of these numbers must not be counted, hence outside.
        if rest == Rest::Fail {
            fs::write(TIMES, IN_A_ROW)?;
            self.others.write_all_at(b"1", 0)?;
        }
        self.set(nth)?;
        let errno = call();
        let failed = self.has_come()?;
        self.set(0)?;
        if rest == Rest::Fail {
            self.others.write_all_at(b"0", 0)?;
        }
        Ok((errno, failed))
    }
}

/// What can be made to fail, does: also what may wait, and pages of any order.
fn arm() -> anyhow::Result<()> {
    mounted("debugfs", "/sys/kernel/debug", "gup_test")?;
    for (kind, settings) in [
        (
            "failslab",
            &[
                "ignore-gfp-wait N",
                "cache-filter N",
                "verbose 0",
                // What a thread does not count fails always, if it asks for that.
                "task-filter Y",
                "probability 100",
                "space 0",
            ][..],
        ),
        (
            "fail_page_alloc",
            &[
                "ignore-gfp-wait N",
                "ignore-gfp-highmem N",
                "min-order 0",
                "verbose 0",
            ],
        ),
        ("fail_usercopy", &["verbose 0"]),
    ] {
        for setting in settings {
            let (name, value) = setting.split_once(' ').context("name and value")?;
            let path = Path::new("/sys/kernel/debug").join(kind).join(name);
            fs::write(&path, value).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// What the operations work on.
struct Bench {
    path: PathBuf,
    file: OwnedFd,
    address: usize,
    gup: OwnedFd,
    ring: IoUring,
    uverbs: OwnedFd,
    pd: u32,
    region: Option<u32>,
}

fn last() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

fn errno(result: Result<(), rustix::io::Errno>) -> i32 {
    result.err().map_or(0, rustix::io::Errno::raw_os_error)
}

fn of_io<T>(result: std::io::Result<T>) -> i32 {
    result
        .err()
        .map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn writable(path: &Path) -> anyhow::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(path);
    Ok(file.with_context(|| path.display().to_string())?.into())
}

impl Bench {
    fn new(mounted: &Mounted, device: &SoftDevice) -> anyhow::Result<Bench> {
        let path = mounted.file("faults", SIZE as u64)?;
        let file = writable(&path)?;
        // SAFETY: a new mapping at a place the kernel chooses; it stays until the process ends.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                SIZE,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &file,
                0,
            )
        }? as usize;
        let uverbs = uverbs::context(&device.path()?, device.driver, 0)?;
        let pd = uverbs::pd(uverbs.as_fd(), device.driver)?;
        Ok(Bench {
            path,
            file,
            address,
            gup: writable(Path::new(GUP_TEST))?,
            ring: IoUring::new(8)?,
            uverbs,
            pd,
            region: None,
        })
    }

    fn lease(&self, argument: i32) -> i32 {
        // SAFETY: F_SETLEASE takes an int.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, argument) } {
            0 => 0,
            _ => last(),
        }
    }

    fn pin(&self) -> i32 {
        errno(gup::pin(self.gup.as_fd(), self.address, PINNED, true))
    }

    fn unpin(&self) -> i32 {
        errno(gup::unpin(self.gup.as_fd()))
    }

    fn register(&self) -> i32 {
        let buffer = libc::iovec {
            iov_base: self.address as *mut libc::c_void,
            iov_len: PINNED,
        };
        // SAFETY: memory of the mapping, to which nothing of this program refers.
        of_io(unsafe { self.ring.submitter().register_buffers(&[buffer]) })
    }

    fn unregister(&self) -> i32 {
        of_io(self.ring.submitter().unregister_buffers())
    }

    fn region(&mut self, driver: Driver) -> i32 {
        let region = Region {
            start: self.address as u64,
            length: PINNED as u64,
            pd: self.pd,
            access: LOCAL_WRITE,
        };
        match uverbs::reg(self.uverbs.as_fd(), driver, region, false) {
            Ok(handle) => {
                self.region = Some(handle);
                0
            }
            Err(error) => error.raw_os_error(),
        }
    }

    fn drop_region(&mut self, driver: Driver) -> i32 {
        let Some(handle) = self.region else { return 0 };
        let errno = errno(uverbs::dereg(self.uverbs.as_fd(), driver, handle));
        if errno == 0 {
            self.region = None;
        }
        errno
    }

    /// Gives a range blocks again that a try before has punched out.
    fn fill(&self, at: u64) -> i32 {
        let data = [1; PINNED];
        errno(rustix::io::pwrite(&self.file, &data, at).map(drop))
    }

    fn punch(&self, at: u64) -> i32 {
        use rustix::fs::{fallocate, FallocateFlags};
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        errno(fallocate(&self.file, mode, at, PINNED as u64))
    }

    fn truncate_elsewhere(&self) -> i32 {
        let nonblocking = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.path);
        match nonblocking {
            Ok(file) => of_io(file.set_len(0)),
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// How many pins and leases of the file are listed.
    fn listed(&self) -> anyhow::Result<(usize, usize)> {
        let listing = Listing::read()?;
        let pins = listing.pins_of(&self.path).len();
        Ok((pins, listing.leases_of(&self.path).len()))
    }
}

fn read_all(path: &str) -> i32 {
    let mut text = Vec::new();
    of_io(File::open(path).and_then(|mut file| file.read_to_end(&mut text)))
}

/// Something to try: what has to be before, the call, and what undoes it.
struct Case {
    name: &'static str,
    before: fn(&mut Bench) -> i32,
    call: fn(&mut Bench) -> i32,
    /// What it gives when nothing fails.
    wanted: i32,
    undo: fn(&mut Bench) -> i32,
}

fn nothing(_: &mut Bench) -> i32 {
    0
}

fn leased(bench: &mut Bench) -> i32 {
    bench.lease(EXCLUSIVE)
}

fn released(bench: &mut Bench) -> i32 {
    bench.lease(libc::F_UNLCK)
}

const CASES: [Case; 15] = [
    Case {
        name: "F_SETLEASE",
        before: nothing,
        call: |bench| bench.lease(EXCLUSIVE),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "F_SETLEASE in place",
        before: |bench| bench.lease(BREAKABLE),
        call: |bench| bench.lease(EXCLUSIVE),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "F_UNLCK",
        before: leased,
        call: released,
        wanted: 0,
        undo: nothing,
    },
    Case {
        name: "gup_test: pin",
        before: leased,
        call: |bench| bench.pin(),
        wanted: 0,
        undo: |bench| bench.unpin() | released(bench),
    },
    Case {
        name: "gup_test: unpin",
        before: |bench| leased(bench) | bench.pin(),
        call: |bench| bench.unpin(),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "io_uring: register",
        before: leased,
        call: |bench| bench.register(),
        wanted: 0,
        undo: |bench| bench.unregister() | released(bench),
    },
    Case {
        name: "io_uring: unregister",
        before: |bench| leased(bench) | bench.register(),
        call: |bench| bench.unregister(),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "rxe: register",
        before: leased,
        call: |bench| bench.region(Driver::Rxe),
        wanted: 0,
        undo: |bench| bench.drop_region(Driver::Rxe) | released(bench),
    },
    Case {
        name: "rxe: deregister",
        before: |bench| leased(bench) | bench.region(Driver::Rxe),
        call: |bench| bench.drop_region(Driver::Rxe),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "refused change",
        before: |bench| leased(bench) | bench.pin(),
        call: |bench| bench.punch(0),
        wanted: libc::ETXTBSY,
        undo: |bench| bench.unpin() | released(bench),
    },
    Case {
        name: "change beside a pin",
        before: |bench| leased(bench) | bench.pin() | bench.fill(BESIDE),
        call: |bench| bench.punch(BESIDE),
        wanted: 0,
        undo: |bench| bench.unpin() | released(bench),
    },
    Case {
        name: "change with one's own breakable lease",
        before: |bench| bench.lease(BREAKABLE) | bench.fill(BESIDE),
        call: |bench| bench.punch(BESIDE),
        wanted: 0,
        undo: released,
    },
    Case {
        name: "read /proc/file_pins",
        before: |bench| leased(bench) | bench.pin() | bench.register(),
        call: |_| read_all(FILE_PINS),
        wanted: 0,
        undo: |bench| bench.unpin() | bench.unregister() | released(bench),
    },
    Case {
        name: "read /proc/self/file_pins",
        before: |bench| leased(bench) | bench.pin() | bench.register(),
        call: |_| read_all("/proc/self/file_pins"),
        wanted: 0,
        undo: |bench| bench.unpin() | bench.unregister() | released(bench),
    },
    Case {
        name: "read fdinfo",
        before: |bench| leased(bench) | bench.pin(),
        call: |bench| read_all(&format!("/proc/self/fdinfo/{}", bench.gup.as_raw_fd())),
        wanted: 0,
        undo: |bench| bench.unpin() | released(bench),
    },
];

fn ready(bench: &mut Bench, case: &Case) -> anyhow::Result<(usize, usize)> {
    let errno = (case.before)(bench);
    ensure!(errno == 0, "before it: {}", errno_name(errno));
    bench.listed()
}

/// Undoes what the call did: nothing is listed any more, and nothing refused.
fn undo(bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
    let errno = (case.undo)(bench);
    ensure!(errno == 0, "undone: {}", errno_name(errno));
    let left = bench.listed()?;
    ensure!(left == (0, 0), "{left:?} pins and leases are left");
    let errno = bench.punch(0);
    ensure!(errno == 0, "afterwards a change: {}", errno_name(errno));
    Ok(())
}

/// Fails each allocation in turn; how many there were, and how many of the failures the call told of.
fn every(fail: &FailNth, rest: Rest, bench: &mut Bench, case: &Case) -> anyhow::Result<(u32, u32)> {
    let mut told = 0;
    ready(bench, case)?;
    let errno = (case.call)(bench);
    ensure!(
        errno == case.wanted,
        "nothing failed: {}",
        errno_name(errno)
    );
    let after = bench.listed()?;
    undo(bench, case).context("nothing failed")?;
    for nth in 1..ENOUGH {
        let before = ready(bench, case)?;
        let (errno, failed) = fail.during(nth, rest, &mut || (case.call)(bench))?;
        let what = format!("failure {nth}: {}", errno_name(errno));
        if !failed {
            ensure!(
                errno == case.wanted,
                "nothing failed: {}",
                errno_name(errno)
            );
        }
        // A refusal is as good an answer as any where something failed.
        let done = errno == case.wanted;
        if !done {
            told += 1;
            ensure!(
                bench.listed()? == before,
                "{what}: something was left behind"
            );
            let again = (case.call)(bench);
            ensure!(again == case.wanted, "{what}: next, {}", errno_name(again));
        }
        let listed = bench.listed()?;
        ensure!(
            listed == after,
            "{what}: {listed:?} pins and leases, not {after:?}"
        );
        undo(bench, case).context(what)?;
        if !failed {
            return Ok((nth - 1, told));
        }
    }
    bail!("more than {ENOUGH} failures")
}

/// A change that has to break another process's lease: whatever fails, the holder's lease stays, or it is
/// broken.
fn breaking(fail: &FailNth, rest: Rest, bench: &mut Bench) -> anyhow::Result<u32> {
    let mut holder = Client::worker()?;
    holder.open("file", &bench.path)?;
    for nth in 1..ENOUGH {
        let reply = holder.set_lease("file", BREAKABLE)?;
        ensure!(reply.errno == 0, "the lease: {}", errno_name(reply.errno));
        let (errno, failed) = fail.during(nth, rest, &mut || bench.truncate_elsewhere())?;
        let allowed = errno == libc::EWOULDBLOCK || (failed && errno != 0);
        ensure!(allowed, "failure {nth}: {}", errno_name(errno));
        let again = bench.truncate_elsewhere();
        ensure!(again == libc::EWOULDBLOCK, "next: {}", errno_name(again));
        let reply = holder.set_lease("file", libc::F_UNLCK)?;
        ensure!(reply.errno == 0, "release: {}", errno_name(reply.errno));
        let size = fs::metadata(&bench.path)?.len();
        ensure!(size == SIZE as u64, "failure {nth}: truncated to {size}");
        if !failed {
            holder.end()?;
            return Ok(nth - 1);
        }
    }
    bail!("more than {ENOUGH} failures")
}

/// Objects that nobody refers to any more, as kmemleak has them.
fn leaks() -> anyhow::Result<()> {
    let path = Path::new("/sys/kernel/debug/kmemleak");
    if !path.exists() {
        println!("  the kernel does not look for lost memory");
        return Ok(());
    }
    // What was freed a moment ago may still be in a register: two scans agree on what is lost.
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_secs(6));
        fs::write(path, "scan")?;
    }
    let text = fs::read_to_string(path)?;
    ensure!(text.is_empty(), "lost memory:\n{text}");
    Ok(())
}

/// Runs every case on each filesystem; whether nothing was wrong.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    arm()?;
    let fail = FailNth::open()?;
    if Path::new("/sys/kernel/debug/kmemleak").exists() {
        fs::write("/sys/kernel/debug/kmemleak", "clear")?;
    }
    let device = SoftDevice::shared(Driver::Rxe)?;
    let chosen = if options.fs.is_empty() {
        &Fs::ALL[..]
    } else {
        &options.fs
    };
    let mut good = true;
    for &fs in chosen {
        let mut mounted = Mounted::roomy(fs)?;
        let mut bench = Bench::new(&mounted, &device)?;
        let mut say = |name: &str, result: anyhow::Result<String>| match result {
            Ok(text) => println!("  {name}: {text}"),
            Err(error) => {
                println!("  {name}: FAILED: {error:#}");
                good = false;
            }
        };
        for rest in Rest::ALL {
            println!("{}, {}", fs.name(), rest.name());
            for case in &CASES {
                let result = every(&fail, rest, &mut bench, case);
                let text = result.map(|(all, told)| format!("{all} failures, {told} told of"));
                let failed = text.is_err();
                say(case.name, text);
                if failed {
                    // Whatever is left must not spoil the rest.
                    bench = Bench::new(&mounted, &device)?;
                }
            }
            let broken = breaking(&fail, rest, &mut bench);
            say(
                "breaking a lease",
                broken.map(|all| format!("{all} failures")),
            );
        }
        let address = bench.address as *mut libc::c_void;
        // SAFETY: the mapping of the bench, to which nothing refers any more.
        unsafe { libc::munmap(address, SIZE) };
        drop(bench);
        say("umount", mounted.unmount().map(|()| "clean".to_owned()));
    }
    if let Err(error) = leaks() {
        println!("FAILED: {error:#}");
        good = false;
    }
    Ok(good)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn cases_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
    }
}
