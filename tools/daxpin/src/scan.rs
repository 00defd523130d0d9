// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can be seen of pins and layout leases at one moment.

use crate::file::{FileId, Known};
use crate::identify::{Identifier, Identity};
use crate::process;
use anyhow::Context;
use layout_lease::proc::{self, Entry, FileLease, LeaseClass, LeaseState, Owner, Pin, SystemOwner};
use layout_lease::LeaseKind;
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// A pin, who keeps it, and what it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPin {
    /// The file that owns it, or the memory.
    pub owner: SystemOwner,
    /// The processes that have the owner.
    pub pids: Vec<u32>,
    /// The range.
    pub pin: Pin,
    /// Which file that is.
    pub identity: Identity,
}

/// A layout lease, and what it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLease {
    /// The holder.
    pub pid: Option<u32>,
    /// Whether that is the process still: `/proc/locks` goes on showing the number of one that has ended,
    /// which may be another's by now.
    pub confirmed: bool,
    /// Whether and how it can be broken.
    pub state: LeaseState,
    /// Shared or sole; unknown for one that is being broken down to nothing.
    pub kind: Option<LeaseKind>,
    /// Which file.
    pub file: Option<FileId>,
    /// A name of it.
    pub path: Option<PathBuf>,
}

/// What could not be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// The listing of the whole system: what no process has open is not seen, such as a descriptor on its
    /// way over a socket.
    pub system: bool,
    /// Processes that may not be looked into.
    pub processes: usize,
    /// Whether other users' processes may be hidden altogether.
    pub users: bool,
    /// Leases of processes outside this pid namespace.
    pub namespaces: bool,
    /// Processes of which it may not be known what program they run, where that matters.
    pub programs: usize,
}

impl Unseen {
    /// Whether there is anything.
    pub fn any(&self) -> bool {
        *self != Unseen::default()
    }

    /// In words, one thing each.
    pub fn words(&self) -> Vec<String> {
        let mut out = Vec::new();
        let processes = |count| match count {
            1 => "1 process".to_owned(),
            count => format!("{count} processes"),
        };
        if self.processes > 0 {
            let of = processes(self.processes);
            out.push(format!("the pins of {of} that you may not trace"));
        }
        if self.programs > 0 {
            let of = processes(self.programs);
            out.push(format!("the programs of {of} that you may not trace"));
        }
        if self.users {
            out.push("processes of other users, where /proc hides them".to_owned());
        }
        if self.namespaces {
            out.push("leases and pins of processes outside this pid namespace".to_owned());
        }
        if self.system {
            out.push("pins that no process has open, such as in flight over a socket".to_owned());
        }
        out
    }
}

/// Pins and leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The pins.
    pub pins: Vec<SeenPin>,
    /// The layout leases.
    pub leases: Vec<SeenLease>,
    /// What else there may be.
    pub unseen: Unseen,
}

/// Whether the running kernel has pins to list at all.
///
/// # Errors
/// Without `/proc`.
pub fn kernel_has_pins() -> anyhow::Result<bool> {
    match std::fs::symlink_metadata("/proc/self/file_pins") {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::metadata("/proc/self").context("/proc is not mounted")?;
            Ok(false)
        }
        Err(error) => Err(error).context("/proc/self/file_pins"),
    }
}

/// The running kernel's release.
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

impl Snapshot {
    /// Looks at the whole system, as far as this process may.
    ///
    /// # Errors
    /// Where a listing cannot be read for other reasons than permission, or has another form.
    pub fn take() -> anyhow::Result<Snapshot> {
        let mut identifier = Identifier::default();
        let system = match proc::system_file_pins() {
            Ok(entries) => Some(entries),
            Err(error) if may_be_missing(&error) => None,
            Err(error) => return Err(error).context("/proc/file_pins"),
        };
        let (raw, unseen) = match &system {
            Some(entries) => (from_system(entries), Unseen::default()),
            None => from_processes()?,
        };
        let pins = raw
            .into_iter()
            .map(|(owner, pids, pin)| SeenPin {
                identity: identifier.identify(&pin.path, &pids),
                owner,
                pids,
                pin,
            })
            .collect();
        let listed = proc::file_leases().context("/proc/locks")?;
        let leases = leases(&listed, system.as_deref().unwrap_or(&[]));
        Ok(Snapshot {
            pins,
            leases,
            unseen,
        })
    }

