// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model of the protocol between pins, layout leases and layout changes.
//!
//! It is the code of the kernel series at the granularity of its locks: what happens in one critical
//! section, or can be seen at one moment only, is one step. The steps have the names that they have
//! in Documentation/core-api/file_pins.rst and in the code. `stateright` looks at all orders of
//! these steps.
//!
//! * [`state`]: what there is: a file of two ranges, three processes, leases, registrations.
//! * [`pinner`], [`breaker`], [`lease`], [`environment`]: who does what, in which steps.
//! * [`protocol`]: all of that as one machine, and what is looked at in each state.
//! * [`scenario`]: who takes part.
//! * [`property`], [`mutation`]: what is promised, and planted bugs, each of which breaks a promise.
//! * [`check`], [`liveness`]: the search.
//! * [`diagram`], [`document`]: what it has found, drawn.

pub mod breaker;
pub mod check;
pub mod diagram;
pub mod document;
pub mod environment;
pub mod lease;
pub mod liveness;
pub mod mutation;
pub mod op;
pub mod pinner;
pub mod property;
pub mod protocol;
pub mod scenario;
pub mod state;
