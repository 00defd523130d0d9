// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state that leases and pins are in, as the contract has it; `oracle.rs` says what follows from it.
//!
//! Nothing here looks at the kernel. Where the state depends on what the contract leaves open, such as
//! the size of an entry after a hole was punched, it is unknown, and the answers are less definite.

use super::step::{Mode, OwnerKind, Slot};
use crate::ops::Span;
use crate::setup::Fs;
use std::collections::BTreeMap;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of the large entries.
pub const ENTRY: u64 = 2 << 20;

/// Yes, no, or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maybe {
    Yes,
    No,
    Unknown,
}

impl Maybe {
    /// Either of two.
    pub fn or(self, other: Maybe) -> Maybe {
        match (self, other) {
            (Maybe::Yes, _) | (_, Maybe::Yes) => Maybe::Yes,
            (Maybe::No, Maybe::No) => Maybe::No,
            _ => Maybe::Unknown,
        }
    }
}

/// A file's inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its name's number.
    pub file: usize,
    /// Whether the name still leads to it.
    pub linked: bool,
    /// Bytes.
    pub size: u64,
    /// Whether it can have large entries.
    pub large: bool,
    /// Whether it shares blocks, or has: no leases and pins then.
    pub cow: Maybe,
    /// Whether it is as it was made: no holes, one extent or few.
    pub fresh: bool,
    /// Whether each part of the size of a large entry is one.
    pub entries: Vec<Maybe>,
}

/// A layout lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Nobody else has one.
    pub sole: bool,
    /// Cannot be broken.
    pub exclusive: bool,
    /// The process that set it last.
    pub holder: u32,
    /// Is being broken.
    pub breaking: bool,
}

impl Lease {
    /// As F_GETLEASE says it.
    pub fn argument(&self) -> i32 {
        let kind = if self.sole {
            libc::F_WRLCK
        } else {
            libc::F_RDLCK
        };
        let exclusive = if self.exclusive {
            layout_lease::F_EXCLUSIVE
        } else {
            0
        };
        kind | layout_lease::F_LAYOUT | exclusive
    }
}

/// An open file description.
#[derive(Clone, Debug)]
pub struct Description {
    /// Of which inode.
    pub inode: usize,
    /// Open for writing.
    pub write: bool,
    /// The lease on it.
    pub lease: Option<Lease>,
}

/// A mapping of a whole file.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Through which description.
    pub description: u32,
    /// Bytes.
    pub length: u64,
    /// How.
    pub mode: Mode,
    /// Tells it from others.
    pub id: u32,
}

/// A pin.
#[derive(Clone, Debug)]
pub struct Pin {
    /// The description it keeps open.
    pub description: u32,
    /// What was asked for.
    pub at: Span,
    /// For writing as well.
    pub write: bool,
    /// What it refuses changes of.
    pub sure: Span,
    /// What it may refuse changes of.
    pub perhaps: Span,
    /// The mapping it was made through.
    pub mapping: u32,
    /// That mapping's name.
    pub slot: Slot,
}

/// An owner of pins.
#[derive(Clone, Debug)]
pub struct Owner {
    /// What it is.
    pub kind: OwnerKind,
    /// The process that made it, to whose memory a ring belongs.
    pub maker: u32,
    /// Its pins.
    pub pins: Vec<Pin>,
}

/// Who a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Root, with files, rings and gup_test.
    Root,
    /// Nobody special.
    Nobody,
    /// Root, with verbs.
    Verbs,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Tells it from the ones before it in its place.
    pub id: u32,
    /// Who it is.
    pub role: Role,
    /// Its descriptors: descriptions by name.
    pub fds: BTreeMap<Slot, u32>,
    /// Its mappings.
    pub maps: BTreeMap<Slot, Mapping>,
    /// Its owners.
    pub owners: BTreeMap<usize, u32>,
    /// Owners in messages nobody has received.
    pub posted: BTreeMap<usize, u32>,
}

/// A child that sleeps with copies of everything.
#[derive(Clone, Debug)]
pub struct Child {
    /// Tells it from processes and other children.
    pub id: u32,
    /// Descriptions it has open or mapped.
    pub descriptions: Vec<u32>,
    /// Owners it has open.
    pub owners: Vec<u32>,
    /// Owners in messages in sockets it has open.
    pub posted: Vec<u32>,
}

