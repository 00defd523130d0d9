// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA over the software device into pinned files, and into what one would take instead.

use super::count::{instructions, ticks, Costs};
use super::memory::{file, HUGE, PAGE};
use super::Bench;
use crate::client::{Client, ON_DEMAND, RW, WRITE};
use crate::devdax::DeviceDax;
use crate::perftest::{self, Side};
use crate::protocol::Request;
use crate::setup::{Fs, Mounted, Rdma};
use anyhow::{bail, ensure, Context};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use std::arch::asm;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What is received and made durable.
const JOB: u64 = 64 << 20;
/// The first time, with memory that nobody has touched, does not count.
const TIMES: usize = 3;

/// The whole job, four ways.
pub fn job(bench: &mut Bench) -> anyhow::Result<()> {
    let rdma = Rdma::ready()?;
    let mut client = Client::verbs(rdma.device, rdma.gid_index)?.patient();
    client.map_anonymous("source", JOB)?;
    let reply = client.reg("source", "source", 0, JOB)?;
    ensure!(reply.errno == 0, "registering the source");
    let mut mounted = Mounted::roomy(Fs::Xfs)?;

    let path = file(&mounted, "received", JOB)?;
    client.open("file", &path)?;
    client.map_shared("file", "file", JOB)?;
    let lease = libc::F_RDLCK | F_LAYOUT | F_EXCLUSIVE;
    let reply = client.set_lease("file", lease)?;
    ensure!(reply.errno == 0, "the lease: errno {}", reply.errno);
    registered(bench, &mut client, "pinned file", WRITE, End::Fsync)?;
    client.set_lease("file", libc::F_UNLCK)?;
    registered(
        bench,
        &mut client,
        "on demand",
        WRITE | ON_DEMAND,
        End::Fsync,
    )?;
    unmap(&mut client, "file")?;

    client.map_anonymous("file", JOB)?;
    registered(bench, &mut client, "bounce copy", WRITE, End::Copy(&path))?;
    unmap(&mut client, "file")?;
    client.close("file")?;
    std::fs::remove_file(&path)?;

    let device = DeviceDax::with_alignment("2m")?;
    client.open("file", &device.path)?;
    client.map("file", Some("file"), 0, JOB, RW, libc::MAP_SHARED)?;
    registered(
        bench,
        &mut client,
        "device DAX",
        WRITE,
        End::Flush(&device.path),
    )?;
    unmap(&mut client, "file")?;
    client.close("file")?;
    client.end()?;
    device.undo()?;
    mounted.unmount()
}

fn unmap(client: &mut Client, map: &str) -> anyhow::Result<()> {
    client
        .must(Request::Unmap {
            map: map.to_owned(),
        })
        .map(drop)
}

