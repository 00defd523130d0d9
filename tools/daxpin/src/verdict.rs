// SPDX-License-Identifier: MIT OR Apache-2.0
//! What would refuse to change the blocks of a file, out of everything that was seen.

use crate::file::{FileId, Known};
use crate::identify::{users_of, Match};
use crate::process::{self, Process};
use crate::range::Range;
use crate::scan::{self, SeenLease, SeenPin, Snapshot, Unseen};
use layout_lease::escape;
use layout_lease::proc::LeaseState;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// Something that refuses, or may refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A pinned range.
    Pin(SeenPin),
    /// Somebody's exclusive layout lease.
    Lease(SeenLease),
    /// It is a swap file.
    Swap,
    /// It is being executed.
    Executable,
    /// `chattr +i`
    Immutable,
    /// `chattr +a`
    AppendOnly,
}

impl What {
    /// What the refused call fails with.
    pub fn errno(&self) -> &'static str {
        match self {
            What::Immutable | What::AppendOnly => "EPERM",
            _ => "ETXTBSY",
        }
    }
}

/// What a process has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It set the lease.
    Holder,
    /// It has the leased open file description, too.
    HasLease,
    /// It has the file that owns the pin.
    HasOwner,
    /// It runs the file.
    Runs,
    /// It has the holder's number, and nothing else that would show that it is the holder.
    Listed,
    /// It maps the file, perhaps by the leased description.
    Maps,
    /// It keeps a pin elsewhere in the file, and with that perhaps the lease.
    Pins,
}

impl Role {
    /// Whether the refusal lasts for sure as long as this process keeps what it has.
    pub fn is_certain(self) -> bool {
        !matches!(self, Role::Listed | Role::Maps | Role::Pins)
    }

    /// As JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Holder => "holder",
            Role::HasLease => "has-lease",
            Role::HasOwner => "has-owner",
            Role::Runs => "runs",
            Role::Listed => "listed",
            Role::Maps => "maps",
            Role::Pins => "pins",
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Role::Holder => "holds it",
            Role::HasLease => "has the leased descriptor",
            Role::HasOwner => "has the owner open",
            Role::Runs => "runs it",
            Role::Listed => "holds it, or has the number of a holder that has ended",
            Role::Maps => "maps the file, which may keep the lease",
            Role::Pins => "has a pin in the file, which may keep the lease",
        }
    }
}

/// Something in the way, and the processes it hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The obstacle.
    pub what: What,
    /// Why it is not certain, if it is not.
    pub doubt: Option<&'static str>,
    /// Whose it is.
    pub processes: Vec<(Process, Role)>,
}

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is in the way, or may be.
    pub blockers: Vec<Blocker>,
    /// Leases that are broken first: the change waits for `lease-break-time` at most.
    pub breakable: Vec<SeenLease>,
    /// What could not be seen.
    pub unseen: Unseen,
}

const OTHER_FILE: &str = "another file may have had that name";
const SAME_ENTRY: &str =
    "it is in the same 2 MiB: refused if the file is mapped in units that large";

impl Verdict {
    /// What is certainly in the way.
    pub fn certain(&self) -> impl Iterator<Item = &Blocker> {
        self.blockers
            .iter()
            .filter(|blocker| blocker.doubt.is_none())
    }

    /// Whether a change is refused for sure.
    pub fn is_blocked(&self) -> bool {
        self.certain().next().is_some()
    }

    /// Whether a change is certainly not refused.
    pub fn is_free(&self) -> bool {
        self.blockers.is_empty() && !self.unseen.any()
    }

    /// The processes that have to let go, or to end: without doubt, and each once.
    pub fn to_end(&self) -> Vec<&Process> {
        let mut found = BTreeMap::new();
        for blocker in self.certain() {
            let sure = blocker.processes.iter().any(|(_, role)| role.is_certain());
            for (process, role) in &blocker.processes {
                // A lease whose holder is gone is kept by those that only may keep it; but a number
                // alone is no reason to end a process.
                if role.is_certain() || (!sure && *role != Role::Listed) {
                    found.insert(process.pid, process);
                }
            }
        }
        found.into_values().collect()
    }

