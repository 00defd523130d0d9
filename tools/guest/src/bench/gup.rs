// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pinning for long, by the kernel's own test device, which does with pages what a driver does.

use super::count::{costs, instructions, span_begins, span_ends, ticks, Costs, COLD};
use super::memory::{file, Grain, Mapping, HUGE, PAGE};
use super::sys::check;
use super::Bench;
use crate::devdax::DeviceDax;
use crate::setup::{mounted, Fs, Mounted};
use anyhow::Context;
use std::fs::File;
use std::os::fd::AsRawFd;

const PIN_FAST_BENCHMARK: u64 = 0xC050_6702;
const START: u64 = 0x4018_6707;
const STOP: u64 = 0x6708;

/// How much is pinned, at most.
const SIZE: u64 = 128 << 20;

/// How to pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `pin_user_pages()`.
    Slow = 1,
    /// `pin_user_pages_fast()`.
    Fast = 3,
    /// `pin_user_pages_fast_owned()`.
    Owned = 5,
}

#[repr(C)]
struct Start {
    address: u64,
    size: u64,
    flags: u32,
    padding: u32,
}

/// `struct gup_test`.
#[repr(C)]
#[derive(Default)]
struct Test {
    get_us: u64,
    put_us: u64,
    address: u64,
    size: u64,
    pages_per_call: u32,
    gup_flags: u32,
    flags: u32,
    which: [u32; 8],
    padding: u32,
}

/// `/sys/kernel/debug/gup_test`; what it pinned is unpinned on drop.
pub struct GupTest(File);

impl GupTest {
    /// Opens it.
    pub fn open() -> anyhow::Result<GupTest> {
        let path = mounted("debugfs", "/sys/kernel/debug", "gup_test")?.join("gup_test");
        let file = File::options().read(true).write(true).open(&path);
        file.with_context(|| format!("{}: is CONFIG_GUP_TEST on?", path.display()))
            .map(GupTest)
    }

    /// Pins, for writing.
    pub fn pin(&self, address: u64, size: u64, how: How) -> anyhow::Result<()> {
        let start = Start {
            address,
            size,
            flags: how as u32,
            padding: 0,
        };
        // SAFETY: the structure is what the request is about, and outlives the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), START as libc::Ioctl, &start) })
            .with_context(|| format!("pinning {size} bytes ({how:?})"))
            .map(drop)
    }

    /// Unpins everything.
    pub fn unpin(&self) -> anyhow::Result<()> {
        // SAFETY: no argument.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), STOP as libc::Ioctl) }).map(drop)
    }

    /// Pins and unpins the way direct I/O does.
    fn transient(&self, address: u64, size: u64) -> anyhow::Result<()> {
        let mut test = Test {
            address,
            size,
            pages_per_call: u32::try_from(size / PAGE)?,
            gup_flags: 1,
            ..Test::default()
        };
        let fd = self.0.as_raw_fd();
        // SAFETY: the structure is what the request is about, and outlives the call.
        check(unsafe { libc::ioctl(fd, PIN_FAST_BENCHMARK as libc::Ioctl, &mut test) }).map(drop)
    }
}

/// Pins and unpins again and again; records both together, and each.
fn pinned(
    bench: &mut Bench,
    variant: &str,
    mapping: &Mapping,
    size: u64,
    how: How,
) -> anyhow::Result<()> {
    let device = GupTest::open()?;
    let times = if size > HUGE { 9 } else { 25 };
    let mut unpinned = Vec::new();
    let mut pin = Vec::new();
    for _ in 0..times + COLD {
        span_begins();
        let begin = ticks();
        device.pin(mapping.address(), size, how)?;
        let middle = ticks();
        device.unpin()?;
        let end = ticks();
        span_ends();
        pin.push(middle - begin);
        unpinned.push(end - middle);
    }
    let counted = |ticks: &[u64]| ticks[COLD..].iter().map(|t| instructions(*t)).collect();
    let (pin, unpinned): (Vec<u64>, Vec<u64>) = (counted(&pin), counted(&unpinned));
    let both = pin.iter().zip(&unpinned).map(|(a, b)| a + b).collect();
    for (name, values) in [("pin-unpin", both), ("pin", pin), ("unpin", unpinned)] {
        bench.sink.curve(name, variant, size, &Costs::of(values))?;
    }
    Ok(())
}

