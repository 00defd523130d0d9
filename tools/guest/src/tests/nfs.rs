// SPDX-License-Identifier: MIT OR Apache-2.0
//! pNFS block layouts, which the NFS server gives to its clients, beside layout leases and pins.

use super::env::{
    getlease_is, lease_is, must_be, Env, Loan, EXCLUSIVE, PINNED, SHARED, SIZE, SOLE, UNLCK,
};
use super::{signalled, tests, Test};
use crate::client::{Client, READ, WRITE};
use crate::nfs::{Layout, Mode, OpenFile, Server, Session, Status, PORT};
use crate::ops::{Op, SUBTRACTIVE};
use crate::protocol::{pattern, Call, Request};
use crate::setup::Fs;
use crate::snapshot::Snapshot;
use anyhow::{bail, ensure, Context};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a recall may take to arrive, on an emulated CPU.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// How long one watches a call that should be waiting.
const A_WHILE: Duration = Duration::from_millis(300);
/// How much of the files of `with_hole` is data.
const DATA: u64 = 64 << 10;

/// ext4 gives out no block layouts.
pub fn tests(fs: Fs) -> Vec<Test> {
    if fs != Fs::Xfs {
        return Vec::new();
    }
    let mut list = tests![
        granted_without_a_lease,
        granted_with_a_breakable_lease,
        declined_while_pinned,
        exclusive_in_place_recalls,
        lease_asked_for_during_layoutget,
        commit_to_a_pinned_range,
        commit_to_a_range_pinned_for_reading,
        kernel_client_falls_back,
    ];
    for (name, lease) in [
        ("shared_exclusive", SHARED | EXCLUSIVE),
        ("sole_exclusive", SOLE | EXCLUSIVE),
        ("sole", SOLE),
    ] {
        list.push(Test::new(format!("declined.{name}"), move |env| {
            declined(env, lease)
        }));
        if lease & EXCLUSIVE != 0 {
            list.push(Test::new(format!("recalled.{name}"), move |env| {
                exclusive_recalls(env, lease)
            }));
        }
    }
    for op in SUBTRACTIVE {
        if !matches!(op, Op::Truncate | Op::OpenTruncate) {
            list.push(Test::new(format!("nonblock.{}", op.slug()), move |env| {
                nonblocking_waits_for_clients(env, op)
            }));
        }
    }
    list
}

/// A file, exported, and open at a client.
struct Remote {
    session: Session,
    file: OpenFile,
    server: Server,
}

impl Remote {
    fn new(path: &Path) -> anyhow::Result<Remote> {
        let server = Server::start(path.parent().context("a parent")?)?;
        let mut session = Session::begin(PORT)?;
        let file = session.open(name_of(path)?)?;
        Ok(Remote {
            session,
            file,
            server,
        })
    }

    /// LAYOUTGET for reading and writing the first MiB.
    fn layout_get(&mut self) -> anyhow::Result<Result<Layout, Status>> {
        self.session.layout_get(&self.file, Mode::ReadWrite, SIZE)
    }

    /// The same, which must succeed.
    fn layout(&mut self, when: &str) -> anyhow::Result<Layout> {
        match self.layout_get()? {
            Ok(layout) => {
                ensure!(layout.bytes >= SIZE, "only {} bytes", layout.bytes);
                Ok(layout)
            }
            Err(status) => bail!("{when}: LAYOUTGET says {status}"),
        }
    }

    /// Neither a layout nor any trace of having asked.
    fn is_declined(&mut self, path: &Path, when: &str) -> anyhow::Result<()> {
        let before = Snapshot::take(path)?;
        for mode in [Mode::Read, Mode::ReadWrite] {
            let Err(status) = self.session.layout_get(&self.file, mode, SIZE)? else {
                bail!("{when}: a client got a layout ({mode:?})");
            };
            ensure!(
                status == Status::LAYOUT_UNAVAILABLE,
                "{when}: LAYOUTGET ({mode:?}) says {status}"
            );
            let layouts = self.server.layouts()?;
            ensure!(layouts == 0, "{when}: {layouts} layout stateids are left");
            let leases = locks_of(path, "LEASE")?;
            ensure!(leases.is_empty(), "{when}: {leases:?} is left");
        }
        if let Some(what) = before.difference(&Snapshot::take(path)?) {
            bail!("{when}: LAYOUTGET was declined, yet changed {what}");
        }
        Ok(())
    }

    fn is_recalled(&self, when: &str) -> anyhow::Result<()> {
        ensure!(
            self.session.backchannel.recalled(&self.file.handle, SOON),
            "{when}: the layout was not recalled"
        );
        Ok(())
    }

