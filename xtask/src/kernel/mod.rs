// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel: its source, the series on it, its configuration and its build.

pub mod config;
pub mod disassembly;
pub mod import;
pub mod kbuild;
pub mod make;
pub mod objects;
pub mod profile;
pub mod selftests;
pub mod series;
pub mod snapshot;
pub mod switch;
pub mod tree;
pub mod unfinished;
pub mod variant;
