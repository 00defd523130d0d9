// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the model remembers: one file, its locks, its leases, its pins, and where everybody stands.

use crate::op::{Change, Op};
use crate::property::Property;

/// How many processes there are.
pub const PROCESSES: usize = 3;
/// How many ranges the file has. Each is a block, and a page.
pub const RANGES: usize = 2;
/// How many uverbs files there are, each with at most one memory region.
pub const UVERBS: usize = 2;

/// A set of ranges, of descriptions, of uverbs files or of processes: bit n stands for number n.
pub type Set = u8;

/// Returns the set of `n` alone.
pub const fn bit(n: u8) -> Set {
    1 << n
}

/// Returns the elements of a set.
pub fn each(set: Set) -> impl Iterator<Item = u8> {
    (0..8).filter(move |n| set & bit(*n) != 0)
}

/// Both ranges.
pub const ALL: Set = 0b11;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The processes.
    pub procs: [Proc; PROCESSES],
    /// `flc_lease`, by the open file description that the lease is set on.
    pub leases: [Option<Lease>; PROCESSES],
    /// The registrations (`struct file_pins`), by the uverbs file that owns them.
    pub regs: [Reg; UVERBS],
    /// Who holds `i_rwsem`.
    pub i_rwsem: Option<u8>,
    /// Who holds the `invalidate_lock` for writing.
    pub invalidate_writer: Option<u8>,
    /// Which processes hold it for reading.
    pub invalidate_readers: Set,
    /// `dax_layout_waiters`.
    pub waiters: u8,
    /// The file.
    pub file: File,
    /// The process that writes dirty entries back.
    pub writeback: Writeback,
    /// `invalidate_inode_pages2_range()` on behalf of nfsd, or after a memory failure.
    pub invalidation: Invalidation,
    /// The device mapping.
    pub pgmap: Pgmap,
    /// How much of what the environment may do is left.
    pub left: Left,
    /// The promises that the last step has broken, by their number.
    pub flaws: u16,
}

/// The blocks of the file and its DAX entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// Ranges that have a block.
    pub blocks: Set,
    /// Ranges whose block another file shares.
    pub shared: Set,
    /// The inode has, or may have, shared blocks: its layout cannot be held.
    pub cow: bool,
    /// Ranges beyond the end of file.
    pub beyond_eof: Set,
    /// There is one entry, of PMD size, for both ranges; otherwise each has its own.
    pub pmd: bool,
    /// Ranges that have a DAX entry. Its page belongs to this file.
    pub entries: Set,
    /// `PAGECACHE_TAG_DIRTY`.
    pub dirty: Set,
    /// Entries locked by writeback, or kept by the lock of `i_pages`.
    pub locked: Set,
    /// Ranges that have been written to since they were last flushed.
    pub unflushed: Set,
    /// The file has a name.
    pub linked: bool,
    /// The inode has been evicted.
    pub evicted: bool,
}

/// What is mapped at one range by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pte {
    /// Nothing.
    None,
    /// The page, for reading.
    Read,
    /// The page, for writing.
    Write,
}

/// A process, or a thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proc {
    /// It has not exited.
    pub alive: bool,
    /// How many more calls it may make.
    pub calls: u8,
    /// Descriptions of the file that are in its fd table.
    pub files: Set,
    /// The description of the file that it maps.
    pub map: Option<u8>,
    /// Uverbs files in its fd table.
    pub uverbs: Set,
    /// Its page tables.
    pub ptes: [Pte; RANGES],
    /// Ranges whose page it has a reference to that is not long-term, as for O_DIRECT.
    pub transient: Set,
    /// Where it stands.
    pub at: At,
}

/// A layout lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// `F_WRLCK`: nobody else has one.
    pub sole: bool,
    /// `FL_EXCLUSIVE`.
    pub exclusive: bool,
    /// `fl_holder`: the thread group that set it last.
    pub holder: u8,
    /// `FL_UNLOCK_PENDING`.
    pub breaking: bool,
}

/// How far a registration is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// It is not being released.
    No,
    /// It has to go: the region is deregistered, could not be registered, or its owner is closed.
    Due,
    /// The device has stopped.
    Stopped,
    /// The pages have been unpinned.
    Unpinned,
    /// Only with a planted bug: the record has been erased before its time.
    Erased,
    /// Only with a planted bug: the file has been dropped before its time.
    Dropped,
}

/// A memory region and its registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reg {
    /// The reservation, rounded to entries of PMD size.
    pub reserved: Set,
    /// What has been confirmed, widened to entries.
    pub confirmed: Set,
    /// The pages that have been confirmed.
    pub pages: Set,
    /// These, widened to what their entries were when they were confirmed: what may be refused.
    pub touches: Set,
    /// Pages that are referenced for this registration.
    pub refs: Set,
    /// Pages that the device can reach.
    pub device: Set,
    /// The device may write.
    pub write: bool,
    /// The description that the records hold.
    pub desc: Option<u8>,
    /// References to the device mapping.
    pub pgmap: bool,
    /// Whether it is being released.
    pub release: Release,
    /// `ib_uverbs_close()` has been called.
    pub closed: bool,
}

