// SPDX-License-Identifier: MIT OR Apache-2.0
//! `guest worker`: a process that holds files, leases and mappings, and does what it is told.

use crate::calls::{carry_out, timed};
use crate::gup;
use crate::protocol::{pattern, Reply, Request};
use crate::uverbs::{self, Region, Verb};
use anyhow::Context;
use io_uring::IoUring;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{c_void, CString};
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Linux's own, and not in the libc crate.
const F_SETSIG: i32 = 10;
/// The signals holders of leases are sent.
const SIGNALS: [i32; 3] = [libc::SIGIO, libc::SIGUSR1, libc::SIGUSR2];

#[derive(Default)]
pub(crate) struct Worker {
    files: BTreeMap<String, OwnedFd>,
    maps: BTreeMap<String, (usize, usize)>,
    pub(crate) rings: BTreeMap<String, IoUring>,
}

/// Answers requests until stdin ends. `kept` are descriptors that came through an exec: `name=number`.
pub fn run(kept: &[String]) -> anyhow::Result<()> {
    let mut worker = Worker::default();
    for entry in kept {
        let (name, number) = entry.split_once('=').context("--fd wants NAME=NUMBER")?;
        // SAFETY: the process that was before exec left this descriptor open for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(number.parse()?) };
        worker.files.insert(name.to_owned(), fd);
    }
    block_signals();
    catch_the_alarm();
    die_of_memory_failures();
    let mut stdout = std::io::stdout();
    if !kept.is_empty() {
        // The exec was a request too, and this is its answer.
        answer(&mut stdout, &Reply::default())?;
    }
    // No buffering beyond a line: after an exec the next image must find the rest.
    let stdin = std::io::stdin();
    let mut line = String::new();
    loop {
        line.clear();
        if stdin.lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Exit) => return Ok(()),
            Ok(request) => worker.act(request),
            Err(error) => Reply::broken(format!("{error} in {line:?}")),
        };
        answer(&mut stdout, &reply)?;
    }
}

fn answer(stdout: &mut std::io::Stdout, reply: &Reply) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    stdout.write_all(line.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Signals of a breaking lease wait until they are asked for.
fn block_signals() {
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// SIGALRM interrupts a system call that waits, and does nothing else.
fn catch_the_alarm() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing; all zeroes is a valid action, without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
    }
}

/// The runtime's handler for SIGBUS, which tells stack overflows from other accesses, returns from those
/// so that they are tried again. Of a signal that comes without an access, nothing would be seen.
fn die_of_memory_failures() {
    // SAFETY: the default action runs no code of this program.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: i32) -> Result<i32, Errno> {
    if result < 0 {
        Err(last())
    } else {
        Ok(result)
    }
}

fn check_size(result: isize) -> Result<(), Errno> {
    if result < 0 {
        Err(last())
    } else {
        Ok(())
    }
}

impl Worker {
    fn act(&mut self, request: Request) -> Reply {
        match self.attempt(request) {
            Ok(reply) => reply,
            Err(error) => Reply::broken(format!("{error:#}")),
        }
    }

    pub(crate) fn fd(&self, name: &str) -> anyhow::Result<i32> {
        let fd = self
            .files
            .get(name)
            .with_context(|| format!("no file {name}"))?;
        Ok(fd.as_raw_fd())
    }

    pub(crate) fn span(
        &self,
        map: &str,
        offset: u64,
        length: u64,
    ) -> anyhow::Result<(usize, usize)> {
        let (base, size) = *self
            .maps
            .get(map)
            .with_context(|| format!("no map {map}"))?;
        let (offset, length) = (usize::try_from(offset)?, usize::try_from(length)?);
        anyhow::ensure!(offset + length <= size, "outside of map {map}");
        Ok((base + offset, length))
    }

