// SPDX-License-Identifier: MIT OR Apache-2.0
//! `linux/` as a submodule, for those who have upstream's repository at hand.

use super::begin;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::import::BASE_BRANCH;
use crate::kernel::tree::rev;
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The submodule's name and place.
const NAME: &str = "linux";
const FILE: &str = ".gitmodules";
/// Set in this repository's configuration while the submodule is made.
const UNFINISHED: &str = "xtask.submodule-unfinished";

/// Is there a submodule for the kernel?
pub fn configured(ctx: &Ctx) -> bool {
    let get = ["config", "-f", FILE, "--get", "submodule.linux.path"];
    Cmd::git(&ctx.root).args(get).succeeds()
}

/// A repository on this machine: git takes submodules from there only when told to.
fn is_local(url: &str) -> bool {
    url.starts_with("file://") || Path::new(url).is_absolute()
}

/// The commit of a tag among the lines of `git ls-remote`: what an annotated tag points to.
fn tagged(listing: &str, tag: &str) -> Option<String> {
    let named = |name: String| {
        listing.lines().find_map(|l| {
            let (commit, r) = l.split_once('\t')?;
            (r == name).then(|| commit.to_string())
        })
    };
    named(format!("refs/tags/{tag}^{{}}")).or_else(|| named(format!("refs/tags/{tag}")))
}

/// Writes `.gitmodules` and the commit of the pinned tag, and checks it out.
pub fn make(ctx: &Ctx, url: Option<&str>) -> Result<()> {
    let pin = &ctx.base.base;
    let given = url.unwrap_or(&pin.git_url);
    // A relative path would be taken as relative to where this repository comes from.
    let path = Path::new(given);
    let from = if !given.contains(':') && path.exists() {
        std::path::absolute(path)?.display().to_string()
    } else {
        given.to_string()
    };
    let tag = &pin.git_tag;
    let list = Cmd::new("git").args(["ls-remote", "--tags", &from, &format!("{tag}*")]);
    let commit = if ctx.global.dry_run {
        println!("{list}");
        "COMMIT".into()
    } else {
        let listing = list
            .output()
            .with_context(|| format!("asking {from} for {tag}"))?;
        tagged(&listing, tag).ok_or_else(|| {
            Failure::of(
                Kind::Setup,
                format!("{from} has no tag {tag}, which base.toml names"),
            )
        })?
    };
    let root = || Cmd::git(&ctx.root);
    let made = (|| {
        ctx.exec(&root().args(["config", UNFINISHED, "true"]))?;
        for (key, value) in [
            ("path", NAME),
            ("url", pin.git_url.as_str()),
            ("shallow", "true"),
        ] {
            let key = format!("submodule.{NAME}.{key}");
            ctx.exec(&root().args(["config", "-f", FILE, &key, value]))?;
        }
        let link = format!("160000,{commit},{NAME}");
        ctx.exec(&root().args(["update-index", "--add", "--cacheinfo", &link]))?;
        check_out(ctx, Some(&from))
    })();
    if let Err(e) = made {
        undo(ctx);
        return Err(e);
    }
    ctx.exec(&root().args(["add", FILE]))?;
    ctx.exec(&root().args(["config", "--unset", UNFINISHED]))?;
    if !ctx.global.dry_run {
        println!("{NAME}/ is a submodule at {tag}, {commit}");
        println!("to keep it: git commit -m 'linux: add {tag} as a submodule'");
    }
    Ok(())
}

/// Takes back what a run that was killed has left of a submodule.
pub fn undo_unfinished(ctx: &Ctx) {
    let unfinished = Cmd::git(&ctx.root).args(["config", "--get", UNFINISHED]);
    if !ctx.global.dry_run && unfinished.succeeds() {
        ctx.ui
            .note("removing a submodule that an earlier run did not finish");
        undo(ctx);
    }
}

/// Takes back what `make` did, so that it can be tried again. Not all of it is always there.
fn undo(ctx: &Ctx) {
    let section = format!("submodule.{NAME}");
    for args in [
        ["submodule", "deinit", "-q", "-f", NAME].as_slice(),
        &["update-index", "--force-remove", NAME],
        &["config", "-f", FILE, "--remove-section", &section],
    ] {
        // After an interrupt as well.
        let _ = Cmd::git(&ctx.root).args(args).to_the_end();
    }
    let empty = fs::read_to_string(ctx.root.join(FILE)).is_ok_and(|t| t.trim().is_empty());
    if empty {
        let _ = fs::remove_file(ctx.root.join(FILE));
    }
    let place = ["rev-parse", "--git-path", "modules/linux"];
    if let Ok(dir) = Cmd::git(&ctx.root).args(place).to_the_end() {
        let _ = fs::remove_dir_all(ctx.root.join(dir));
    }
    let _ = fs::remove_dir(ctx.root.join(NAME));
    let unset = ["config", "--unset", UNFINISHED];
    let _ = Cmd::git(&ctx.root).args(unset).to_the_end();
}

/// Checks the submodule out and compares it with what base.toml pins.
pub fn check_out(ctx: &Ctx, url: Option<&str>) -> Result<()> {
    let step = (!ctx.global.dry_run).then(|| ctx.ui.step("checking out the submodule linux/"));
    let mut git = Cmd::git(&ctx.root);
    if let Some(url) = url {
        git = git.arg("-c").arg(format!("submodule.{NAME}.url={url}"));
        if is_local(url) {
            git = git.args(["-c", "protocol.file.allow=always"]);
        }
    }
    ctx.exec(&git.args(["submodule", "update", "--init", "--depth", "1", NAME]))?;
    if ctx.global.dry_run {
        return Ok(());
    }
    let dir = ctx.root.join(NAME);
    begin(ctx, &dir)?;
    same_source(ctx, &dir)?;
    if let Some(step) = step {
        step.done("");
    }
    Ok(())
}

/// The tag's source must be that of the tarball whose checksum base.toml has, where that is there.
fn same_source(ctx: &Ctx, dir: &Path) -> Result<()> {
    let cached = ctx.cache.base_git(&ctx.base.base.version);
    let patched = !crate::kernel::import::debian_patched(&cached, &cached, BASE_BRANCH).is_empty();
    if patched || rev(&cached, BASE_BRANCH).is_none() {
        ctx.ui
            .note("the version is that of base.toml; there is no tarball to compare with");
        return Ok(());
    }
    let tree = |dir: &Path| {
        let of = format!("{BASE_BRANCH}^{{tree}}");
        Cmd::git(dir).args(["rev-parse", &of]).output()
    };
    if tree(dir)? == tree(&cached)? {
        ctx.ui
            .note("the same source, file by file, as the tarball that base.toml pins");
        return Ok(());
    }
    Err(Failure::of(
        Kind::Setup,
        format!(
            "the source of {} is not that of the tarball that base.toml pins",
            ctx.base.base.git_tag
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotated_tag_is_followed_to_its_commit() {
        let l = "aaa\trefs/tags/v7.3.4\nbbb\trefs/tags/v7.3.4^{}\nccc\trefs/tags/v7.3.40\n";
        assert_eq!(tagged(l, "v7.3.4").as_deref(), Some("bbb"));
        assert_eq!(tagged(l, "v7.3.40").as_deref(), Some("ccc"));
        assert_eq!(tagged(l, "v7.3"), None);
    }

    #[test]
    fn local_repositories_are_known() {
        assert!(is_local("/srv/linux.git") && is_local("file:///srv/linux.git"));
        assert!(!is_local("https://git.example/linux.git") && !is_local("git@host:linux"));
    }
}
