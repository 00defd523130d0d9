// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the contract says that a step must return.

use super::step::{Mode, OwnerKind, Slot, Step};
use super::world::{overlap, Inode, Lease, Maybe, Owner, Role, World, ENTRY, PAGE};
use crate::ops::{Op, Span};
use crate::setup::Fs;
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};

/// Pins a verbs client has at most.
const REGIONS: usize = 4;
/// Processes and children there are at most, besides the ones that do things.
const CHILDREN: usize = 4;
/// Bytes up to which a small file may grow: never to a large entry.
const LIMIT: u64 = ENTRY - (128 << 10);

/// What a step must return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// One of these.
    pub errnos: Vec<i32>,
    /// What F_GETLEASE says.
    pub value: Option<i64>,
    /// The leases that are broken, and whose holders are signalled.
    pub breaks: Vec<Broken>,
    /// Waits until these are released, and only then succeeds.
    pub waits: bool,
}

/// A lease that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// On which description.
    pub description: u32,
    /// The place of the process that is signalled, if it is there and has not been.
    pub signalled: Option<usize>,
    /// A process that has the description, and under what name.
    pub release: (usize, Slot),
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// The errno.
    pub errno: i32,
    /// What was returned.
    pub value: i64,
    /// The sizes of the files of a change, afterwards.
    pub sizes: Vec<u64>,
}

fn is(errno: i32) -> Option<Expected> {
    any(&[errno])
}

fn any(errnos: &[i32]) -> Option<Expected> {
    Some(Expected {
        errnos: errnos.to_vec(),
        ..Expected::default()
    })
}

