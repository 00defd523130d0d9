// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once: actors on the same few files, RDMA traffic, freezes, reclaim, memory pressure and
//! kills, round after round; between rounds nothing may be held, and everything is possible.

use super::actor::{Report, SOURCE, SOURCE_BYTE, WRITTEN};
use super::machine::Machine;
use super::world::SMALL;
use super::{nothing_held, remove_files, BreakTime, Plan};
use crate::calls::carry_out;
use crate::client::{Client, WRITE};
use crate::ops::{Op, Span};
use crate::protocol::{pattern, Request};
use crate::setup::Mounted;
use crate::slow::Frozen;
use anyhow::{bail, ensure, Context};
use layout_lease::{F_EXCLUSIVE, F_LAYOUT};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a round takes.
const ROUND: Duration = Duration::from_secs(10);
/// What an actor may take to end after its time: a call may wait for a lease.
const HUNG: Duration = Duration::from_secs(40);
const FILES: usize = 4;
/// What the RDMA device writes to all the time, and where.
const STREAMED: Span = Span::new(WRITTEN, 64 << 10);

fn path(root: &Path, file: usize) -> PathBuf {
    root.join(format!("storm-{file}"))
}

fn make(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))?;
    Ok(file.write_all(&pattern(0, SMALL as usize))?)
}

/// A verbs client that streams into the last file, which it holds by an exclusive lease.
struct Stream<'a> {
    client: &'a mut Client,
}

