// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user sees, and the processes that are started on the user's behalf.

pub mod guard;
pub mod proc;
pub mod progress;
pub mod signals;
pub mod stream;
pub mod table;
