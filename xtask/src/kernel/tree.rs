// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel tree the series lives in: which commit is its base, and whether the series is on it.

use super::import::{debian_patched, BASE_BRANCH};
use super::series::{self, Bench};
use super::switch;
use crate::env::base::makefile_version;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::Cmd;
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The branch the series is on.
pub const BRANCH: &str = "series";
/// Where a tree that is not of our making records its base.
const BASE_KEY: &str = "branch.series.xtaskbase";
/// The tree our own `apply` left, by which local work is told from an outdated series.
const APPLIED_KEY: &str = "branch.series.xtaskapplied";
/// Who commits when `git am` runs: fixed, as the dates are, so that the hashes are the same
/// everywhere.
const COMMITTER: [(&str, &str); 2] = [
    ("GIT_COMMITTER_NAME", "Linux base"),
    ("GIT_COMMITTER_EMAIL", "base@localhost"),
];

/// A kernel tree with a known base.
#[derive(Debug)]
pub struct Tree {
    /// Where it is.
    pub dir: PathBuf,
    /// The base commit.
    pub base: String,
}

/// How a tree stands to `patches/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has what the patches give.
    Applied,
    /// It is the base, nothing applied.
    Pristine,
    /// It has an earlier state of the patches and no work of the user's.
    Outdated,
    /// It has commits the patches do not have.
    OwnCommits,
}

impl Tree {
    /// The tree at `linux/` or `--linux DIR`; `None` when there is none.
    pub fn find(ctx: &Ctx) -> Result<Option<Tree>> {
        let dir = ctx.linux();
        if !dir.join("Makefile").exists() {
            return Ok(None);
        }
        if !dir.join(".git").exists() {
            bail!(
                "{} is no git repository; `git am` needs one (in it: git init && git add -A && \
                 git commit -m base)",
                dir.display()
            );
        }
        let base = match rev(&dir, &config(&dir, BASE_KEY).unwrap_or_default()) {
            Some(c) => c,
            None => match rev(&dir, &format!("refs/heads/{BASE_BRANCH}"))
                .or_else(|| rev(&dir, &format!("refs/tags/{}", ctx.base.base.git_tag)))
                .or_else(|| (rev(&dir, &branch_ref()).is_none()).then(|| rev(&dir, "HEAD"))?)
            {
                Some(c) => c,
                None => bail!(
                    "{} has a branch {BRANCH} that is not of xtask's making; rename it (git branch \
                     -m), or say what it is based on: git -C {} config {BASE_KEY} COMMIT",
                    dir.display(),
                    dir.display()
                ),
            },
        };
        let tree = Tree { dir, base };
        if ctx.global.linux.is_none() {
            tree.check_version(ctx)?;
        }
        Ok(Some(tree))
    }

    /// The tree, or an error that says how to get one.
    pub fn required(ctx: &Ctx) -> Result<Tree> {
        Tree::find(ctx)?.with_context(|| {
            format!(
                "no kernel tree in {} (cargo xtask source)",
                ctx.linux().display()
            )
        })
    }

    /// The base must be the pinned release.
    pub fn check_version(&self, ctx: &Ctx) -> Result<()> {
        let makefile = self
            .git()
            .args(["show", &format!("{}:Makefile", self.base)])
            .output()?;
        let version = makefile_version(&makefile).unwrap_or_else(|| "an unknown version".into());
        let want = &ctx.base.base.version;
        if version != *want {
            return Err(Failure::of(
                Kind::Setup,
                format!(
                    "the base of {} is Linux {version}, base.toml pins {want}\nremedy: move the \
                     tree away and run `cargo xtask source`, or give another tree with --linux",
                    self.dir.display()
                ),
            ));
        }
        Ok(())
    }

    /// `git` in the tree.
    pub fn git(&self) -> Cmd {
        Cmd::git(&self.dir)
    }

    /// The commit the series ends in, if there is a branch for it.
    pub fn tip(&self) -> Option<String> {
        rev(&self.dir, &branch_ref())
    }

    /// The files Debian patched in this tree's base, if it was made from Debian's patched source.
    pub fn debian_patched(&self, ctx: &Ctx) -> Vec<String> {
        debian_patched(
            &ctx.cache.base_git(&ctx.base.base.version),
            &self.dir,
            &self.base,
        )
    }

    /// Compares the tree with `patches/`; gives the tree hash the patches make, if they apply.
    pub fn status(&self, ctx: &Ctx, patches: &[PathBuf]) -> Result<(Status, Option<String>)> {
        let bench = Bench::new(ctx, &self.dir)?;
        let want = bench.apply(&self.base, patches);
        let tree_of = |c: &str| {
            self.git()
                .args(["rev-parse", &format!("{c}^{{tree}}")])
                .output()
        };
        let Some(tip) = self.tip() else {
            return match want {
                Err(e) if ctx.global.linux.is_none() => Err(e),
                want => Ok((Status::Pristine, want.ok())),
            };
        };
        let have = tree_of(&tip)?;
        if want.as_ref().is_ok_and(|w| *w == have) {
            return Ok((Status::Applied, want.ok()));
        }
        let status = if tip == self.base {
            Status::Pristine
        } else if config(&self.dir, APPLIED_KEY).as_deref() == Some(tip.as_str()) {
            Status::Outdated
        } else {
            Status::OwnCommits
        };
        match want {
            // The user's own tree may be of another release; `git am -3` may still succeed.
            Err(e) if ctx.global.linux.is_none() && status != Status::OwnCommits => Err(e),
            want => Ok((status, want.ok())),
        }
    }

