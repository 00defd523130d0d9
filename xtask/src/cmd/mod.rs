// SPDX-License-Identifier: MIT OR Apache-2.0
//! The subcommands, one module each, owning its options.

pub mod apply;
pub mod bench;
pub mod build;
pub mod clean;
pub mod demo;
pub mod doctor;
pub mod faults;
pub mod fstests;
pub mod matrix;
pub mod mutants;
pub mod powerloss;
pub mod pyverbs;
pub mod run;
pub mod series;
pub mod setup;
pub mod shell;
pub mod source;
pub mod stress;
pub mod test;
pub mod variants;
