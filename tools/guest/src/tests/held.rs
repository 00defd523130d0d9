// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file held by one thing alone: a lease, or a pin.

use super::env::{lease_is, Env, Loan, EXCLUSIVE, PINNED, SHARED, UNLCK};
use crate::pins::{find, Wanted};
use crate::protocol::Request;
use anyhow::anyhow;
use std::path::Path;

/// How the file is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// By an exclusive lease.
    Leased,
    /// By a pin: no lease, no mapping, no descriptor.
    Pinned,
}

impl Held {
    pub(super) const ALL: [Held; 2] = [Held::Leased, Held::Pinned];

    /// As part of a test's name.
    pub(super) fn slug(self) -> &'static str {
        match self {
            Held::Leased => "exclusive_of_another",
            Held::Pinned => "pinned_released",
        }
    }

    /// A process that holds the file so.
    pub(super) fn hold<'a>(self, env: &'a Env, path: &Path) -> anyhow::Result<Loan<'a>> {
        if self == Held::Leased {
            let mut holder = env.worker()?;
            holder.open("file", path)?;
            lease_is(&mut holder, "file", SHARED | EXCLUSIVE, 0, "the lease")?;
            return Ok(holder);
        }
        let mut holder = env.verbs()?;
        holder.pin(path)?;
        lease_is(&mut holder, "file", UNLCK, 0, "release while pinned")?;
        holder.must(Request::Unmap {
            map: "map".to_owned(),
        })?;
        holder.close("file")?;
        Ok(holder)
    }

    /// It holds it no more.
    pub(super) fn let_go(self, holder: &mut Loan) -> anyhow::Result<()> {
        match self {
            Held::Leased => holder.close("file"),
            Held::Pinned => holder.dereg("pin").map(drop),
        }
    }

    /// The listing of pins must have the file by this name.
    pub(super) fn listed(self, holder: &Loan, path: &Path) -> anyhow::Result<()> {
        if self == Held::Leased {
            return Ok(());
        }
        let wanted = Wanted {
            path,
            span: PINNED,
            writable: true,
        };
        find(holder.pid(), wanted).map_err(|error| anyhow!(error))?;
        Ok(())
    }
}
