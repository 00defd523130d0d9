// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short run of what `guest stress` does for long.

use super::env::Env;
use super::{tests, Test};
use crate::setup::Fs;
use crate::stress::{on, Canaries, Plan};
use anyhow::{bail, ensure};
use std::path::Path;
use std::time::Duration;

pub fn tests(_: Fs) -> Vec<Test> {
    tests![leases_and_pins_by_chance, canary_that_changed]
}

/// Bytes for canaries.
const ROOM: u64 = 32 << 20;

const PLAN: Plan = Plan {
    seed: 1,
    ops: Some(300),
    time: Duration::from_secs(6),
    room: ROOM,
    slow: false,
    disturb: None,
};

/// The same steps each time, then everything at once for a moment.
fn leases_and_pins_by_chance(env: &Env) -> anyhow::Result<()> {
    let mut mounted = env.mounted();
    let summary = on(&mut mounted, env.rdma(), PLAN, Path::new("/tmp"), false)?;
    println!("     {summary}");
    Ok(())
}

/// What a device wrote to a block that it should not have any more is noticed.
fn canary_that_changed(env: &Env) -> anyhow::Result<()> {
    let mounted = env.mounted();
    let mut canaries = Canaries::release(&mounted.root, ROOM)?;
    canaries.look_at_all()?;
    canaries.disturb(mounted.fs.device())?;
    match canaries.look_at_all() {
        Ok(()) => bail!("not noticed"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("changed at byte"), "{text}");
            Ok(())
        }
    }
}
