// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin ls`: what is pinned and leased, and who keeps it.

use crate::file::{JsonFile, Known};
use crate::identify::Match;
use crate::process::Process;
use crate::scan::{self, SeenLease, SeenPin, Snapshot, Unseen};
use crate::text::{shown, size, JsonPath};
use crate::watch::{self, Screen};
use crate::{exit, table};
use anyhow::{bail, Context};
use clap::Args;
use layout_lease::proc::{LeaseState, SystemOwner};
use layout_lease::LeaseKind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// List pins and layout leases, with the processes that keep them
///
/// Without an argument those of the whole system, which takes root; otherwise those of a file or of a
/// process. Other users see those of their own processes, and are told what they do not see.
///
/// Exit status: 0 if everything could be seen, 3 if there may be more than is listed, 2 for errors.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  daxpin ls\n  daxpin ls /mnt/pmem/data\n  daxpin ls --json | jq '.pins[].processes[].pid'\n  daxpin ls --watch=1"
)]
pub struct Arguments {
    /// A file, or the number of a process [default: everything]
    #[arg(value_name = "PATH|PID")]
    what: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Look again every SECONDS (2 if not said) until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "2", value_parser = crate::seconds)]
    watch: Option<Duration>,
}

/// What the argument means.
enum Only {
    Everything,
    File(PathBuf),
    Process(u32),
}

impl Only {
    fn of(what: Option<&Path>) -> Only {
        match what {
            None => Only::Everything,
            Some(path) => match path.to_str().and_then(|text| text.parse().ok()) {
                Some(pid) => Only::Process(pid),
                None => Only::File(path.to_owned()),
            },
        }
    }
}

/// Lists, once or until interrupted.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !scan::kernel_has_pins()? {
        bail!(
            "the running kernel ({}) has no file pins to list; it needs CONFIG_FILE_PINS",
            scan::release()
        );
    }
    let only = Only::of(arguments.what.as_deref());
    let Some(interval) = arguments.watch else {
        let snapshot = look(&only)?;
        let text = render(&snapshot, arguments.json, table::width())?;
        // A reader that has seen enough is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        if !arguments.json {
            tell(&snapshot.unseen);
        }
        return Ok(exit::complete(!snapshot.unseen.any()));
    };
    let mut screen = Screen::open(!arguments.json)?;
    loop {
        let snapshot = look(&only)?;
        let mut text = render(&snapshot, arguments.json, table::width())?;
        if !arguments.json {
            for what in snapshot.unseen.words() {
                text.push_str(&format!("not seen: {what}\n"));
            }
        }
        if !screen.show(&text)? || screen.wait(interval)? == watch::Event::End {
            return Ok(exit::complete(!snapshot.unseen.any()));
        }
    }
}

fn tell(unseen: &Unseen) {
    for what in unseen.words() {
        eprintln!("daxpin: not seen: {what}");
    }
}

fn look(only: &Only) -> anyhow::Result<Snapshot> {
    match only {
        Only::Everything => Snapshot::take(),
        Only::Process(pid) => Snapshot::of_process(*pid),
        Only::File(path) => {
            let known = Known::at(path).with_context(|| shown(path))?;
            let mut snapshot = Snapshot::take()?;
            snapshot
                .pins
                .retain(|pin| pin.identity.is(known.id) != Match::No);
            snapshot.leases.retain(|lease| lease.file == Some(known.id));
            Ok(snapshot)
        }
    }
}

/// A snapshot as JSON; see daxpin-ls(1).
#[derive(Serialize)]
struct Json<'a> {
    kernel: String,
    complete: bool,
    unseen: Unseen,
    pins: Vec<JsonPin<'a>>,
    leases: Vec<JsonLease<'a>>,
}

/// A pin as JSON.
#[derive(Serialize)]
pub struct JsonPin<'a> {
    file: JsonFile<'a>,
    first: u64,
    last: u64,
    bytes: u64,
    mode: &'static str,
    owner: JsonOwner<'a>,
    processes: Vec<Process>,
}

