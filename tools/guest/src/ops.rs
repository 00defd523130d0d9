// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations of the contract by name, with their arguments; used by the demo and the tests.

use crate::protocol::Call;
use crate::setup::Fs;
use std::path::Path;

/// A byte range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// `write(2)` at the end of the file.
    Append,
    /// `ftruncate(2)` beyond the end of the file.
    Extend,
    /// `write(2)` in place.
    Overwrite,
    /// `fallocate(2)`, mode 0.
    Allocate,
}

/// What every subtractive operation does with the range it is given.
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

/// The operations that are never refused.
pub const ADDITIVE: [Op; 4] = [Op::Append, Op::Extend, Op::Overwrite, Op::Allocate];

const PUNCH_HOLE: u32 = 0x02;
const KEEP_SIZE: u32 = 0x01;
const COLLAPSE_RANGE: u32 = 0x08;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;

impl Op {
    /// Whether the filesystem has it at all.
    pub fn exists_on(self, fs: Fs) -> bool {
        fs == Fs::Xfs || !matches!(self, Op::ReflinkFrom | Op::ReflinkTo)
    }

    /// Whether the operation can be kept to a range behind another one.
    pub fn has_range(self) -> bool {
        self != Op::OpenTruncate
    }

    /// Whether it reaches from its range to the end of the file.
    pub fn reaches_the_end(self) -> bool {
        matches!(
            self,
            Op::Truncate | Op::Ftruncate | Op::OpenTruncate | Op::Collapse | Op::Insert
        )
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
            Op::Append => "append",
            Op::Extend => "extend by ftruncate",
            Op::Overwrite => "write in place",
            Op::Allocate => "allocate",
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
            Op::Append => "append",
            Op::Extend => "extend",
            Op::Overwrite => "overwrite",
            Op::Allocate => "allocate",
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
            Op::Allocate => fallocate(path, 0),
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
        let all: Vec<Op> = SUBTRACTIVE.into_iter().chain(ADDITIVE).collect();
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