impl World {
    /// What the step must return; nothing for one that makes no sense now.
    pub fn expect(&self, step: &Step) -> Option<Expected> {
        match *step {
            Step::Open { who, slot, .. } => {
                let process = &self.processes[who];
                // Names are used again only when nothing has them.
                let taken = process.fds.contains_key(&slot) || process.maps.contains_key(&slot);
                (!taken).then(|| is(0)).flatten()
            }
            Step::Close { who, slot } | Step::Fsync { who, slot } => {
                self.processes[who].fds.get(&slot)?;
                is(0)
            }
            Step::Lease {
                who,
                slot,
                argument,
            } => self.lease(who, slot, argument),
            Step::GetLease { who, slot } => {
                let description = &self.descriptions[self.processes[who].fds.get(&slot)?];
                let value = match &description.lease {
                    Some(lease) if !lease.breaking => lease.argument(),
                    _ => libc::F_UNLCK,
                };
                Some(Expected {
                    value: Some(value.into()),
                    ..is(0)?
                })
            }
            Step::Map { who, slot, mode } => {
                let process = &self.processes[who];
                let description = &self.descriptions[process.fds.get(&slot)?];
                let size = self.inodes[description.inode].size;
                if size == 0 || process.maps.contains_key(&slot) {
                    return None;
                }
                let refused = mode == Mode::Shared && !description.write;
                is(if refused { libc::EACCES } else { 0 })
            }
            Step::Unmap { who, slot } => {
                self.processes[who].maps.get(&slot)?;
                is(0)
            }
            Step::Owner { who, owner, kind } => {
                let process = &self.processes[who];
                let taken = process.owners.contains_key(&owner);
                let can = process.role == Role::Root && kind != OwnerKind::Verbs;
                (can && !taken).then(|| is(0)).flatten()
            }
            Step::CloseOwner { who, owner } => {
                let id = self.processes[who].owners.get(&owner)?;
                (self.owners[id].kind != OwnerKind::Verbs)
                    .then(|| is(0))
                    .flatten()
            }
            Step::Pin {
                who,
                owner,
                slot,
                at,
                write,
            } => self.pin(who, owner, slot, at, write),
            Step::Unpin { who, owner } => {
                let owner = self.own(who, owner)?;
                let nothing = owner.pins.is_empty();
                match owner.kind {
                    OwnerKind::Gup => is(0),
                    OwnerKind::Ring if nothing => is(libc::ENXIO),
                    OwnerKind::Verbs if nothing => None,
                    _ => is(0),
                }
            }
            Step::Dma { who, owner } => {
                let owner = self.own(who, owner)?;
                let pin = owner.pins.first()?;
                let mapping = self.processes[who].maps.get(&pin.slot)?;
                let can = pin.write && mapping.id == pin.mapping && owner.kind != OwnerKind::Gup;
                can.then(|| is(0)).flatten()
            }
            Step::Change {
                who,
                op,
                file,
                partner,
                at,
                nonblock,
                ..
            } => self.change(who, op, (file, partner), at, nonblock),
            Step::Fork { .. } => (self.children.len() < CHILDREN).then(|| is(0)).flatten(),
            Step::KillChild => (!self.children.is_empty()).then(|| is(0)).flatten(),
            Step::Take {
                from,
                slot,
                who,
                into,
            } => {
                self.processes[from].fds.get(&slot)?;
                let into = Slot {
                    number: into,
                    ..slot
                };
                let process = &self.processes[who];
                let taken = process.fds.contains_key(&into) || process.maps.contains_key(&into);
                let may = process.role != Role::Nobody;
                (may && !taken && from != who).then(|| is(0)).flatten()
            }
            Step::TakeOwner {
                from,
                owner,
                who,
                into,
            } => {
                let taken = self.processes[who].owners.contains_key(&into);
                // A ring that was passed on can be looked at and closed only: nothing else has its queues.
                let of = &self.owners[self.processes[from].owners.get(&owner)?];
                let may = self.processes[who].role == Role::Root && of.kind == OwnerKind::Gup;
                (may && !taken && from != who).then(|| is(0)).flatten()
            }
            Step::Post { who, owner } => {
                let process = &self.processes[who];
                let id = process.owners.get(&owner)?;
                let free = !process.posted.contains_key(&owner);
                (free && self.owners[id].kind == OwnerKind::Gup)
                    .then(|| is(0))
                    .flatten()
            }
            Step::Receive { who, owner } => {
                let process = &self.processes[who];
                let posted = process.posted.get(&owner)?;
                // A child that was forked meanwhile has the socket as well: who comes first is open.
                let shared = self.children.iter().any(|c| c.posted.contains(posted));
                let free = !process.owners.contains_key(&owner);
                (free && !shared).then(|| is(0)).flatten()
            }
            Step::Kill { .. } | Step::Remake { .. } | Step::Reclaim | Step::Audit => is(0),
            Step::Freeze => is(0),
        }
    }

    fn own(&self, who: usize, owner: usize) -> Option<&Owner> {
        Some(&self.owners[self.processes[who].owners.get(&owner)?])
    }

    /// The table of F_SETLEASE.
    fn lease(&self, who: usize, slot: Slot, argument: i32) -> Option<Expected> {
        let process = &self.processes[who];
        let id = *process.fds.get(&slot)?;
        let description = &self.descriptions[&id];
        let inode = &self.inodes[description.inode];
        let kind = argument & !(F_LAYOUT | F_EXCLUSIVE);
        let layout = argument & F_LAYOUT != 0;
        let known = kind == libc::F_RDLCK || kind == libc::F_WRLCK;
        if argument == libc::F_UNLCK {
            let own = description.lease.is_some();
            return is(match (process.role, own) {
                (Role::Nobody, _) => libc::EACCES,
                (_, true) => 0,
                (_, false) => libc::EAGAIN,
            });
        }
        if argument == libc::F_RDLCK {
            // A plain lease would make others wait for opens; one that cannot be had is harmless.
            let refused = match process.role {
                Role::Nobody => libc::EACCES,
                _ => libc::EAGAIN,
            };
            return description.write.then(|| is(refused)).flatten();
        }
        if argument == libc::F_WRLCK {
            return None;
        }
        if !layout || !known {
            return is(libc::EINVAL);
        }
        // The verbs client would be killed by the signal.
        if process.role == Role::Verbs && argument & F_EXCLUSIVE == 0 {
            return None;
        }
        if argument & F_EXCLUSIVE != 0 && !description.write {
            return is(libc::EBADF);
        }
        if inode.cow == Maybe::Yes {
            return is(libc::EOPNOTSUPP);
        }
        let own_is_breaking = description.lease.as_ref().is_some_and(|l| l.breaking);
        let conflict = self.leases(description.inode).any(|(other, lease)| {
            other != id && (kind == libc::F_WRLCK || lease.sole || lease.breaking)
        });
        let errno = if process.role == Role::Nobody {
            libc::EACCES
        } else if own_is_breaking || conflict {
            libc::EAGAIN
        } else {
            0
        };
        match inode.cow {
            Maybe::No => is(errno),
            _ => any(&[errno, libc::EOPNOTSUPP]),
        }
    }

