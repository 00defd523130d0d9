// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work trees in the cache for what must not happen in the user's kernel tree: rebases, other
//! releases, the branches that b4 manages. Their objects are those of the user's tree and their own.

use crate::env::cache::{require_space, Lock};
use crate::env::Ctx;
use crate::kernel::import::{self, Tarball};
use crate::kernel::tree::rev;
use crate::ui::proc::Cmd;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A work tree of our own.
pub struct Scratch {
    /// Where it is.
    pub dir: PathBuf,
    linux: PathBuf,
    _lock: Lock,
}

/// The directory with the objects of a repository.
fn objects(dir: &Path) -> Result<String> {
    Cmd::git(dir)
        .args([
            "rev-parse",
            "--path-format=absolute",
            "--git-path",
            "objects",
        ])
        .output()
}

impl Scratch {
    /// The work tree `name` beside the kernel tree at `linux`; whatever was under way in it is
    /// given up, unless `keep`.
    pub fn open(ctx: &Ctx, name: &str, linux: &Path, keep: bool) -> Result<Self> {
        let lock = ctx.cache.lock(&format!("scratch-{name}"), &ctx.ui)?;
        let dir = ctx.cache.dir.join("scratch").join(name);
        let scratch = Scratch {
            linux: linux.to_path_buf(),
            _lock: lock,
            dir,
        };
        if !scratch.dir.join(".git").exists() {
            require_space(&ctx.cache.dir, 2_500_000_000, "a second kernel tree")?;
            Cmd::new("git")
                .args(["init", "-q"])
                .arg(&scratch.dir)
                .output()?;
        }
        scratch.share(linux)?;
        for (key, value) in [
            ("gc.auto", "0"),
            ("core.hooksPath", "/dev/null"),
            ("commit.gpgSign", "false"),
            ("advice.detachedHead", "false"),
        ] {
            scratch.git().args(["config", key, value]).output()?;
        }
        for key in ["user.name", "user.email"] {
            let get = Cmd::git(linux).args(["config", "--get", key]).output();
            if let Ok(value) = get {
                scratch.git().args(["config", key, &value]).output()?;
            }
        }
        if !keep {
            for under_way in ["am", "rebase"] {
                scratch.git().args([under_way, "--abort"]).succeeds();
            }
        }
        Ok(scratch)
    }

    /// `git` in it.
    pub fn git(&self) -> Cmd {
        Cmd::git(&self.dir)
    }

