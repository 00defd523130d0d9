// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin why`: what refuses to change a file's blocks, and which processes have to end.

use crate::file::{JsonFile, Known};
use crate::ls::{JsonLease, JsonPin};
use crate::mounts;
use crate::process::Process;
use crate::range::Range;
use crate::scan::{self, SeenLease, Snapshot, Unseen};
use crate::signal::{self, Name};
use crate::text::{shown, JsonPath};
use crate::verdict::{Blocker, Verdict, What};
use crate::{exit, scan::kernel_has_pins};
use anyhow::{bail, Context};
use clap::Args;
use layout_lease::proc::SystemOwner;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Say what would refuse a truncate or a hole punch, and which processes to end
///
/// Looks for pins and exclusive layout leases on the file, by whatever name they were taken, and for the
/// older reasons to be told "Text file busy": a swap file, a program that runs. The file is not touched.
///
/// Exit status: 0 if nothing is in the way, 1 if something is, 3 if that could not be found out (without
/// root, other users' pins cannot be seen), 2 for errors.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  daxpin why /mnt/pmem/data\n  daxpin why --range 1M-2M /mnt/pmem/data\n  daxpin why --wait 60 /mnt/pmem/data && truncate -s 0 /mnt/pmem/data\n  daxpin why --signal TERM --yes /mnt/pmem/data"
)]
pub struct Arguments {
    /// The file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Only changes of these bytes, the last one included [default: the whole file]
    #[arg(
        long,
        value_name = "FIRST-LAST",
        default_value = "0-",
        hide_default_value = true
    )]
    range: Range,
    /// Wait until nothing is in the way, but not longer
    #[arg(long, value_name = "SECONDS", value_parser = crate::seconds)]
    wait: Option<Duration>,
    /// Send this signal to the processes that have to end, then wait (5 seconds without --wait)
    #[arg(long, value_name = "NAME")]
    signal: Option<Name>,
    /// Really send it
    #[arg(long, requires = "signal")]
    yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

const PAUSE: Duration = Duration::from_millis(200);
const AFTER_SIGNAL: Duration = Duration::from_secs(5);

/// Judges, waits and signals as told.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let target = Known::at(&arguments.path).with_context(|| shown(&arguments.path))?;
    if !target.is_regular() {
        bail!("{}: not a regular file", shown(&arguments.path));
    }
    on_overlay(&arguments.path, &target)?;
    let has_pins = kernel_has_pins()?;
    let judge = || judge(&target, arguments.range, has_pins);
    let mut verdict = judge()?;
    let mut patience = arguments.wait;
    if let (Some(name), true) = (arguments.signal, verdict.is_blocked()) {
        if arguments.yes {
            signal::send(name, &verdict.to_end(), || {
                Ok(judge()?
                    .to_end()
                    .iter()
                    .map(|process| process.pid)
                    .collect())
            })?;
            patience.get_or_insert(AFTER_SIGNAL);
        } else {
            for process in verdict.to_end() {
                eprintln!("daxpin: would send {name} to {}", process.brief());
            }
            eprintln!("daxpin: nothing was sent: add --yes");
        }
    }
    if let Some(patience) = patience {
        let end = Instant::now() + patience;
        while !verdict.blockers.is_empty() && Instant::now() < end {
            std::thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
            verdict = judge()?;
        }
    }
    let answer = Answer {
        path: &arguments.path,
        target: &target,
        range: arguments.range,
        has_pins,
        verdict: &verdict,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&answer.json())?);
    } else {
        print!("{}", answer.text());
    }
    Ok(answer.status())
}

/// One answer. What cannot be told apart for certain is looked at again: a file that is renamed at that very
/// moment has two names, or none.
fn judge(target: &Known, range: Range, has_pins: bool) -> anyhow::Result<Verdict> {
    let mut tries = 3;
    loop {
        let snapshot = if has_pins && target.dax {
            Snapshot::take()?
        } else {
            Snapshot::default()
        };
        let verdict = Verdict::of(target, range, snapshot, huge_page());
        tries -= 1;
        if tries == 0 || verdict.is_blocked() || verdict.blockers.is_empty() {
            return Ok(verdict);
        }
    }
}

