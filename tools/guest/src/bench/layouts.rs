// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breaking a layout that nfsd has given to a client.

use super::count::{instructions, ticks, Costs};
use super::memory::file;
use super::Bench;
use crate::nfs::{Mode, Server, Session, Status, PORT};
use crate::setup::{Fs, Mounted};
use anyhow::{anyhow, ensure};
use rustix::fs::{fallocate, FallocateFlags};
use std::fs::File;
use std::time::Duration;

const TIMES: usize = 30;
const LENGTH: u64 = 64 << 10;
/// How long a recall may take.
const SOON: Duration = Duration::from_secs(30);

/// From the punch that has to break the layout until it has succeeded: nfsd recalls the layout, the client,
/// a process of the same machine, agrees and returns it.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut mounted = Mounted::roomy(Fs::Xfs)?;
    let server = Server::start(&mounted.root)?;
    let mut session = Session::begin(PORT)?;
    let mut values = Vec::new();
    for number in 0..TIMES {
        // A recall is told by the file.
        let name = format!("given-out-{number}");
        let local = File::options()
            .write(true)
            .open(file(&mounted, &name, LENGTH)?)?;
        let remote = session.open(&name)?;
        let layout = session
            .layout_get(&remote, Mode::ReadWrite, LENGTH)?
            .map_err(|status| anyhow!("no layout: {status:?}"))?;
        let breaker = std::thread::spawn(move || {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let begin = ticks();
            let result = fallocate(&local, mode, 0, LENGTH);
            let cost = instructions(ticks() - begin);
            result.map(|()| cost)
        });
        ensure!(
            session.backchannel.recalled(&remote.handle, SOON),
            "the layout is not recalled"
        );
        let status = session.layout_return(&remote, &layout)?;
        ensure!(status == Status::OK, "returned: {status:?}");
        let cost = breaker.join().map_err(|_| anyhow!("the thread panicked"))?;
        values.push(cost?);
    }
    bench
        .sink
        .costs("layout-break", "xfs-dax", &Costs::of(values))?;
    drop(session);
    drop(server);
    mounted.unmount()
}
