// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's `make`: how it is called, and what is kept and shown of its output.

use super::objects;
use crate::env::{tools, Ctx};
use crate::error::{Failure, Kind};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::Write;
use std::path::Path;

/// `make` in `src`, building in `dir`, with everything that must be the same each time. What is in
/// `args` overrides it.
pub fn make(ctx: &Ctx, src: &Path, dir: &Path, args: &[&str]) -> Result<Cmd> {
    let rustc = tools::rustc_version(ctx)?;
    let lib_src = tools::rust_lib_src(ctx, &rustc).unwrap_or_else(|| {
        ctx.cache
            .rust_src(&rustc)
            .join(format!("usr/src/rustc-{rustc}/library"))
    });
    let libclang = tools::libclang_dir().unwrap_or_else(|| "/usr/lib/llvm-19/lib".into());
    Ok(Cmd::new("make")
        .env("LIBCLANG_PATH", libclang)
        .env("CCACHE_DIR", ctx.cache.ccache())
        .env("CCACHE_BASEDIR", &ctx.cache.dir)
        .env("CCACHE_NOHASHDIR", "1")
        // Trust the compiler's list of headers: a first build otherwise preprocesses every file
        // twice, which took 1.44 times as long on the files of ext4 and net/ipv4.
        .env("CCACHE_DEPEND", "1")
        .env("CCACHE_MAXSIZE", "5G")
        .env("LC_ALL", "C.UTF-8")
        .arg("-C")
        .arg(src)
        .arg(format!("O={}", dir.display()))
        .arg(format!("-j{}", ctx.jobs()))
        .args(["CC=ccache gcc", "LOCALVERSION=", "--no-print-directory"])
        .arg(format!("BINDGEN={}", tools::bindgen(ctx).display()))
        .arg(format!("RUST_LIB_SRC={}", lib_src.display()))
        .args([
            "KBUILD_BUILD_TIMESTAMP=Thu Jan 1 00:00:00 UTC 2026",
            "KBUILD_BUILD_USER=u",
        ])
        .args(["KBUILD_BUILD_HOST=h", "KBUILD_BUILD_VERSION=1"])
        .args(args))
}

/// Runs make; the output goes to the log, and the error shows where the compiler complained. Gives
/// what it printed but for the names of the objects.
pub fn run(ctx: &Ctx, log: &Path, cmd: &Cmd, mut line: impl FnMut(&str)) -> Result<String> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let _ = writeln!(file, "+ {cmd}");
    if ctx.global.verbose {
        eprintln!("+ {cmd}");
    }
    let mut text = String::new();
    let status = cmd.lines(|l| {
        // The log is for the reader; a full disk shows in make's own failure.
        let _ = writeln!(file, "{l}");
        if !objects::is_object(l) {
            text.push_str(l);
            text.push('\n');
        }
        line(l);
    })?;
    if status.success() {
        return Ok(text);
    }
    if text.contains("No space left on device") {
        bail!(
            "no space left in {} while building; make room, or let DAXPIN_CACHE name a \
             directory on a larger disk",
            ctx.cache.dir.display()
        );
    }
    Err(Failure::of(
        Kind::Setup,
        format!("`{cmd}` failed ({status})\n{}", complaints(&text)),
    ))
}

/// The part of make's output worth showing: from the first error on.
fn complaints(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|l| l.contains("error:") || l.contains("error[") || l.contains("*** "));
    match first {
        Some(i) => lines[i.saturating_sub(2)..(i + 12).min(lines.len())].join("\n"),
        None => last_lines(text, 12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_shown_not_the_end() {
        let mut text = String::from("  GEN x\nmm/a.c: In function 'f':\nmm/a.c:1:2: error: boo\n");
        text.push_str(&"make: noise\n".repeat(40));
        let c = complaints(&text);
        assert!(c.contains("In function") && c.contains("boo"), "{c}");
        assert!(c.lines().count() < 16);
    }
}
