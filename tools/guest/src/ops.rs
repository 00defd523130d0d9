// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations of the contract by name, with their arguments; used by the demo and the tests.

use crate::ioctls;
use crate::protocol::Call;
use crate::setup::Fs;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A byte range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Span {
    /// A range.
    pub const fn new(offset: u64, length: u64) -> Self {
        Span { offset, length }
    }
}

/// An operation on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// `truncate(2)` to the range's beginning.
    Truncate,
    /// `ftruncate(2)` to the range's beginning.
    Ftruncate,
    /// `open(2)` with O_TRUNC: the whole file, whatever the range.
    OpenTruncate,
    /// FALLOC_FL_PUNCH_HOLE.
    Punch,
    /// FALLOC_FL_ZERO_RANGE.
    ZeroRange,
    /// FALLOC_FL_COLLAPSE_RANGE.
    Collapse,
    /// FALLOC_FL_INSERT_RANGE.
    Insert,
    /// FICLONERANGE that shares the range with another file.
    ReflinkFrom,
    /// FICLONERANGE that replaces the range by another file's blocks.
    ReflinkTo,
    /// FIDEDUPERANGE that shares the range with another file.
    DedupeFrom,
    /// FIDEDUPERANGE that replaces the range by another file's equal blocks.
    DedupeTo,
    /// XFS_IOC_EXCHANGE_RANGE, the file in question being the first.
    ExchangeFirst,
    /// XFS_IOC_EXCHANGE_RANGE, the file in question being the second.
    ExchangeSecond,
    /// XFS_IOC_SWAPEXT, the file in question being the target: the whole file.
    SwapTarget,
    /// XFS_IOC_SWAPEXT, the file in question being the temporary one: the whole file.
    SwapTemporary,
    /// EXT4_IOC_SWAP_BOOT: the whole file.
    SwapBoot,
    /// FALLOC_FL_UNSHARE_RANGE.
    Unshare,
    /// `write(2)` at the end of the file.
    Append,
    /// `ftruncate(2)` beyond the end of the file.
    Extend,
    /// `write(2)` in place.
    Overwrite,
    /// `fallocate(2)`, mode 0.
    Allocate,
    /// `fallocate(2)` behind the end of the file, which stays where it is.
    AllocateBehind,
    /// `ftruncate(2)` to the size the file has.
    SameSize,
}

/// The subtractive operations programs use every day.
pub const SUBTRACTIVE: [Op; 9] = [
    Op::Truncate,
    Op::Ftruncate,
    Op::OpenTruncate,
    Op::ZeroRange,
    Op::Punch,
    Op::Insert,
    Op::Collapse,
    Op::ReflinkFrom,
    Op::ReflinkTo,
];

/// The other subtractive operations: of defragmenters, deduplicators, boot loaders.
pub const RARE: [Op; 8] = [
    Op::DedupeFrom,
    Op::DedupeTo,
    Op::ExchangeFirst,
    Op::ExchangeSecond,
    Op::SwapTarget,
    Op::SwapTemporary,
    Op::SwapBoot,
    Op::Unshare,
];

/// The operations that are never refused.
pub const ADDITIVE: [Op; 6] = [
    Op::Append,
    Op::Extend,
    Op::Overwrite,
    Op::Allocate,
    Op::AllocateBehind,
    Op::SameSize,
];

/// All subtractive operations of a filesystem.
pub fn subtractive(fs: Fs) -> impl Iterator<Item = Op> {
    let all = SUBTRACTIVE.into_iter().chain(RARE);
    all.filter(move |op| op.exists_on(fs))
}

const PUNCH_HOLE: u32 = 0x02;
const KEEP_SIZE: u32 = 0x01;
const COLLAPSE_RANGE: u32 = 0x08;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;
const UNSHARE_RANGE: u32 = 0x40;