    /// Adds a descriptor a call returned, and gives its number as the value.
    fn keep(&mut self, name: String, call: impl FnOnce() -> i32) -> Reply {
        let mut fd = -1;
        let mut reply = timed(|| check(call()).map(|number| fd = number));
        if reply.errno == 0 {
            reply.value = fd.into();
            // SAFETY: the call just returned this descriptor, and nobody else owns it.
            self.files.insert(name, unsafe { OwnedFd::from_raw_fd(fd) });
        }
        reply
    }

    fn attempt(&mut self, request: Request) -> anyhow::Result<Reply> {
        Ok(match request {
            Request::Open { name, path, flags } => {
                let path = CString::new(path.as_os_str().as_bytes())?;
                // SAFETY: the path ends in NUL and outlives the call.
                self.keep(name, || unsafe { libc::open(path.as_ptr(), flags, 0o644) })
            }
            Request::Close { name } => {
                let fd = self
                    .files
                    .remove(&name)
                    .with_context(|| format!("no file {name}"))?;
                timed(|| {
                    drop(fd);
                    Ok(())
                })
            }
            Request::Dup { name, new } => {
                let fd = self.fd(&name)?;
                // SAFETY: dup touches no memory.
                self.keep(new, || unsafe { libc::dup(fd) })
            }
            Request::Number { name } => Reply {
                value: self.fd(&name)?.into(),
                ..Reply::default()
            },
            Request::Take { pid, fd, name } => {
                // SAFETY: neither call touches memory of this process.
                let pidfd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)?;
                // SAFETY: just opened, owned by nobody else.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                self.keep(name, || {
                    // SAFETY: as above.
                    unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) as i32 }
                })
            }
            Request::SetLease { name, argument } => {
                let fd = self.fd(&name)?;
                // SAFETY: F_SETLEASE takes an int.
                timed(|| check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, argument) }).map(drop))
            }
            Request::GetLease { name } => {
                let fd = self.fd(&name)?;
                let mut value = 0;
                let mut reply = timed(|| {
                    // SAFETY: F_GETLEASE takes no argument.
                    value = check(unsafe { libc::fcntl(fd, libc::F_GETLEASE) })?;
                    Ok(())
                });
                reply.value = value.into();
                reply
            }
            Request::SetSignal { name, signal } => {
                let fd = self.fd(&name)?;
                // SAFETY: F_SETSIG takes an int.
                timed(|| check(unsafe { libc::fcntl(fd, F_SETSIG, signal) }).map(drop))
            }
            Request::Fsync { name } => {
                let fd = self.fd(&name)?;
                // SAFETY: fsync touches no memory.
                timed(|| check(unsafe { libc::fsync(fd) }).map(drop))
            }
            Request::Map {
                map,
                name,
                offset,
                length,
                prot,
                flags,
                inside,
            } => {
                let fd = name.map_or(Ok(-1), |name| self.fd(&name))?;
                let (at, fixed) = match inside {
                    Some((outer, at)) => (self.span(&outer, at, length)?.0, libc::MAP_FIXED),
                    None => (0, 0),
                };
                let length = usize::try_from(length)?;
                let mut address = std::ptr::null_mut();
                let reply = timed(|| {
                    // SAFETY: either the kernel chooses the place, or it lies inside a mapping
                    // this worker made for the purpose.
                    address = unsafe {
                        libc::mmap(
                            at as *mut c_void,
                            length,
                            prot,
                            flags | fixed,
                            fd,
                            offset as i64,
                        )
                    };
                    if address == libc::MAP_FAILED {
                        return Err(last());
                    }
                    Ok(())
                });
                if reply.errno == 0 {
                    self.maps.insert(map, (address as usize, length));
                }
                reply
            }
            Request::Unmap { map } => {
                let (base, length) = self
                    .maps
                    .remove(&map)
                    .with_context(|| format!("no map {map}"))?;
                // SAFETY: this worker's own mapping, of which it keeps no reference.
                timed(|| check(unsafe { libc::munmap(base as *mut c_void, length) }).map(drop))
            }
            Request::Fill {
                map,
                offset,
                length,
                seed,
            } => {
                let (at, length) = self.span(&map, offset, length)?;
                let data = pattern(seed, length);
                // SAFETY: the span lies inside a mapping of this worker.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), at as *mut u8, length) };
                Reply::default()
            }
            Request::Compare {
                map,
                offset,
                length,
                seed,
            } => {
                let (at, length) = self.span(&map, offset, length)?;
                // SAFETY: the span lies inside a mapping of this worker; nobody writes to it now.
                let found = unsafe { std::slice::from_raw_parts(at as *const u8, length) };
                Reply {
                    value: i64::from(found == pattern(seed, length)),
                    ..Reply::default()
                }
            }
            Request::Poison {
                map,
                offset,
                length,
            } => {
                let (at, length) = self.span(&map, offset, length)?;
                timed(|| {
                    // SAFETY: the span lies inside a mapping of this worker, of which it keeps no
                    // reference.
                    let done =
                        unsafe { libc::madvise(at as *mut c_void, length, libc::MADV_HWPOISON) };
                    check(done).map(drop)
                })
            }
            Request::DirectWrite {
                map,
                offset,
                length,
                path,
            } => {
                let (at, length) = self.span(&map, offset, length)?;
                let target = std::fs::File::options()
                    .write(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(path)?;
                timed(|| {
                    // SAFETY: the span lies inside a mapping of this worker.
                    check_size(unsafe {
                        libc::pwrite(target.as_raw_fd(), at as *const c_void, length, 0)
                    })
                })
            }
            Request::Splice {
                map,
                offset,
                length,
                name,
            } => {
                let (at, length) = self.span(&map, offset, length)?;
                let (read, write) = rustix::pipe::pipe()?;
                let part = libc::iovec {
                    iov_base: at as *mut c_void,
                    iov_len: length,
                };
                let reply =
                    // SAFETY: the span lies inside a mapping of this worker.
                    timed(|| check_size(unsafe { libc::vmsplice(write.as_raw_fd(), &part, 1, 0) }));
                self.files.insert(format!("{name}.read"), read);
                self.files.insert(format!("{name}.write"), write);
                reply
            }
            Request::Do(call) => carry_out(&call),
            Request::GupPin {
                name,
                map,
                offset,
                length,
                write,
            } => {
                let (start, length) = self.span(&map, offset, length)?;
                let fd = self.owned(&name)?;
                timed(|| gup::pin(fd, start, length, write))
            }
            Request::GupUnpin { name } => {
                let fd = self.owned(&name)?;
                timed(|| gup::unpin(fd))
            }
            Request::Ring(call) => return self.ring_call(call),
            Request::Verbs(verb) => self.verbs(verb)?,
            Request::WaitSignal {
                signal,
                milliseconds,
            } => wait_signal(signal, milliseconds),
            Request::Undumpable => timed(|| {
                // SAFETY: touches no memory of this process.
                check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
            }),
            Request::SetUid { uid } => timed(|| {
                // SAFETY: single-threaded; drops every group and capability with the user.
                unsafe {
                    check(libc::setgroups(0, std::ptr::null()))?;
                    check(libc::setgid(uid))?;
                    check(libc::setuid(uid)).map(drop)
                }
            }),
            Request::Fork => fork_sleeper(),
            Request::Exec => return self.exec(),
            Request::Reset => {
                self.rings.clear();
                for (base, length) in std::mem::take(&mut self.maps).into_values() {
                    // SAFETY: this worker's own mapping, of which it keeps no reference.
                    unsafe { libc::munmap(base as *mut c_void, length) };
                }
                self.files.clear();
                for signal in SIGNALS {
                    while wait_signal(signal, 0).value != 0 {}
                }
                Reply::default()
            }
            other => anyhow::bail!("{other:?} needs the verbs client"),
        })
    }

    /// Carries out something with a uverbs file; what it gives is the value of the answer.
    fn verbs(&mut self, verb: Verb) -> anyhow::Result<Reply> {
        let mut value = 0;
        let mut kept = None;
        let mut reply = match verb {
            Verb::Context {
                file,
                path,
                driver,
                flags,
            } => timed(|| {
                let fd = uverbs::context(&path, driver, flags)?;
                value = i64::from(fd.as_raw_fd());
                kept = Some((file, fd));
                Ok(())
            }),
            Verb::Pd { file, driver } => {
                let fd = self.owned(&file)?;
                timed(|| uverbs::pd(fd, driver).map(|pd| value = pd.into()))
            }
            Verb::Reg {
                file,
                driver,
                pd,
                map,
                offset,
                length,
                access,
                lost,
            } => {
                let region = Region {
                    start: self.span(&map, offset, length)?.0 as u64,
                    length,
                    pd,
                    access,
                };
                let fd = self.owned(&file)?;
                timed(|| uverbs::reg(fd, driver, region, lost).map(|mr| value = mr.into()))
            }
            Verb::Rereg {
                file,
                driver,
                mr,
                flags,
                pd,
                map,
                offset,
                length,
                access,
            } => {
                let region = Region {
                    start: self.span(&map, offset, length)?.0 as u64,
                    length,
                    pd,
                    access,
                };
                let fd = self.owned(&file)?;
                timed(|| uverbs::rereg(fd, driver, mr, flags, region))
            }
            Verb::Dereg { file, driver, mr } => {
                let fd = self.owned(&file)?;
                timed(|| uverbs::dereg(fd, driver, mr))
            }
            Verb::Post { file, socket } => {
                let fd = self.files.remove(&file);
                let fd = fd.with_context(|| format!("no file {file}"))?;
                timed(|| uverbs::post(fd).map(|far| kept = Some((socket, far))))
            }
            Verb::Receive { socket, file } => {
                let far = self.files.remove(&socket);
                let far = far.with_context(|| format!("no socket {socket}"))?;
                timed(|| uverbs::receive(&far).map(|fd| kept = Some((file, fd))))
            }
            Verb::Memlock { bytes } => timed(|| uverbs::memlock(bytes)),
        };
        self.files.extend(kept);
        reply.value = value;
        Ok(reply)
    }

    fn owned(&self, name: &str) -> anyhow::Result<BorrowedFd<'_>> {
        let fd = self.files.get(name);
        Ok(fd.with_context(|| format!("no file {name}"))?.as_fd())
    }

    fn exec(&self) -> anyhow::Result<Reply> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("worker");
        for (name, fd) in &self.files {
            if rustix::io::fcntl_getfd(fd)?.contains(rustix::io::FdFlags::CLOEXEC) {
                continue;
            }
            command.arg(format!("--fd={name}={}", fd.as_raw_fd()));
        }
        Err(command.exec().into())
    }
}

fn wait_signal(signal: i32, milliseconds: u64) -> Reply {
    let wait = libc::timespec {
        tv_sec: (milliseconds / 1000) as i64,
        tv_nsec: (milliseconds % 1000 * 1_000_000) as i64,
    };
    // SAFETY: the set is initialised before it is read; the time-out outlives the call.
    let got = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigtimedwait(&set, std::ptr::null_mut(), &wait)
    };
    Reply {
        value: i64::from(got.max(0)),
        ..Reply::default()
    }
}

/// A child with copies of all descriptors that sleeps until it is killed, or its parent's driver ends.
fn fork_sleeper() -> Reply {
    // SAFETY: the worker has one thread; the child calls only functions that are safe after fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: async-signal-safe calls only. The pipes are closed so that the driver sees the
        // parent's end, and the alarm bounds the child's life should nobody kill it.
        unsafe {
            libc::close(0);
            libc::close(1);
            libc::alarm(60);
            loop {
                libc::pause();
            }
        }
    }
    Reply {
        errno: if pid < 0 { last().raw_os_error() } else { 0 },
        value: pid.into(),
        ..Reply::default()
    }
}
