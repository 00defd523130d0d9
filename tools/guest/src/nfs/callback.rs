// SPDX-License-Identifier: MIT OR Apache-2.0
//! The back channel: the server's calls to the client, of which only layout recalls matter.

use super::status::Status;
use super::xdr::{Decoder, Encoder};
use anyhow::{bail, ensure};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

const NULL: u32 = 0;
const CB_LAYOUTRECALL: u32 = 5;
const CB_SEQUENCE: u32 = 11;
const RECALL_FILE: u32 = 1;

/// What the server asked for. The client agrees to return a layout, and takes its time.
#[derive(Default)]
pub struct Backchannel {
    recalls: Mutex<Vec<Vec<u8>>>,
    another: Condvar,
}

impl Backchannel {
    /// Waits until the layout of the file with this handle is recalled.
    pub fn recalled(&self, handle: &[u8], time: Duration) -> bool {
        let recalls = self.recalls.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |recalls: &mut Vec<Vec<u8>>| !recalls.iter().any(|h| h == handle);
        let (_recalls, result) = self
            .another
            .wait_timeout_while(recalls, time, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    /// Answers a call of the server.
    pub fn serve(&self, procedure: u32, mut call: Decoder) -> anyhow::Result<Encoder> {
        if procedure == NULL {
            return Ok(Encoder::new());
        }
        call.opaque()?;
        let (_minor, _ident, operations) = (call.u32()?, call.u32()?, call.u32()?);
        let mut results = Encoder::new().u32(Status::OK.0).opaque(b"").u32(operations);
        for _ in 0..operations {
            results = match call.u32()? {
                CB_SEQUENCE => {
                    let session = call.fixed(16)?.to_vec();
                    let (sequence, slot, highest) = (call.u32()?, call.u32()?, call.u32()?);
                    let (_cache, referring) = (call.u32()?, call.u32()?);
                    ensure!(referring == 0, "no request is outstanding to refer to");
                    results
                        .u32(CB_SEQUENCE)
                        .u32(Status::OK.0)
                        .fixed(&session)
                        .u32(sequence)
                        .u32(slot)
                        .u32(highest)
                        .u32(highest)
                }
                CB_LAYOUTRECALL => {
                    let (_type, _iomode, _changed) = (call.u32()?, call.u32()?, call.u32()?);
                    ensure!(call.u32()? == RECALL_FILE, "recalls of a file only");
                    let handle = call.opaque()?.to_vec();
                    let (_offset, _length) = (call.u64()?, call.u64()?);
                    call.fixed(16)?;
                    self.recalls
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(handle);
                    self.another.notify_all();
                    results.u32(CB_LAYOUTRECALL).u32(Status::OK.0)
                }
                other => bail!("callback operation {other}"),
            };
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_is_noticed_and_agreed_to() {
        let call = Encoder::new()
            .opaque(b"")
            .u32(1)
            .u32(0)
            .u32(2)
            .u32(CB_SEQUENCE)
            .fixed(&[7; 16])
            .u32(1)
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(CB_LAYOUTRECALL)
            .u32(3)
            .u32(3)
            .u32(1)
            .u32(RECALL_FILE)
            .opaque(b"handle")
            .u64(0)
            .u64(u64::MAX)
            .fixed(&[0; 16]);
        let backchannel = Backchannel::default();
        assert!(!backchannel.recalled(b"handle", Duration::ZERO));
        let answer = backchannel.serve(1, Decoder::new(call.bytes())).unwrap();
        let mut answer = Decoder::new(answer.bytes());
        assert_eq!(answer.u32().unwrap(), 0);
        assert!(answer.opaque().unwrap().is_empty());
        assert_eq!(answer.u32().unwrap(), 2);
        assert!(backchannel.recalled(b"handle", Duration::ZERO));
        assert!(!backchannel.recalled(b"other", Duration::ZERO));
    }
}
