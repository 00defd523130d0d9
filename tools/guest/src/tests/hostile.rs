// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users that mean no good, or do not know what they do: arguments of all kinds on files of all kinds, and
//! processes without privileges that want to see, take or keep what is not theirs.

use super::env::{lease_is, must_be, Env, EXCLUSIVE, SHARED, SIZE, SOLE, UNLCK};
use super::ring::{create, register};
use super::{tests, Test};
use crate::client::Client;
use crate::names::errno_name;
use crate::protocol::{Call, Request};
use crate::rings::Buffer;
use crate::setup::Fs;
use crate::system::Listing;
use anyhow::{bail, ensure, Context};
use rustix::fs::{inotify, FallocateFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const NOBODY: u32 = 65534;
/// Starts a program as a user without privileges.
const BY_NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];
const PAGE: u64 = 4096;
/// A process that was ended lets go within this.
const SOON: Duration = Duration::from_secs(10);

pub fn tests(_: Fs) -> Vec<Test> {
    let mut list: Vec<Test> = KINDS
        .into_iter()
        .map(|kind| {
            Test::new(format!("arguments.{}", kind.slug), move |env| {
                every(env, &kind)
            })
        })
        .collect();
    list.extend(super::crowd::tests());
    list.extend(tests![
        pins_of_others_are_private,
        limit_holds_for_all_rings_of_a_user,
        root_of_a_user_namespace_owns_nothing_more,
        hidden_holder_is_found_and_ended,
        idmapped_mount,
        refused_change_notifies_nobody,
    ]);
    list
}

/// A kind of open file, and what F_SETLEASE says to arguments that mean something.
#[derive(Clone, Copy)]
struct Kind {
    slug: &'static str,
    open: fn(&Env) -> anyhow::Result<OwnedFd>,
    /// A layout lease; an exclusive one.
    layout: (i32, i32),
    /// F_RDLCK, F_WRLCK and F_UNLCK alone: as of old, whatever that is where nothing is given.
    plain: Option<[i32; 3]>,
}

const fn kind(
    slug: &'static str,
    open: fn(&Env) -> anyhow::Result<OwnedFd>,
    layout: (i32, i32),
    plain: Option<[i32; 3]>,
) -> Kind {
    Kind {
        slug,
        open,
        layout,
        plain,
    }
}

const INVALID: i32 = libc::EINVAL;
const NOT_DAX: i32 = libc::EOPNOTSUPP;

/// The opener of a regular file to read and write may have a plain lease to write, not one to read. A
/// lease that is not there cannot be released: EAGAIN, as of old.
const KINDS: [Kind; 8] = [
    kind(
        "dax_file",
        |env| writable(&env.file()?),
        (0, 0),
        Some([libc::EAGAIN, 0, libc::EAGAIN]),
    ),
    kind(
        "dax_file_read_only",
        |env| Ok(File::open(env.file()?)?.into()),
        (0, libc::EBADF),
        Some([0, 0, libc::EAGAIN]),
    ),
    kind(
        "file_of_tmpfs",
        |_| of_tmpfs(),
        (NOT_DAX, NOT_DAX),
        Some([libc::EAGAIN, 0, libc::EAGAIN]),
    ),
    kind(
        "directory",
        |env| Ok(File::open(&env.mounted().root)?.into()),
        (INVALID, INVALID),
        Some([INVALID; 3]),
    ),
    kind("fifo", fifo, (INVALID, INVALID), Some([INVALID; 3])),
    kind(
        "socket",
        |_| socket(),
        (INVALID, INVALID),
        Some([INVALID; 3]),
    ),
    kind(
        "device",
        |_| writable(Path::new("/dev/null")),
        (INVALID, INVALID),
        Some([INVALID; 3]),
    ),
    kind(
        "proc_file",
        |_| Ok(File::open("/proc/self/file_pins")?.into()),
        (NOT_DAX, libc::EBADF),
        None,
    ),
];

/// Opens a file to read and write.
pub fn writable(path: &Path) -> anyhow::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(path)?.into())
}

fn of_tmpfs() -> anyhow::Result<OwnedFd> {
    let path = Path::new("/dev/shm/hostile");
    std::fs::write(path, [0; 4096])?;
    let file = writable(path);
    std::fs::remove_file(path)?;
    file
}

