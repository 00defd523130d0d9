// SPDX-License-Identifier: MIT OR Apache-2.0
//! What writes into pinned files: a ring of io_uring, and an RDMA device.

use super::block::BLOCK;
use crate::client::{Client, RW};
use crate::protocol::Request;
use crate::setup::{Fs, Rdma};
use anyhow::{ensure, Context};
use io_uring::types::Fd;
use io_uring::{opcode, squeue, IoUring};
use layout_lease::set_lease_raw;
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A pinned file is registered in so many parts of the same size.
pub const PARTS: u64 = 4;
/// Bytes of the largest part.
pub const LARGEST: u64 = 16 * BLOCK as u64;

/// How a file is mapped that is pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// As usual.
    Shared,
    /// With MAP_SYNC: a block that can be written to has its place in the file for good.
    Synchronous,
}

impl Mapping {
    fn flags(self) -> MapFlags {
        match self {
            Mapping::Shared => MapFlags::SHARED,
            Mapping::Synchronous => MapFlags::SHARED_VALIDATE | MapFlags::SYNC,
        }
    }
}

/// Something that pins a file and writes into it.
pub trait Device: Send {
    /// Takes this lease on the file, and pins all of it.
    fn pin(&mut self, path: &Path, bytes: u64, lease: i32, by: Mapping) -> anyhow::Result<()>;
    /// Starts to write this to the beginning of a part.
    fn start(&mut self, part: u64, data: &[u8]) -> anyhow::Result<()>;
    /// Waits until it is there.
    fn finish(&mut self) -> anyhow::Result<()>;
    /// Unpins the file, and releases the lease.
    fn unpin(&mut self) -> anyhow::Result<()>;
}

/// A ring with registered buffers, into which files in memory are read.
pub struct Ring {
    ring: IoUring,
    source: File,
    pinned: Option<Pinned>,
    expected: i32,
}

struct Pinned {
    file: File,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to the one thread that has the ring.
unsafe impl Send for Pinned {}

impl Ring {
    /// A new one.
    pub fn new() -> anyhow::Result<Ring> {
        Ok(Ring {
            ring: IoUring::new(4).context("no ring")?,
            source: memfd_create("powerloss", MemfdFlags::CLOEXEC)?.into(),
            pinned: None,
            expected: 0,
        })
    }
}

impl Device for Ring {
    fn pin(&mut self, path: &Path, bytes: u64, lease: i32, by: Mapping) -> anyhow::Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        set_lease_raw(&file, lease)
            .map_err(std::io::Error::from_raw_os_error)
            .context("the lease")?;
        let bytes = usize::try_from(bytes)?;
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping, which nothing else refers to.
        let at: *mut u8 = unsafe { mmap(none, bytes, rw, by.flags(), &file, 0)? }.cast();
        let part = bytes / PARTS as usize;
        let buffers: Vec<libc::iovec> = (0..PARTS as usize)
            .map(|n| libc::iovec {
                iov_base: at.wrapping_add(n * part).cast(),
                iov_len: part,
            })
            .collect();
        // SAFETY: no Rust code refers to the mapping, which is there until the buffers are unregistered.
        unsafe { self.ring.submitter().register_buffers(&buffers) }.context("the pin")?;
        self.pinned = Some(Pinned { file, at, bytes });
        Ok(())
    }

    fn start(&mut self, part: u64, data: &[u8]) -> anyhow::Result<()> {
        let pinned = self.pinned.as_ref().context("nothing is pinned")?;
        self.source.write_all_at(data, 0)?;
        let at = pinned
            .at
            .wrapping_add(usize::try_from(part)? * (pinned.bytes / PARTS as usize));
        let length = u32::try_from(data.len())?;
        let source = Fd(self.source.as_raw_fd());
        // By a kernel thread: what is asked for meanwhile is asked for during the transfer.
        let entry = opcode::ReadFixed::new(source, at, length, u16::try_from(part)?)
            .build()
            .flags(squeue::Flags::ASYNC);
        // SAFETY: the kernel checks that it lies in the registered buffer.
        unsafe { self.ring.submission().push(&entry)? };
        self.ring.submit()?;
        self.expected = i32::try_from(length)?;
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.ring.submit_and_wait(1)?;
        let entry = self.ring.completion().next().context("no completion")?;
        let (result, expected) = (entry.result(), self.expected);
        ensure!(result == expected, "read {result} of {expected} bytes");
        Ok(())
    }

    fn unpin(&mut self) -> anyhow::Result<()> {
        let pinned = self.pinned.take().context("nothing is pinned")?;
        self.ring.submitter().unregister_buffers()?;
        // SAFETY: the mapping made when it was pinned, to which nothing refers any more.
        unsafe { munmap(pinned.at.cast(), pinned.bytes)? };
        layout_lease::release(&pinned.file).context("release of the lease")
    }
}

/// A memory region, written to over a connection of a process with itself.
pub struct Remote {
    client: Client,
    source: File,
    path: PathBuf,
}

impl Remote {
    /// A new one. The process is not waited for.
    pub fn new(rdma: &Rdma, fs: Fs) -> anyhow::Result<Remote> {
        let path = PathBuf::from(format!("/tmp/powerloss-source-{}", fs.name()));
        let source = File::create(&path)?;
        source.set_len(LARGEST)?;
        Ok(Remote {
            client: Client::verbs(rdma.device, rdma.gid_index)?,
            source,
            path,
        })
    }

    /// Waits for the process, and registers what is sent.
    pub fn prepare(&mut self) -> anyhow::Result<()> {
        let source = self.path.clone();
        self.client.open("source", &source)?;
        self.client.map_shared("source", "source", LARGEST)?;
        self.region("source", "source", 0, LARGEST)
    }

    fn region(&mut self, mr: &str, map: &str, offset: u64, length: u64) -> anyhow::Result<()> {
        let reply = self.client.reg(mr, map, offset, length)?;
        let error = std::io::Error::from_raw_os_error(reply.errno);
        ensure!(reply.errno == 0, "memory region {mr}: {error}");
        Ok(())
    }
}

impl Device for Remote {
    fn pin(&mut self, path: &Path, bytes: u64, lease: i32, by: Mapping) -> anyhow::Result<()> {
        self.client.open("file", path)?;
        let reply = self.client.set_lease("file", lease)?;
        let error = std::io::Error::from_raw_os_error(reply.errno);
        ensure!(reply.errno == 0, "the lease: {error}");
        let flags = i32::try_from(by.flags().bits())?;
        self.client.map("file", Some("file"), 0, bytes, RW, flags)?;
        let part = bytes / PARTS;
        (0..PARTS).try_for_each(|n| self.region(&format!("part{n}"), "file", n * part, part))
    }

    fn start(&mut self, part: u64, data: &[u8]) -> anyhow::Result<()> {
        self.source.write_all_at(data, 0)?;
        self.client.send(&Request::RdmaWrite {
            from: "source".to_owned(),
            to: format!("part{part}"),
            length: u64::try_from(data.len())?,
        })
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let reply = self.client.receive()?;
        ensure!(reply.errno == 0, "the transfer: {}", reply.text);
        Ok(())
    }

    fn unpin(&mut self) -> anyhow::Result<()> {
        for n in 0..PARTS {
            self.client.dereg(&format!("part{n}"))?;
        }
        self.client.must(Request::Unmap {
            map: "file".to_owned(),
        })?;
        // With the last descriptor goes the lease.
        self.client.close("file")
    }
}
