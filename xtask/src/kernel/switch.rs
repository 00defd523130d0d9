// SPDX-License-Identifier: MIT OR Apache-2.0
//! Switching the user's tree to the series, so that it can be killed in the middle.
//!
//! git writes the files, then the index, then the branch. When everything is killed at once, git
//! too, a tree is left that has some of the files, one of them perhaps in part, and an index that is
//! locked. A note in the repository says to what the switch was; it was made when the tree had no
//! changes. With that the next run takes the files back, but none that somebody has changed since.

use super::tree::{Tree, BRANCH};
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The note, in the repository.
const NOTE: &str = "xtask-switching";

fn place(tree: &Tree, name: &str) -> Result<PathBuf> {
    let place = ["rev-parse", "--path-format=absolute", "--git-path", name];
    Ok(tree.git().args(place).output()?.into())
}

/// Does the switch to this commit, which `steps` are; they are not cut off by an end of xtask.
pub fn to(tree: &Tree, commit: &str, steps: &[Cmd]) -> Result<()> {
    let note = place(tree, NOTE)?;
    crate::env::cache::write_atomic(&note, commit.as_bytes())?;
    for step in steps {
        step.to_the_end()?;
    }
    fs::remove_file(&note).with_context(|| format!("cannot remove {}", note.display()))
}

/// Takes back what was begun and not finished; was there something? Call with the lock on the tree
/// held: whoever had it before has ended, and git with it.
pub fn undo_unfinished(ctx: &Ctx, tree: &Tree) -> Result<bool> {
    let note = place(tree, NOTE)?;
    let Ok(commit) = fs::read_to_string(&note) else {
        return Ok(false);
    };
    // The locks of the git that was killed; any other git would have failed on them.
    let branch = format!("refs/heads/{BRANCH}.lock");
    for lock in ["index.lock", "HEAD.lock", "config.lock", &branch] {
        let _ = fs::remove_file(place(tree, lock)?);
    }
    let tree_of = |c: &str| {
        let name = format!("{c}^{{tree}}");
        tree.git().args(["rev-parse", &name]).output()
    };
    // The index may have been written, and the branch not.
    if tree.git().arg("write-tree").output()? != tree_of("HEAD")? {
        tree.git()
            .args(["reset", "-q", "--mixed", "HEAD"])
            .to_the_end()?;
    }
    let changed = ["diff", "--name-only", "--no-renames", "-z", "HEAD", &commit];
    let changed = tree.git().args(changed).output()?;
    let changed: Vec<&str> = changed.split_terminator('\0').collect();
    let tmp = ctx.cache.temp_dir()?;
    let (old, new) = (tmp.path().join("old"), tmp.path().join("new"));
    write(tree, "HEAD", &changed, &old)?;
    write(tree, &commit, &changed, &new)?;
    let read = |dir: &Path, name: &str| fs::read(dir.join(name)).ok();
    let edited: Vec<&str> = changed
        .iter()
        .copied()
        .filter(|name| match read(&tree.dir, name) {
            None => false,
            Some(have) => {
                let begun = read(&new, name).is_some_and(|whole| whole.starts_with(&have));
                !begun && read(&old, name) != Some(have)
            }
        })
        .collect();
    if !edited.is_empty() {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "a switch of {} to the series was killed in the middle, and these files were changed \
                 since:\n  {}\nremedy: save what you have changed, then: git -C {} checkout -f HEAD",
                tree.dir.display(),
                edited.join("\n  "),
                tree.dir.display()
            ),
        ));
    }
    for name in &changed {
        let file = tree.dir.join(name);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    let there = changed.iter().filter(|name| old.join(name).exists());
    let restore = tree.git().args(["checkout-index", "-q", "-u", "--"]);
    restore.args(there).to_the_end()?;
    fs::remove_file(&note).with_context(|| format!("cannot remove {}", note.display()))?;
    Ok(true)
}

