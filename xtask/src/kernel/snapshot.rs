// SPDX-License-Identifier: MIT OR Apache-2.0
//! The source tree that builds are made from.
//!
//! It lies in the cache, so that a fresh clone finds warm objects there. Before a build it gets
//! the state of the user's tree, uncommitted changes included; only files that differ are written,
//! all others keep their times, and make rebuilds what changed. The user's tree is only read: the
//! index and the new objects go elsewhere.

use crate::env::cache::require_space;
use crate::env::Ctx;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The objects and the index that belong to a source tree.
struct Repo {
    git_dir: PathBuf,
    work_tree: PathBuf,
    alternates: PathBuf,
}

impl Repo {
    fn open(ctx: &Ctx, flavour: &str, linux: &Path) -> Result<Self> {
        let work_tree = ctx.cache.src(flavour);
        let git_dir = work_tree.with_extension("git");
        if !git_dir.join("HEAD").exists() {
            // Not inside the work tree: the kernel's version would get a suffix from it. What git was
            // killed at is not taken for a repository.
            let part = git_dir.with_extension("git.part");
            for old in [&part, &git_dir] {
                if old.exists() {
                    fs::remove_dir_all(old)
                        .with_context(|| format!("cannot remove {}", old.display()))?;
                }
            }
            let init = Cmd::new("git").args(["init", "-q", "--bare"]);
            init.arg(&part).output()?;
            fs::rename(&part, &git_dir)
                .with_context(|| format!("cannot make {}", git_dir.display()))?;
        }
        // Whoever made these had the lock that is ours now.
        for left in ["index.lock", "snapshot-index.lock"] {
            let _ = fs::remove_file(git_dir.join(left));
        }
        fs::create_dir_all(&work_tree)
            .with_context(|| format!("cannot make {}", work_tree.display()))?;
        let objects = Cmd::git(linux)
            .args(["rev-parse", "--git-path", "objects"])
            .output()?;
        Ok(Repo {
            git_dir,
            work_tree,
            alternates: linux.join(objects),
        })
    }

    /// `git` in `linux`, but with our index and with new objects going to us.
    fn reader(&self, linux: &Path) -> Cmd {
        Cmd::git(linux)
            .env("GIT_INDEX_FILE", self.git_dir.join("snapshot-index"))
            .env("GIT_OBJECT_DIRECTORY", self.git_dir.join("objects"))
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &self.alternates)
    }

    fn writer(&self) -> Cmd {
        Cmd::git(&self.work_tree)
            .env("GIT_DIR", &self.git_dir)
            .env("GIT_WORK_TREE", &self.work_tree)
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &self.alternates)
            .args([
                "-c",
                "core.bare=false",
                "-c",
                "checkout.workers=0",
                "-c",
                "gc.auto=0",
            ])
    }
}

/// What to build.
pub enum State<'a> {
    /// The tree as it is, uncommitted changes included.
    WorkTree,
    /// The same with a patch on top.
    Patched(&'a Path),
    /// A commit.
    Commit(&'a str),
}

/// Brings a state of `linux` into the source tree `flavour`; gives the tree and its hash.
///
/// Call with the lock on that source tree held.
pub fn update(ctx: &Ctx, linux: &Path, state: &State, flavour: &str) -> Result<(PathBuf, String)> {
    if !ctx.cache.src(flavour).join("Makefile").exists() {
        require_space(&ctx.cache.dir, 2_500_000_000, "the source tree for builds")?;
    }
    let repo = Repo::open(ctx, flavour, linux)?;
    let tree = match state {
        State::Commit(c) => Cmd::git(linux)
            .args(["rev-parse", &format!("{c}^{{tree}}")])
            .output()?,
        State::WorkTree | State::Patched(_) => {
            let index = Cmd::git(linux)
                .args(["rev-parse", "--git-path", "index"])
                .output()?;
            // A copy of the tree's own index knows which files are unchanged.
            let copy = repo.git_dir.join("snapshot-index");
            fs::copy(linux.join(&index), &copy)
                .with_context(|| format!("cannot read the index of {}", linux.display()))?;
            repo.reader(linux).args(["add", "-A"]).output()?;
            if let State::Patched(patch) = state {
                let apply = repo.reader(linux).args(["apply", "--cached"]).arg(patch);
                apply.output().with_context(|| {
                    format!("{} does not apply to the kernel tree", patch.display())
                })?;
            }
            repo.reader(linux).arg("write-tree").output()?
        }
    };
    // Without the refresh git would take every file for changed.
    let _ = repo
        .writer()
        .args(["update-index", "-q", "--refresh"])
        .try_output()?;
    repo.writer()
        .args(["read-tree", "--reset", "-u", &tree])
        .output()?;
    Ok((repo.work_tree, tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (linux, cache) = (dir.path().join("linux"), dir.path().join("cache"));
        fs::create_dir(&linux).unwrap();
        let git = |args: &[&str]| {
            Cmd::git(&linux)
                .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
                .args(args)
                .output()
                .unwrap()
        };
        git(&["init", "-q"]);
        fs::write(linux.join("a.c"), "a").unwrap();
        fs::write(linux.join("b.c"), "b").unwrap();
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "base"]);
        let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        ctx.cache.dir = cache;

        let (src, _) = update(&ctx, &linux, &State::WorkTree, "t").unwrap();
        let old = fs::metadata(src.join("b.c")).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(linux.join("a.c"), "changed").unwrap();
        fs::write(linux.join("new.c"), "new").unwrap();
        let status = git(&["status", "--porcelain"]);
        update(&ctx, &linux, &State::WorkTree, "t").unwrap();
        assert_eq!(fs::read_to_string(src.join("a.c")).unwrap(), "changed");
        assert!(src.join("new.c").exists());
        assert_eq!(
            fs::metadata(src.join("b.c")).unwrap().modified().unwrap(),
            old
        );
        assert_eq!(
            git(&["status", "--porcelain"]),
            status,
            "the user's index is untouched"
        );

        let patch = dir.path().join("patch");
        let text =
            "--- a/b.c\n+++ b/b.c\n@@ -1 +1 @@\n-b\n\\ No newline at end of file\n+patched\n";
        fs::write(&patch, text).unwrap();
        update(&ctx, &linux, &State::Patched(&patch), "t").unwrap();
        assert_eq!(fs::read_to_string(src.join("b.c")).unwrap(), "patched\n");
        assert_eq!(fs::read_to_string(src.join("a.c")).unwrap(), "changed");
        fs::write(linux.join("b.c"), "other").unwrap();
        assert!(update(&ctx, &linux, &State::Patched(&patch), "t").is_err());
        fs::write(linux.join("b.c"), "b").unwrap();

        // What a run that was killed leaves.
        fs::write(src.join("b.c"), "spoilt").unwrap();
        fs::write(src.join("new.c"), "half").unwrap();
        for name in ["index.lock", "snapshot-index.lock"] {
            fs::write(dir.path().join("cache/src/t.git").join(name), "").unwrap();
        }
        update(&ctx, &linux, &State::WorkTree, "t").unwrap();
        assert_eq!(fs::read_to_string(src.join("new.c")).unwrap(), "new");
        assert_eq!(fs::read_to_string(src.join("b.c")).unwrap(), "b");

        fs::write(src.join("b.c"), "spoilt").unwrap();
        update(&ctx, &linux, &State::Commit("HEAD"), "t").unwrap();
        assert!(!src.join("new.c").exists());
        assert_eq!(fs::read_to_string(src.join("a.c")).unwrap(), "a");
        assert_eq!(fs::read_to_string(src.join("b.c")).unwrap(), "b");
    }
}
