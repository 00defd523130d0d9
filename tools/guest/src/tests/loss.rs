// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory goes away or breaks: who maps it gets SIGBUS, what is pinned stays until it is unpinned,
//! and the log says whose it is.

use super::env::{op_is, Env, Loan, PINNED, SIZE};
use super::listing::pin_of;
use super::{tests, Test};
use crate::client::Client;
use crate::kmsg::Kmsg;
use crate::ops::{Op, Span};
use crate::protocol::{pattern, Call, Request};
use crate::setup::{run, Device, Fs};
use crate::system::Listing;
use crate::trial::Expect;
use anyhow::{anyhow, bail, ensure, Context};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub fn tests(fs: Fs) -> Vec<Test> {
    let mut list = tests![
        unbinding_ends_while_a_file_is_open,
        unbinding_ends_with_large_entries,
        unbinding_waits_for_the_pin,
        unbinding_waits_for_a_transfer,
        the_device_is_back_before_the_unmount,
        ndctl_refuses_a_mounted_device,
        memory_failure_under_a_pin,
    ];
    if fs == Fs::Xfs {
        list.extend(tests![unbinding_ends_with_shared_blocks]);
    }
    list
}

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
/// For the log, and for what waits for nobody.
const SOON: Duration = Duration::from_secs(30);
const WAITS: &str = "waits until it is unpinned";

/// The device while it is away from its driver, or broken. On drop it is back, with a filesystem for the
/// tests to come. So whoever holds anything of it has to be dropped before.
pub(super) struct Away<'a> {
    env: &'a Env,
    device: Device,
    unbinding: Option<JoinHandle<anyhow::Result<()>>>,
    is_back: bool,
}

