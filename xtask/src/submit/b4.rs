// SPDX-License-Identifier: MIT OR Apache-2.0
//! b4: handing it a branch with its cover letter, and having it write mails. It never gets to send:
//! it is told to write files, is kept off the network, and the mail server it knows is not one.

use super::message::is_trailer;
use super::scratch::Scratch;
use super::stacks::{Cover, Stack};
use crate::env::{tools, Ctx};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::path::Path;

/// What checkpatch is told by b4 itself, as far as nothing else is configured.
const CHECK: &str = "./scripts/checkpatch.pl -q --terse --no-summary --mailback --showfile";

/// b4 in a work tree.
pub struct B4<'a> {
    ctx: &'a Ctx,
    scratch: &'a Scratch,
}

/// What a series stands on.
pub struct Below<'a> {
    /// The branch it begins at.
    pub branch: String,
    /// The commit that all of it is cut on.
    pub base: String,
    /// The release that this is.
    pub release: String,
    /// What has to be applied before.
    pub needs: Vec<&'a Stack>,
}

/// What the checks of b4 say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Patches without a remark.
    pub clean: usize,
    /// Warnings.
    pub warnings: usize,
    /// Errors.
    pub errors: usize,
}

impl<'a> B4<'a> {
    /// In this work tree; `signed` says whether the patches have a sign-off.
    pub fn new(ctx: &'a Ctx, scratch: &'a Scratch, signed: bool) -> Result<Self> {
        let check = match signed {
            true => CHECK.to_string(),
            false => format!("{CHECK} --ignore {}", super::checkpatch::SIGN_OFF),
        };
        for (key, value) in [
            ("b4.prep-cover-strategy", "branch-description"),
            ("b4.prep-perpatch-check-cmd", check.as_str()),
            ("b4.send-no-patatt-sign", "yes"),
            // With no server at all, it would turn to kernel.org's.
            ("sendemail.smtpserver", "invalid.invalid"),
        ] {
            scratch.git().args(["config", key, value]).output()?;
        }
        for key in ["user.name", "user.email"] {
            if !scratch.git().args(["config", "--get", key]).succeeds() {
                bail!("git does not know who you are\nremedy: git config --global {key} ...");
            }
        }
        Ok(B4 { ctx, scratch })
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let cmd = Cmd::new(self.ctx.cache.submission_venv().join("bin/b4"))
            .cwd(&self.scratch.dir)
            .env("PATH", tools::submission_path(self.ctx))
            .args(["--no-interactive", "--offline-mode"])
            .args(args);
        if self.ctx.global.verbose {
            eprintln!("+ {cmd}");
        }
        let (status, out, err) = cmd.try_output()?;
        let text = format!("{out}{err}");
        if !status.success() || text.contains("CRITICAL") || text.contains("Traceback") {
            bail!("`{cmd}` failed ({status})\n{}", last_lines(&text, 12));
        }
        Ok(text)
    }

    fn set(&self, branch: &str, key: &str, value: &str) -> Result<()> {
        let key = format!("branch.{branch}.{key}");
        self.scratch
            .git()
            .args(["config", &key, value])
            .output()
            .map(drop)
    }

    fn get(&self, branch: &str, key: &str) -> Result<String> {
        let key = format!("branch.{branch}.{key}");
        self.scratch.git().args(["config", "--get", &key]).output()
    }

    /// Makes the branch, at `tip`, one that b4 manages, with this cover letter.
    pub fn enroll(&self, stack: &Stack, tip: &str, below: &Below, cover: &Cover) -> Result<()> {
        let branch = branch(stack);
        // What an earlier run left.
        let section = format!("branch.{branch}");
        self.scratch
            .git()
            .args(["config", "--remove-section", &section])
            .succeeds();
        self.scratch.checkout(&branch, tip)?;
        self.run(&["prep", "--enroll", &below.branch])?;
        let made = self.get(&branch, "b4-tracking")?;
        let tracking = tracking(&made, stack, below).context("what b4 keeps of a branch")?;
        self.set(&branch, "b4-tracking", &tracking)?;
        self.set(&branch, "description", &letter(cover, &below.release))
    }

    /// A mark that lets b4 find the patches of a series that comes before another one.
    pub fn mark(&self, stack: &Stack, base: &str, tip: &str, cover: &Cover) -> Result<()> {
        let name = format!("sent/{}-v{}", stack.change_id, stack.revision);
        let text = format!(
            "{}\n\n{}\n\n---\nbase-commit: {base}\nchange-id: {}\n",
            cover.subject, cover.body, stack.change_id
        );
        self.scratch
            .git()
            .args([
                "tag",
                "-f",
                "-a",
                "--cleanup=verbatim",
                "-m",
                &text,
                &name,
                tip,
            ])
            .output()
            .map(drop)
    }

    /// Collects whom to send it to; gives how many.
    pub fn addresses(&self, stack: &Stack) -> Result<usize> {
        self.run(&["prep", "--auto-to-cc"])?;
        let cover = self.get(&branch(stack), "description")?;
        Ok(count_addresses(&cover))
    }

    /// Has b4 check the patches.
    pub fn check(&self) -> Result<Checked> {
        let text = self.run(&["prep", "--check"])?;
        checked(&text).with_context(|| format!("b4 says\n{}", last_lines(&text, 5)))
    }

