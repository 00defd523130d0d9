// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout leases on files of a DAX filesystem, and the kernel's listings of what is pinned.
//!
//! A *layout lease* tells the kernel that this process depends on the mapping from file offsets to
//! the blocks that hold the data. An *exclusive* one cannot be broken: while it is held, whoever else
//! tries to truncate the file, punch a hole into it or share its blocks gets `ETXTBSY`, and a
//! device (RDMA) may keep the file's own pages pinned for as long as it likes.
//!
//! ```no_run
//! use layout_lease::{set_lease, release, LeaseFlags, LeaseKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = std::fs::File::options().read(true).write(true).open("/mnt/pmem/data")?;
//! set_lease(&file, LeaseKind::Shared, LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE)?;
//! // mmap the file, register the mapping with ibv_reg_mr(), receive, deregister ...
//! release(&file)?;
//! # Ok(())
//! # }
//! ```
//!
//! The calls take anything that is [`AsFd`](std::os::fd::AsFd) and never print; every errno the kernel
//! may answer is explained by [`Error`]'s `Display`.

mod error;
pub mod escape;
mod lease;
pub mod proc;

pub use error::{Call, Error};
pub use lease::{
    get_lease, release, set_lease, set_lease_raw, Lease, LeaseFlags, LeaseKind, F_EXCLUSIVE,
    F_LAYOUT,
};
