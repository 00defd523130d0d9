// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout leases: `fs/locks.c`.

use crate::mutation::Mutation;
use crate::op::Op;
use crate::protocol::Protocol;
use crate::state::{bit, At, Lease, LeaseAt, State};

/// The result of `__break_lease()`, up to where it waits.
pub enum Broken {
    /// `ETXTBSY`.
    Refused,
    /// There is nothing to break.
    Nothing,
    /// The lease of this description is being broken.
    Breaking(u8),
}

impl Protocol {
    /// `layout_lease_refuses()`: does another thread group have an exclusive lease?
    pub fn layout_lease_refuses(&self, s: &State, process: u8) -> bool {
        let group = self.group(process);
        s.leases
            .iter()
            .flatten()
            .any(|lease| lease.exclusive && lease.holder != group)
    }

    /// `layout_lease_permits_pin()` for the description that `process` maps.
    pub fn layout_lease_permits_pin(&self, s: &State, process: u8) -> bool {
        let p = &s.procs[usize::from(process)];
        !s.file.cow
            && s.leases.iter().zip(0u8..).any(|(lease, desc)| {
                lease.is_some_and(|lease| {
                    (p.map == Some(desc) || lease.holder == self.group(process))
                        && lease.exclusive
                        && !lease.breaking
                })
            })
    }

    /// Marks the leases that a change by `process` breaks. Returns the first one, and whether any
    /// had not been marked before.
    pub fn mark_leases(&self, s: &mut State, process: u8) -> (Option<u8>, bool) {
        let group = self.group(process);
        let (mut first, mut new) = (None, false);
        for (lease, desc) in s.leases.iter_mut().zip(0u8..) {
            if let Some(lease) = lease.as_mut().filter(|lease| lease.holder != group) {
                first = first.or(Some(desc));
                new |= !lease.breaking;
                lease.breaking = true;
            }
        }
        (first, new)
    }

    /// `__break_lease()`, up to where it waits. Also returns whether a holder has been signalled.
    pub fn break_lease(&self, s: &mut State, process: u8) -> (Broken, bool) {
        if self.layout_lease_refuses(s, process) {
            return (Broken::Refused, false);
        }
        match self.mark_leases(s, process) {
            (Some(desc), new) => (Broken::Breaking(desc), new),
            (None, _) => (Broken::Nothing, false),
        }
    }

    /// `generic_add_lease()`.
    fn add_lease(&self, s: &mut State, process: u8, op: Op) -> &'static str {
        let Op::Lease {
            desc,
            sole,
            exclusive,
        } = op
        else {
            unreachable!("only a lease is added")
        };
        if s.file.cow {
            return "layout_can_be_held(): EOPNOTSUPP";
        }
        for (held, of) in s.leases.iter().zip(0u8..) {
            let Some(held) = held else { continue };
            let conflict = if of == desc {
                held.breaking
            } else {
                sole || held.sole || held.breaking
            };
            if conflict {
                return "generic_add_lease(): EAGAIN";
            }
        }
        s.leases[usize::from(desc)] = Some(Lease {
            sole,
            exclusive,
            holder: self.group(process),
            breaking: false,
        });
        "generic_add_lease(): granted"
    }

    /// One step of `fcntl_set_layout_lease()`.
    pub fn lease_step(&self, s: &mut State, process: u8, op: Op, at: LeaseAt) -> &'static str {
        let lock = !self.has(Mutation::GrantWithoutInvalidateLock);
        let (next, says) = match at {
            LeaseAt::Lock => {
                if lock {
                    s.invalidate_readers |= bit(process);
                }
                (At::Lease(op, LeaseAt::Add), "takes invalidate_lock (read)")
            }
            LeaseAt::Add => {
                let says = self.add_lease(s, process, op);
                (At::Lease(op, LeaseAt::Unlock), says)
            }
            LeaseAt::Unlock => {
                s.invalidate_readers &= !bit(process);
                (At::User, "releases invalidate_lock")
            }
        };
        s.procs[usize::from(process)].at = next;
        says
    }
}
