// SPDX-License-Identifier: MIT OR Apache-2.0
//! NFS: the kernel's server, and a client of our own that asks it for block layouts.
//!
//! The kernel's client asks for layouts when it sees fit and hides the answers. This one sends exactly
//! what a test is about, and returns a layout when the test says so.

mod callback;
mod change;
mod layout;
mod recovery;
mod rpc;
mod server;
mod session;
mod status;
mod xdr;

pub use layout::{Layout, Mode};
pub use server::{Server, PORT};
pub use session::{OpenFile, Session};
pub use status::Status;
