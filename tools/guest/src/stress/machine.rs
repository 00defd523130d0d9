// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel under test: carries out steps by processes, and compares what it lists.

use super::canary::Canaries;
use super::oracle::{Expected, Got};
use super::run::Kernel;
use super::step::{Mode, OwnerKind, Slot, Step};
use super::world::{Maybe, Role, World, ENTRY, LARGE, PAGE, SMALL};
use crate::calls::carry_out;
use crate::client::{process_state, Client, READ, RW, WRITE};
use crate::gup::GUP_TEST;
use crate::ioctls;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use crate::protocol::{pattern, Reply, Request};
use crate::rings::{Buffer, Direction, RingCall};
use crate::setup::{mounted, Fs, Rdma};
use crate::slow::Frozen;
use crate::snapshot::Snapshot;
use crate::system::Listing;
use crate::trace::{inode, PmdFaults};
use anyhow::{bail, ensure, Context};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What rings read from, into what they have pinned.
const SOURCE: &str = "/dev/shm/stress-source";
const SOURCE_SEED: u32 = 4242;
const SOURCE_SIZE: u64 = 64 << 10;
/// What processes that ended, and rings, may take to let go.
const SETTLED: Duration = Duration::from_secs(15);
/// A holder is signalled within this.
const SIGNALLED: u64 = 10_000;

/// Small and large files.
const FILES: (usize, usize) = (5, 2);

/// The machine.
pub struct Machine {
    pub(super) root: PathBuf,
    fs: Fs,
    rdma: Rdma,
    roles: Vec<Role>,
    pub(super) clients: Vec<Client>,
    /// Processes and children by their ids.
    pub(super) pids: BTreeMap<u32, u32>,
    children: Vec<u32>,
    /// Whose answer has not been read: something went wrong before it came.
    unanswered: Option<usize>,
    /// The canaries.
    pub canaries: Canaries,
    /// Whether a process's pins by gup_test go with any lease it releases: a bug.
    pub drops_pins: bool,
}

fn fd(slot: Slot) -> String {
    format!("f{}.{}", slot.file, slot.number)
}

fn map(slot: Slot) -> String {
    format!("m{}.{}", slot.file, slot.number)
}

fn owner_name(owner: usize) -> String {
    format!("o{owner}")
}

fn got(reply: &Reply) -> Got {
    Got {
        errno: reply.errno,
        value: reply.value,
        sizes: Vec::new(),
    }
}

fn client(role: Role, rdma: &Rdma) -> anyhow::Result<Client> {
    match role {
        Role::Root => Client::worker(),
        Role::Nobody => {
            let mut client = Client::worker()?;
            client.become_nobody()?;
            Ok(client)
        }
        Role::Verbs => Client::verbs(rdma.device, rdma.gid_index),
    }
}

/// What a process has from its start to its end.
fn equip(client: &mut Client, role: Role) -> anyhow::Result<()> {
    match role {
        Role::Root => {
            client.open_as("source", Path::new(SOURCE), libc::O_RDONLY)?;
        }
        Role::Nobody => {}
        Role::Verbs => {
            client.map_anonymous("memory", SOURCE_SIZE)?;
            client.must(Request::Fill {
                map: "memory".to_owned(),
                offset: 0,
                length: SOURCE_SIZE,
                seed: SOURCE_SEED,
            })?;
            let reply = client.reg("source", "memory", 0, SOURCE_SIZE)?;
            ensure!(reply.errno == 0, "the source of RDMA writes");
        }
    }
    Ok(())
}

impl Machine {
    /// Processes of these roles, and canaries in part of the filesystem mounted at `root`.
    pub fn new(
        root: &Path,
        fs: Fs,
        rdma: Rdma,
        roles: &[Role],
        room: u64,
    ) -> anyhow::Result<Machine> {
        mounted("debugfs", "/sys/kernel/debug", "gup_test")?;
        fs::write(SOURCE, pattern(SOURCE_SEED, SOURCE_SIZE as usize))?;
        fs::set_permissions(SOURCE, fs::Permissions::from_mode(0o644))?;
        let canaries = Canaries::release(root, room)?;
        let clients: anyhow::Result<Vec<Client>> =
            roles.iter().map(|&role| client(role, &rdma)).collect();
        Ok(Machine {
            root: root.to_owned(),
            fs,
            rdma,
            roles: roles.to_vec(),
            clients: clients?,
            pids: BTreeMap::new(),
            children: Vec::new(),
            unanswered: None,
            canaries,
            drops_pins: false,
        })
    }