/// `dax_writeback_one()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writeback {
    /// Nothing is being written back.
    Idle,
    /// The entry of this range is locked; its mappings are to be writeprotected.
    Locked(u8),
    /// The registry is to be asked.
    Ask(u8),
    /// The caches are to be flushed.
    Flush(u8, bool),
    /// The tag is to be cleared, unless a device may write.
    Clear(u8, bool),
}

/// `__dax_invalidate_entry()`, not for truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Nothing is being invalidated.
    Idle,
    /// The entry is locked, and to be unmapped.
    Unmap(u8),
    /// The entry is locked and unmapped; whether it is busy is to be looked at.
    Look(u8),
    /// With a planted bug: the page was not busy, under the lock of `i_pages`.
    Drop(u8),
    /// With a planted bug: the page was busy, the lock of `i_pages` has been dropped.
    Ask(u8),
    /// With a planted bug: nothing was registered, the entry is to be dropped.
    Retry(u8),
    /// The page tables of the whole range are to be cleared.
    Zap(u8),
}

/// The device mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pgmap {
    /// Its driver is bound.
    Live,
    /// The driver is being unbound, and waits for references.
    Dying,
    /// The memory map is gone.
    Gone,
}

/// What the environment may still do, so that there is an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// How many entries may be written back.
    pub writebacks: u8,
    /// How many entries may be invalidated.
    pub invalidations: u8,
    /// Whether the driver may be unbound.
    pub unbind: bool,
    /// Whether the file may be unlinked.
    pub unlink: bool,
    /// How many fatal signals there may be.
    pub kills: u8,
}

/// Where a process stands: the step that it takes next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// In user space.
    User,
    /// `fcntl(F_SETLEASE)` with a type.
    Lease(Op, LeaseAt),
    /// `ibv_reg_mr()`.
    Pin(PinCall),
    /// An operation that changes the layout.
    Change(ChangeCall),
    /// A transfer with O_DIRECT.
    Transfer(u8, TransferAt),
    /// `exit()`: memory is gone, files come next.
    ExitFiles,
}

/// The steps of `fcntl_set_layout_lease()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseAt {
    /// Take the invalidate_lock for reading.
    Lock,
    /// `generic_add_lease()`.
    Add,
    /// Release the invalidate_lock.
    Unlock,
}

/// The steps of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferAt {
    /// Take the reference, or a fault.
    Reference,
    /// The transfer runs; its end drops the reference.
    Run,
}

/// The steps of `pin_user_pages_fast_owned()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinAt {
    /// P1: `layout_lease_permits_pin()`.
    P1,
    /// P2: `file_pins_reserve()`.
    P2,
    /// P3: `grab_file_pages()`.
    P3,
    /// P4: `check_file_pages()`.
    P4,
    /// P5: `layout_lease_permits_pin()` again.
    P5,
    /// P6: `file_pins_confirm()`.
    P6,
    /// P7: `dax_layout_pinned()`.
    P7,
    /// The device is given the pages.
    Device,
    /// It failed: `unpin_file_pages()`.
    Unpin,
    /// It failed: `file_pins_cancel()`.
    Cancel,
}

/// A process that registers a memory region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PinCall {
    /// The uverbs file.
    pub reg: u8,
    /// What this call of `pin_user_pages_fast_owned()` is about.
    pub now: Set,
    /// What the calls after it are about.
    pub rest: Set,
    /// What this call has references to.
    pub got: Set,
    /// Whether the device may write.
    pub write: bool,
    /// The next step.
    pub at: PinAt,
}

/// The steps of a layout change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeAt {
    /// `inode_newsize_ok()` or `xfs_remap_refused()`, without locks.
    Early,
    /// Two files: `break_layout()` before any lock is taken.
    BreakUnlocked,
    /// Take `i_rwsem`.
    Rwsem,
    /// Two files: `break_layout()` again, under `i_rwsem`.
    BreakLocked,
    /// Take the invalidate_lock for writing.
    Invalidate,
    /// B1: `layout_range_pinned()`.
    B1Pins,
    /// B1: `layout_lease_refuses()`.
    B1Leases,
    /// B2: `break_layout()`.
    B2,
    /// B3: `unmap_mapping_pages()`.
    B3,
    /// B4: `dax_find_busy_page()`.
    B4,
    /// B4: `dax_layout_wait_begin()`.
    WaitBegin,
    /// B4: `prepare_to_wait_event()`.
    Prepare,
    /// B4: the condition of `wait_page_idle()`.
    Condition,
    /// B4: the callback drops the invalidate_lock.
    Sleep,
    /// B4: it sleeps.
    Asleep,
    /// B4: the callback takes the invalidate_lock again.
    Relock,
    /// B4: `dax_layout_wait_end()`.
    WaitEnd,
    /// B5: flush what outlives the change.
    B5Flush,
    /// B5: `dax_delete_mapping_range()`.
    B5Delete,
    /// The filesystem frees, moves or shares the blocks.
    Blocks,
    /// Release the invalidate_lock, on the way out or to wait for a lease.
    Unlock(Leave),
    /// Release `i_rwsem` as well.
    UnlockRwsem(Leave),
    /// `layout_change_wait()`.
    WaitLease,
    /// It sleeps until the lease of this description is gone, or its time is over.
    SleepLease(u8),
}

