// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs inside the test machine, started by `cargo xtask` there.

mod bench;
mod calls;
mod client;
mod demo;
mod devdax;
mod faults;
mod gup;
mod ioctls;
mod kmsg;
mod ktap;
mod kunit;
mod matrix;
mod names;
mod nfs;
mod ops;
mod perftest;
mod pins;
mod powerloss;
mod protocol;
mod ptrace;
mod pyverbs;
mod results;
mod rings;
mod setup;
mod slow;
mod snapshot;
mod softdev;
mod stress;
mod system;
mod tests;
mod trace;
mod trial;
mod uverbs;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The demo, the contract tests and the kernel's own tests, inside the guest
///
/// Exit status: 0 if everything is as the contract says, 1 if something is not, 2 if it could not be
/// tried.
#[derive(Parser)]
#[command(name = "guest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole idea, step by step, on real filesystems and a software RDMA device
    Demo(demo::Options),
    /// Tests of the contract, as KTAP
    Test(tests::Options),
    /// Which test proves what, as Markdown, from the results of a run
    Matrix(matrix::Options),
    /// KUnit suites of the running kernel, as KTAP
    Kunit(kunit::Options),
    /// What everything costs, as JSON
    Bench(bench::Options),
    /// Every allocation of the operations on leases and pins fails once
    Faults(faults::Options),
    /// Processes that lease, pin and change files by chance, and an oracle that knows what must come of it
    Stress(stress::Options),
    /// A process of the stress run
    #[command(hide = true)]
    Actor(stress::ActorOptions),
    /// What fsync has returned for is there after a power loss
    #[command(subcommand)]
    Powerloss(powerloss::Options),
    /// The verbs library's own tests
    Pyverbs(pyverbs::Options),
    /// A process of a scenario: reads requests from stdin
    #[command(hide = true)]
    Worker {
        /// A descriptor kept through exec
        #[arg(long = "fd", value_name = "NAME=NUMBER")]
        kept: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => tests::run(&options),
        Command::Matrix(options) => matrix::run(&options),
        Command::Kunit(options) => kunit::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Stress(options) => stress::run(&options),
        Command::Actor(options) => stress::act(&options).map(|()| true),
        Command::Powerloss(options) => powerloss::run(&options),
        Command::Pyverbs(options) => pyverbs::run_all(&options),
        Command::Worker { kept } => worker::run(&kept).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod unit_tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
