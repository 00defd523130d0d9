// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout leases beside plain ones.

use super::count::costs;
use super::memory::{file, PAGE};
use super::sys::set_lease;
use super::Bench;
use crate::setup::{Fs, Mounted};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use std::fs::File;

/// What a lease is asked for with, and whether a description that may write will do: a plain lease
/// for reading wants that nobody writes.
const KINDS: [(&str, i32, bool); 5] = [
    ("plain", libc::F_RDLCK, false),
    ("plain, sole", libc::F_WRLCK, true),
    ("layout", libc::F_RDLCK | F_LAYOUT, true),
    (
        "layout, exclusive",
        libc::F_RDLCK | F_LAYOUT | F_EXCLUSIVE,
        true,
    ),
    (
        "layout, sole exclusive",
        libc::F_WRLCK | F_LAYOUT | F_EXCLUSIVE,
        true,
    ),
];

/// Taking each kind, and releasing it.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for fs in Fs::ALL {
        let mut mounted = Mounted::roomy(fs)?;
        let path = file(&mounted, "leased", PAGE)?;
        for (kind, argument, writes) in KINDS {
            let file = File::options().read(true).write(writes).open(&path)?;
            let cost = costs(
                100,
                || Ok(()),
                || {
                    set_lease(&file, argument)?;
                    set_lease(&file, libc::F_UNLCK)
                },
            )?;
            let variant = format!("{}-dax, {kind}", fs.name());
            bench.sink.costs("lease-kind", &variant, &cost)?;
        }
        mounted.unmount()?;
    }
    Ok(())
}