/// A file on overlayfs is another one below, whose pins are listed and whose blocks are changed.
fn on_overlay(path: &Path, target: &Known) -> anyhow::Result<()> {
    let mount = mounts::of_file(target).context("/proc/self/mountinfo")?;
    if mount.is_some_and(|mount| mount.kind == "overlay") {
        bail!(
            "{}: on overlayfs; give the path of the file in the filesystem below it",
            shown(path)
        );
    }
    Ok(())
}

fn huge_page() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|size: &u64| size.is_power_of_two())
        .unwrap_or(2 << 20)
}

struct Answer<'a> {
    path: &'a Path,
    target: &'a Known,
    range: Range,
    has_pins: bool,
    verdict: &'a Verdict,
}

impl Answer<'_> {
    fn status(&self) -> ExitCode {
        match (self.verdict.is_blocked(), self.verdict.is_free()) {
            (true, _) => exit::NO.into(),
            (false, true) => exit::YES.into(),
            (false, false) => exit::UNKNOWN.into(),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (name, verdict) = (shown(self.path), self.verdict);
        if verdict.is_blocked() {
            let range = if self.range == Range::ALL {
                "a change".to_owned()
            } else {
                format!("a change of bytes {}", self.range)
            };
            let errno = verdict
                .certain()
                .next()
                .map_or("", |first| first.what.errno());
            writeln!(out, "{name}: {range} is refused ({errno})")?;
        } else if !verdict.blockers.is_empty() {
            writeln!(out, "{name}: a change may be refused")?;
        } else if verdict.unseen.any() {
            writeln!(
                out,
                "{name}: nothing was found, but not everything could be seen"
            )?;
        } else if self.has_pins || !self.target.dax {
            writeln!(out, "{name}: nothing")?;
        } else {
            let release = scan::release();
            writeln!(
                out,
                "{name}: nothing (the running kernel, {release}, has no layout leases)"
            )?;
        }
        for blocker in &verdict.blockers {
            write_blocker(out, blocker)?;
        }
        for lease in &verdict.breakable {
            let holder = match lease.pid {
                Some(pid) => Process::of(pid).brief(),
                None => "a process that cannot be named".to_owned(),
            };
            writeln!(
                out,
                "  (a layout lease of {holder} will be broken first: up to {} s)",
                lease_break_time()
            )?;
        }
        for what in verdict.unseen.words() {
            writeln!(out, "  not seen: {what}")?;
        }
        let to_end: Vec<String> = verdict.to_end().iter().map(|one| one.brief()).collect();
        if !to_end.is_empty() {
            writeln!(out, "to let go, or to be ended: {}", to_end.join(", "))?;
        }
        Ok(())
    }

    fn json(&self) -> Json<'_> {
        Json {
            kernel: scan::release(),
            file: JsonFile {
                path: Some(JsonPath(self.path)),
                id: Some(self.target.id),
            },
            first: self.range.first,
            last: (self.range.last != u64::MAX).then_some(self.range.last),
            status: match (self.verdict.is_blocked(), self.verdict.is_free()) {
                (true, _) => "blocked",
                (false, true) => "free",
                (false, false) => "unknown",
            },
            blockers: self.verdict.blockers.iter().map(JsonBlocker::of).collect(),
            end: self
                .verdict
                .to_end()
                .iter()
                .map(|process| process.pid)
                .collect(),
            breakable: self.verdict.breakable.iter().map(JsonLease::of).collect(),
            unseen: self.verdict.unseen,
        }
    }
}

fn lease_break_time() -> String {
    std::fs::read_to_string("/proc/sys/fs/lease-break-time")
        .map_or_else(|_| "45".to_owned(), |text| text.trim().to_owned())
}

fn write_blocker(out: &mut String, blocker: &Blocker) -> std::fmt::Result {
    let what = match &blocker.what {
        What::Pin(seen) => {
            let mode = if seen.pin.writable { "rw" } else { "r" };
            let owner = match &seen.owner {
                SystemOwner::File(path) => shown(path),
                SystemOwner::Mm => "the memory of a process".to_owned(),
            };
            let (first, last) = (seen.pin.first, seen.pin.last);
            let path = shown(&seen.pin.path);
            format!("pin of {path} {first}-{last} {mode}, by {owner}")
        }
        What::Lease(lease) => format!("exclusive layout lease{}", of_path(lease)),
        What::Swap => "it is in use as a swap file (swapoff ends that)".to_owned(),
        What::Executable => "it is being executed".to_owned(),
        What::Immutable => "it is immutable (chattr -i ends that)".to_owned(),
        What::AppendOnly => "it can only be appended to (chattr -a ends that)".to_owned(),
    };
    match blocker.doubt {
        Some(doubt) => writeln!(out, "  perhaps a {what}\n      {doubt}")?,
        None => writeln!(out, "  {what}")?,
    }
    for (process, role) in &blocker.processes {
        writeln!(out, "      {} {}", process.brief(), role.words())?;
    }
    let held = matches!(blocker.what, What::Pin(_) | What::Lease(_));
    if held && blocker.processes.is_empty() {
        writeln!(
            out,
            "      no process that can be seen: the descriptor may be on its way over a socket"
        )?;
    }
    Ok(())
}

