// SPDX-License-Identifier: MIT OR Apache-2.0
//! Issues steps, holds what happens against what has to, and makes failing scripts short.

use super::oracle::{Expected, Got};
use super::step::Step;
use super::world::World;
use crate::names::errno_name;
use crate::ops::{Op, Span};
use std::time::Instant;

/// Where steps are carried out.
pub trait Kernel {
    /// Makes everything as in a new world.
    fn reset(&mut self) -> anyhow::Result<World>;
    /// Carries out a step. An error is a finding as well.
    fn act(&mut self, world: &World, step: &Step, expected: &Expected) -> anyhow::Result<Got>;
    /// Compares everything that can be seen, after the step was applied.
    fn audit(&mut self, world: &World, step: &Step) -> anyhow::Result<()>;
}

/// A step that did not turn out as it had to.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The steps up to and with it.
    pub script: Vec<Step>,
    /// What was wrong.
    pub why: String,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Steps.
    pub steps: usize,
    /// Of these, such with exactly one right answer.
    pub exact: usize,
    /// Of these, changes of layouts that were refused.
    pub refused: usize,
    /// Pins made.
    pub pins: usize,
}

impl Count {
    fn add(&mut self, step: &Step, expected: &Expected, got: &Got) {
        self.steps += 1;
        self.exact += usize::from(expected.errnos.len() == 1);
        match step {
            Step::Change { .. } if got.errno == libc::ETXTBSY => self.refused += 1,
            Step::Pin { .. } if got.errno == 0 => self.pins += 1,
            _ => {}
        }
    }
}

/// The size of a file after an operation on it, where the contract says.
fn size_after(op: Op, size: u64, at: Span) -> Option<u64> {
    Some(match op {
        Op::Truncate | Op::Ftruncate => at.offset,
        Op::OpenTruncate => 0,
        Op::Collapse => size - at.length,
        Op::Insert => size + at.length,
        Op::Append => size + 8192,
        Op::Extend => size + 65536,
        Op::SwapBoot => return None,
        _ => size,
    })
}

fn judge(world: &World, step: &Step, expected: &Expected, got: &Got) -> Result<(), String> {
    if !expected.errnos.contains(&got.errno) {
        let wanted: Vec<String> = expected.errnos.iter().map(|&e| errno_name(e)).collect();
        return Err(format!(
            "{}, but the contract says {}",
            errno_name(got.errno),
            wanted.join(" or ")
        ));
    }
    if let Some(value) = expected.value.filter(|value| *value != got.value) {
        return Err(format!(
            "{:#x}, but the contract says {value:#x}",
            got.value
        ));
    }
    if let (Step::Change { op, file, at, .. }, Some(&size)) = (step, got.sizes.first()) {
        let before = world.inode(*file).size;
        let wanted = match got.errno {
            0 => size_after(*op, before, *at),
            _ => Some(before),
        };
        if wanted.is_some_and(|wanted| wanted != size) {
            return Err(format!("the size went from {before} to {size}"));
        }
    }
    Ok(())
}

/// Issues the steps that make sense, until one fails, or `more` says that it is enough.
pub fn issue(
    kernel: &mut dyn Kernel,
    mut next: impl FnMut(&World) -> Option<Step>,
    mut note: impl FnMut(&Count),
) -> anyhow::Result<(Count, Option<Failure>)> {
    let mut world = kernel.reset()?;
    let mut script = Vec::new();
    let mut count = Count::default();
    while let Some(step) = next(&world) {
        let Some(expected) = world.expect(&step) else {
            continue;
        };
        script.push(step.clone());
        let outcome = kernel.act(&world, &step, &expected).and_then(|got| {
            judge(&world, &step, &expected, &got).map_err(|why| anyhow::anyhow!(why))?;
            world.apply(&step, &expected, &got);
            count.add(&step, &expected, &got);
            kernel.audit(&world, &step)
        });
        if let Err(error) = outcome {
            let why = format!("step {}: {step:?}: {error:#}", script.len());
            return Ok((count, Some(Failure { script, why })));
        }
        note(&count);
    }
    Ok((count, None))
}

