// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receives data over RDMA straight into a file on persistent memory, as `examples/c/receive.c` does:
//!
//! ```text
//! dax-receive-rs ADDRESS PORT FILE
//! ```
//!
//! takes the sole exclusive layout lease on FILE, registers all of it, waits for dax-send to write into it,
//! makes the data durable and lets go of the file. Nothing is copied: the file's pages are the buffer.

mod connection;
mod rdma;

use anyhow::{bail, Context};
use connection::Listener;
use layout_lease::{LeaseFlags, LeaseKind};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::ptr::{null_mut, NonNull};

/// A shared mapping of a whole file.
struct Mapping {
    address: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    fn of(file: &File) -> anyhow::Result<Mapping> {
        use rustix::mm::{mmap, MapFlags, ProtFlags};
        let length = usize::try_from(file.metadata()?.len())?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses the place, so nothing is mapped over.
        let address = unsafe { mmap(null_mut(), length, access, MapFlags::SHARED, file, 0) };
        let address = NonNull::new(address.context("mmap")?).context("mmap gave no address")?;
        Ok(Mapping { address, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is this value's own, and no reference into it exists.
        let _ = unsafe { rustix::mm::munmap(self.address.as_ptr(), self.length) };
    }
}

/// The mapping as a memory region that a peer may write to.
struct Region {
    raw: NonNull<rdma::ibv_mr>,
    // Unmapped after the region is gone.
    _mapping: Mapping,
}

impl Region {
    fn register(listener: &Listener, mapping: Mapping) -> anyhow::Result<Region> {
        let access = rdma::IBV_ACCESS_LOCAL_WRITE | rdma::IBV_ACCESS_REMOTE_WRITE;
        // SAFETY: The protection domain lives as long as the listener, the mapping as long as the region.
        let raw = unsafe {
            rdma::ibv_reg_mr(
                listener.protection_domain()?,
                mapping.address.as_ptr(),
                mapping.length,
                access.try_into()?,
            )
        };
        let raw = NonNull::new(raw).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Region {
            raw,
            _mapping: mapping,
        })
    }

    /// Address, length and key, as the peer needs them.
    fn offer(&self) -> [u8; 24] {
        // SAFETY: The region is registered until it is dropped.
        let region = unsafe { self.raw.as_ref() };
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&(region.addr as u64).to_be_bytes());
        bytes[8..16].copy_from_slice(&(region.length as u64).to_be_bytes());
        bytes[16..20].copy_from_slice(&region.rkey.to_be_bytes());
        bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: This value owns the registration.
        let failed = unsafe { rdma::ibv_dereg_mr(self.raw.as_ptr()) };
        // Nothing can be done about it here, and the kernel drops the pin when the process ends.
        debug_assert_eq!(failed, 0);
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [address, port, path] = &arguments[..] else {
        bail!("usage: dax-receive-rs ADDRESS PORT FILE");
    };
    let c_string = |text: &OsString| CString::new(text.clone().into_vec());
    let listener = Listener::bind(&c_string(address)?, &c_string(port)?)?;

    let file = File::options().read(true).write(true).open(path)?;
    let flags = LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE;
    layout_lease::set_lease(&file, LeaseKind::Sole, flags)?;
    let mapping = Mapping::of(&file)?;
    let length = mapping.length;
    let region = Region::register(&listener, mapping).context("registering the file")?;

    listener.listen()?;
    println!("ready for {length} bytes");
    let written = listener.receive(&region.offer())?;
    file.sync_all()?; // what the peer wrote is durable now
    drop(region);
    layout_lease::release(&file)?;
    println!("received {written} bytes");
    Ok(())
}
