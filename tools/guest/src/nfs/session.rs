// SPDX-License-Identifier: MIT OR Apache-2.0
//! An NFSv4.2 client (RFC 7862, RFC 8881) with one session of one slot, and its back channel.

use super::callback::Backchannel;
use super::rpc::{credential, Connection};
use super::status::Status;
use super::xdr::{Decoder, Encoder};
use anyhow::{ensure, Context};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const PROGRAM: u32 = 100_003;
const VERSION: u32 = 4;
const MINOR_VERSION: u32 = 2;
const COMPOUND: u32 = 1;
/// The program the server calls; any number in the transient range.
const CALLBACK_PROGRAM: u32 = 0x4000_0000;
const AUTH_SYS: u32 = 1;

/// Operations, by number.
pub mod op {
    /// GETFH
    pub const GETFH: u32 = 10;
    /// LOOKUP
    pub const LOOKUP: u32 = 15;
    /// OPEN
    pub const OPEN: u32 = 18;
    /// PUTFH
    pub const PUTFH: u32 = 22;
    /// PUTROOTFH
    pub const PUTROOTFH: u32 = 24;
    /// SAVEFH
    pub const SAVEFH: u32 = 32;
    /// SETATTR
    pub const SETATTR: u32 = 34;
    /// EXCHANGE_ID
    pub const EXCHANGE_ID: u32 = 42;
    /// CREATE_SESSION
    pub const CREATE_SESSION: u32 = 43;
    /// LAYOUTCOMMIT
    pub const LAYOUTCOMMIT: u32 = 49;
    /// LAYOUTGET
    pub const LAYOUTGET: u32 = 50;
    /// LAYOUTRETURN
    pub const LAYOUTRETURN: u32 = 51;
    /// SEQUENCE
    pub const SEQUENCE: u32 = 53;
    /// RECLAIM_COMPLETE
    pub const RECLAIM_COMPLETE: u32 = 58;
    /// COPY
    pub const COPY: u32 = 60;
    /// DEALLOCATE
    pub const DEALLOCATE: u32 = 62;
    /// CLONE
    pub const CLONE: u32 = 71;
}

/// Open and layout state, as the server names it.
pub type StateId = [u8; 16];

/// A file that is open on the server.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The file handle.
    pub handle: Vec<u8>,
    /// What OPEN returned.
    pub state: StateId,
}

/// A client's session.
pub struct Session {
    connection: Connection,
    client: u64,
    id: Vec<u8>,
    sequence: u32,
    /// What the server asked for.
    pub backchannel: Arc<Backchannel>,
}

/// The answer to a compound, operation by operation.
pub struct Results {
    /// How the last operation that was tried turned out.
    pub status: Status,
    decoder: Decoder,
}

impl Results {
    /// On to the next operation, which must be this one; whether it succeeded. Its results are next.
    pub fn next(&mut self, expected: u32) -> anyhow::Result<Status> {
        let op = self.decoder.u32()?;
        ensure!(op == expected, "operation {op} answered, not {expected}");
        Ok(Status(self.decoder.u32()?))
    }

    /// The same, which must have succeeded.
    pub fn must(&mut self, expected: u32) -> anyhow::Result<&mut Decoder> {
        let status = self.next(expected)?;
        ensure!(status == Status::OK, "operation {expected}: {status}");
        Ok(&mut self.decoder)
    }
}

impl Session {
    /// Introduces a new client to the server, which then expects no reclaims from it.
    pub fn begin(port: u16) -> anyhow::Result<Session> {
        let mut session = Session::introduce(port)?;
        let one_filesystem = false;
        let done = Encoder::new().bool(one_filesystem);
        let mut results = session.compound(&[(op::RECLAIM_COMPLETE, done)])?;
        results.must(op::RECLAIM_COMPLETE)?;
        Ok(session)
    }

