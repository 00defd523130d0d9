// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions of the software RDMA device: files on DAX beside anonymous memory.

use super::count::{instructions, span_begins, span_ends, ticks, Costs, COLD};
use super::memory::{file, Grain, Mapping, HUGE};
use super::Bench;
use crate::client::WRITE;
use crate::setup::{Fs, Mounted};
use crate::softdev::SoftDevice;
use crate::uverbs::{self, Driver, Region};
use std::os::fd::{AsFd, OwnedFd};

const SIZES: [u64; 4] = [64 << 10, 1 << 20, 16 << 20, 256 << 20];

/// Registering and deregistering, at each size and with each kind of pages.
pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let driver = Driver::Rxe;
    let device = SoftDevice::shared(driver)?;
    let fd = uverbs::context(&device.path()?, driver, libc::O_CLOEXEC)?;
    let pd = uverbs::pd(fd.as_fd(), driver)?;
    let mut mounted = Mounted::roomy(Fs::Xfs)?;
    for grain in Grain::ALL {
        let length = SIZES[SIZES.len() - 1];
        let variant = format!("anonymous-{}", grain.name());
        let memory = Mapping::anonymous(grain, length)?;
        registered(bench, &variant, grain, (&fd, pd), &memory)?;
        drop(memory);
        let path = file(&mounted, "region", length)?;
        let memory = Mapping::leased(&path, grain, length)?;
        let variant = format!("fsdax-{}", grain.name());
        registered(bench, &variant, grain, (&fd, pd), &memory)?;
        drop(memory);
        std::fs::remove_file(path)?;
    }
    mounted.unmount()
}

fn registered(
    bench: &mut Bench,
    variant: &str,
    grain: Grain,
    (fd, pd): (&OwnedFd, u32),
    memory: &Mapping,
) -> anyhow::Result<()> {
    for length in SIZES {
        if grain == Grain::Huge && length < HUGE {
            continue;
        }
        let region = Region {
            start: memory.address(),
            length,
            pd,
            access: WRITE,
        };
        let times = if length > 16 << 20 { 5 } else { 15 };
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for time in 0..times + COLD {
            span_begins();
            let begin = ticks();
            let mr = uverbs::reg(fd.as_fd(), Driver::Rxe, region, false)?;
            let middle = ticks();
            uverbs::dereg(fd.as_fd(), Driver::Rxe, mr)?;
            let end = ticks();
            span_ends();
            if time >= COLD {
                there.push(instructions(middle - begin));
                back.push(instructions(end - middle));
            }
        }
        let both = there.iter().zip(&back).map(|(a, b)| a + b).collect();
        for (name, values) in [
            ("register-deregister", both),
            ("register", there),
            ("deregister", back),
        ] {
            bench
                .sink
                .curve(name, variant, length, &Costs::of(values))?;
        }
    }
    Ok(())
}