    /// Writes the mails of a branch into a directory.
    pub fn write(&self, stack: &Stack, out: &Path) -> Result<()> {
        let branch = branch(stack);
        self.scratch.checkout_existing(&branch)?;
        let out = out.display().to_string();
        // A directory to write to is what makes it a dry run; b4 does not take both options.
        self.run(&["send", "--no-sign", "--output-dir", &out])
            .map(drop)
    }
}

/// The branch of a stack.
pub fn branch(stack: &Stack) -> String {
    format!("b4/{}", stack.name)
}

/// The letter for b4, which takes a line that begins with `#` for a comment. It says what the series
/// is based on: the commit may be that of an import of the release, which nobody else has.
fn letter(cover: &Cover, release: &str) -> String {
    let lines = cover.body.lines().map(|l| match l.starts_with('#') {
        true => format!(">{l}"),
        false => l.to_string(),
    });
    let mut body = lines.collect::<Vec<_>>().join("\n");
    if !body.contains(release) {
        // Trailers (To:, Cc:) stay at the end.
        let end = body
            .rfind("\n\n")
            .filter(|i| body[i + 2..].lines().all(is_trailer));
        body.insert_str(
            end.unwrap_or(body.len()),
            &format!("\n\nBased on {release}."),
        );
    }
    format!("{}\n\n{body}\n", cover.subject)
}

/// What b4 keeps of a branch, with our change-id, version and prerequisites.
fn tracking(made: &str, stack: &Stack, below: &Below) -> Result<String> {
    let mut all: Value = serde_json::from_str(made)?;
    let series = all
        .get_mut("series")
        .and_then(Value::as_object_mut)
        .context("there is no series in it")?;
    series.insert("change-id".into(), json!(stack.change_id));
    series.insert("revision".into(), json!(stack.revision));
    let needs = below
        .needs
        .iter()
        .map(|s| format!("change-id: {}:v{}", s.change_id, s.revision));
    let lines: Vec<String> = [format!("base-commit: {}", below.base)]
        .into_iter()
        .chain(needs)
        .collect();
    series.insert("prerequisites".into(), json!(lines));
    Ok(all.to_string())
}

fn count_addresses(cover: &str) -> usize {
    cover
        .lines()
        .filter(|l| l.starts_with("To: ") || l.starts_with("Cc: "))
        .count()
}

/// `Success: 1, Warning: 2, Error: 3`.
fn checked(text: &str) -> Option<Checked> {
    let line = text
        .lines()
        .rev()
        .find(|l| l.trim().starts_with("Success: "))?;
    let mut numbers = line
        .split(|c: char| !c.is_ascii_digit())
        .filter(|w| !w.is_empty())
        .map(|w| w.parse::<usize>().ok());
    let mut next = || numbers.next().flatten();
    Some(Checked {
        clean: next()?,
        warnings: next()?,
        errors: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(name: &str) -> Stack {
        Stack {
            name: name.into(),
            first: "x".into(),
            cover: "x.md".into(),
            change_id: format!("20261122-{name}-0123456789ab"),
            revision: 2,
            needs: vec![],
            long: None,
        }
    }

    #[test]
    fn the_branch_gets_our_identity_and_its_prerequisites() {
        let made = r#"{"series":{"revision":1,"change-id":"x","prefixes":[],"base-branch":"b"}}"#;
        let (one, two) = (stack("one"), stack("two"));
        let below = Below {
            branch: "stack/one".into(),
            base: "abc".into(),
            release: "v7.3.4".into(),
            needs: vec![&one],
        };
        let t: Value = serde_json::from_str(&tracking(made, &two, &below).unwrap()).unwrap();
        let s = &t["series"];
        assert_eq!(s["change-id"], "20261122-two-0123456789ab");
        assert_eq!(s["revision"], 2);
        assert_eq!(s["base-branch"], "b");
        assert_eq!(
            s["prerequisites"],
            json!([
                "base-commit: abc",
                "change-id: 20261122-one-0123456789ab:v2"
            ])
        );
        assert!(tracking("{}", &two, &below).is_err());
    }

    #[test]
    fn headings_are_no_comments() {
        let c = Cover {
            subject: "s".into(),
            body: "a\n# b".into(),
        };
        assert_eq!(letter(&c, "v7"), "s\n\na\n># b\n\nBased on v7.\n");
        let c = Cover {
            subject: "s".into(),
            body: "a\n\nTo: x@y\nCc: z@y".into(),
        };
        assert_eq!(
            letter(&c, "v7"),
            "s\n\na\n\nBased on v7.\n\nTo: x@y\nCc: z@y\n"
        );
        let c = Cover {
            subject: "s".into(),
            body: "On v7.".into(),
        };
        assert_eq!(letter(&c, "v7"), "s\n\nOn v7.\n");
    }

    #[test]
    fn what_b4_says_is_read() {
        let c = checked("---\n  ● x\n---\nSuccess: 3, Warning: 12, Error: 1\n").unwrap();
        assert_eq!((c.clean, c.warnings, c.errors), (3, 12, 1));
        assert_eq!(checked("nothing"), None);
        assert_eq!(count_addresses("s\n\nTo: a@b\nCc: c@d\nText To: x\n"), 2);
    }
}
