// SPDX-License-Identifier: MIT OR Apache-2.0
//! Remote procedure calls over TCP (RFC 5531), in both directions over one connection.

use super::xdr::{Decoder, Encoder};
use anyhow::{bail, ensure, Context};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long an answer may take. A server that asks for patience answers, too.
const LIMIT: Duration = Duration::from_secs(30);
const LAST_FRAGMENT: u32 = 1 << 31;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_SYS: u32 = 1;

/// A connection to a server that calls back.
pub struct Connection {
    stream: TcpStream,
    replies: Receiver<Vec<u8>>,
    last: u32,
}

impl Connection {
    /// Connects. A thread of its own takes what comes in, until the connection ends; `serve` answers
    /// the server's calls: it gets the procedure and its arguments.
    pub fn open(
        port: u16,
        serve: impl Fn(u32, Decoder) -> anyhow::Result<Encoder> + Send + 'static,
    ) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("no server on port {port}"))?;
        stream.set_nodelay(true)?;
        let (sender, replies) = channel();
        let mut reader = stream.try_clone()?;
        let mut writer = stream.try_clone()?;
        std::thread::spawn(move || {
            while let Ok(message) = read_record(&mut reader) {
                let mut decoder = Decoder::new(message.clone());
                match (decoder.u32(), decoder.u32()) {
                    (Ok(xid), Ok(CALL)) => {
                        // Without an answer the server notices, and the test.
                        let answer = accept(&mut decoder, &serve).unwrap_or_default();
                        let answer = Encoder::new().u32(xid).fixed(&answer);
                        if write_record(&mut writer, answer).is_err() {
                            break;
                        }
                    }
                    _ => {
                        if sender.send(message).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        Ok(Connection {
            stream,
            replies,
            last: 0,
        })
    }

    /// Calls a procedure as root; what it returned.
    pub fn call(
        &mut self,
        program: u32,
        version: u32,
        procedure: u32,
        arguments: &[u8],
    ) -> anyhow::Result<Decoder> {
        self.last += 1;
        let message = Encoder::new()
            .u32(self.last)
            .u32(CALL)
            .u32(RPC_VERSION)
            .u32(program)
            .u32(version)
            .u32(procedure)
            .u32(AUTH_SYS)
            .opaque(&credential())
            .u32(0)
            .u32(0)
            .fixed(arguments);
        write_record(&mut self.stream, message)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut decoder = match self.replies.recv_timeout(left) {
                Ok(message) => Decoder::new(message),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the server did not answer within {} s", LIMIT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the server closed the connection"),
            };
            // An answer to a call that nobody waits for any more is passed over.
            if decoder.u32()? == self.last {
                ensure!(decoder.u32()? == REPLY, "not a reply");
                ensure!(decoder.u32()? == 0, "the call was denied");
                decoder.u32()?;
                decoder.opaque()?;
                let status = decoder.u32()?;
                ensure!(status == 0, "the call was not accepted: {status}");
                return Ok(decoder);
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the reader, too.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// AUTH_SYS: root of this machine.
pub fn credential() -> Vec<u8> {
    let (stamp, uid, gid, groups) = (0, 0, 0, 0);
    Encoder::new()
        .u32(stamp)
        .opaque(b"guest")
        .u32(uid)
        .u32(gid)
        .u32(groups)
        .bytes()
}

/// The rest of a call, and the reply to it without its number.
fn accept(
    call: &mut Decoder,
    serve: &impl Fn(u32, Decoder) -> anyhow::Result<Encoder>,
) -> anyhow::Result<Vec<u8>> {
    let (_rpc, _program, _version) = (call.u32()?, call.u32()?, call.u32()?);
    let procedure = call.u32()?;
    for _ in ["credential", "verifier"] {
        call.u32()?;
        call.opaque()?;
    }
    let results = serve(procedure, call.clone())?;
    let (accepted, no_verifier, success) = (0, 0, 0);
    Ok(Encoder::new()
        .u32(REPLY)
        .u32(accepted)
        .u32(no_verifier)
        .u32(0)
        .u32(success)
        .fixed(&results.bytes())
        .bytes())
}

fn read_record(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut record = Vec::new();
    loop {
        let mut mark = [0; 4];
        stream.read_exact(&mut mark)?;
        let mark = u32::from_be_bytes(mark);
        let begin = record.len();
        record.resize(begin + (mark & !LAST_FRAGMENT) as usize, 0);
        stream.read_exact(&mut record[begin..])?;
        if mark & LAST_FRAGMENT != 0 {
            return Ok(record);
        }
    }
}

fn write_record(stream: &mut impl Write, message: Encoder) -> anyhow::Result<()> {
    let message = message.bytes();
    let mark = LAST_FRAGMENT | u32::try_from(message.len())?;
    // In one piece: calls and answers to the server's calls share the connection.
    let mut record = mark.to_be_bytes().to_vec();
    record.extend_from_slice(&message);
    stream.write_all(&record).context("cannot send")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_make_a_record() {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.extend_from_slice(&[0, 0, 0, 2, 1, 2]);
        bytes.extend_from_slice(&[0x80, 0, 0, 1, 3]);
        assert_eq!(read_record(&mut bytes.as_slice()).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut wire = Vec::new();
        write_record(&mut wire, Encoder::new().u32(5).u32(6)).unwrap();
        let record = read_record(&mut wire.as_slice()).unwrap();
        assert_eq!(record, [0, 0, 0, 5, 0, 0, 0, 6]);
    }

    #[test]
    fn a_call_is_answered() {
        let call = Encoder::new()
            .u32(RPC_VERSION)
            .u32(1)
            .u32(1)
            .u32(9)
            .u32(AUTH_SYS)
            .opaque(&credential())
            .u32(0)
            .u32(0)
            .u32(42)
            .bytes();
        let serve = |procedure, mut arguments: Decoder| {
            assert_eq!((procedure, arguments.u32()?), (9, 42));
            Ok(Encoder::new().u32(43))
        };
        let answer = accept(&mut Decoder::new(call), &serve).unwrap();
        assert_eq!(answer.len(), 24);
        assert_eq!(answer[20..], [0, 0, 0, 43]);
    }
}
