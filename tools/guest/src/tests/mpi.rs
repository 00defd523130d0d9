// SPDX-License-Identifier: MIT OR Apache-2.0
//! An unmodified MPI stack whose ranks receive into one DAX file: `mpirun daxpin lease FILE -- RANK`.

use super::env::{must_be, Env, Skip, SIZE};
use super::tool::{daxpin, on, pids};
use super::{tests, Test};
use crate::protocol::Call;
use crate::setup::Fs;
use anyhow::{bail, ensure, Context};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const RANK: &str = include_str!("../mpi_rank.py");

/// How long a job may take before it is ended, in seconds.
const PATIENCE: &str = "120";

pub fn tests(_: Fs) -> Vec<Test> {
    tests![ranks_receive_into_one_file, rank_without_a_lease]
}

/// A job that ends with the test.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // SAFETY: a signal to a child that has not been waited for. It ends all ranks.
            unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGTERM) };
            let _ = self.0.wait();
        }
    }
}

/// `mpirun -n 2`, over the software RDMA device and nothing else.
fn mpirun(env: &Env) -> anyhow::Result<Command> {
    const MPIRUN: &str = "/usr/bin/mpirun";
    if !Path::new(MPIRUN).exists() {
        return Err(Skip("no mpirun: is openmpi-bin installed?".to_owned()).into());
    }
    let mut command = Command::new("/usr/bin/timeout");
    command
        .args(["--kill-after=10", PATIENCE, MPIRUN, "--oversubscribe"])
        .args(["-n", "2", "--mca", "pml", "cm", "--mca", "mtl", "ofi"])
        .args(["--mca", "mtl_ofi_provider_include", "verbs;ofi_rxm"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("FI_VERBS_IFACE", env.interface())
        .env("FI_UNIVERSE_SIZE", "2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // The completion queues that it makes by default are longer than rxe's may be.
    for queue in ["MSG_TX", "MSG_RX", "TX", "RX"] {
        command.env(format!("FI_OFI_RXM_{queue}_SIZE"), "64");
    }
    Ok(command)
}

/// Both ranks hold the lease and pins in their halves; the file is free when the job has ended.
fn ranks_receive_into_one_file(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let launcher = daxpin(env, "lease")?;
    let mut child = mpirun(env)?
        .arg(launcher.get_program())
        .args(launcher.get_args())
        .arg("--exclusive")
        .arg(&file)
        .args(["--", "/usr/bin/python3", "-c", RANK])
        .arg(&file)
        .spawn()
        .context("cannot run mpirun")?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let mut job = Job(child);
    let mut ranks = Vec::new();
    while ranks.len() < 2 {
        let Some(line) = lines.next().transpose()? else {
            bail!("it ended: {}", complaint(&mut job)?)
        };
        let pid = line
            .strip_prefix("received ")
            .with_context(|| format!("a rank says {line:?}"))?;
        ranks.push(pid.parse::<u64>()?);
    }

    let shrink = Call::Truncate {
        path: file.clone(),
        size: 4096,
    };
    let mut other = env.worker()?;
    must_be(&other.call(&shrink)?, libc::ETXTBSY, "while it runs")?;
    ranks.sort_unstable();
    let json = on(env, "why", &["--json"], &file)?
        .with_status(1, "leased and pinned")?
        .json()?;
    let mut end = pids(&json["end"]);
    end.sort_unstable();
    ensure!(end == ranks, "the ranks are {ranks:?}: {json}");
    let half = SIZE / 2;
    for (index, &rank) in ranks.iter().enumerate() {
        let listing = std::fs::read_to_string(format!("/proc/{rank}/file_pins"))?;
        let halves = [(0, half - 1), (half, SIZE - 1)];
        let pins = halves
            .iter()
            .filter(|(first, last)| listing.contains(&format!(" {first}-{last} rw")))
            .count();
        ensure!(pins == 1, "rank {index} of {ranks:?} has pinned: {listing}");
    }

    stdin.write_all(b"go\n")?;
    drop(stdin);
    let status = job.0.wait()?;
    ensure!(status.success(), "{status}: {}", complaint(&mut job)?);
    let data = std::fs::read(&file)?;
    let (first, second) = data.split_at(usize::try_from(half)?);
    ensure!(
        first.iter().all(|&byte| byte == b'B') && second.iter().all(|&byte| byte == b'A'),
        "the file has other data"
    );
    on(env, "why", &[], &file)?.with_status(0, "let go")?;
    must_be(&other.call(&shrink)?, 0, "afterwards")
}

/// What it says on standard error.
fn complaint(job: &mut Job) -> anyhow::Result<String> {
    let mut text = String::new();
    if let Some(stderr) = &mut job.0.stderr {
        stderr.read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Registering fails, and so does the job. Nothing gets into the file.
fn rank_without_a_lease(env: &Env) -> anyhow::Result<()> {
    let file = env.file()?;
    let before = std::fs::read(&file)?;
    let output = mpirun(env)?
        .args(["/usr/bin/python3", "-c", RANK])
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !output.status.success() && !said.contains("received"),
        "{}: {said}",
        output.status
    );
    ensure!(std::fs::read(&file)? == before, "data got into the file");
    Ok(())
}
