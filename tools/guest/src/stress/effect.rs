// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the state is after a step.

use super::oracle::{touched, Expected, Got};
use super::step::{Slot, Step};
use super::world::{
    overlap, Child, Description, Inode, Lease, Mapping, Maybe, Owner, Pin, World, ENTRY, PAGE,
};
use crate::ops::{Op, Span};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};

impl World {
    /// What the state is after a step that returned this, which was expected.
    pub fn apply(&mut self, step: &Step, expected: &Expected, got: &Got) {
        match *step {
            Step::Open { who, slot, write } => {
                let id = self.number();
                let inode = self.files[slot.file];
                let description = Description {
                    inode,
                    write,
                    lease: None,
                };
                self.descriptions.insert(id, description);
                self.processes[who].fds.insert(slot, id);
            }
            Step::Close { who, slot } => {
                self.processes[who].fds.remove(&slot);
            }
            Step::Lease {
                who,
                slot,
                argument,
            } => self.leased(who, slot, argument, got.errno),
            Step::Map { who, slot, mode } if got.errno == 0 => {
                let id = self.number();
                let process = &mut self.processes[who];
                let description = process.fds[&slot];
                let size = self.inodes[self.descriptions[&description].inode].size;
                let mapping = Mapping {
                    description,
                    length: size.next_multiple_of(PAGE),
                    mode,
                    id,
                };
                process.maps.insert(slot, mapping);
            }
            Step::Unmap { who, slot } => {
                self.processes[who].maps.remove(&slot);
            }
            Step::Owner { who, owner, kind } => {
                let id = self.number();
                let maker = self.processes[who].id;
                let pins = Vec::new();
                self.owners.insert(id, Owner { kind, maker, pins });
                self.processes[who].owners.insert(owner, id);
            }
            Step::CloseOwner { who, owner } => {
                self.processes[who].owners.remove(&owner);
            }
            Step::Pin {
                who,
                owner,
                slot,
                at,
                write,
            } if got.errno == 0 => {
                let mapping = &self.processes[who].maps[&slot];
                let (description, mapping) = (mapping.description, mapping.id);
                let inode = &self.inodes[self.descriptions[&description].inode];
                let (sure, perhaps) = inode.widened(at);
                let pin = Pin {
                    description,
                    at,
                    write,
                    sure,
                    perhaps,
                    mapping,
                    slot,
                };
                let owner = self.processes[who].owners[&owner];
                if let Some(owner) = self.owners.get_mut(&owner) {
                    owner.pins.push(pin);
                }
            }
            Step::Unpin { who, owner } if got.errno == 0 => {
                let owner = self.processes[who].owners[&owner];
                if let Some(owner) = self.owners.get_mut(&owner) {
                    owner.pins.clear();
                }
            }
            Step::Change {
                op,
                file,
                partner,
                at,
                ..
            } => {
                for broken in &expected.breaks {
                    if let Some(description) = self.descriptions.get_mut(&broken.description) {
                        if expected.waits {
                            description.lease = None;
                        } else if let Some(lease) = &mut description.lease {
                            lease.breaking = true;
                        }
                    }
                }
                if got.errno == 0 {
                    self.changed(op, file, partner, at, got);
                }
            }
            Step::Fork { who } => {
                let id = self.number();
                let process = &self.processes[who];
                let mapped = process.maps.values().map(|m| m.description);
                self.children.push(Child {
                    id,
                    descriptions: process.fds.values().copied().chain(mapped).collect(),
                    owners: process.owners.values().copied().collect(),
                    posted: process.posted.values().copied().collect(),
                });
            }
            Step::KillChild => {
                self.children.remove(0);
            }
            Step::Take {
                from,
                slot,
                who,
                into,
            } => {
                let description = self.processes[from].fds[&slot];
                let into = Slot {
                    number: into,
                    ..slot
                };
                self.processes[who].fds.insert(into, description);
            }
            Step::TakeOwner {
                from,
                owner,
                who,
                into,
            } => {
                let id = self.processes[from].owners[&owner];
                self.processes[who].owners.insert(into, id);
            }
            Step::Post { who, owner } => {
                let process = &mut self.processes[who];
                if let Some(id) = process.owners.remove(&owner) {
                    process.posted.insert(owner, id);
                }
            }
            Step::Receive { who, owner } => {
                let process = &mut self.processes[who];
                if let Some(id) = process.posted.remove(&owner) {
                    process.owners.insert(owner, id);
                }
            }
            Step::Kill { who } => {
                let fresh = self.process(self.processes[who].role);
                self.processes[who] = fresh;
            }
            Step::Remake { file } => {
                let old = self.files[file];
                self.inodes[old].linked = false;
                let mut fresh = Inode::fresh(file, self.inodes[old].large);
                let known = if got.value == 1 {
                    Maybe::Yes
                } else {
                    Maybe::Unknown
                };
                fresh.entries.fill(known);
                self.files[file] = self.inodes.len();
                self.inodes.push(fresh);
            }
            Step::Reclaim => {
                // What nobody has open may have gone, and with it how it was mapped.
                let open = &self.descriptions;
                for (index, inode) in self.inodes.iter_mut().enumerate() {
                    if !open.values().any(|d| d.inode == index) {
                        inode.entries.fill(Maybe::Unknown);
                    }
                }
            }
            Step::Map { .. }
            | Step::Pin { .. }
            | Step::Unpin { .. }
            | Step::GetLease { .. }
            | Step::Fsync { .. }
            | Step::Dma { .. }
            | Step::Freeze
            | Step::Audit => {}
        }
        self.collect();
    }

