// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin lease`: programs that know nothing of leases become their holders.

use super::env::{must_be, Env, Skip};
use super::{tests, Test};
use crate::protocol::Call;
use crate::setup::Fs;
use anyhow::{bail, ensure, Context};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        command_is_the_holder,
        lease_ends_with_the_command,
        sole_lease_in_the_way,
        file_without_dax,
        command_not_found,
    ]
}

fn launcher(env: &Env) -> anyhow::Result<Command> {
    if !env.daxpin.is_file() {
        return Err(Skip(format!("no launcher at {}", env.daxpin.display())).into());
    }
    let mut command = Command::new(&env.daxpin);
    command.arg("lease");
    Ok(command)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn shrink(path: &Path) -> Call {
    Call::Truncate {
        path: path.to_owned(),
        size: 4096,
    }
}

/// Another process is refused while the command runs; the command itself is not.
fn command_is_the_holder(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut child = launcher(env)?
        .arg("--exclusive")
        .arg(&file)
        .args(["--", "/bin/sh", "-c"])
        .arg("echo begun; read go; exec truncate -s 8192 \"$0\"")
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
    let refused = env.worker()?.call(&shrink(&file));
    drop(child.stdin.take());
    let status = child.wait()?;
    must_be(
        &refused?,
        libc::ETXTBSY,
        "another process while the command runs",
    )?;
    ensure!(line == "begun\n", "the command says {line:?}");
    ensure!(status.success(), "the command's own truncate: {status}");
    let size = std::fs::metadata(&file)?.len();
    ensure!(size == 8192, "the file has {size} bytes");
    Ok(())
}

fn lease_ends_with_the_command(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let output = launcher(env)?
        .args(["--sole", "--exclusive"])
        .arg(&file)
        .args(["--", "/bin/sh", "-c", "exit 42"])
        .output()?;
    ensure!(
        output.status.code() == Some(42),
        "{}: {}",
        output.status,
        text(&output)
    );
    must_be(&env.worker()?.call(&shrink(&file))?, 0, "after the command")
}

fn refused(env: &Env, file: &Path, words: &str) -> anyhow::Result<()> {
    let output = launcher(env)?
        .arg("--exclusive")
        .arg(file)
        .args(["--", "/bin/echo", "started"])
        .output()?;
    let text = text(&output);
    if output.status.code() != Some(125) || text.contains("started") {
        bail!("{}: {text}", output.status);
    }
    ensure!(text.contains(words), "the message is {text:?}");
    Ok(())
}

fn sole_lease_in_the_way(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    let sole = super::env::SOLE;
    super::env::lease_is(&mut holder, "file", sole, 0, "a sole lease")?;
    refused(env, &file, "EAGAIN")
}

fn file_without_dax(env: &Env) -> anyhow::Result<()> {
    let path = Path::new("/dev/shm/no-dax-here");
    std::fs::write(path, "text")?;
    refused(env, path, "not a DAX file")
}

fn command_not_found(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let output = launcher(env)?
        .arg(&file)
        .args(["--", "/no/such/command"])
        .output()?;
    ensure!(
        output.status.code() == Some(127),
        "{}: {}",
        output.status,
        text(&output)
    );
    Ok(())
}
