// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine made ready: filesystems on the emulated persistent memory, and the software RDMA device.

use crate::protocol::pattern;
use anyhow::{bail, Context};
use rustix::fs::{statx, AtFlags, StatxAttributes, StatxFlags, CWD};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A filesystem under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fs {
    /// XFS on the first pmem device.
    Xfs,
    /// ext4 on the second.
    Ext4,
}

impl Fs {
    /// Both.
    pub const ALL: [Fs; 2] = [Fs::Xfs, Fs::Ext4];

    /// As `mount -t` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fs::Xfs => "xfs",
            Fs::Ext4 => "ext4",
        }
    }

    /// The device it is made on.
    pub fn device(self) -> &'static Path {
        Path::new(match self {
            Fs::Xfs => "/dev/pmem0",
            Fs::Ext4 => "/dev/pmem1",
        })
    }

    /// What makes it; the device is to follow.
    pub fn mkfs(self) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Fs::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Fs::Ext4 => ("mkfs.ext4", &["-q", "-F", "-b", "4096"]),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }

    /// Options of mkfs for tests: extents that begin at 2 MiB, and room to grow. What comes after the
    /// device is the size; only ext4 takes it there.
    fn roomy(self) -> (&'static [&'static str], Option<&'static str>) {
        match self {
            Fs::Xfs => (
                &[
                    "-d",
                    "size=448m,su=2m,sw=1,agcount=4",
                    "-l",
                    "size=64m,su=32k",
                ],
                None,
            ),
            Fs::Ext4 => (&["-E", "stride=512,stripe_width=512"], Some("448M")),
        }
    }
}

/// Switches XFS_IOC_EXCHANGE_RANGE on, or off: mkfs and xfs_repair know of it since xfsprogs 6.10 only, and
/// all mkfs does for it is to set a bit in the superblock.
fn set_exchange(device: &Path, on: bool) -> anyhow::Result<()> {
    const EXCHRANGE: u64 = 1 << 6;
    let ask = ["-c", "sb 0", "-c", "print features_incompat"];
    let text = run(Command::new("xfs_db").args(ask).arg(device))?;
    let value = text.trim().rsplit("0x").next().unwrap_or_default();
    let features = u64::from_str_radix(value, 16).with_context(|| format!("features: {text:?}"))?;
    let features = if on {
        features | EXCHRANGE
    } else {
        features & !EXCHRANGE
    };
    let write = format!("write -d features_incompat {features:#x}");
    run(Command::new("xfs_db")
        .args(["-x", "-c", "sb 0", "-c", &write])
        .arg(device))?;
    Ok(())
}

/// Whether e2fsck complains of nothing but the checksums of inode 5. EXT4_IOC_SWAP_BOOT exchanges the blocks
/// of the boot loader's inode with those of a file, and both get new generations. Blocks of extents keep
/// checksums that were made with the old ones, with the series as without.
fn boot_loader_only(text: &str) -> bool {
    const KNOWN: &str = "Inode 5 extent block passes checks, but checksum does not match extent";
    let known = text.matches(KNOWN).count();
    known > 0 && known == text.matches("? no").count()
}

/// A freshly made filesystem, mounted with `dax=always`; unmounted on drop.
pub struct Mounted {
    /// Which.
    pub fs: Fs,
    /// Where.
    pub root: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Makes and mounts the filesystem.
    pub fn fresh(fs: Fs) -> anyhow::Result<Mounted> {
        Mounted::made(fs, &[], None)
    }

    /// The same with extents for entries of 2 MiB, room to grow, and every feature that tests need.
    pub fn roomy(fs: Fs) -> anyhow::Result<Mounted> {
        let (options, size) = fs.roomy();
        Mounted::made(fs, options, size)
    }

    fn made(fs: Fs, options: &[&str], size: Option<&str>) -> anyhow::Result<Mounted> {
        let device = fs.device();
        if !device.exists() {
            bail!(
                "{} is missing: boot with memmap=512M!4G memmap=512M!4608M and --memory 4G",
                device.display()
            );
        }
        run(fs.mkfs().args(options).arg(device).args(size))?;
        if fs == Fs::Xfs && !options.is_empty() {
            set_exchange(device, true)?;
        }
        let root = PathBuf::from(format!("/tmp/dax-{}", fs.name()));
        fs::create_dir_all(&root)?;
        let mut mounted = Mounted {
            fs,
            root,
            mounted: false,
        };
        mounted.mount()?;
        let probe = mounted.file("dax-probe", 4096)?;
        if !is_dax(&probe)? {
            bail!("{} is mounted but its files are not DAX", fs.name());
        }
        fs::remove_file(probe)?;
        Ok(mounted)
    }

