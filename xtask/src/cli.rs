// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: options that every subcommand takes, and the list of subcommands.

use crate::cmd;
use crate::env::Ctx;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0    everything is as it must be
  1    a test, a check, a row of the demo or the command in the guest failed
  2    wrong usage
  3    the kernel panicked, warned or stalled (or the guest never got to user space)
  4    could not set up: missing part, no root, no network, no space, a patch that does not apply
  130  interrupted

Environment:
  DAXPIN_CACHE   where downloads, the base repository and builds are kept
                 (default: ${XDG_CACHE_HOME:-~/.cache}/daxpin)

Example:
  cargo xtask demo";

/// Builds, boots and tests the layout-lease and file-pin series for Linux.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Print the commands that would run (the QEMU line included) and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Show every command and its whole output
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Parallel jobs of a build (default: as many as there are processors)
    #[arg(long, short, global = true, value_name = "N")]
    pub jobs: Option<usize>,
    /// Use this kernel tree as it is, on a branch `series` of ours, instead of linux/
    #[arg(long, global = true, value_name = "DIR")]
    pub linux: Option<PathBuf>,
    /// Boot this image and build none
    #[arg(long, global = true, value_name = "IMAGE")]
    pub kernel: Option<PathBuf>,
    /// Use /dev/kvm (default: emulation, for /dev/kvm can be there and yet hang the guest)
    #[arg(long, global = true)]
    pub kvm: bool,
}

#[derive(Subcommand)]
enum Command {
    Doctor(cmd::doctor::Opts),
    Setup(cmd::setup::Opts),
    Source(cmd::source::Opts),
    Apply(cmd::apply::Opts),
    Build(cmd::build::Opts),
    Demo(cmd::demo::Opts),
    Test(cmd::test::Opts),
    Pyverbs(cmd::pyverbs::Opts),
    Matrix(cmd::matrix::Opts),
    Mutants(cmd::mutants::Opts),
    Bench(cmd::bench::Opts),
    Fstests(Box<cmd::fstests::Opts>),
    Stress(cmd::stress::Opts),
    Faults(cmd::faults::Opts),
    Powerloss(cmd::powerloss::Opts),
    Run(cmd::run::Opts),
    Shell(cmd::shell::Opts),
    #[command(subcommand)]
    Series(cmd::series::Opts),
    Variants(cmd::variants::Opts),
    Clean(cmd::clean::Opts),
}

impl Cli {
    /// Runs the subcommand.
    pub fn run(self) -> Result<()> {
        let ctx = Ctx::new(self.global)?;
        match self.command {
            Command::Doctor(o) => cmd::doctor::run(&ctx, &o),
            Command::Setup(o) => cmd::setup::run(&ctx, &o),
            Command::Source(o) => cmd::source::run(&ctx, &o),
            Command::Apply(o) => cmd::apply::run(&ctx, &o),
            Command::Build(o) => cmd::build::run(&ctx, &o),
            Command::Demo(o) => cmd::demo::run(&ctx, &o),
            Command::Test(o) => cmd::test::run(&ctx, &o),
            Command::Pyverbs(o) => cmd::pyverbs::run(&ctx, &o),
            Command::Matrix(o) => cmd::matrix::run(&ctx, &o),
            Command::Mutants(o) => cmd::mutants::run(&ctx, &o),
            Command::Bench(o) => cmd::bench::run(&ctx, &o),
            Command::Fstests(o) => cmd::fstests::run(&ctx, &o),
            Command::Stress(o) => cmd::stress::run(&ctx, &o),
            Command::Faults(o) => cmd::faults::run(&ctx, &o),
            Command::Powerloss(o) => cmd::powerloss::run(&ctx, &o),
            Command::Run(o) => cmd::run::run(&ctx, &o),
            Command::Shell(o) => cmd::shell::run(&ctx, &o),
            Command::Series(o) => cmd::series::run(&ctx, &o),
            Command::Variants(o) => cmd::variants::run(&ctx, &o),
            Command::Clean(o) => cmd::clean::run(&ctx, &o),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_an_example() {
        fn check(c: &clap::Command, path: &str) {
            let path = format!("{path} {}", c.get_name());
            if c.has_subcommands() {
                c.get_subcommands()
                    .filter(|s| s.get_name() != "help")
                    .for_each(|s| check(s, &path));
            } else {
                let help = c.clone().render_long_help().to_string();
                assert!(help.contains("Example"), "{path} --help has no example");
            }
        }
        check(&Cli::command(), "");
    }
}
