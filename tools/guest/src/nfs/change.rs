// SPDX-License-Identifier: MIT OR Apache-2.0
//! What changes the layout of a file on the server.

use super::session::{op, OpenFile, Session};
use super::status::Status;
use super::xdr::Encoder;
use crate::ops::Span;

impl Session {
    /// SETATTR of the size.
    pub fn set_size(&mut self, file: &OpenFile, size: u64) -> anyhow::Result<Status> {
        const SIZE: u32 = 1 << 4;
        let arguments = Encoder::new()
            .fixed(&file.state)
            .u32(1)
            .u32(SIZE)
            .opaque(&Encoder::new().u64(size).bytes());
        let mut results = self.on(&file.handle, op::SETATTR, arguments)?;
        results.next(op::SETATTR)
    }

    /// DEALLOCATE: punches a hole.
    pub fn deallocate(&mut self, file: &OpenFile, range: Span) -> anyhow::Result<Status> {
        let arguments = Encoder::new()
            .fixed(&file.state)
            .u64(range.offset)
            .u64(range.length);
        let mut results = self.on(&file.handle, op::DEALLOCATE, arguments)?;
        results.next(op::DEALLOCATE)
    }

    /// CLONE of a range, to the same place in the other file.
    pub fn clone_range(
        &mut self,
        from: &OpenFile,
        to: &OpenFile,
        range: Span,
    ) -> anyhow::Result<Status> {
        let arguments = both(from, to, range);
        let mut results = self.on_both(&from.handle, &to.handle, op::CLONE, arguments)?;
        results.next(op::CLONE)
    }

    /// COPY of a range, to the same place in the other file, within the call.
    pub fn copy(&mut self, from: &OpenFile, to: &OpenFile, range: Span) -> anyhow::Result<Status> {
        let (consecutive, synchronous, other_servers) = (true, true, 0);
        let arguments = both(from, to, range)
            .bool(consecutive)
            .bool(synchronous)
            .u32(other_servers);
        let mut results = self.on_both(&from.handle, &to.handle, op::COPY, arguments)?;
        results.next(op::COPY)
    }
}

fn both(from: &OpenFile, to: &OpenFile, range: Span) -> Encoder {
    Encoder::new()
        .fixed(&from.state)
        .fixed(&to.state)
        .u64(range.offset)
        .u64(range.offset)
        .u64(range.length)
}
