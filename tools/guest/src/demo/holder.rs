// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of our own that leases, registers and receives, and then tries to change the layout itself.

use super::{same_name, Demo, EXCLUSIVE};
use crate::client::Client;
use crate::ops::{Op, Span, SUBTRACTIVE};
use crate::pins::{find, Wanted};
use crate::protocol::Request;
use crate::setup::{Fs, Mounted};
use crate::trial::{attempt, Expect, Files};

const SIZE: u64 = 4 << 20;
const PINNED: Span = Span::new(512 << 10, 512 << 10);
/// Not in the 2 MiB around the pin, should the file be mapped by such entries.
const ELSEWHERE: Span = Span::new(3 << 20, 64 << 10);
const REFUSED: Expect = Expect::Refused(libc::ETXTBSY);

impl Demo {
    /// Everything the holder of a lease and a pin tries, beside what another process tries.
    pub(super) fn holder(&mut self, mounted: &Mounted, mut holder: Client) -> anyhow::Result<()> {
        let fs = mounted.fs.name();
        let file = mounted.file("held", SIZE)?;
        let partner = mounted.file("held-partner", SIZE)?;
        let files = Files {
            file: &file,
            partner: &partner,
        };
        let mut other = Client::worker()?;

        holder.open("file", &file)?;
        holder.map_shared("map", "file", SIZE)?;
        holder.map_anonymous("memory", PINNED.length)?;
        let group = "our client, exclusive lease";
        let reply = holder.set_lease("file", EXCLUSIVE);
        self.errno(fs, group, "takes an exclusive lease", 0, reply)?;
        let reply = holder.reg("pin", "map", PINNED.offset, PINNED.length);
        let registered = reply.as_ref().is_ok_and(|reply| reply.errno == 0);
        self.errno(fs, group, "registers part of the file", 0, reply)?;
        let wanted = Wanted {
            path: &file,
            span: PINNED,
            writable: true,
        };
        let expected = same_name(&file, " 524288-1048575 rw, of an uverbs descriptor");
        let listed = find(holder.pid(), wanted);
        self.finding(fs, group, "/proc/PID/file_pins", &expected, listed)?;

        holder.reg("source", "memory", 0, PINNED.length)?;
        if registered {
            let (from, to, length) = ("source".to_owned(), "pin".to_owned(), PINNED.length);
            // Once over before the file is looked at: from then on the stream repeats itself.
            holder.must(Request::RdmaWrite {
                from: from.clone(),
                to: to.clone(),
                length,
            })?;
            holder.must(Request::Stream { from, to, length })?;
        }

        self.on_the_pinned_range(mounted.fs, files, &mut holder, &mut other)?;

        self.beside_the_pin(fs, files, &mut holder, &mut other)?;
        let found = if registered {
            let sent = holder.ask(Request::StreamStop)?;
            match sent.errno {
                0 if sent.value > 0 => Ok(format!("received {} KiB", sent.value >> 10)),
                _ => Err(sent.text),
            }
        } else {
            Err("nothing registered".to_owned())
        };
        self.finding(
            fs,
            "unpinned range",
            "RDMA received all the while",
            "received",
            found,
        )?;
        self.prepare_verbs_client()?;
        self.after_release(mounted.fs, files, holder, other)
    }

    fn on_the_pinned_range(
        &mut self,
        fs: Fs,
        files: Files,
        holder: &mut Client,
        other: &mut Client,
    ) -> anyhow::Result<()> {
        for (group, who) in [
            ("pinned range, the holder", holder),
            ("pinned range, another process", other),
        ] {
            for op in SUBTRACTIVE {
                if op.exists_on(fs) && op != Op::Truncate {
                    let verdict = attempt(who, op, files, PINNED, REFUSED);
                    self.trial(fs.name(), group, op.title(), verdict)?;
                }
            }
        }
        Ok(())
    }

    /// An unpinned range is the holder's to change, and nobody else's; appending is everybody's.
    fn beside_the_pin(
        &mut self,
        fs: &str,
        files: Files,
        holder: &mut Client,
        other: &mut Client,
    ) -> anyhow::Result<()> {
        let group = "unpinned range";
        let verdict = attempt(other, Op::Punch, files, ELSEWHERE, REFUSED);
        self.trial(fs, group, "another process: punch a hole", verdict)?;
        for op in [
            Op::ZeroRange,
            Op::Punch,
            Op::Insert,
            Op::Collapse,
            Op::Ftruncate,
        ] {
            let verdict = attempt(holder, op, files, ELSEWHERE, Expect::Succeeds);
            self.trial(fs, group, &format!("the holder: {}", op.title()), verdict)?;
        }
        for (name, who) in [("the holder", holder), ("another process", other)] {
            let verdict = attempt(who, Op::Append, files, ELSEWHERE, Expect::Succeeds);
            self.trial(fs, group, &format!("{name}: append"), verdict)?;
        }
        Ok(())
    }

    fn after_release(
        &mut self,
        fs: Fs,
        files: Files,
        mut holder: Client,
        mut other: Client,
    ) -> anyhow::Result<()> {
        let group = "lease released";
        let reply = holder.set_lease("file", libc::F_UNLCK);
        self.errno(fs.name(), group, "release while pinned", 0, reply)?;
        let reply = holder.reg("second", "map", ELSEWHERE.offset - (1 << 20), 65536);
        let step = "a second registration";
        self.errno(fs.name(), group, step, libc::EOPNOTSUPP, reply)?;
        for op in [Op::Ftruncate, Op::Punch] {
            let verdict = attempt(&mut holder, op, files, PINNED, REFUSED);
            self.trial(
                fs.name(),
                group,
                &format!("the holder: {}", op.title()),
                verdict,
            )?;
            let verdict = attempt(&mut other, op, files, PINNED, REFUSED);
            let step = format!("another process: {}", op.title());
            self.trial(fs.name(), group, &step, verdict)?;
        }
        // The holder cut the file at ELSEWHERE and appended to it.
        let free = Span::new(ELSEWHERE.offset - (256 << 10), 64 << 10);
        for op in [
            Op::ZeroRange,
            Op::Punch,
            Op::Insert,
            Op::Collapse,
            Op::ReflinkFrom,
        ] {
            if op.exists_on(fs) {
                let verdict = attempt(&mut other, op, files, free, Expect::Succeeds);
                let step = format!("unpinned range: {}", op.title());
                self.trial(fs.name(), group, &step, verdict)?;
            }
        }
        holder.end()?;
        let verdict = attempt(&mut other, Op::Ftruncate, files, PINNED, Expect::Succeeds);
        self.trial(
            fs.name(),
            "client ended",
            "another process: ftruncate",
            verdict,
        )?;
        other.end()
    }
}