    fn leased(&mut self, who: usize, slot: Slot, argument: i32, errno: i32) {
        let process = &self.processes[who];
        let (id, holder) = (process.fds[&slot], process.id);
        let Some(description) = self.descriptions.get_mut(&id) else {
            return;
        };
        let inode = &mut self.inodes[description.inode];
        if argument == libc::F_UNLCK {
            if errno == 0 {
                description.lease = None;
            }
            return;
        }
        if errno == libc::EOPNOTSUPP {
            inode.cow = Maybe::Yes;
        }
        if errno == 0 {
            inode.cow = Maybe::No;
            description.lease = Some(Lease {
                sole: argument & !(F_LAYOUT | F_EXCLUSIVE) == libc::F_WRLCK,
                exclusive: argument & F_EXCLUSIVE != 0,
                holder,
                breaking: false,
            });
        }
    }

    /// The files after a change that succeeded.
    fn changed(&mut self, op: Op, file: usize, partner: usize, at: Span, got: &Got) {
        let touched = touched(self.fs, op, at);
        let inodes = (self.files[file], self.files[partner]);
        let size = |n: usize, old: u64| got.sizes.get(n).copied().unwrap_or(old);
        let first = &mut self.inodes[inodes.0];
        first.size = size(0, first.size);
        match op {
            Op::Overwrite | Op::Allocate | Op::AllocateBehind | Op::SameSize => return,
            Op::Append => {
                first.fresh = false;
                return;
            }
            // What is beyond the old end is a hole.
            Op::Extend => {
                first.fresh = false;
                return;
            }
            Op::DedupeFrom | Op::DedupeTo if got.value != 0 => return,
            _ => {}
        }
        first.disturb(touched);
        if op.takes_two_files() {
            let second = &mut self.inodes[inodes.1];
            second.size = size(1, second.size);
            second.disturb(touched);
        }
        let either = self.inodes[inodes.0].cow.or(self.inodes[inodes.1].cow);
        let both = |world: &mut World, cow: Maybe| {
            world.inodes[inodes.0].cow = cow;
            world.inodes[inodes.1].cow = cow;
        };
        match op {
            Op::ReflinkFrom | Op::ReflinkTo | Op::DedupeFrom | Op::DedupeTo => {
                both(self, Maybe::Yes);
            }
            // Whose blocks are shared afterwards is the filesystem's affair.
            Op::ExchangeFirst | Op::ExchangeSecond | Op::SwapTarget | Op::SwapTemporary
                if either != Maybe::No =>
            {
                both(self, Maybe::Unknown);
            }
            // The last shared block may have gone.
            Op::Unshare | Op::Truncate | Op::Ftruncate | Op::OpenTruncate
                if self.inodes[inodes.0].cow == Maybe::Yes =>
            {
                self.inodes[inodes.0].cow = Maybe::Unknown;
            }
            _ => {}
        }
    }
}

impl Inode {
    /// Blocks of the range are not what they were.
    fn disturb(&mut self, at: Span) {
        self.fresh = false;
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if overlap(Span::new(index as u64 * ENTRY, ENTRY), at) {
                *entry = Maybe::Unknown;
            }
        }
    }
}