    /// The table of pinning.
    fn pin(&self, who: usize, owner: usize, slot: Slot, at: Span, write: bool) -> Option<Expected> {
        let process = &self.processes[who];
        let owner = self.own(who, owner)?;
        let mapping = process.maps.get(&slot)?;
        let fits = at.length > 0 && at.offset + at.length <= mapping.length;
        let room = match owner.kind {
            OwnerKind::Gup => owner.pins.len() < 8,
            OwnerKind::Ring => owner.pins.is_empty() && write,
            OwnerKind::Verbs => owner.pins.len() < REGIONS,
        };
        // Rings are asked by those who made them only.
        let mine = owner.kind != OwnerKind::Ring || owner.maker == process.id;
        if !fits || !room || !mine {
            return None;
        }
        if mapping.mode == Mode::Private {
            return is(libc::EOPNOTSUPP);
        }
        let inode = self.descriptions[&mapping.description].inode;
        let its = self.leases(inode).filter(|(description, lease)| {
            *description == mapping.description || lease.holder == process.id
        });
        let mut lease = libc::EOPNOTSUPP;
        for (_, found) in its {
            lease = match lease {
                0 => 0,
                _ if found.exclusive && !found.breaking => 0,
                _ => libc::EPERM,
            };
        }
        let inode = &self.inodes[inode];
        let behind = at.offset + at.length > inode.size.next_multiple_of(PAGE);
        let only_read = mapping.mode == Mode::SharedRead;
        let mut errnos = vec![if lease != 0 {
            lease
        } else if (write && only_read) || behind {
            libc::EFAULT
        } else {
            0
        }];
        if errnos[0] == 0 && only_read && !inode.fresh {
            errnos.push(libc::EFAULT);
        }
        match inode.cow {
            Maybe::No => {}
            Maybe::Yes => errnos = vec![libc::EOPNOTSUPP],
            Maybe::Unknown => errnos.push(libc::EOPNOTSUPP),
        }
        any(&errnos)
    }

    /// Whether a change of a range is refused to a process.
    fn refused(&self, inode: usize, who: u32, at: Span) -> Maybe {
        let leased = self
            .leases(inode)
            .any(|(_, lease)| lease.exclusive && lease.holder != who);
        let pinned = self.pins(inode).map(|pin| {
            if overlap(pin.sure, at) {
                Maybe::Yes
            } else if overlap(pin.perhaps, at) {
                Maybe::Unknown
            } else {
                Maybe::No
            }
        });
        pinned.fold(if leased { Maybe::Yes } else { Maybe::No }, Maybe::or)
    }

