// SPDX-License-Identifier: MIT OR Apache-2.0
//! Software RDMA devices of both kinds, besides the one that transfers go over.

use crate::setup::run;
use crate::uverbs::Driver;
use anyhow::{bail, Context};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

impl Driver {
    /// Both.
    pub const ALL: [Driver; 2] = [Driver::Rxe, Driver::Siw];

    /// As `rdma link add` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Rxe => "rxe",
            Driver::Siw => "siw",
        }
    }
}

/// A software RDMA device.
pub struct SoftDevice {
    /// Its driver.
    pub driver: Driver,
    name: String,
    /// Of a device that is deleted on drop.
    net: Option<String>,
}

fn words(program: &str, arguments: &str) -> anyhow::Result<()> {
    run(Command::new(program).args(arguments.split(' '))).map(drop)
}

impl SoftDevice {
    /// One that stays, made where it is missing.
    pub fn shared(driver: Driver) -> anyhow::Result<SoftDevice> {
        let device = SoftDevice {
            driver,
            name: format!("{}1", driver.name()),
            net: None,
        };
        if !Path::new("/sys/class/infiniband")
            .join(&device.name)
            .exists()
        {
            device.add("d1")?;
        }
        Ok(device)
    }

    /// One of its own, to be deleted.
    pub fn own(driver: Driver) -> anyhow::Result<SoftDevice> {
        let net = format!("d-{}", driver.name());
        let device = SoftDevice {
            driver,
            name: format!("{}2", driver.name()),
            net: Some(net.clone()),
        };
        device.add(&net)?;
        Ok(device)
    }

    fn add(&self, net: &str) -> anyhow::Result<()> {
        if !Path::new("/sys/class/net").join(net).exists() {
            words("ip", &format!("link add {net} type dummy"))?;
        }
        words("ip", &format!("link set {net} up"))?;
        let (name, kind) = (&self.name, self.driver.name());
        words("rdma", &format!("link add {name} type {kind} netdev {net}"))
            .with_context(|| format!("no device of {kind}: is it built in?"))
    }

    /// Its character device.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for entry in std::fs::read_dir("/sys/class/infiniband_verbs")? {
                let entry = entry?;
                let of = std::fs::read_to_string(entry.path().join("ibdev")).unwrap_or_default();
                let node = Path::new("/dev/infiniband").join(entry.file_name());
                if of.trim() == self.name && node.exists() {
                    return Ok(node);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{} has no character device", self.name)
    }

    /// `rdma link delete`, not waited for.
    pub fn delete(&self) -> anyhow::Result<std::process::Child> {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("rdma")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args(["link", "delete", &self.name])
            .spawn()
            .context("cannot run rdma link delete")
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        Path::new("/sys/class/infiniband").join(&self.name).exists()
    }
}

impl Drop for SoftDevice {
    fn drop(&mut self) {
        let Some(net) = &self.net else { return };
        // The next one of the name fails to be made if this one cannot be deleted.
        if self.exists() {
            let _ = self.delete().and_then(|mut child| Ok(child.wait()?));
        }
        let _ = words("ip", &format!("link delete {net}"));
    }
}