    fn give_back(&mut self, layout: &Layout) -> anyhow::Result<()> {
        let status = self.session.layout_return(&self.file, layout)?;
        ensure!(status == Status::OK, "LAYOUTRETURN says {status}");
        Ok(())
    }
}

pub(super) fn name_of(path: &Path) -> anyhow::Result<&str> {
    let name = path.file_name().context("a name")?;
    name.to_str().context("a name in UTF-8")
}

/// Lines of /proc/locks about a file, of this kind.
fn locks_of(path: &Path, kind: &str) -> anyhow::Result<Vec<String>> {
    let stat = std::fs::metadata(path)?;
    let (major, minor) = (libc::major(stat.dev()), libc::minor(stat.dev()));
    let inode = format!("{major:02x}:{minor:02x}:{}", stat.ino());
    let locks = std::fs::read_to_string("/proc/locks")?;
    let of = |line: &&str| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some(kind) && words.any(|word| word == inode)
    };
    Ok(locks.lines().filter(of).map(str::to_owned).collect())
}

/// A file of a MiB, most of which has no blocks yet.
fn with_hole(env: &Env) -> anyhow::Result<PathBuf> {
    let path = env.file_of(DATA)?;
    let file = File::options().write(true).open(&path)?;
    file.set_len(SIZE)?;
    file.sync_all()?;
    Ok(path)
}

pub(super) fn holder(path: &Path, lease: i32) -> anyhow::Result<Client> {
    let mut holder = Client::worker()?;
    holder.open("file", path)?;
    lease_is(&mut holder, "file", lease, 0, "a lease")?;
    Ok(holder)
}

