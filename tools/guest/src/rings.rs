// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker does with rings of io_uring.

use crate::calls::timed;
use crate::protocol::Reply;
use crate::worker::Worker;
use anyhow::Context;
use io_uring::types::Fd;
use io_uring::{opcode, IoUring};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;

/// Part of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    pub map: String,
    pub offset: u64,
    pub length: u64,
}

impl Buffer {
    /// Part of the mapping of this name.
    pub fn new(map: &str, offset: u64, length: u64) -> Buffer {
        Buffer {
            map: map.to_owned(),
            offset,
            length,
        }
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the file to the buffer: `IORING_OP_READ_FIXED`.
    Read,
    /// From the buffer to the file: `IORING_OP_WRITE_FIXED`.
    Write,
}

/// A request about a ring. Rings go by names, like files and mappings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum RingCall {
    /// A new ring: the value is its descriptor.
    Create { ring: String, sqpoll: bool },
    /// `IORING_REGISTER_BUFFERS`.
    Register { ring: String, buffers: Vec<Buffer> },
    /// The same through a descriptor that came from another process.
    RegisterThrough { name: String, buffers: Vec<Buffer> },
    /// `IORING_REGISTER_BUFFERS_UPDATE` of one slot, which is emptied without a buffer.
    Update {
        ring: String,
        slot: u32,
        buffer: Option<Buffer>,
    },
    /// `IORING_UNREGISTER_BUFFERS`.
    Unregister { ring: String },
    /// `IORING_REGISTER_CLONE_BUFFERS` of all buffers.
    Clone { from: String, to: String },
    /// `IORING_REGISTER_PBUF_RING` in the worker's own memory.
    ProvideBuffers { ring: String, at: Buffer },
    /// Starts a transfer between a file and part of the buffer in a slot.
    Submit {
        ring: String,
        direction: Direction,
        name: String,
        offset: u64,
        slot: u16,
        part: Buffer,
    },
    /// Waits for a transfer: its result is the value, or the errno.
    Wait { ring: String },
    /// Closes the ring's descriptor, and keeps it mapped.
    CloseDescriptor { ring: String },
    /// Lets go of the ring.
    Drop { ring: String },
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn attempt<T>(call: impl FnOnce() -> std::io::Result<T>) -> Reply {
    timed(|| call().map(drop).map_err(|error| errno(&error)))
}

impl Worker {
    fn ring(&self, name: &str) -> anyhow::Result<&IoUring> {
        let ring = self.rings.get(name);
        ring.with_context(|| format!("no ring {name}"))
    }

    fn iovec(&self, buffer: &Buffer) -> anyhow::Result<libc::iovec> {
        let (at, length) = self.span(&buffer.map, buffer.offset, buffer.length)?;
        Ok(libc::iovec {
            iov_base: at as *mut libc::c_void,
            iov_len: length,
        })
    }

    fn iovecs(&self, buffers: &[Buffer]) -> anyhow::Result<Vec<libc::iovec>> {
        buffers.iter().map(|buffer| self.iovec(buffer)).collect()
    }

