// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified perftest on a file: refused without a lease, running under one, and what others can do to
//! the file meanwhile.

use super::Demo;
use crate::client::Client;
use crate::names::errno_name;
use crate::ops::{Op, Span, SUBTRACTIVE};
use crate::perftest::{arguments, server, transfer_began, Side, PROGRAM};
use crate::pins::{find, Wanted};
use crate::ptrace::watch;
use crate::setup::{Mounted, Rdma};
use crate::trial::{attempt, Expect, Files, Verdict};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 512 << 10;
/// What perftest maps and registers: two buffers of 64 KiB at the beginning of the file.
const BUFFER: Span = Span::new(0, 128 << 10);
/// How long the transfer lasts: the layout changes tried under it take a few seconds.
const SECONDS: u32 = 10;

fn client_arguments(rdma: &Rdma, port: u16, seconds: u32, file: &Path) -> Vec<String> {
    let mut list = arguments(rdma, port, seconds, Some(file));
    list.push(rdma.address.to_owned());
    list
}

impl Demo {
    /// The registration is refused, for perftest and for our own client.
    pub(super) fn without_lease(
        &mut self,
        mounted: &Mounted,
        verbs: &mut Client,
    ) -> anyhow::Result<()> {
        let fs = mounted.fs.name();
        let group = "perftest, no lease";
        let file = mounted.file("unleased", SIZE)?;
        let (_server, port) = server(&self.rdma, 2)?;
        let mut command = Command::new(PROGRAM);
        command.args(client_arguments(&self.rdma, port, 2, &file));
        let verdict = watch(command, Duration::from_secs(30)).map(|seen| {
            let (errno, ns) = seen.refusal.unwrap_or_default();
            let says = seen.stderr.lines().next().unwrap_or("nothing").to_owned();
            Verdict {
                expected: "EOPNOTSUPP".to_owned(),
                got: format!("{}, {PROGRAM} says: {says}", errno_name(errno)),
                errno,
                ns,
                ok: errno == libc::EOPNOTSUPP && !seen.success,
            }
        });
        self.trial(fs, group, "ib_write_bw --mmap=FILE registers", verdict)?;

        verbs.open("file", &file)?;
        verbs.map_shared("map", "file", SIZE)?;
        let reply = verbs.reg("mr", "map", 0, 65536);
        self.errno(fs, group, "our client registers", libc::EOPNOTSUPP, reply)?;
        verbs.must(crate::protocol::Request::Reset)?;
        Ok(())
    }

    /// The transfer under the lease, and everything another process tries while it runs.
    pub(super) fn transfer(&mut self, mounted: &Mounted) -> anyhow::Result<()> {
        let fs = mounted.fs.name();
        let group = "perftest, exclusive lease";
        let file = mounted.file("sent", SIZE)?;
        let partner = mounted.file("partner", SIZE)?;
        let files = Files {
            file: &file,
            partner: &partner,
        };
        let mut other = Client::worker()?;

        let (mut server, port) = server(&self.rdma, SECONDS)?;
        let mut command = Command::new(&self.daxpin);
        command.args(["lease", "--exclusive"]).arg(&file);
        command.args(["--", PROGRAM]);
        command.args(client_arguments(&self.rdma, port, SECONDS, &file));
        let mut client = Side::start(command, "client")?;
        let step = "daxpin lease --exclusive, ib_write_bw --mmap";
        let began = transfer_began(&self.rdma, &mut client);
        let found = if began {
            Ok("transfers".to_owned())
        } else {
            Err(client.end(Duration::ZERO)?.complaint().to_owned())
        };
        self.finding(fs, group, step, "transfers", found)?;

        let wanted = Wanted {
            path: &file,
            span: BUFFER,
            writable: true,
        };
        let expected = super::same_name(&file, " 0-131071 rw, of an uverbs descriptor");
        let listed = find(client.pid(), wanted);
        self.finding(fs, group, "/proc/PID/file_pins", &expected, listed)?;

        let before = self.rdma.packets();
        for op in SUBTRACTIVE {
            if op.exists_on(mounted.fs) && op != Op::Truncate {
                let verdict = attempt(
                    &mut other,
                    op,
                    files,
                    BUFFER,
                    Expect::Refused(libc::ETXTBSY),
                );
                self.trial(fs, "meanwhile, another process", op.title(), verdict)?;
            }
        }
        let group = "perftest, to its end";
        let moved = self.rdma.packets() - before;
        let found = match (client.runs(), moved) {
            (true, 1..) => Ok(format!("still transfers, {moved} packets sent meanwhile")),
            (runs, _) => Err(format!(
                "client runs: {runs}, {moved} packets sent meanwhile"
            )),
        };
        self.finding(
            fs,
            group,
            "all of that during the transfer",
            "still transfers",
            found,
        )?;
        let ended = client.end(Duration::from_secs(u64::from(SECONDS) + 30))?;
        let found = match ended.bandwidth() {
            Some(rate) if ended.success => Ok(format!("ends well, {rate:.1} MB/s")),
            _ => Err(ended.complaint().to_owned()),
        };
        self.finding(fs, group, "the transfer", "ends well", found)?;
        server.end(Duration::from_secs(if began { 10 } else { 0 }))?;

        let verdict = attempt(&mut other, Op::Ftruncate, files, BUFFER, Expect::Succeeds);
        self.trial(fs, group, "then another process: ftruncate", verdict)?;
        other.end()
    }

    /// The same operations where nobody has a lease or a pin.
    pub(super) fn on_an_unleased_file(&mut self, mounted: &Mounted) -> anyhow::Result<()> {
        let fs = mounted.fs.name();
        let mut other = Client::worker()?;
        let partner = mounted.file("free-partner", SIZE)?;
        for op in SUBTRACTIVE {
            if op.exists_on(mounted.fs) && op != Op::Truncate {
                let file = mounted.file(&format!("free-{}", op.slug()), SIZE)?;
                let files = Files {
                    file: &file,
                    partner: &partner,
                };
                let verdict = attempt(&mut other, op, files, BUFFER, Expect::Succeeds);
                self.trial(fs, "a file without lease or pin", op.title(), verdict)?;
            }
        }
        other.end()
    }
}