    /// Makes the commits of another repository known here, without a copy.
    fn share(&self, other: &Path) -> Result<()> {
        let alternates = PathBuf::from(objects(&self.dir)?).join("info/alternates");
        let line = objects(other)?;
        let text = fs::read_to_string(&alternates).unwrap_or_default();
        // One that has gone would be complained about at each command.
        let mut lines: Vec<&str> = text.lines().filter(|l| Path::new(l).exists()).collect();
        if !lines.contains(&line.as_str()) {
            lines.push(&line);
        }
        fs::write(&alternates, lines.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", alternates.display()))?;
        // A shallow clone does not have the parents of its first commits.
        let shallow = |dir: &Path| {
            let path = [
                "rev-parse",
                "--path-format=absolute",
                "--git-path",
                "shallow",
            ];
            Cmd::git(dir).args(path).output().map(PathBuf::from)
        };
        if let Ok(theirs) = fs::read_to_string(shallow(other)?) {
            let file = shallow(&self.dir)?;
            let mut ours = fs::read_to_string(&file).unwrap_or_default();
            for l in theirs.lines() {
                if !ours.lines().any(|o| o == l) {
                    ours.push_str(l);
                    ours.push('\n');
                }
            }
            fs::write(&file, ours).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Checks a commit out on a branch, whatever is there.
    pub fn checkout(&self, branch: &str, commit: &str) -> Result<()> {
        // A branch that is checked out is moved by a reset; -B does that as well.
        self.force_checkout(&["-B", branch, commit])
    }

    /// Checks out a branch that is there.
    pub fn checkout_existing(&self, branch: &str) -> Result<()> {
        self.force_checkout(&[branch, "--"])
    }

    fn force_checkout(&self, what: &[&str]) -> Result<()> {
        self.git()
            .args(["-c", "checkout.workers=0", "checkout", "-q", "-f"])
            .args(what)
            .output()
            .map(drop)
    }

    /// The commit that a name of the user's stands for:
    ///
    /// - a commit, branch or tag of the kernel tree;
    /// - `DIR` or `DIR#REF`: of another repository on this machine;
    /// - `URL#REF`: fetched from there;
    /// - `FILE.tar.xz`: the source of a release;
    /// - `vX.Y`: a tag that the kernel tree does not have is fetched from base.toml's repository.
    pub fn resolve(&self, ctx: &Ctx, name: &str) -> Result<String> {
        if let Some(commit) = rev(&self.linux, name) {
            return Ok(commit);
        }
        let (place, reference) = match name.rsplit_once('#') {
            Some((p, r)) => (p, Some(r)),
            None => (name, None),
        };
        let path = Path::new(place);
        if place.ends_with(".tar.xz") && path.is_file() {
            return self.tarball(ctx, path);
        }
        if path.is_dir() {
            let path = std::path::absolute(path)?;
            let reference = reference.unwrap_or("HEAD");
            let commit = rev(&path, reference)
                .with_context(|| format!("{} has no {reference}", path.display()))?;
            self.share(&path)?;
            return Ok(commit);
        }
        let (url, reference) = match reference {
            Some(r) => (place, r),
            None if name.starts_with('v') => (ctx.base.base.git_url.as_str(), name),
            None => bail!(
                "{name} is no commit of {}, no directory, no tarball and no URL#REF",
                self.linux.display()
            ),
        };
        let step = ctx.ui.step(&format!("fetching {reference} of {url}"));
        self.git()
            .args(["fetch", "-q", "--depth", "1", url, reference])
            .output()
            .with_context(|| format!("cannot get {reference}"))?;
        step.done("");
        rev(&self.dir, "FETCH_HEAD").context("git fetch brought nothing")
    }

    fn tarball(&self, ctx: &Ctx, path: &Path) -> Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let repo = ctx.cache.dir.join("scratch").join(format!("{name}.git"));
        if !repo.exists() {
            let tarball = Tarball {
                path: path.to_path_buf(),
                patched: false,
            };
            import::import_any(ctx, tarball, &repo)?;
        }
        self.share(&repo)?;
        rev(&repo, import::BASE_BRANCH).context("the tarball gave no commit")
    }

    /// Applies patches as `git am -3` does on what is checked out. Gives the number of those that
    /// went on, and what stopped it; the tree is left as it then is.
    pub fn am(&self, patches: &[PathBuf]) -> Result<(usize, Option<String>)> {
        let start = self.git().args(["rev-parse", "HEAD"]).output()?;
        let am = self
            .git()
            .env("GIT_COMMITTER_NAME", "Linux base")
            .env("GIT_COMMITTER_EMAIL", "base@localhost")
            .args(["am", "-q", "-3", "--keep-non-patch", "--no-signoff"])
            .args(["--committer-date-is-author-date", "--whitespace=nowarn"])
            .args(patches);
        let (status, out, err) = am.try_output()?;
        let count = self
            .git()
            .args(["rev-list", "--count", &format!("{start}..HEAD")])
            .output()?;
        let count = count.parse().context("git rev-list --count")?;
        if status.success() {
            return Ok((count, None));
        }
        let unmerged = self
            .git()
            .args(["diff", "--name-only", "--diff-filter=U"])
            .output()?;
        Ok((
            count,
            Some(why_stopped(&unmerged, &format!("{out}\n{err}"))),
        ))
    }
}

/// The files in conflict; without any, what git said.
fn why_stopped(unmerged: &str, said: &str) -> String {
    let files: Vec<&str> = unmerged.lines().collect();
    if !files.is_empty() {
        return files.join(" ");
    }
    let errors = said.lines().filter_map(|l| l.strip_prefix("error: "));
    let mut errors: Vec<&str> = errors.collect();
    errors.dedup();
    errors.truncate(3);
    if errors.is_empty() {
        crate::ui::proc::last_lines(said, 3)
    } else {
        errors.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_its_files() {
        assert_eq!(why_stopped("mm/a.c\nmm/b.c", "error: x"), "mm/a.c mm/b.c");
        let said = "error: patch failed: mm/a.c:1\nerror: mm/a.c: patch does not apply\nhint: y";
        assert_eq!(
            why_stopped("", said),
            "patch failed: mm/a.c:1; mm/a.c: patch does not apply"
        );
    }

    fn git(dir: &Path, args: &[&str]) -> String {
        Cmd::git(dir)
            .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
            .args(args)
            .output()
            .unwrap()
    }

    #[test]
    fn patches_go_on_another_base_and_the_users_tree_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let linux = tmp.path().join("linux");
        fs::create_dir(&linux).unwrap();
        git(&linux, &["init", "-q", "-b", "base"]);
        git(&linux, &["config", "user.name", "x"]);
        git(&linux, &["config", "user.email", "x@localhost"]);
        fs::write(linux.join("a.c"), "one\n").unwrap();
        git(&linux, &["add", "."]);
        git(&linux, &["commit", "-q", "-m", "base"]);
        git(&linux, &["checkout", "-q", "-b", "series"]);
        fs::write(linux.join("b.c"), "two\n").unwrap();
        git(&linux, &["add", "."]);
        git(&linux, &["commit", "-q", "-m", "add b"]);
        fs::write(linux.join("a.c"), "changed\n").unwrap();
        git(&linux, &["commit", "-q", "-a", "-m", "change a"]);
        git(
            &linux,
            &["format-patch", "-q", "-o", "../p", "base..series"],
        );
        git(&linux, &["checkout", "-q", "-b", "other", "base"]);
        fs::write(linux.join("a.c"), "something else\n").unwrap();
        git(&linux, &["commit", "-q", "-a", "-m", "other"]);
        let before = git(&linux, &["for-each-ref"]);

        let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        ctx.cache.dir = tmp.path().join("cache");
        let s = Scratch::open(&ctx, "t", &linux, false).unwrap();
        let mut patches: Vec<PathBuf> = fs::read_dir(tmp.path().join("p"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        patches.sort();
        s.checkout("try", &s.resolve(&ctx, "base").unwrap())
            .unwrap();
        assert_eq!(s.am(&patches).unwrap(), (2, None));
        let other = format!("{}#other", linux.display());
        s.checkout("try", &s.resolve(&ctx, &other).unwrap())
            .unwrap();
        assert_eq!(s.am(&patches).unwrap(), (1, Some("a.c".into())));
        assert!(s.resolve(&ctx, "no-such-thing").is_err());
        assert_eq!(git(&linux, &["for-each-ref"]), before);
        drop(s);
        // The next one begins anew.
        let s = Scratch::open(&ctx, "t", &linux, false).unwrap();
        s.checkout("try", &s.resolve(&ctx, "base").unwrap())
            .unwrap();
        assert_eq!(s.am(&patches).unwrap(), (2, None));
    }
}