    /// Looks at one process alone.
    ///
    /// # Errors
    /// Where it cannot be looked into.
    pub fn of_process(pid: u32) -> anyhow::Result<Snapshot> {
        let owned = proc::file_pins(pid).with_context(|| format!("process {pid}"))?;
        let mut identifier = Identifier::default();
        let mut snapshot = Snapshot::default();
        for (owner, pin) in flat(owned) {
            snapshot.pins.push(SeenPin {
                owner,
                identity: identifier.identify(&pin.path, &[pid]),
                pids: vec![pid],
                pin,
            });
        }
        let listed = proc::file_leases().context("/proc/locks")?;
        snapshot.leases = leases(&listed, &[]);
        snapshot.leases.retain(|lease| lease.pid == Some(pid));
        Ok(snapshot)
    }
}

type RawPin = (SystemOwner, Vec<u32>, Pin);

fn may_be_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

fn from_system(entries: &[Entry]) -> Vec<RawPin> {
    let pins = entries.iter().filter_map(|entry| match entry {
        Entry::Pin(pin) => Some(pin.clone()),
        Entry::Lease(_) => None,
    });
    pins.map(|pin| {
        // Processes without a number here cannot be named, only counted.
        let pids = pin.pids.into_iter().filter(|&pid| pid != 0).collect();
        (pin.owner, pids, pin.pin)
    })
    .collect()
}

fn from_processes() -> anyhow::Result<(Vec<RawPin>, Unseen)> {
    let mut unseen = Unseen {
        system: true,
        users: !rustix::process::geteuid().is_root(),
        namespaces: !in_first_pid_namespace(),
        ..Unseen::default()
    };
    let mut pins = Vec::new();
    for pid in process::all().context("/proc")? {
        match proc::file_pins(pid) {
            Ok(owned) => pins.extend(flat(owned).map(|(owner, pin)| (owner, vec![pid], pin))),
            Err(error) if process::is_gone(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Kernel threads may not be traced either, and hold nothing.
                unseen.processes += usize::from(!is_kernel_thread(pid));
            }
            Err(error) => return Err(error).with_context(|| format!("/proc/{pid}/file_pins")),
        }
    }
    Ok((pins, unseen))
}

fn flat(owned: Vec<proc::OwnedPins>) -> impl Iterator<Item = (SystemOwner, Pin)> {
    owned.into_iter().flat_map(|owned| {
        let owner = match owned.owner {
            Owner::File { path, .. } => SystemOwner::File(path),
            Owner::Mm => SystemOwner::Mm,
        };
        owned.pins.into_iter().map(move |pin| (owner.clone(), pin))
    })
}