fn of_path(lease: &SeenLease) -> String {
    match &lease.path {
        Some(path) => format!(" on {}", shown(path)),
        None => String::new(),
    }
}

/// The answer as JSON; see daxpin-why(1).
#[derive(Serialize)]
struct Json<'a> {
    kernel: String,
    file: JsonFile<'a>,
    first: u64,
    last: Option<u64>,
    status: &'static str,
    blockers: Vec<JsonBlocker<'a>>,
    end: Vec<u32>,
    breakable: Vec<JsonLease<'a>>,
    unseen: Unseen,
}

#[derive(Serialize)]
struct JsonBlocker<'a> {
    what: &'static str,
    errno: &'static str,
    certain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<JsonPin<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<JsonLease<'a>>,
    processes: Vec<JsonRole<'a>>,
}

#[derive(Serialize)]
struct JsonRole<'a> {
    #[serde(flatten)]
    process: &'a Process,
    role: &'static str,
}

impl<'a> JsonBlocker<'a> {
    fn of(blocker: &'a Blocker) -> Self {
        let (what, pin, lease) = match &blocker.what {
            What::Pin(seen) => ("pin", Some(JsonPin::of(seen)), None),
            What::Lease(seen) => ("lease", None, Some(JsonLease::of(seen))),
            What::Swap => ("swap", None, None),
            What::Executable => ("executable", None, None),
            What::Immutable => ("immutable", None, None),
            What::AppendOnly => ("append-only", None, None),
        };
        JsonBlocker {
            what,
            errno: blocker.what.errno(),
            certain: blocker.doubt.is_none(),
            pin,
            lease,
            processes: blocker
                .processes
                .iter()
                .map(|(process, role)| JsonRole {
                    process,
                    role: role.name(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(verdict: &Verdict, has_pins: bool) -> (String, serde_json::Value) {
        let target = Known::at(Path::new("/proc/self/exe")).unwrap();
        let answer = Answer {
            path: Path::new("/mnt/a"),
            target: &target,
            range: Range::ALL,
            has_pins,
            verdict,
        };
        let json = serde_json::to_value(answer.json()).unwrap();
        (answer.text(), json)
    }

    #[test]
    fn nothing_is_said_only_where_everything_was_seen() {
        let (text, json) = answer(&Verdict::default(), true);
        assert_eq!(text, "/mnt/a: nothing\n");
        assert_eq!(json["status"], "free");
        let mut verdict = Verdict::default();
        verdict.unseen.processes = 3;
        let (text, json) = answer(&verdict, true);
        assert!(!text.contains(": nothing\n"), "{text}");
        assert!(text.contains("not seen: the pins of 3 processes"), "{text}");
        assert_eq!(json["status"], "unknown");
    }

    #[test]
    fn a_blocker_is_named_with_its_processes() {
        let running = Known::at(Path::new("/proc/self/exe")).unwrap();
        let verdict = Verdict::of(&running, Range::ALL, Snapshot::default(), 2 << 20);
        let (text, json) = answer(&verdict, true);
        assert!(text.contains("is refused (ETXTBSY)"), "{text}");
        assert!(text.contains("it is being executed"), "{text}");
        assert_eq!(json["status"], "blocked");
        assert_eq!(json["blockers"][0]["what"], "executable");
        crate::manual::documents("daxpin-why.1", &json);
        let me = std::process::id();
        let pids = json["end"].as_array().unwrap();
        assert!(pids.iter().any(|pid| *pid == me));
        assert!(text.contains(&format!("{me} ")), "{text}");
    }

    #[test]
    fn an_ordinary_file_is_free_for_everybody() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let target = Known::at(&path).unwrap();
        assert!(judge(&target, Range::ALL, true).unwrap().is_free());
    }
}
