// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: gets the kernel source, applies the series, builds it, boots it and tests it.
//!
//! Every subcommand is a module of [`cmd`] that owns its options; `main` parses, calls and turns
//! the result into an exit code (see [`error::Kind`]).

/// As std's, but what cannot be written does not end the run: see [`ui::stream`].
macro_rules! println {
    () => { $crate::ui::stream::line(format_args!("")) };
    ($($text:tt)*) => { $crate::ui::stream::line(format_args!($($text)*)) };
}

/// The same for stderr.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::ui::stream::note(format_args!($($text)*)) };
}

mod bench;
mod cli;
mod cmd;
mod env;
mod error;
mod fstests;
mod guest;
mod kernel;
mod mutants;
#[cfg(test)]
mod properties;
mod report;
mod submit;
mod ui;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    if ui::guard::is_meant() {
        return ui::guard::main();
    }
    let cli = cli::Cli::parse();
    if let Err(e) = ui::signals::install() {
        return error::report(&e);
    }
    ui::guard::install();
    let result = cli.run().and_then(|()| ui::stream::check());
    ui::guard::dismiss();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}
