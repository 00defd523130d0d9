// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's side of the protocol: starts a process, asks, and never waits for ever.

use crate::names::errno_name;
use crate::protocol::{Call, Reply, Request};
use anyhow::{anyhow, bail, Context};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::Duration;

/// How long a request may take before its process is killed and reported as hung.
pub const HUNG: Duration = Duration::from_secs(20);
/// The first answer may take longer: Python starts from a cold cache on an emulated CPU.
const STARTED: Duration = Duration::from_secs(120);
const VERBS_CLIENT: &str = include_str!("verbs_client.py");

/// A process under the driver's command.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    replies: Receiver<String>,
    patience: Duration,
    hung: Duration,
    changed: bool,
}

impl Client {
    /// A process that knows files and leases only.
    pub fn worker() -> anyhow::Result<Client> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("worker");
        Client::start(command, "guest worker")
    }

    /// The same, started by another program, such as `unshare`, that execs it.
    pub fn worker_by(starter: &[&str]) -> anyhow::Result<Client> {
        let (program, arguments) = starter.split_first().context("no starter")?;
        let mut command = Command::new(program);
        // Where the program was built may be closed to other users.
        let copy = Path::new("/tmp/guest-for-everybody");
        if !copy.exists() {
            std::fs::copy("/proc/self/exe", copy).context("a copy of this program")?;
        }
        command.args(arguments).arg(copy).arg("worker");
        Client::start(command, "guest worker")
    }

    /// A process that knows verbs as well, on this device and GID.
    pub fn verbs(device: &str, gid_index: u32) -> anyhow::Result<Client> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", VERBS_CLIENT, device, &gid_index.to_string()]);
        Client::start(command, "the verbs client")
    }

    /// The same, started by another program, such as `unshare`, that execs it.
    pub fn verbs_by(starter: &[&str], device: &str, gid_index: u32) -> anyhow::Result<Client> {
        let (program, arguments) = starter.split_first().context("no starter")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("/usr/bin/python3");
        command.args(["-c", VERBS_CLIENT, device, &gid_index.to_string()]);
        Client::start(command, "the verbs client")
    }

    fn start(mut command: Command, what: &str) -> anyhow::Result<Client> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no pipe from the process")?;
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Client {
            child,
            stdin,
            replies,
            patience: STARTED,
            hung: HUNG,
            changed: false,
        })
    }

    /// For a machine that counts instructions: while everybody waits for the host to read a file, time
    /// runs away there.
    pub fn patient(mut self) -> Client {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        (self.patience, self.hung) = (DAY, DAY);
        self
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has done what `Reset` does not undo.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Gives up root. Whatever is done to the process from then on is the caller's business.
    pub fn become_nobody(&mut self) -> anyhow::Result<()> {
        self.must(Request::SetUid { uid: 65534 })?;
        self.changed = false;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of this process, which is reaped by `end` and drop only.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Sends a request without waiting for the answer.
    pub fn send(&mut self, request: &Request) -> anyhow::Result<()> {
        self.changed |= matches!(
            request,
            Request::SetUid { .. } | Request::Fork | Request::Exec | Request::Exit
        );
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.stdin
            .as_mut()
            .context("the process has been told to end")?
            .write_all(line.as_bytes())
            .with_context(|| format!("process {} is gone", self.child.id()))
    }

    /// The answer, if it comes within the time: `None` leaves the process as it is.
    pub fn receive_within(&mut self, time: Duration) -> anyhow::Result<Option<Reply>> {
        match self.replies.recv_timeout(time) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).with_context(|| {
                format!("process {} answered {line:?}", self.child.id())
            })?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                bail!("the process ended without an answer ({status})")
            }
        }
    }

    /// The answer to the request sent last; kills the process when it hangs.
    pub fn receive(&mut self) -> anyhow::Result<Reply> {
        let patience = std::mem::replace(&mut self.patience, self.hung);
        match self.receive_within(patience)? {
            Some(reply) if reply.errno == libc::EPROTO => Err(anyhow!("{}", reply.text)),
            Some(reply) => Ok(reply),
            None => {
                let _ = self.child.kill();
                bail!("hung: no answer within {} s", patience.as_secs())
            }
        }
    }

    /// Sends a request and waits for its answer, whatever it says.
    pub fn ask(&mut self, request: Request) -> anyhow::Result<Reply> {
        self.send(&request)?;
        self.receive().with_context(|| format!("{request:?}"))
    }

    /// Sends a request that must succeed.
    pub fn must(&mut self, request: Request) -> anyhow::Result<Reply> {
        let described = format!("{request:?}");
        let reply = self.ask(request)?;
        if reply.errno != 0 {
            bail!("{described}: {} {}", errno_name(reply.errno), reply.text);
        }
        Ok(reply)
    }

    /// Lets the process try a call on a file.
    pub fn call(&mut self, call: &Call) -> anyhow::Result<Reply> {
        self.ask(Request::Do(call.clone()))
    }

    /// Opens a file read-write under a name.
    pub fn open(&mut self, name: &str, path: &Path) -> anyhow::Result<i64> {
        self.open_as(name, path, libc::O_RDWR)
    }

    /// Opens a file with these flags.
    pub fn open_as(&mut self, name: &str, path: &Path, flags: i32) -> anyhow::Result<i64> {
        let reply = self.must(Request::Open {
            name: name.to_owned(),
            path: path.to_owned(),
            flags,
        })?;
        Ok(reply.value)
    }

    /// `fcntl(F_SETLEASE)`.
    pub fn set_lease(&mut self, name: &str, argument: i32) -> anyhow::Result<Reply> {
        self.ask(Request::SetLease {
            name: name.to_owned(),
            argument,
        })
    }

    /// `fcntl(F_GETLEASE)`, which must succeed.
    pub fn get_lease(&mut self, name: &str) -> anyhow::Result<i32> {
        let reply = self.must(Request::GetLease {
            name: name.to_owned(),
        })?;
        Ok(i32::try_from(reply.value)?)
    }

    /// Closes a descriptor.
    pub fn close(&mut self, name: &str) -> anyhow::Result<()> {
        self.must(Request::Close {
            name: name.to_owned(),
        })?;
        Ok(())
    }

    /// A shared, writable mapping of a file from offset 0.
    pub fn map_shared(&mut self, map: &str, name: &str, length: u64) -> anyhow::Result<()> {
        self.map(map, Some(name), 0, length, RW, libc::MAP_SHARED)
    }

    /// Anonymous memory.
    pub fn map_anonymous(&mut self, map: &str, length: u64) -> anyhow::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        self.map(map, None, 0, length, RW, flags)
    }

    /// A mapping that must succeed.
    pub fn map(
        &mut self,
        map: &str,
        name: Option<&str>,
        offset: u64,
        length: u64,
        prot: i32,
        flags: i32,
    ) -> anyhow::Result<()> {
        self.must(Request::Map {
            map: map.to_owned(),
            name: name.map(str::to_owned),
            offset,
            length,
            prot,
            flags,
            inside: None,
        })?;
        Ok(())
    }

    /// Registers part of a mapping, for local and remote writing.
    pub fn reg(&mut self, mr: &str, map: &str, offset: u64, length: u64) -> anyhow::Result<Reply> {
        self.reg_for(mr, map, offset, length, WRITE)
    }

    /// Registers part of a mapping with these access flags.
    pub fn reg_for(
        &mut self,
        mr: &str,
        map: &str,
        offset: u64,
        length: u64,
        access: u32,
    ) -> anyhow::Result<Reply> {
        self.ask(Request::Reg {
            mr: mr.to_owned(),
            map: map.to_owned(),
            offset,
            length,
            access,
        })
    }

    /// Deregisters a region.
    pub fn dereg(&mut self, mr: &str) -> anyhow::Result<Reply> {
        self.must(Request::Dereg { mr: mr.to_owned() })
    }

    /// Ends the process and waits until it is gone, with everything it held.
    pub fn end(mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        let deadline = std::time::Instant::now() + HUNG;
        while self.child.try_wait()?.is_none() {
            if std::time::Instant::now() > deadline {
                let _ = self.child.kill();
                bail!("hung: the process did not end within {} s", HUNG.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Readable and writable, for `mmap`.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// `IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE`.
pub const WRITE: u32 = 3;
/// `IBV_ACCESS_REMOTE_READ`: the region is only read.
pub const READ: u32 = 4;
/// `IBV_ACCESS_MW_BIND`: memory windows can be bound to the region.
pub const WINDOWS: u32 = 1 << 4;
/// `IBV_ACCESS_ON_DEMAND`: pages are faulted in when the device needs them, and not pinned.
pub const ON_DEMAND: u32 = 1 << 6;

/// A field of `/proc/<pid>/stat` behind the name, which may have blanks in it; the state is number 3. `None`
/// if the process is gone.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind = stat.rsplit(") ").next()?;
    behind.split(' ').nth(number - 3).map(str::to_owned)
}

/// The page faults of a process that took no I/O.
pub fn minor_faults(pid: u32) -> anyhow::Result<u64> {
    Ok(stat_field(pid, 10).context("no minor faults")?.parse()?)
}

/// The state of a process, as `/proc/<pid>/stat` has it; `None` if it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    stat_field(pid, 3)?.chars().next()
}
