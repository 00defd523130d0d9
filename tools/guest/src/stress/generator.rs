// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chooses steps by chance, from a seed.

use super::step::{Mode, OwnerKind, Slot, Step};
use super::world::{Role, World, ENTRY, PAGE};
use crate::ops::{subtractive, Op, Span, ADDITIVE};
use fastrand::Rng;
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};

/// Descriptors of a file that a process has at most by its own names.
const SLOTS: usize = 2;
/// Owners a process has at most.
const OWNERS: usize = 3;
/// A child ends by itself after a minute: it is killed long before.
const OLD: usize = 150;

/// A source of steps.
pub struct Generator {
    rng: Rng,
    /// Steps since the oldest child was made.
    age: usize,
    count: usize,
    /// Whether the step may take seconds.
    slow: bool,
}

impl Generator {
    /// From a seed; with `slow`, also what takes seconds.
    pub fn new(seed: u64, slow: bool) -> Generator {
        Generator {
            rng: Rng::with_seed(seed),
            age: 0,
            count: 0,
            slow,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.usize(..end.max(1))
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// A step that makes sense now.
    pub fn next(&mut self, world: &World) -> Step {
        self.count += 1;
        self.age = if world.children.is_empty() {
            0
        } else {
            self.age + 1
        };
        if self.count % 40 == 0 {
            return Step::Audit;
        }
        if self.age > OLD {
            self.age = 0;
            return Step::KillChild;
        }
        if let Some(step) = self.release(world) {
            return step;
        }
        for _ in 0..2000 {
            let step = if self.chance(4) {
                self.program(world)
            } else {
                self.any(world)
            };
            if world.expect(&step).is_some() {
                return step;
            }
        }
        Step::Audit
    }

    /// What is being broken is soon released, as it is by programs: otherwise nothing else would happen
    /// to the file.
    fn release(&mut self, world: &World) -> Option<Step> {
        if !self.chance(4) {
            return None;
        }
        for (who, process) in world.processes.iter().enumerate() {
            for (&slot, id) in &process.fds {
                let lease = world.descriptions[id].lease.as_ref();
                if lease.is_some_and(|lease| lease.breaking) && process.role != Role::Nobody {
                    let argument = libc::F_UNLCK;
                    return Some(Step::Lease {
                        who,
                        slot,
                        argument,
                    });
                }
            }
        }
        None
    }

    /// What a program does next on its way to a pin. By mere chance hardly anybody would get there.
    fn program(&mut self, world: &World) -> Step {
        let able: Vec<usize> = (0..world.processes.len())
            .filter(|&who| world.processes[who].role != Role::Nobody)
            .collect();
        let who = able[self.below(able.len())];
        let process = &world.processes[who];
        let open = |(_, id): &(&Slot, &u32)| world.descriptions[*id].write;
        let held: Vec<Slot> = process.fds.iter().filter(open).map(|(s, _)| *s).collect();
        if held.is_empty() {
            let (file, number) = (self.below(world.files.len()), self.below(SLOTS));
            let (slot, write) = (Slot { file, number }, true);
            return Step::Open { who, slot, write };
        }
        let slot = held[self.below(held.len())];
        let description = &world.descriptions[&process.fds[&slot]];
        let leased = description.lease.as_ref().is_some_and(|l| l.exclusive);
        if !leased {
            let kind = if self.chance(4) {
                libc::F_WRLCK
            } else {
                libc::F_RDLCK
            };
            let argument = kind | F_LAYOUT | F_EXCLUSIVE;
            return Step::Lease {
                who,
                slot,
                argument,
            };
        }
        let Some(mapping) = process.maps.get(&slot) else {
            let mode = Mode::Shared;
            return Step::Map { who, slot, mode };
        };
        let owners: Vec<usize> = process.owners.keys().copied().collect();
        if owners.is_empty() || (process.role == Role::Root && self.chance(6)) {
            return self.owner(who);
        }
        let inode = &world.inodes[description.inode];
        Step::Pin {
            who,
            owner: owners[self.below(owners.len())],
            slot,
            at: self.span(inode.size.min(mapping.length), inode.large),
            write: !self.chance(4),
        }
    }

    fn owner(&mut self, who: usize) -> Step {
        Step::Owner {
            who,
            owner: self.below(OWNERS),
            kind: if self.chance(3) {
                OwnerKind::Ring
            } else {
                OwnerKind::Gup
            },
        }
    }

    fn argument(&mut self) -> i32 {
        match self.below(16) {
            0 => F_LAYOUT,
            1 => F_LAYOUT | libc::F_WRLCK,
            2..=5 => F_LAYOUT | F_EXCLUSIVE,
            6..=7 => F_LAYOUT | F_EXCLUSIVE | libc::F_WRLCK,
            8..=11 => libc::F_UNLCK,
            12 => libc::F_RDLCK,
            13 => F_LAYOUT | libc::F_UNLCK,
            14 => F_EXCLUSIVE,
            _ => self.rng.i32(0..0x10000),
        }
    }

    fn span(&mut self, size: u64, large: bool) -> Span {
        let pages = size / PAGE;
        if pages == 0 {
            return Span::new(0, 0);
        }
        if large && self.chance(3) {
            let entries = (size / ENTRY).max(1);
            return Span::new(self.rng.u64(..entries) * ENTRY, ENTRY);
        }
        let offset = self.rng.u64(..pages);
        let longest = (pages - offset).min(if self.chance(4) { 64 } else { 8 });
        let length = 1 + self.rng.u64(..longest);
        Span::new(offset * PAGE, length * PAGE)
    }

    /// Where a change is: often a page at the edge of a pin, or the one beside it. What keeps a page too
    /// few or too many would hardly ever be met otherwise.
    fn change_at(&mut self, world: &World, file: usize) -> Span {
        let pins: Vec<Span> = world.pins(world.files[file]).map(|pin| pin.at).collect();
        if pins.is_empty() || self.chance(2) {
            let inode = world.inode(file);
            return self.span(inode.size, inode.large);
        }
        let pin = pins[self.below(pins.len())];
        let end = pin.offset + pin.length;
        let pages = [pin.offset.saturating_sub(PAGE), pin.offset, end - PAGE, end];
        Span::new(pages[self.below(pages.len())], PAGE)
    }

    fn op(&mut self, world: &World) -> Op {
        if self.chance(4) {
            return ADDITIVE[self.below(ADDITIVE.len())];
        }
        let all: Vec<Op> = subtractive(world.fs).collect();
        let op = all[self.below(all.len())];
        // What makes a file useless for most of the rest comes less often.
        let drastic = matches!(
            op,
            Op::OpenTruncate
                | Op::SwapBoot
                | Op::ReflinkFrom
                | Op::ReflinkTo
                | Op::DedupeFrom
                | Op::DedupeTo
        );
        if drastic && !self.chance(3) {
            Op::Punch
        } else {
            op
        }
    }

    #[cfg(test)]
    pub fn any_for_tests(&mut self, world: &World) -> Step {
        self.any(world)
    }

    /// Whoever has something of the kind, mostly.
    fn any(&mut self, world: &World) -> Step {
        let who = self.below(world.processes.len());
        let file = self.below(world.files.len());
        let number = self.below(SLOTS);
        let slot = Slot { file, number };
        let owner = self.below(OWNERS);
        let held: Vec<Slot> = world.processes[who].fds.keys().copied().collect();
        let mapped: Vec<Slot> = world.processes[who].maps.keys().copied().collect();
        let some = |generator: &mut Generator, list: &[Slot]| match list.len() {
            0 => slot,
            len => list[generator.below(len)],
        };
        match self.below(100) {
            0..=9 => Step::Open {
                who,
                slot,
                write: !self.chance(6),
            },
            10..=12 => Step::Close {
                who,
                slot: some(self, &held),
            },
            13..=27 => Step::Lease {
                who,
                slot: some(self, &held),
                argument: self.argument(),
            },
            28..=31 => Step::GetLease {
                who,
                slot: some(self, &held),
            },
            32..=37 => Step::Map {
                who,
                slot: some(self, &held),
                mode: match self.below(8) {
                    0 => Mode::SharedRead,
                    1 => Mode::Private,
                    _ => Mode::Shared,
                },
            },
            38..=39 => Step::Unmap {
                who,
                slot: some(self, &mapped),
            },
            40..=42 => self.owner(who),
            43 => Step::CloseOwner { who, owner },
            44..=55 => {
                let slot = some(self, &mapped);
                let inode = world.inode(slot.file);
                let (size, large) = (inode.size + PAGE, inode.large);
                Step::Pin {
                    who,
                    owner,
                    slot,
                    at: self.span(size, large),
                    write: !self.chance(4),
                }
            }
            56..=59 => Step::Unpin { who, owner },
            60..=64 => Step::Dma { who, owner },
            65 => Step::Fsync {
                who,
                slot: some(self, &held),
            },
            66..=86 => {
                let at = self.change_at(world, file);
                Step::Change {
                    who,
                    op: self.op(world),
                    file,
                    partner: self.below(world.files.len()),
                    at,
                    nonblock: self.chance(3),
                    look: self.chance(8),
                }
            }
            87 => Step::Fork { who },
            88 => Step::KillChild,
            89..=90 => {
                let from = self.below(world.processes.len());
                let theirs: Vec<Slot> = world.processes[from].fds.keys().copied().collect();
                Step::Take {
                    from,
                    slot: some(self, &theirs),
                    who,
                    into: SLOTS + number,
                }
            }
            91 => Step::TakeOwner {
                from: self.below(world.processes.len()),
                owner,
                who,
                into: self.below(OWNERS),
            },
            92 => Step::Post { who, owner },
            93..=94 => Step::Receive { who, owner },
            95 => {
                let verbs = world.processes[who].role == Role::Verbs;
                if self.chance(if verbs { 200 } else { 3 }) && (self.slow || !verbs) {
                    Step::Kill { who }
                } else {
                    Step::Unpin { who, owner }
                }
            }
            96..=98 => {
                let inode = world.inode(file);
                let spoilt = inode.size < 32 * PAGE || inode.cow != super::world::Maybe::No;
                if spoilt || self.chance(8) {
                    Step::Remake { file }
                } else {
                    Step::GetLease { who, slot }
                }
            }
            _ if self.chance(2) => Step::Freeze,
            _ => Step::Reclaim,
        }
    }
}