    pub(super) fn path(&self, file: usize) -> PathBuf {
        self.root.join(format!("stress-{file}"))
    }

    /// A new file in the place of the old one; whether all of it is mapped by large entries.
    fn make(&self, file: usize, large: bool) -> anyhow::Result<bool> {
        let path = self.path(file);
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let made = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        made.set_permissions(fs::Permissions::from_mode(0o666))?;
        if !large {
            (&made).write_all(&pattern(0, SMALL as usize))?;
            return Ok(false);
        }
        if self.fs == Fs::Xfs {
            let hint = ioctls::set_attributes(&path, ioctls::XFLAG_EXTSIZE, ENTRY as u32);
            let reply = carry_out(&hint);
            ensure!(reply.errno == 0, "extent size: {}", reply.text);
        }
        rustix::fs::fallocate(&made, rustix::fs::FallocateFlags::empty(), 0, LARGE)?;
        made.write_all_at(&pattern(0, LARGE as usize), 0)?;
        let faults = PmdFaults::on()?;
        // SAFETY: a new mapping, which nobody else knows, of a file that is as long.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LARGE as usize,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &made,
                0,
            )
        }?;
        for offset in (0..LARGE as usize).step_by(ENTRY as usize) {
            // SAFETY: inside of the mapping.
            unsafe { at.cast::<u8>().add(offset).write_volatile(0) };
        }
        // SAFETY: the mapping made above, to which nothing refers.
        unsafe { rustix::mm::munmap(at, LARGE as usize) }?;
        let wanted: Vec<u64> = (0..LARGE).step_by(ENTRY as usize).collect();
        Ok(faults.mapped(inode(&path)?)? == wanted)
    }

    fn ask(&mut self, who: usize, request: Request) -> anyhow::Result<Got> {
        Ok(got(&self.clients[who].ask(request)?))
    }

    fn ring(&mut self, who: usize, call: RingCall) -> anyhow::Result<Got> {
        self.ask(who, Request::Ring(call))
    }

    fn open_owner(&mut self, who: usize, owner: usize, kind: OwnerKind) -> anyhow::Result<Got> {
        let name = owner_name(owner);
        match kind {
            OwnerKind::Gup => self.ask(
                who,
                Request::Open {
                    name,
                    path: GUP_TEST.into(),
                    flags: libc::O_RDWR,
                },
            ),
            OwnerKind::Ring => self.ring(
                who,
                RingCall::Create {
                    ring: name,
                    sqpoll: false,
                },
            ),
            OwnerKind::Verbs => bail!("made with its process"),
        }
    }

    fn pin(
        &mut self,
        who: usize,
        of: (OwnerKind, usize, usize),
        slot: Slot,
        at: Span,
        write: bool,
    ) -> anyhow::Result<Got> {
        let (kind, owner, index) = of;
        let request = match kind {
            OwnerKind::Gup => Request::GupPin {
                name: owner_name(owner),
                map: map(slot),
                offset: at.offset,
                length: at.length,
                write,
            },
            OwnerKind::Ring => Request::Ring(RingCall::Register {
                ring: owner_name(owner),
                buffers: vec![Buffer::new(&map(slot), at.offset, at.length)],
            }),
            OwnerKind::Verbs => Request::Reg {
                mr: format!("r{index}"),
                map: map(slot),
                offset: at.offset,
                length: at.length,
                access: if write { WRITE } else { READ },
            },
        };
        self.ask(who, request)
    }

    fn unpin(
        &mut self,
        who: usize,
        owner: usize,
        kind: OwnerKind,
        pins: usize,
    ) -> anyhow::Result<Got> {
        let name = owner_name(owner);
        match kind {
            OwnerKind::Gup => self.ask(who, Request::GupUnpin { name }),
            OwnerKind::Ring => self.ring(who, RingCall::Unregister { ring: name }),
            OwnerKind::Verbs => {
                for index in 0..pins {
                    let mr = format!("r{index}");
                    self.clients[who].must(Request::Dereg { mr })?;
                }
                Ok(Got::default())
            }
        }
    }

    /// The device writes to the first pin, and the process sees it.
    fn dma(&mut self, world: &World, who: usize, owner: usize) -> anyhow::Result<Got> {
        let of = &world.owners[&world.processes[who].owners[&owner]];
        let pin = of.pins.first().context("no pin")?;
        let length = pin.at.length.min(SOURCE_SIZE);
        let (map, offset) = (map(pin.slot), pin.at.offset);
        let client = &mut self.clients[who];
        client.must(Request::Fill {
            map: map.clone(),
            offset,
            length,
            seed: 1,
        })?;
        if of.kind == OwnerKind::Verbs {
            client.must(Request::RdmaWrite {
                from: "source".to_owned(),
                to: "r0".to_owned(),
                length,
            })?;
        } else {
            let ring = owner_name(owner);
            client.must(Request::Ring(RingCall::Submit {
                ring: ring.clone(),
                direction: Direction::Read,
                name: "source".to_owned(),
                offset: 0,
                slot: 0,
                part: Buffer::new(&map, offset, length),
            }))?;
            let reply = client.must(Request::Ring(RingCall::Wait { ring }))?;
            ensure!(reply.value == length as i64, "{} bytes came", reply.value);
        }
        let reply = client.must(Request::Compare {
            map,
            offset,
            length,
            seed: SOURCE_SEED,
        })?;
        ensure!(reply.value == 1, "the device writes to other pages");
        Ok(Got::default())
    }

    /// Makes the call; where the contract says so, has holders release their leases meanwhile.
    fn change(
        &mut self,
        step: (usize, Op, bool, bool),
        files: (usize, usize),
        at: Span,
        expected: &Expected,
    ) -> anyhow::Result<Got> {
        let (who, op, nonblock, look) = step;
        self.canaries.balance()?;
        let (file, partner) = (self.path(files.0), self.path(files.1));
        let size = fs::metadata(&file)?.len();
        let mut call = op.call(&file, &partner, size, at);
        if nonblock {
            call = call.nonblocking().context("it takes a path")?;
        }
        let snapshots = || -> anyhow::Result<[Snapshot; 2]> {
            Ok([Snapshot::take(&file)?, Snapshot::take(&partner)?])
        };
        if look && self.fs == Fs::Xfs {
            // Blocks of unlinked files go in the background, and others share them no more: now rather
            // than between the snapshots. A freeze waits for that.
            Frozen::freeze(&self.root)?.thaw()?;
        }
        let before = look.then(snapshots).transpose()?;
        self.clients[who].send(&Request::Do(call))?;
        self.unanswered = Some(who);
        for broken in &expected.breaks {
            let Some(holder) = broken.signalled else {
                continue;
            };
            let reply = self.clients[holder].must(Request::WaitSignal {
                signal: libc::SIGIO,
                milliseconds: SIGNALLED,
            })?;
            ensure!(
                reply.value == i64::from(libc::SIGIO),
                "a holder was not signalled"
            );
        }
        if expected.waits {
            let early = self.clients[who].receive_within(Duration::from_millis(5))?;
            if let Some(reply) = early {
                bail!("did not wait: {}", errno_name(reply.errno));
            }
            for broken in &expected.breaks {
                let (other, slot) = broken.release;
                let reply = self.clients[other].set_lease(&fd(slot), libc::F_UNLCK)?;
                ensure!(reply.errno == 0, "release: {}", errno_name(reply.errno));
            }
        }
        let reply = self.clients[who].receive()?;
        self.unanswered = None;
        if let (Some(before), libc::ETXTBSY) = (before, reply.errno) {
            let after = snapshots()?;
            for (before, after) in before.iter().zip(&after) {
                if let Some(what) = before.difference(after) {
                    bail!("refused, yet changed: {what}");
                }
            }
        }
        let mut got = got(&reply);
        got.sizes = vec![fs::metadata(&file)?.len(), fs::metadata(&partner)?.len()];
        Ok(got)
    }

    fn fork(&mut self, who: usize) -> anyhow::Result<Got> {
        let reply = self.clients[who].must(Request::Fork)?;
        self.children.push(u32::try_from(reply.value)?);
        Ok(Got::default())
    }

    fn kill_child(&mut self) -> anyhow::Result<()> {
        end_child(self.children.remove(0))
    }

    fn freeze(&mut self) -> anyhow::Result<()> {
        let frozen = Frozen::freeze(&self.root)?;
        let listed = Listing::read();
        frozen.thaw()?;
        listed?;
        Ok(())
    }

    /// A process with verbs, and beside it the canaries.
    pub fn verbs(&mut self) -> anyhow::Result<(&mut Client, &mut Canaries)> {
        let at = self.roles.iter().position(|&role| role == Role::Verbs);
        let at = at.context("nobody has verbs")?;
        Ok((&mut self.clients[at], &mut self.canaries))
    }

    /// Everybody lets go of everything; memory is charged to nobody any more.
    pub fn quieten(&mut self) -> anyhow::Result<()> {
        for pid in self.children.drain(..) {
            end_child(pid)?;
        }
        for client in &mut self.clients {
            client.must(Request::Reset)?;
            let status = fs::read_to_string(format!("/proc/{}/status", client.pid()))?;
            let line = status.lines().find(|line| line.starts_with("VmPin:"));
            let kb = line.and_then(|line| line.split_whitespace().nth(1));
            ensure!(kb == Some("0"), "pinned_vm: {kb:?} kB");
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pid in self.children.drain(..) {
            // What is left of it holds files for a while, no more.
            let _ = end_child(pid);
        }
    }
}

