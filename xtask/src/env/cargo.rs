// SPDX-License-Identifier: MIT OR Apache-2.0
//! How our own programs are compiled.

use super::Ctx;
use crate::ui::proc::Cmd;
use std::path::PathBuf;

/// Where cargo keeps what it has compiled: in the cache, unless the user says where.
///
/// Most of it is libraries, which a fresh clone need not compile again.
pub fn target_dir(ctx: &Ctx) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => ctx.root.join(dir),
        None => ctx.cache.cargo(),
    }
}

/// The cargo command, in the project's directory.
pub fn cargo(ctx: &Ctx) -> Cmd {
    Cmd::new("cargo")
        .env("CARGO_TARGET_DIR", target_dir(ctx))
        .cwd(&ctx.root)
}