/// A lease that is granted as soon as the server has noticed that the layout is back, for which it
/// looks every 10 ms.
fn lease_again(process: &mut Client, lease: i32) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let reply = process.set_lease("file", lease)?;
        if reply.errno != libc::EAGAIN || Instant::now() > deadline {
            return must_be(&reply, 0, "asked again when the client gave it back");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn granted_without_a_lease(env: &Env) -> anyhow::Result<()> {
    let path = with_hole(env)?;
    let mut remote = Remote::new(&path)?;
    let layout = remote.layout("no lease")?;
    ensure!(remote.server.layouts()? == 1, "no layout stateid");
    ensure!(
        locks_of(&path, "LEASE")?.len() == 1 && locks_of(&path, "LAYOUT")?.is_empty(),
        "/proc/locks does not show the client's layout as one LEASE"
    );
    remote.give_back(&layout)?;
    ensure!(remote.server.layouts()? == 0, "it is not given back");
    ensure!(locks_of(&path, "LEASE")?.is_empty(), "the lease is left");
    Ok(())
}

/// Both are asked to let go, the process first.
fn granted_with_a_breakable_lease(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut holder = holder(&files.0, SHARED)?;
    let mut remote = Remote::new(&files.0)?;
    let layout = remote.layout("a breakable lease")?;
    getlease_is(&mut holder, "file", SHARED, "beside a client's layout")?;
    let mut other = env.worker()?;
    let punch = Op::Punch.call(&files.0, &files.1, SIZE, PINNED);
    other.send(&Request::Do(punch))?;
    ensure!(
        signalled(&mut holder, libc::SIGIO, 10_000)?,
        "no SIGIO for the holder"
    );
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    remote.is_recalled("a hole is punched")?;
    ensure!(
        other.receive_within(A_WHILE)?.is_none(),
        "did not wait for the client"
    );
    remote.give_back(&layout)?;
    must_be(&other.receive()?, 0, "after both have let go")
}

fn declined(env: &Env, lease: i32) -> anyhow::Result<()> {
    let path = with_hole(env)?;
    let mut remote = Remote::new(&path)?;
    let mut holder = holder(&path, lease)?;
    remote.is_declined(&path, "with the lease")?;
    getlease_is(&mut holder, "file", lease, "after LAYOUTGET")?;
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    remote.layout("after the lease").map(drop)
}

fn declined_while_pinned(env: &Env) -> anyhow::Result<()> {
    let path = with_hole(env)?;
    let mut remote = Remote::new(&path)?;
    let mut verbs = env.verbs()?;
    verbs.lease_and_map(&path, SHARED | EXCLUSIVE)?;
    // Only a page far from what a client might begin with.
    let reply = verbs.reg("pin", "map", SIZE - 4096, 4096)?;
    must_be(&reply, 0, "registering the last page")?;
    lease_is(&mut verbs, "file", UNLCK, 0, "release")?;
    remote.is_declined(&path, "with a pin and no lease")?;
    unpin(&mut verbs)?;
    remote.layout("after the pin").map(drop)
}

pub(super) fn unpin(verbs: &mut Loan<'_>) -> anyhow::Result<()> {
    let mr = "pin".to_owned();
    verbs.must(Request::Dereg { mr }).map(drop)
}

/// A process that wants the layout for itself gets it as soon as clients have given theirs back.
fn exclusive_recalls(env: &Env, lease: i32) -> anyhow::Result<()> {
    let path = env.file()?;
    let mut remote = Remote::new(&path)?;
    let layout = remote.layout("no lease")?;
    let mut process = env.worker()?;
    process.open("file", &path)?;
    let what = "a client has a layout";
    lease_is(&mut process, "file", lease, libc::EAGAIN, what)?;
    remote.is_recalled("an exclusive lease is asked for")?;
    let what = "a client has not given it back";
    lease_is(&mut process, "file", lease, libc::EAGAIN, what)?;
    remote.give_back(&layout)?;
    lease_again(&mut process, lease)?;
    remote.is_declined(&path, "with the lease")
}

fn exclusive_in_place_recalls(env: &Env) -> anyhow::Result<()> {
    let path = env.file()?;
    let mut remote = Remote::new(&path)?;
    let mut process = holder(&path, SHARED)?;
    let layout = remote.layout("a breakable lease")?;
    let lease = SHARED | EXCLUSIVE;
    let what = "made exclusive in place";
    lease_is(&mut process, "file", lease, libc::EAGAIN, what)?;
    getlease_is(&mut process, "file", SHARED, "after the refusal")?;
    remote.is_recalled(what)?;
    remote.give_back(&layout)?;
    lease_again(&mut process, lease)?;
    getlease_is(&mut process, "file", lease, what)?;
    remote.is_declined(&path, what)
}

/// O_NONBLOCK is about the leases of processes. Clients are waited for, as ever.
fn nonblocking_waits_for_clients(env: &Env, op: Op) -> anyhow::Result<()> {
    let files = env.pair()?;
    let mut remote = Remote::new(&files.0)?;
    let layout = remote.layout("no lease")?;
    let before = Snapshot::take(&files.0)?;
    let call = op.call(&files.0, &files.1, SIZE, PINNED).nonblocking();
    let mut other = env.worker()?;
    other.send(&Request::Do(call.context("takes a descriptor")?))?;
    remote.is_recalled(op.title())?;
    if let Some(early) = other.receive_within(A_WHILE)? {
        bail!("errno {} before the layout was returned", early.errno);
    }
    if let Some(what) = before.difference(&Snapshot::take(&files.0)?) {
        bail!("changed before the layout was returned: {what}");
    }
    remote.give_back(&layout)?;
    must_be(&other.receive()?, 0, "after the layout was returned")
}

/// A frozen filesystem: whoever wants to allocate blocks waits.
struct Frozen(File);

impl Frozen {
    const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
    const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

    fn new(root: &Path) -> anyhow::Result<Frozen> {
        let root = File::open(root)?;
        // SAFETY: takes no argument.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), Frozen::FIFREEZE, 0) };
        ensure!(result == 0, "FIFREEZE: {}", std::io::Error::last_os_error());
        Ok(Frozen(root))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: takes no argument.
        unsafe { libc::ioctl(self.0.as_raw_fd(), Frozen::FITHAW, 0) };
    }
}

/// A layout is not given out once somebody has asked to have it back, which is before it exists.
fn lease_asked_for_during_layoutget(env: &Env) -> anyhow::Result<()> {
    let path = with_hole(env)?;
    let mut remote = Remote::new(&path)?;
    let mut process = env.worker()?;
    process.open("file", &path)?;
    let lease = SHARED | EXCLUSIVE;
    let frozen = Frozen::new(path.parent().context("a parent")?)?;
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| remote.layout_get());
        let mut meanwhile = || {
            let deadline = Instant::now() + SOON;
            while locks_of(&path, "LEASE")?.is_empty() {
                ensure!(Instant::now() < deadline, "the server set no lease");
                std::thread::sleep(Duration::from_millis(10));
            }
            let what = "a client is about to get a layout";
            lease_is(&mut process, "file", lease, libc::EAGAIN, what)
        };
        let result = meanwhile();
        drop(frozen);
        let answer = asked.join();
        result.and(answer.unwrap_or_else(|_| bail!("the client panicked")))
    })?;
    match answer {
        Err(Status::RECALL_CONFLICT) => {}
        Err(status) => bail!("LAYOUTGET says {status}"),
        Ok(_) => bail!("the client got a layout that nobody will recall"),
    }
    lease_is(&mut process, "file", lease, 0, "asked again")?;
    remote.is_declined(&path, "with the lease")
}

