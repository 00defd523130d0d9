// SPDX-License-Identifier: MIT OR Apache-2.0
//! `setup`: installs what is missing.

use crate::env::archive::{self, Archive, Missing};
use crate::env::check::{self, Fix, State};
use crate::env::{tools, Ctx};
use crate::error::{Failure, Kind};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// Install what is missing: Debian packages into the system, everything else into the cache
#[derive(Args)]
#[command(after_help = "Example:\n  cargo xtask setup\n  cargo xtask setup --dry-run")]
pub struct Opts {}

/// Installs and says what is there now.
pub fn run(ctx: &Ctx, _: &Opts) -> Result<()> {
    ctx.logs("setup")?;
    if ensure(ctx)? {
        ctx.ui.note("nothing to do: everything is installed");
    }
    Ok(())
}

/// Installs what is missing; was there nothing to do?
pub fn ensure(ctx: &Ctx) -> Result<bool> {
    if plan(ctx)?.is_empty() {
        return Ok(true);
    }
    ensure_during(ctx, || Ok(()))?;
    Ok(false)
}

/// Installs what is missing, and does `work` while bindgen is compiled, which takes longest and
/// which the work must not need; everything else is there before.
pub fn ensure_during<T>(ctx: &Ctx, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if plan(ctx)?.is_empty() {
        return work();
    }
    let _lock = (!ctx.global.dry_run)
        .then(|| ctx.cache.lock("setup", &ctx.ui))
        .transpose()?;
    if !ctx.global.dry_run {
        ctx.cache.sweep();
    }
    let mut with_bindgen = false;
    for fix in plan(ctx)? {
        match fix {
            Fix::Packages(list) => packages(ctx, &list)?,
            Fix::Venv => venv(ctx)?,
            Fix::Bindgen => with_bindgen = true,
            Fix::RustSrc => rust_src(ctx)?,
            Fix::User | Fix::Later => {}
        }
    }
    let done = if with_bindgen {
        bindgen(ctx, work)?
    } else {
        work()?
    };
    if !ctx.global.dry_run {
        let left: Vec<_> = check::all(ctx)?
            .into_iter()
            .filter(check::Check::blocks)
            .collect();
        if !left.is_empty() {
            bail!("still missing: {}", describe(&left));
        }
    }
    Ok(done)
}

/// What there is to do. What only the user can repair is an error, all of it at once; packages
/// come first, for the rest is made with them.
fn plan(ctx: &Ctx) -> Result<Vec<Fix>> {
    let checks = check::all(ctx)?;
    let fix = |c: &check::Check| match &c.state {
        State::Missing(_, _, fix) if c.blocks() => Some(fix.clone()),
        _ => None,
    };
    let hopeless: Vec<_> = checks
        .iter()
        .filter(|c| fix(c) == Some(Fix::User))
        .cloned()
        .collect();
    if !hopeless.is_empty() {
        return Err(Failure::of(Kind::Setup, describe(&hopeless)));
    }
    Ok(checks
        .iter()
        .filter_map(fix)
        .filter(|f| *f != Fix::User)
        .collect())
}

fn describe(checks: &[check::Check]) -> String {
    let each = checks.iter().filter_map(|c| match &c.state {
        State::Missing(what, remedy, _) => Some(format!("{}: {what}\n  remedy: {remedy}", c.name)),
        _ => None,
    });
    each.collect::<Vec<_>>().join("\n")
}

fn log_file(name: &str, ctx: &Ctx) -> Result<PathBuf> {
    let dir = ctx.root.join("out/setup");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    crate::error::set_log_dir(dir.clone());
    Ok(dir.join(name))
}

