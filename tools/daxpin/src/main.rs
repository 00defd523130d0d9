// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin`: layout leases and file pins for the administrator, and for programs that know nothing of
//! either.

mod diagnose;
mod exit;
mod file;
mod identify;
mod lease;
mod ls;
#[cfg(test)]
mod manual;
mod mounts;
mod probe;
mod process;
mod range;
mod scan;
mod signal;
mod table;
mod text;
mod verdict;
mod watch;
mod why;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::process::ExitCode;
use std::time::Duration;

/// Layout leases and pins of files on DAX filesystems
#[derive(Parser)]
#[command(name = "daxpin", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Lease(lease::Arguments),
    Ls(ls::Arguments),
    Why(why::Arguments),
    Probe(probe::Arguments),
    /// Print a completion script for a shell
    ///
    /// Exit status: 0.
    #[command(after_help = "Example:\n  daxpin completions bash >/etc/bash_completion.d/daxpin")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// A number of seconds, perhaps with a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 366.0 * 86400.0;
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=YEAR).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a number of seconds, such as 2 or 0.5".to_owned())
}

fn main() -> ExitCode {
    let leasing = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "lease");
    let failed = if leasing { lease::FAILED } else { exit::ERROR };
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            let _ = error.print();
            // Help and version were asked for: that is no error.
            let code = if error.use_stderr() {
                failed
            } else {
                exit::YES
            };
            return code.into();
        }
    };
    let result = match command {
        Command::Lease(arguments) => lease::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "daxpin", &mut out);
            use std::io::Write;
            // A reader that has seen enough is no error.
            let _ = std::io::stdout().write_all(&out);
            Ok(exit::YES.into())
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("daxpin: {error:#}");
        failed.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "nan", "inf", "1e300", "", "2s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn watch_takes_an_interval_or_none() {
        let watching = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Ls(_) = cli.command else {
                panic!("{line}")
            };
        };
        watching("daxpin ls --watch");
        watching("daxpin ls --watch=1 --json");
        watching("daxpin ls --watch /mnt/a");
        assert!(Cli::try_parse_from(["daxpin", "why", "/a", "--yes"]).is_err());
    }

    fn completions(shell: Shell) -> String {
        let mut out = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "daxpin", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in [
            Shell::Bash,
            Shell::Zsh,
            Shell::Fish,
            Shell::Elvish,
            Shell::PowerShell,
        ] {
            assert!(completions(shell).contains("probe"));
        }
    }

    #[test]
    fn bash_completes_commands_and_options() {
        let complete = |words: &str| {
            let ask = format!(
                "COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                 _daxpin daxpin \"${{COMP_WORDS[-1]}}\"; echo \"${{COMPREPLY[@]}}\""
            );
            let script = format!("{}\n{ask}", completions(Shell::Bash));
            let output = std::process::Command::new("bash")
                .args(["--norc", "-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(complete("daxpin wh"), "why\n");
        assert_eq!(complete("daxpin why --w"), "--wait\n");
        assert_eq!(complete("daxpin lease --ex"), "--exclusive\n");
    }
}