#[derive(Serialize)]
struct JsonOwner<'a> {
    kind: &'static str,
    #[serde(flatten)]
    path: Option<JsonPath<'a>>,
}

/// A lease as JSON.
#[derive(Serialize)]
pub struct JsonLease<'a> {
    file: Option<JsonFile<'a>>,
    kind: Option<&'static str>,
    state: &'static str,
    process: Option<Process>,
}

fn mode(pin: &SeenPin) -> &'static str {
    if pin.pin.writable {
        "rw"
    } else {
        "r"
    }
}

fn state(lease: &SeenLease) -> &'static str {
    match lease.state {
        LeaseState::Active => "active",
        LeaseState::Exclusive => "exclusive",
        LeaseState::Breaking => "breaking",
    }
}

fn kind(lease: &SeenLease) -> Option<&'static str> {
    lease.kind.map(|kind| match kind {
        LeaseKind::Shared => "shared",
        LeaseKind::Sole => "sole",
    })
}

impl<'a> JsonPin<'a> {
    /// A pin, with its processes looked up.
    pub fn of(seen: &'a SeenPin) -> Self {
        JsonPin {
            file: JsonFile {
                path: Some(JsonPath(&seen.pin.path)),
                id: seen.identity.file(),
            },
            first: seen.pin.first,
            last: seen.pin.last,
            bytes: seen.pin.bytes(),
            mode: mode(seen),
            owner: match &seen.owner {
                SystemOwner::File(path) => JsonOwner {
                    kind: "file",
                    path: Some(JsonPath(path)),
                },
                SystemOwner::Mm => JsonOwner {
                    kind: "mm",
                    path: None,
                },
            },
            processes: seen.pids.iter().map(|&pid| Process::of(pid)).collect(),
        }
    }
}

impl<'a> JsonLease<'a> {
    /// A lease, with its holder looked up.
    pub fn of(seen: &'a SeenLease) -> Self {
        JsonLease {
            file: (seen.path.is_some() || seen.file.is_some()).then(|| JsonFile {
                path: seen.path.as_deref().map(JsonPath),
                id: seen.file,
            }),
            kind: kind(seen),
            state: state(seen),
            process: seen.pid.map(Process::of),
        }
    }
}

fn render(snapshot: &Snapshot, json: bool, width: Option<u16>) -> anyhow::Result<String> {
    if json {
        let mut text = serde_json::to_string(&Json {
            kernel: scan::release(),
            complete: !snapshot.unseen.any(),
            unseen: snapshot.unseen,
            pins: snapshot.pins.iter().map(JsonPin::of).collect(),
            leases: snapshot.leases.iter().map(JsonLease::of).collect(),
        })?;
        text.push('\n');
        return Ok(text);
    }
    if snapshot.pins.is_empty() && snapshot.leases.is_empty() {
        return Ok("no pins, no layout leases\n".to_owned());
    }
    let mut processes = BTreeMap::new();
    let mut process = |pid: u32| -> Process {
        processes
            .entry(pid)
            .or_insert_with(|| Process::of(pid))
            .clone()
    };
    let mut rows = Vec::new();
    for seen in &snapshot.pins {
        let holders: Vec<Process> = seen.pids.iter().map(|&pid| process(pid)).collect();
        rows.push(pin_row(seen, &holders));
    }
    for seen in &snapshot.leases {
        rows.push(lease_row(seen, seen.pid.map(&mut process)));
    }
    let head = [
        "WHAT", "FILE", "RANGE", "SIZE", "MODE", "OWNER", "PID", "COMMAND",
    ];
    Ok(table::render(&head, rows, width))
}

