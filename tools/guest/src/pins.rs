// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether `/proc/<pid>/file_pins` says what it should.

use crate::ops::Span;
use layout_lease::proc::{fd_info, file_pins, OwnedPins, Owner};
use std::path::Path;

/// A pin that must be listed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The pinned file.
    pub path: &'a Path,
    /// The registered range; it is widened to pages here.
    pub span: Span,
    /// Whether for writing.
    pub writable: bool,
}

/// Every pin of a process, with the descriptors checked against /proc/<pid>/fd and /proc/<pid>/fdinfo.
pub fn of(pid: u32) -> Result<Vec<OwnedPins>, String> {
    let owners = file_pins(pid).map_err(|error| format!("/proc/{pid}/file_pins: {error}"))?;
    for owned in &owners {
        if let Owner::File { fd, path } = &owned.owner {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
            if target.ok().as_ref() != Some(path) {
                return Err(format!("descriptor {fd} is not {}", path.display()));
            }
            let said = fd_info(pid, *fd).map_err(|e| format!("/proc/{pid}/fdinfo/{fd}: {e}"))?;
            if said.pins != owned.pins {
                return Err(format!(
                    "file_pins has {:?} of descriptor {fd}, and its fdinfo {:?}",
                    owned.pins, said.pins
                ));
            }
        }
    }
    Ok(owners)
}

/// Looks for a pin owned by an uverbs descriptor; the line as text, or what is there instead.
pub fn find(pid: u32, wanted: Wanted) -> Result<String, String> {
    const PAGE: u64 = 4096;
    let first = wanted.span.offset / PAGE * PAGE;
    let last = (wanted.span.offset + wanted.span.length).div_ceil(PAGE) * PAGE - 1;
    let owners = of(pid)?;
    for owned in &owners {
        let Owner::File { fd, path } = &owned.owner else {
            continue;
        };
        let uverbs = path.starts_with("/dev/infiniband");
        let pin = owned.pins.iter().find(|pin| {
            pin.path == wanted.path
                && (pin.first, pin.last, pin.writable) == (first, last, wanted.writable)
        });
        if let (true, Some(pin)) = (uverbs, pin) {
            let mode = if pin.writable { "rw" } else { "r" };
            let name = pin.path.file_name().unwrap_or_default().to_string_lossy();
            return Ok(format!(
                "{fd}: {}: {name} {}-{} {mode}",
                path.display(),
                pin.first,
                pin.last
            ));
        }
    }
    Err(format!("not listed: {owners:?}"))
}

/// How many pins of this file the process is shown to have.
pub fn count(pid: u32, path: &Path) -> Result<usize, String> {
    Ok(of(pid)?
        .iter()
        .flat_map(|owned| &owned.pins)
        .filter(|pin| pin.path == path)
        .count())
}