fn fifo(env: &Env) -> anyhow::Result<OwnedFd> {
    let path = env.path();
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in NUL and outlives the call.
    ensure!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) } == 0, "mkfifo");
    writable(&path)
}

fn socket() -> anyhow::Result<OwnedFd> {
    Ok(std::os::unix::net::UnixDatagram::unbound()?.into())
}

/// `F_SETLEASE`; the errno.
pub fn set_lease(fd: &OwnedFd, argument: i32) -> i32 {
    // SAFETY: F_SETLEASE takes an int.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, argument) } {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
    }
}

/// Every argument of 16 bits, and every single bit above that.
fn every(env: &Env, kind: &Kind) -> anyhow::Result<()> {
    let fd = (kind.open)(env)?;
    let above = (16..32).flat_map(|bit| [1_i32 << bit, 1 << bit | SHARED, 1 << bit | UNLCK]);
    for argument in (0..=0xffff).chain(above) {
        let wanted = match argument {
            SHARED | SOLE => kind.layout.0,
            _ if argument == SHARED | EXCLUSIVE || argument == SOLE | EXCLUSIVE => kind.layout.1,
            libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK => match kind.plain {
                // The types are 0 to 2.
                Some(plain) => plain[argument as usize],
                None => continue,
            },
            _ => libc::EINVAL,
        };
        let got = set_lease(&fd, argument);
        ensure!(
            got == wanted,
            "F_SETLEASE {argument:#x}: {}, but the contract says {}",
            errno_name(got),
            errno_name(wanted)
        );
        if got == 0 {
            let released = set_lease(&fd, UNLCK);
            ensure!(
                released == 0,
                "release of {argument:#x}: {}",
                errno_name(released)
            );
        }
    }
    Ok(())
}

/// A worker that somebody without privileges runs.
fn nobodys(env: &Env) -> anyhow::Result<(Client, PathBuf)> {
    let file = env.file()?;
    chown(&file, Some(NOBODY), None)?;
    let mut who = Client::worker()?;
    who.must(Request::SetUid { uid: NOBODY })?;
    who.open("file", &file)?;
    lease_is(&mut who, "file", SHARED | EXCLUSIVE, 0, "one's own file")?;
    who.map_shared("map", "file", SIZE)?;
    Ok((who, file))
}

/// What a process has pinned is nobody else's business, also when it is one's own file.
fn pins_of_others_are_private(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    chown(&file, Some(NOBODY), None)?;
    let mut holder = env.verbs()?;
    holder.pin(&file)?;
    // The user changes before exec: what changes it later has /proc/self belong to root.
    let mut stranger = Client::worker_by(BY_NOBODY)?;
    let pid = holder.pid();
    let own = stranger.pid();
    let cases = [
        (format!("{pid}/file_pins"), libc::EACCES),
        (format!("{pid}/task/{pid}/file_pins"), libc::EACCES),
        (format!("{pid}/fdinfo/0"), libc::EACCES),
        ("file_pins".to_owned(), libc::EACCES),
        (format!("{own}/file_pins"), 0),
        (format!("{own}/task/{own}/file_pins"), 0),
    ];
    for (name, wanted) in cases {
        let path = Path::new("/proc").join(&name);
        let reply = stranger.ask(Request::Open {
            name: "listing".to_owned(),
            path,
            flags: libc::O_RDONLY,
        })?;
        must_be(&reply, wanted, &format!("open of /proc/{name}"))?;
        if wanted == 0 {
            stranger.close("listing")?;
        }
    }
    stranger.end()
}

/// RLIMIT_MEMLOCK is the user's: neither more rings nor more processes make it larger.
fn limit_holds_for_all_rings_of_a_user(env: &Env) -> anyhow::Result<()> {
    const PIECE: u64 = 64 << 10;
    const PIECES: u64 = 4;
    let mut granted = 0;
    let mut holders = Vec::new();
    for _ in 0..2 {
        let (mut who, _) = nobodys(env)?;
        let limits = libc::rlimit {
            rlim_cur: PIECES * PIECE,
            rlim_max: PIECES * PIECE,
        };
        let pid = i32::try_from(who.pid())?;
        // SAFETY: reads one structure, which outlives the call; the old limits are not asked for.
        let done =
            unsafe { libc::prlimit(pid, libc::RLIMIT_MEMLOCK, &limits, std::ptr::null_mut()) };
        ensure!(done == 0, "prlimit: {}", std::io::Error::last_os_error());
        for piece in 0..PIECES + 2 {
            let ring = format!("ring{piece}");
            create(&mut who, &ring)?;
            let buffer = Buffer::new("map", piece * PIECE, PIECE);
            let reply = register(&mut who, &ring, &[buffer])?;
            match reply.errno {
                0 => granted += 1,
                libc::ENOMEM => {}
                errno => bail!("piece {piece}: {}", errno_name(errno)),
            }
        }
        holders.push(who);
    }
    // The rings themselves are charged to the user in some kernels.
    ensure!(
        (1..=PIECES).contains(&granted),
        "{granted} pieces were pinned, where {PIECES} are allowed"
    );
    for who in holders {
        who.end()?;
    }
    Ok(())
}