/// `PF_KTHREAD` of the flags in `/proc/<pid>/stat`.
pub fn is_kernel_thread(pid: u32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let stat = std::fs::read(process::directory(pid).join("stat")).unwrap_or_default();
    flags(&stat).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

fn flags(stat: &[u8]) -> Option<u64> {
    // The name in parentheses may contain anything; nothing behind it does.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(6)?.parse().ok()
}

fn in_first_pid_namespace() -> bool {
    // PROC_PID_INIT_INO, part of the kernel's interface.
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"))
}

/// The layout leases of `/proc/locks`, named where a name can be found, and those only the other listing has.
fn leases(listed: &[FileLease], system: &[Entry]) -> Vec<SeenLease> {
    let mut open: HashMap<u32, Vec<(FileId, PathBuf)>> = HashMap::new();
    let mut found = Vec::new();
    for lease in listed {
        if lease.class != LeaseClass::Layout {
            continue;
        }
        let file = FileId {
            device: lease.device,
            inode: lease.inode,
        };
        let path = lease.pid.and_then(|pid| {
            let files = open.entry(pid).or_insert_with(|| open_files(pid));
            let found = files.iter().find(|(id, _)| *id == file)?;
            Some(found.1.clone())
        });
        found.push(SeenLease {
            pid: lease.pid,
            confirmed: false,
            state: lease.state,
            kind: lease.kind,
            file: Some(file),
            path,
        });
    }
    merge(&mut found, system);
    found
}

/// Every exclusive lease of the system's listing is one of `found`, or was hidden from it.
fn merge(found: &mut Vec<SeenLease>, system: &[Entry]) {
    let mut taken = vec![false; found.len()];
    for entry in system {
        let Entry::Lease(entry) = entry else { continue };
        let named = Known::at(&entry.path).ok().map(|known| known.id);
        let is_same = |index: usize, same_holder: bool| {
            let lease: &SeenLease = &found[index];
            !taken[index]
                && lease.state == LeaseState::Exclusive
                && lease.kind == Some(entry.kind)
                && (lease.pid == entry.pid) == same_holder
                && match &lease.path {
                    Some(path) => *path == entry.path,
                    None => named.is_none() || lease.file == named,
                }
        };
        let exact = (0..taken.len()).find(|&index| is_same(index, true));
        // A holder that has ended is a number in one listing and none in the other.
        let gone = || (0..taken.len()).find(|&index| entry.pid.is_none() && is_same(index, false));
        match exact.or_else(gone) {
            Some(index) => {
                taken[index] = true;
                found[index].pid = entry.pid;
                found[index].confirmed = true;
                found[index].path.get_or_insert_with(|| entry.path.clone());
            }
            None => found.push(SeenLease {
                pid: entry.pid,
                confirmed: true,
                state: LeaseState::Exclusive,
                kind: Some(entry.kind),
                file: named,
                path: Some(entry.path.clone()),
            }),
        }
    }
}

/// The files a process has open, with the names they were opened by.
fn open_files(pid: u32) -> Vec<(FileId, PathBuf)> {
    let files = process::descriptors(pid).unwrap_or_default();
    let known = files.into_iter().filter_map(|(fd, path)| {
        let link = process::directory(pid).join("fd").join(fd.to_string());
        Some((Known::at(&link).ok()?.id, path))
    });
    known.collect()
}

/// The processes that have a lease's open file description: it stays as long as one of them has it.
pub fn lease_users(file: FileId) -> Vec<u32> {
    let mut users = Vec::new();
    for pid in process::all().unwrap_or_default() {
        let descriptors = process::descriptors(pid).unwrap_or_default();
        let has_it = descriptors.into_iter().any(|(fd, _)| {
            let link = process::directory(pid).join("fd").join(fd.to_string());
            Known::at(&link).is_ok_and(|known| known.id == file)
                && proc::fd_info(pid, fd).is_ok_and(|info| {
                    info.leases.iter().any(|lease| {
                        lease.class == LeaseClass::Layout && lease.state == LeaseState::Exclusive
                    })
                })
        });
        if has_it {
            users.push(pid);
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout_lease::proc::{Device, SystemLease};

    fn exclusive(pid: Option<u32>, inode: u64) -> SeenLease {
        SeenLease {
            pid,
            confirmed: false,
            state: LeaseState::Exclusive,
            kind: Some(LeaseKind::Shared),
            file: Some(FileId {
                device: Device {
                    major: 259,
                    minor: 0,
                },
                inode,
            }),
            path: None,
        }
    }

    fn entry(pid: Option<u32>, path: &str) -> Entry {
        Entry::Lease(SystemLease {
            pid,
            path: path.into(),
            kind: LeaseKind::Shared,
        })
    }

    #[test]
    fn a_lease_in_both_listings_is_one() {
        let mut found = vec![exclusive(Some(5), 7), exclusive(None, 8)];
        let system = [
            entry(Some(5), "/no/such/file"),
            entry(None, "/no/such/other"),
            entry(None, "/no/such/third"),
        ];
        merge(&mut found, &system);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].path, Some("/no/such/file".into()));
        assert_eq!(found[1].path, Some("/no/such/other".into()));
        // Hidden from /proc/locks, as for another pid namespace.
        assert_eq!(found[2].path, Some("/no/such/third".into()));
        assert_eq!(found[2].file, None);
    }

    #[test]
    fn leases_of_one_process_on_several_files_are_not_mixed_up() {
        let mut found = vec![exclusive(Some(5), 7), exclusive(Some(5), 8)];
        found[0].path = Some("/no/such/a".into());
        found[1].path = Some("/no/such/b".into());
        merge(
            &mut found,
            &[entry(Some(5), "/no/such/b"), entry(Some(5), "/no/such/a")],
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_number_of_a_holder_that_has_ended_is_not_believed() {
        let mut found = vec![exclusive(Some(5), 7), exclusive(Some(6), 7)];
        merge(
            &mut found,
            &[entry(None, "/no/such/a"), entry(Some(6), "/no/such/a")],
        );
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].pid, found[1].pid), (None, Some(6)));
        assert!(found.iter().all(|lease| lease.confirmed));
    }

    #[test]
    fn what_is_unseen_is_said() {
        assert!(!Unseen::default().any());
        let unseen = Unseen {
            system: true,
            processes: 1,
            users: true,
            namespaces: true,
            programs: 2,
        };
        assert_eq!(unseen.words().len(), 5);
        assert!(unseen.words()[0].contains("1 process that"));
    }

    #[test]
    fn kernel_threads_are_told_from_processes() {
        let kthread = b"2 (odd) name) S 0 0 0 0 -1 2129984 0 0";
        assert_eq!(flags(kthread), Some(2_129_984));
        assert!(!is_kernel_thread(std::process::id()));
        assert_eq!(flags(b"garbage"), None);
    }

    #[test]
    fn a_kernel_without_pins_is_known_by_its_missing_listing() {
        let there = Path::new("/proc/self/file_pins").exists();
        assert_eq!(kernel_has_pins().unwrap(), there);
    }
}
