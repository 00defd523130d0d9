// SPDX-License-Identifier: MIT OR Apache-2.0
//! `daxpin probe`: whether this kernel, filesystem and file support layout leases, and if not, why not.

use crate::diagnose::{self, Reason};
use crate::file::Known;
use crate::mounts::{self, Mount};
use crate::scan;
use crate::text::{shown, JsonPath};
use crate::{exit, table};
use anyhow::Context;
use clap::Args;
use layout_lease::proc::{file_leases, LeaseClass};
use layout_lease::{release, set_lease, LeaseFlags, LeaseKind};
use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Say whether a kernel, filesystem or file supports layout leases, and if not, why not
///
/// A directory is tried with a temporary file that has no name. A file is opened for writing and leased for
/// a moment with a lease that gives way to everybody; its contents are not touched. Without an argument
/// every mounted ext4 and XFS filesystem is tried.
///
/// Exit status: 0 if it is supported (without an argument: somewhere), 1 if it is not, 3 if that could not be
/// tried (a missing permission, a read-only mount), 2 for errors.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  daxpin probe\n  daxpin probe /mnt/pmem\n  daxpin probe --json /mnt/pmem/data"
)]
pub struct Arguments {
    /// A directory, or a regular file
    #[arg(value_name = "MOUNTPOINT|FILE")]
    path: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// How a question was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Yes(String),
    No(Reason),
    Unknown(Reason),
}

/// A place that was tried.
struct Tried {
    path: PathBuf,
    mount: Option<Mount>,
    answer: Answer,
}

/// Tries, and tells.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let kernel = diagnose::kernel();
    let tried = match &arguments.path {
        // What does not exist is a mistake, with any kernel.
        Some(path) => vec![tried(path, kernel.is_none())?],
        None => everywhere(kernel.is_none())?,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&json(kernel.as_ref(), &tried))?);
    } else {
        print!("{}", text(kernel.as_ref(), &tried));
    }
    Ok(status(kernel.as_ref(), &tried))
}

fn status(kernel: Option<&Reason>, tried: &[Tried]) -> ExitCode {
    let any = |wanted: fn(&Answer) -> bool| tried.iter().any(|tried| wanted(&tried.answer));
    if kernel.is_some() {
        exit::NO
    } else if any(|answer| matches!(answer, Answer::Yes(_))) {
        exit::YES
    } else if any(|answer| matches!(answer, Answer::Unknown(_))) {
        exit::UNKNOWN
    } else {
        exit::NO
    }
    .into()
}

fn everywhere(kernel: bool) -> anyhow::Result<Vec<Tried>> {
    let mut seen = std::collections::HashSet::new();
    let mut out = Vec::new();
    for mount in mounts::own().context("/proc/self/mountinfo")? {
        if mount.can_take_part() && seen.insert(mount.device) {
            // Another mount may hide it since.
            if let Ok(tried) = tried(&mount.point, kernel) {
                out.push(tried);
            }
        }
    }
    Ok(out)
}

fn tried(path: &Path, kernel: bool) -> anyhow::Result<Tried> {
    let known = Known::at(path).with_context(|| shown(path))?;
    let answer = if kernel {
        attempt(path, &known)
    } else {
        Answer::Unknown(Reason {
            what: "not tried".to_owned(),
            remedy: None,
        })
    };
    Ok(Tried {
        path: path.to_owned(),
        mount: mounts::of_file(&known).ok().flatten(),
        answer,
    })
}

fn unknown(what: impl Into<String>, remedy: &str) -> Answer {
    Answer::Unknown(Reason {
        what: what.into(),
        remedy: Some(remedy.to_owned()),
    })
}

