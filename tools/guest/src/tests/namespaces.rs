// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/file_pins` for readers elsewhere: other users, roots, mount and pid namespaces.

use super::env::{must_be, Env, EXCLUSIVE, SHARED, SIZE};
use super::listing::{leased, pin_of};
use super::{tests, Test};
use crate::client::Client;
use crate::protocol::Request;
use crate::setup::Fs;
use crate::system::{parse, read_by, Listing, FILE_PINS};
use anyhow::{ensure, Context};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        only_for_root,
        root_without_the_capability,
        root_of_a_user_namespace,
        owner_that_may_not_be_traced,
        holder_in_a_pid_namespace,
        reader_in_a_pid_namespace,
        mount_of_another_namespace,
        reader_in_another_root,
    ]
}

/// What `cat` says of the listing when started so.
fn cat(starter: &[&str]) -> anyhow::Result<(bool, Vec<u8>, String)> {
    let (program, arguments) = starter.split_first().context("a program")?;
    let output = Command::new(program)
        .args(arguments)
        .args(["cat", FILE_PINS])
        .output()
        .with_context(|| format!("run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), output.stdout, errors))
}

fn refused(starter: &[&str], why: &str) -> anyhow::Result<()> {
    let (success, text, errors) = cat(starter)?;
    ensure!(
        !success && text.is_empty() && errors.contains(why),
        "{starter:?}: {errors:?}, not {why:?}"
    );
    Ok(())
}

fn only_for_root(env: &Env) -> anyhow::Result<()> {
    let _held = leased(env, SHARED | EXCLUSIVE)?;
    let metadata = std::fs::metadata(FILE_PINS)?;
    let mode = metadata.permissions().mode() & 0o7777;
    ensure!(mode == 0o400, "mode {mode:o}");
    ensure!((metadata.uid(), metadata.gid()) == (0, 0), "not root's");
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    refused(&nobody, "Permission denied")?;
    let (success, text, errors) = cat(&["setpriv", "--nnp"])?;
    ensure!(success, "root: {errors}");
    ensure!(!parse(&text)?.leases.is_empty(), "root sees nothing");
    Ok(())
}

/// Whoever may not trace others is not told of their files, whatever the mode says.
fn root_without_the_capability(_: &Env) -> anyhow::Result<()> {
    refused(
        &[
            "setpriv",
            "--bounding-set=-sys_ptrace",
            "--inh-caps=-sys_ptrace",
        ],
        "Operation not permitted",
    )
}

fn root_of_a_user_namespace(_: &Env) -> anyhow::Result<()> {
    refused(
        &["unshare", "--user", "--map-root-user"],
        "Operation not permitted",
    )
}

/// A process that has made itself undumpable is listed all the same, for root.
fn owner_that_may_not_be_traced(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    client.must(Request::Undumpable)?;
    let private = format!("/proc/{}/file_pins", client.pid());
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"])
        .args(["cat", &private])
        .output()?;
    ensure!(
        !output.status.success(),
        "the test itself: it may be traced without the capability"
    );
    ensure!(
        pin_of(&file)?.pids == [client.pid()],
        "it is not listed for root"
    );
    client.end()
}

/// The one process that this process has started.
fn child_of(client: &Client) -> anyhow::Result<u32> {
    let parent = format!("PPid:\t{}", client.pid());
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // It may have ended since.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if status.lines().any(|line| line == parent) {
            return Ok(pid);
        }
    }
    anyhow::bail!("process {} has no child", client.pid())
}

fn in_pid_namespace(env: &Env) -> anyhow::Result<(Client, PathBuf, u32)> {
    let file = env.file()?;
    let mut client =
        env.verbs_by(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])?;
    client.pin(&file)?;
    let child = child_of(&client)?;
    Ok((client, file, child))
}

/// Outside it goes by the number it has there.
fn holder_in_a_pid_namespace(env: &Env) -> anyhow::Result<()> {
    let (_client, file, child) = in_pid_namespace(env)?;
    ensure!(pin_of(&file)?.pids == [child], "the pin");
    let listing = Listing::read()?;
    let leases = listing.leases_of(&file);
    ensure!(
        leases.len() == 1 && leases[0].pid == child,
        "the lease: {leases:?}"
    );
    Ok(())
}