impl Op {
    /// Whether the filesystem has it at all.
    pub fn exists_on(self, fs: Fs) -> bool {
        match self {
            Op::Unshare => fs == Fs::Xfs,
            Op::SwapBoot => fs == Fs::Ext4,
            _ => fs == Fs::Xfs || !self.takes_two_files(),
        }
    }

    /// Whether the operation can be kept to a range behind another one.
    pub fn has_range(self) -> bool {
        !matches!(
            self,
            Op::OpenTruncate | Op::SwapTarget | Op::SwapTemporary | Op::SwapBoot
        )
    }

    /// Whether it takes a path, so that there is no description to make nonblocking.
    pub fn takes_a_path(self) -> bool {
        matches!(self, Op::Truncate | Op::OpenTruncate)
    }

    /// Whether it changes, or reads for good, another file's layout as well.
    pub fn takes_two_files(self) -> bool {
        matches!(
            self,
            Op::ReflinkFrom
                | Op::ReflinkTo
                | Op::DedupeFrom
                | Op::DedupeTo
                | Op::ExchangeFirst
                | Op::ExchangeSecond
                | Op::SwapTarget
                | Op::SwapTemporary
        )
    }

    /// Whether it takes the file's capabilities away, as it is other data then.
    pub fn takes_capabilities_away(self) -> bool {
        SUBTRACTIVE.contains(&self) && !self.takes_two_files()
    }

    /// Whether only root may do it, whoever owns the file.
    pub fn needs_root(self) -> bool {
        self == Op::SwapBoot
    }

    /// Whether a file that is full of blocks of its own can be the same afterwards.
    pub fn may_change_nothing(self) -> bool {
        matches!(self, Op::Allocate | Op::SameSize)
    }

