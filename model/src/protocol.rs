// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol as `stateright` sees it: what can happen in a state, and what it leads to.

use crate::mutation::Mutation;
use crate::op::Op;
use crate::pinner::{fault, fault_waits, mapped_for};
use crate::property::Property;
use crate::scenario::Scenario;
use crate::state::{
    bit, each, At, ChangeAt, Invalidation, Pgmap, PinAt, Proc, Pte, Release, State, Writeback,
    PROCESSES, RANGES, UVERBS,
};

/// One step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A process makes a call.
    Call(u8, Op),
    /// A process goes on in its call.
    Step(u8),
    /// A fatal signal for a process that sleeps.
    Kill(u8),
    /// The last descriptor of an uverbs file has been closed.
    Close(u8),
    /// A registration is released, step by step.
    Release(u8),
    /// `locks_remove_file()`: the last reference to a description is gone.
    RemoveLease(u8),
    /// `time_out_leases()`: a lease that is being broken has not been released in time.
    TimeOut(u8),
    /// The inode is evicted.
    Evict,
    /// Writeback of the entry of a range begins.
    WritebackBegin(u8),
    /// It goes on.
    Writeback,
    /// Invalidation of the entry of a range begins.
    InvalidationBegin(u8),
    /// It goes on.
    Invalidation,
    /// A device writes to a range.
    Dma(u8, u8),
    /// The driver of the device is unbound.
    Unbind,
    /// `memunmap_pages()`: nobody refers to the device mapping any more.
    Unmap,
    /// The file is unlinked.
    Unlink,
}

/// The protocol in a scenario, with a planted bug or without.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Who there is, and what they may do.
    pub scenario: Scenario,
    /// The planted bug.
    pub mutation: Option<Mutation>,
    /// The promises to look at, by their number.
    pub promises: u16,
}

