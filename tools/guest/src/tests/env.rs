// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test gets: a filesystem, files of its own, processes, and ways to say what was wrong.

use crate::client::Client;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use crate::protocol::{Reply, Request};
use crate::setup::{Fs, Mounted, Rdma};
use crate::slow::Slow;
use crate::trial::{attempt, attempt_call, Expect, Files};
use anyhow::{bail, Context};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Shared layout lease.
pub const SHARED: i32 = libc::F_RDLCK | layout_lease::F_LAYOUT;
/// Sole layout lease.
pub const SOLE: i32 = libc::F_WRLCK | layout_lease::F_LAYOUT;
/// The bit that makes a layout lease unbreakable.
pub const EXCLUSIVE: i32 = layout_lease::F_EXCLUSIVE;
/// Release, and what F_GETLEASE says for none.
pub const UNLCK: i32 = libc::F_UNLCK;

/// The size of most tests' files: too small for entries of 2 MiB.
pub const SIZE: u64 = 1 << 20;
/// Where most tests pin.
pub const PINNED: Span = Span::new(512 << 10, 64 << 10);
/// Behind it.
pub const BEHIND: Span = Span::new(768 << 10, 64 << 10);
/// Before it.
pub const BEFORE: Span = Span::new(128 << 10, 64 << 10);

/// A test that cannot be run here.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// What every test of a filesystem shares.
pub struct Env {
    /// Which filesystem.
    pub fs: Fs,
    /// The tool for administrators.
    pub daxpin: PathBuf,
    /// The examples' programs.
    pub examples: PathBuf,
    mounted: Mutex<Mounted>,
    rdma: Rdma,
    /// Processes at rest. Starting one takes time on an emulated CPU: a verbs client, seconds.
    workers: Mutex<Vec<Client>>,
    strangers: Mutex<Vec<Client>>,
    verbs: Mutex<Vec<Client>>,
    slow: OnceLock<Slow>,
    counter: AtomicU32,
    files: Mutex<Vec<PathBuf>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Env {
    /// A fresh filesystem and the RDMA device.
    pub fn new(fs: Fs, daxpin: PathBuf, examples: PathBuf) -> anyhow::Result<Env> {
        let rdma = Rdma::ready()?;
        let verbs = vec![Client::verbs(rdma.device, rdma.gid_index)?];
        Ok(Env {
            fs,
            daxpin,
            examples,
            mounted: Mutex::new(Mounted::roomy(fs)?),
            rdma,
            workers: Mutex::default(),
            strangers: Mutex::default(),
            verbs: Mutex::new(verbs),
            slow: OnceLock::new(),
            counter: AtomicU32::new(0),
            files: Mutex::default(),
        })
    }

    /// The mounted filesystem, for tests of mounting itself.
    pub fn mounted(&self) -> MutexGuard<'_, Mounted> {
        lock(&self.mounted)
    }

    /// The RDMA device.
    pub fn rdma(&self) -> &Rdma {
        &self.rdma
    }

    /// The RDMA device's address.
    pub fn address(&self) -> &'static str {
        self.rdma.address
    }

    /// The network interface under the RDMA device that transfers go over.
    pub fn interface(&self) -> &'static str {
        self.rdma.interface
    }

    /// A name nobody else uses. What has it is removed after the test.
    pub fn path(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.mounted().root.join(format!("file-{number}"));
        lock(&self.files).push(path.clone());
        path
    }

    /// A file of its own, full of written blocks.
    pub fn file(&self) -> anyhow::Result<PathBuf> {
        self.file_of(SIZE)
    }

    /// A file of this size. Everybody may write to it, and it has the bits that a write by somebody
    /// without privileges takes away: a refused one must not.
    pub fn file_of(&self, size: u64) -> anyhow::Result<PathBuf> {
        let path = self.path();
        let name = path.file_name().context("a name")?.to_string_lossy();
        self.mounted().file(&name, size)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6777))?;
        Ok(path)
    }

    /// Removes the files of the test that is over, so that there is room for the next one's.
    pub fn clean(&self) {
        for path in lock(&self.files).drain(..) {
            // The test may have removed or renamed it.
            let _ = std::fs::remove_file(path);
        }
    }

    /// A process for files and leases.
    pub fn worker(&self) -> anyhow::Result<Loan<'_>> {
        Loan::take(&self.workers, Client::worker)
    }

    /// The same without any privileges: another user's.
    pub fn stranger(&self) -> anyhow::Result<Loan<'_>> {
        Loan::take(&self.strangers, || {
            let mut client = Client::worker()?;
            client.become_nobody()?;
            Ok(client)
        })
    }

    /// A process for verbs as well, holding nothing.
    pub fn verbs(&self) -> anyhow::Result<Loan<'_>> {
        Loan::take(&self.verbs, || {
            Client::verbs(self.rdma.device, self.rdma.gid_index)
        })
    }

    /// A verbs client that is started by another program, and ends with its test.
    pub fn verbs_by(&self, starter: &[&str]) -> anyhow::Result<Client> {
        Client::verbs_by(starter, self.rdma.device, self.rdma.gid_index)
    }

    /// A device that can be made to wait.
    pub fn slow(&self) -> anyhow::Result<&Slow> {
        if self.slow.get().is_none() {
            let _ = self.slow.set(Slow::make(self.fs.name())?);
        }
        self.slow.get().context("just made")
    }

    /// A pair of files of their own.
    pub fn pair(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        Ok((self.file()?, self.file()?))
    }

    /// Whoever is to try an operation that is not the holder: nobody special, unless it takes root.
    pub fn other(&self, op: Op) -> anyhow::Result<Loan<'_>> {
        if op.needs_root() {
            self.worker()
        } else {
            self.stranger()
        }
    }
}