fn attempt(path: &Path, known: &Known) -> Answer {
    let directory = known.kind == rustix::fs::FileType::Directory;
    if !directory && !known.is_regular() {
        return Answer::No(Reason {
            what: "only regular files can be leased".to_owned(),
            remedy: None,
        });
    }
    if !directory {
        if let Some(answer) = others_lease(known) {
            return answer;
        }
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = if directory {
        open(path, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR)
    } else {
        open(path, flags, Mode::empty())
    };
    match opened {
        Ok(fd) if directory => lease(
            &fd,
            &[
                LeaseFlags::LAYOUT,
                LeaseFlags::LAYOUT | LeaseFlags::EXCLUSIVE,
            ],
        ),
        // One that cannot be broken would be in the way of others, if for a moment only.
        Ok(fd) => lease(&fd, &[LeaseFlags::LAYOUT]),
        Err(error) => not_opened(error, directory, known),
    }
}

/// Opening the file for writing would break these: that is not what was asked for.
fn others_lease(known: &Known) -> Option<Answer> {
    let leases = file_leases().ok()?;
    let other = leases.iter().find(|lease| {
        (lease.device, lease.inode) == (known.id.device, known.id.inode)
            && lease.class != LeaseClass::Layout
    })?;
    let holder = match other.pid {
        Some(pid) => crate::process::Process::of(pid).brief(),
        None => "somebody".to_owned(),
    };
    Some(unknown(
        format!("{holder} has a lease on its data, which opening the file would break"),
        "try its directory",
    ))
}

fn not_opened(error: Errno, directory: bool, known: &Known) -> Answer {
    match error {
        Errno::ACCESS | Errno::PERM if directory => unknown(
            "you may not make files there",
            "run it as root, or try a file of your own",
        ),
        Errno::ACCESS | Errno::PERM => unknown(
            "you may not open it for writing, which an exclusive lease needs",
            "run it as the file's owner or as root",
        ),
        Errno::ROFS => Answer::No(Reason {
            what: "mounted read-only, and an exclusive lease needs a file open for writing"
                .to_owned(),
            remedy: Some("mount -o remount,rw".to_owned()),
        }),
        Errno::TXTBSY => unknown("it is being executed", "try its directory"),
        // The file systems that take part have had O_TMPFILE for long.
        Errno::OPNOTSUPP | Errno::ISDIR if directory => {
            let mount = mounts::of_file(known).ok().flatten();
            let kind = mount.map_or_else(|| "the filesystem".to_owned(), |mount| mount.kind);
            Answer::No(Reason {
                what: format!("{kind} takes no part"),
                remedy: Some("only ext4 and XFS on persistent memory do".to_owned()),
            })
        }
        error => unknown(format!("it cannot be opened: {error}"), "try another place"),
    }
}

fn lease(fd: &OwnedFd, all: &[LeaseFlags]) -> Answer {
    for &flags in all {
        if let Err(error) = set_lease(fd, LeaseKind::Shared, flags) {
            let reason = diagnose::refusal(fd, &error);
            return match Errno::from_raw_os_error(error.errno()) {
                // Leased by others: the file can be leased.
                Errno::AGAIN => Answer::Yes(format!("supported; {}", reason.what)),
                Errno::ACCESS => Answer::Unknown(reason),
                _ => Answer::No(reason),
            };
        }
    }
    let _ = release(fd);
    Answer::Yes("supported".to_owned())
}

fn devices() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/infiniband") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| shown(entry.file_name()))
        .collect();
    names.sort();
    names
}

fn text(kernel: Option<&Reason>, tried: &[Tried]) -> String {
    let mut rows = vec![vec![
        "kernel".to_owned(),
        match kernel {
            None => format!("{}: layout leases and file pins", scan::release()),
            Some(reason) => format!("no: {}", reason.what),
        },
        kernel
            .and_then(|reason| reason.remedy.clone())
            .unwrap_or_default(),
    ]];
    let devices = devices();
    rows.push(vec![
        "RDMA".to_owned(),
        if devices.is_empty() {
            "no device, so nothing to register files with".to_owned()
        } else {
            devices.join(" ")
        },
        String::new(),
    ]);
    for tried in tried {
        let (word, remedy) = match &tried.answer {
            Answer::Yes(what) => (what.clone(), None),
            Answer::No(reason) => (format!("no: {}", reason.what), reason.remedy.clone()),
            Answer::Unknown(reason) => (format!("unknown: {}", reason.what), reason.remedy.clone()),
        };
        rows.push(vec![shown(&tried.path), word, remedy.unwrap_or_default()]);
    }
    if tried.is_empty() {
        rows.push(vec![
            "filesystems".to_owned(),
            "no: neither ext4 nor XFS is mounted".to_owned(),
            "mount one with -o dax=always on persistent memory".to_owned(),
        ]);
    }
    table::render(&["WHAT", "ANSWER", "REMEDY"], rows, table::width())
}