/// Runs a long command under a progress step; its output goes to the log as well.
fn long(ctx: &Ctx, label: &str, log: &str, cmd: &Cmd) -> Result<()> {
    if ctx.global.dry_run {
        println!("{cmd}");
        return Ok(());
    }
    let log = log_file(log, ctx)?;
    let mut step = ctx.ui.step(label);
    let mut text = format!("{cmd}\n");
    let status = cmd.lines(|l| {
        text.push_str(l);
        text.push('\n');
        step.line(l);
    });
    fs::write(&log, &text).with_context(|| format!("cannot write {}", log.display()))?;
    if !status?.success() {
        bail!("{label} failed\n`{cmd}`:\n{}", last_lines(&text, 8));
    }
    step.done("");
    Ok(())
}

fn packages(ctx: &Ctx, list: &[&str]) -> Result<()> {
    if !ctx.global.dry_run && !rustix::process::geteuid().is_root() {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "installing packages needs root; run `cargo xtask setup` as root, or\n  \
                 sudo apt-get install --no-install-recommends {}",
                list.join(" ")
            ),
        ));
    }
    let apt = |args: &[&str]| {
        Cmd::new("apt-get")
            .args([
                "-q",
                "-o",
                "Acquire::Retries=3",
                "-o",
                "DPkg::Lock::Timeout=120",
            ])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .patiently()
    };
    long(
        ctx,
        "reading the package index",
        "apt-update.log",
        &apt(&["update"]),
    )?;
    let install = apt(&["install", "-y", "--no-install-recommends"]).args(list);
    let label = format!("installing {} packages", list.len());
    long(ctx, &label, "apt-install.log", &install)
}

fn venv(ctx: &Ctx) -> Result<()> {
    let version = &ctx.base.tools.virtme_ng;
    python_env(
        ctx,
        &ctx.cache.venv(),
        &tools::venv_stamp(ctx),
        &[format!("virtme-ng=={version}")],
    )
}

/// Makes the Python environment that submitting takes, which nothing else needs.
pub fn submission_tools(ctx: &Ctx) -> Result<()> {
    let stamp = tools::submission_stamp(ctx);
    if stamp.exists() {
        return Ok(());
    }
    let _lock = (!ctx.global.dry_run)
        .then(|| ctx.cache.lock("setup", &ctx.ui))
        .transpose()?;
    if stamp.exists() {
        return Ok(());
    }
    let pins = &ctx.base.tools;
    let packages = [
        format!("b4=={}", pins.b4),
        format!("ply=={}", pins.ply),
        format!("GitPython=={}", pins.gitpython),
    ];
    python_env(ctx, &ctx.cache.submission_venv(), &stamp, &packages)
}

/// A Python environment with these packages; the stamp says when it is whole.
fn python_env(ctx: &Ctx, dir: &Path, stamp: &Path, packages: &[String]) -> Result<()> {
    let python = match tools::python() {
        Some(p) => p,
        None if ctx.global.dry_run => "python3".into(),
        None => bail!("no python3 (3.9 or later) with the venv module; install python3-venv"),
    };
    if !ctx.global.dry_run {
        ctx.cache.create()?;
        if dir.exists() {
            // At once: a part of it could have the stamp of another version.
            let old = ctx.cache.temp_dir()?;
            fs::rename(dir, old.path().join("old"))
                .with_context(|| format!("cannot remove the unfinished {}", dir.display()))?;
        }
    }
    // Scripts in it name its path, so it is made in place.
    let make = Cmd::new(python).args(["-m", "venv"]).arg(dir);
    long(ctx, "making a Python environment", "venv.log", &make)?;
    let install = Cmd::new(dir.join("bin/pip"))
        .args([
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--timeout",
            "20",
        ])
        .args(packages);
    let what = packages.join(", ").replace("==", " ");
    long(ctx, &format!("installing {what}"), "pip.log", &install)?;
    if ctx.global.dry_run {
        return Ok(());
    }
    fs::write(stamp, "").context("cannot finish the Python environment")
}

