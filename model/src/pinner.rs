// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pinner: `pin_user_pages_fast_owned()` in `mm/gup.c`, and what it calls in `mm/file_pins/`.
//!
//! The steps P1 to P7 are those of Documentation/core-api/file_pins.rst.

use crate::mutation::Mutation;
use crate::property::Property;
use crate::protocol::Protocol;
use crate::state::{
    bit, each, At, Pgmap, PinAt, PinCall, Pte, Reg, Release, Set, State, TransferAt, ALL,
};

/// Returns whether a page fault on `range` has to wait.
pub fn fault_waits(protocol: &Protocol, s: &State, range: u8) -> bool {
    let lock = s.invalidate_writer.is_some() && !protocol.has(Mutation::FaultWithoutLock);
    lock || s.file.locked & s.entry(range) != 0
}

/// Returns whether the page tables of a process permit an access.
pub fn mapped_for(s: &State, process: u8, range: u8, write: bool) -> bool {
    let pte = s.procs[usize::from(process)].ptes[usize::from(range)];
    pte >= if write { Pte::Write } else { Pte::Read }
}

/// `dax_iomap_fault()`. Returns whether it succeeds; otherwise it is SIGBUS.
pub fn fault(s: &mut State, process: u8, range: u8, write: bool) -> bool {
    let gone = s.file.evicted || s.pgmap != Pgmap::Live;
    if s.file.beyond_eof & bit(range) != 0 || gone {
        return false;
    }
    // A read fault on a hole maps the zero page; check_file_pages() takes a write fault then.
    let write = write || s.file.blocks & bit(range) == 0;
    let entry = s.entry(range);
    s.file.blocks |= entry;
    s.file.entries |= entry;
    let pte = if write {
        s.file.dirty |= entry;
        // Copied on write: the new block is this file's alone.
        s.file.shared &= !entry;
        Pte::Write
    } else {
        Pte::Read
    };
    for n in each(entry) {
        let old = &mut s.procs[usize::from(process)].ptes[usize::from(n)];
        *old = pte.max(*old);
    }
    true
}

/// Returns what comes first of `set`, in the order of the file.
fn first(set: Set) -> Set {
    set & set.wrapping_neg()
}

impl Protocol {
    /// Begins to register a memory region.
    pub fn pin_begin(
        &self,
        s: &mut State,
        process: u8,
        reg: u8,
        ranges: Set,
        write: bool,
        split: bool,
    ) {
        let now = if split { first(ranges) } else { ranges };
        s.procs[usize::from(process)].at = At::Pin(PinCall {
            reg,
            now,
            rest: ranges & !now,
            got: 0,
            write,
            at: PinAt::P1,
        });
    }

    /// Returns whether the next step has to wait for somebody else.
    pub fn pin_waits(&self, s: &State, process: u8, call: &PinCall) -> bool {
        let range = first(call.now & !call.got).trailing_zeros() as u8;
        call.at == PinAt::P3
            && !mapped_for(s, process, range, call.write)
            && fault_waits(self, s, range)
    }