/// A worker of a user without privileges, who is root in a namespace of its own.
fn in_a_user_namespace(more: &[&str]) -> anyhow::Result<Client> {
    let unshare = ["unshare", "--user", "--map-root-user"];
    Client::worker_by(&[BY_NOBODY, &unshare, more].concat())
}

/// In a namespace of one's own one is root, and yet no more than the owner of one's files.
fn root_of_a_user_namespace_owns_nothing_more(env: &Env) -> anyhow::Result<()> {
    let (own, others) = env.pair()?;
    chown(&own, Some(NOBODY), None)?;
    let mut who = in_a_user_namespace(&[])?;
    who.open("own", &own)?;
    who.open("others", &others)?;
    for lease in [SHARED, SOLE, SHARED | EXCLUSIVE, SOLE | EXCLUSIVE] {
        let what = "somebody else's file";
        lease_is(&mut who, "others", lease, libc::EACCES, what)?;
        lease_is(&mut who, "own", lease, 0, "one's own file")?;
    }
    let reply = who.ask(Request::Open {
        name: "listing".to_owned(),
        path: "/proc/file_pins".into(),
        flags: libc::O_RDONLY,
    })?;
    ensure!(reply.errno != 0, "it may read /proc/file_pins");
    who.end()
}

/// No descriptor of the file, no name of the file, no dumping, namespaces of its own: root still finds who
/// it is, and once that is ended the file can be changed.
fn hidden_holder_is_found_and_ended(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    chown(&file, Some(NOBODY), None)?;
    let mut who = in_a_user_namespace(&["--pid", "--fork", "--kill-child"])?;
    who.open("file", &file)?;
    lease_is(&mut who, "file", SOLE | EXCLUSIVE, 0, "its own file")?;
    who.map_shared("map", "file", SIZE)?;
    create(&mut who, "ring")?;
    let buffer = Buffer::new("map", 0, PAGE);
    must_be(&register(&mut who, "ring", &[buffer])?, 0, "the pin")?;
    who.must(Request::Undumpable)?;
    who.close("file")?;
    who.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    // Another name leads to it, and the one it was opened by is gone.
    let other = env.path();
    std::fs::hard_link(&file, &other)?;
    std::fs::remove_file(&file)?;

    let truncate = Call::Ftruncate {
        path: other.clone(),
        size: 0,
        flags: 0,
    };
    let mut admin = env.worker()?;
    must_be(&admin.call(&truncate)?, libc::ETXTBSY, "while it is held")?;
    let mut deleted = file.into_os_string();
    deleted.push(" (deleted)");
    let listing = Listing::read()?;
    let pins = listing.pins_of(Path::new(&deleted));
    ensure!(pins.len() == 1, "listed as {pins:?}");
    let pids = pins[0].pids.clone();
    ensure!(!pids.is_empty(), "nobody is said to hold it");
    for pid in pids {
        ensure!(
            pid != std::process::id(),
            "the test itself is said to hold it"
        );
        // SAFETY: a signal to a process that this test has started, found by its pin.
        unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) };
    }
    let deadline = Instant::now() + SOON;
    while admin.call(&truncate)?.errno != 0 {
        ensure!(Instant::now() < deadline, "still held by nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A process that ends with the test.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A user namespace in which root is nobody.
fn mapped_namespace() -> anyhow::Result<File> {
    let child = Command::new("unshare")
        .args(["--user", "sleep", "60"])
        .spawn();
    let child = Sleeper(child.context("unshare")?);
    let pid = child.0.id();
    let own = std::fs::read_link("/proc/self/ns/user")?;
    let deadline = Instant::now() + SOON;
    let path = format!("/proc/{pid}/ns/user");
    while std::fs::read_link(&path).map_or(true, |link| link == own) {
        ensure!(Instant::now() < deadline, "no user namespace");
        std::thread::sleep(Duration::from_millis(2));
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), format!("0 {NOBODY} 1"))?;
    }
    Ok(File::open(path)?)
}

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Mounts what is at `from` a second time, its owners mapped.
fn mount_mapped(from: &Path, to: &Path) -> anyhow::Result<()> {
    const OPEN_TREE_CLONE: u32 = 1;
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let namespace = mapped_namespace()?;
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    let attributes = Attributes {
        set: MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        userns: namespace.as_raw_fd() as u64,
    };
    let check = |result: i64, what: &str| -> anyhow::Result<i64> {
        ensure!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
        Ok(result)
    };
    let here = libc::AT_FDCWD;
    // SAFETY: paths end in NUL, and they and the structure outlive the calls; the descriptor is new.
    unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, here, from.as_ptr(), OPEN_TREE_CLONE);
        let tree = OwnedFd::from_raw_fd(check(tree, "open_tree")? as i32);
        let fd = tree.as_raw_fd();
        let size = std::mem::size_of::<Attributes>();
        let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        let set = libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, &attributes, size);
        check(set, "mount_setattr")?;
        let flags = MOVE_MOUNT_F_EMPTY_PATH;
        let moved = libc::syscall(libc::SYS_move_mount, fd, empty, here, to.as_ptr(), flags);
        check(moved, "move_mount")?;
    }
    Ok(())
}