/// Why the locks are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leave {
    /// The change is complete.
    Done,
    /// `ETXTBSY`.
    Refused,
    /// A fatal signal: `EINTR`.
    Signal,
    /// `EWOULDBLOCK`: wait for a lease, then start again.
    Lease,
    /// `ERESTARTSYS`: a page is busy, and another lock is held. Start again at once.
    Busy,
}

/// A process that changes the layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChangeCall {
    /// What it does.
    pub change: Change,
    /// The next step.
    pub at: ChangeAt,
    /// The pages of the entry that is waited for.
    pub entry: Set,
    /// It is in the queue of that page.
    pub queued: bool,
    /// It has been woken up since.
    pub woken: bool,
    /// It has slept since it looked for busy pages.
    pub slept: bool,
    /// A fatal signal has come.
    pub killed: bool,
    /// The call has done something that others notice: unmapped, broken a lease.
    pub touched: bool,
    /// It has waited for something, so that what refuses it may be new.
    pub waited: bool,
}

impl State {
    /// Returns the ranges of the entry that `range` lies in.
    pub fn entry(&self, range: u8) -> Set {
        if self.file.pmd {
            ALL
        } else {
            bit(range)
        }
    }

    /// Widens `set` to whole entries.
    pub fn widen(&self, set: Set) -> Set {
        each(set).fold(0, |wide, n| wide | self.entry(n))
    }

    /// Returns whether a page of the entry `set` is mapped by anybody.
    pub fn mapped(&self, set: Set) -> bool {
        self.procs
            .iter()
            .any(|p| each(set).any(|n| p.ptes[usize::from(n)] != Pte::None))
    }

    /// `dax_busy_page()`: returns whether there is a reference that is not a mapping.
    pub fn busy(&self, set: Set) -> bool {
        self.procs.iter().any(|p| p.transient & set != 0)
            || self.regs.iter().any(|r| r.refs & set != 0)
    }

    /// `dax_page_is_idle()`: returns whether there is no reference at all.
    pub fn idle(&self, set: Set) -> bool {
        !self.mapped(set) && !self.busy(set)
    }

    /// `layout_range_pinned()` with `FILE_PIN_CONFIRMED`.
    pub fn confirmed(&self, set: Set) -> bool {
        self.regs.iter().any(|r| r.confirmed & set != 0)
    }

    /// `layout_range_pinned()` with `FILE_PIN_ANY`.
    pub fn registered(&self, set: Set) -> bool {
        self.regs
            .iter()
            .any(|r| (r.confirmed | r.reserved) & set != 0)
    }

    /// `layout_range_pinned()` with `FILE_PIN_WRITE`.
    pub fn registered_for_writing(&self, set: Set) -> bool {
        self.regs
            .iter()
            .any(|r| r.write && (r.confirmed | r.reserved) & set != 0)
    }

    /// Returns whether anything refers to the description: a descriptor, a mapping, a record.
    pub fn open(&self, desc: u8) -> bool {
        self.procs
            .iter()
            .any(|p| p.files & bit(desc) != 0 || p.map == Some(desc))
            || self.regs.iter().any(|r| r.desc == Some(desc))
    }

    /// Returns whether any descriptor refers to the uverbs file, or a call uses it.
    pub fn uverbs_open(&self, reg: u8) -> bool {
        self.procs
            .iter()
            .any(|p| p.uverbs & bit(reg) != 0 || matches!(&p.at, At::Pin(call) if call.reg == reg))
    }

    /// Clears page table entries of everybody, as `unmap_mapping_pages()` does.
    pub fn unmap(&mut self, set: Set) {
        for p in &mut self.procs {
            for n in each(set) {
                p.ptes[usize::from(n)] = Pte::None;
            }
        }
    }

    /// Puts breakers that wait for the first page of an entry of `set` on their feet.
    pub fn wake_up_var(&mut self, set: Set) {
        for p in &mut self.procs {
            if let At::Change(call) = &mut p.at {
                if call.queued && call.entry & set != 0 {
                    call.woken = true;
                }
            }
        }
    }

    /// Notes that a promise has been broken.
    pub fn broken(&mut self, promise: Property) {
        self.flaws |= promise.bit();
    }
}

impl Reg {
    /// A registration that there is not.
    pub fn none() -> Self {
        Self {
            reserved: 0,
            confirmed: 0,
            pages: 0,
            touches: 0,
            refs: 0,
            device: 0,
            write: false,
            desc: None,
            pgmap: false,
            release: Release::No,
            closed: false,
        }
    }

    /// Returns whether there is nothing to be released.
    pub fn is_none(&self) -> bool {
        Self {
            closed: false,
            ..self.clone()
        } == Self::none()
    }
}