impl Protocol {
    /// The protocol as it is in the kernel, and all promises.
    pub fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            mutation: None,
            promises: Property::ALL.iter().fold(0, |set, p| set | p.bit()),
        }
    }

    /// The protocol with a planted bug, and the promise that it breaks.
    pub fn mutated(mutation: Mutation) -> Self {
        Self {
            scenario: Scenario::named(mutation.scenario()).shortened(),
            mutation: Some(mutation),
            promises: mutation.breaks().bit(),
        }
    }

    /// Returns whether this bug is planted.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Returns the thread group of a process.
    pub fn group(&self, process: u8) -> u8 {
        self.scenario.roles[usize::from(process)].group
    }

    /// Returns whether a process can make this call now.
    fn can_call(&self, s: &State, process: u8, op: Op) -> bool {
        let p = &s.procs[usize::from(process)];
        let store = |range| mapped_for(s, process, range, true) || !fault_waits(self, s, range);
        match op {
            Op::Lease { desc, .. } => p.files & bit(desc) != 0,
            Op::Unlock(desc) => p.files & bit(desc) != 0 && s.leases[usize::from(desc)].is_some(),
            Op::Pin { reg, .. } => {
                let pinning = |p: &Proc| matches!(&p.at, At::Pin(call) if call.reg == reg);
                let free = s.regs[usize::from(reg)].is_none() && !s.procs.iter().any(pinning);
                p.uverbs & bit(reg) != 0 && p.map.is_some() && free
            }
            Op::Unpin(reg) => {
                let r = &s.regs[usize::from(reg)];
                p.uverbs & bit(reg) != 0 && r.device != 0 && r.release == Release::No
            }
            Op::Change(change) => p.files != 0 && change.ranges & !s.file.beyond_eof != 0,
            Op::Transfer(_) => p.map.is_some(),
            Op::Store(range) => {
                p.map.is_some() && s.file.beyond_eof & bit(range) == 0 && store(range)
            }
            Op::Munmap => p.map.is_some(),
            Op::Close(desc) => p.files & bit(desc) != 0,
            Op::PassFile(desc, to) => {
                let to = &s.procs[usize::from(to)];
                p.files & bit(desc) != 0 && to.alive && to.map.is_none()
            }
            Op::PassUverbs(reg, to) => {
                let to = &s.procs[usize::from(to)];
                p.uverbs & bit(reg) != 0 && to.alive && to.uverbs & bit(reg) == 0
            }
            Op::Exit => true,
        }
    }

    /// Lists what happens by itself: steps within calls, and what the kernel does unasked.
    pub fn by_itself(&self, s: &State, actions: &mut Vec<Action>) {
        for (p, n) in s.procs.iter().zip(0u8..) {
            let waits = match &p.at {
                At::User => true,
                At::Lease(_, at) => {
                    *at == crate::state::LeaseAt::Lock
                        && s.invalidate_writer.is_some()
                        && !self.has(Mutation::GrantWithoutInvalidateLock)
                }
                At::Pin(call) => self.pin_waits(s, n, call),
                At::Change(call) => self.change_waits(s, call),
                At::Transfer(range, at) => self.transfer_waits(s, n, *range, *at),
                At::ExitFiles => false,
            };
            if !waits {
                actions.push(Action::Step(n));
            }
        }
        for (r, n) in s.regs.iter().zip(0u8..) {
            if r.release != Release::No {
                actions.push(Action::Release(n));
            }
            if self.close_due(s, n) {
                actions.push(Action::Close(n));
            }
        }
        for (lease, n) in s.leases.iter().zip(0u8..) {
            let Some(lease) = lease else { continue };
            if !s.open(n) {
                actions.push(Action::RemoveLease(n));
            }
            if lease.breaking {
                actions.push(Action::TimeOut(n));
            }
        }
        let unused =
            (0..PROCESSES as u8).all(|n| !s.open(n)) && s.leases.iter().all(Option::is_none);
        if !s.file.linked && !s.file.evicted && unused {
            actions.push(Action::Evict);
        }
        if s.writeback != Writeback::Idle {
            actions.push(Action::Writeback);
        }
        if self.invalidation_goes_on(s) {
            actions.push(Action::Invalidation);
        }
        if s.pgmap == Pgmap::Dying && s.regs.iter().all(|r| !r.pgmap) {
            actions.push(Action::Unmap);
        }
    }

    /// Lists what somebody may choose to do.
    fn by_choice(&self, s: &State, actions: &mut Vec<Action>) {
        for (p, n) in s.procs.iter().zip(0u8..) {
            if p.at == At::User && p.alive && p.calls > 0 {
                let ops = &self.scenario.roles[usize::from(n)].ops;
                let can = ops.iter().filter(|op| self.can_call(s, n, **op));
                actions.extend(can.map(|op| Action::Call(n, *op)));
            }
            if let At::Change(call) = &p.at {
                if s.left.kills > 0 && self.change_killable(call) {
                    actions.push(Action::Kill(n));
                }
            }
        }
        for range in 0..RANGES as u8 {
            // An entry of PMD size is one entry.
            if s.file.pmd && range > 0 {
                break;
            }
            let entry = s.entry(range);
            let there = s.file.entries & entry != 0 && s.file.locked & entry == 0;
            let dirty = s.file.dirty & entry != 0;
            if there && dirty && s.left.writebacks > 0 && s.writeback == Writeback::Idle {
                actions.push(Action::WritebackBegin(range));
            }
            if there && !dirty && s.left.invalidations > 0 && s.invalidation == Invalidation::Idle {
                actions.push(Action::InvalidationBegin(range));
            }
        }
        for (r, n) in s.regs.iter().zip(0u8..) {
            if r.write && self.scenario.dma {
                let new = r.device & !s.file.unflushed;
                actions.extend(each(new).map(|range| Action::Dma(n, range)));
            }
        }
        if s.left.unbind && s.pgmap == Pgmap::Live {
            actions.push(Action::Unbind);
        }
        if s.left.unlink && s.file.linked {
            actions.push(Action::Unlink);
        }
    }

    /// Performs a call: those that are one step, and the beginning of the others.
    fn call(&self, s: &mut State, process: u8, op: Op) -> &'static str {
        let n = usize::from(process);
        s.procs[n].calls -= 1;
        match op {
            Op::Lease { .. } => s.procs[n].at = At::Lease(op, crate::state::LeaseAt::Lock),
            Op::Unlock(desc) => s.leases[usize::from(desc)] = None,
            Op::Pin {
                reg,
                ranges,
                write,
                split,
            } => self.pin_begin(s, process, reg, ranges, write, split),
            Op::Unpin(reg) => s.regs[usize::from(reg)].release = Release::Due,
            Op::Change(change) => self.change_begin(s, process, change),
            Op::Transfer(range) => {
                s.procs[n].at = At::Transfer(range, crate::state::TransferAt::Reference);
            }
            Op::Store(range) => {
                if mapped_for(s, process, range, true) || fault(s, process, range, true) {
                    s.file.unflushed |= bit(range);
                }
            }
            Op::Munmap => {
                s.procs[n].map = None;
                s.procs[n].ptes = [Pte::None; RANGES];
            }
            Op::Close(desc) => s.procs[n].files &= !bit(desc),
            Op::PassFile(desc, to) => {
                let to = &mut s.procs[usize::from(to)];
                to.files |= bit(desc);
                to.map = Some(desc);
            }
            Op::PassUverbs(reg, to) => s.procs[usize::from(to)].uverbs |= bit(reg),
            Op::Exit => {
                // exit_mm() comes before exit_files().
                s.procs[n].map = None;
                s.procs[n].ptes = [Pte::None; RANGES];
                s.procs[n].at = At::ExitFiles;
            }
        }
        ""
    }

    /// Performs one step of a process.
    fn step(&self, s: &mut State, process: u8) -> &'static str {
        match s.procs[usize::from(process)].at.clone() {
            At::User => unreachable!("a process in user space takes no step"),
            At::Lease(op, at) => self.lease_step(s, process, op, at),
            At::Pin(call) => self.pin_step(s, process, call),
            At::Change(call) => self.change_step(s, process, call),
            At::Transfer(range, at) => self.transfer_step(s, process, range, at),
            At::ExitFiles => {
                let p = &mut s.procs[usize::from(process)];
                (p.files, p.uverbs, p.alive, p.calls) = (0, 0, false, 0);
                p.at = At::User;
                "exit_files()"
            }
        }
    }

    /// Performs an action, and says what it was.
    pub fn perform(&self, old: &State, action: Action) -> (State, &'static str) {
        let mut s = old.clone();
        let says = match action {
            Action::Call(process, op) => self.call(&mut s, process, op),
            Action::Step(process) => self.step(&mut s, process),
            Action::Kill(process) => {
                s.left.kills -= 1;
                if let At::Change(call) = &mut s.procs[usize::from(process)].at {
                    call.killed = true;
                }
                "a fatal signal"
            }
            Action::Close(reg) => self.close(&mut s, reg),
            Action::Release(reg) => self.release_step(&mut s, reg),
            Action::RemoveLease(desc) => {
                s.leases[usize::from(desc)] = None;
                "locks_remove_file(): the lease goes with its description"
            }
            Action::TimeOut(desc) => {
                s.leases[usize::from(desc)] = None;
                "time_out_leases(): takes the lease away"
            }
            Action::Evict => self.evict(&mut s),
            Action::WritebackBegin(_) | Action::Writeback => self.writeback_step(&mut s, action),
            Action::InvalidationBegin(_) | Action::Invalidation => {
                self.invalidation_step(&mut s, action)
            }
            Action::Dma(_, range) => {
                s.file.unflushed |= bit(range);
                "the device writes"
            }
            Action::Unbind => {
                s.left.unbind = false;
                s.pgmap = Pgmap::Dying;
                "percpu_ref_kill()"
            }
            Action::Unmap => {
                s.pgmap = Pgmap::Gone;
                if s.regs.iter().any(|r| r.device != 0) {
                    s.broken(Property::MemoryStays);
                }
                "memunmap_pages()"
            }
            Action::Unlink => {
                s.left.unlink = false;
                s.file.linked = false;
                "unlink()"
            }
        };
        wake_idle(old, &mut s);
        self.look_at(&mut s);
        s.flaws &= self.promises;
        (s, says)
    }

    /// Looks for promises that the new state breaks.
    fn look_at(&self, s: &mut State) {
        if s.file.unflushed & !(s.file.dirty & s.file.entries) != 0 {
            s.broken(Property::WritesReachMedia);
        }
        for n in 0..UVERBS as u8 {
            let r = &s.regs[usize::from(n)];
            let recorded = r.confirmed | r.reserved;
            let pinner = s
                .procs
                .iter()
                .any(|p| matches!(&p.at, At::Pin(call) if call.reg == n));
            let held = s.uverbs_open(n) || r.release != Release::No || self.close_due(s, n);
            let holderless = r.reserved != 0 && !pinner || recorded != 0 && !held;
            if (r.refs | r.device) & !recorded != 0 {
                s.broken(Property::HolderHasRecord);
            }
            if holderless {
                s.broken(Property::RecordHasHolder);
            }
        }
        let told = !s
            .procs
            .iter()
            .any(|p| matches!(&p.at, At::Pin(call) if call.at == PinAt::P7));
        let forgotten = |p: &crate::state::Proc| {
            matches!(&p.at, At::Change(call) if call.at == ChangeAt::Asleep
                && !call.woken && !call.killed && s.confirmed(call.entry))
        };
        if told && s.procs.iter().any(forgotten) {
            s.broken(Property::RefusalComesAtOnce);
        }
        if self.promises & Property::CallsEnd.bit() != 0 && self.stuck(s) {
            s.broken(Property::CallsEnd);
        }
    }

    /// Returns whether somebody is in a call.
    pub fn in_call(s: &State) -> bool {
        s.procs.iter().any(|p| p.at != At::User)
    }

    /// Returns whether somebody is in a call, and nothing happens by itself.
    fn stuck(&self, s: &State) -> bool {
        let mut actions = vec![];
        if Self::in_call(s) {
            self.by_itself(s, &mut actions);
            return actions.is_empty();
        }
        false
    }
}

/// `free_zone_device_folio()`: a page whose last reference is gone wakes up who waits for it.
fn wake_idle(old: &State, s: &mut State) {
    for n in 0..PROCESSES {
        if let At::Change(call) = &s.procs[n].at {
            let entry = call.entry;
            if call.queued && !old.idle(entry) && s.idle(entry) {
                s.wake_up_var(entry);
            }
        }
    }
}

impl stateright::Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.scenario.initial()]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        if s.flaws == 0 {
            self.by_itself(s, actions);
            self.by_choice(s, actions);
        }
    }

    fn next_state(&self, s: &State, action: Action) -> Option<State> {
        Some(self.perform(s, action).0)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        let watched = Property::ALL
            .iter()
            .filter(|p| self.promises & p.bit() != 0);
        watched.map(|p| p.condition()).collect()
    }
}