fn pin_row(seen: &SeenPin, holders: &[Process]) -> Vec<String> {
    let lines = |of: &dyn Fn(&Process) -> String| {
        let lines: Vec<String> = holders.iter().map(of).collect();
        if lines.is_empty() {
            "-".to_owned()
        } else {
            lines.join("\n")
        }
    };
    vec![
        "pin".to_owned(),
        shown(&seen.pin.path),
        format!("{}-{}", seen.pin.first, seen.pin.last),
        size(seen.pin.bytes()),
        mode(seen).to_owned(),
        match &seen.owner {
            SystemOwner::File(path) => shown(path),
            SystemOwner::Mm => "mm".to_owned(),
        },
        lines(&|process| process.pid.to_string()),
        lines(&Process::line),
    ]
}

fn lease_row(seen: &SeenLease, holder: Option<Process>) -> Vec<String> {
    let none = || "-".to_owned();
    let file = match (&seen.path, seen.file) {
        (Some(path), _) => shown(path),
        (None, Some(id)) => id.to_string(),
        (None, None) => none(),
    };
    vec![
        "lease".to_owned(),
        file,
        "all".to_owned(),
        none(),
        format!("{} {}", kind(seen).unwrap_or("-"), state(seen)),
        none(),
        holder
            .as_ref()
            .map_or_else(none, |process| process.pid.to_string()),
        holder.as_ref().map_or_else(none, Process::line),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Identity;
    use layout_lease::proc::Pin;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn snapshot() -> Snapshot {
        let me = std::process::id();
        let id = Known::at(Path::new("/proc/self/exe")).unwrap().id;
        Snapshot {
            pins: vec![SeenPin {
                owner: SystemOwner::File("/dev/infiniband/uverbs0".into()),
                pids: vec![me],
                pin: Pin {
                    path: PathBuf::from(OsStr::from_bytes(b"/mnt/a\x1b\xff")),
                    first: 4096,
                    last: 8191,
                    writable: true,
                },
                identity: Identity::Users([id].into()),
            }],
            leases: vec![SeenLease {
                pid: None,
                confirmed: false,
                state: LeaseState::Exclusive,
                kind: Some(LeaseKind::Sole),
                file: Some(id),
                path: None,
            }],
            unseen: Unseen::default(),
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_and_no_escape_sequences() {
        let text = render(&snapshot(), false, None).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("WHAT"), "{text}");
        for word in ["/mnt/a\\033\\377", "4096-8191", "4 KiB", "rw", "uverbs0"] {
            assert!(lines[1].contains(word), "{text}");
        }
        assert!(lines[1].contains(&std::process::id().to_string()));
        assert!(lines[2].contains("sole exclusive") && lines[2].contains("inode"));
    }

    #[test]
    fn json_has_what_the_table_has_and_every_byte_of_the_path() {
        let text = render(&snapshot(), true, None).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["complete"], true);
        let pin = &json["pins"][0];
        assert_eq!(pin["file"]["path_hex"], "2f6d6e742f611bff");
        assert_eq!(pin["bytes"], 4096);
        assert_eq!(pin["owner"]["kind"], "file");
        assert_eq!(pin["processes"][0]["pid"], std::process::id());
        assert!(pin["file"]["inode"].is_u64());
        assert_eq!(json["leases"][0]["kind"], "sole");
        assert!(json["leases"][0]["process"].is_null());
        crate::manual::documents("daxpin-ls.1", &json);
    }

    #[test]
    fn nothing_is_said_in_words() {
        let text = render(&Snapshot::default(), false, None).unwrap();
        assert_eq!(text, "no pins, no layout leases\n");
    }

    #[test]
    fn a_number_is_a_process_and_all_else_a_path() {
        assert!(matches!(Only::of(Some(Path::new("12"))), Only::Process(12)));
        assert!(matches!(Only::of(Some(Path::new("./12"))), Only::File(_)));
        assert!(matches!(Only::of(Some(Path::new("12a"))), Only::File(_)));
        assert!(matches!(Only::of(None), Only::Everything));
    }
}
