// SPDX-License-Identifier: MIT OR Apache-2.0
//! The series as mail: its commits, the rules that they are held to, how it is cut into parts.

pub mod accepted;
pub mod b4;
pub mod built;
pub mod checkpatch;
pub mod commits;
pub mod finding;
pub mod kernel_doc;
pub mod maintainers;
pub mod message;
pub mod parallel;
pub mod scratch;
pub mod stacks;
pub mod trailers;