fn bindgen<T>(ctx: &Ctx, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let version = &ctx.base.tools.bindgen_cli;
    let place = ctx.cache.bindgen(version);
    let tmp = (!ctx.global.dry_run)
        .then(|| ctx.cache.temp_dir())
        .transpose()?;
    let root = tmp.as_ref().map_or(place.as_path(), |t| t.path());
    let install = Cmd::new("cargo")
        .args(["install", "--locked", "--quiet", "--no-track", "--root"])
        .arg(root)
        .args(["--version", version, "bindgen-cli"]);
    let label = format!("installing bindgen {version}");
    if ctx.global.dry_run {
        println!("{install}");
        return work();
    }
    let log = log_file("bindgen.log", ctx)?;
    ctx.ui.note(&format!("{label} in the background"));
    let (installed, done) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| install.collected());
        let done = work();
        let step = ctx.ui.step(&label);
        let installed = thread.join();
        step.done("");
        (installed, done)
    });
    let (status, text) =
        installed.map_err(|_| anyhow::anyhow!("the thread for bindgen panicked"))?;
    fs::write(&log, format!("{install}\n{text}"))
        .with_context(|| format!("cannot write {}", log.display()))?;
    crate::ui::signals::check()?;
    let done = done?;
    if !status?.success() {
        bail!("{label} failed\n`{install}`:\n{}", last_lines(&text, 8));
    }
    keep(tmp, &place)?;
    Ok(done)
}

/// Renames a finished temporary directory into its place.
fn keep(tmp: Option<tempfile::TempDir>, place: &Path) -> Result<()> {
    let Some(tmp) = tmp else { return Ok(()) };
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let from = tmp.keep();
    fs::rename(&from, place).with_context(|| format!("cannot rename to {}", place.display()))
}

/// The Debian version of rust-src that goes with this rustc.
fn matching_rust_src<'a>(versions: &'a [String], rustc: &str) -> Option<&'a String> {
    versions.iter().find(|v| {
        let v = v.split_once(':').map_or(v.as_str(), |(_, v)| v);
        v.strip_prefix(rustc)
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    })
}

fn rust_src(ctx: &Ctx) -> Result<()> {
    let rustc = tools::rustc_version(ctx)?;
    let package = &ctx.base.debian.rust_src_package;
    let by_hand = "use a toolchain that can have it: `rustup component add rust-src`";
    let archive = Archive::open(ctx).context("cannot get rust-src from Debian's archive")?;
    if ctx.global.dry_run {
        println!("apt-get download {package}   # the version for rustc {rustc}");
        return Ok(());
    }
    let mut versions = archive.versions(package)?;
    versions.sort();
    versions.dedup();
    let Some(version) = matching_rust_src(&versions, &rustc) else {
        bail!(
            "no rust-src for rustc {rustc}: {} has {}\n  remedy: {by_hand}, or make one of these \
             versions the default toolchain",
            ctx.base.debian.suite,
            if versions.is_empty() {
                "none".to_string()
            } else {
                versions.join(", ")
            }
        );
    };
    let file = archive.binary_file(package, version)?;
    let sum = file
        .sha256
        .clone()
        .context("the index has no checksum for rust-src")?;
    let deb = archive::download(ctx, &file, &sum).map_err(|e| match e {
        Missing::NotThere => anyhow::anyhow!("{} is listed and not there; {by_hand}", file.name),
        Missing::Failed(e) => e,
    })?;
    let tmp = ctx.cache.temp_dir()?;
    ctx.exec(&Cmd::new("dpkg-deb").arg("-x").arg(&deb).arg(tmp.path()))?;
    keep(Some(tmp), &ctx.cache.rust_src(&rustc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_src_must_be_of_the_same_release() {
        let v: Vec<String> = ["1.95.1+dfsg1-1", "1.95.0+dfsg1-2~bpo13+1", "1.9.0-1"]
            .map(String::from)
            .to_vec();
        assert_eq!(matching_rust_src(&v, "1.95.0"), Some(&v[1]));
        assert_eq!(matching_rust_src(&v, "1.9"), None);
        assert_eq!(matching_rust_src(&v, "1.96.0"), None);
    }
}