/// Issues a script.
pub fn replay(kernel: &mut dyn Kernel, script: &[Step]) -> anyhow::Result<Option<Failure>> {
    let mut steps = script.iter().cloned();
    Ok(issue(kernel, |_| steps.next(), |_| {})?.1)
}

/// Scripts up to this length are tried with each pair of steps left out.
const PAIRS: usize = 30;

/// The script without some of its steps, if it still fails, and earlier.
fn without(
    kernel: &mut dyn Kernel,
    script: &[Step],
    left_out: impl Fn(usize) -> bool,
) -> anyhow::Result<Option<Failure>> {
    let steps = script.iter().enumerate();
    let rest: Vec<Step> = steps
        .filter(|(index, _)| !left_out(*index))
        .map(|(_, step)| step.clone())
        .collect();
    Ok(replay(kernel, &rest)?.filter(|failure| failure.script.len() < script.len()))
}

/// Leaves out what is about files and processes that have no part in it: a few tries for most of the script.
fn unrelated(
    kernel: &mut dyn Kernel,
    mut best: Failure,
    deadline: Instant,
) -> anyhow::Result<Failure> {
    let last = best.script.last().and_then(Step::file);
    let others = |step: &Step| step.file().is_some() && step.file() != last;
    let idle = |step: &Step| step.who().is_none();
    if let Some(failure) = without(kernel, &best.script, |i| others(&best.script[i]))? {
        best = failure;
    }
    if let Some(failure) = without(kernel, &best.script, |i| idle(&best.script[i]))? {
        best = failure;
    }
    let mut processes: Vec<usize> = best.script.iter().filter_map(Step::who).collect();
    processes.sort_unstable();
    processes.dedup();
    for who in processes {
        if Instant::now() > deadline {
            break;
        }
        let its = |i: usize| best.script[i].who() == Some(who);
        if let Some(failure) = without(kernel, &best.script, its)? {
            best = failure;
        }
    }
    Ok(best)
}

/// Leaves out parts of a failing script, whole files and processes first, then half of it, single steps
/// last, and pairs such as a fork and a kill, as long as the rest still fails and there is time.
pub fn shrink(
    kernel: &mut dyn Kernel,
    failure: Failure,
    deadline: Instant,
) -> anyhow::Result<Failure> {
    let mut best = unrelated(kernel, failure, deadline)?;
    let mut part = best.script.len().div_ceil(2);
    loop {
        while part > 0 {
            let (mut at, mut shorter) = (0, false);
            while at < best.script.len() {
                if Instant::now() > deadline {
                    return Ok(best);
                }
                let end = at + part;
                match without(kernel, &best.script, |i| (at..end).contains(&i))? {
                    Some(failure) => {
                        best = failure;
                        shorter = true;
                    }
                    None => at = end,
                }
            }
            // What was needed for something that is gone by now may go as well.
            part = if shorter && part == 1 { 1 } else { part / 2 };
        }
        match pair(kernel, &best, deadline)? {
            Some(failure) => best = failure,
            None => return Ok(best),
        }
        part = 1;
    }
}

/// The script without two of its steps, if there are two that it does not need.
fn pair(
    kernel: &mut dyn Kernel,
    best: &Failure,
    deadline: Instant,
) -> anyhow::Result<Option<Failure>> {
    let length = best.script.len();
    if length > PAIRS {
        return Ok(None);
    }
    for first in 0..length {
        for second in first + 1..length {
            if Instant::now() > deadline {
                return Ok(None);
            }
            let left_out = |i| i == first || i == second;
            if let Some(failure) = without(kernel, &best.script, left_out)? {
                return Ok(Some(failure));
            }
        }
    }
    Ok(None)
}