    /// Judges a change of `range` of the file.
    pub fn of(target: &Known, range: Range, snapshot: Snapshot, huge: u64) -> Verdict {
        let mut verdict = Verdict::default();
        // Only DAX files are leased and pinned: for others there is nothing that could be hidden.
        if target.dax {
            verdict.unseen = snapshot.unseen;
        }
        verdict.ordinary(target);
        if target.dax {
            let pins = pins_on(target.id, snapshot.pins);
            verdict.leases(target.id, snapshot.leases, &pins);
            verdict.pins(pins, range, huge);
        }
        verdict
    }

    fn ordinary(&mut self, target: &Known) {
        for (is, what) in [
            (target.immutable, What::Immutable),
            (target.append_only, What::AppendOnly),
            (is_swap(target.id), What::Swap),
        ] {
            if is {
                self.add(what, None, Vec::new());
            }
        }
        let mut running = Vec::new();
        for pid in process::all().unwrap_or_default() {
            match Known::at(&process::directory(pid).join("exe")) {
                Ok(known) if known.id == target.id => running.push((pid, Role::Runs)),
                Err(Errno::ACCESS | Errno::PERM)
                    if target.executable && !scan::is_kernel_thread(pid) =>
                {
                    self.unseen.programs += 1;
                }
                _ => {}
            }
        }
        if !running.is_empty() {
            self.add(What::Executable, None, running);
        }
    }

    fn leases(&mut self, target: FileId, leases: Vec<SeenLease>, pins: &[(SeenPin, Match)]) {
        let (mut exclusive, mut doubtful) = (Vec::new(), Vec::new());
        for lease in leases {
            match (lease.file, lease.state) {
                (Some(file), _) if file != target => {}
                (Some(_), LeaseState::Exclusive) => exclusive.push(lease),
                (Some(_), _) => self.breakable.push(lease),
                (None, LeaseState::Exclusive) => doubtful.push(lease),
                (None, _) => {}
            }
        }
        let users = if exclusive.is_empty() {
            LeaseUsers::default()
        } else {
            LeaseUsers::of(target, pins)
        };
        for lease in exclusive {
            let processes = users.roles(&lease);
            self.add(What::Lease(lease), None, processes);
        }
        for lease in doubtful {
            let holder = lease.pid.map(|pid| (pid, Role::Listed));
            let holder = holder.into_iter().collect();
            self.add(What::Lease(lease), Some(OTHER_FILE), holder);
        }
    }

    fn pins(&mut self, pins: Vec<(SeenPin, Match)>, range: Range, huge: u64) {
        let wide = range.widened(huge);
        for (seen, matched) in pins {
            let doubt = match matched {
                _ if !seen.pin.overlaps(wide.first, wide.last) => continue,
                Match::No => continue,
                Match::Maybe => Some(OTHER_FILE),
                Match::Yes if !seen.pin.overlaps(range.first, range.last) => Some(SAME_ENTRY),
                Match::Yes => None,
            };
            let processes = seen.pids.iter().map(|&pid| (pid, Role::HasOwner)).collect();
            self.add(What::Pin(seen), doubt, processes);
        }
    }

    fn add(&mut self, what: What, doubt: Option<&'static str>, processes: Vec<(u32, Role)>) {
        let processes = processes
            .into_iter()
            .map(|(pid, role)| (Process::of(pid), role))
            // Whoever has ended keeps nothing, whatever number is still listed.
            .filter(|(process, _)| process.name.is_some())
            .collect();
        self.blockers.push(Blocker {
            what,
            doubt,
            processes,
        });
    }
}

fn pins_on(target: FileId, pins: Vec<SeenPin>) -> Vec<(SeenPin, Match)> {
    pins.into_iter()
        .map(|seen| {
            let matched = seen.identity.is(target);
            (seen, matched)
        })
        .filter(|(_, matched)| *matched != Match::No)
        .collect()
}

