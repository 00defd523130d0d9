// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit statuses, as daxpin(1) documents them.

use std::process::ExitCode;

/// Yes; nothing is in the way; everything was seen.
pub const YES: u8 = 0;
/// No; something is in the way.
pub const NO: u8 = 1;
/// The command line, or an error.
pub const ERROR: u8 = 2;
/// It could not be found out; there may be more.
pub const UNKNOWN: u8 = 3;

/// Of a listing.
pub fn complete(all: bool) -> ExitCode {
    ExitCode::from(if all { YES } else { UNKNOWN })
}
