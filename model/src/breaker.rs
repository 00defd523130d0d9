// SPDX-License-Identifier: MIT OR Apache-2.0
//! The breaker: `__dax_break_layout()` in `fs/dax.c`, and ext4 and XFS around it.
//!
//! The steps B1 to B5 are those of Documentation/core-api/file_pins.rst.

use crate::lease::Broken;
use crate::mutation::Mutation;
use crate::op::{Change, Kind};
use crate::property::Property;
use crate::protocol::Protocol;
use crate::state::{each, At, ChangeAt, ChangeCall, Leave, Reg, Set, State};

/// How a step ends.
type Outcome = (ChangeAt, &'static str);

impl Protocol {
    /// Begins a layout change.
    pub fn change_begin(&self, s: &mut State, process: u8, change: Change) {
        let at = match change.kind {
            Kind::Reflink => ChangeAt::Early,
            _ => ChangeAt::Rwsem,
        };
        s.procs[usize::from(process)].at = At::Change(ChangeCall {
            change,
            at,
            entry: 0,
            queued: false,
            woken: false,
            slept: false,
            killed: false,
            touched: false,
            waited: false,
        });
    }

    /// Returns whether the next step has to wait for somebody else.
    pub fn change_waits(&self, s: &State, call: &ChangeCall) -> bool {
        let locked = || s.file.locked & s.widen(call.change.ranges) != 0;
        let free = || s.invalidate_writer.is_none() && s.invalidate_readers == 0;
        match call.at {
            ChangeAt::Rwsem => s.i_rwsem.is_some(),
            ChangeAt::Invalidate => !free(),
            ChangeAt::Relock => !self.has(Mutation::WaitKeepsLock) && !free(),
            ChangeAt::B4 | ChangeAt::B5Flush | ChangeAt::B5Delete => locked(),
            // Fixed: it looks again after a while, in case that the page has been mapped again.
            ChangeAt::Asleep => {
                !call.woken && !call.killed && self.has(Mutation::WaitForRefcountZero)
            }
            ChangeAt::SleepLease(desc) => {
                !call.killed && s.leases[usize::from(desc)].is_some_and(|lease| lease.breaking)
            }
            _ => false,
        }
    }

    /// Returns whether a fatal signal ends the wait that the call is in.
    pub fn change_killable(&self, call: &ChangeCall) -> bool {
        !call.killed && matches!(call.at, ChangeAt::Asleep | ChangeAt::SleepLease(_))
    }

    /// One step.
    pub fn change_step(&self, s: &mut State, process: u8, mut call: ChangeCall) -> &'static str {
        let (next, says) = match call.at {
            ChangeAt::Early => match self.early(s, process, &call) {
                Some(outcome) => outcome,
                None => {
                    s.procs[usize::from(process)].at = At::User;
                    return "xfs_remap_refused(): ETXTBSY";
                }
            },
            ChangeAt::BreakUnlocked => match self.ask_holders(s, process, &mut call) {
                Broken::Refused => {
                    s.procs[usize::from(process)].at = At::User;
                    return "break_layout(), no locks held: ETXTBSY";
                }
                Broken::Nothing => (
                    ChangeAt::Rwsem,
                    "break_layout(), no locks held: nothing to break",
                ),
                Broken::Breaking(desc) => (
                    ChangeAt::SleepLease(desc),
                    "break_layout(), no locks held: signals the holder, sleeps",
                ),
            },
            ChangeAt::Rwsem => {
                s.i_rwsem = Some(process);
                let next = match call.change.kind {
                    Kind::Truncate => ChangeAt::Early,
                    Kind::Reflink => ChangeAt::BreakLocked,
                    _ => ChangeAt::Invalidate,
                };
                (next, "takes i_rwsem")
            }
            ChangeAt::BreakLocked => match self.ask_holders(s, process, &mut call) {
                Broken::Refused => (
                    ChangeAt::UnlockRwsem(Leave::Refused),
                    "break_layout() under i_rwsem: ETXTBSY",
                ),
                Broken::Nothing => (
                    ChangeAt::Invalidate,
                    "break_layout() under i_rwsem: nothing to break",
                ),
                Broken::Breaking(_) => (
                    ChangeAt::UnlockRwsem(Leave::Lease),
                    "break_layout() under i_rwsem: EWOULDBLOCK",
                ),
            },
            ChangeAt::Invalidate => {
                s.invalidate_writer = Some(process);
                (self.first_question(), "takes invalidate_lock (write)")
            }
            ChangeAt::B1Pins | ChangeAt::B1Leases | ChangeAt::B2 => self.ask(s, process, &mut call),
            ChangeAt::B3 => {
                let wide = if self.has(Mutation::UnmapsRangeOnly) {
                    call.change.ranges
                } else {
                    s.widen(call.change.ranges)
                };
                call.touched |= s.mapped(wide);
                s.unmap(wide);
                let next = if self.has(Mutation::UnmapBeforeCheck) {
                    ChangeAt::B1Pins
                } else if self.has(Mutation::NoBusyCheck) {
                    ChangeAt::B5Flush
                } else {
                    ChangeAt::B4
                };
                (next, "B3 unmap_mapping_pages()")
            }
            ChangeAt::B4 => self.look(s, &mut call),
            ChangeAt::WaitBegin
            | ChangeAt::Prepare
            | ChangeAt::Condition
            | ChangeAt::Sleep
            | ChangeAt::Asleep
            | ChangeAt::Relock
            | ChangeAt::WaitEnd => self.wait_page_idle(s, process, &mut call),
            ChangeAt::B5Flush => {
                self.flush(s, call.change);
                (ChangeAt::B5Delete, "B5 flushes what outlives the change")
            }
            ChangeAt::B5Delete => {
                delete(s, call.change);
                (ChangeAt::Blocks, "B5 dax_delete_mapping_range()")
            }
            ChangeAt::Blocks => self.blocks(s, process, call.change),
            ChangeAt::Unlock(leave) => {
                s.invalidate_writer = None;
                let next = if leave == Leave::Busy {
                    // The other file's lock goes too; i_rwsem stays.
                    (call.slept, call.waited) = (false, true);
                    ChangeAt::Invalidate
                } else {
                    ChangeAt::UnlockRwsem(leave)
                };
                (next, "releases invalidate_lock")
            }
            ChangeAt::UnlockRwsem(leave) => {
                s.i_rwsem = None;
                // From here on, what refuses it may be new.
                call.waited |= leave == Leave::Lease;
                match leave {
                    Leave::Lease if call.change.kind == Kind::Reflink => {
                        (ChangeAt::Early, "releases i_rwsem, starts again")
                    }
                    Leave::Lease => (ChangeAt::WaitLease, "releases i_rwsem"),
                    _ => {
                        s.procs[usize::from(process)].at = after(s, process, leave);
                        return match leave {
                            Leave::Done => "releases i_rwsem, returns: success",
                            Leave::Refused => "releases i_rwsem, returns: ETXTBSY",
                            _ => "releases i_rwsem, returns: EINTR",
                        };
                    }
                }
            }
            ChangeAt::WaitLease => match self.ask_holders(s, process, &mut call) {
                Broken::Refused => {
                    s.procs[usize::from(process)].at = At::User;
                    return "layout_change_wait(): ETXTBSY";
                }
                Broken::Nothing => (ChangeAt::Rwsem, "layout_change_wait(): nothing to wait for"),
                Broken::Breaking(desc) => {
                    (ChangeAt::SleepLease(desc), "layout_change_wait(): sleeps")
                }
            },
            ChangeAt::SleepLease(_) => {
                if call.killed {
                    s.procs[usize::from(process)].at = after(s, process, Leave::Signal);
                    return "layout_change_wait(): EINTR";
                }
                call.waited = true;
                let next = match call.change.kind {
                    Kind::Reflink => ChangeAt::BreakUnlocked,
                    _ => ChangeAt::WaitLease,
                };
                (next, "the lease is gone: wakes up")
            }
        };
        call.at = next;
        s.procs[usize::from(process)].at = At::Change(call);
        says
    }

    /// Where a breaker begins that has just taken the invalidate_lock.
    fn first_question(&self) -> ChangeAt {
        if self.has(Mutation::UnmapBeforeCheck) {
            ChangeAt::B3
        } else {
            ChangeAt::B1Pins
        }
    }

    /// `layout_change_refused()`, early. `None` stands for a refusal without any lock held.
    fn early(&self, s: &mut State, process: u8, call: &ChangeCall) -> Option<Outcome> {
        let refused = s.confirmed(call.change.ranges) || self.layout_lease_refuses(s, process);
        if refused {
            self.refused(s, process, call);
        }
        match (refused, call.change.kind == Kind::Reflink) {
            (true, true) => None,
            (false, true) => Some((ChangeAt::BreakUnlocked, "xfs_remap_refused(): no")),
            (true, false) => Some((
                ChangeAt::UnlockRwsem(Leave::Refused),
                "inode_newsize_ok(): ETXTBSY",
            )),
            (false, false) => Some((ChangeAt::Invalidate, "inode_newsize_ok(): yes")),
        }
    }

    /// `__break_lease()`; remembers whether anybody has been bothered.
    fn ask_holders(&self, s: &mut State, process: u8, call: &mut ChangeCall) -> Broken {
        let (broken, new) = self.break_lease(s, process);
        call.touched |= new;
        if matches!(broken, Broken::Refused) {
            self.refused(s, process, call);
        }
        broken
    }

    /// B1 and B2: `layout_change_begin()`.
    fn ask(&self, s: &mut State, process: u8, call: &mut ChangeCall) -> Outcome {
        let ranges = call.change.ranges;
        match call.at {
            ChangeAt::B1Pins => {
                if self.has(Mutation::BreakLeasesFirst) {
                    call.touched |= self.mark_leases(s, process).1;
                }
                let refuses = if self.has(Mutation::ReservationsRefuse) {
                    s.registered(ranges)
                } else {
                    s.confirmed(ranges)
                };
                if refuses {
                    self.refused(s, process, call);
                    (
                        ChangeAt::Unlock(Leave::Refused),
                        "B1 layout_range_pinned(): ETXTBSY",
                    )
                } else if call.waited && self.has(Mutation::NoSecondLeaseCheck) {
                    (
                        ChangeAt::B3,
                        "B1 layout_range_pinned(): no pin; leases are not looked at",
                    )
                } else {
                    (ChangeAt::B1Leases, "B1 layout_range_pinned(): no pin")
                }
            }
            ChangeAt::B1Leases if self.layout_lease_refuses(s, process) => {
                self.refused(s, process, call);
                (
                    ChangeAt::Unlock(Leave::Refused),
                    "B1 layout_lease_refuses(): ETXTBSY",
                )
            }
            ChangeAt::B1Leases => (ChangeAt::B2, "B1 layout_lease_refuses(): no"),
            _ => match self.ask_holders(s, process, call) {
                Broken::Refused => (
                    ChangeAt::Unlock(Leave::Refused),
                    "B2 break_layout(): ETXTBSY",
                ),
                Broken::Breaking(_) => (
                    ChangeAt::Unlock(Leave::Lease),
                    "B2 break_layout(): signals the holder, EWOULDBLOCK",
                ),
                Broken::Nothing if self.has(Mutation::UnmapBeforeCheck) => {
                    (ChangeAt::B4, "B2 break_layout(): nothing to break")
                }
                Broken::Nothing => (ChangeAt::B3, "B2 break_layout(): nothing to break"),
            },
        }
    }

    /// B4: looks for a busy page.
    fn look(&self, s: &State, call: &mut ChangeCall) -> Outcome {
        let busy = each(call.change.ranges & s.file.entries)
            .map(|n| s.entry(n))
            .find(|entry| s.busy(*entry));
        let Some(entry) = busy else {
            return (ChangeAt::B5Flush, "B4 dax_find_busy_page(): none");
        };
        if call.change.kind == Kind::Reflink {
            return (
                ChangeAt::Unlock(Leave::Busy),
                "B4 dax_find_busy_page(): busy, ERESTARTSYS",
            );
        }
        call.entry = entry;
        call.slept = false;
        if self.has(Mutation::WaitersCountedLate) {
            (ChangeAt::Prepare, "B4 dax_find_busy_page(): busy")
        } else {
            (ChangeAt::WaitBegin, "B4 dax_find_busy_page(): busy")
        }
    }

    /// B4: `wait_page_idle()`.
    fn wait_page_idle(&self, s: &mut State, process: u8, call: &mut ChangeCall) -> Outcome {
        let late = self.has(Mutation::WaitersCountedLate);
        match call.at {
            ChangeAt::WaitBegin => {
                s.waiters += 1;
                let next = if late {
                    ChangeAt::Sleep
                } else {
                    ChangeAt::Prepare
                };
                (next, "B4 dax_layout_wait_begin()")
            }
            ChangeAt::Prepare => {
                (call.queued, call.woken) = (true, false);
                if call.killed {
                    (ChangeAt::WaitEnd, "B4 prepare_to_wait_event(): a signal")
                } else {
                    (ChangeAt::Condition, "B4 prepare_to_wait_event()")
                }
            }
            ChangeAt::Condition => {
                let again = call.slept && !self.has(Mutation::WaitForRefcountZero);
                if again || s.idle(call.entry) || s.confirmed(call.entry) {
                    let counted = !late || call.slept;
                    if !counted {
                        s.waiters += 1;
                    }
                    (
                        ChangeAt::WaitEnd,
                        "B4 wait_page_idle(): idle or pinned, or it has slept",
                    )
                } else if late && !call.slept {
                    (
                        ChangeAt::WaitBegin,
                        "B4 wait_page_idle(): neither idle nor pinned",
                    )
                } else {
                    (
                        ChangeAt::Sleep,
                        "B4 wait_page_idle(): neither idle nor pinned",
                    )
                }
            }
            ChangeAt::Sleep => {
                if self.has(Mutation::WaitKeepsLock) {
                    return (ChangeAt::Asleep, "B4 sleeps, with the invalidate_lock held");
                }
                s.invalidate_writer = None;
                (
                    ChangeAt::Asleep,
                    "B4 ext4_wait_dax_page(): releases invalidate_lock, sleeps",
                )
            }
            ChangeAt::Asleep => {
                call.slept = true;
                let says = if call.woken {
                    "B4 wakes up"
                } else if call.killed {
                    "B4 wakes up for a signal"
                } else {
                    "B4 wakes up to look again"
                };
                (ChangeAt::Relock, says)
            }
            ChangeAt::Relock => {
                s.invalidate_writer = Some(process);
                (
                    ChangeAt::Prepare,
                    "B4 ext4_wait_dax_page(): takes invalidate_lock",
                )
            }
            _ => {
                s.waiters -= 1;
                (call.queued, call.woken, call.waited) = (false, false, true);
                (call.entry, call.slept) = (0, false);
                if call.killed {
                    return (
                        ChangeAt::Unlock(Leave::Signal),
                        "B4 dax_layout_wait_end(): EINTR",
                    );
                }
                let next = if self.has(Mutation::NoSecondRegistryCheck) {
                    ChangeAt::B3
                } else {
                    self.first_question()
                };
                (next, "B4 dax_layout_wait_end()")
            }
        }
    }

    /// B5: flushes all that stays in the file, or the entries that reach outside the range.
    fn flush(&self, s: &mut State, change: Change) {
        let wide = s.widen(change.ranges) & s.file.entries;
        match change.kind {
            Kind::Move | Kind::Reflink => s.file.unflushed &= !wide,
            Kind::Punch | Kind::Truncate => {
                if wide & !change.ranges != 0 && !self.has(Mutation::NoFlushOutside) {
                    s.file.unflushed &= !wide;
                }
            }
        }
    }

    /// The filesystem changes the layout.
    fn blocks(&self, s: &mut State, process: u8, change: Change) -> Outcome {
        let ranges = change.ranges;
        let used = s.busy(ranges) || s.regs.iter().any(|r| r.device & ranges != 0);
        if used {
            s.broken(Property::BlocksStay);
        }
        if self.layout_lease_refuses(s, process) {
            s.broken(Property::LeaseHolds);
        }
        let says = match change.kind {
            Kind::Punch => "the filesystem frees the blocks",
            Kind::Truncate => {
                s.file.beyond_eof |= ranges;
                "the filesystem frees the blocks"
            }
            Kind::Move => "the filesystem moves the blocks",
            Kind::Reflink => {
                s.file.cow = true;
                s.file.shared |= ranges & s.file.blocks;
                return (
                    ChangeAt::Unlock(Leave::Done),
                    "the filesystem shares the blocks",
                );
            }
        };
        s.file.blocks &= !ranges;
        s.file.shared &= !ranges;
        (ChangeAt::Unlock(Leave::Done), says)
    }

    /// A refusal has been decided: is it as promised?
    fn refused(&self, s: &mut State, process: u8, call: &ChangeCall) {
        let pinned = |r: &Reg| r.touches & call.change.ranges != 0;
        if !s.regs.iter().any(pinned) && !self.layout_lease_refuses(s, process) {
            s.broken(Property::RefusalHasCause);
        }
        if call.touched && !call.waited {
            s.broken(Property::RefusalTouchesNothing);
        }
    }
}

/// Drops the entries of the range, and with them the record of what is dirty.
fn delete(s: &mut State, change: Change) {
    let wide: Set = s.widen(change.ranges) & s.file.entries;
    if s.regs.iter().any(|r| r.refs & wide != 0) {
        s.broken(Property::EntryStays);
    }
    if s.mapped(wide) {
        s.broken(Property::MappedHasEntry);
    }
    // What the change frees may be forgotten; what stays in the file may not.
    let stays = match change.kind {
        Kind::Punch | Kind::Truncate => !change.ranges,
        Kind::Move | Kind::Reflink => !0,
    };
    if s.file.unflushed & wide & stays != 0 {
        s.broken(Property::WritesReachMedia);
    }
    s.file.entries &= !wide;
    s.file.dirty &= !wide;
    s.file.unflushed &= !wide;
    if wide != 0 {
        s.file.pmd = false;
    }
}

/// Where a process goes that has ended its call.
fn after(s: &mut State, process: u8, leave: Leave) -> At {
    if leave != Leave::Signal {
        return At::User;
    }
    let p = &mut s.procs[usize::from(process)];
    p.map = None;
    p.ptes = [crate::state::Pte::None; crate::state::RANGES];
    At::ExitFiles
}