/// Who may keep the exclusive leases of a file.
#[derive(Default)]
struct LeaseUsers {
    open: Vec<u32>,
    maps: Vec<u32>,
    pins: Vec<u32>,
}

impl LeaseUsers {
    fn of(target: FileId, pins: &[(SeenPin, Match)]) -> LeaseUsers {
        let pins = pins.iter().flat_map(|(seen, _)| seen.pids.iter().copied());
        LeaseUsers {
            open: scan::lease_users(target),
            maps: users_of(target),
            pins: pins.collect(),
        }
    }

    fn roles(&self, lease: &SeenLease) -> Vec<(u32, Role)> {
        let mut roles = BTreeMap::new();
        let all = [
            (&self.open, Role::HasLease),
            (&self.maps, Role::Maps),
            (&self.pins, Role::Pins),
        ];
        if let Some(pid) = lease.pid {
            let uses = all.iter().any(|(pids, _)| pids.contains(&pid));
            let sure = lease.confirmed || uses;
            roles.insert(pid, if sure { Role::Holder } else { Role::Listed });
        }
        for (pids, role) in all {
            for &pid in pids {
                roles.entry(pid).or_insert(role);
            }
        }
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.sort_by_key(|&(pid, role)| (role, pid));
        roles
    }
}

fn is_swap(target: FileId) -> bool {
    let text = std::fs::read("/proc/swaps").unwrap_or_default();
    swaps(&text)
        .iter()
        .any(|path| Known::at(path).is_ok_and(|known| known.id == target))
}