/// What is in /proc/file_pins; processes go by their ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// A pin.
    Pin {
        kind: &'static str,
        holders: Vec<u32>,
        file: usize,
        linked: bool,
        first: u64,
        last: u64,
        write: bool,
    },
    /// An exclusive lease.
    Lease {
        holder: Option<u32>,
        file: usize,
        linked: bool,
        sole: bool,
    },
}

/// All of it.
#[derive(Clone, Debug)]
pub struct World {
    /// The filesystem.
    pub fs: Fs,
    /// Every inode there was.
    pub inodes: Vec<Inode>,
    /// What each name leads to.
    pub files: Vec<usize>,
    /// Open file descriptions.
    pub descriptions: BTreeMap<u32, Description>,
    /// Owners of pins.
    pub owners: BTreeMap<u32, Owner>,
    /// Processes by their places.
    pub processes: Vec<Process>,
    /// Children, the oldest first.
    pub children: Vec<Child>,
    next: u32,
}

/// Bytes of a small file: less than a large entry, whatever happens to it.
pub const SMALL: u64 = 512 << 10;
/// Bytes of a large file.
pub const LARGE: u64 = 2 * ENTRY;

impl World {
    /// Fresh files, of which the last `large` are large, and processes that hold nothing.
    pub fn new(fs: Fs, small: usize, large: usize, roles: &[Role]) -> World {
        let mut world = World {
            fs,
            inodes: Vec::new(),
            files: Vec::new(),
            descriptions: BTreeMap::new(),
            owners: BTreeMap::new(),
            processes: Vec::new(),
            children: Vec::new(),
            next: 0,
        };
        for file in 0..small + large {
            world.files.push(file);
            world.inodes.push(Inode::fresh(file, file >= small));
        }
        for &role in roles {
            let process = world.process(role);
            world.processes.push(process);
        }
        world
    }

    /// A number nobody else has.
    pub fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// A process that holds nothing but, with verbs, its uverbs file.
    pub fn process(&mut self, role: Role) -> Process {
        let id = self.number();
        let mut owners = BTreeMap::new();
        if role == Role::Verbs {
            let owner = self.number();
            let fresh = Owner {
                kind: OwnerKind::Verbs,
                maker: id,
                pins: Vec::new(),
            };
            self.owners.insert(owner, fresh);
            owners.insert(0, owner);
        }
        Process {
            id,
            role,
            fds: BTreeMap::new(),
            maps: BTreeMap::new(),
            owners,
            posted: BTreeMap::new(),
        }
    }

    /// The inode a name leads to.
    pub fn inode(&self, file: usize) -> &Inode {
        &self.inodes[self.files[file]]
    }

    /// The descriptions of an inode with leases on them.
    pub fn leases(&self, inode: usize) -> impl Iterator<Item = (u32, &Lease)> {
        self.descriptions
            .iter()
            .filter_map(move |(&id, description)| {
                let lease = description.lease.as_ref()?;
                (description.inode == inode).then_some((id, lease))
            })
    }

    /// The pins of an inode.
    pub fn pins(&self, inode: usize) -> impl Iterator<Item = &Pin> {
        let pins = self.owners.values().flat_map(|owner| &owner.pins);
        pins.filter(move |pin| self.descriptions[&pin.description].inode == inode)
    }

    /// Lets go of what nobody holds any more: owners, their pins, descriptions, their leases.
    pub fn collect(&mut self) {
        let processes = &self.processes;
        let children = &self.children;
        self.owners.retain(|id, _| {
            let mine = |p: &Process| p.owners.values().chain(p.posted.values()).any(|o| o == id);
            let childs = |c: &Child| c.owners.iter().chain(&c.posted).any(|o| o == id);
            processes.iter().any(mine) || children.iter().any(childs)
        });
        let owners = &self.owners;
        self.descriptions.retain(|id, _| {
            let mine = |p: &Process| {
                p.fds.values().any(|d| d == id) || p.maps.values().any(|m| m.description == *id)
            };
            let pins = |o: &Owner| o.pins.iter().any(|pin| pin.description == *id);
            processes.iter().any(mine)
                || children.iter().any(|c| c.descriptions.contains(id))
                || owners.values().any(pins)
        });
    }