    /// Mounts it again after `unmount`.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        self.mount_with("dax=always")
    }

    /// The same with other options.
    pub fn mount_with(&mut self, options: &str) -> anyhow::Result<()> {
        run(Command::new("mount")
            .args(["-t", self.fs.name(), "-o", options])
            .arg(self.fs.device())
            .arg(&self.root))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; what keeps it busy is an error after a few seconds.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::empty()) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                // A file an exiting process held is put a moment after its end can be seen.
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("unmount {}", self.root.display()))
                }
            }
        }
    }

    /// Unmounts it, has it checked, and mounts it again. What is not as it should be is an error.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        let device = self.fs.device();
        let found = match self.fs {
            Fs::Xfs => {
                set_exchange(device, false)?;
                let found = run(Command::new("xfs_repair").arg("-n").arg(device));
                set_exchange(device, true)?;
                found
            }
            Fs::Ext4 => run(Command::new("e2fsck").arg("-fn").arg(device)),
        };
        self.mount()?;
        match found {
            Err(error) if !boot_loader_only(&format!("{error:#}")) => {
                Err(error).context("the filesystem is not clean")
            }
            _ => Ok(()),
        }
    }

    /// Whether it is in sight.
    pub fn is_mounted(&self) -> bool {
        self.mounted
    }

    /// Takes it out of sight, whatever still holds it.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("detach {}", self.root.display()))?;
        self.mounted = false;
        Ok(())
    }

    /// Makes it anew for the tests to come, whatever was there before.
    pub fn remake(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            self.detach()?;
        }
        *self = Mounted::roomy(self.fs)?;
        Ok(())
    }

    /// The device below it.
    pub fn device(&self) -> anyhow::Result<Device> {
        Device::of(self.fs.device())
    }

    /// A file of this size, full of written blocks (seed 0).
    pub fn file(&self, name: &str, size: u64) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        let mut file =
            fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let block = pattern(0, 1 << 20);
        let mut left = size;
        while left > 0 {
            let part = left.min(block.len() as u64);
            file.write_all(&block[..usize::try_from(part)?])?;
            left -= part;
        }
        file.sync_all()?;
        Ok(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            // Whatever still holds it must not stop the machine from ending its work.
            let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// An emulated persistent-memory device, which can be taken away from its driver.
#[derive(Clone, Debug)]
pub struct Device {
    node: PathBuf,
    driver: PathBuf,
    name: std::ffi::OsString,
}

impl Device {
    fn of(node: &Path) -> anyhow::Result<Device> {
        let block = Path::new("/sys/class/block").join(node.file_name().context("a name")?);
        let device = fs::canonicalize(block.join("device"))?;
        Ok(Device {
            node: node.to_owned(),
            driver: fs::canonicalize(device.join("driver"))?,
            name: device.file_name().context("a name")?.to_owned(),
        })
    }

    /// As the kernel and ndctl call it.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        self.name.to_string_lossy()
    }

    /// Where it is while it has a driver.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Takes it from its driver; returns when the driver has let go of it.
    pub fn unbind(&self) -> anyhow::Result<()> {
        self.write("unbind")
    }

    /// Gives it back.
    pub fn bind(&self) -> anyhow::Result<()> {
        self.write("bind")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.node.exists() {
            if Instant::now() > deadline {
                bail!("{} does not come back", self.node.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn write(&self, what: &str) -> anyhow::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let path = self.driver.join(what);
        fs::write(&path, self.name.as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

/// Whether the inode is DAX.
pub fn is_dax(path: &Path) -> anyhow::Result<bool> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::DAX))
}

/// Runs a program; its output is part of the error when it fails.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{line}: {} {} {}",
            output.status,
            stdout.trim(),
            stderr.trim()
        );
    }
    Ok(stdout)
}

/// The software RDMA device.
#[derive(Clone, Debug)]
pub struct Rdma {
    /// `rxe0`.
    pub device: &'static str,
    /// The network interface under it.
    pub interface: &'static str,
    /// Index of the GID that is the IPv4 address.
    pub gid_index: u32,
    /// That address.
    pub address: &'static str,
}

const ADDRESS: &str = "10.9.0.1";

impl Rdma {
    /// Makes the device where it is missing.
    pub fn ready() -> anyhow::Result<Rdma> {
        let device = "rxe0";
        let sys = PathBuf::from("/sys/class/infiniband").join(device);
        if !sys.exists() {
            if !Path::new("/sys/class/net/d0").exists() {
                run(Command::new("ip").args("link add d0 type dummy".split(' ')))?;
                run(Command::new("ip").args([
                    "addr",
                    "add",
                    &format!("{ADDRESS}/24"),
                    "dev",
                    "d0",
                ]))?;
            }
            run(Command::new("ip").args("link set d0 up".split(' ')))?;
            // Transfers stay in the machine: they go by way of the loopback device.
            run(Command::new("ip").args("link set lo up".split(' ')))?;
            run(Command::new("rdma").args("link add rxe0 type rxe netdev d0".split(' ')))
                .context("no software RDMA device: is CONFIG_RDMA_RXE on?")?;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for index in 0..8 {
                let gid = sys.join(format!("ports/1/gids/{index}"));
                let text = fs::read_to_string(gid).unwrap_or_default();
                if text.trim().ends_with(":ffff:0a09:0001") {
                    return Ok(Rdma {
                        device,
                        interface: "d0",
                        gid_index: index,
                        address: ADDRESS,
                    });
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{device} has no GID for {ADDRESS}")
    }

    /// How many packets the device has sent.
    pub fn packets(&self) -> u64 {
        fs::read_to_string(format!(
            "/sys/class/infiniband/{}/ports/1/hw_counters/sent_pkts",
            self.device
        ))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
    }
}

/// Makes sure a kernel filesystem is mounted.
pub fn mounted(kind: &str, at: &str, mark: &str) -> anyhow::Result<PathBuf> {
    let root = PathBuf::from(at);
    if !root.join(mark).exists() {
        run(Command::new("mount").args(["-t", kind, kind, at]))?;
    }
    Ok(root)
}

#[cfg(test)]
mod unit_tests {
    use super::boot_loader_only;

    #[test]
    fn complaints_about_the_boot_loader() {
        let known = "Inode 5 extent block passes checks, but checksum does not match extent\n\
                     \t(logical block 159, physical block 32864, len 16)\nFix? no\n\nPass 2:";
        assert!(boot_loader_only(known));
        assert!(!boot_loader_only(&format!("{known}\nClear inode? no\n")));
        assert!(!boot_loader_only(&known.replace("Inode 5", "Inode 12")));
        assert!(!boot_loader_only("exit status: 4"));
    }
}