    /// The table of layout changes.
    fn change(
        &self,
        who: usize,
        op: Op,
        files: (usize, usize),
        at: Span,
        nonblock: bool,
    ) -> Option<Expected> {
        let process = &self.processes[who];
        let special = op.needs_root() || matches!(op, Op::SwapTarget | Op::SwapTemporary);
        if !op.exists_on(self.fs)
            || files.0 == files.1
            || (special && process.role != Role::Root)
            || (nonblock && op.takes_a_path())
        {
            return None;
        }
        let (file, partner) = (self.inode(files.0), self.inode(files.1));
        if !possible(op, file, partner, at) {
            return None;
        }
        if matches!(
            op,
            Op::Append
                | Op::Extend
                | Op::Overwrite
                | Op::Allocate
                | Op::AllocateBehind
                | Op::SameSize
        ) {
            return (!nonblock).then(|| is(0)).flatten();
        }
        let touched = touched(self.fs, op, at);
        let mut inodes = vec![self.files[files.0]];
        if op.takes_two_files() {
            inodes.push(self.files[files.1]);
        }
        let refused = inodes.iter().fold(Maybe::No, |so_far, &inode| {
            so_far.or(self.refused(inode, process.id, touched))
        });
        if refused == Maybe::Yes {
            return is(libc::ETXTBSY);
        }
        let mut expected = is(0)?;
        let mut broken_on = 0;
        for &inode in &inodes {
            let before = expected.breaks.len();
            for (description, lease) in self.leases(inode) {
                if lease.exclusive || lease.holder == process.id {
                    continue;
                }
                expected.breaks.push(self.broken(who, description, lease)?);
            }
            broken_on += usize::from(expected.breaks.len() > before);
        }
        if !expected.breaks.is_empty() {
            // Which file's leases are asked for first is open.
            if broken_on > 1 || (refused != Maybe::No) {
                return None;
            }
            expected.waits = !nonblock;
            expected.errnos = vec![if nonblock { libc::EWOULDBLOCK } else { 0 }];
        }
        if refused == Maybe::Unknown {
            expected.errnos.push(libc::ETXTBSY);
        }
        // Which files can be swapped as a whole is the filesystem's affair.
        let swaps = matches!(op, Op::SwapTarget | Op::SwapTemporary);
        if swaps && !(file.fresh && partner.fresh) {
            expected.errnos.push(libc::EINVAL);
        }
        Some(expected)
    }

    /// Who is told of a break, and who can release the lease meanwhile.
    fn broken(&self, who: usize, description: u32, lease: &Lease) -> Option<Broken> {
        let place = |id: u32| self.processes.iter().position(|p| p.id == id);
        let mut release = None;
        for (index, process) in self.processes.iter().enumerate() {
            if index == who || process.role == Role::Nobody {
                continue;
            }
            let named = process.fds.iter().find(|(_, d)| **d == description);
            release = release.or(named.map(|(slot, _)| (index, *slot)));
        }
        Some(Broken {
            description,
            signalled: place(lease.holder).filter(|_| !lease.breaking),
            release: release?,
        })
    }
}

/// The range whose blocks an operation touches.
pub fn touched(fs: Fs, op: Op, at: Span) -> Span {
    let to_the_end = |from: u64| Span::new(from, u64::MAX - from);
    if !op.has_range() {
        return to_the_end(0);
    }
    match op {
        // XFS tries to merge what it shifts with what is before that.
        Op::Collapse | Op::Insert if fs == Fs::Xfs => to_the_end(at.offset.saturating_sub(PAGE)),
        _ if op.reaches_the_end() => to_the_end(at.offset),
        _ => at,
    }
}

/// Whether the filesystem carries the operation out if nobody minds.
fn possible(op: Op, file: &Inode, partner: &Inode, at: Span) -> bool {
    let end = at.offset + at.length;
    let limit = if file.large { u64::MAX } else { LIMIT };
    let inside = at.length > 0 && end <= file.size;
    match op {
        Op::Truncate | Op::Ftruncate => at.offset < file.size,
        Op::OpenTruncate | Op::SameSize => file.size > 0,
        Op::SwapBoot => !file.large,
        Op::Collapse => inside && end < file.size,
        Op::Insert => inside && file.size + at.length <= limit && !file.large,
        Op::SwapTarget | Op::SwapTemporary => {
            let plain = |inode: &Inode| inode.cow == Maybe::No && !inode.large;
            file.size == partner.size && file.size > 0 && plain(file) && plain(partner)
        }
        Op::Append | Op::Extend | Op::AllocateBehind => {
            file.size + (64 << 10) <= limit.min(2 * LIMIT)
        }
        _ if op.takes_two_files() => inside && end <= partner.size,
        _ => inside,
    }
}