impl<'a> Away<'a> {
    /// Nothing has happened to it yet.
    pub(super) fn soon(env: &'a Env) -> anyhow::Result<Away<'a>> {
        Ok(Away {
            env,
            device: env.mounted().device()?,
            unbinding: None,
            is_back: false,
        })
    }

    pub(super) fn begin_to_unbind(&mut self) {
        let device = self.device.clone();
        self.unbinding = Some(std::thread::spawn(move || device.unbind()));
    }

    pub(super) fn goes_on(&self) -> bool {
        self.unbinding.as_ref().is_some_and(|it| !it.is_finished())
    }

    /// Waits for the end of the unbinding.
    pub(super) fn has_ended(&mut self, what: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + SOON;
        while self.goes_on() {
            ensure!(Instant::now() < deadline, "{what}, yet it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = self.unbinding.take().context("nobody unbinds it")?.join();
        ended.map_err(|_| anyhow!("the thread that unbinds panicked"))??;
        ensure!(!self.device.node().exists(), "the device is still there");
        Ok(())
    }

    fn unbind(&mut self, what: &str) -> anyhow::Result<()> {
        self.begin_to_unbind();
        self.has_ended(what)
    }

    fn bring_back(&mut self) -> anyhow::Result<()> {
        if self.unbinding.is_some() {
            self.has_ended("the test is over")?;
        }
        if !self.device.node().exists() {
            self.device.bind()?;
        }
        self.is_back = true;
        self.env.mounted().remake()
    }

    /// Unmounts what is left of the filesystem, and makes a new one on the device.
    pub(super) fn back(mut self) -> anyhow::Result<()> {
        if self.env.mounted().is_mounted() {
            self.env.mounted().unmount()?;
        }
        // So that nothing is left of what was done to the pages.
        if self.device.node().exists() {
            self.device.unbind()?;
        }
        self.bring_back()?;
        ensure!(
            std::fs::read(self.env.file()?)? == pattern(0, SIZE as usize),
            "not what was written to the new filesystem"
        );
        Ok(())
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if self.is_back {
            return;
        }
        if let Err(error) = self.bring_back() {
            eprintln!("the device for the other tests: {error:#}");
        }
    }
}

/// A process that has a file open and mapped, with all of it in its page tables and modified.
fn mapper<'a>(env: &'a Env, file: &Path, seed: u32) -> anyhow::Result<Loan<'a>> {
    let mut mapper = env.worker()?;
    let size = std::fs::metadata(file)?.len();
    mapper.open("file", file)?;
    mapper.map_shared("map", "file", size)?;
    mapper.must(Request::Fill {
        map: "map".to_owned(),
        offset: 0,
        length: size,
        seed,
    })?;
    Ok(mapper)
}

/// The answer to what the process was asked last is its death by SIGBUS.
fn is_killed(mapper: &mut Client, what: &str) -> anyhow::Result<()> {
    match mapper.receive() {
        Err(error) if format!("{error:#}").contains("(signal: 7 ") => Ok(()),
        other => bail!("{what}: not killed by SIGBUS, but {other:?}"),
    }
}

/// A byte that was mapped is not there any more.
fn dies_of_an_access(mapper: &mut Client, what: &str) -> anyhow::Result<()> {
    mapper.send(&Request::Compare {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 4096,
        seed: 0,
    })?;
    is_killed(mapper, what)
}

/// The device goes while a file is open, mapped and modified. Nobody waits for anybody; the mapping is
/// gone, and so is what the filesystem knew of the device's memory.
fn unbinding_ends_while_a_file_is_open(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let files = env.pair()?;
    let mut idle = mapper(env, &files.0, 1)?;
    let mut toucher = mapper(env, &files.1, 2)?;
    away.unbind("a file is open")?;
    dies_of_an_access(&mut toucher, "touching a file whose device is gone")?;
    // Whoever does not touch the mapping lives on, and can let go of it.
    idle.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    let sync = idle.ask(Request::Fsync {
        name: "file".to_owned(),
    })?;
    ensure!(sync.errno == libc::EIO, "fsync without a device: {sync:?}");
    drop((idle, toucher));
    away.back()
}

/// The same with an entry of 2 MiB.
fn unbinding_ends_with_large_entries(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let file = env.file_of(8 << 20)?;
    let mut large = mapper(env, &file, 1)?;
    away.unbind("a file is mapped")?;
    dies_of_an_access(&mut large, "touching a file whose device is gone")?;
    drop(large);
    away.back()
}

/// The same with blocks that two files have in common. Their pages know neither.
fn unbinding_ends_with_shared_blocks(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let files = env.pair()?;
    let mut readers = Vec::new();
    let share = Call::CloneRange {
        from: files.0.clone(),
        from_offset: 0,
        length: SIZE,
        to: files.1.clone(),
        to_offset: 0,
        flags: 0,
    };
    let shared = env.worker()?.call(&share)?;
    super::env::must_be(&shared, 0, "sharing the blocks")?;
    for file in [&files.0, &files.1] {
        let mut reader = env.worker()?;
        reader.open("file", file)?;
        reader.map_shared("map", "file", SIZE)?;
        reader.must(Request::Compare {
            map: "map".to_owned(),
            offset: 0,
            length: SIZE,
            seed: 0,
        })?;
        readers.push(reader);
    }
    away.unbind("files are mapped")?;
    dies_of_an_access(&mut readers[0], "touching a file whose device is gone")?;
    drop(readers);
    away.back()
}

/// A file that was open when the device went is closed when it has come back: what is dropped then is
/// not taken for pages of the new device.
fn the_device_is_back_before_the_unmount(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let file = env.file()?;
    let holder = mapper(env, &file, 1)?;
    away.unbind("a file is open")?;
    away.device.bind()?;
    drop(holder);
    away.back()
}

/// A client whose pin is all that is left of the file, and another name with a blank in it.
fn only_a_pin<'a>(env: &'a Env) -> anyhow::Result<(Loan<'a>, (PathBuf, PathBuf))> {
    let (file, partner) = env.pair()?;
    let blank = file.with_file_name(format!(
        "{} blank",
        file.file_name().context("a name")?.to_string_lossy()
    ));
    std::fs::rename(&file, &blank)?;
    let mut client = env.verbs()?;
    client.pin(&blank)?;
    client.must(Request::Unmap {
        map: "map".to_owned(),
    })?;
    client.close("file")?;
    Ok((client, (blank, partner)))
}

