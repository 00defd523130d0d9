// SPDX-License-Identifier: MIT OR Apache-2.0
//! One step of a stress run. Everything goes by small numbers, and a step that makes no sense in the
//! state of things is passed over, so that any part of a script is a script.

use crate::ops::{Op, Span};
use serde::{Deserialize, Serialize};

/// How a file is mapped: always all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Shared, to read and write.
    Shared,
    /// Shared, to read only.
    SharedRead,
    /// Private, to read and write.
    Private,
}

/// What can own pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// An open file of gup_test.
    Gup,
    /// A ring of io_uring.
    Ring,
    /// The uverbs file that a verbs client has from its start to its end.
    Verbs,
}

/// A descriptor of a process: the file it is about, and which of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// Which file.
    pub file: usize,
    /// Which descriptor of it.
    pub number: usize,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// `open(2)`, read-write or read-only.
    Open { who: usize, slot: Slot, write: bool },
    /// `close(2)`.
    Close { who: usize, slot: Slot },
    /// `fcntl(F_SETLEASE)` with this argument.
    Lease {
        who: usize,
        slot: Slot,
        argument: i32,
    },
    /// `fcntl(F_GETLEASE)`.
    GetLease { who: usize, slot: Slot },
    /// `mmap(2)` of the whole file through this descriptor.
    Map { who: usize, slot: Slot, mode: Mode },
    /// `munmap(2)`.
    Unmap { who: usize, slot: Slot },
    /// Opens something that can own pins.
    Owner {
        who: usize,
        owner: usize,
        kind: OwnerKind,
    },
    /// Closes it.
    CloseOwner { who: usize, owner: usize },
    /// Pins part of a mapping.
    Pin {
        who: usize,
        owner: usize,
        slot: Slot,
        at: Span,
        write: bool,
    },
    /// Lets go of all that the owner has pinned.
    Unpin { who: usize, owner: usize },
    /// A device writes to what was pinned first, and the mapping shows it.
    Dma { who: usize, owner: usize },
    /// `fsync(2)`.
    Fsync { who: usize, slot: Slot },
    /// An operation on the file, and maybe on a partner; with `look`, a refusal has to leave no trace.
    Change {
        who: usize,
        op: Op,
        file: usize,
        partner: usize,
        at: Span,
        nonblock: bool,
        look: bool,
    },
    /// A child process with copies of all descriptors and mappings.
    Fork { who: usize },
    /// `kill -9` of the oldest child.
    KillChild,
    /// A copy of a descriptor of another process.
    Take {
        from: usize,
        slot: Slot,
        who: usize,
        into: usize,
    },
    /// A copy of the descriptor of an owner.
    TakeOwner {
        from: usize,
        owner: usize,
        who: usize,
        into: usize,
    },
    /// Sends the owner's descriptor over a socket: only the message holds it.
    Post { who: usize, owner: usize },
    /// Takes it out again.
    Receive { who: usize, owner: usize },
    /// `kill -9`, and another process in its place.
    Kill { who: usize },
    /// Unlinks the file, whoever holds it, and makes a new one of that name.
    Remake { file: usize },
    /// Freezes the filesystem, looks at leases and listings, and thaws it.
    Freeze,
    /// Has the kernel drop what it can, and move what it can.
    Reclaim,
    /// Compares all that is listed with what ought to be.
    Audit,
}

impl Step {
    /// The process that takes the step, if it is one's.
    pub fn who(&self) -> Option<usize> {
        match *self {
            Step::Open { who, .. }
            | Step::Close { who, .. }
            | Step::Lease { who, .. }
            | Step::GetLease { who, .. }
            | Step::Map { who, .. }
            | Step::Unmap { who, .. }
            | Step::Owner { who, .. }
            | Step::CloseOwner { who, .. }
            | Step::Pin { who, .. }
            | Step::Unpin { who, .. }
            | Step::Dma { who, .. }
            | Step::Fsync { who, .. }
            | Step::Change { who, .. }
            | Step::Fork { who }
            | Step::Take { who, .. }
            | Step::TakeOwner { who, .. }
            | Step::Post { who, .. }
            | Step::Receive { who, .. }
            | Step::Kill { who } => Some(who),
            Step::KillChild | Step::Remake { .. } | Step::Freeze | Step::Reclaim | Step::Audit => {
                None
            }
        }
    }

    /// The file that it is about, if it is about one.
    pub fn file(&self) -> Option<usize> {
        match *self {
            Step::Open { slot, .. }
            | Step::Close { slot, .. }
            | Step::Lease { slot, .. }
            | Step::GetLease { slot, .. }
            | Step::Map { slot, .. }
            | Step::Unmap { slot, .. }
            | Step::Pin { slot, .. }
            | Step::Fsync { slot, .. }
            | Step::Take { slot, .. } => Some(slot.file),
            Step::Change { file, .. } | Step::Remake { file } => Some(file),
            _ => None,
        }
    }
}