    /// Who has an owner, as listings show it.
    pub fn holders(&self, id: u32) -> Vec<u32> {
        let owner = &self.owners[&id];
        let mut holders: Vec<u32> = Vec::new();
        for process in &self.processes {
            let maker = owner.kind == OwnerKind::Ring && owner.maker == process.id;
            if maker || process.owners.values().any(|o| *o == id) {
                holders.push(process.id);
            }
        }
        let have = |child: &&Child| child.owners.contains(&id);
        holders.extend(self.children.iter().filter(have).map(|child| child.id));
        holders.sort_unstable();
        holders
    }

    fn line(&self, owner: u32, pin: &Pin) -> Line {
        let inode = &self.inodes[self.descriptions[&pin.description].inode];
        Line::Pin {
            kind: match self.owners[&owner].kind {
                OwnerKind::Gup => "gup_test",
                OwnerKind::Ring => "ring",
                OwnerKind::Verbs => "uverbs",
            },
            holders: self.holders(owner),
            file: inode.file,
            linked: inode.linked,
            first: pin.at.offset,
            last: pin.at.offset + pin.at.length - 1,
            write: pin.write,
        }
    }

    /// What /proc/file_pins has to have, sorted.
    pub fn listing(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (&id, owner) in &self.owners {
            lines.extend(owner.pins.iter().map(|pin| self.line(id, pin)));
        }
        for description in self.descriptions.values() {
            let inode = &self.inodes[description.inode];
            let Some(lease) = description.lease.as_ref().filter(|l| l.exclusive) else {
                continue;
            };
            let alive = self.processes.iter().any(|p| p.id == lease.holder);
            lines.push(Line::Lease {
                holder: alive.then_some(lease.holder),
                file: inode.file,
                linked: inode.linked,
                sole: lease.sole,
            });
        }
        lines.sort_unstable();
        lines
    }

    /// How many lines about pins /proc/PID/file_pins has to have: one for each descriptor of an owner
    /// and pin, and for the memory of who made a ring.
    pub fn lines_of(&self, process: &Process) -> usize {
        let mut lines = 0;
        for (id, owner) in &self.owners {
            let open = process.owners.values().filter(|o| *o == id).count();
            let mm = owner.kind == OwnerKind::Ring && owner.maker == process.id;
            lines += (open + usize::from(mm)) * owner.pins.len();
        }
        lines
    }
}

impl Inode {
    /// As it is made.
    pub fn fresh(file: usize, large: bool) -> Inode {
        let size = if large { LARGE } else { SMALL };
        let entries = if large { size / ENTRY } else { 0 };
        Inode {
            file,
            linked: true,
            size,
            large,
            cow: Maybe::No,
            fresh: true,
            entries: vec![Maybe::Unknown; usize::try_from(entries).unwrap_or(0)],
        }
    }

    /// How far a pin reaches: at least, and at most.
    pub fn widened(&self, at: Span) -> (Span, Span) {
        if !self.large {
            return (at, at);
        }
        let entry = |offset: u64| {
            let index = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
            self.entries.get(index).copied().unwrap_or(Maybe::Unknown)
        };
        let end = at.offset + at.length;
        let (begin_wide, end_wide) = (at.offset / ENTRY * ENTRY, end.next_multiple_of(ENTRY));
        let (head, tail) = (entry(at.offset), entry(end - 1));
        let begin = |wide: bool| if wide { begin_wide } else { at.offset };
        let stop = |wide: bool| if wide { end_wide } else { end };
        let span = |b: u64, e: u64| Span::new(b, e - b);
        (
            span(begin(head == Maybe::Yes), stop(tail == Maybe::Yes)),
            span(begin(head != Maybe::No), stop(tail != Maybe::No)),
        )
    }
}

/// Whether two ranges have a byte in common.
pub fn overlap(one: Span, other: Span) -> bool {
    one.offset < other.offset.saturating_add(other.length)
        && other.offset < one.offset.saturating_add(one.length)
}
