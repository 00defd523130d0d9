// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's NFS server, started without its daemons: what they would answer is known beforehand,
//! and put into the kernel's caches.

use super::recovery::Recovery;
use crate::setup::{mounted, run};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where it listens.
pub const PORT: u16 = 2049;

/// The server, with one directory exported as its root; ends on drop, with all state of its clients.
pub struct Server {
    control: PathBuf,
    _recovery: Option<Recovery>,
}

impl Server {
    /// Starts it for clients it has never seen.
    pub fn start(root: &Path) -> anyhow::Result<Server> {
        Server::start_with(root, Some(Recovery::begin()?))
    }

    /// Starts it as after a reboot: clients can reclaim what they had, and get nothing new.
    pub fn start_in_grace(root: &Path) -> anyhow::Result<Server> {
        Server::start_with(root, None)
    }

    fn start_with(root: &Path, recovery: Option<Recovery>) -> anyhow::Result<Server> {
        run(Command::new("ip").args("link set lo up".split(' ')))?;
        let control = mounted("nfsd", "/proc/fs/nfsd", "threads")
            .context("no NFS server in this kernel: is CONFIG_NFSD on?")?;
        let server = Server {
            control,
            _recovery: recovery,
        };
        // One may be left of a test that was given up.
        server.stop()?;
        server.set("versions", "-3 +4 +4.1")?;
        server.set("portlist", &format!("tcp {PORT}"))?;
        server.set("threads", "4")?;
        server.export(root)?;
        Ok(server)
    }

    /// How many layouts clients have, by what the server says of their states.
    pub fn layouts(&self) -> anyhow::Result<usize> {
        let mut layouts = 0;
        for client in fs::read_dir(self.control.join("clients"))? {
            let states = fs::read_to_string(client?.path().join("states"))?;
            layouts += states.matches("type: layout").count();
        }
        Ok(layouts)
    }

    fn export(&self, root: &Path) -> anyhow::Result<()> {
        const CLIENT: &str = "guest";
        // Any port, root stays root, no check of subtrees, the number below, block layouts.
        const FLAGS: u32 = 0x2 | 0x400 | 0x2000 | 0x2_0000;
        const BY_NUMBER: u32 = 1;
        let root = root.to_str().context("a path in UTF-8")?;
        let expiry = SystemTime::now() + Duration::from_secs(3600);
        let expiry = expiry.duration_since(UNIX_EPOCH)?.as_secs();
        let caches = [
            (
                "auth.unix.ip",
                format!("nfsd 127.0.0.1 {expiry} {CLIENT}\n"),
            ),
            (
                "nfsd.export",
                format!("{CLIENT} {root} {expiry} {FLAGS} 65534 65534 0\n"),
            ),
            (
                "nfsd.fh",
                format!("{CLIENT} {BY_NUMBER} \\x00000000 {expiry} {root}\n"),
            ),
        ];
        for (cache, line) in caches {
            let channel = format!("/proc/net/rpc/{cache}/channel");
            fs::write(&channel, &line).with_context(|| format!("{channel}: {line}"))?;
        }
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.set("threads", "0")
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = self.control.join(name);
        fs::write(&path, format!("{value}\n"))
            .with_context(|| format!("{value} into {}", path.display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("guest: {error:#}");
        }
    }
}