/// Writes those of the files that the commit has.
fn write(tree: &Tree, commit: &str, names: &[&str], to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let index = to.with_extension("index");
    let git = || tree.git().env("GIT_INDEX_FILE", &index);
    git().args(["read-tree", commit]).output()?;
    let list = git().args(["ls-files", "-z", "--"]).args(names).output()?;
    let prefix = format!("--prefix={}/", to.display());
    let write = git().args(["checkout-index", "-q", &prefix, "--"]);
    write.args(list.split_terminator('\0')).output().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Killed {
        ctx: Ctx,
        tree: Tree,
        commit: String,
        _tmp: tempfile::TempDir,
    }

    impl Killed {
        fn git(&self, args: &[&str]) -> String {
            git(&self.tree.dir, args)
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.tree.dir.join(name)).ok()
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.tree.dir.join(name), text).unwrap();
        }
    }

    fn git(dir: &Path, args: &[&str]) -> String {
        let identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"];
        Cmd::git(dir).args(identity).args(args).output().unwrap()
    }

    /// A tree on its way to a commit that changes `a` and `b`, adds `c` and removes `d`.
    fn killed() -> Killed {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("linux");
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "base"]);
        let commit = |files: &[(&str, &str)]| {
            for (name, text) in files {
                fs::write(dir.join(name), text).unwrap();
            }
            git(&dir, &["add", "-A"]);
            git(&dir, &["commit", "-q", "-m", "x"]);
            git(&dir, &["rev-parse", "HEAD"])
        };
        let base = commit(&[("a", "1\n"), ("b", "1\n"), ("d", "1\n"), ("e", "1\n")]);
        git(&dir, &["checkout", "-q", "-b", "new"]);
        fs::remove_file(dir.join("d")).unwrap();
        let commit = commit(&[("a", "two\n"), ("b", "two\n"), ("c", "two\n")]);
        git(&dir, &["checkout", "-q", "base"]);
        let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        ctx.cache.dir = tmp.path().join("cache");
        let tree = Tree { dir, base };
        fs::write(place(&tree, NOTE).unwrap(), &commit).unwrap();
        Killed {
            ctx,
            tree,
            commit,
            _tmp: tmp,
        }
    }

    #[test]
    fn files_are_taken_back() {
        let k = killed();
        for lock in ["index", "HEAD", "config", "refs/heads/series"] {
            k.write(&format!(".git/{lock}.lock"), "");
        }
        k.write("a", "two\n");
        k.write("b", "tw");
        k.write("c", "");
        fs::remove_file(k.tree.dir.join("d")).unwrap();
        // Somebody's own, which the switch had nothing to do with.
        k.write("e", "mine\n");
        k.write("f", "mine\n");
        assert!(undo_unfinished(&k.ctx, &k.tree).unwrap());
        assert_eq!(k.git(&["status", "--porcelain"]), " M e\n?? f");
        assert_eq!(k.read("c"), None);
        assert!(!place(&k.tree, NOTE).unwrap().exists());
        k.git(&["config", "a.b", "c"]);
        k.git(&["checkout", "-q", "-b", "series"]);
        // And nothing the next time.
        k.write("a", "mine\n");
        assert!(!undo_unfinished(&k.ctx, &k.tree).unwrap());
        assert_eq!(k.read("a").as_deref(), Some("mine\n"));
    }

    #[test]
    fn an_index_that_was_written_is_taken_back_as_well() {
        let k = killed();
        k.git(&["read-tree", "-u", "-m", &k.commit]);
        undo_unfinished(&k.ctx, &k.tree).unwrap();
        assert_eq!(k.git(&["status", "--porcelain"]), "");
        assert_eq!(k.read("a").as_deref(), Some("1\n"));
    }

    #[test]
    fn what_somebody_changed_since_stays() {
        let k = killed();
        k.write("a", "two\n");
        k.write("b", "mine\n");
        let e = undo_unfinished(&k.ctx, &k.tree).unwrap_err().to_string();
        assert!(e.contains("\n  b\n") && !e.contains("\n  a\n"), "{e}");
        assert_eq!(k.read("b").as_deref(), Some("mine\n"));
    }

    #[test]
    fn a_switch_that_is_done_leaves_no_note() {
        let k = killed();
        let step = k
            .tree
            .git()
            .args(["checkout", "-q", "-B", "series", &k.commit]);
        to(&k.tree, &k.commit, &[step]).unwrap();
        undo_unfinished(&k.ctx, &k.tree).unwrap();
        assert_eq!(k.git(&["status", "--porcelain"]), "");
        assert_eq!(k.read("b").as_deref(), Some("two\n"));
    }
}
