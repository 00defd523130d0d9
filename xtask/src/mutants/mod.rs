// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hooks of the series that are taken out one at a time, to see that tests notice.

pub mod list;
pub mod record;
pub mod report;
pub mod run;

use crate::env::Ctx;
use std::path::PathBuf;

/// The patch that makes them removable.
pub fn hooks(ctx: &Ctx) -> PathBuf {
    ctx.root.join("mutants/hooks.patch")
}

/// Where the results are: one directory for each mutant.
pub fn results(ctx: &Ctx) -> PathBuf {
    ctx.root.join("out/mutants")
}
