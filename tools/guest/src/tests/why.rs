// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin why`: what it says is what the kernel does.

use super::env::{lease_is, must_be, op_is, Env, EXCLUSIVE, PINNED, SHARED, SOLE, UNLCK};
use super::tool::{as_nobody, daxpin, on, pids, run};
use super::{tests, Test};
use crate::client::Client;
use crate::ops::{Op, Span};
use crate::pins;
use crate::protocol::Request;
use crate::setup::Fs;
use crate::trial::Expect;
use anyhow::{anyhow, ensure, Context};
use layout_lease::proc::Owner;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        nothing,
        pinned_and_leased,
        range_beside_the_pin,
        lease_of_several_holders,
        lease_that_can_be_broken,
        lease_left_to_a_child,
        pin_passed_on,
        every_name,
        deleted_but_mapped,
        deleted_and_not_used,
        hidden_by_a_mount,
        executed,
        waits_until_free,
        wait_is_over,
        signals_only_with_yes,
        nobody_is_never_told_nothing,
    ]
}

/// A leased and pinned file whose lease is released: the pin alone is left.
fn pinned_only(client: &mut Client, file: &Path) -> anyhow::Result<()> {
    client.open("file", file)?;
    lease_is(client, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let size = std::fs::metadata(file)?.len();
    client.map_shared("map", "file", size)?;
    let reply = client.reg("pin", "map", PINNED.offset, PINNED.length)?;
    must_be(&reply, 0, "registering")?;
    lease_is(client, "file", UNLCK, 0, "release")
}

fn truncate(who: &mut Client, file: &Path, expect: Expect, what: &str) -> anyhow::Result<()> {
    let files = (file.to_owned(), file.to_owned());
    op_is(who, Op::Truncate, &files, Span::new(0, 4096), expect, what)
}

fn nothing(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    on(env, "why", &[], &file)?
        .with_status(0, "a file at rest")?
        .saying(&[": nothing\n"])?;
    truncate(&mut *env.worker()?, &file, Expect::Succeeds, "as it said")?;
    on(env, "why", &[], Path::new("/tmp"))?.with_status(2, "a directory")?;
    on(env, "why", &[], &env.path())?.with_status(2, "no such file")?;
    Ok(())
}

fn pinned_and_leased(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let pid = client.pid().to_string();
    on(env, "why", &[], &file)?
        .with_status(1, "pinned and leased")?
        .saying(&["ETXTBSY", "exclusive layout lease", "pin of", &pid])?;
    let json = on(env, "why", &["--json"], &file)?.json()?;
    ensure!(json["status"] == "blocked", "{json}");
    ensure!(pids(&json["end"]) == [u64::from(client.pid())], "{json}");
    client.dereg("pin")?;
    on(env, "why", &[], &file)?.with_status(1, "the lease alone")?;
    lease_is(&mut client, "file", UNLCK, 0, "release")?;
    on(env, "why", &[], &file)?.with_status(0, "let go")?;
    truncate(&mut *env.worker()?, &file, Expect::Succeeds, "as it said")
}

fn range_beside_the_pin(env: &Env) -> anyhow::Result<()> {
    let file = env.file_of(8 << 20)?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    let inside = format!("{}-{}", PINNED.offset + 100, PINNED.offset + 200);
    on(env, "why", &["--range", &inside], &file)?.with_status(1, "in the pin")?;
    on(env, "why", &["--range", "0-"], &file)?.with_status(1, "around it")?;
    on(env, "why", &["--range", "0-4095"], &file)?
        .with_status(3, "in the same 2 MiB")?
        .saying(&["perhaps"])?;
    on(env, "why", &["--range", "4M-"], &file)?.with_status(0, "far from it")?;
    let files = (file.clone(), file);
    let far = Span::new(4 << 20, 4096);
    let mut other = env.worker()?;
    op_is(
        &mut other,
        Op::Punch,
        &files,
        far,
        Expect::Succeeds,
        "as it said",
    )?;
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, "as it said")
}

fn lease_of_several_holders(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holders = [env.worker()?, env.worker()?];
    for holder in &mut holders {
        holder.open("file", &file)?;
        lease_is(holder, "file", SHARED | EXCLUSIVE, 0, "a lease")?;
    }
    let json = on(env, "why", &["--json"], &file)?
        .with_status(1, "two leases")?
        .json()?;
    let mut wanted = holders.each_ref().map(|holder| u64::from(holder.pid()));
    wanted.sort_unstable();
    ensure!(pids(&json["end"]) == wanted, "{json}");
    let [first, second] = holders;
    first.end()?;
    on(env, "why", &[], &file)?.with_status(1, "one of them is left")?;
    second.end()?;
    on(env, "why", &[], &file)?.with_status(0, "none is left")?;
    Ok(())
}

fn lease_that_can_be_broken(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    lease_is(&mut holder, "file", SOLE, 0, "a breakable lease")?;
    on(env, "why", &[], &file)?
        .with_status(0, "it only delays")?
        .saying(&["will be broken first", &holder.pid().to_string()])?;
    Ok(())
}