/// A client may commit what it wrote before the server restarted, and the kernel takes no offence.
fn commit_to_a_pinned_range(env: &Env) -> anyhow::Result<()> {
    commit_to_pinned(env, WRITE)
}

/// The same where nothing is dirty, which by itself keeps an entry.
fn commit_to_a_range_pinned_for_reading(env: &Env) -> anyhow::Result<()> {
    commit_to_pinned(env, READ)
}

fn commit_to_pinned(env: &Env, access: u32) -> anyhow::Result<()> {
    const WARNED: u64 = 1 << 9;
    let path = env.file()?;
    let mut verbs = env.verbs()?;
    verbs.lease_and_map(&path, SHARED | EXCLUSIVE)?;
    let reply = verbs.reg_for("pin", "map", PINNED.offset, PINNED.length, access)?;
    must_be(&reply, 0, "registering")?;
    let server = Server::start_in_grace(path.parent().context("a parent")?)?;
    let mut session = Session::introduce(PORT)?;
    let handle = session.lookup(name_of(&path)?)?;
    let status = session.layout_reclaim(&handle, PINNED.offset, PINNED.length)?;
    ensure!(status == Status::OK, "LAYOUTCOMMIT says {status}");
    let tainted: u64 = std::fs::read_to_string("/proc/sys/kernel/tainted")?
        .trim()
        .parse()?;
    ensure!(tainted & WARNED == 0, "the kernel has warned: see its log");
    drop((session, server));
    unpin(&mut verbs)
}

/// The kernel's own client, mounted.
struct NfsMount(PathBuf);

impl NfsMount {
    fn new() -> anyhow::Result<NfsMount> {
        let at = PathBuf::from("/tmp/nfs-client");
        std::fs::create_dir_all(&at)?;
        let options = format!("vers=4.1,sec=sys,addr=127.0.0.1,clientaddr=127.0.0.1,port={PORT}");
        let options = std::ffi::CString::new(options)?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("127.0.0.1:/", &at, "nfs4", flags, options.as_c_str())
            .context("cannot mount by NFS: is CONFIG_NFS_V4_1 on?")?;
        Ok(NfsMount(at))
    }

    /// How many times the client asked for a layout, and how many times in vain.
    fn layoutgets(&self) -> anyhow::Result<(u64, u64)> {
        let stats = std::fs::read_to_string("/proc/self/mountstats")?;
        let mounted = format!(" mounted on {} with fstype nfs4", self.0.display());
        let device = stats
            .split("\ndevice ")
            .find(|device| device.contains(&mounted))
            .context("not in mountstats")?;
        let line = device
            .lines()
            .find_map(|line| line.trim().strip_prefix("LAYOUTGET:"))
            .context("no LAYOUTGET in mountstats")?;
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok((
            *numbers.first().context("operations")?,
            *numbers.get(8).context("errors")?,
        ))
    }
}

impl Drop for NfsMount {
    fn drop(&mut self) {
        use rustix::mount::{unmount, UnmountFlags};
        let force = UnmountFlags::FORCE | UnmountFlags::DETACH;
        if unmount(&self.0, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.0, force);
        }
    }
}

/// An application on another machine does not notice: its client takes no for an answer, and writes
/// through the server.
fn kernel_client_falls_back(env: &Env) -> anyhow::Result<()> {
    let files = env.pair()?;
    let _server = Server::start(files.0.parent().context("a parent")?)?;
    let mount = NfsMount::new()?;
    let mut writer = env.worker()?;
    let mut write = |local: &Path| -> anyhow::Result<()> {
        let path = mount.0.join(name_of(local)?);
        let (offset, length) = (PINNED.offset, PINNED.length);
        let reply = writer.call(&Call::Pwrite {
            path,
            offset,
            length,
        })?;
        must_be(&reply, 0, "write over NFS")?;
        let mut written = vec![0; usize::try_from(length)?];
        File::open(local)?.read_exact_at(&mut written, offset)?;
        ensure!(
            written == pattern(1, written.len()),
            "the data did not arrive"
        );
        Ok(())
    };

    let holder = holder(&files.0, SHARED | EXCLUSIVE)?;
    write(&files.0)?;
    let (asked, in_vain) = mount.layoutgets()?;
    ensure!(
        (1..=2).contains(&asked) && in_vain == asked,
        "{asked} LAYOUTGET, {in_vain} of them failed"
    );
    drop(holder);

    // So that the above is the lease's doing.
    write(&files.1)?;
    let (asked, in_vain) = mount.layoutgets()?;
    ensure!(
        asked > in_vain,
        "{asked} LAYOUTGET, {in_vain} of them failed, without a lease"
    );
    Ok(())
}
