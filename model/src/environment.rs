// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to the file beside the calls: writeback, invalidation, eviction.

use crate::mutation::Mutation;
use crate::property::Property;
use crate::protocol::{Action, Protocol};
use crate::state::{bit, Invalidation, Pte, Set, State, Writeback};

/// `pfn_mkclean_range()`: writeprotects what is mapped.
fn writeprotect(s: &mut State, entry: Set) {
    for p in &mut s.procs {
        for (pte, n) in p.ptes.iter_mut().zip(0u8..) {
            if entry & bit(n) != 0 {
                *pte = Pte::Read.min(*pte);
            }
        }
    }
}

/// `dax_disassociate_entry()`: the page belongs to no file, and is no part of a larger one.
fn disassociate(s: &mut State, entry: Set) {
    if s.regs.iter().any(|r| r.refs & entry != 0) {
        s.broken(Property::EntryStays);
    }
    s.file.entries &= !entry;
    s.file.locked &= !entry;
    s.file.pmd = false;
}

impl Protocol {
    /// The last reference to an inode without a name is gone.
    pub fn evict(&self, s: &mut State) -> &'static str {
        if s.regs.iter().any(|r| r.refs | r.device != 0) {
            s.broken(Property::EvictMeetsNoPin);
        }
        s.file.evicted = true;
        (s.file.entries, s.file.dirty, s.file.unflushed) = (0, 0, 0);
        s.file.blocks = 0;
        "ext4_evict_inode(): frees the blocks"
    }

    /// One step of `dax_writeback_one()`.
    pub fn writeback_step(&self, s: &mut State, action: Action) -> &'static str {
        let late = self.has(Mutation::WritebackAsksLate);
        let (next, says) = match (action, s.writeback) {
            (Action::WritebackBegin(range), _) => {
                s.left.writebacks -= 1;
                s.file.locked |= s.entry(range);
                (Writeback::Locked(range), "dax_lock_entry()")
            }
            (_, Writeback::Locked(range)) => {
                writeprotect(s, s.entry(range));
                let next = if late {
                    Writeback::Flush(range, false)
                } else {
                    Writeback::Ask(range)
                };
                (next, "pfn_mkclean_range()")
            }
            (_, Writeback::Ask(range)) => {
                let pinned = s.registered_for_writing(s.entry(range))
                    && !self.has(Mutation::WritebackForgetsPins);
                let next = if late {
                    Writeback::Clear(range, pinned)
                } else {
                    Writeback::Flush(range, pinned)
                };
                if pinned {
                    (next, "layout_range_pinned(): yes")
                } else {
                    (next, "layout_range_pinned(): no")
                }
            }
            (_, Writeback::Flush(range, pinned)) => {
                s.file.unflushed &= !s.entry(range);
                let next = if late {
                    Writeback::Ask(range)
                } else {
                    Writeback::Clear(range, pinned)
                };
                (next, "dax_flush()")
            }
            (_, Writeback::Clear(range, pinned)) => {
                let entry = s.entry(range);
                s.file.locked &= !entry;
                if pinned {
                    (Writeback::Idle, "the entry stays dirty")
                } else {
                    s.file.dirty &= !entry;
                    (Writeback::Idle, "xas_clear_mark(PAGECACHE_TAG_DIRTY)")
                }
            }
            (_, Writeback::Idle) => unreachable!("nothing is being written back"),
        };
        s.writeback = next;
        says
    }

    /// Returns whether invalidation can take its next step.
    pub fn invalidation_goes_on(&self, s: &State) -> bool {
        match s.invalidation {
            Invalidation::Idle => false,
            Invalidation::Retry(range) => s.file.locked & s.entry(range) == 0,
            _ => true,
        }
    }

    /// One step of `__dax_invalidate_entry()`, which is not about truncation.
    pub fn invalidation_step(&self, s: &mut State, action: Action) -> &'static str {
        let first = self.has(Mutation::InvalidationLooksFirst);
        let forgets = self.has(Mutation::InvalidationForgetsPins);
        let (next, says) = match (action, s.invalidation) {
            (Action::InvalidationBegin(range), _) => {
                s.left.invalidations -= 1;
                let entry = s.entry(range);
                if first && s.busy(entry) {
                    (Invalidation::Ask(range), "dax_busy_page(): busy")
                } else {
                    s.file.locked |= entry;
                    if first {
                        (Invalidation::Drop(range), "dax_busy_page(): not busy")
                    } else {
                        (Invalidation::Unmap(range), "dax_lock_entry()")
                    }
                }
            }
            (_, Invalidation::Unmap(range)) => {
                s.unmap(s.entry(range));
                (
                    Invalidation::Look(range),
                    "unmap_mapping_pages(), one entry",
                )
            }
            (_, Invalidation::Look(range)) => {
                let entry = s.entry(range);
                if s.busy(entry) && s.registered(entry) && !forgets {
                    s.file.locked &= !entry;
                    (
                        Invalidation::Zap(range),
                        "dax_busy_page() and layout_range_pinned(): the entry stays",
                    )
                } else {
                    disassociate(s, entry);
                    (Invalidation::Zap(range), "dax_disassociate_entry()")
                }
            }
            (_, Invalidation::Drop(range)) => {
                disassociate(s, s.entry(range));
                (Invalidation::Zap(range), "dax_disassociate_entry()")
            }
            (_, Invalidation::Ask(range)) => {
                if s.registered(s.entry(range)) {
                    (
                        Invalidation::Zap(range),
                        "layout_range_pinned(): the entry stays",
                    )
                } else {
                    (Invalidation::Retry(range), "layout_range_pinned(): no")
                }
            }
            (_, Invalidation::Retry(range)) => {
                let entry = s.entry(range) & s.file.entries;
                if entry != 0 && s.file.dirty & entry == 0 {
                    disassociate(s, entry);
                }
                (Invalidation::Zap(range), "dax_disassociate_entry()")
            }
            (_, Invalidation::Zap(range)) => {
                s.unmap(s.entry(range));
                (Invalidation::Idle, "unmap_mapping_pages()")
            }
            (_, Invalidation::Idle) => unreachable!("nothing is being invalidated"),
        };
        s.invalidation = next;
        says
    }
}
