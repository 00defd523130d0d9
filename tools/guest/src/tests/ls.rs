// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin ls`: what is pinned and leased is listed, under every name, to root and to nobody.

use super::env::{lease_is, must_be, Env, EXCLUSIVE, PINNED, SHARED, UNLCK};
use super::tool::{as_nobody, daxpin, on, pids, pin_in, run};
use super::{tests, Test};
use crate::protocol::Request;
use crate::setup::Fs;
use anyhow::{ensure, Context};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        pin_and_lease_are_listed,
        table_has_process_and_command,
        by_every_name_of_the_file,
        by_process,
        odd_name,
        nothing_of_a_file_at_rest,
        nobody_is_told_what_is_unseen,
        watch_follows,
    ]
}

fn pin_and_lease_are_listed(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let json = run(daxpin(env, "ls")?.arg("--json"))?
        .with_status(0, "root sees everything")?
        .json()?;
    ensure!(json["complete"] == true, "not complete: {json}");
    let stat = std::fs::metadata(&file)?;
    let pin = pin_in(&json, &file, PINNED.offset)?;
    ensure!(pin["file"]["inode"] == stat.ino(), "another inode: {pin}");
    ensure!(
        pin["bytes"] == PINNED.length && pin["mode"] == "rw",
        "{pin}"
    );
    ensure!(
        pids(&pin["processes"]) == [u64::from(client.pid())],
        "{pin}"
    );
    let owner = pin["owner"]["path"].as_str().unwrap_or_default();
    ensure!(owner.starts_with("/dev/infiniband/uverbs"), "{pin}");
    let leases = json["leases"].as_array().context("leases")?;
    let lease = leases
        .iter()
        .find(|lease| lease["file"]["inode"] == stat.ino())
        .with_context(|| format!("no lease: {json}"))?;
    ensure!(
        lease["state"] == "exclusive" && lease["kind"] == "shared",
        "{lease}"
    );
    ensure!(lease["process"]["pid"] == client.pid(), "{lease}");
    ensure!(lease["file"]["path"] == *file.to_string_lossy(), "{lease}");
    client.dereg("pin")?;
    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    let json = on(env, "ls", &["--json"], &file)?.json()?;
    let empty = serde_json::json!([]);
    ensure!(
        json["pins"] == empty && json["leases"] == empty,
        "left: {json}"
    );
    Ok(())
}

fn table_has_process_and_command(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let said = on(env, "ls", &[], &file)?.with_status(0, "a table")?;
    let row = said
        .out
        .lines()
        .find(|line| line.starts_with("pin "))
        .with_context(|| format!("no pin in: {}", said.out))?;
    let range = format!("{}-{}", PINNED.offset, PINNED.offset + PINNED.length - 1);
    let pid = client.pid().to_string();
    for word in [&range, "64 KiB", "rw", "uverbs", &pid, "python3"] {
        ensure!(row.contains(word), "no {word} in: {row}");
    }
    Ok(())
}

fn by_every_name_of_the_file(env: &Env) -> anyhow::Result<()> {
    let (file, link, renamed) = (env.file()?, env.path(), env.path());
    let directory = env.path();
    std::fs::create_dir(&directory)?;
    std::fs::hard_link(&file, &link)?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let root = env.mounted().root.clone();
    rustix::mount::mount_bind(&root, &directory)?;
    let bound = directory.join(file.file_name().context("a name")?);
    let mut names = vec![file.clone(), link, bound];
    let seen = names.iter().map(|name| {
        let json = on(env, "ls", &["--json"], name)?.json()?;
        pin_in(&json, &file, PINNED.offset).map(drop)
    });
    let seen: anyhow::Result<()> = seen.collect();
    rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::empty())?;
    seen?;
    std::fs::rename(&file, &renamed)?;
    names = vec![renamed.clone()];
    let json = on(env, "ls", &["--json"], &names[0])?.json()?;
    pin_in(&json, &renamed, PINNED.offset)?;
    let other = env.file()?;
    let json = on(env, "ls", &["--json"], &other)?.json()?;
    ensure!(
        json["pins"] == serde_json::json!([]),
        "another file: {json}"
    );
    Ok(())
}

