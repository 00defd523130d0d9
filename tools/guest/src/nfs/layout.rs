// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block layouts (RFC 5663): to get, to return and to commit.

use super::session::{op, OpenFile, Session, StateId};
use super::status::Status;
use super::xdr::Encoder;
use anyhow::ensure;

const BLOCK_VOLUME: u32 = 3;
/// A layout of this size has room for some dozens of extents.
const MAXIMUM: u32 = 4096;

/// What a layout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// To read only.
    Read = 1,
    /// To read and write: the server allocates what is missing.
    ReadWrite = 2,
}

/// A layout that the server has given out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the server calls it.
    pub state: StateId,
    /// How many bytes of the file its extents name blocks for.
    pub bytes: u64,
}

impl Session {
    /// LAYOUTGET for the first bytes of a file that has been opened: the layout, or why not.
    pub fn layout_get(
        &mut self,
        file: &OpenFile,
        mode: Mode,
        length: u64,
    ) -> anyhow::Result<Result<Layout, Status>> {
        let (signal_available, offset, minimum) = (false, 0, 4096);
        let arguments = Encoder::new()
            .bool(signal_available)
            .u32(BLOCK_VOLUME)
            .u32(mode as u32)
            .u64(offset)
            .u64(length)
            .u64(minimum)
            .fixed(&file.state)
            .u32(MAXIMUM);
        let mut results = self.on(&file.handle, op::LAYOUTGET, arguments)?;
        if results.status != Status::OK {
            return Ok(Err(results.next(op::LAYOUTGET)?));
        }
        let reply = results.must(op::LAYOUTGET)?;
        let _return_on_close = reply.u32()?;
        let state = reply.fixed(16)?.try_into()?;
        let mut bytes = 0;
        for _ in 0..reply.u32()? {
            let (_offset, _length, _mode) = (reply.u64()?, reply.u64()?, reply.u32()?);
            ensure!(reply.u32()? == BLOCK_VOLUME, "a layout of another type");
            let _size = reply.u32()?;
            for _ in 0..reply.u32()? {
                let _device = reply.fixed(16)?;
                let (_offset, length, _physical) = (reply.u64()?, reply.u64()?, reply.u64()?);
                bytes += length;
                let _state = reply.u32()?;
            }
        }
        Ok(Ok(Layout { state, bytes }))
    }

    /// LAYOUTRETURN of all of it.
    pub fn layout_return(&mut self, file: &OpenFile, layout: &Layout) -> anyhow::Result<Status> {
        const ANY_MODE: u32 = 3;
        const OF_FILE: u32 = 1;
        let reclaim = false;
        let arguments = Encoder::new()
            .bool(reclaim)
            .u32(BLOCK_VOLUME)
            .u32(ANY_MODE)
            .u32(OF_FILE)
            .u64(0)
            .u64(u64::MAX)
            .fixed(&layout.state)
            .opaque(b"");
        let mut results = self.on(&file.handle, op::LAYOUTRETURN, arguments)?;
        results.next(op::LAYOUTRETURN)
    }

    /// LAYOUTCOMMIT of a range by a client that claims to have got it before the server restarted.
    pub fn layout_reclaim(
        &mut self,
        handle: &[u8],
        offset: u64,
        length: u64,
    ) -> anyhow::Result<Status> {
        let (reclaim, no_offset, no_time) = (true, false, false);
        let (physical, written) = (0, 0);
        let update = Encoder::new()
            .u32(1)
            .fixed(&[0; 16])
            .u64(offset)
            .u64(length)
            .u64(physical)
            .u32(written);
        let arguments = Encoder::new()
            .u64(offset)
            .u64(length)
            .bool(reclaim)
            .fixed(&[0; 16])
            .bool(no_offset)
            .bool(no_time)
            .u32(BLOCK_VOLUME)
            .opaque(&update.bytes());
        let mut results = self.on(handle, op::LAYOUTCOMMIT, arguments)?;
        results.next(op::LAYOUTCOMMIT)
    }
}
