// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that never needed a lease works as before: device DAX and anonymous memory.

use super::Demo;
use crate::client::Client;
use crate::devdax::DeviceDax;
use crate::perftest::{arguments, server, Side, PROGRAM};
use crate::protocol::Request;
use anyhow::Context;
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 2 << 20;
const SECONDS: u32 = 3;

impl Demo {
    /// All of it.
    pub(super) fn without_files(&mut self) -> anyhow::Result<()> {
        self.perftest_on_memory()?;
        let mut client = self.verbs_client()?;
        client.map_anonymous("target map", SIZE)?;
        self.loopback("anon", &mut client)?;

        let device = DeviceDax::make().context("device DAX")?;
        client.open("device", &device.path)?;
        client.map_shared("target map", "device", SIZE)?;
        self.loopback("dax", &mut client)?;
        client.must(Request::Reset)?;
        client.end()?;
        device.undo()
    }

    fn perftest_on_memory(&mut self) -> anyhow::Result<()> {
        let (mut server, port) = server(&self.rdma, SECONDS)?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments(&self.rdma, port, SECONDS, None));
        command.arg(self.rdma.address);
        let mut client = Side::start(command, "client")?;
        let ended = client.end(Duration::from_secs(40))?;
        server.end(Duration::from_secs(10))?;
        let found = match ended.bandwidth() {
            Some(rate) if ended.success => Ok(format!("ends well, {rate:.1} MB/s")),
            _ => Err(ended.complaint().to_owned()),
        };
        self.finding("anon", "no lease needed", "ib_write_bw", "ends well", found)
    }

    /// Registers the target mapping without a lease, writes to it by RDMA, and compares.
    fn loopback(&mut self, kind: &str, client: &mut Client) -> anyhow::Result<()> {
        let group = "no lease needed";
        client.map_anonymous("source map", SIZE)?;
        client.must(Request::Fill {
            map: "source map".to_owned(),
            offset: 0,
            length: SIZE,
            seed: 9,
        })?;
        client.reg("source", "source map", 0, SIZE)?;
        let reply = client.reg("target", "target map", 0, SIZE);
        let registered = reply.as_ref().is_ok_and(|reply| reply.errno == 0);
        self.errno(kind, group, "our client registers 2 MiB", 0, reply)?;
        if registered {
            let reply = client.ask(Request::RdmaWrite {
                from: "source".to_owned(),
                to: "target".to_owned(),
                length: SIZE,
            });
            self.errno(kind, group, "RDMA WRITE of 2 MiB", 0, reply)?;
        }
        let same = client.must(Request::Compare {
            map: "target map".to_owned(),
            offset: 0,
            length: SIZE,
            seed: 9,
        })?;
        let found = match same.value {
            1 => Ok("the pattern".to_owned()),
            _ => Err("other bytes".to_owned()),
        };
        self.finding(kind, group, "what the memory holds", "the pattern", found)?;
        client.must(Request::Reset)?;
        Ok(())
    }
}