    /// Whether it reaches from its range to the end of the file.
    pub fn reaches_the_end(self) -> bool {
        matches!(
            self,
            Op::Truncate | Op::Ftruncate | Op::Collapse | Op::Insert
        ) || !self.has_range()
    }

    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Op::Truncate => "truncate",
            Op::Ftruncate => "ftruncate",
            Op::OpenTruncate => "open with O_TRUNC",
            Op::Punch => "punch a hole",
            Op::ZeroRange => "zero a range",
            Op::Collapse => "collapse a range",
            Op::Insert => "insert a range",
            Op::ReflinkFrom => "reflink from it",
            Op::ReflinkTo => "reflink onto it",
            Op::DedupeFrom => "dedupe from it",
            Op::DedupeTo => "dedupe onto it",
            Op::ExchangeFirst => "exchange ranges, as the first",
            Op::ExchangeSecond => "exchange ranges, as the second",
            Op::SwapTarget => "swap extents, as the target",
            Op::SwapTemporary => "swap extents, as the temporary file",
            Op::SwapBoot => "swap with the boot loader's inode",
            Op::Unshare => "unshare a range",
            Op::Append => "append",
            Op::Extend => "extend by ftruncate",
            Op::Overwrite => "write in place",
            Op::Allocate => "allocate",
            Op::AllocateBehind => "allocate behind the end",
            Op::SameSize => "ftruncate to the same size",
        }
    }

    /// As part of a test's name.
    pub fn slug(self) -> &'static str {
        match self {
            Op::Truncate => "truncate",
            Op::Ftruncate => "ftruncate",
            Op::OpenTruncate => "open_trunc",
            Op::Punch => "punch",
            Op::ZeroRange => "zero_range",
            Op::Collapse => "collapse",
            Op::Insert => "insert",
            Op::ReflinkFrom => "reflink_from",
            Op::ReflinkTo => "reflink_to",
            Op::DedupeFrom => "dedupe_from",
            Op::DedupeTo => "dedupe_to",
            Op::ExchangeFirst => "exchange_first",
            Op::ExchangeSecond => "exchange_second",
            Op::SwapTarget => "swapext_target",
            Op::SwapTemporary => "swapext_temporary",
            Op::SwapBoot => "swap_boot",
            Op::Unshare => "unshare",
            Op::Append => "append",
            Op::Extend => "extend",
            Op::Overwrite => "overwrite",
            Op::Allocate => "allocate",
            Op::AllocateBehind => "allocate_behind",
            Op::SameSize => "same_size",
        }
    }

    /// The call on `path` (now `size` bytes long), aimed at `at`. `partner` is another file of the same
    /// filesystem, at least as long as the range's end.
    pub fn call(self, path: &Path, partner: &Path, size: u64, at: Span) -> Call {
        let path = path.to_owned();
        let partner = partner.to_owned();
        let fallocate = |path, mode| Call::Fallocate {
            path,
            mode,
            offset: at.offset,
            length: at.length,
            flags: 0,
        };
        match self {
            Op::Truncate => Call::Truncate {
                path,
                size: at.offset,
            },
            Op::Ftruncate => Call::Ftruncate {
                path,
                size: at.offset,
                flags: 0,
            },
            Op::OpenTruncate => Call::OpenTruncate { path },
            Op::Punch => fallocate(path, PUNCH_HOLE | KEEP_SIZE),
            Op::ZeroRange => fallocate(path, ZERO_RANGE),
            Op::Collapse => fallocate(path, COLLAPSE_RANGE),
            Op::Insert => fallocate(path, INSERT_RANGE),
            Op::Unshare => fallocate(path, UNSHARE_RANGE),
            Op::Allocate => fallocate(path, 0),
            Op::AllocateBehind => Call::Fallocate {
                path,
                mode: KEEP_SIZE,
                offset: size.next_multiple_of(4096),
                length: 65536,
                flags: 0,
            },
            Op::SameSize => Call::Ftruncate {
                path,
                size,
                flags: 0,
            },
            Op::DedupeFrom => ioctls::dedupe(&path, &partner, at),
            Op::DedupeTo => ioctls::dedupe(&partner, &path, at),
            Op::ExchangeFirst => ioctls::exchange(&path, &partner, at),
            Op::ExchangeSecond => ioctls::exchange(&partner, &path, at),
            Op::SwapTarget => ioctls::swap_extents(&path, &partner, size),
            Op::SwapTemporary => ioctls::swap_extents(&partner, &path, size),
            Op::SwapBoot => ioctls::swap_boot(&path),
            Op::ReflinkFrom => Call::CloneRange {
                from: path,
                from_offset: at.offset,
                length: at.length,
                to: partner,
                to_offset: at.offset,
                flags: 0,
            },
            Op::ReflinkTo => Call::CloneRange {
                from: partner,
                from_offset: at.offset,
                length: at.length,
                to: path,
                to_offset: at.offset,
                flags: 0,
            },
            Op::Append => Call::Pwrite {
                path,
                offset: size,
                length: 8192,
            },
            Op::Extend => Call::Ftruncate {
                path,
                size: size + 65536,
                flags: 0,
            },
            Op::Overwrite => Call::Pwrite {
                path,
                offset: at.offset,
                length: at.length,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let all: Vec<Op> = SUBTRACTIVE
            .into_iter()
            .chain(RARE)
            .chain(ADDITIVE)
            .collect();
        let slugs: std::collections::HashSet<_> = all.iter().map(|op| op.slug()).collect();
        let titles: std::collections::HashSet<_> = all.iter().map(|op| op.title()).collect();
        assert_eq!((slugs.len(), titles.len()), (all.len(), all.len()));
    }

    #[test]
    fn reflinks_go_both_ways() {
        let at = Span::new(4096, 8192);
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        let Call::CloneRange { from, to, .. } = Op::ReflinkFrom.call(a, b, 1 << 20, at) else {
            panic!()
        };
        assert_eq!((from.as_path(), to.as_path()), (a, b));
        let Call::CloneRange { from, to, .. } = Op::ReflinkTo.call(a, b, 1 << 20, at) else {
            panic!()
        };
        assert_eq!((from.as_path(), to.as_path()), (b, a));
        assert!(!Op::ReflinkTo.exists_on(Fs::Ext4));
    }
}