    /// One step.
    pub fn pin_step(&self, s: &mut State, process: u8, mut call: PinCall) -> &'static str {
        let reg = usize::from(call.reg);
        let says = match call.at {
            PinAt::P1 => {
                if self.layout_lease_permits_pin(s, process) {
                    call.at = PinAt::P2;
                    "P1 layout_lease_permits_pin(): yes"
                } else {
                    end(s, process, &call);
                    return "P1 layout_lease_permits_pin(): no";
                }
            }
            PinAt::P2 => {
                call.at = PinAt::P3;
                if self.has(Mutation::RecordAfterReference) {
                    "(P2 is left for later)"
                } else {
                    reserve(s, process, &call);
                    "P2 file_pins_reserve()"
                }
            }
            PinAt::P3 => self.get_user_pages(s, process, &mut call),
            PinAt::P4 => {
                // That a block is shared is seen here only if the other file maps it too.
                let theirs = call.got & !s.file.entries;
                call.at = if theirs == 0 { PinAt::P5 } else { PinAt::Unpin };
                if theirs == 0 {
                    "P4 check_file_pages(): the file's"
                } else {
                    "P4 check_file_pages(): EOPNOTSUPP"
                }
            }
            PinAt::P5 => {
                let permits =
                    self.has(Mutation::NoLeaseRecheck) || self.layout_lease_permits_pin(s, process);
                call.at = if permits { PinAt::P6 } else { PinAt::Unpin };
                if self.has(Mutation::NoLeaseRecheck) {
                    "(P5 is skipped)"
                } else if permits {
                    "P5 layout_lease_permits_pin(): yes"
                } else {
                    "P5 layout_lease_permits_pin(): no"
                }
            }
            PinAt::P6 => {
                if s.pgmap != Pgmap::Live {
                    call.at = PinAt::Unpin;
                    "P6 get_dev_pagemap(): ENXIO"
                } else {
                    self.confirm(s, process, &call);
                    call.at = PinAt::P7;
                    "P6 file_pins_confirm()"
                }
            }
            PinAt::P7 => {
                let wide = s.widen(call.got);
                let wake = s.waiters > 0 && !self.has(Mutation::NoWakeUp);
                if wake {
                    s.wake_up_var(wide);
                }
                call.now = first(call.rest);
                call.rest &= !call.now;
                call.got = 0;
                call.at = if call.now == 0 {
                    PinAt::Device
                } else {
                    PinAt::P1
                };
                if wake {
                    "P7 dax_layout_pinned(): wakes the breaker"
                } else if self.has(Mutation::NoWakeUp) {
                    "(P7 is skipped)"
                } else {
                    "P7 dax_layout_pinned(): nobody waits"
                }
            }
            PinAt::Device => {
                s.regs[reg].device = s.regs[reg].pages;
                s.procs[usize::from(process)].at = At::User;
                return "the device is given the pages";
            }
            PinAt::Unpin => {
                s.regs[reg].refs &= !call.got;
                call.got = 0;
                call.at = PinAt::Cancel;
                "unpin_file_pages()"
            }
            PinAt::Cancel => {
                s.regs[reg].reserved = 0;
                end(s, process, &call);
                return "file_pins_cancel()";
            }
        };
        s.procs[usize::from(process)].at = At::Pin(call);
        says
    }

    /// `grab_file_pages()`: one page, or one fault.
    fn get_user_pages(&self, s: &mut State, process: u8, call: &mut PinCall) -> &'static str {
        let page = first(call.now & !call.got);
        let range = page.trailing_zeros() as u8;

        if mapped_for(s, process, range, call.write) {
            s.regs[usize::from(call.reg)].refs |= page;
            call.got |= page;
            if call.got == call.now {
                call.at = PinAt::P4;
            }
            return if range == 0 {
                "P3 grab_file_pages(): references range 0"
            } else {
                "P3 grab_file_pages(): references range 1"
            };
        }
        if fault(s, process, range, call.write) {
            return if range == 0 {
                "P3 __get_user_pages(): page fault at range 0"
            } else {
                "P3 __get_user_pages(): page fault at range 1"
            };
        }
        if call.got == 0 {
            call.at = PinAt::Cancel;
            return "P3 __get_user_pages(): EFAULT";
        }
        // A short count. The caller goes on with the rest, and gets the error.
        call.rest |= call.now & !call.got;
        call.now = call.got;
        call.at = PinAt::P4;
        "P3 __get_user_pages(): a short count"
    }

    /// `file_pins_confirm()`.
    fn confirm(&self, s: &mut State, process: u8, call: &PinCall) {
        if self.has(Mutation::RecordAfterReference) {
            reserve(s, process, call);
        }
        let wide = if self.has(Mutation::NotWidened) {
            call.got
        } else if self.has(Mutation::NotNarrowed) {
            ALL
        } else {
            s.widen(call.got)
        };
        if call.got & s.file.shared != 0 {
            s.broken(Property::PinnedIsNotShared);
        }
        let touches = s.widen(call.got);
        let reg = &mut s.regs[usize::from(call.reg)];
        reg.reserved = 0;
        reg.touches |= touches;
        reg.confirmed |= wide;
        reg.pages |= call.got;
        reg.pgmap = !self.has(Mutation::NoPgmapReference);
    }

    /// Returns whether `ib_uverbs_close()` is due.
    pub fn close_due(&self, s: &State, reg: u8) -> bool {
        let r = &s.regs[usize::from(reg)];
        let held = self.has(Mutation::OwnerHoldsFile) && !r.is_none();
        !r.closed && !s.uverbs_open(reg) && !held
    }

    /// `ib_uverbs_close()`: the regions go, then the owner is released.
    pub fn close(&self, s: &mut State, reg: u8) -> &'static str {
        let r = &mut s.regs[usize::from(reg)];
        if !r.is_none() && r.release == Release::No {
            r.release = Release::Due;
        }
        r.closed = true;
        "ib_uverbs_close()"
    }

    /// One step of `ib_umem_release()`.
    pub fn release_step(&self, s: &mut State, reg: u8) -> &'static str {
        let r = &mut s.regs[usize::from(reg)];
        let early = self.has(Mutation::EraseBeforeUnpin);
        let late = self.has(Mutation::UnpinBeforeDeviceStops);
        let dropped = self.has(Mutation::FileReleasedBeforeUnpin);
        let (next, says) = match r.release {
            Release::Due if late => {
                r.refs = 0;
                (Release::Unpinned, "unpins the pages")
            }
            Release::Due => {
                r.device = 0;
                (Release::Stopped, "stops the device")
            }
            Release::Stopped if early => {
                (r.confirmed, r.pages, r.touches) = (0, 0, 0);
                (Release::Erased, "file_pins_free(): erases the record")
            }
            Release::Stopped if dropped => {
                r.desc = None;
                (Release::Dropped, "drops the file")
            }
            Release::Stopped | Release::Dropped => {
                r.refs = 0;
                (Release::Unpinned, "unpins the pages")
            }
            Release::Unpinned => {
                (r.confirmed, r.pages, r.touches) = (0, 0, 0);
                (Release::Erased, "file_pins_free(): erases the record")
            }
            Release::Erased => {
                *r = Reg {
                    closed: r.closed,
                    ..Reg::none()
                };
                (
                    Release::No,
                    "file_pins_free(): drops the device mapping and the file",
                )
            }
            Release::No => unreachable!("a registration that is not released takes no step"),
        };
        r.release = next;
        says
    }

    /// Returns whether the next step of a transfer has to wait.
    pub fn transfer_waits(&self, s: &State, process: u8, range: u8, at: TransferAt) -> bool {
        at == TransferAt::Reference
            && !mapped_for(s, process, range, false)
            && fault_waits(self, s, range)
    }

    /// One step of a transfer with O_DIRECT from the mapping.
    pub fn transfer_step(
        &self,
        s: &mut State,
        process: u8,
        range: u8,
        at: TransferAt,
    ) -> &'static str {
        let (next, says) = match at {
            TransferAt::Reference if mapped_for(s, process, range, false) => {
                s.procs[usize::from(process)].transient |= bit(range);
                (
                    At::Transfer(range, TransferAt::Run),
                    "pin_user_pages_fast(): a transient reference",
                )
            }
            TransferAt::Reference if fault(s, process, range, false) => {
                (At::Transfer(range, at), "page fault")
            }
            TransferAt::Reference => (At::User, "page fault: SIGBUS"),
            TransferAt::Run => {
                s.procs[usize::from(process)].transient &= !bit(range);
                (At::User, "the transfer ends: unpin_user_page()")
            }
        };
        s.procs[usize::from(process)].at = next;
        says
    }
}

/// `file_pins_reserve()`, rounded to entries of PMD size.
fn reserve(s: &mut State, process: u8, call: &PinCall) {
    let map = s.procs[usize::from(process)].map;
    let reg = &mut s.regs[usize::from(call.reg)];
    reg.reserved = ALL;
    reg.write = call.write;
    reg.desc = map;
}

/// The end of a call that failed. What calls before it have pinned is released.
fn end(s: &mut State, process: u8, call: &PinCall) {
    let reg = &mut s.regs[usize::from(call.reg)];
    if reg.confirmed != 0 {
        reg.release = Release::Due;
    } else {
        *reg = Reg {
            closed: reg.closed,
            ..Reg::none()
        };
    }
    s.procs[usize::from(process)].at = At::User;
}