/// Memory that needs no lease: as before the series, by every way to pin there is without an owner.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let anonymous = |grain| move || Mapping::anonymous(grain, SIZE);
    every_way(bench, "anonymous-4k", anonymous(Grain::Small))?;
    every_way(bench, "anonymous-2m", anonymous(Grain::Huge))?;
    every_way(bench, "shmem-4k", || Mapping::shmem(SIZE))?;
    every_way(bench, "hugetlb-2m", || Mapping::hugetlb(SIZE))?;
    std::fs::write("/proc/sys/vm/nr_hugepages", "0")?;
    for grain in Grain::ALL {
        let device = DeviceDax::with_alignment(grain.name())?;
        let name = format!("devdax-{}", grain.name());
        every_way(bench, &name, || Mapping::shared(&device.path, grain, SIZE))?;
        device.undo()?;
    }
    Ok(())
}

fn every_way(
    bench: &mut Bench,
    name: &str,
    make: impl FnOnce() -> anyhow::Result<Mapping>,
) -> anyhow::Result<()> {
    let mapping = make().with_context(|| name.to_owned())?;
    for (how, word) in [(How::Slow, "slow"), (How::Fast, "fast")] {
        pinned(bench, &format!("{name}, {word}"), &mapping, SIZE, how)?;
    }
    let device = GupTest::open()?;
    let cost = costs(9, || Ok(()), || device.transient(mapping.address(), SIZE))?;
    bench.sink.curve("gup-fast", name, SIZE, &cost)
}

/// Files on DAX beside what needs no lease, all on this kernel and in the name of an owner.
pub fn owned(bench: &mut Bench) -> anyhow::Result<()> {
    for fs in [Fs::Ext4, Fs::Xfs] {
        let mut mounted = Mounted::roomy(fs)?;
        for grain in Grain::ALL {
            let path = file(&mounted, "pinned", SIZE)?;
            let mapping = Mapping::leased(&path, grain, SIZE)?;
            let name = format!("fsdax-{}, {}", grain.name(), fs.name());
            at_every_size(bench, &name, grain, &mapping)?;
            drop(mapping);
            std::fs::remove_file(path)?;
        }
        mounted.unmount()?;
    }
    let anonymous = |grain| Mapping::anonymous(grain, SIZE);
    at_every_size(
        bench,
        "anonymous-4k",
        Grain::Small,
        &anonymous(Grain::Small)?,
    )?;
    at_every_size(bench, "anonymous-2m", Grain::Huge, &anonymous(Grain::Huge)?)?;
    at_every_size(bench, "hugetlb-2m", Grain::Huge, &Mapping::hugetlb(SIZE)?)?;
    std::fs::write("/proc/sys/vm/nr_hugepages", "0")?;
    for grain in Grain::ALL {
        let device = DeviceDax::with_alignment(grain.name())?;
        let mapping = Mapping::shared(&device.path, grain, SIZE)?;
        at_every_size(bench, &format!("devdax-{}", grain.name()), grain, &mapping)?;
        drop(mapping);
        device.undo()?;
    }
    Ok(())
}

fn at_every_size(
    bench: &mut Bench,
    name: &str,
    grain: Grain,
    mapping: &Mapping,
) -> anyhow::Result<()> {
    for size in [PAGE, HUGE, 16 << 20, SIZE] {
        if size >= HUGE || grain == Grain::Small {
            pinned(bench, &format!("{name}, owned"), mapping, size, How::Owned)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_size_of_their_structures() {
        assert_eq!(
            std::mem::size_of::<Test>() as u64,
            PIN_FAST_BENCHMARK >> 16 & 0x3fff
        );
        assert_eq!(std::mem::size_of::<Start>() as u64, START >> 16 & 0x3fff);
    }
}
