// SPDX-License-Identifier: MIT OR Apache-2.0
//! What RDMA wrote into a file is what is read from it later, and fsync flushed it.

use super::{Demo, EXCLUSIVE};
use crate::client::Client;
use crate::protocol::{pattern, Request};
use crate::setup::Mounted;
use crate::trace::{covered, inode, Writeback};

const SIZE: u64 = 1 << 20;
const SEED: u32 = 0x5eed;
const FSYNC: &str = "fsync after the DMA";

fn all_of_it() -> String {
    format!("{SIZE} of {SIZE} bytes flushed")
}

impl Demo {
    /// Writes a pattern by RDMA, fsyncs, unmounts, mounts and reads.
    pub(super) fn data(
        &mut self,
        mounted: &mut Mounted,
        client: &mut Client,
    ) -> anyhow::Result<()> {
        let fs = mounted.fs.name();
        let group = "data";
        let file = mounted.file("received", SIZE)?;
        client.open("file", &file)?;
        client.map_shared("map", "file", SIZE)?;
        client.map_anonymous("memory", SIZE)?;
        client.must(Request::Fill {
            map: "memory".to_owned(),
            offset: 0,
            length: SIZE,
            seed: SEED,
        })?;
        let lease = client.set_lease("file", EXCLUSIVE)?;
        let source = client.reg("source", "memory", 0, SIZE)?;
        let target = client.reg("target", "map", 0, SIZE)?;
        let step = "RDMA WRITE of 1 MiB into the file";
        if (lease.errno, source.errno, target.errno) != (0, 0, 0) {
            let refused = [lease, source, target];
            let reply = refused.into_iter().find(|reply| reply.errno != 0);
            self.errno(fs, group, step, 0, Ok(reply.unwrap_or_default()))?;
            self.finding(
                fs,
                group,
                FSYNC,
                &all_of_it(),
                Err("nothing written".to_owned()),
            )?;
        } else {
            // Whatever the pin itself made dirty is cleaned first: only the DMA is left to flush.
            let fsync = || Request::Fsync {
                name: "file".to_owned(),
            };
            client.must(fsync())?;
            let trace = Writeback::on()?;
            let reply = client.ask(Request::RdmaWrite {
                from: "source".to_owned(),
                to: "target".to_owned(),
                length: SIZE,
            });
            self.errno(fs, group, step, 0, reply)?;
            trace.clear()?;
            let reply = client.ask(fsync())?;
            let bytes = covered(&trace.flushed()?, inode(&file)?, 0, SIZE);
            let got = format!("{bytes} of {SIZE} bytes flushed");
            let found = if reply.errno == 0 && bytes == SIZE {
                Ok(got)
            } else {
                Err(got)
            };
            self.finding(fs, group, FSYNC, &all_of_it(), found)?;
        }
        client.must(Request::Reset)?;
        mounted.unmount()?;
        mounted.mount()?;
        let found = match std::fs::read(&file)? {
            bytes if bytes == pattern(SEED, usize::try_from(SIZE)?) => Ok("the pattern".to_owned()),
            bytes => Err(format!("{} other bytes", bytes.len())),
        };
        let step = "read(2) after unmount and mount";
        self.finding(fs, group, step, "the pattern", found)
    }
}