    /// Puts the series on a branch of ours, from the base. Earlier commits stay under a backup
    /// name; a patch that does not apply, or an interrupt, leaves everything as it was.
    pub fn apply(&self, ctx: &Ctx, patches: &[PathBuf]) -> Result<()> {
        let dirty = self
            .git()
            .args(["status", "--porcelain", "--untracked-files=no"])
            .output()?;
        if !dirty.is_empty() {
            return Err(Failure::of(
                Kind::Setup,
                format!(
                    "{} has uncommitted changes, which applying the series would touch; commit \
                     or stash them first:\n{}",
                    self.dir.display(),
                    crate::ui::proc::last_lines(&dirty, 10)
                ),
            ));
        }
        let made = self.made(ctx, patches)?;
        ctx.exec(&self.git().args(["config", BASE_KEY, &self.base]))?;
        if let Some(tip) = self.tip().filter(|t| *t != self.base) {
            let backup = format!("{BRANCH}-before-{}", &tip[..12]);
            ctx.exec(&self.git().args(["branch", "-f", &backup, &tip]))?;
            ctx.ui.note(&format!(
                "the commits that were on {BRANCH} are kept on {backup}"
            ));
        }
        let switch_over = self.git().args(["checkout", "-q", "-B", BRANCH, &made]);
        let record = self.git().args(["config", APPLIED_KEY, &made]);
        if !ctx.global.dry_run {
            return switch::to(self, &made, &[switch_over, record]);
        }
        for cmd in [switch_over, record] {
            ctx.exec(&cmd)?;
        }
        Ok(())
    }

    /// The commit that the patches make of the base.
    fn made(&self, ctx: &Ctx, patches: &[PathBuf]) -> Result<String> {
        if patches.is_empty() {
            return Ok(self.base.clone());
        }
        let aside = Aside::new(ctx, self)?;
        aside.check_out(ctx, &series::touched_by(patches)?)?;
        let mut am = aside
            .git()
            .args(["-c", "core.hooksPath=/dev/null"])
            // It would go on in the background, with the lock on the tree.
            .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .args(["-c", "commit.gpgSign=false", "am", "-q", "-3"])
            .args(["--committer-date-is-author-date", "--keep-non-patch"])
            .args(["--no-signoff", "--whitespace=nowarn"])
            .args(patches);
        for (k, v) in COMMITTER {
            am = am.env(k, v);
        }
        ctx.exec(&am).map_err(|e| {
            let current = aside.git().args(["am", "--show-current-patch=raw"]);
            let subject = current.output().ok().and_then(|p| {
                p.lines()
                    .find_map(|l| l.strip_prefix("Subject: ").map(str::to_string))
            });
            let name = subject.unwrap_or_else(|| "a patch".into());
            series::does_not_apply(Path::new(&name), &e)
        })?;
        if ctx.global.dry_run {
            return Ok("COMMIT".into());
        }
        aside.git().args(["rev-parse", "HEAD"]).output()
    }
}

/// A work tree to apply patches in, so that the user's own has all of them or, if that is cut off,
/// none. It has no files but those that are to be changed.
struct Aside {
    linux: PathBuf,
    dir: PathBuf,
}

impl Aside {
    /// On the base of the tree.
    fn new(ctx: &Ctx, tree: &Tree) -> Result<Self> {
        let place = ["rev-parse", "--path-format=absolute", "--git-path"];
        let dir = tree.git().args(place).arg("xtask-applying").output()?;
        let aside = Aside {
            linux: tree.dir.clone(),
            dir: dir.into(),
        };
        if !ctx.global.dry_run {
            // A run that was killed may have left it.
            aside.remove();
        }
        // The second -f: one that was killed while it was made is locked.
        let add = ["worktree", "add", "-q", "-f", "-f", "--no-checkout"];
        ctx.exec(
            &tree
                .git()
                .args(add)
                .arg("--detach")
                .arg(&aside.dir)
                .arg(&tree.base),
        )?;
        ctx.exec(&aside.git().args(["read-tree", "HEAD"]))?;
        Ok(aside)
    }

    fn git(&self) -> Cmd {
        Cmd::git(&self.dir)
    }

    /// Writes those of the files that the base has.
    fn check_out(&self, ctx: &Ctx, files: &BTreeSet<String>) -> Result<()> {
        if ctx.global.dry_run {
            return Ok(());
        }
        let list = self.git().args(["ls-files", "-z", "--"]).args(files);
        let list = list.output()?;
        let there = list.split_terminator('\0');
        let write = self.git().args(["checkout-index", "-q", "-u", "--"]);
        write.args(there).output().map(drop)
    }

