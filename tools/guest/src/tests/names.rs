// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of a file: they come and go whoever holds its layout, and whoever comes by another one meets the
//! same lease and the same pin.

use super::env::{must_be, op_is, Env, EXCLUSIVE, PINNED};
use super::held::Held;
use super::Test;
use crate::ops::Op;
use crate::pins::count;
use crate::setup::{run, Fs};
use crate::trial::{Expect, AT_ONCE};
use anyhow::{anyhow, ensure, Context};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

pub fn tests(_: Fs) -> Vec<Test> {
    let mut list = Vec::new();
    let mut row = |name: &str, expects: &str, check: fn(&Env, Held) -> anyhow::Result<()>| {
        for held in Held::ALL {
            let name = format!("{}.{name}", held.slug());
            list.push(Test::cell(name, expects, move |env| check(env, held)));
        }
    };
    row("rename", "success", rename);
    row("rename_over", "success", rename_over);
    row("unlink", "success", unlink);
    row("via_hard_link", "ETXTBSY", via_hard_link);
    row("via_bind_mount", "ETXTBSY", via_bind_mount);
    list
}

fn at_once(what: &str, call: impl FnOnce() -> std::io::Result<()>) -> anyhow::Result<()> {
    let begun = Instant::now();
    call().with_context(|| what.to_owned())?;
    let time = begun.elapsed();
    ensure!(time < AT_ONCE, "{what} took {time:?}");
    Ok(())
}

/// Truncation and a hole are refused by this name.
fn refused_at(env: &Env, path: &Path, what: &str) -> anyhow::Result<()> {
    let files = (path.to_owned(), env.file()?);
    let mut other = env.stranger()?;
    for op in [Op::Truncate, Op::Punch] {
        op_is(&mut other, op, &files, PINNED, REFUSED, what)?;
    }
    Ok(())
}

fn allowed_at(env: &Env, path: &Path, what: &str) -> anyhow::Result<()> {
    let files = (path.to_owned(), env.file()?);
    let expect = Expect::Succeeds;
    op_is(
        &mut *env.stranger()?,
        Op::Punch,
        &files,
        PINNED,
        expect,
        what,
    )
}

/// Blocks of the filesystem that are free, once it has dealt with what was deleted.
fn free_blocks(path: &Path) -> anyhow::Result<u64> {
    let root = std::fs::File::open(path.parent().context("a parent")?)?;
    rustix::fs::syncfs(&root)?;
    Ok(rustix::fs::fstatvfs(&root)?.f_bfree)
}

fn rename(env: &Env, held: Held) -> anyhow::Result<()> {
    let (old, new) = (env.file()?, env.path());
    let mut holder = held.hold(env, &old)?;
    at_once("rename", || std::fs::rename(&old, &new))?;
    held.listed(&holder, &new)?;
    refused_at(env, &new, "by its new name")?;
    held.let_go(&mut holder)?;
    allowed_at(env, &new, "by its new name, when nobody holds it")
}

/// What loses its last name: the blocks live until nobody holds the file.
fn is_freed_at_last(
    env: &Env,
    held: Held,
    path: &Path,
    remove: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut holder = held.hold(env, path)?;
    let before = free_blocks(path)?;
    at_once("losing the last name", remove)?;
    let mut deleted = path.as_os_str().to_owned();
    deleted.push(" (deleted)");
    held.listed(&holder, deleted.as_ref())?;
    let blocks = super::env::SIZE / 4096;
    let freed = free_blocks(path)?.saturating_sub(before);
    ensure!(freed < blocks, "{freed} blocks are free, yet held");
    held.let_go(&mut holder)?;
    if held == Held::Pinned {
        let pins = count(holder.pid(), deleted.as_ref()).map_err(|error| anyhow!(error))?;
        ensure!(pins == 0, "still listed");
    }
    let deadline = Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let freed = free_blocks(path)?.saturating_sub(before);
        if freed >= blocks {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {freed} blocks were freed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn unlink(env: &Env, held: Held) -> anyhow::Result<()> {
    let path = env.file()?;
    is_freed_at_last(env, held, &path, || std::fs::remove_file(&path))
}

fn rename_over(env: &Env, held: Held) -> anyhow::Result<()> {
    let (path, new) = (env.file()?, env.file()?);
    is_freed_at_last(env, held, &path, || std::fs::rename(&new, &path))?;
    allowed_at(env, &path, "the file that has the name now")
}

fn via_hard_link(env: &Env, held: Held) -> anyhow::Result<()> {
    let (path, link) = (env.file()?, env.path());
    let mut holder = held.hold(env, &path)?;
    at_once("link", || std::fs::hard_link(&path, &link))?;
    refused_at(env, &link, "by the link")?;
    std::fs::remove_file(&path)?;
    refused_at(env, &link, "by the link alone")?;
    held.let_go(&mut holder)?;
    allowed_at(env, &link, "by the link, when nobody holds it")
}

/// Another mount of the same directory, taken away again on drop.
struct Bind(PathBuf);

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.0));
    }
}

fn via_bind_mount(env: &Env, held: Held) -> anyhow::Result<()> {
    let path = env.file()?;
    let root = path.parent().context("a parent")?;
    let mut holder = held.hold(env, &path)?;
    let bind = Bind(PathBuf::from(format!("/tmp/bind-{}", env.fs.name())));
    std::fs::create_dir_all(&bind.0)?;
    run(Command::new("mount").arg("--bind").args([root, &bind.0]))?;
    let other_name = bind.0.join(path.file_name().context("a name")?);
    refused_at(env, &other_name, "through another mount")?;
    if held == Held::Leased {
        let mut second = env.worker()?;
        second.open("file", &other_name)?;
        let sole = super::env::SOLE | EXCLUSIVE;
        let reply = second.set_lease("file", sole)?;
        must_be(&reply, libc::EAGAIN, "a sole lease through another mount")?;
    }
    held.let_go(&mut holder)?;
    allowed_at(env, &other_name, "through another mount, held by nobody")
}