fn swaps(text: &[u8]) -> Vec<std::path::PathBuf> {
    text.split(|&byte| byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next())
        .filter(|name| !name.is_empty())
        .filter_map(|name| escape::decode(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::Identity;
    use layout_lease::proc::{Device, Pin, SystemOwner};
    use layout_lease::LeaseKind;
    use rustix::fs::FileType;

    const HUGE: u64 = 2 << 20;

    fn id(inode: u64) -> FileId {
        let device = Device {
            major: 259,
            minor: 0,
        };
        FileId { device, inode }
    }

    fn target(dax: bool) -> Known {
        Known {
            id: id(1),
            kind: FileType::RegularFile,
            dax,
            immutable: false,
            append_only: false,
            transformed: false,
            executable: false,
            uid: 0,
            mount: 0,
        }
    }

    fn pin(first: u64, files: &[u64]) -> SeenPin {
        SeenPin {
            owner: SystemOwner::Mm,
            pids: vec![std::process::id()],
            pin: Pin {
                path: "/mnt/a".into(),
                first,
                last: first + 4095,
                writable: true,
            },
            identity: Identity::Users(files.iter().map(|&inode| id(inode)).collect()),
        }
    }

    fn lease(file: Option<u64>, state: LeaseState) -> SeenLease {
        SeenLease {
            pid: Some(std::process::id()),
            confirmed: true,
            state,
            kind: Some(LeaseKind::Shared),
            file: file.map(id),
            path: None,
        }
    }

    fn judge(pins: Vec<SeenPin>, leases: Vec<SeenLease>, range: &str) -> Verdict {
        let snapshot = Snapshot {
            pins,
            leases,
            unseen: Unseen::default(),
        };
        Verdict::of(&target(true), range.parse().unwrap(), snapshot, HUGE)
    }

    #[test]
    fn a_pin_of_the_file_blocks_its_range() {
        let verdict = judge(vec![pin(8192, &[1])], vec![], "0-");
        assert!(verdict.is_blocked() && !verdict.is_free());
        assert_eq!(verdict.to_end()[0].pid, std::process::id());
        assert!(judge(vec![pin(8192, &[2])], vec![], "0-").is_free());
    }

    #[test]
    fn beside_it_in_the_same_huge_entry_nothing_is_certain() {
        let beside = judge(vec![pin(8192, &[1])], vec![], "0-8191");
        assert!(!beside.is_blocked() && !beside.is_free());
        assert!(beside.to_end().is_empty());
        let far = judge(vec![pin(8192, &[1])], vec![], "2097152-");
        assert!(far.is_free());
    }

    #[test]
    fn a_pin_of_one_of_two_files_cannot_be_ruled_out() {
        let verdict = judge(vec![pin(0, &[1, 2])], vec![], "0-");
        assert!(!verdict.is_blocked() && !verdict.is_free());
    }

    #[test]
    fn an_exclusive_lease_blocks_everything_and_a_breakable_one_nothing() {
        let exclusive = judge(
            vec![],
            vec![lease(Some(1), LeaseState::Exclusive)],
            "4096-8191",
        );
        assert!(exclusive.is_blocked());
        assert_eq!(exclusive.to_end().len(), 1);
        for state in [LeaseState::Active, LeaseState::Breaking] {
            let verdict = judge(vec![], vec![lease(Some(1), state)], "0-");
            assert!(verdict.is_free());
            assert_eq!(verdict.breakable.len(), 1);
        }
        assert!(judge(vec![], vec![lease(Some(2), LeaseState::Exclusive)], "0-").is_free());
        let unnamed = judge(vec![], vec![lease(None, LeaseState::Exclusive)], "0-");
        assert!(!unnamed.is_blocked() && !unnamed.is_free());
    }

    #[test]
    fn a_process_that_is_gone_is_not_to_be_ended() {
        let mut seen = lease(Some(1), LeaseState::Exclusive);
        seen.pid = Some(1 << 23);
        let verdict = judge(vec![], vec![seen.clone()], "0-");
        assert!(verdict.is_blocked() && verdict.to_end().is_empty());
        // What keeps the lease is then the pin, wherever it is.
        let verdict = judge(vec![pin(0, &[1])], vec![seen], "3145728-");
        assert_eq!(verdict.certain().count(), 1);
        assert_eq!(verdict.to_end()[0].pid, std::process::id());
    }

    #[test]
    fn a_number_that_may_be_another_process_s_is_not_to_be_ended_where_others_are() {
        let mut seen = lease(Some(1), LeaseState::Exclusive);
        seen.confirmed = false;
        let users = LeaseUsers {
            open: vec![7],
            maps: vec![8],
            pins: vec![],
        };
        let roles = users.roles(&seen);
        assert!(roles.contains(&(std::process::id(), Role::Listed)));
        assert!(roles.contains(&(7, Role::HasLease)) && roles.contains(&(8, Role::Maps)));
        seen.pid = Some(8);
        assert!(users.roles(&seen).contains(&(8, Role::Holder)));
    }

    #[test]
    fn what_is_unseen_matters_for_dax_files_alone() {
        let snapshot = || Snapshot {
            unseen: Unseen {
                processes: 1,
                ..Unseen::default()
            },
            ..Snapshot::default()
        };
        let all = "0-".parse().unwrap();
        assert!(!Verdict::of(&target(true), all, snapshot(), HUGE).is_free());
        assert!(Verdict::of(&target(false), all, snapshot(), HUGE).is_free());
    }

    #[test]
    fn the_running_program_and_attributes_are_in_the_way() {
        let own = Known::at(std::path::Path::new("/proc/self/exe")).unwrap();
        let all = "0-".parse().unwrap();
        let verdict = Verdict::of(&own, all, Snapshot::default(), HUGE);
        assert_eq!(verdict.blockers[0].what, What::Executable);
        assert!(verdict
            .to_end()
            .iter()
            .any(|process| process.pid == std::process::id()));
        let mut fixed = target(false);
        fixed.immutable = true;
        let verdict = Verdict::of(&fixed, all, Snapshot::default(), HUGE);
        assert_eq!(verdict.blockers[0].what.errno(), "EPERM");
    }

    #[test]
    fn swap_files_are_named_with_escapes() {
        let text = b"Filename\t\t\tType\t\tSize\n/mnt/s\\040w                  file\t\t1 0 -2\n";
        assert_eq!(swaps(text), [std::path::PathBuf::from("/mnt/s w")]);
    }
}