/// How the log writes a path: escaped, and /dev/kmsg escapes the backslash once more.
fn logged(path: &Path) -> String {
    path.display().to_string().replace(' ', "\\x5c040")
}

fn names_the_owner(kmsg: &mut Kmsg, title: &str, file: &Path) -> anyhow::Result<()> {
    let Span { offset, length } = PINNED;
    let range = format!("has pinned {offset}-{} rw of", offset + length - 1);
    kmsg.wait_for(&["file_pins: ", title], SOON)?;
    kmsg.wait_for(&["/dev/infiniband/uverbs", &range, &logged(file)], SOON)?;
    Ok(())
}

/// The device goes on with what has been given to it.
pub(super) fn device_writes(client: &mut Client, length: u64, seed: u32) -> anyhow::Result<()> {
    client.map_anonymous("memory", length)?;
    let source = client.reg("source", "memory", 0, length)?;
    super::env::must_be(&source, 0, "anonymous memory")?;
    client.must(Request::Fill {
        map: "memory".to_owned(),
        offset: 0,
        length,
        seed,
    })?;
    client.must(Request::RdmaWrite {
        from: "source".to_owned(),
        to: "pin".to_owned(),
        length,
    })?;
    client.dereg("source")?;
    Ok(())
}

/// Everybody else is told at once that the device is gone, but it goes only when nobody can write to its
/// memory any more.
fn unbinding_waits_for_the_pin(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let beside = env.file()?;
    let mut toucher = mapper(env, &beside, 1)?;
    let (mut client, files) = only_a_pin(env)?;
    let mut kmsg = Kmsg::from_now()?;
    away.begin_to_unbind();
    names_the_owner(&mut kmsg, WAITS, &files.0)?;
    ensure!(away.goes_on(), "it has not waited");
    ensure!(pin_of(&files.0)?.pids == [client.pid()], "the pin is there");
    device_writes(&mut client, PINNED.length, 62).context("RDMA while the driver waits")?;
    dies_of_an_access(&mut toucher, "touching a file whose device is going")?;
    drop(toucher);
    // It waits for the pin alone: everything else goes on.
    run(&mut Command::new("sync"))?;
    let busy = rustix::mount::unmount(&env.mounted().root, rustix::mount::UnmountFlags::empty());
    ensure!(
        busy == Err(rustix::io::Errno::BUSY),
        "umount while pinned: {busy:?}"
    );
    std::thread::sleep(Duration::from_secs(1));
    ensure!(away.goes_on(), "it has not gone on waiting");
    let lines = kmsg.lines()?;
    let said = lines.iter().filter(|line| line.contains(WAITS)).count();
    ensure!(said == 1, "said {said} times within the first minute");
    client.dereg("pin")?;
    away.has_ended("unpinned")?;
    ensure!(Listing::read()?.pins_of(&files.0).is_empty(), "no pin");
    drop(client);
    away.back()
}

/// The same for a reference that is not a pin: a pipe has it.
fn unbinding_waits_for_a_transfer(env: &Env) -> anyhow::Result<()> {
    let mut away = Away::soon(env)?;
    let file = env.file()?;
    let mut holder = mapper(env, &file, 1)?;
    let mut kmsg = Kmsg::from_now()?;
    holder.must(Request::Splice {
        map: "map".to_owned(),
        offset: PINNED.offset,
        length: 4096,
        name: "pipe".to_owned(),
    })?;
    away.begin_to_unbind();
    std::thread::sleep(Duration::from_secs(3));
    ensure!(away.goes_on(), "a pipe has a page, and it has not waited");
    holder.close("pipe.read")?;
    holder.close("pipe.write")?;
    away.has_ended("nobody has a page")?;
    let lines = kmsg.lines()?;
    ensure!(
        !lines.iter().any(|line| line.contains("file_pins")),
        "nothing is pinned: {lines:?}"
    );
    drop(holder);
    away.back()
}