/// Inside, processes have the numbers of the namespace, and those outside have none.
fn reader_in_a_pid_namespace(env: &Env) -> anyhow::Result<()> {
    let (_client, file, child) = in_pid_namespace(env)?;
    let outside = env.file()?;
    let mut stranger = env.verbs()?;
    stranger.pin(&outside)?;
    let target = child.to_string();
    let (success, text, errors) = cat(&["nsenter", "-t", &target, "--pid", "--mount"])?;
    ensure!(success, "{errors}");
    let listing = parse(&text)?;
    let pids = |path: &Path| -> Vec<Vec<u32>> {
        let pins = listing.pins_of(path);
        pins.iter().map(|pin| pin.pids.clone()).collect()
    };
    let lease = |path: &Path| -> Vec<u32> {
        let leases = listing.leases_of(path);
        leases.iter().map(|lease| lease.pid).collect()
    };
    ensure!(pids(&file) == [[1]], "{:?} inside", pids(&file));
    ensure!(lease(&file) == [1], "{:?} inside", lease(&file));
    ensure!(
        pids(&outside) == [Vec::<u32>::new()],
        "{:?} outside",
        pids(&outside)
    );
    ensure!(lease(&outside) == [0], "{:?} outside", lease(&outside));
    Ok(())
}

/// A mount that only the pinning process has: the name is the one it has there.
fn mount_of_another_namespace(env: &Env) -> anyhow::Result<()> {
    let place = PathBuf::from("/tmp/private place");
    std::fs::create_dir_all(&place)?;
    let file = env.file()?;
    let root = file.parent().context("a directory")?.to_owned();
    let script = format!(
        "mount --bind '{}' '{}' && exec \"$@\"",
        root.display(),
        place.display()
    );
    let starter = ["unshare", "--mount", "/bin/sh", "-c", &script, "sh"];
    let mut client = env.verbs_by(&starter)?;
    let inside = place.join(file.file_name().context("a name")?);
    // The driver does not see the file there: it has to be told the size.
    client.open("file", &inside)?;
    let lease = client.set_lease("file", SHARED | EXCLUSIVE)?;
    must_be(&lease, 0, "the lease")?;
    client.map_shared("map", "file", SIZE)?;
    let reply = client.reg("pin", "map", 0, 4096)?;
    must_be(&reply, 0, "the pin")?;
    ensure!(
        !inside.exists(),
        "the test itself: the mount is not private"
    );
    let pin = pin_of(&inside)?;
    ensure!(pin.pids == [client.pid()], "{pin:?}");
    ensure!(Listing::read()?.leases_of(&inside).len() == 1, "the lease");
    Ok(())
}

/// Names begin where the reader's root is.
fn reader_in_another_root(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let root = file.parent().context("a directory")?.to_owned();
    let short = Path::new("/").join(file.file_name().context("a name")?);
    let thread = std::thread::spawn(move || -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let mut file = File::open(FILE_PINS)?;
        let before = read_by(&mut file, 4096)?;
        let path = CString::new(root.as_os_str().as_bytes())?;
        // SAFETY: gives this thread a root of its own; the path ends in NUL and outlives the call.
        let done = unsafe { libc::unshare(libc::CLONE_FS) | libc::chroot(path.as_ptr()) };
        ensure!(done == 0, "chroot: {}", std::io::Error::last_os_error());
        std::io::Seek::rewind(&mut file)?;
        Ok((before, read_by(&mut file, 4096)?))
    });
    let joined = thread.join();
    let Ok(Ok((before, after))) = joined else {
        anyhow::bail!("the thread: {joined:?}");
    };
    ensure!(parse(&before)?.pins_of(&file).len() == 1, "from here");
    let after = parse(&after)?;
    ensure!(
        after.pins_of(&short).len() == 1 && after.leases_of(&short).len() == 1,
        "from there: {after:?}"
    );
    // Where no name leads to from there: as seen from the root of all.
    let owner = after.pins_of(&short)[0].owner.clone();
    ensure!(
        owner.is_some_and(|owner| owner.starts_with("/dev/infiniband")),
        "the owner"
    );
    Ok(())
}
