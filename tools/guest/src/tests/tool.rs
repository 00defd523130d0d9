// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running `daxpin`, for the tests of its commands.

use super::env::{Env, Skip};
use anyhow::{ensure, Context};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// A user who is nobody.
pub const NOBODY: u32 = 65534;

/// What a run of it said.
pub struct Said {
    /// The exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        Said {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The exit status must be this one.
    pub fn with_status(self, wanted: i32, when: &str) -> anyhow::Result<Said> {
        ensure!(
            self.status == Some(wanted),
            "{when}: status {:?}, not {wanted}: {} {}",
            self.status,
            self.out,
            self.err
        );
        Ok(self)
    }

    /// Standard output must contain these words.
    pub fn saying(self, words: &[&str]) -> anyhow::Result<Said> {
        for word in words {
            ensure!(self.out.contains(word), "no {word:?} in: {}", self.out);
        }
        Ok(self)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.out).with_context(|| format!("not JSON: {:?}", self.out))
    }
}

/// `daxpin COMMAND`
pub fn daxpin(env: &Env, command: &str) -> anyhow::Result<Command> {
    if !env.daxpin.is_file() {
        return Err(Skip(format!("no daxpin at {}", env.daxpin.display())).into());
    }
    let mut daxpin = Command::new(&env.daxpin);
    daxpin.arg(command);
    Ok(daxpin)
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> anyhow::Result<Said> {
    Ok(Said::of(command.output()?))
}

/// `daxpin COMMAND [OPTION...] PATH`
pub fn on(env: &Env, command: &str, options: &[&str], path: &Path) -> anyhow::Result<Said> {
    run(daxpin(env, command)?.args(options).arg(path))
}

/// The same as nobody, with a copy of the program: nobody may not look into where it lies.
pub fn as_nobody(
    env: &Env,
    command: &str,
    arguments: &[impl AsRef<OsStr>],
) -> anyhow::Result<Said> {
    let copy = Path::new("/dev/shm/daxpin-for-nobody");
    daxpin(env, command)?;
    std::fs::copy(&env.daxpin, copy)?;
    run(Command::new(copy)
        .arg(command)
        .args(arguments)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/"))
}

/// A pin in the JSON of `daxpin ls` with this path and first byte.
pub fn pin_in<'a>(
    json: &'a serde_json::Value,
    path: &Path,
    first: u64,
) -> anyhow::Result<&'a serde_json::Value> {
    let pins = json["pins"].as_array().context("no pins")?;
    pins.iter()
        .find(|pin| pin["file"]["path"] == *path.to_string_lossy() && pin["first"] == first)
        .with_context(|| format!("{} is not in {json}", path.display()))
}

/// The numbers in an array of processes, or of numbers.
pub fn pids(json: &serde_json::Value) -> Vec<u64> {
    let number = |value: &serde_json::Value| value["pid"].as_u64().or(value.as_u64());
    json.as_array()
        .map(|array| array.iter().filter_map(number).collect())
        .unwrap_or_default()
}