    fn remove(&self) {
        if self.dir.exists() {
            let remove = ["worktree", "remove", "-f", "-f"];
            let removed = Cmd::git(&self.linux).args(remove).arg(&self.dir);
            if removed.to_the_end().is_err() {
                let _ = std::fs::remove_dir_all(&self.dir);
            }
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.remove();
    }
}

fn branch_ref() -> String {
    format!("refs/heads/{BRANCH}")
}

/// The commit a name stands for.
pub fn rev(dir: &Path, name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let name = format!("{name}^{{commit}}");
    Cmd::git(dir)
        .args(["rev-parse", "-q", "--verify", &name])
        .output()
        .ok()
}

fn config(dir: &Path, key: &str) -> Option<String> {
    Cmd::git(dir).args(["config", "--get", key]).output().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn git(dir: &Path, args: &[&str]) -> String {
        Cmd::git(dir)
            .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
            .args(args)
            .output()
            .unwrap()
    }

    /// A tree with the files `a` and `b`, and two patches: to `a`, as it was one commit earlier,
    /// and one that adds `c`.
    fn tree_and_patches(tmp: &Path) -> (Tree, Vec<PathBuf>) {
        let dir = tmp.join("linux");
        fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "base"]);
        let commit = |file: &str, text: &str| {
            fs::write(dir.join(file), text).unwrap();
            git(&dir, &["add", "."]);
            git(&dir, &["commit", "-q", "-m", &format!("change {file}")]);
        };
        commit("b", "b\n");
        commit("a", "1\n2\n3\n4\n5\n");
        git(&dir, &["checkout", "-q", "-b", "work"]);
        commit("a", "1\n2\n3\n4\nfive\n");
        commit("c", "c\n");
        git(&dir, &["format-patch", "-q", "-o", "../p", "base"]);
        git(&dir, &["checkout", "-q", "base"]);
        commit("a", "1\ntwo\n3\n4\n5\n");
        let mut patches: Vec<PathBuf> = fs::read_dir(tmp.join("p"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        patches.sort();
        let base = git(&dir, &["rev-parse", "base"]);
        (Tree { dir, base }, patches)
    }

    fn state(dir: &Path) -> [String; 4] {
        [
            git(dir, &["for-each-ref"]),
            git(dir, &["symbolic-ref", "HEAD"]),
            git(dir, &["status", "--porcelain"]),
            git(dir, &["worktree", "list"]),
        ]
    }

    #[test]
    fn the_series_goes_on_in_one_go_three_way_merges_included() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, patches) = tree_and_patches(tmp.path());
        let ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        tree.apply(&ctx, &patches).unwrap();
        let read = |name: &str| fs::read_to_string(tree.dir.join(name)).unwrap();
        assert_eq!(read("a"), "1\ntwo\n3\n4\nfive\n");
        assert_eq!((read("b"), read("c")), ("b\n".into(), "c\n".into()));
        let [_, head, status, trees] = state(&tree.dir);
        assert_eq!(head, "refs/heads/series");
        assert_eq!(status, "");
        assert_eq!(trees.lines().count(), 1);
        let applied = config(&tree.dir, APPLIED_KEY);
        assert_eq!(applied, tree.tip());
    }

    #[test]
    fn what_does_not_apply_leaves_no_trace() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, patches) = tree_and_patches(tmp.path());
        let before = state(&tree.dir);
        let text = fs::read_to_string(&patches[1]).unwrap();
        fs::write(&patches[1], text.replace("new file mode 100644\n", "")).unwrap();
        let ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        let e = tree.apply(&ctx, &patches).unwrap_err().to_string();
        assert!(e.contains("[PATCH 2/2] change c does not apply"), "{e}");
        assert!(e.contains("remedy: "), "{e}");
        assert_eq!(state(&tree.dir), before);
    }

    #[test]
    fn a_run_that_was_killed_is_not_in_the_way() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, patches) = tree_and_patches(tmp.path());
        let ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        for (left_without_files, locked) in [(false, false), (true, false), (true, true)] {
            let aside = Aside::new(&ctx, &tree).unwrap();
            if locked {
                // As git has it while it makes one.
                let file = tree.dir.join(".git/worktrees/xtask-applying/locked");
                fs::write(file, "initializing").unwrap();
            }
            // In the middle of the first patch.
            fs::write(aside.dir.join("a"), "1\n").unwrap();
            if left_without_files {
                fs::remove_dir_all(&aside.dir).unwrap();
            }
            std::mem::forget(aside);
        }
        tree.apply(&ctx, &patches).unwrap();
        let [_, head, status, trees] = state(&tree.dir);
        assert_eq!((head.as_str(), status.as_str()), ("refs/heads/series", ""));
        assert_eq!(trees.lines().count(), 1, "{trees}");
    }
}
