// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who takes part. Each scenario is three processes and two ranges, and is searched exhaustively.

use crate::op::{Kind, Op};
use crate::state::{
    bit, At, File, Invalidation, Lease, Left, Pgmap, Proc, Pte, Reg, State, Writeback, ALL,
    PROCESSES, RANGES,
};

/// A process at the beginning, and what it may do.
#[derive(Clone, Debug)]
pub struct Role {
    /// What to call it.
    pub name: &'static str,
    /// Its thread group.
    pub group: u8,
    /// How many calls it may make.
    pub calls: u8,
    /// The calls to choose from.
    pub ops: Vec<Op>,
    /// It begins with an exclusive layout lease.
    pub leased: bool,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// The processes. Each has a description of the file open, which it maps, and, but for the last
    /// one, an uverbs file.
    pub roles: [Role; PROCESSES],
    /// One DAX entry of PMD size holds both ranges.
    pub pmd: bool,
    /// Devices write.
    pub dma: bool,
    /// What the environment may do.
    pub left: Left,
}

/// The environment does nothing.
const QUIET: Left = Left {
    writebacks: 0,
    invalidations: 0,
    unbind: false,
    unlink: false,
    kills: 0,
};

const fn change(kind: Kind, range: u8) -> Op {
    Op::change(kind, range)
}

/// A process that frees blocks.
const BREAKER: &[Op] = &[
    change(Kind::Punch, 0),
    change(Kind::Punch, 1),
    Op::truncate(),
];