/// The holder has ended; what inherited its descriptor has to end too.
fn lease_left_to_a_child(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let holder = daxpin(env, "lease")?
        .arg("--exclusive")
        .arg(&file)
        .args(["--", "/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"])
        .output()?;
    let child: i32 = String::from_utf8_lossy(&holder.stdout)
        .trim()
        .parse()
        .context("the child's number")?;
    let json = on(env, "why", &["--json"], &file)?.json();
    let refused = truncate(
        &mut *env.worker()?,
        &file,
        REFUSED,
        "the child has the lease",
    );
    let pid = rustix::process::Pid::from_raw(child).context("a number")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let json = json?;
    refused?;
    ensure!(json["status"] == "blocked", "{json}");
    ensure!(
        pids(&json["end"]) == [u64::from(pid.as_raw_nonzero().get().unsigned_abs())],
        "{json}"
    );
    on(env, "why", &["--wait", "10"], &file)?.with_status(0, "the child is gone")?;
    Ok(())
}

/// The uverbs file is another process's by now.
fn pin_passed_on(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    let owners = pins::of(client.pid()).map_err(|error| anyhow!(error))?;
    let fd = owners.iter().find_map(|owned| match owned.owner {
        Owner::File { fd, .. } if !owned.pins.is_empty() => Some(fd),
        _ => None,
    });
    let mut heir = env.worker()?;
    heir.must(Request::Take {
        pid: client.pid(),
        fd: i32::try_from(fd.context("no owner")?)?,
        name: "uverbs".to_owned(),
    })?;
    let json = on(env, "why", &["--json"], &file)?.json()?;
    let mut both = [u64::from(client.pid()), u64::from(heir.pid())];
    both.sort_unstable();
    ensure!(pids(&json["end"]) == both, "{json}");
    client.end()?;
    let json = on(env, "why", &["--json"], &file)?
        .with_status(1, "the heir")?
        .json()?;
    ensure!(pids(&json["end"]) == [u64::from(heir.pid())], "{json}");
    heir.end()?;
    on(env, "why", &["--wait", "10"], &file)?.with_status(0, "nobody is left")?;
    truncate(&mut *env.worker()?, &file, Expect::Succeeds, "as it said")
}

fn every_name(env: &Env) -> anyhow::Result<()> {
    let (file, link, directory) = (env.file()?, env.path(), env.path());
    std::fs::hard_link(&file, &link)?;
    std::fs::create_dir(&directory)?;
    let symlink = PathBuf::from(format!("/dev/shm/link-{}", std::process::id()));
    let _ = std::fs::remove_file(&symlink);
    std::os::unix::fs::symlink(&file, &symlink)?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    let root = env.mounted().root.clone();
    rustix::mount::mount_bind(&root, &directory)?;
    let bound = directory.join(file.file_name().context("a name")?);
    let said: Vec<_> = [&file, &link, &symlink, &bound]
        .map(|name| on(env, "why", &[], name))
        .into();
    rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::empty())?;
    for said in said {
        said?.with_status(1, "another name")?;
    }
    on(env, "why", &[], &env.file()?)?.with_status(0, "another file")?;
    Ok(())
}

/// A file of the same name is another one.
fn deleted_but_mapped(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    let link = env.path();
    std::fs::hard_link(&file, &link)?;
    std::fs::remove_file(&file)?;
    std::fs::write(&file, "another")?;
    on(env, "why", &[], &file)?.with_status(0, "another file of that name")?;
    on(env, "why", &[], &link)?.with_status(1, "the pinned one")?;
    std::fs::remove_file(&link)?;
    let fd = layout_fd(&client)?;
    on(env, "why", &[], &fd)?.with_status(1, "the pinned one, without a name")?;
    Ok(())
}

/// The client's descriptor of its file.
fn layout_fd(client: &Client) -> anyhow::Result<PathBuf> {
    let directory = format!("/proc/{}/fd", client.pid());
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().contains("/dax-") {
            return Ok(path);
        }
    }
    anyhow::bail!("the client has no file open")
}

/// No name, no mapping, no descriptor: any file of the filesystem may be the pinned one.
fn deleted_and_not_used(env: &Env) -> anyhow::Result<()> {
    let (file, link, other) = (env.file()?, env.path(), env.file()?);
    std::fs::hard_link(&file, &link)?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    client.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    client.close("file")?;
    std::fs::remove_file(&file)?;
    for name in [&link, &other] {
        on(env, "why", &[], name)?
            .with_status(3, "it may be this one")?
            .saying(&["perhaps", &client.pid().to_string()])?;
    }
    client.dereg("pin")?;
    on(env, "why", &[], &link)?.with_status(0, "unpinned")?;
    Ok(())
}