    /// A client that may still have something to reclaim.
    pub fn introduce(port: u16) -> anyhow::Result<Session> {
        let backchannel = Arc::new(Backchannel::default());
        let served = backchannel.clone();
        let mut connection = Connection::open(port, move |procedure, arguments| {
            served.serve(procedure, arguments)
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let verifier = u64::try_from(now & u128::from(u64::MAX))?;
        let (flags, no_protection, no_implementation) = (0, 0, 0);
        let arguments = Encoder::new()
            .u64(verifier)
            .opaque(format!("guest {verifier:x}").as_bytes())
            .u32(flags)
            .u32(no_protection)
            .u32(no_implementation);
        let mut results = run(&mut connection, &[(op::EXCHANGE_ID, arguments)])?;
        let reply = results.must(op::EXCHANGE_ID)?;
        let client = reply.u64()?;
        let sequence = reply.u32()?;

        const WITH_BACK_CHANNEL: u32 = 2;
        let arguments = Encoder::new()
            .u64(client)
            .u32(sequence)
            .u32(WITH_BACK_CHANNEL)
            .fixed(&channel(8))
            .fixed(&channel(2))
            .u32(CALLBACK_PROGRAM)
            .u32(1)
            .u32(AUTH_SYS)
            .fixed(&credential());
        let mut results = run(&mut connection, &[(op::CREATE_SESSION, arguments)])?;
        let reply = results.must(op::CREATE_SESSION)?;
        let id = reply.fixed(16)?.to_vec();
        Ok(Session {
            connection,
            client,
            id,
            sequence: 0,
            backchannel,
        })
    }

    /// The handle of a file of the exported directory.
    pub fn lookup(&mut self, name: &str) -> anyhow::Result<Vec<u8>> {
        let mut results = self.compound(&[
            (op::PUTROOTFH, Encoder::new()),
            (op::LOOKUP, Encoder::new().opaque(name.as_bytes())),
            (op::GETFH, Encoder::new()),
        ])?;
        results.must(op::PUTROOTFH)?;
        results.must(op::LOOKUP)?;
        Ok(results.must(op::GETFH)?.opaque()?.to_vec())
    }

    /// Opens a file of the exported directory for reading and writing, without a delegation.
    pub fn open(&mut self, name: &str) -> anyhow::Result<OpenFile> {
        let handle = self.lookup(name)?;
        const BOTH_NO_DELEGATION: u32 = 3 | 0x400;
        let (seqid, deny_none, no_create, claim_null) = (0, 0, 0, 0);
        let open = Encoder::new()
            .u32(seqid)
            .u32(BOTH_NO_DELEGATION)
            .u32(deny_none)
            .u64(self.client)
            .opaque(b"owner")
            .u32(no_create)
            .u32(claim_null)
            .opaque(name.as_bytes());
        let ops = [(op::PUTROOTFH, Encoder::new()), (op::OPEN, open)];
        let mut results = self.compound(&ops).context("OPEN")?;
        results.must(op::PUTROOTFH)?;
        let state = results.must(op::OPEN)?.fixed(16)?.try_into()?;
        Ok(OpenFile { handle, state })
    }

    /// An operation on a file.
    pub fn on(&mut self, handle: &[u8], op: u32, args: Encoder) -> anyhow::Result<Results> {
        let handle = Encoder::new().opaque(handle);
        let mut results = self.compound(&[(op::PUTFH, handle), (op, args)])?;
        results.must(op::PUTFH)?;
        Ok(results)
    }

    /// An operation on two files, from the first one to the second.
    pub fn on_both(
        &mut self,
        from: &[u8],
        to: &[u8],
        op: u32,
        args: Encoder,
    ) -> anyhow::Result<Results> {
        let handle = |handle| (op::PUTFH, Encoder::new().opaque(handle));
        let save = (op::SAVEFH, Encoder::new());
        let mut results = self.compound(&[handle(from), save, handle(to), (op, args)])?;
        for op in [op::PUTFH, op::SAVEFH, op::PUTFH] {
            results.must(op)?;
        }
        Ok(results)
    }

    fn compound(&mut self, ops: &[(u32, Encoder)]) -> anyhow::Result<Results> {
        self.sequence += 1;
        let (slot, highest_slot, cache) = (0, 0, false);
        let sequence = Encoder::new()
            .fixed(&self.id)
            .u32(self.sequence)
            .u32(slot)
            .u32(highest_slot)
            .bool(cache);
        let mut all = vec![(op::SEQUENCE, sequence)];
        all.extend_from_slice(ops);
        let mut results = run(&mut self.connection, &all)?;
        // The session again, sequence number, three slots, flags.
        results.must(op::SEQUENCE)?.fixed(16 + 5 * 4)?;
        Ok(results)
    }
}

/// Attributes of a channel with so many operations in a compound, and one request at a time.
fn channel(operations: u32) -> Vec<u8> {
    let (padding, size, cached, requests, no_rdma) = (0, 65536, 4096, 1, 0);
    Encoder::new()
        .u32(padding)
        .u32(size)
        .u32(size)
        .u32(cached)
        .u32(operations)
        .u32(requests)
        .u32(no_rdma)
        .bytes()
}

fn run(connection: &mut Connection, ops: &[(u32, Encoder)]) -> anyhow::Result<Results> {
    let mut arguments = Encoder::new()
        .opaque(b"")
        .u32(MINOR_VERSION)
        .u32(u32::try_from(ops.len())?);
    for (op, body) in ops {
        arguments = arguments.u32(*op).fixed(&body.clone().bytes());
    }
    let mut decoder = connection.call(PROGRAM, VERSION, COMPOUND, &arguments.bytes())?;
    let status = Status(decoder.u32()?);
    decoder.opaque()?;
    let answered = decoder.u32()?;
    ensure!(answered > 0, "the compound was refused: {status}");
    Ok(Results { status, decoder })
}