fn by_process(env: &Env) -> anyhow::Result<()> {
    let (file, other) = env.pair()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let mut second = env.verbs()?;
    second.pin(&other)?;
    let pid = client.pid().to_string();
    let json = run(daxpin(env, "ls")?.args(["--json", &pid]))?
        .with_status(0, "a process of one's own")?
        .json()?;
    pin_in(&json, &file, PINNED.offset)?;
    ensure!(json["pins"].as_array().map(Vec::len) == Some(1), "{json}");
    ensure!(json["leases"].as_array().map(Vec::len) == Some(1), "{json}");
    Ok(())
}

/// Space, newline, backslash and what is not UTF-8.
fn odd_name(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let mut name = file.clone().into_os_string().into_vec();
    name.extend_from_slice(b" \n\\\xff\x1b[2J");
    let odd = PathBuf::from(std::ffi::OsString::from_vec(name.clone()));
    std::fs::rename(&file, &odd)?;
    let said = on(env, "ls", &["--json"], &odd)?.with_status(0, "an odd name")?;
    let json = said.json()?;
    let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    let pins = json["pins"].as_array().context("pins")?;
    ensure!(
        pins.len() == 1 && pins[0]["file"]["path_hex"] == *hex,
        "{json}"
    );
    let said = on(env, "ls", &[], &odd)?.saying(&["\\012\\134\\377\\033[2J"])?;
    ensure!(
        !said.out.contains('\u{1b}'),
        "an escape sequence gets through"
    );
    Ok(())
}

fn nothing_of_a_file_at_rest(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    on(env, "ls", &[], &file)?
        .with_status(0, "nothing there")?
        .saying(&["no pins, no layout leases"])?;
    let said = on(env, "ls", &[], &env.path())?.with_status(2, "no such file")?;
    ensure!(said.err.contains("No such file"), "{}", said.err);
    Ok(())
}

/// The lease is listed for everybody; the pins of root's process are not, and that is said.
fn nobody_is_told_what_is_unseen(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let said = as_nobody(env, "ls", &["--json"])?.with_status(3, "nobody")?;
    let json = said.json()?;
    ensure!(json["complete"] == false, "{json}");
    ensure!(json["unseen"]["processes"].as_u64() > Some(0), "{json}");
    ensure!(json["pins"] == serde_json::json!([]), "{json}");
    let inode = std::fs::metadata(&file)?.ino();
    let leases = json["leases"].as_array().context("leases")?;
    let seen = leases
        .iter()
        .any(|lease| lease["file"]["inode"] == inode && lease["process"]["pid"] == client.pid());
    ensure!(seen, "the lease is not listed: {json}");
    let said = as_nobody(env, "ls", &[] as &[&str])?;
    ensure!(said.err.contains("not seen"), "{}", said.err);
    Ok(())
}

fn watch_follows(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    let mut child = daxpin(env, "ls")?
        .args(["--watch=0.2", "--json"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let mut leases = || -> anyhow::Result<usize> {
        let line = lines.next().context("it ended")??;
        let json: serde_json::Value = serde_json::from_str(&line)?;
        Ok(json["leases"].as_array().map_or(0, Vec::len))
    };
    let before = leases()?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let followed = (0..20).any(|_| leases().is_ok_and(|count| count == 1));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let status = child.wait()?;
    ensure!(before == 0 && followed, "the lease never showed");
    ensure!(
        status.code() == Some(0),
        "interrupted, it ends with {status}"
    );
    let reply = holder.ask(Request::Close {
        name: "file".to_owned(),
    })?;
    must_be(&reply, 0, "close")
}
