// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin lease`: take leases, then become the command.
//!
//! There is no fork in between: the holder of a lease is a thread group, and `exec` keeps it.

use crate::diagnose;
use crate::text::shown;
use anyhow::{anyhow, Context};
use clap::{ArgGroup, Args};
use layout_lease::{set_lease, LeaseFlags, LeaseKind};
use rustix::io::{fcntl_getfd, fcntl_setfd, FdFlags};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// No lease was taken: the command was not started.
pub const FAILED: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Take a layout lease on each FILE, then run COMMAND as the holder
///
/// The leases live as long as COMMAND does (or a child that inherits its descriptors). With
/// `--exclusive` nobody else can change the layout of the files meanwhile, and COMMAND may register
/// their pages with an RDMA device. A lease without it gives way: COMMAND gets SIGIO, which ends it unless
/// it is caught.
///
/// Exit status: that of COMMAND; 125 if a lease could not be taken, 126 if COMMAND could not be
/// executed, 127 if it was not found.
#[derive(Args)]
#[command(
    group = ArgGroup::new("kind").args(["shared", "sole"]),
    after_help = "Example:\n  daxpin lease --exclusive /mnt/pmem/data -- \\\n      ib_write_bw -d rxe0 -x 1 --mmap=/mnt/pmem/data server"
)]
pub struct Arguments {
    /// Any number of processes may hold such a lease on the file (the default)
    #[arg(long)]
    shared: bool,
    /// The only lease on the file
    #[arg(long)]
    sole: bool,
    /// A lease that cannot be broken, the only kind that allows long-term pins
    #[arg(long)]
    exclusive: bool,
    /// The files to lease: regular files on a filesystem mounted with DAX
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    fn kind(&self) -> LeaseKind {
        if self.sole {
            LeaseKind::Sole
        } else {
            LeaseKind::Shared
        }
    }

    fn flags(&self) -> LeaseFlags {
        if self.exclusive {
            LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE
        } else {
            LeaseFlags::LAYOUT
        }
    }
}

/// Takes every lease, then execs. Returns only if something was in the way.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut held = Vec::new();
    for path in &arguments.files {
        held.push(take(path, arguments.kind(), arguments.flags())?);
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(anyhow!("no command"));
    };
    let error = Command::new(program).args(rest).exec();
    drop(held);
    eprintln!("daxpin: cannot execute {}: {error}", shown(program));
    Ok(ExitCode::from(match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_EXECUTE,
    }))
}

fn take(path: &Path, kind: LeaseKind, flags: LeaseFlags) -> anyhow::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {} for reading and writing", shown(path)))?;
    set_lease(&file, kind, flags).map_err(|error| {
        let reason = diagnose::refusal(&file, &error).sentence();
        anyhow!("{}: {reason} ({})", shown(path), error.name())
    })?;
    // The lease lives and dies with the open file description: let it pass through exec.
    let descriptor_flags = fcntl_getfd(&file)?;
    fcntl_setfd(&file, descriptor_flags - FdFlags::CLOEXEC)
        .with_context(|| format!("cannot keep {} open across exec", shown(path)))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.arguments)
    }

    #[test]
    fn files_and_command_are_told_apart_by_two_dashes() {
        let arguments = parse("x --exclusive a b -- cmd --mmap=a --exclusive").unwrap();
        assert_eq!(arguments.files, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(arguments.command, ["cmd", "--mmap=a", "--exclusive"]);
        assert_eq!(arguments.kind(), LeaseKind::Shared);
        assert_eq!(
            arguments.flags(),
            LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE
        );
    }

    #[test]
    fn a_command_and_a_file_are_needed_and_one_kind() {
        assert!(parse("x a").is_err());
        assert!(parse("x -- cmd").is_err());
        assert!(parse("x --sole --shared a -- cmd").is_err());
        assert_eq!(parse("x --sole a -- cmd").unwrap().kind(), LeaseKind::Sole);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = take(
            Path::new("/no/such/file"),
            LeaseKind::Shared,
            LeaseFlags::LAYOUT,
        );
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("/no/such/file"), "{text}");
    }

    #[test]
    fn command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
