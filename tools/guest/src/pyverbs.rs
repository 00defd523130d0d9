// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs library's own tests, as Debian ships them, on the software RDMA device.

use crate::setup::{run, Rdma};
use anyhow::{ensure, Context};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the tests are, and where the results go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the results go: verdict, name and reason of each test, with tabs between
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The tests, as the package python3-pyverbs has them
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/usr/share/doc/rdma-core/tests"
    )]
    tests: PathBuf,
    /// Only this test; can be given several times
    #[arg(long = "test", value_name = "NAME")]
    names: Vec<String>,
    /// How often each is run
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
}

const PROGRAM: &str = include_str!("pyverbs_tests.py");

/// Tests of what only some hardware has. All of them would be skipped, after a long time of loading.
fn for_hardware(name: &str) -> bool {
    ["test_mlx5", "test_efa", "test_cuda"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Runs them. Whether they pass is not for this to judge.
pub fn run_all(options: &Options) -> anyhow::Result<bool> {
    let rdma = Rdma::ready()?;
    // Some of the tests want huge pages.
    fs::write("/proc/sys/vm/nr_hugepages", "64").context("cannot reserve huge pages")?;
    let directory = Path::new("/tmp/pyverbs");
    unpack(&options.tests, &directory.join("tests"))?;
    let program = directory.join("pyverbs_tests.py");
    fs::write(&program, PROGRAM)?;
    let status = Command::new("/usr/bin/python3")
        .arg(program)
        .arg(directory)
        .args([rdma.device, &rdma.gid_index.to_string()])
        .arg(&options.out)
        .arg(options.times.to_string())
        .args(&options.names)
        .status()
        .context("cannot run python3")?;
    ensure!(status.success(), "the tests did not come to their end");
    Ok(true)
}

/// Debian compresses documentation above a certain size, and these files count as such.
fn unpack(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from)
        .with_context(|| format!("no {}: is python3-pyverbs installed?", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if for_hardware(&name) {
            continue;
        }
        let copy = to.join(&name);
        fs::copy(entry.path(), &copy)?;
        if name.ends_with(".gz") {
            run(Command::new("gzip").args(["-d", "-f"]).arg(copy))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn tests_are_unpacked_and_those_for_hardware_left_out() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["base.py", "test_mr.py", "test_mlx5_dc.py"] {
            fs::write(from.path().join(name), name).unwrap();
        }
        run(Command::new("gzip").arg(from.path().join("test_mr.py"))).unwrap();
        unpack(from.path(), to.path()).unwrap();
        let text = fs::read_to_string(to.path().join("test_mr.py")).unwrap();
        assert_eq!(text, "test_mr.py");
        assert!(to.path().join("base.py").exists());
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }
}
