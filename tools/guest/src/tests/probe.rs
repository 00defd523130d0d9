// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin probe`: yes where a lease is granted, and otherwise why not.

use super::env::{lease_is, Env, EXCLUSIVE, SOLE};
use super::tool::{as_nobody, daxpin, on, run, NOBODY};
use super::{tests, Test};
use crate::setup::{self, Fs};
use anyhow::{ensure, Context};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut tests = tests![
        mountpoint_and_file,
        everywhere,
        leased_by_another,
        plain_lease_is_not_broken,
        filesystem_that_takes_no_part,
        device_without_dax,
        mounted_without_dax,
        leases_switched_off,
        file_of_another_user,
    ];
    tests.extend(match fs {
        Fs::Xfs => tests![shared_blocks],
        Fs::Ext4 => tests![journalled_data],
    });
    tests
}

fn mountpoint_and_file(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let root = env.mounted().root.clone();
    let entries = || -> anyhow::Result<usize> { Ok(std::fs::read_dir(&root)?.count()) };
    let before = entries()?;
    for place in [&root, &file] {
        on(env, "probe", &[], place)?
            .with_status(0, "a DAX mount")?
            .saying(&["supported", "rxe0"])?;
    }
    ensure!(entries()? == before, "it left a file");
    let json = on(env, "probe", &["--json"], &root)?.json()?;
    ensure!(json["tried"][0]["supported"] == true, "{json}");
    ensure!(json["tried"][0]["filesystem"] == env.fs.name(), "{json}");
    on(env, "probe", &[], &env.path())?.with_status(2, "no such file")?;
    Ok(())
}

fn everywhere(env: &Env) -> anyhow::Result<()> {
    let root = env.mounted().root.clone();
    let json = run(daxpin(env, "probe")?.arg("--json"))?
        .with_status(0, "one of the mounts")?
        .json()?;
    let tried = json["tried"].as_array().context("tried")?;
    let found = tried
        .iter()
        .any(|one| one["path"] == *root.to_string_lossy() && one["supported"] == true);
    ensure!(found, "{json}");
    Ok(())
}

fn leased_by_another(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    lease_is(&mut holder, "file", SOLE | EXCLUSIVE, 0, "the sole lease")?;
    on(env, "probe", &[], &file)?
        .with_status(0, "leased, so it can be")?
        .saying(&[&holder.pid().to_string()])?;
    // Still there: a probe breaks nothing.
    super::env::getlease_is(&mut holder, "file", SOLE | EXCLUSIVE, "after the probe")
}

/// A plain lease would be broken by opening the file.
fn plain_lease_is_not_broken(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open_as("file", &file, libc::O_RDONLY)?;
    lease_is(&mut holder, "file", libc::F_RDLCK, 0, "a plain lease")?;
    on(env, "probe", &[], &file)?
        .with_status(3, "not tried")?
        .saying(&["lease on its data"])?;
    super::env::getlease_is(&mut holder, "file", libc::F_RDLCK, "after the probe")
}

fn filesystem_that_takes_no_part(env: &Env) -> anyhow::Result<()> {
    for place in ["/dev/shm", "/proc", "/dev/null"] {
        let said = on(env, "probe", &[], Path::new(place))?.with_status(1, place)?;
        ensure!(said.out.contains("no: "), "{}", said.out);
    }
    on(env, "probe", &[], Path::new("/dev/shm"))?.saying(&["tmpfs", "only ext4 and XFS"])?;
    Ok(())
}

fn device_without_dax(env: &Env) -> anyhow::Result<()> {
    let image = Path::new("/dev/shm/probe.img");
    let root = Path::new("/tmp/probe-loop");
    std::fs::create_dir_all(root)?;
    std::fs::File::create(image)?.set_len(512 << 20)?;
    let mut mkfs = match env.fs {
        Fs::Xfs => Command::new("mkfs.xfs"),
        Fs::Ext4 => Command::new("mkfs.ext4"),
    };
    setup::run(mkfs.arg("-q").arg(image))?;
    setup::run(
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(root),
    )?;
    let said = on(env, "probe", &[], root);
    setup::run(Command::new("umount").arg(root))?;
    std::fs::remove_file(image)?;
    said?
        .with_status(1, "a loop device")?
        .saying(&["cannot do DAX", "ndctl"])?;
    Ok(())
}

fn mounted_without_dax(env: &Env) -> anyhow::Result<()> {
    let mut mounted = env.mounted();
    let (root, device) = (mounted.root.clone(), mounted.fs.device());
    mounted.unmount()?;
    let mut said = Vec::new();
    for option in ["dax=never", "rw"] {
        setup::run(
            Command::new("mount")
                .args(["-o", option])
                .arg(device)
                .arg(&root),
        )?;
        said.push(on(env, "probe", &[], &root));
        setup::run(Command::new("umount").arg(&root))?;
    }
    mounted.mount()?;
    for (said, words) in said.into_iter().zip(["dax=never", "without dax=always"]) {
        said?.with_status(1, words)?.saying(&[words])?;
    }
    Ok(())
}

fn leases_switched_off(env: &Env) -> anyhow::Result<()> {
    let switch = "/proc/sys/fs/leases-enable";
    let root = env.mounted().root.clone();
    std::fs::write(switch, "0")?;
    let said = on(env, "probe", &[], &root);
    std::fs::write(switch, "1")?;
    said?
        .with_status(1, "no leases at all")?
        .saying(&["fs.leases-enable = 0", "sysctl fs.leases-enable=1"])?;
    on(env, "probe", &[], &root)?.with_status(0, "switched on again")?;
    Ok(())
}

fn file_of_another_user(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666))?;
    as_nobody(env, "probe", &[&file])?
        .with_status(3, "root's file")?
        .saying(&["owned by user 0"])?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))?;
    as_nobody(env, "probe", &[&file])?
        .with_status(3, "a file it may not open")?
        .saying(&["may not open"])?;
    std::os::unix::fs::chown(&file, Some(NOBODY), None)?;
    as_nobody(env, "probe", &[&file])?.with_status(0, "its own file")?;
    Ok(())
}

fn shared_blocks(env: &Env) -> anyhow::Result<()> {
    let (file, clone) = (env.file()?, env.path());
    setup::run(
        Command::new("cp")
            .arg("--reflink=always")
            .arg(&file)
            .arg(&clone),
    )?;
    on(env, "probe", &[], &clone)?
        .with_status(1, "a reflinked file")?
        .saying(&["reflink", "cp --reflink=never"])?;
    Ok(())
}

/// Without delayed allocation ext4 heeds the flag, which files inherit from their directory.
fn journalled_data(env: &Env) -> anyhow::Result<()> {
    let directory = env.path();
    let mut mounted = env.mounted();
    let (root, device) = (mounted.root.clone(), mounted.fs.device());
    mounted.unmount()?;
    setup::run(
        Command::new("mount")
            .args(["-o", "dax=always,nodelalloc"])
            .arg(device)
            .arg(&root),
    )?;
    std::fs::create_dir(&directory)?;
    let flagged = setup::run(Command::new("chattr").arg("+j").arg(&directory));
    let file = directory.join("file");
    std::fs::write(&file, "text")?;
    let said = [&root, &directory, &file].map(|place| on(env, "probe", &[], place));
    setup::run(Command::new("umount").arg(&root))?;
    mounted.mount()?;
    flagged?;
    let [elsewhere, directory, file] = said;
    elsewhere?.with_status(0, "where the flag is not set")?;
    for said in [directory, file] {
        said?
            .with_status(1, "journalled data")?
            .saying(&["journals its data", "chattr -j"])?;
    }
    Ok(())
}
