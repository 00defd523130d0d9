// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's own `ib_write_bw`, unmodified, as server and client in this one machine.

use crate::setup::Rdma;
use anyhow::{bail, Context};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

static PORT: AtomicU16 = AtomicU16::new(18515);

/// One side of a transfer, its output kept in a file.
pub struct Side {
    child: Child,
    output: PathBuf,
}

/// How one side ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub success: bool,
    /// Everything it printed.
    pub output: String,
}

impl Ended {
    /// The average bandwidth of the report, MB/s.
    pub fn bandwidth(&self) -> Option<f64> {
        bandwidth(&self.output)
    }

    /// The typical latency of the report, µs.
    pub fn typical_latency(&self) -> Option<f64> {
        typical_latency(&self.output)
    }

    /// The last line that says something.
    pub fn complaint(&self) -> &str {
        let lines = self.output.lines().rev().map(str::trim);
        lines
            .filter(|line| line.chars().any(char::is_alphabetic))
            .find(|line| !line.starts_with("---"))
            .unwrap_or("no message")
    }
}

/// `65536 1000 38.5 37.9 0.0006`: size, iterations, peak, average, message rate.
fn bandwidth(output: &str) -> Option<f64> {
    output.lines().find_map(|line| {
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|w| w.parse().ok()).collect();
        numbers.filter(|n| n.len() == 5).map(|n| n[3])
    })
}

/// `4096 100 271.2 410.0 275.3 ...`: size, iterations, least, most, typical latency, and more.
fn typical_latency(output: &str) -> Option<f64> {
    output.lines().find_map(|line| {
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|w| w.parse().ok()).collect();
        numbers.filter(|n| n.len() >= 8).map(|n| n[4])
    })
}

/// The command line of a side, without the server's address.
pub fn arguments(rdma: &Rdma, port: u16, seconds: u32, file: Option<&Path>) -> Vec<String> {
    let mut arguments = vec![
        "-d".to_owned(),
        rdma.device.to_owned(),
        "-x".to_owned(),
        rdma.gid_index.to_string(),
        "-p".to_owned(),
        port.to_string(),
        "-D".to_owned(),
        seconds.to_string(),
        "-F".to_owned(),
    ];
    if let Some(file) = file {
        arguments.push(format!("--mmap={}", file.display()));
    }
    arguments
}

/// The program under test.
pub const PROGRAM: &str = "ib_write_bw";

/// Starts a server and waits until it listens. Gives its port.
pub fn server(rdma: &Rdma, seconds: u32) -> anyhow::Result<(Side, u16)> {
    let port = next_port();
    let mut command = Command::new(PROGRAM);
    command.args(arguments(rdma, port, seconds, None));
    Ok((Side::listening(command, port)?, port))
}

/// A port that nobody listens on yet.
pub fn next_port() -> u16 {
    PORT.fetch_add(1, Ordering::Relaxed)
}

fn listening(port: u16) -> io::Result<bool> {
    let wanted = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let found = text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
        });
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Side {
    /// Starts a command with its output in a file.
    pub fn start(mut command: Command, what: &str) -> anyhow::Result<Side> {
        let output = std::env::temp_dir().join(format!("perftest-{what}-{}", std::process::id()));
        let file = File::create(&output)?;
        command.stdin(std::process::Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Side { child, output })
    }

    /// Starts a server and waits until it listens.
    pub fn listening(command: Command, port: u16) -> anyhow::Result<Side> {
        let mut side = Side::start(command, "server")?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while !listening(port)? {
            if side.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!(
                    "the server does not listen: {}",
                    side.end(Duration::ZERO)?.output
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(side)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; kills it when the time is over.
    pub fn end(&mut self, time: Duration) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + time;
        let status: Option<ExitStatus> = loop {
            match self.child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if status.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        let output = String::from_utf8_lossy(&fs::read(&self.output)?).into_owned();
        Ok(Ended {
            success: status.is_some_and(|status| status.success()),
            output,
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the device moves packets while the client lives.
pub fn transfer_began(rdma: &Rdma, client: &mut Side) -> bool {
    let before = rdma.packets();
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.runs() && Instant::now() < deadline {
        if rdma.packets() > before + 200 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "---\n #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n 65536      3000             0.00               38.25                0.000612\n---\n";

    #[test]
    fn the_report_is_read() {
        assert_eq!(bandwidth(REPORT), Some(38.25));
        assert_eq!(bandwidth("Couldn't allocate MR\n"), None);
    }

    #[test]
    fn latency_is_the_typical_one() {
        let report = " #bytes #iterations t_min[usec] t_max[usec] t_typical[usec] t_avg[usec] t_stdev[usec] 99% percentile[usec] 99.9% percentile[usec]\n 4096 100 271.2 410.0 275.3 280.1 20.2 400.0 410.0\n";
        assert_eq!(typical_latency(report), Some(275.3));
        assert_eq!(typical_latency(REPORT), None);
    }

    #[test]
    fn the_complaint_is_the_last_words() {
        let ended = Ended {
            success: false,
            output: " Link type: Ethernet\nCouldn't allocate MR\nfailed to create mr\n-----\n"
                .into(),
        };
        assert_eq!(ended.complaint(), "failed to create mr");
    }
}
