// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin`: layout leases and file pins for the administrator, and for programs that know nothing of
//! either.

mod check;
mod lease;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Layout leases and pins of files on DAX filesystems.
#[derive(Parser)]
#[command(name = "daxpin", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Lease(lease::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lease(arguments) => lease::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("daxpin: {error:#}");
            ExitCode::from(lease::FAILED)
        }
    }
}