/// A mount on which root's files are nobody's: whoever owns a file there may hold it, through that mount.
fn idmapped_mount(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let root = file.parent().context("a directory")?.to_owned();
    let place = PathBuf::from("/tmp/idmapped");
    std::fs::create_dir_all(&place)?;
    mount_mapped(&root, &place)?;
    let result = on_idmapped(env, &file, &place);
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH)?;
    result
}

fn on_idmapped(env: &Env, file: &Path, place: &Path) -> anyhow::Result<()> {
    let mut who = Client::worker()?;
    who.must(Request::SetUid { uid: NOBODY })?;
    who.open("plain", file)?;
    let there = place.join(file.file_name().context("a name")?);
    who.open("mapped", &there)?;
    let lease = SHARED | EXCLUSIVE;
    lease_is(&mut who, "plain", lease, libc::EACCES, "root's file")?;
    lease_is(&mut who, "mapped", lease, 0, "nobody's, by the mapping")?;
    let truncate = Call::Ftruncate {
        path: file.to_owned(),
        size: 0,
        flags: 0,
    };
    let mut other = env.worker()?;
    let reply = other.call(&truncate)?;
    must_be(&reply, libc::ETXTBSY, "through the other mount")?;
    who.end()?;
    must_be(&other.call(&truncate)?, 0, "afterwards")
}

/// Whether something has come for who watches, which is taken away.
fn told(watch: &OwnedFd) -> anyhow::Result<bool> {
    let mut room = [MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(watch, &mut room);
    let mut any = false;
    loop {
        match events.next() {
            Ok(_) => any = true,
            Err(Errno::WOULDBLOCK) => return Ok(any),
            Err(error) => return Err(error).context("inotify"),
        }
    }
}

/// Who watches a file is told of changes that happen, and of no others.
fn refused_change_notifies_nobody(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::ATTRIB;
    inotify::add_watch(&watch, &file, changes)?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    ensure!(!told(&watch)?, "told of a lease");
    let truncate = Call::Ftruncate {
        path: file.clone(),
        size: PAGE,
        flags: 0,
    };
    let punch = Call::Fallocate {
        path: file,
        mode: (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE).bits(),
        offset: 0,
        length: PAGE,
        flags: 0,
    };
    let mut other = env.worker()?;
    for call in [&truncate, &punch] {
        must_be(&other.call(call)?, libc::ETXTBSY, "another's lease")?;
        ensure!(!told(&watch)?, "told of a refused {call:?}");
    }
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    for call in [&punch, &truncate] {
        must_be(&other.call(call)?, 0, "released")?;
        ensure!(told(&watch)?, "not told of {call:?}");
    }
    Ok(())
}