/// `kill -9`, and waits until the process has let go of everything.
fn end_child(pid: u32) -> anyhow::Result<()> {
    // SAFETY: a signal to a process that a worker has forked for the purpose; nobody reaps it, or the
    // first process does when it has ended.
    unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) };
    let deadline = Instant::now() + SETTLED;
    loop {
        if matches!(process_state(pid), None | Some('Z' | 'X')) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Kernel for Machine {
    fn reset(&mut self) -> anyhow::Result<World> {
        for pid in self.children.drain(..) {
            end_child(pid)?;
        }
        let unanswered = self.unanswered.take();
        let clients = self.clients.iter_mut().zip(&self.roles).enumerate();
        for (index, (place, &role)) in clients {
            let spent = unanswered == Some(index);
            if spent || place.must(Request::Reset).is_err() {
                *place = client(role, &self.rdma)?;
            }
            equip(place, role)?;
        }
        self.canaries.balance()?;
        let (small, large) = FILES;
        let mut world = World::new(self.fs, small, large, &self.roles);
        for file in 0..small + large {
            if self.make(file, file >= small)? {
                let entries = &mut world.inodes[file].entries;
                entries.fill(Maybe::Yes);
            }
        }
        self.pids.clear();
        for (process, client) in world.processes.iter().zip(&self.clients) {
            self.pids.insert(process.id, client.pid());
        }
        self.compare(&world, SETTLED)?;
        Ok(world)
    }

    fn act(&mut self, world: &World, step: &Step, expected: &Expected) -> anyhow::Result<Got> {
        let kind = |who: usize, owner: usize| {
            let owner = &world.owners[&world.processes[who].owners[&owner]];
            (owner.kind, owner.pins.len())
        };
        match *step {
            Step::Open { who, slot, write } => {
                let path = self.path(slot.file);
                let flags = if write { libc::O_RDWR } else { libc::O_RDONLY };
                let name = fd(slot);
                self.ask(who, Request::Open { name, path, flags })
            }
            Step::Close { who, slot } => self.ask(who, Request::Close { name: fd(slot) }),
            Step::Fsync { who, slot } => self.ask(who, Request::Fsync { name: fd(slot) }),
            Step::Lease {
                who,
                slot,
                argument,
            } => {
                let reply = self.clients[who].set_lease(&fd(slot), argument)?;
                if self.drops_pins && argument == libc::F_UNLCK && reply.errno == 0 {
                    for (&owner, id) in &world.processes[who].owners {
                        let pins = world.owners[id].pins.len();
                        if world.owners[id].kind == OwnerKind::Gup {
                            self.unpin(who, owner, OwnerKind::Gup, pins)?;
                        }
                    }
                }
                Ok(got(&reply))
            }
            Step::GetLease { who, slot } => self.ask(who, Request::GetLease { name: fd(slot) }),
            Step::Map { who, slot, mode } => {
                let id = world.processes[who].fds[&slot];
                let inode = &world.inodes[world.descriptions[&id].inode];
                let (prot, flags) = match mode {
                    Mode::Shared => (RW, libc::MAP_SHARED),
                    Mode::SharedRead => (libc::PROT_READ, libc::MAP_SHARED),
                    Mode::Private => (RW, libc::MAP_PRIVATE),
                };
                self.ask(
                    who,
                    Request::Map {
                        map: map(slot),
                        name: Some(fd(slot)),
                        offset: 0,
                        length: inode.size.next_multiple_of(PAGE),
                        prot,
                        flags,
                        inside: None,
                    },
                )
            }
            Step::Unmap { who, slot } => self.ask(who, Request::Unmap { map: map(slot) }),
            Step::Owner { who, owner, kind } => self.open_owner(who, owner, kind),
            Step::CloseOwner { who, owner } => match kind(who, owner).0 {
                OwnerKind::Ring => self.ring(
                    who,
                    RingCall::Drop {
                        ring: owner_name(owner),
                    },
                ),
                _ => {
                    let name = owner_name(owner);
                    self.ask(who, Request::Close { name })
                }
            },
            Step::Pin {
                who,
                owner,
                slot,
                at,
                write,
            } => {
                let (kind, pins) = kind(who, owner);
                self.pin(who, (kind, owner, pins), slot, at, write)
            }
            Step::Unpin { who, owner } => {
                let (kind, pins) = kind(who, owner);
                self.unpin(who, owner, kind, pins)
            }
            Step::Dma { who, owner } => self.dma(world, who, owner),
            Step::Change {
                who,
                op,
                file,
                partner,
                at,
                nonblock,
                look,
            } => self.change((who, op, nonblock, look), (file, partner), at, expected),
            Step::Fork { who } => self.fork(who),
            Step::KillChild => self.kill_child().map(|()| Got::default()),
            Step::Take {
                from,
                slot,
                who,
                into,
            } => {
                let name = fd(slot);
                let number = self.number_of(from, &name)?;
                let into = Slot {
                    number: into,
                    ..slot
                };
                self.take(from, number, who, fd(into))
            }
            Step::TakeOwner {
                from,
                owner,
                who,
                into,
            } => {
                let number = self.number_of(from, &owner_name(owner))?;
                self.take(from, number, who, owner_name(into))
            }
            Step::Post { who, owner } => self.ask(
                who,
                Request::Verbs(crate::uverbs::Verb::Post {
                    file: owner_name(owner),
                    socket: format!("s{owner}"),
                }),
            ),
            Step::Receive { who, owner } => self.ask(
                who,
                Request::Verbs(crate::uverbs::Verb::Receive {
                    socket: format!("s{owner}"),
                    file: owner_name(owner),
                }),
            ),
            Step::Kill { who } => {
                let role = self.roles[who];
                let mut fresh = client(role, &self.rdma)?;
                equip(&mut fresh, role)?;
                drop(std::mem::replace(&mut self.clients[who], fresh));
                Ok(Got::default())
            }
            Step::Remake { file } => {
                self.canaries.balance()?;
                let large = world.inode(file).large;
                Ok(Got {
                    value: i64::from(self.make(file, large)?),
                    ..Got::default()
                })
            }
            Step::Freeze => self.freeze().map(|()| Got::default()),
            Step::Reclaim => {
                fs::write("/proc/sys/vm/drop_caches", "2")?;
                fs::write("/proc/sys/vm/compact_memory", "1")?;
                Ok(Got::default())
            }
            Step::Audit => self.canaries.look().map(|()| Got::default()),
        }
    }

    fn audit(&mut self, world: &World, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Kill { who } => {
                self.pids
                    .insert(world.processes[*who].id, self.clients[*who].pid());
            }
            Step::Fork { .. } => {
                let child = world.children.last().context("a child")?;
                let pid = *self.children.last().context("a child")?;
                self.pids.insert(child.id, pid);
            }
            _ => {}
        }
        match step {
            Step::Kill { .. } | Step::KillChild | Step::CloseOwner { .. } => {
                self.compare(world, SETTLED)
            }
            Step::Audit => {
                self.compare(world, Duration::ZERO)?;
                self.look_at_processes(world)
            }
            _ => Ok(()),
        }
    }
}

impl Machine {
    /// The number of a descriptor in its process.
    fn number_of(&mut self, who: usize, name: &str) -> anyhow::Result<i32> {
        let reply = self.clients[who].must(Request::Number {
            name: name.to_owned(),
        })?;
        Ok(i32::try_from(reply.value)?)
    }

    fn take(&mut self, from: usize, number: i32, who: usize, name: String) -> anyhow::Result<Got> {
        let pid = self.clients[from].pid();
        self.ask(
            who,
            Request::Take {
                pid,
                fd: number,
                name,
            },
        )
    }
}