/// ndctl looks whether the device is in use, and a filesystem that nobody sees any more uses it.
fn ndctl_refuses_a_mounted_device(env: &Env) -> anyhow::Result<()> {
    let away = Away::soon(env)?;
    let disable = || {
        let name = away.device.name().into_owned();
        run(Command::new("ndctl").args(["disable-namespace", &name]))
    };
    let (mut client, files) = only_a_pin(env)?;
    for what in ["mounted", "mounted, but out of sight"] {
        let refused = disable();
        ensure!(
            refused
                .as_ref()
                .is_err_and(|error| format!("{error:#}").contains("busy")),
            "disable-namespace, {what}: {refused:?}"
        );
        ensure!(away.device.node().exists(), "{what}: the device is gone");
        if env.mounted().is_mounted() {
            ensure!(pin_of(&files.0)?.pids == [client.pid()], "the pin is there");
            env.mounted().detach()?;
        }
    }
    device_writes(&mut client, PINNED.length, 63)?;
    client.dereg("pin")?;
    drop(client);
    // The last user of the filesystem has gone, and it with him, in a moment.
    let deadline = Instant::now() + SOON;
    while let Err(error) = disable() {
        ensure!(Instant::now() < deadline, "unpinned, yet {error:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!away.device.node().exists(), "disabled, yet still there");
    run(Command::new("ndctl").args(["enable-namespace", &away.device.name()]))?;
    env.mounted().mount()?;
    let (offset, length) = (PINNED.offset as usize, PINNED.length as usize);
    ensure!(
        std::fs::read(&files.0)?[offset..offset + length] == pattern(63, length),
        "what the device wrote is not there"
    );
    away.back()
}

/// While this exists, a page that breaks kills every process that maps it, not only the one that came
/// across it: the others do not ask for that by prctl(2).
struct EarlyKill;

const EARLY_KILL: &str = "/proc/sys/vm/memory_failure_early_kill";

impl EarlyKill {
    fn on() -> anyhow::Result<EarlyKill> {
        std::fs::write(EARLY_KILL, "1").context(EARLY_KILL)?;
        Ok(EarlyKill)
    }
}

impl Drop for EarlyKill {
    fn drop(&mut self) {
        let _ = std::fs::write(EARLY_KILL, "0");
    }
}

/// A page breaks. Who maps it is killed. A device that has it goes on, and its users are told.
fn memory_failure_under_a_pin(env: &Env) -> anyhow::Result<()> {
    let away = Away::soon(env)?;
    let _early = EarlyKill::on()?;
    let (mut client, files) = only_a_pin(env)?;
    let beside = env.file()?;
    let mut kmsg = Kmsg::from_now()?;
    let page = PINNED.offset + 2 * 4096;
    for (file, pinned) in [(&beside, false), (&files.0, true)] {
        let mut reporter = mapper(env, file, 0)?;
        let mut other = mapper(env, file, 0)?;
        reporter.send(&Request::Poison {
            map: "map".to_owned(),
            offset: page,
            length: 4096,
        })?;
        is_killed(&mut reporter, "who maps the page and reports it")?;
        is_killed(&mut other, "who maps the page, and has done nothing")?;
        kmsg.wait_for(&["Memory failure", "recovery action for dax page"], SOON)?;
        if pinned {
            let title = "which has failed, is used by devices";
            names_the_owner(&mut kmsg, title, file)?;
        } else {
            let lines = kmsg.lines()?;
            ensure!(
                !lines.iter().any(|line| line.contains("file_pins")),
                "nobody has it pinned: {lines:?}"
            );
        }
    }
    ensure!(pin_of(&files.0)?.pids == [client.pid()], "the pin stays");
    let mut other = env.worker()?;
    op_is(&mut other, Op::Punch, &files, PINNED, REFUSED, "pinned")?;
    client.dereg("pin")?;
    let expect = Expect::Succeeds;
    op_is(&mut other, Op::Punch, &files, PINNED, expect, "unpinned")?;
    drop((client, other));
    // The marks on the pages go with the device.
    away.back()
}