/// The answer as JSON; see daxpin-probe(1).
#[derive(Serialize)]
struct Json<'a> {
    kernel: JsonAnswer,
    release: String,
    rdma: Vec<String>,
    tried: Vec<JsonTried<'a>>,
}

#[derive(Serialize)]
struct JsonAnswer {
    supported: Option<bool>,
    reason: Option<String>,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct JsonTried<'a> {
    #[serde(flatten)]
    path: JsonPath<'a>,
    filesystem: Option<String>,
    #[serde(flatten)]
    answer: JsonAnswer,
}

impl JsonAnswer {
    fn of(answer: &Answer) -> JsonAnswer {
        let (supported, reason) = match answer {
            Answer::Yes(_) => (Some(true), None),
            Answer::No(reason) => (Some(false), Some(reason)),
            Answer::Unknown(reason) => (None, Some(reason)),
        };
        JsonAnswer {
            supported,
            reason: reason.map(|reason| reason.what.clone()),
            remedy: reason.and_then(|reason| reason.remedy.clone()),
        }
    }
}

fn json<'a>(kernel: Option<&Reason>, tried: &'a [Tried]) -> Json<'a> {
    Json {
        kernel: JsonAnswer {
            supported: Some(kernel.is_none()),
            reason: kernel.map(|reason| reason.what.clone()),
            remedy: kernel.and_then(|reason| reason.remedy.clone()),
        },
        release: scan::release(),
        rdma: devices(),
        tried: tried
            .iter()
            .map(|tried| JsonTried {
                path: JsonPath(&tried.path),
                filesystem: tried.mount.as_ref().map(|mount| mount.kind.clone()),
                answer: JsonAnswer::of(&tried.answer),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(answer: Answer) -> Tried {
        Tried {
            path: "/mnt".into(),
            mount: None,
            answer,
        }
    }

    fn no() -> Answer {
        Answer::No(Reason {
            what: "xfs takes no part".to_owned(),
            remedy: Some("do this".to_owned()),
        })
    }

    #[test]
    fn the_status_is_that_of_the_best_place() {
        let code =
            |kernel: Option<&Reason>, tried: &[Tried]| format!("{:?}", status(kernel, tried));
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        let yes = || at(Answer::Yes("supported".to_owned()));
        let unsure = || at(unknown("?", "!"));
        assert_eq!(code(None, &[at(no()), yes()]), is(exit::YES));
        assert_eq!(code(None, &[at(no()), unsure()]), is(exit::UNKNOWN));
        assert_eq!(code(None, &[at(no())]), is(exit::NO));
        assert_eq!(code(None, &[]), is(exit::NO));
        let old = Reason {
            what: "old".to_owned(),
            remedy: None,
        };
        assert_eq!(code(Some(&old), &[yes()]), is(exit::NO));
    }

    #[test]
    fn the_remedy_is_shown_and_in_json() {
        let tried = [at(no())];
        let text = text(None, &tried);
        assert!(
            text.contains("no: xfs takes no part") && text.contains("do this"),
            "{text}"
        );
        let json = serde_json::to_value(json(None, &tried)).unwrap();
        assert_eq!(json["kernel"]["supported"], true);
        assert_eq!(json["tried"][0]["supported"], false);
        assert_eq!(json["tried"][0]["remedy"], "do this");
        assert_eq!(json["tried"][0]["path"], "/mnt");
        crate::manual::documents("daxpin-probe.1", &json);
    }

    #[test]
    fn directories_without_files_and_devices_are_refused() {
        let proc = Known::at(Path::new("/proc")).unwrap();
        let answer = attempt(Path::new("/proc"), &proc);
        assert!(
            matches!(&answer, Answer::No(reason) if reason.what == "proc takes no part"),
            "{answer:?}"
        );
        let null = Known::at(Path::new("/dev/null")).unwrap();
        assert!(matches!(
            attempt(Path::new("/dev/null"), &null),
            Answer::No(_)
        ));
    }
}
