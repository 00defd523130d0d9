// SPDX-License-Identifier: MIT OR Apache-2.0
//! The submitter's own trailers on every patch: new commits with the same trees.

use super::commits::Commit;
use super::message::is_trailer;
use super::scratch::Scratch;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use std::fs;

/// Refuses what is no trailer.
pub fn check(trailers: &[String]) -> Result<()> {
    for t in trailers {
        if !is_trailer(t) || t.contains('\n') {
            return Err(Failure::of(
                Kind::Usage,
                format!("{t:?} is no trailer, such as 'Signed-off-by: Name <name@host>'"),
            ));
        }
    }
    Ok(())
}

/// Is there a sign-off among them?
pub fn signed(trailers: &[String]) -> bool {
    trailers.iter().any(|t| t.starts_with("Signed-off-by: "))
}

/// Commits with the trailers added, on `base`; gives the new commits, in order.
pub fn add(
    scratch: &Scratch,
    base: &str,
    commits: &[Commit],
    trailers: &[String],
) -> Result<Vec<String>> {
    if trailers.is_empty() {
        return Ok(commits.iter().map(|c| c.hash.clone()).collect());
    }
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let file = tmp.path().join("message");
    let mut parent = base.to_string();
    let mut out = vec![];
    for c in commits {
        fs::write(&file, format!("{}\n\n{}\n", c.subject, c.body))
            .context("cannot write a message")?;
        let mut interpret = scratch.git().args([
            "interpret-trailers",
            "--in-place",
            "--if-exists",
            "addIfDifferent",
        ]);
        for t in trailers {
            interpret = interpret.args(["--trailer", t]);
        }
        interpret.arg(&file).output()?;
        let who = scratch
            .git()
            .args([
                "log",
                "-1",
                "--date=raw",
                "--format=%an%n%ae%n%ad%n%cn%n%ce%n%cd",
                &c.hash,
            ])
            .output()?;
        let mut commit = scratch.git();
        let keys = ["AUTHOR", "COMMITTER"].iter().flat_map(|w| {
            ["NAME", "EMAIL", "DATE"]
                .iter()
                .map(move |k| format!("GIT_{w}_{k}"))
        });
        for (key, value) in keys.zip(who.lines()) {
            commit = commit.env(key, value);
        }
        parent = commit
            .args(["commit-tree", &c.tree, "-p", &parent, "-F"])
            .arg(&file)
            .output()?;
        out.push(parent.clone());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::commits;
    use super::*;
    use crate::env::Ctx;
    use crate::ui::proc::Cmd;

    #[test]
    fn only_trailers_are_taken() {
        let t = |s: &str| check(&[s.to_string()]);
        assert!(t("Signed-off-by: A B <a@b.c>").is_ok());
        for bad in ["", "signed", "Signed-off-by:", "Two words: x", "A: b\nC: d"] {
            assert!(t(bad).is_err(), "{bad:?}");
        }
        assert!(signed(&["Signed-off-by: A <a@b>".into()]) && !signed(&["Cc: a@b".into()]));
    }

    #[test]
    fn trees_authors_and_other_trailers_stay() {
        let tmp = tempfile::tempdir().unwrap();
        let linux = tmp.path().join("linux");
        fs::create_dir(&linux).unwrap();
        let git = |args: &[&str]| {
            Cmd::git(&linux)
                .args(["-c", "user.name=Jane Ö", "-c", "user.email=j@localhost"])
                .args(args)
                .output()
                .unwrap()
        };
        git(&["init", "-q", "-b", "base"]);
        git(&["commit", "-q", "--allow-empty", "-m", "base"]);
        let fixes = "Fixes: 0123456789ab (\"x\")";
        for (file, body) in [("a", "Why.".to_string()), ("b", format!("Why.\n\n{fixes}"))] {
            fs::write(linux.join(file), file).unwrap();
            git(&["add", "."]);
            git(&["commit", "-q", "-m", &format!("mm: {file}\n\n{body}")]);
        }
        let mut ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        ctx.cache.dir = tmp.path().join("cache");
        let s = Scratch::open(&ctx, "t", &linux, false).unwrap();
        let (base, tip) = (git(&["rev-parse", "HEAD~2"]), git(&["rev-parse", "HEAD"]));
        let c = commits::between(&linux, &base, &tip).unwrap();
        let sob = "Signed-off-by: A B <a@b.c>".to_string();
        let new = add(&s, &base, &c, std::slice::from_ref(&sob)).unwrap();
        let show = |format: &str, c: &str| {
            let args = ["log", "-1", format, c];
            s.git().args(args).output().unwrap()
        };
        assert_eq!(
            show("--format=%B", &new[0]).trim(),
            format!("mm: a\n\nWhy.\n\n{sob}")
        );
        assert_eq!(
            show("--format=%B", &new[1]).trim(),
            format!("mm: b\n\nWhy.\n\n{fixes}\n{sob}")
        );
        assert_eq!(
            show("--format=%T %an %ad", &new[1]),
            show("--format=%T %an %ad", &tip)
        );
        assert_eq!(add(&s, &base, &c, &[]).unwrap()[1], tip);
    }
}
