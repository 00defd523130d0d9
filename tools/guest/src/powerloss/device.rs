// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small filesystems on the machine's nvdimms.

use crate::setup::{is_dax, run, Fs};
use anyhow::{bail, ensure, Context};
use rustix::io::Errno;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a filesystem may be busy that is to be unmounted.
const BUSY: Duration = Duration::from_secs(10);
/// `BLKFLSBUF`.
const FLUSH_BUFFERS: libc::Ioctl = 0x1261;

/// Journals as small as mkfs lets them be, so that they wrap often and are quickly recovered.
fn mkfs(fs: Fs) -> &'static [&'static str] {
    match fs {
        // Without the option, less than 300 MiB are refused.
        Fs::Xfs => &[
            "mkfs.xfs",
            "-q",
            "-f",
            "--unsupported",
            "-d",
            "agcount=2",
            "-l",
            "size=5m",
        ],
        // With checksums, a commit block that was cut is taken for a corrupt journal, which is not mounted.
        Fs::Ext4 => &[
            "mkfs.ext4",
            "-q",
            "-F",
            "-b",
            "4096",
            "-J",
            "size=4",
            "-O",
            "^metadata_csum",
        ],
    }
}

/// Lets filesystems on the nvdimms use DAX, for which the kernel needs a page structure of each page. They
/// are kept in other memory: what is in the nvdimms is what the host put there. The nvdimms remember it.
pub fn prepare() -> anyhow::Result<()> {
    for (number, fs) in Fs::ALL.into_iter().enumerate() {
        let device = fs.device();
        ensure!(
            device.exists(),
            "{} is missing: the machine has no nvdimm, or the kernel no CONFIG_ACPI_NFIT",
            device.display()
        );
        let queue = format!("/sys/class/block/pmem{number}/queue/dax");
        if fs::read_to_string(&queue).is_ok_and(|text| text.trim() == "1") {
            continue;
        }
        let name = format!("namespace{number}.0");
        let arguments = ["--mode=fsdax", "--map=mem", "--align=2M", "-e", &name];
        run(Command::new("ndctl")
            .args(["create-namespace", "-f"])
            .args(arguments))?;
        let text = fs::read_to_string(&queue).with_context(|| queue.clone())?;
        ensure!(text.trim() == "1", "{} has no DAX", device.display());
    }
    Ok(())
}

/// A filesystem on its device; unmounted on drop.
pub struct Small {
    /// Which.
    pub fs: Fs,
    /// Where.
    pub root: PathBuf,
    mounted: bool,
}

impl Small {
    /// One that need not be there yet.
    pub fn on(fs: Fs) -> anyhow::Result<Small> {
        let root = PathBuf::from(format!("/tmp/powerloss-{}", fs.name()));
        fs::create_dir_all(&root)?;
        Ok(Small {
            fs,
            root,
            mounted: false,
        })
    }

    /// Makes a new one.
    pub fn make(&self) -> anyhow::Result<()> {
        let (program, arguments) = mkfs(self.fs).split_first().context("no mkfs")?;
        run(Command::new(program).args(arguments).arg(self.fs.device()))?;
        Ok(())
    }

    /// Mounts it, which recovers it if it was not unmounted.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        mount(
            self.fs.device(),
            &self.root,
            self.fs.name(),
            MountFlags::empty(),
            c"dax=always",
        )
        .with_context(|| format!("mount {}", self.fs.name()))?;
        self.mounted = true;
        let probe = self.root.join("dax-probe");
        File::create(&probe)?;
        ensure!(is_dax(&probe)?, "{} is not DAX", self.fs.name());
        fs::remove_file(probe)?;
        Ok(())
    }

    /// Unmounts it. A program that another thread starts has the files open that this one has, for a moment.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY;
        loop {
            match unmount(&self.root, UnmountFlags::empty()) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("unmount {}", self.fs.name()))
                }
            }
        }
    }

    /// Forgets what was read of the device: the host has written to it.
    pub fn changed(&self) -> anyhow::Result<()> {
        let device = File::open(self.fs.device())?;
        // SAFETY: the request takes no argument.
        if unsafe { libc::ioctl(device.as_raw_fd(), FLUSH_BUFFERS, 0) } < 0 {
            return Err(std::io::Error::last_os_error()).context("BLKFLSBUF");
        }
        Ok(())
    }

    /// Has it checked; it must not be mounted. What is not as it should be is an error.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut command = match self.fs {
            Fs::Xfs => Command::new("xfs_repair"),
            Fs::Ext4 => Command::new("e2fsck"),
        };
        command.arg(match self.fs {
            Fs::Xfs => "-n",
            Fs::Ext4 => "-fn",
        });
        run(command.arg(self.fs.device())).map(drop)
    }

    /// Does what its checker must not be content with: a number of free blocks that is not the right one, or
    /// a block in use that is marked as free. It must not be mounted.
    pub fn damage(&self) -> anyhow::Result<()> {
        let device = self.fs.device();
        let mut command = match self.fs {
            Fs::Xfs => Command::new("xfs_db"),
            Fs::Ext4 => Command::new("debugfs"),
        };
        match self.fs {
            Fs::Xfs => command.args(["-x", "-c", "sb 0", "-c", "write -d fdblocks 7"]),
            Fs::Ext4 => command.args(["-w", "-R", "freeb 1"]),
        };
        run(command.arg(device)).map(drop)
    }

    /// Takes it out of sight if it is mounted.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            match unmount(&self.root, UnmountFlags::DETACH) {
                Ok(()) => self.mounted = false,
                Err(error) => bail!("detach {}: {error}", self.fs.name()),
            }
        }
        Ok(())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The machine ends soon, and nothing on it has to stay.
        let _ = self.detach();
    }
}
