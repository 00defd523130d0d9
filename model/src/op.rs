// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process can call.

use crate::state::{bit, Set};

/// What becomes of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Punch a hole: the blocks are freed.
    Punch,
    /// Truncate: the same, and the range is beyond the end of file from then on.
    Truncate,
    /// Collapse and the like: the blocks are moved, and what is dirty is flushed first.
    Move,
    /// Reflink: another file shares the blocks. Two files are locked, so the page cannot be waited
    /// for under the locks.
    Reflink,
}

/// A layout change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// What becomes of the blocks.
    pub kind: Kind,
    /// Of which ranges.
    pub ranges: Set,
}

/// One call, or the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `F_SETLEASE` on a description.
    Lease {
        /// The description.
        desc: u8,
        /// `F_WRLCK`.
        sole: bool,
        /// `F_EXCLUSIVE`.
        exclusive: bool,
    },
    /// `F_SETLEASE` with `F_UNLCK`.
    Unlock(u8),
    /// `ibv_reg_mr()`.
    Pin {
        /// The uverbs file.
        reg: u8,
        /// The ranges.
        ranges: Set,
        /// For the device to write to.
        write: bool,
        /// One call of `pin_user_pages_fast_owned()` for each range.
        split: bool,
    },
    /// `ibv_dereg_mr()`.
    Unpin(u8),
    /// A layout change.
    Change(Change),
    /// A transfer with O_DIRECT to or from a range of the mapping.
    Transfer(u8),
    /// A store to a range of the mapping.
    Store(u8),
    /// `munmap()`.
    Munmap,
    /// `close()` of the descriptor of a description.
    Close(u8),
    /// Give a descriptor of a description to a process, which maps it.
    PassFile(u8, u8),
    /// Give a descriptor of an uverbs file to a process.
    PassUverbs(u8, u8),
    /// `exit()`.
    Exit,
}

impl Op {
    /// An exclusive layout lease that others may share.
    pub const fn exclusive(desc: u8) -> Self {
        Op::Lease {
            desc,
            sole: false,
            exclusive: true,
        }
    }

    /// An exclusive layout lease that nobody else may share.
    pub const fn sole(desc: u8) -> Self {
        Op::Lease {
            desc,
            sole: true,
            exclusive: true,
        }
    }

    /// A layout lease that can be broken.
    pub const fn shared(desc: u8) -> Self {
        Op::Lease {
            desc,
            sole: false,
            exclusive: false,
        }
    }

    /// A memory region of one range.
    pub const fn pin(reg: u8, range: u8, write: bool) -> Self {
        Op::Pin {
            reg,
            ranges: bit(range),
            write,
            split: false,
        }
    }

    /// A memory region of both ranges.
    pub const fn pin_both(reg: u8, write: bool, split: bool) -> Self {
        Op::Pin {
            reg,
            ranges: crate::state::ALL,
            write,
            split,
        }
    }

    /// A layout change of one range.
    pub const fn change(kind: Kind, range: u8) -> Self {
        Op::Change(Change {
            kind,
            ranges: bit(range),
        })
    }

    /// A truncate to nothing.
    pub const fn truncate() -> Self {
        Op::Change(Change {
            kind: Kind::Truncate,
            ranges: crate::state::ALL,
        })
    }
}

/// Names a set of ranges.
pub fn ranges(set: Set) -> &'static str {
    match set {
        0b01 => "range 0",
        0b10 => "range 1",
        _ => "both ranges",
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Op::Lease {
                desc,
                sole,
                exclusive,
            } => {
                let kind = if sole { "F_WRLCK" } else { "F_RDLCK" };
                let flag = if exclusive { " + F_EXCLUSIVE" } else { "" };
                write!(
                    f,
                    "fcntl(description {desc}, F_SETLEASE, {kind} + F_LAYOUT{flag})"
                )
            }
            Op::Unlock(desc) => write!(f, "fcntl(description {desc}, F_SETLEASE, F_UNLCK)"),
            Op::Pin {
                ranges: set,
                write,
                split,
                ..
            } => write!(
                f,
                "ibv_reg_mr({}{}{})",
                ranges(set),
                if write { ", writable" } else { "" },
                if split { ", in two calls" } else { "" }
            ),
            Op::Unpin(_) => write!(f, "ibv_dereg_mr()"),
            Op::Change(change) => match change.kind {
                Kind::Punch => write!(f, "fallocate(PUNCH_HOLE, {})", ranges(change.ranges)),
                Kind::Truncate => write!(f, "truncate({})", ranges(change.ranges)),
                Kind::Move => write!(f, "fallocate(COLLAPSE_RANGE, {})", ranges(change.ranges)),
                Kind::Reflink => write!(f, "ioctl(FICLONERANGE, {})", ranges(change.ranges)),
            },
            Op::Transfer(range) => write!(f, "a transfer with O_DIRECT, range {range}"),
            Op::Store(range) => write!(f, "a store to range {range}"),
            Op::Munmap => write!(f, "munmap()"),
            Op::Close(desc) => write!(f, "close(description {desc})"),
            Op::PassFile(desc, to) => write!(f, "passes description {desc} to process {to}"),
            Op::PassUverbs(reg, to) => write!(f, "passes uverbs file {reg} to process {to}"),
            Op::Exit => write!(f, "exit()"),
        }
    }
}
