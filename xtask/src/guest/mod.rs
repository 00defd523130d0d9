// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest: starting it, watching it, reading what it wrote.

pub mod ktap;
pub mod session;
pub mod steps;
pub mod tools;
pub mod vm;
pub mod watchdog;