impl<'a> Stream<'a> {
    fn start(file: &Path, client: &'a mut Client) -> anyhow::Result<Stream<'a>> {
        client.open("file", file)?;
        let lease = client.set_lease("file", libc::F_RDLCK | F_LAYOUT | F_EXCLUSIVE)?;
        ensure!(lease.errno == 0, "the lease: {}", lease.text);
        client.map_shared("map", "file", SMALL)?;
        client.map_anonymous("memory", STREAMED.length)?;
        let (to, length) = (STREAMED.offset, STREAMED.length);
        for (mr, map, offset) in [("source", "memory", 0), ("target", "map", to)] {
            let reply = client.reg_for(mr, map, offset, length, WRITE)?;
            ensure!(reply.errno == 0, "{mr}: {}", reply.text);
        }
        client.must(Request::Stream {
            from: "source".to_owned(),
            to: "target".to_owned(),
            length,
        })?;
        Ok(Stream { client })
    }

    fn stop(&mut self) -> anyhow::Result<i64> {
        let bytes = self.client.must(Request::StreamStop)?.value;
        self.client.must(Request::Reset)?;
        Ok(bytes)
    }
}

/// An actor, and when its time is over.
struct Running {
    child: Child,
    until: Instant,
}

fn actor(mounted: &Mounted, seed: u64, time: Duration) -> anyhow::Result<Running> {
    let child = Command::new("/proc/self/exe")
        .arg("actor")
        .arg("--root")
        .arg(&mounted.root)
        .args(["--fs", mounted.fs.name()])
        .args(["--seed", &seed.to_string()])
        .args(["--files", &FILES.to_string()])
        .args(["--milliseconds", &time.as_millis().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("an actor")?;
    let until = Instant::now() + time;
    Ok(Running { child, until })
}

/// What an actor that has ended says; nothing from one that was killed.
fn report(mut running: Running) -> anyhow::Result<Option<Report>> {
    let pid = running.child.id();
    let status = loop {
        if let Some(status) = running.child.try_wait()? {
            break status;
        }
        if Instant::now() > running.until + HUNG {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
            let stack = read("stack").unwrap_or_default();
            let _ = running.child.kill();
            bail!("actor {pid} hangs: {stack}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    use std::os::unix::process::ExitStatusExt;
    if status.signal() == Some(libc::SIGKILL) {
        return Ok(None);
    }
    let mut text = String::new();
    if let Some(mut stdout) = running.child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    ensure!(status.success(), "actor {pid}: {status}");
    let report: Report = serde_json::from_str(&text).with_context(|| format!("{text:?}"))?;
    if let Some(wrong) = &report.wrong {
        bail!("actor {pid}: {wrong}");
    }
    Ok(Some(report))
}

/// Takes memory until little is left, and gives it back.
fn squeeze() -> anyhow::Result<()> {
    const PIECE: usize = 64 << 20;
    const ENOUGH: u64 = 400 << 10;
    let available = || -> anyhow::Result<u64> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
        let number = line.and_then(|l| l.split_whitespace().next());
        Ok(number.context("MemAvailable")?.parse()?)
    };
    let mut taken = Vec::new();
    while available()? > ENOUGH && taken.len() < 64 {
        taken.push(vec![1u8; PIECE]);
    }
    Ok(())
}

/// What went on, added up.
#[derive(Default)]
struct Sum {
    rounds: usize,
    killed: usize,
    streamed: i64,
    all: Report,
}

impl Sum {
    fn add(&mut self, report: Option<Report>) {
        let Some(report) = report else {
            self.killed += 1;
            return;
        };
        self.all.changes += report.changes;
        self.all.refused += report.refused;
        self.all.leases += report.leases;
        self.all.broken += report.broken;
        self.all.pins += report.pins;
    }
}

/// Rounds of everything at once, for the plan's share of the time; what was done, in words.
pub fn storm(
    mounted: &Mounted,
    machine: &mut Machine,
    plan: Plan,
    progress: bool,
) -> anyhow::Result<String> {
    let _impatient = BreakTime::set(2)?;
    let deadline = Instant::now() + plan.time / super::STORM;
    let mut sum = Sum::default();
    while sum.rounds == 0 || Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = ROUND.min(left.max(Duration::from_secs(3)));
        round(mounted, machine, (plan, time), &mut sum)
            .with_context(|| format!("round {}", sum.rounds + 1))?;
        sum.rounds += 1;
        if progress {
            println!("{}", words(&sum));
        }
    }
    Ok(words(&sum))
}

fn words(sum: &Sum) -> String {
    let all = &sum.all;
    format!(
        "{} rounds: {} changes tried, {} refused, {} leases, {} broken, {} pins, {} processes \
         killed, {} MiB by RDMA",
        sum.rounds,
        all.changes,
        all.refused,
        all.leases,
        all.broken,
        all.pins,
        sum.killed,
        sum.streamed >> 20
    )
}

fn round(
    mounted: &Mounted,
    machine: &mut Machine,
    how: (Plan, Duration),
    sum: &mut Sum,
) -> anyhow::Result<()> {
    let (plan, time) = how;
    fs::write(SOURCE, vec![SOURCE_BYTE; 64 << 10])?;
    for file in 0..FILES {
        make(&path(&mounted.root, file))?;
    }
    let streamed = path(&mounted.root, FILES - 1);
    // By a descriptor: others may put a new file in its place.
    let file = File::open(&streamed)?;
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (verbs, canaries) = machine.verbs()?;
    let mut stream = Stream::start(&streamed, verbs)?;
    let before = crate::tests::placed(&by_number, STREAMED)?;
    let count = if plan.slow { 8 } else { 4 };
    let seed = plan.seed.wrapping_add(1000 * sum.rounds as u64);
    let end = Instant::now() + time;
    let actors: anyhow::Result<Vec<Running>> =
        (0..count).map(|n| actor(mounted, seed + n, time)).collect();
    let mut actors = actors?;
    let mut turns = 0;
    while Instant::now() < end {
        turns += 1;
        std::thread::sleep(Duration::from_millis(100));
        canaries.balance()?;
        canaries.look()?;
        match turns % 6 {
            1 => {
                let frozen = Frozen::freeze(&mounted.root)?;
                std::thread::sleep(Duration::from_millis(20));
                frozen.thaw()?;
            }
            2 => fs::write("/proc/sys/vm/drop_caches", "2")?,
            3 => fs::write("/proc/sys/vm/compact_memory", "1")?,
            4 => {
                let victim = actors.swap_remove(turns % actors.len());
                // SAFETY: a signal to a child of this process that has not been reaped.
                unsafe { libc::kill(victim.child.id() as i32, libc::SIGKILL) };
                sum.add(report(victim)?);
                let left = end.saturating_duration_since(Instant::now());
                actors.push(actor(mounted, seed + 100 + turns as u64, left)?);
            }
            5 if plan.slow && turns % 30 == 5 => squeeze()?,
            _ => {
                crate::system::Listing::read()?;
            }
        }
    }
    for running in actors {
        sum.add(report(running)?);
    }
    let after = crate::tests::placed(&by_number, STREAMED)?;
    ensure!(before == after, "blocks that RDMA writes to have moved");
    let bytes = stream.stop()?;
    ensure!(bytes > 0, "nothing was sent by RDMA");
    sum.streamed += bytes;
    drop((stream, file));
    quiescent(mounted)?;
    canaries.look_at_all()
}

/// Nobody holds anything, so that every file can be changed.
fn quiescent(mounted: &Mounted) -> anyhow::Result<()> {
    nothing_held(&mounted.root)?;
    for file in 0..FILES {
        let path = path(&mounted.root, file);
        let size = fs::metadata(&path)?.len();
        let all = Span::new(0, size.max(4096));
        for op in [Op::Punch, Op::OpenTruncate] {
            let reply = carry_out(&op.call(&path, &path, size, all));
            ensure!(
                reply.errno == 0,
                "afterwards, {}: {}",
                op.title(),
                reply.text
            );
        }
    }
    remove_files(&mounted.root)
}
