// SPDX-License-Identifier: MIT OR Apache-2.0
//! xfstests: our tests in its form, and runs of its tests and ours in the guest.
//!
//! The tree of xfstests is the user's, built as its README says. Nothing is written to it: the guest
//! has what it takes of it in memory, with our files over it.

pub mod compare;
pub mod config;
pub mod html;
pub mod job;
pub mod lint;
pub mod overlay;
pub mod patches;
pub mod result;
pub mod run;
pub mod select;
pub mod stage;
pub mod store;

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Where upstream is.
pub const UPSTREAM: &str = "https://git.kernel.org/pub/scm/fs/xfs/xfstests-dev.git";

/// Our tests and what belongs to them.
pub fn source(ctx: &Ctx) -> PathBuf {
    ctx.root.join("fstests")
}

/// The user's tree, if it is one and has been built.
pub fn tree(dir: Option<&Path>) -> Result<PathBuf> {
    let how = format!("{UPSTREAM} has it; build it as its README says, and give --xfstests DIR");
    let Some(dir) = dir else {
        return Err(Failure::of(
            Kind::Usage,
            format!("this needs a tree of xfstests: {how}"),
        ));
    };
    let dir = std::path::absolute(dir)?;
    if !dir.join("check").exists() || !dir.join("common/preamble").exists() {
        return Err(Failure::of(
            Kind::Setup,
            format!("{} is no tree of xfstests: {how}", dir.display()),
        ));
    }
    let missing = ["ltp/fsx", "src/locktest", "tests/generic/group.list"]
        .into_iter()
        .find(|f| !dir.join(f).exists());
    if let Some(file) = missing {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "the tree of xfstests in {} has not been built ({file} is missing): its README says how",
                dir.display()
            ),
        ));
    }
    Ok(dir)
}
