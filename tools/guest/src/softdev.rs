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
    under: Under,
}

/// What is under it.
enum Under {
    /// An interface that stays, as the device does.
    Shared,
    /// A dummy interface. Both are deleted on drop.
    Dummy(String),
    /// The machine's network interface. The device is deleted on drop.
    Nic {
        /// Its PCI device in sysfs, put back on drop if it has been removed.
        pci: PathBuf,
    },
}

/// The network interface that has a PCI device, if there is one: its name, and that device in sysfs.
fn nic() -> anyhow::Result<Option<(String, PathBuf)>> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        // The interface's parent is the virtio device, whose parent is the PCI device.
        let Ok(device) = entry.path().join("device/..").canonicalize() else {
            continue;
        };
        if device.join("remove").exists() {
            let name = entry.file_name().to_string_lossy().into_owned();
            return Ok(Some((name, device)));
        }
    }
    Ok(None)
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
            under: Under::Shared,
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
            under: Under::Dummy(net.clone()),
        };
        device.add(&net)?;
        Ok(device)
    }

    /// One of its own on the machine's network interface, if it has one, to be removed by sysfs.
    pub fn on_nic(driver: Driver) -> anyhow::Result<Option<SoftDevice>> {
        let Some((net, pci)) = nic()? else {
            return Ok(None);
        };
        let device = SoftDevice {
            driver,
            name: format!("{}3", driver.name()),
            under: Under::Nic { pci },
        };
        device.add(&net)?;
        Ok(Some(device))
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

    /// Removes the PCI device of the network interface under it, as `echo 1 > remove` in sysfs does. Not
    /// waited for.
    pub fn remove_nic(&self) -> anyhow::Result<std::process::Child> {
        let Under::Nic { pci } = &self.under else {
            bail!("{} is on no network interface with a PCI device", self.name)
        };
        Command::new("/bin/sh")
            .args(["-c", "echo 1 > \"$0\""])
            .arg(pci.join("remove"))
            .spawn()
            .context("cannot run sh")
    }

    /// Whether it is gone within `time`: the kernel has a worker remove what was on a network interface.
    pub fn is_gone(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while self.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        !self.exists()
    }

    /// Whether it is there.
    fn exists(&self) -> bool {
        Path::new("/sys/class/infiniband").join(&self.name).exists()
    }
}

impl Drop for SoftDevice {
    fn drop(&mut self) {
        if matches!(self.under, Under::Shared) {
            return;
        }
        // The next one of the name fails to be made if this one cannot be deleted.
        if self.exists() {
            let _ = self.delete().and_then(|mut child| Ok(child.wait()?));
        }
        match &self.under {
            Under::Shared => (),
            Under::Dummy(net) => drop(words("ip", &format!("link delete {net}"))),
            Under::Nic { pci } if pci.exists() => (),
            Under::Nic { .. } => drop(std::fs::write("/sys/bus/pci/rescan", "1")),
        }
    }
}
