// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second pmem device as a device-DAX character device, for a while.

use crate::setup::run;
use anyhow::bail;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "namespace1.0";

/// The device; the namespace is given back its old mode with `undo`.
pub struct DeviceDax {
    /// `/dev/dax1.0`.
    pub path: PathBuf,
}

impl DeviceDax {
    /// Turns the namespace, whose filesystem must not be mounted, into device DAX.
    pub fn make() -> anyhow::Result<DeviceDax> {
        DeviceDax::with_alignment("2M")
    }

    /// The same, with pages of this size.
    pub fn with_alignment(size: &str) -> anyhow::Result<DeviceDax> {
        mode(&["-m", "devdax", "-a", size])?;
        let path = PathBuf::from("/dev/dax1.0");
        wait_for(&path)?;
        Ok(DeviceDax { path })
    }

    /// Back to a block device.
    pub fn undo(self) -> anyhow::Result<()> {
        mode(&["-m", "fsdax", "-M", "mem"])?;
        wait_for(Path::new("/dev/pmem1"))
    }
}

fn mode(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ndctl")
        .args(["create-namespace", "-f", "-e", NAMESPACE])
        .args(arguments))?;
    Ok(())
}

fn wait_for(path: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        if Instant::now() > deadline {
            bail!("{} did not appear", path.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
