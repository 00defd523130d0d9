// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel tree the series lives in: which commit is its base, and whether the series is on it.

use super::import::{debian_patched, BASE_BRANCH};
use super::series::{self, Bench};
use crate::env::base::makefile_version;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::Cmd;
use anyhow::{bail, Context, Result};
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
    /// name; a patch that does not apply leaves everything as it was.
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
        let before = self
            .git()
            .args(["symbolic-ref", "-q", "--short", "HEAD"])
            .output();
        let before = match before {
            Ok(branch) => branch,
            Err(_) => self.git().args(["rev-parse", "HEAD"]).output()?,
        };
        let tip = self.tip();
        ctx.exec(&self.git().args(["config", BASE_KEY, &self.base]))?;
        let temporary = "xtask/applying";
        ctx.exec(
            &self
                .git()
                .args(["checkout", "-q", "-B", temporary, &self.base]),
        )?;
        let result = self.am(ctx, patches);
        if result.is_err() {
            let _ = self.git().args(["am", "--abort"]).try_output();
            self.git()
                .args(["checkout", "-q", "-f", &before])
                .output()?;
            self.git()
                .args(["branch", "-q", "-D", temporary])
                .output()?;
            return result;
        }
        if let Some(tip) = tip.filter(|t| *t != self.base) {
            let backup = format!("{BRANCH}-before-{}", &tip[..12]);
            ctx.exec(&self.git().args(["branch", "-f", &backup, &tip]))?;
            ctx.ui.note(&format!(
                "the commits that were on {BRANCH} are kept on {backup}"
            ));
        }
        ctx.exec(&self.git().args(["branch", "-q", "-M", temporary, BRANCH]))?;
        ctx.exec(&self.git().args(["config", BASE_KEY, &self.base]))?;
        if !ctx.global.dry_run {
            let tip = self.tip().context("the branch is gone")?;
            self.git().args(["config", APPLIED_KEY, &tip]).output()?;
        }
        Ok(())
    }

    fn am(&self, ctx: &Ctx, patches: &[PathBuf]) -> Result<()> {
        if patches.is_empty() {
            return Ok(());
        }
        let mut am = self
            .git()
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "commit.gpgSign=false",
                "am",
                "-q",
            ])
            .args([
                "-3",
                "--committer-date-is-author-date",
                "--keep-non-patch",
                "--no-signoff",
            ])
            .args(["--whitespace=nowarn"])
            .args(patches);
        for (k, v) in COMMITTER {
            am = am.env(k, v);
        }
        ctx.exec(&am).map(drop).map_err(|e| {
            let current = self.git().args(["am", "--show-current-patch=raw"]).output();
            let subject = current.ok().and_then(|p| {
                p.lines()
                    .find_map(|l| l.strip_prefix("Subject: ").map(str::to_string))
            });
            let name = subject.unwrap_or_else(|| "a patch".into());
            series::does_not_apply(Path::new(&name), &e)
        })
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