fn hidden_by_a_mount(env: &Env) -> anyhow::Result<()> {
    let (directory, cover, link) = (env.path(), env.path(), env.path());
    std::fs::create_dir(&directory)?;
    std::fs::create_dir(&cover)?;
    let file = directory.join("file");
    std::fs::rename(env.file()?, &file)?;
    std::fs::rename(env.file()?, cover.join("file"))?;
    std::fs::hard_link(&file, &link)?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    rustix::mount::mount_bind(&cover, &directory)?;
    let mapped = on(env, "why", &[], &link);
    let unmapped = client
        .must(Request::Unmap {
            map: "map".to_owned(),
        })
        .and_then(|_| client.close("file"))
        .and_then(|()| on(env, "why", &[], &link));
    rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::empty())?;
    mapped?.with_status(1, "the mapping tells which file it is")?;
    unmapped?.with_status(3, "its name is another file's")?;
    on(env, "why", &[], &link)?.with_status(1, "its name is its own again")?;
    Ok(())
}

/// Text file busy, as ever.
fn executed(env: &Env) -> anyhow::Result<()> {
    let program = env.path();
    std::fs::copy("/bin/sleep", &program)?;
    let mut child = Command::new(&program).arg("600").spawn()?;
    let json = on(env, "why", &["--json"], &program)?.json();
    let refused = truncate(&mut *env.worker()?, &program, REFUSED, "it runs");
    child.kill()?;
    child.wait()?;
    let json = json?;
    refused?;
    ensure!(json["blockers"][0]["what"] == "executable", "{json}");
    ensure!(pids(&json["end"]) == [u64::from(child.id())], "{json}");
    on(env, "why", &[], &program)?.with_status(0, "it has ended")?;
    Ok(())
}

fn waits_until_free(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut holder = env.worker()?;
    holder.open("file", &file)?;
    lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
    let waiting = daxpin(env, "why")?
        .args(["--wait", "60"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut waiting = waiting?;
    std::thread::sleep(Duration::from_secs(1));
    let early = waiting.try_wait()?;
    ensure!(early.is_none(), "it did not wait: {early:?}");
    lease_is(&mut holder, "file", UNLCK, 0, "release")?;
    let begun = Instant::now();
    let status = waiting.wait()?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(begun.elapsed() < Duration::from_secs(20), "it waited on");
    Ok(())
}

fn wait_is_over(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    client.pin(&file)?;
    let begun = Instant::now();
    on(env, "why", &["--wait", "1.5"], &file)?.with_status(1, "still pinned")?;
    ensure!(begun.elapsed() >= Duration::from_millis(1500), "too early");
    Ok(())
}

/// Ends a child that a failing test leaves behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signals_only_with_yes(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let child = daxpin(env, "lease")?
        .arg("--exclusive")
        .arg(&file)
        .args(["--", "/bin/sleep", "600"])
        .spawn()?;
    let mut child = Ended(child);
    let begun = Instant::now();
    while on(env, "why", &[], &file)?.status == Some(0) {
        ensure!(begun.elapsed() < Duration::from_secs(20), "no lease");
    }
    let mut bystander = Ended(Command::new("/bin/sleep").arg("600").spawn()?);
    let said = on(env, "why", &["--signal", "TERM"], &file)?.with_status(1, "without --yes")?;
    ensure!(said.err.contains("nothing was sent"), "{}", said.err);
    ensure!(
        child.0.try_wait()?.is_none(),
        "it was signalled all the same"
    );
    on(env, "why", &["--yes"], &file)?.with_status(2, "--yes to what?")?;
    let said =
        on(env, "why", &["--signal", "TERM", "--yes"], &file)?.with_status(0, "with --yes")?;
    ensure!(said.err.contains("sent TERM"), "{}", said.err);
    let status = child.0.wait()?;
    ensure!(status.signal() == Some(libc::SIGTERM), "{status}");
    ensure!(
        bystander.0.try_wait()?.is_none(),
        "another one was signalled"
    );
    truncate(&mut *env.worker()?, &file, Expect::Succeeds, "as it said")
}

fn nobody_is_never_told_nothing(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let mut client = env.verbs()?;
    pinned_only(&mut client, &file)?;
    let said = as_nobody(env, "why", &[&file])?.with_status(3, "root's pin")?;
    ensure!(said.out.contains("not seen"), "{}", said.out);
    ensure!(!said.out.contains(": nothing\n"), "{}", said.out);
    lease_is(
        &mut client,
        "file",
        SHARED | EXCLUSIVE,
        0,
        "the lease again",
    )?;
    as_nobody(env, "why", &[&file])?.with_status(1, "leases are everybody's to see")?;
    // A file that is not DAX cannot be pinned by anybody.
    let plain = Path::new("/dev/shm/not-pinnable");
    std::fs::write(plain, "text")?;
    as_nobody(env, "why", &[plain])?.with_status(0, "not a DAX file")?;
    run(daxpin(env, "why")?.arg("--range").arg("9-1").arg(&file))?
        .with_status(2, "a range the wrong way round")?;
    Ok(())
}
