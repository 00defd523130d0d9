// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual machine's command line.

use crate::env::cache::write_atomic;
use crate::env::{tools, Ctx};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Memory, and the emulated pmem devices in it. They must lie above the PCI hole, that is at 4 GiB,
/// where QEMU's q35 machine has all but 2 GiB of its RAM. Lower, a region looks like a device that
/// loses writes.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    memory: &'static str,
    pmem: &'static [&'static str],
}

impl Machine {
    /// None: nvdimms come with more arguments for QEMU.
    pub const NVDIMM: Machine = Machine {
        memory: "2G",
        pmem: &[],
    };
    /// Two devices of 512 MiB.
    pub const SMALL: Machine = Machine {
        memory: "4G",
        pmem: &["memmap=512M!4G", "memmap=512M!4608M"],
    };
    /// Two devices for filesystems that xfstests find large enough, and one for the log of what is
    /// written to them.
    pub const LARGE: Machine = Machine {
        memory: "9G",
        pmem: &["memmap=2G!4G", "memmap=2G!6G", "memmap=1G!8G"],
    };
}

/// What a small guest takes of the host's memory, with QEMU's own, in KiB.
const FOOTPRINT: usize = 5 << 20;
/// An emulated processor that is not scheduled for a while looks like an unstable clock. The kernel
/// would switch to another one, and patch its code while the other processor runs it, which
/// emulation does not always survive ("Oops: int3").
const STABLE_CLOCK: &str = "tsc=reliable";
/// On a busy host no interrupt of the timer may come while the kernel looks for one, which it takes for
/// broken hardware ("IO-APIC + timer doesn't work!").
const TRUSTED_TIMER: &str = "no_timer_check";
/// What has been read of the host's files stays in memory. Else each program that is run is read, and
/// translated for emulation, again. The last one of these options counts.
const CACHED_ROOT: &str =
    "rootflags=version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose";
/// A network interface with a device of its own, connected to nothing, for software RDMA devices to be
/// set up on and the device to be taken away. It boots nothing, hence needs no ROM.
const NIC: [&str; 4] = [
    "-netdev",
    "hubport,id=nic,hubid=1",
    "-device",
    "virtio-net-pci,netdev=nic,romfile=",
];
/// Directories the guest may write to, the changes going to memory.
const OVERLAYS: [&str; 8] = [
    "/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp",
];

/// What time is in the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// That of the host. There are two processors.
    #[default]
    Host,
    /// The number of instructions its one processor has carried out, two nanoseconds each; while it
    /// idles, time goes on to the next timer at once. What else the host does makes no difference.
    Instructions,
}

impl Clock {
    fn processors(self) -> &'static str {
        match self {
            Clock::Host => "2",
            Clock::Instructions => "1",
        }
    }

    /// Arguments for QEMU.
    pub fn qemu_options(self) -> &'static [&'static str] {
        match self {
            Clock::Host => &[],
            Clock::Instructions => &["-icount", "shift=1,sleep=off"],
        }
    }

    /// Words of the kernel's command line. Where code and data lie must not differ between boots.
    pub fn kernel_options(self, machine: Machine) -> Vec<&'static str> {
        let mut options = machine.pmem.to_vec();
        options.extend([STABLE_CLOCK, TRUSTED_TIMER, CACHED_ROOT]);
        if self == Clock::Instructions {
            options.extend(["clocksource=tsc", "nokaslr", "norandmaps"]);
        }
        options
    }
}

/// What to boot and what to run in it.
pub struct Vm<'a> {
    /// The kernel image.
    pub image: &'a Path,
    /// The directory the guest may write to, at the same path.
    pub shared: &'a Path,
    /// The shell command to run; without one, an interactive shell.
    pub script: Option<String>,
    /// Memory and devices.
    pub machine: Machine,
    /// What its time is.
    pub clock: Clock,
    /// More arguments for QEMU.
    pub qemu: &'a [String],
    /// More words of the kernel's command line.
    pub options: &'a [String],
}

