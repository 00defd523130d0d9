// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples, as a user would run them: data goes over RDMA into the leased file.

use super::env::{must_be, Env, Skip, SIZE};
use super::tool::{on, pids};
use super::{tests, Test};
use crate::protocol::{pattern, Call};
use crate::setup::Fs;
use anyhow::{ensure, Context};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub fn tests(_: Fs) -> Vec<Test> {
    tests![
        receiver_in_c,
        receiver_in_rust,
        program_of_the_manual_page,
        without_dax
    ]
}

/// Ends a child that a failing test leaves behind.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(env: &Env, name: &str) -> anyhow::Result<Command> {
    let path = env.examples.join(name);
    if !path.is_file() {
        return Err(Skip(format!("no example at {}", path.display())).into());
    }
    Ok(Command::new(path))
}

fn receiver_in_c(env: &Env) -> anyhow::Result<()> {
    transfer(env, "dax-receive", "7001")
}

fn receiver_in_rust(env: &Env) -> anyhow::Result<()> {
    transfer(env, "dax-receive-rs", "7002")
}

fn transfer(env: &Env, receiver: &str, port: &str) -> anyhow::Result<()> {
    let file = env.file()?;
    let sent = pattern(77, usize::try_from(SIZE)? - 1000);
    let source = Path::new("/dev/shm/to-be-sent");
    std::fs::write(source, &sent)?;
    let mut child = Receiver(
        program(env, receiver)?
            .args([env.address(), port])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut lines = BufReader::new(child.0.stdout.take().context("a pipe")?).lines();
    let ready = lines.next().context("it ended")??;
    ensure!(ready == format!("ready for {SIZE} bytes"), "{ready}");

    let shrink = Call::Truncate {
        path: file.clone(),
        size: 4096,
    };
    let mut other = env.worker()?;
    must_be(&other.call(&shrink)?, libc::ETXTBSY, "while it waits")?;
    let json = on(env, "why", &["--json"], &file)?
        .with_status(1, "leased and pinned")?
        .json()?;
    ensure!(pids(&json["end"]) == [u64::from(child.0.id())], "{json}");
    let blockers = json["blockers"].as_array().context("blockers")?;
    for what in ["lease", "pin"] {
        ensure!(
            blockers.iter().any(|one| one["what"] == what),
            "no {what}: {json}"
        );
    }

    let output = program(env, "dax-send")?
        .args([env.address(), port])
        .arg(source)
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the sender: {} {complaint}",
        output.status
    );
    let received = lines.next().context("it ended")??;
    ensure!(
        received == format!("received {} bytes", sent.len()),
        "{received}"
    );
    let status = child.0.wait()?;
    ensure!(status.success(), "the receiver: {status}");

    let mut wanted = pattern(0, usize::try_from(SIZE)?);
    wanted[..sent.len()].copy_from_slice(&sent);
    ensure!(std::fs::read(&file)? == wanted, "the file has other data");
    on(env, "why", &[], &file)?.with_status(0, "let go")?;
    must_be(&other.call(&shrink)?, 0, "afterwards")
}

/// What `F_SETLEASE(2const)` shows: its child is refused, or has to wait for the signal to be answered.
fn program_of_the_manual_page(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let run = |options: &[&str]| -> anyhow::Result<Vec<String>> {
        let output = program(env, "layout_lease")?
            .args(options)
            .arg(&file)
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(without_pid).collect())
    };

    let said = run(&["-x"])?;
    ensure!(
        said == ["has lease 0x300", "truncate: Text file busy"],
        "exclusive: {said:?}"
    );
    ensure!(std::fs::metadata(&file)?.len() == SIZE, "it was truncated");

    let said = run(&[])?;
    ensure!(
        said == ["has lease 0x100", "I/O possible", "truncate: Success"],
        "breakable: {said:?}"
    );
    ensure!(std::fs::metadata(&file)?.len() == 0, "it is still there");
    Ok(())
}

/// `PID 1142: said` and `PID 1142 said` without what differs each time.
fn without_pid(line: &str) -> String {
    let rest = line.strip_prefix("PID ").unwrap_or(line);
    rest.trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start_matches(':')
        .trim_start()
        .to_string()
}

/// They say so, and end.
fn without_dax(env: &Env) -> anyhow::Result<()> {
    let file = Path::new("/dev/shm/not-dax");
    std::fs::write(file, vec![0; 4096])?;
    for (receiver, port) in [("dax-receive", "7003"), ("dax-receive-rs", "7004")] {
        let output = program(env, receiver)?
            .args([env.address(), port])
            .arg(file)
            .output()?;
        ensure!(
            output.status.code() == Some(1),
            "{receiver}: {}",
            output.status
        );
        ensure!(output.stdout.is_empty(), "{receiver} says it is ready");
        ensure!(!output.stderr.is_empty(), "{receiver} does not say why");
    }
    let output = program(env, "layout_lease")?.arg(file).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1)
            && complaint == "layout_lease: F_SETLEASE: Operation not supported\n",
        "{}: {complaint}",
        output.status
    );
    Ok(())
}

#[cfg(test)]
mod unit_tests {
    /// What the README shows is what is tested.
    #[test]
    fn readme_has_the_example() {
        let source = include_str!("../../../../examples/c/receive.c");
        let (_, rest) = source.split_once("/* README: from here */\n").unwrap();
        let (part, _) = rest.split_once("/* README: to here */\n").unwrap();
        let readme = include_str!("../../../../README.md");
        assert!(readme.contains(&format!("```c\n{part}```\n")));
    }

    /// So is what the manual page shows, but for the line with the licence.
    #[test]
    fn manual_page_has_the_program() {
        let source = include_str!("../../../../examples/c/layout_lease.c");
        let (licence, program) = source.split_once('\n').unwrap();
        assert!(licence.starts_with("// SPDX-License-Identifier: "));

        let patch = include_str!(
            "../../../../man-pages/0001-man-man2const-F_GETLEASE.2const-Document-layout-leas.patch"
        );
        let shown: String = patch
            .lines()
            .skip_while(|line| *line != "+.\\\" SRC BEGIN (layout_lease.c)")
            .take_while(|line| *line != "+.\\\" SRC END")
            .skip(1)
            .map(|line| line.strip_prefix('+').unwrap())
            .filter(|line| ![".EX", ".EE"].contains(line))
            .map(|line| line.strip_prefix("\\&").unwrap_or(line).to_string() + "\n")
            .collect();
        let shown = [("\\-", "-"), ("\\[aq]", "'"), ("\\[rs]", "\\")]
            .iter()
            .fold(shown, |text, (escape, plain)| text.replace(escape, plain));
        assert_eq!(shown, program);
    }
}
