// SPDX-License-Identifier: MIT OR Apache-2.0
//! Costs in instructions.
//!
//! With `-icount shift=1` every instruction takes 2 ns of the machine's time, and the time-stamp counter
//! counts nanoseconds. What the host does meanwhile does not matter.

use anyhow::ensure;
use std::arch::asm;

/// Nanoseconds of the machine's time for an instruction: `shift=1`.
const TICKS: u64 = 2;
/// How often a loop of two instructions is gone through to find out what the counter counts.
const ROUNDS: u64 = 10_000;

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: reads a counter; every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn loop_ticks() -> u64 {
    let begin = ticks();
    // SAFETY: counts a register down, and touches nothing else.
    unsafe {
        asm!("2: dec {n}", "jnz 2b", n = inout(reg) ROUNDS => _, options(nomem, nostack));
    }
    ticks() - begin
}

/// Marks for `tools/profile/profile.c`: a no-op with a number in it.
macro_rules! mark {
    ($number:literal) => {
        // SAFETY: does nothing.
        unsafe {
            asm!(
                concat!("nop dword ptr [rax + rax + 0x6d61726b + ", $number, "]"),
                options(nomem, nostack, preserves_flags)
            )
        }
    };
}

/// What follows counts, if somebody makes a profile.
pub fn span_begins() {
    mark!("1");
}

/// What follows does not count.
pub fn span_ends() {
    mark!("2");
}

/// The spans so far were about one record.
pub fn section_ends() {
    mark!("3");
}

/// Whether this machine counts instructions. A timer that went off may spoil one loop, not most.
pub fn is_counted() -> bool {
    let exact = |_: &usize| loop_ticks().abs_diff(2 * ROUNDS * TICKS) < 64;
    (0..5).filter(exact).count() >= 3
}

/// What reading the counter twice costs by itself.
fn overhead() -> u64 {
    let mut all: Vec<u64> = (0..9)
        .map(|_| {
            let begin = ticks();
            ticks() - begin
        })
        .collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// Costs of the same operation, done again and again.
#[derive(Clone, Debug, Default)]
pub struct Costs(Vec<u64>);

impl Costs {
    /// Of values already known.
    pub fn of(mut values: Vec<u64>) -> Costs {
        values.sort_unstable();
        Costs(values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle: a timer interrupt, or a thread of the kernel that runs in between, is
    /// not part of the operation.
    pub fn median(&self) -> u64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }

    /// The mean, with everything that was in between.
    pub fn mean(&self) -> u64 {
        self.0.iter().sum::<u64>() / (self.0.len() as u64).max(1)
    }
}

/// The first times, with cold caches of the kernel, are left out.
pub const COLD: usize = 2;

/// Costs of an operation with something to prepare before each time, which is not part of it.
pub fn costs(
    times: usize,
    mut prepare: impl FnMut() -> anyhow::Result<()>,
    mut operation: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Costs> {
    ensure!(times > 0, "nothing to measure");
    let overhead = overhead();
    let mut values = Vec::with_capacity(times);
    for time in 0..times + COLD {
        prepare()?;
        span_begins();
        let begin = ticks();
        operation()?;
        let end = ticks();
        span_ends();
        if time >= COLD {
            values.push((end - begin).saturating_sub(overhead) / TICKS);
        }
    }
    Ok(Costs::of(values))
}

/// Instructions in nanoseconds of the machine's time.
pub fn instructions(ns: u64) -> u64 {
    ns / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_does_not_care_for_interruptions() {
        let costs = Costs::of(vec![100, 9000, 101, 99, 100]);
        assert_eq!((costs.median(), costs.mean(), costs.len()), (100, 1880, 5));
        assert_eq!(Costs::default().median(), 0);
    }

    #[test]
    fn preparing_costs_nothing_and_the_first_times_do_not_count() {
        let (mut prepared, mut done) = (0, 0);
        let prepare = || {
            prepared += 1;
            std::thread::sleep(std::time::Duration::from_millis(2));
            Ok(())
        };
        let costs = costs(5, prepare, || {
            done += 1;
            Ok(())
        });
        assert_eq!(costs.unwrap().len(), 5);
        assert_eq!((prepared, done), (7, 7));
    }
}