/// Makes a scenario. `roles` are name, thread group, number of calls, calls to choose from, and
/// whether it begins with an exclusive lease.
fn scenario(
    name: &'static str,
    about: &'static str,
    roles: [(&'static str, u8, u8, &[Op], bool); PROCESSES],
) -> Scenario {
    Scenario {
        name,
        about,
        roles: roles.map(|(name, group, calls, ops, leased)| Role {
            name,
            group,
            calls,
            ops: ops.to_vec(),
            leased,
        }),
        pmd: false,
        dma: false,
        left: QUIET,
    }
}

fn pins() -> Scenario {
    let pinner = [
        Op::exclusive(0),
        Op::Unlock(0),
        Op::pin(0, 0, true),
        Op::pin_both(0, true, false),
        Op::Unpin(0),
    ];
    let bystander = [Op::Transfer(0), Op::Store(0), change(Kind::Move, 1)];
    scenario(
        "pins",
        "a pinner, a process that frees blocks, a third one with transfers and stores",
        [
            ("pinner", 0, 3, &pinner, true),
            ("breaker", 1, 2, BREAKER, false),
            ("bystander", 2, 2, &bystander, false),
        ],
    )
}

fn transfers() -> Scenario {
    let other = [Op::exclusive(0), Op::Unlock(0), Op::Store(0)];
    let transfers = [Op::Transfer(0), Op::Transfer(1), Op::Store(0)];
    scenario(
        "transfers",
        "transient references, while a page is mapped again or a lease is taken",
        [
            ("other", 0, 2, &other, false),
            ("transfers", 1, 2, &transfers, false),
            ("breaker", 2, 2, BREAKER, false),
        ],
    )
}

fn pmd() -> Scenario {
    let pinner = [
        Op::pin(0, 0, true),
        Op::pin_both(0, true, true),
        Op::Unpin(0),
        Op::Unlock(0),
    ];
    let bystander = [Op::Transfer(0), Op::Store(1)];
    Scenario {
        pmd: true,
        dma: true,
        ..scenario(
            "pmd",
            "the same with an entry of PMD size, which a layout change splits; devices write",
            [
                ("pinner", 0, 3, &pinner, true),
                ("breaker", 1, 2, BREAKER, false),
                ("bystander", 2, 2, &bystander, false),
            ],
        )
    }
}

fn leases() -> Scenario {
    let first = [
        Op::exclusive(0),
        Op::shared(0),
        Op::sole(0),
        Op::Unlock(0),
        change(Kind::Punch, 0),
    ];
    let second = [
        Op::exclusive(1),
        Op::shared(1),
        Op::Unlock(1),
        change(Kind::Punch, 0),
    ];
    let third = [
        Op::shared(2),
        Op::exclusive(2),
        change(Kind::Punch, 1),
        change(Kind::Reflink, 0),
    ];
    scenario(
        "leases",
        "three processes take, change and release leases, and change the layout",
        [
            ("first", 0, 2, &first, false),
            ("second", 1, 2, &second, false),
            ("third", 2, 2, &third, false),
        ],
    )
}

fn threads() -> Scenario {
    let pinner = [
        Op::pin_both(0, true, false),
        Op::pin(0, 1, true),
        Op::Unpin(0),
    ];
    let thread = [
        change(Kind::Punch, 0),
        change(Kind::Move, 1),
        Op::truncate(),
        Op::Unlock(0),
    ];
    let other = [Op::shared(2), Op::exclusive(2), Op::Transfer(0)];
    scenario(
        "threads",
        "two threads of the holder, one pins, one changes the layout; another process",
        [
            ("pinner", 0, 3, &pinner, true),
            ("its thread", 0, 2, &thread, false),
            ("other", 2, 2, &other, false),
        ],
    )
}

fn two_pinners() -> Scenario {
    let first = [
        Op::pin(0, 0, true),
        Op::pin_both(0, false, false),
        Op::Unpin(0),
    ];
    let second = [
        Op::pin(1, 0, true),
        Op::pin(1, 1, true),
        Op::Unpin(1),
        Op::Unlock(1),
    ];
    scenario(
        "two pinners",
        "two processes hold the layout and pin, a third one frees blocks",
        [
            ("first", 0, 2, &first, true),
            ("second", 1, 3, &second, true),
            ("breaker", 2, 1, BREAKER, false),
        ],
    )
}

fn reflink() -> Scenario {
    let pinner = [
        Op::pin(0, 0, false),
        Op::pin_both(0, true, false),
        Op::Unpin(0),
    ];
    let thread = [
        change(Kind::Reflink, 0),
        change(Kind::Reflink, 1),
        Op::Unlock(0),
    ];
    let other = [change(Kind::Reflink, 0), Op::Transfer(0), Op::exclusive(2)];
    scenario(
        "reflink",
        "the holder's own thread, and another process, share blocks with another file",
        [
            ("pinner", 0, 2, &pinner, true),
            ("its thread", 0, 2, &thread, false),
            ("other", 2, 2, &other, false),
        ],
    )
}

fn lifetimes() -> Scenario {
    let parent = [
        Op::pin(0, 0, true),
        Op::Close(0),
        Op::Munmap,
        Op::PassFile(0, 1),
        Op::PassUverbs(0, 1),
        Op::Exit,
    ];
    let child = [
        Op::pin(0, 1, true),
        Op::Unpin(0),
        Op::Munmap,
        Op::Close(1),
        Op::Exit,
    ];
    let breaker = [change(Kind::Punch, 0), Op::Exit];
    Scenario {
        left: Left {
            unlink: true,
            kills: 1,
            ..QUIET
        },
        ..scenario(
            "lifetimes",
            "close, munmap, exit, fatal signals, unlink; descriptors of both kinds are passed on",
            [
                ("parent", 0, 5, &parent, true),
                ("child", 1, 3, &child, false),
                ("breaker", 2, 2, &breaker, false),
            ],
        )
    }
}

fn unbind() -> Scenario {
    let first = [
        Op::pin(0, 0, true),
        Op::pin_both(0, true, true),
        Op::Unpin(0),
    ];
    let second = [Op::pin(1, 1, true), Op::Unpin(1), Op::Exit];
    Scenario {
        left: Left {
            unbind: true,
            ..QUIET
        },
        ..scenario(
            "unbind",
            "the driver of the device is unbound",
            [
                ("first", 0, 3, &first, true),
                ("second", 1, 3, &second, true),
                ("breaker", 2, 1, BREAKER, false),
            ],
        )
    }
}

fn writeback() -> Scenario {
    let pinner = [Op::pin(0, 0, true), Op::Unpin(0), Op::Store(0)];
    let breaker = [
        change(Kind::Punch, 1),
        change(Kind::Move, 0),
        change(Kind::Punch, 0),
    ];
    let writer = [Op::Store(0), Op::Store(1)];
    Scenario {
        pmd: true,
        dma: true,
        left: Left {
            writebacks: 3,
            ..QUIET
        },
        ..scenario(
            "writeback",
            "devices and processes write while entries are written back",
            [
                ("pinner", 0, 4, &pinner, true),
                ("breaker", 1, 1, &breaker, false),
                ("writer", 2, 2, &writer, false),
            ],
        )
    }
}

fn invalidation() -> Scenario {
    let pinner = [
        Op::pin(0, 0, false),
        Op::pin_both(0, true, false),
        Op::Unpin(0),
    ];
    let second = [Op::pin(1, 1, false), Op::Unpin(1), Op::Store(1)];
    Scenario {
        pmd: true,
        left: Left {
            writebacks: 1,
            invalidations: 2,
            ..QUIET
        },
        ..scenario(
            "invalidation",
            "clean entries are invalidated for nfsd or after a memory failure",
            [
                ("pinner", 0, 2, &pinner, true),
                ("second", 1, 2, &second, true),
                ("breaker", 2, 1, BREAKER, false),
            ],
        )
    }
}

impl Scenario {
    /// All scenarios.
    pub fn all() -> Vec<Scenario> {
        vec![
            pins(),
            transfers(),
            pmd(),
            leases(),
            threads(),
            two_pinners(),
            reflink(),
            lifetimes(),
            unbind(),
            writeback(),
            invalidation(),
        ]
    }

    /// Leaves less to do: enough for each bug to show, and little enough for CI.
    pub fn shortened(mut self) -> Scenario {
        for (role, calls) in self.roles.iter_mut().zip([2, 2, 1]) {
            role.calls = role.calls.min(calls);
        }
        self.left.invalidations = self.left.invalidations.min(1);
        self.left.writebacks = self.left.writebacks.min(1);
        self
    }

    /// Finds a scenario.
    pub fn named(name: &str) -> Scenario {
        let found = Self::all().into_iter().find(|s| s.name == name);
        found.unwrap_or_else(|| panic!("there is no scenario {name}"))
    }

    /// Where it begins: each process has opened and mapped the file, and the blocks are there.
    pub fn initial(&self) -> State {
        let process = |n: usize| Proc {
            alive: true,
            calls: self.roles[n].calls,
            files: bit(n as u8),
            map: Some(n as u8),
            uverbs: if n < 2 { bit(n as u8) } else { 0 },
            ptes: [Pte::None; RANGES],
            transient: 0,
            at: At::User,
        };
        let lease = |n: usize| {
            self.roles[n].leased.then_some(Lease {
                sole: false,
                exclusive: true,
                holder: self.roles[n].group,
                breaking: false,
            })
        };
        State {
            procs: std::array::from_fn(process),
            leases: std::array::from_fn(lease),
            regs: std::array::from_fn(|_| Reg::none()),
            i_rwsem: None,
            invalidate_writer: None,
            invalidate_readers: 0,
            waiters: 0,
            file: File {
                blocks: ALL,
                shared: 0,
                cow: false,
                beyond_eof: 0,
                pmd: self.pmd,
                entries: 0,
                dirty: 0,
                locked: 0,
                unflushed: 0,
                linked: true,
                evicted: false,
            },
            writeback: Writeback::Idle,
            invalidation: Invalidation::Idle,
            pgmap: Pgmap::Live,
            left: self.left,
            flaws: 0,
        }
    }
}
