// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel lists, held against what it has to.

use super::machine::Machine;
use super::world::{Line, World};
use crate::system::Listing;
use anyhow::{bail, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

impl Machine {
    /// What the kernel lists, in the oracle's words. Whoever is not known goes by 0.
    fn listing(&self) -> anyhow::Result<Vec<Line>> {
        let listing = Listing::read()?;
        let id = |pid: u32| {
            let known = self.pids.iter().find(|(_, p)| **p == pid);
            known.map_or(0, |(id, _)| *id)
        };
        let file = |path: &Path| -> Option<(usize, bool)> {
            let name = path.strip_prefix(&self.root).ok()?.to_str()?;
            let (name, linked) = match name.strip_suffix(" (deleted)") {
                Some(name) => (name, false),
                None => (name, true),
            };
            Some((name.strip_prefix("stress-")?.parse().ok()?, linked))
        };
        let mut lines = Vec::new();
        for pin in &listing.pins {
            let Some((file, linked)) = file(&pin.path) else {
                continue;
            };
            let kind = match &pin.owner {
                None => "ring",
                Some(path) if path.ends_with("gup_test") => "gup_test",
                Some(_) => "uverbs",
            };
            let mut holders: Vec<u32> = pin.pids.iter().map(|&pid| id(pid)).collect();
            holders.sort_unstable();
            lines.push(Line::Pin {
                kind,
                holders,
                file,
                linked,
                first: pin.first,
                last: pin.last,
                write: pin.writable,
            });
        }
        for lease in &listing.leases {
            let Some((file, linked)) = file(&lease.path) else {
                continue;
            };
            lines.push(Line::Lease {
                holder: (lease.pid != 0).then(|| id(lease.pid)),
                file,
                linked,
                sole: lease.sole,
            });
        }
        lines.sort_unstable();
        Ok(lines)
    }

    /// The listing must be as it has to be; where somebody has just ended, soon.
    pub fn compare(&self, world: &World, patience: Duration) -> anyhow::Result<()> {
        let wanted = world.listing();
        let deadline = Instant::now() + patience;
        loop {
            let found = self.listing()?;
            if found == wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let only = |one: &[Line], other: &[Line]| -> Vec<Line> {
                    one.iter().filter(|l| !other.contains(l)).cloned().collect()
                };
                bail!(
                    "/proc/file_pins lists {:?} in place of {:?} ({} lines, not {})",
                    only(&found, &wanted),
                    only(&wanted, &found),
                    found.len(),
                    wanted.len()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn look_at_processes(&self, world: &World) -> anyhow::Result<()> {
        for (process, client) in world.processes.iter().zip(&self.clients) {
            let pid = client.pid();
            let lines: usize = crate::pins::of(pid)
                .map_err(|error| anyhow::anyhow!(error))?
                .iter()
                .map(|owned| owned.pins.len())
                .sum();
            let wanted = world.lines_of(process);
            ensure!(
                lines == wanted,
                "/proc/{pid}/file_pins has {lines} pins, not {wanted}"
            );
        }
        for (file, &inode) in world.files.iter().enumerate() {
            let size = fs::metadata(self.path(file))?.len();
            let wanted = world.inodes[inode].size;
            ensure!(size == wanted, "file {file} has {size} bytes, not {wanted}");
        }
        Ok(())
    }
}