    /// Does what is asked about a ring.
    pub(crate) fn ring_call(&mut self, call: RingCall) -> anyhow::Result<Reply> {
        Ok(match call {
            RingCall::Create { ring, sqpoll } => {
                let mut builder = IoUring::builder();
                if sqpoll {
                    builder.setup_sqpoll(50);
                }
                let mut made = None;
                let mut reply = attempt(|| {
                    made = Some(builder.build(8)?);
                    Ok(())
                });
                if let Some(made) = made {
                    reply.value = made.as_raw_fd().into();
                    self.rings.insert(ring, made);
                }
                reply
            }
            RingCall::Register { ring, buffers } => {
                let buffers = self.iovecs(&buffers)?;
                let submitter = self.ring(&ring)?.submitter();
                // SAFETY: what a transfer writes to is memory that this worker only copies from and to.
                attempt(|| unsafe { submitter.register_buffers(&buffers) })
            }
            RingCall::RegisterThrough { name, buffers } => {
                const REGISTER_BUFFERS: u32 = 0;
                let buffers = self.iovecs(&buffers)?;
                let fd = self.fd(&name)?;
                attempt(|| {
                    // The crate wants to map a ring before it does anything with it.
                    // SAFETY: the kernel reads as many structures as it is told, which outlive the call.
                    let result = unsafe {
                        libc::syscall(
                            libc::SYS_io_uring_register,
                            fd,
                            REGISTER_BUFFERS,
                            buffers.as_ptr(),
                            buffers.len(),
                        )
                    };
                    if result < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    Ok(())
                })
            }
            RingCall::Update { ring, slot, buffer } => {
                let nothing = libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                };
                let buffer = buffer.map_or(Ok(nothing), |buffer| self.iovec(&buffer))?;
                let submitter = self.ring(&ring)?.submitter();
                // SAFETY: as for a registration.
                attempt(|| unsafe { submitter.register_buffers_update(slot, &[buffer], None) })
            }
            RingCall::Unregister { ring } => {
                let submitter = self.ring(&ring)?.submitter();
                attempt(|| submitter.unregister_buffers())
            }
            RingCall::Clone { from, to } => {
                let source = self.ring(&from)?.as_raw_fd();
                let submitter = self.ring(&to)?.submitter();
                attempt(|| submitter.register_buffers_clone(source))
            }
            RingCall::ProvideBuffers { ring, at } => {
                const ENTRIES: u16 = 8;
                let (at, _) = self.span(&at.map, at.offset, at.length)?;
                let submitter = self.ring(&ring)?.submitter();
                // SAFETY: memory of this worker, which it does not look at.
                attempt(|| unsafe {
                    submitter.register_buf_ring_with_flags(at as u64, ENTRIES, 0, 0)
                })
            }
            RingCall::Submit {
                ring,
                direction,
                name,
                offset,
                slot,
                part,
            } => {
                let (at, length) = self.span(&part.map, part.offset, part.length)?;
                let length = u32::try_from(length)?;
                let file = Fd(self.fd(&name)?);
                let entry = match direction {
                    Direction::Read => opcode::ReadFixed::new(file, at as *mut u8, length, slot)
                        .offset(offset)
                        .build(),
                    Direction::Write => {
                        opcode::WriteFixed::new(file, at as *const u8, length, slot)
                            .offset(offset)
                            .build()
                    }
                };
                let ring = self.rings.get_mut(&ring).context("no such ring")?;
                // SAFETY: the kernel checks that the part lies in the registered buffer.
                unsafe { ring.submission().push(&entry) }?;
                attempt(|| ring.submit())
            }
            RingCall::Wait { ring } => {
                let ring = self.rings.get_mut(&ring).context("no such ring")?;
                let mut result = 0;
                let mut reply = attempt(|| {
                    ring.submit_and_wait(1)?;
                    let entry = ring.completion().next();
                    result = entry.map_or(-libc::ENODATA, |entry| entry.result());
                    Ok(())
                });
                if reply.errno == 0 {
                    reply.errno = (-result).max(0);
                    reply.value = result.max(0).into();
                }
                reply
            }
            RingCall::CloseDescriptor { ring } => {
                let ring = self.rings.remove(&ring).context("no such ring")?;
                let fd = ring.as_raw_fd();
                // What is mapped stays so until the process ends.
                std::mem::forget(ring);
                // SAFETY: nobody uses the number any more.
                attempt(|| match unsafe { libc::close(fd) } {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            }
            RingCall::Drop { ring } => {
                let ring = self.rings.remove(&ring).context("no such ring")?;
                attempt(|| {
                    drop(ring);
                    Ok(())
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;

    #[test]
    fn requests_are_flat_objects() {
        let request = Request::Ring(RingCall::Update {
            ring: "a".to_owned(),
            slot: 1,
            buffer: None,
        });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(
            text,
            r#"{"cmd":"ring","what":"update","ring":"a","slot":1,"buffer":null}"#
        );
        assert!(serde_json::from_str::<Request>(&text).is_ok());
    }
}