/// A process on loan: it comes back empty-handed.
pub struct Loan<'a> {
    pool: &'a Mutex<Vec<Client>>,
    client: Option<Client>,
}

impl<'a> Loan<'a> {
    fn take(
        pool: &'a Mutex<Vec<Client>>,
        make: impl FnOnce() -> anyhow::Result<Client>,
    ) -> anyhow::Result<Loan<'a>> {
        let idle = lock(pool).pop();
        let client = match idle {
            Some(client) => client,
            None => make()?,
        };
        Ok(Loan {
            pool,
            client: Some(client),
        })
    }

    /// Ends the process, as any program may end, with everything it holds.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.client.take().map_or(Ok(()), Client::end)
    }
}

impl Client {
    /// A verbs client with an exclusive lease, a mapping and a pin on `PINNED`.
    pub fn pin(&mut self, path: &Path) -> anyhow::Result<()> {
        self.lease_and_map(path, SHARED | EXCLUSIVE)?;
        let reply = self.reg("pin", "map", PINNED.offset, PINNED.length)?;
        must_be(&reply, 0, "registering with an exclusive lease")
    }

    /// Opens, leases and maps a whole file of `SIZE` or more under the names `file` and `map`.
    pub fn lease_and_map(&mut self, path: &Path, lease: i32) -> anyhow::Result<()> {
        self.open("file", path)?;
        let reply = self.set_lease("file", lease)?;
        must_be(&reply, 0, "the lease")?;
        let size = std::fs::metadata(path)?.len();
        self.map_shared("map", "file", size)
    }
}

impl Deref for Loan<'_> {
    type Target = Client;
    #[allow(clippy::expect_used)]
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("only `end` and drop take it")
    }
}

impl DerefMut for Loan<'_> {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("only `end` and drop take it")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(mut client) = self.client.take() {
            // One that did not answer as it should is ended instead, and so is one that cannot go back.
            if !client.is_changed() && client.must(Request::Reset).is_ok() {
                lock(self.pool).push(client);
            }
        }
    }
}

/// The errno of an answer must be this one.
pub fn must_be(reply: &Reply, wanted: i32, what: &str) -> anyhow::Result<()> {
    if reply.errno != wanted {
        bail!(
            "{what}: {}, but the contract says {} {}",
            errno_name(reply.errno),
            errno_name(wanted),
            reply.text
        );
    }
    Ok(())
}

/// The argument must be answered so.
pub fn lease_is(
    who: &mut Client,
    name: &str,
    argument: i32,
    wanted: i32,
    what: &str,
) -> anyhow::Result<()> {
    let reply = who.set_lease(name, argument)?;
    must_be(
        &reply,
        wanted,
        &format!("{what} (F_SETLEASE {argument:#x})"),
    )
}

/// F_GETLEASE must say this.
pub fn getlease_is(who: &mut Client, name: &str, wanted: i32, what: &str) -> anyhow::Result<()> {
    let got = who.get_lease(name)?;
    if got != wanted {
        bail!("{what}: F_GETLEASE says {got:#x}, not {wanted:#x}");
    }
    Ok(())
}

/// The operation must turn out as expected.
pub fn op_is(
    who: &mut Client,
    op: Op,
    files: &(PathBuf, PathBuf),
    at: Span,
    expect: Expect,
    what: &str,
) -> anyhow::Result<()> {
    let verdict = attempt(who, op, of(files), at, expect)?;
    if !verdict.ok {
        bail!(
            "{what}: {} {}: {} after {} us, but the contract says {}",
            op.title(),
            at.offset,
            verdict.got,
            verdict.ns / 1000,
            verdict.expected
        );
    }
    Ok(())
}

/// The same for the nonblocking form of the operation.
pub fn nonblocking_op_is(
    who: &mut Client,
    op: Op,
    files: &(PathBuf, PathBuf),
    at: Span,
    expect: Expect,
) -> anyhow::Result<()> {
    let size = std::fs::metadata(&files.0)?.len();
    let call = op.call(&files.0, &files.1, size, at).nonblocking();
    let call = call.ok_or_else(|| Skip("it takes a path, not a descriptor".to_owned()))?;
    let verdict = attempt_call(who, &call, of(files), expect)?;
    if !verdict.ok {
        bail!(
            "{}: {}, but the contract says {}",
            op.title(),
            verdict.got,
            verdict.expected
        );
    }
    Ok(())
}

fn of(files: &(PathBuf, PathBuf)) -> Files<'_> {
    Files {
        file: &files.0,
        partner: &files.1,
    }
}