/// What makes the data durable.
#[derive(Clone, Copy)]
enum End<'a> {
    Fsync,
    /// `write(2)` into this file, then fsync.
    Copy(&'a Path),
    /// Flushes the cache lines of the device itself.
    Flush(&'a Path),
}

/// Registers, receives, makes durable, deregisters.
fn registered(
    bench: &mut Bench,
    client: &mut Client,
    variant: &str,
    access: u32,
    end: End,
) -> anyhow::Result<()> {
    let (mut whole, mut durable) = (Vec::new(), Vec::new());
    for time in 0..TIMES {
        let reply = client.reg_for("target", "file", 0, JOB, access)?;
        ensure!(
            reply.errno == 0,
            "{variant}: {} {}",
            reply.errno,
            reply.text
        );
        let sent = client.must(Request::RdmaWrite {
            from: "source".to_owned(),
            to: "target".to_owned(),
            length: JOB,
        })?;
        let made = match end {
            End::Fsync => {
                let name = "file".to_owned();
                client.must(Request::Fsync { name })?.ns
            }
            End::Copy(path) => copied(path)?,
            End::Flush(path) => flushed(path)?,
        };
        let freed = client.dereg("target")?;
        if time > 0 {
            durable.push(instructions(made));
            whole.push(instructions(reply.ns + sent.ns + made + freed.ns));
        }
    }
    let sink = &mut bench.sink;
    sink.curve("receive-durable", variant, JOB, &Costs::of(whole))?;
    sink.curve("received-to-durable", variant, JOB, &Costs::of(durable))
}

/// What a receiver with a buffer in memory has to do then. The buffer is one of this process: what is
/// copied makes no difference. Time in nanoseconds.
fn copied(path: &Path) -> anyhow::Result<u64> {
    let data = vec![9; JOB as usize];
    let file = std::fs::File::options().write(true).open(path)?;
    let begin = ticks();
    for offset in (0..JOB).step_by(1 << 20) {
        let part = &data[usize::try_from(offset)?..][..1 << 20];
        super::sys::write(&file, part, offset)?;
    }
    file.sync_all()?;
    Ok(ticks() - begin)
}

/// `clwb`, or what the processor has instead, for each line. Time in nanoseconds.
fn flushed(path: &Path) -> anyhow::Result<u64> {
    let memory = super::memory::Mapping::shared(path, super::memory::Grain::Huge, JOB)?;
    ensure!(
        std::fs::read_to_string("/proc/cpuinfo")?.contains(" clwb"),
        "the processor has no clwb"
    );
    let begin = ticks();
    for offset in (0..JOB).step_by(64) {
        let line = memory.address() + offset;
        // SAFETY: writes back a line of the mapping, and changes nothing.
        unsafe { asm!("clwb [{line}]", line = in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: orders what was written back.
    unsafe { core::arch::x86_64::_mm_sfence() };
    Ok(ticks() - begin)
}

/// A program of perftest, and which side of it writes to the memory in question.
const PROGRAMS: [(&str, bool, &str); 4] = [
    ("ib_write_bw", true, "MB/s"),
    ("ib_read_bw", false, "MB/s"),
    ("ib_write_lat", true, "us"),
    ("ib_read_lat", false, "us"),
];

/// Debian's perftest, unmodified: a file on DAX beside anonymous memory.
pub fn perftest(bench: &mut Bench) -> anyhow::Result<()> {
    let rdma = Rdma::ready()?;
    let mut mounted = Mounted::roomy(Fs::Xfs)?;
    let path = file(&mounted, "transferred", HUGE)?;
    drop(super::memory::Mapping::shared(
        &path,
        super::memory::Grain::Huge,
        HUGE,
    )?);
    let daxpin = bench.daxpin.clone();
    for (program, server_is_target, unit) in PROGRAMS {
        for (variant, on_file) in [("anonymous", false), ("pinned file", true)] {
            let on =
                |target: bool| (on_file && target).then_some((daxpin.as_path(), path.as_path()));
            let mut values = Vec::new();
            for _ in 0..TIMES {
                let server = on(server_is_target);
                let client = on(!server_is_target);
                values.push(run_once(&rdma, program, server, client)?);
            }
            values.sort_by(f64::total_cmp);
            bench.sink.add(&super::sink::Record {
                name: program.to_owned(),
                variant: variant.to_owned(),
                x: None,
                n: TIMES,
                unit,
                value: values[TIMES / 2],
                mean: values.iter().sum::<f64>() / TIMES as f64,
            })?;
        }
    }
    mounted.unmount()
}

/// A program, under a lease if it has a file.
fn command(program: &str, on: Option<(&Path, &Path)>) -> Command {
    let Some((daxpin, path)) = on else {
        return Command::new(program);
    };
    let mut command = Command::new(daxpin);
    command.args(["lease", "--exclusive"]).arg(path);
    command.args(["--", program]);
    command.arg(format!("--mmap={}", path.display()));
    command
}

fn run_once(
    rdma: &Rdma,
    program: &str,
    server: Option<(&Path, &Path)>,
    client: Option<(&Path, &Path)>,
) -> anyhow::Result<f64> {
    const PATIENCE: Duration = Duration::from_secs(120);
    let port = perftest::next_port();
    let latency = program.ends_with("lat");
    let (times, size) = if latency {
        (100, PAGE)
    } else {
        (300, 64 << 10)
    };
    let arguments = [
        "-d".to_owned(),
        rdma.device.to_owned(),
        "-x".to_owned(),
        rdma.gid_index.to_string(),
        "-p".to_owned(),
        port.to_string(),
        "-n".to_owned(),
        times.to_string(),
        "-s".to_owned(),
        size.to_string(),
        "-F".to_owned(),
    ];
    let mut command_of_server = command(program, server);
    command_of_server.args(&arguments);
    let mut server = Side::listening(command_of_server, port)?;
    let mut command_of_client = command(program, client);
    command_of_client.args(&arguments).arg(rdma.address);
    let ended = Side::start(command_of_client, "client")?.end(PATIENCE)?;
    let other = server.end(PATIENCE)?;
    if !ended.success || !other.success {
        bail!("{program}: {} / {}", ended.complaint(), other.complaint());
    }
    let result = if latency {
        ended.typical_latency()
    } else {
        ended.bandwidth()
    };
    result.with_context(|| format!("{program} has no result: {}", ended.output))
}
