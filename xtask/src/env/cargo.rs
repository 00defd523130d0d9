// SPDX-License-Identifier: MIT OR Apache-2.0
//! How our own programs are compiled.

use super::cache::sha256_text;
use super::Ctx;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where cargo keeps what it has compiled: in the cache, unless the user says where.
///
/// Each clone has a directory of its own there: cargo tells the files of two clones apart by nothing
/// but their times, and would take what the other one compiled for fresh.
pub fn target_dir(ctx: &Ctx) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => ctx.root.join(dir),
        None => {
            let hash = sha256_text(&ctx.root.to_string_lossy());
            ctx.cache.cargo().join(&hash[..12])
        }
    }
}

/// The cargo command, in the project's directory.
pub fn cargo(ctx: &Ctx) -> Cmd {
    Cmd::new("cargo")
        .env("CARGO_TARGET_DIR", target_dir(ctx))
        .cwd(&ctx.root)
}

/// The file that names the clone that a directory is of. Its time is that of the last use.
const OWNER: &str = "compiled-for";

/// Sees to it that a fresh clone need not compile all libraries again: its directory begins with
/// those of the clone that compiled last. Directories of clones that have gone are removed.
pub fn ready(ctx: &Ctx) -> Result<()> {
    if ctx.global.dry_run || std::env::var_os("CARGO_TARGET_DIR").is_some() {
        return Ok(());
    }
    let _lock = ctx.cache.lock("cargo-clones", &ctx.ui)?;
    let dir = target_dir(ctx);
    if !dir.exists() {
        if let Some(other) = last_used(&ctx.cache.cargo()) {
            let part = dir.with_extension("part");
            let _ = fs::remove_dir_all(&part);
            // Without them it only takes longer.
            if seed(ctx, &other, &part) {
                fs::rename(&part, &dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
            }
            let _ = fs::remove_dir_all(&part);
        }
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let owner = dir.join(OWNER);
    fs::write(&owner, ctx.root.to_string_lossy().as_bytes())
        .with_context(|| format!("cannot write {}", owner.display()))?;
    prune(&ctx.cache.cargo());
    Ok(())
}

/// Links to everything that has been compiled, but for what is a clone's own.
fn seed(ctx: &Ctx, from: &Path, to: &Path) -> bool {
    let linked = Cmd::new("cp").args(["-al"]).arg(from).arg(to).succeeds();
    // The example is a workspace by itself.
    let workspaces = [ctx.root.clone(), ctx.root.join("examples/rust")];
    linked
        && workspaces.iter().all(|dir| {
            Cmd::new("cargo")
                .env("CARGO_TARGET_DIR", to)
                .cwd(dir)
                .args(["clean", "--workspace", "--quiet"])
                .succeeds()
        })
}

fn clones(cargo: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(cargo).into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let used = fs::metadata(e.path().join(OWNER)).ok()?.modified().ok()?;
            Some((e.path(), used))
        })
        .collect()
}

fn last_used(cargo: &Path) -> Option<PathBuf> {
    let (dir, _) = clones(cargo).into_iter().max_by_key(|(_, used)| *used)?;
    Some(dir)
}

fn prune(cargo: &Path) {
    for (dir, _) in clones(cargo) {
        let root = fs::read_to_string(dir.join(OWNER)).unwrap_or_default();
        if !Path::new(&root).exists() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clone_leaves_serves_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for (d, root) in [(&old, dir.path().join("gone")), (&new, dir.path().into())] {
            fs::create_dir_all(d).unwrap();
            fs::write(d.join(OWNER), root.to_string_lossy().as_bytes()).unwrap();
        }
        let early = SystemTime::UNIX_EPOCH;
        let file = fs::File::options()
            .write(true)
            .open(old.join(OWNER))
            .unwrap();
        file.set_modified(early).unwrap();

        assert_eq!(last_used(dir.path()), Some(new.clone()));
        prune(dir.path());
        assert!(new.exists() && !old.exists());
    }
}
