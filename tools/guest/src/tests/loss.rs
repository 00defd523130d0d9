// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory goes away or breaks under a pin: it stays until it is unpinned, and the log says whose
//! it is.

use super::env::{op_is, Env, PINNED, SIZE};
use super::listing::pin_of;
use super::{tests, Test};
use crate::kmsg::Kmsg;
use crate::ops::Op;
use crate::protocol::Request;
use crate::setup::Fs;
use crate::system::Listing;
use crate::trial::Expect;
use anyhow::{ensure, Context};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub fn tests(_: Fs) -> Vec<Test> {
    tests![memory_failure_under_a_pin, unbinding_waits_for_the_pin]
}

const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);
const SOON: Duration = Duration::from_secs(15);

/// A client whose pin is all that is left of the file, and another name with a blank in it.
fn only_a_pin<'a>(env: &'a Env) -> anyhow::Result<(super::env::Loan<'a>, (PathBuf, PathBuf))> {
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

fn line_of(file: &Path) -> Vec<String> {
    let end = PINNED.offset + PINNED.length - 1;
    vec![
        "/dev/infiniband/uverbs".to_owned(),
        format!("has pinned {}-{end} rw of {}", PINNED.offset, logged(file)),
    ]
}

fn names_the_owner(kmsg: &mut Kmsg, title: &str, file: &Path) -> anyhow::Result<()> {
    kmsg.wait_for(&["file_pins: ", title], SOON)?;
    let line = line_of(file);
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    kmsg.wait_for(&words, SOON).map(drop)
}

fn memory_failure_under_a_pin(env: &Env) -> anyhow::Result<()> {
    let (mut client, files) = only_a_pin(env)?;
    let beside = env.file()?;
    let mut kmsg = Kmsg::from_now()?;
    let page = PINNED.offset + 2 * 4096;
    for (file, pinned) in [(&beside, false), (&files.0, true)] {
        let mut mapper = env.worker()?;
        mapper.open("file", file)?;
        mapper.map_shared("map", "file", SIZE)?;
        mapper.must(Request::Compare {
            map: "map".to_owned(),
            offset: page,
            length: 4096,
            seed: 0,
        })?;
        mapper.send(&Request::Poison {
            map: "map".to_owned(),
            offset: page,
            length: 4096,
        })?;
        let died = mapper.receive();
        ensure!(
            died.as_ref()
                .is_err_and(|error| format!("{error:#}").contains("signal: 7")),
            "who maps the page is not killed by SIGBUS: {died:?}"
        );
        kmsg.wait_for(&["Memory failure", "dax"], SOON)?;
        if pinned {
            names_the_owner(&mut kmsg, "which has failed, is used by devices", file)?;
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
    op_is(
        &mut other,
        Op::Punch,
        &files,
        PINNED,
        Expect::Succeeds,
        "unpinned",
    )?;
    drop(other);
    // The marks on the pages go with the device.
    let mut mounted = env.mounted();
    mounted.unmount()?;
    let device = mounted.device()?;
    device.unbind()?;
    device.bind()?;
    mounted.remake()
}

fn unbinding_waits_for_the_pin(env: &Env) -> anyhow::Result<()> {
    let (mut client, files) = only_a_pin(env)?;
    let mut kmsg = Kmsg::from_now()?;
    let mut mounted = env.mounted();
    let device = mounted.device()?;
    let begun = Instant::now();
    let unbinding = std::thread::spawn({
        let device = device.clone();
        move || device.unbind()
    });
    names_the_owner(&mut kmsg, "waits until it is unpinned", &files.0)?;
    let said = begun.elapsed();
    ensure!(!unbinding.is_finished(), "it has not waited");
    ensure!(pin_of(&files.0)?.pids == [client.pid()], "the pin is there");
    // It waits for the pin alone: everything else goes on.
    std::thread::sleep(Duration::from_secs(1));
    ensure!(!unbinding.is_finished(), "it has not gone on waiting");
    let count = |kmsg: &mut Kmsg| -> anyhow::Result<usize> {
        let said = |line: &&String| line.contains("waits until it is unpinned");
        Ok(kmsg.lines()?.iter().filter(said).count())
    };
    ensure!(
        count(&mut kmsg)? == 1,
        "said more often than once a minute, after {said:?}"
    );
    client.dereg("pin")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !unbinding.is_finished() {
        ensure!(Instant::now() < deadline, "unpinned, yet it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let result = unbinding.join();
    ensure!(matches!(result, Ok(Ok(()))), "unbinding: {result:?}");
    ensure!(Listing::read()?.pins_of(&files.0).is_empty(), "no pin");
    ensure!(!device.node().exists(), "the device is still there");
    mounted.detach()?;
    device.bind()?;
    mounted.remake()
}