impl Vm<'_> {
    /// The virtme-ng command that runs QEMU.
    ///
    /// Without a script it is interactive. With one, the kernel's console is its stderr and
    /// nothing else is, for the script's own output goes to files.
    pub fn command(&self, ctx: &Ctx) -> Result<Cmd> {
        let mut cmd = Cmd::new(tools::virtme_run(ctx))
            // virtme-ng looks for helpers of its own in PATH.
            .env("PATH", search_path(ctx))
            .args(["--kimg"])
            .arg(self.image)
            .args([
                "--mods",
                "none",
                "--memory",
                self.machine.memory,
                "--cpus",
                self.clock.processors(),
                "--name",
                "daxpin",
            ])
            .args([
                "--user",
                "root",
                "--cwd",
                "/",
                "--disable-monitor",
                "--force-9p",
            ])
            .args(["--disable-microvm", "--no-dhcp"])
            .args(["--qemu-bin"])
            .arg(qemu(ctx)?)
            .arg("--rwdir")
            .arg(self.shared);
        for dir in OVERLAYS {
            cmd = cmd.args(["--overlay-rwdir", dir]);
        }
        if !ctx.global.kvm {
            cmd = cmd.arg("--disable-kvm");
        }
        let own = self.options.iter().map(String::as_str);
        for option in self
            .clock
            .kernel_options(self.machine)
            .into_iter()
            .chain(own)
        {
            cmd = cmd.args(["--kopt", option]);
        }
        let more = self.qemu.iter().map(String::as_str);
        let machine = NIC.iter().chain(self.clock.qemu_options()).copied();
        for option in machine.chain(more) {
            // Not as a word of its own: it would be taken for an option of virtme-ng.
            cmd = cmd.arg(format!("--qemu-opt={option}"));
        }
        if let Some(script) = &self.script {
            // Lines virtme-ng puts on the command line make the kernel quiet; the last word counts.
            cmd = cmd.args(["--show-boot-console", "--kopt", "ignore_loglevel"]);
            cmd = cmd.args(["--kopt", "hung_task_panic=0", "--script-sh", script]);
        }
        Ok(cmd)
    }

    /// What QEMU would be started with, as virtme-ng says. It wants image and directory to exist;
    /// in a dry run before the first build others stand in for them.
    pub fn qemu_line(&self, ctx: &Ctx) -> Result<String> {
        let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
        let image = tmp.path().join("bzImage");
        std::fs::write(&image, "").context("cannot write a temporary file")?;
        let stand_in = Vm {
            image: &image,
            shared: tmp.path(),
            script: self.script.clone(),
            machine: self.machine,
            clock: self.clock,
            qemu: self.qemu,
            options: self.options,
        };
        let out = stand_in
            .command(ctx)?
            .args(["--show-command", "--dry-run"])
            .output()?;
        let line = out.lines().last().unwrap_or_default();
        let dir = |p: &Path| p.display().to_string();
        // The directory's name appears without its first slash as well.
        let (from, to) = (dir(tmp.path()), dir(self.shared));
        Ok(line
            .replace(&dir(&image), &dir(self.image))
            .replace(&from[1..], &to[1..]))
    }
}

/// Has the host memory for so many guests at once?
pub fn room_for(guests: usize) -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    available(&text).is_some_and(|free| free >= guests * FOOTPRINT)
}

/// What `/proc/meminfo` says is available, in KiB.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn search_path(ctx: &Ctx) -> std::ffi::OsString {
    let mut path = ctx.cache.venv().join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":/usr/sbin:/sbin");
    path
}

/// A script around QEMU that makes the kernel end it when virtme-ng is gone: xtask's own death
/// signal reaches its child only.
fn qemu(ctx: &Ctx) -> Result<PathBuf> {
    let path = ctx.cache.dir.join("qemu-that-dies-with-its-parent");
    let text = "#!/bin/sh\nexec setpriv --pdeathsig KILL qemu-system-x86_64 \"$@\"\n";
    if !ctx.global.dry_run && std::fs::read_to_string(&path).is_ok_and(|t| t == text) {
        return Ok(path);
    }
    if !ctx.global.dry_run {
        write_atomic(&path, text.as_bytes())?;
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(&path, mode)
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    } else if !path.exists() {
        return Ok("qemu-system-x86_64".into());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let text = "MemTotal:       24608884 kB\nMemAvailable:   23456789 kB\n";
        assert_eq!(available(text), Some(23_456_789));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert!(room_for(0) && !room_for(usize::MAX / FOOTPRINT));
    }
}
