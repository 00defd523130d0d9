// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block device that can be made to wait: what is written to it stays under way as long as wanted.
//!
//! The device is a loop device over a file of a small filesystem in memory. While that filesystem is
//! frozen, writes to the file wait, and so does the direct I/O that caused them, with its pages pinned.

use crate::setup::run;
use anyhow::{bail, Context};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FIFREEZE: libc::Ioctl = 0xC004_5877;
const FITHAW: libc::Ioctl = 0xC004_5878;

/// The device and what it is made of.
pub struct Slow {
    device: PathBuf,
    root: PathBuf,
    outer: PathBuf,
    image: PathBuf,
}

/// While this exists, what is written to the device waits.
pub struct Held<'a> {
    frozen: Frozen,
    slow: &'a Slow,
}

impl Slow {
    /// Makes the device; `name` keeps two of them apart.
    pub fn make(name: &str) -> anyhow::Result<Slow> {
        let image = PathBuf::from(format!("/dev/shm/slow-{name}"));
        File::create(&image)?.set_len(8 << 20)?;
        let outer = attach(&image)?;
        let mut mkfs = Command::new("mkfs.ext4");
        run(mkfs.args(["-q", "-F", "-O", "^has_journal"]).arg(&outer))?;
        let root = PathBuf::from(format!("/tmp/slow-{name}"));
        fs::create_dir_all(&root)?;
        run(Command::new("mount")
            .args(["-t", "ext4"])
            .args([&outer, &root]))?;
        let file = root.join("blocks");
        fs::write(&file, vec![0; 1 << 20])?;
        let device = attach(&file)?;
        Ok(Slow {
            device,
            root,
            outer,
            image,
        })
    }

    /// To be written to with O_DIRECT.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// From now on, writes wait.
    pub fn hold(&self) -> anyhow::Result<Held<'_>> {
        let frozen = Frozen::freeze(&self.root)?;
        Ok(Held { frozen, slow: self })
    }
}

impl Held<'_> {
    /// Waits until the device has something to write, whose pages are pinned then.
    pub fn busy(&self) -> anyhow::Result<()> {
        let name = self.slow.device.file_name().context("a device")?;
        let counter = Path::new("/sys/block").join(name).join("inflight");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // Reads under way, then writes.
            let text = fs::read_to_string(&counter)?;
            if text.split_whitespace().nth(1).is_some_and(|n| n != "0") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("nothing is written to {}", self.slow.device.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets the writes go on.
    pub fn release(self) -> anyhow::Result<()> {
        self.frozen.thaw()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Nothing is lost with any of this: it was all made in memory for the occasion.
        let detach = |device: &Path| run(Command::new("losetup").arg("-d").arg(device));
        let _ = detach(&self.device);
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        let _ = detach(&self.outer);
        let _ = fs::remove_file(&self.image);
    }
}

fn attach(file: &Path) -> anyhow::Result<PathBuf> {
    let out = run(Command::new("losetup").args(["-f", "--show"]).arg(file))?;
    Ok(PathBuf::from(out.trim()))
}

/// A frozen filesystem; thawed on drop at the latest.
pub struct Frozen {
    root: File,
    thawed: bool,
}

impl Frozen {
    /// Freezes the filesystem mounted here.
    pub fn freeze(root: &Path) -> anyhow::Result<Frozen> {
        let root = File::open(root)?;
        control(&root, FIFREEZE).context("FIFREEZE")?;
        Ok(Frozen {
            root,
            thawed: false,
        })
    }

    /// Lets it be written to again.
    pub fn thaw(mut self) -> anyhow::Result<()> {
        self.thawed = true;
        control(&self.root, FITHAW).context("FITHAW")
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.thawed {
            let _ = control(&self.root, FITHAW);
        }
    }
}

fn control(root: &File, request: libc::Ioctl) -> std::io::Result<()> {
    // SAFETY: these two requests ignore their argument.
    if unsafe { libc::ioctl(root.as_raw_fd(), request, 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
