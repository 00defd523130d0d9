// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels with a bug each, for the oracle and the shrinking to find.

use super::generator::Generator;
use super::oracle::{Expected, Got};
use super::run::{issue, shrink, Failure, Kernel};
use super::step::Step;
use super::world::{Maybe, Role, World};
use crate::ops::{Op, Span};
use crate::setup::Fs;
use anyhow::ensure;
use std::time::{Duration, Instant};

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// The registry has no record of pins for reading.
    ForgetsPins,
    /// Releasing the lease drops the pins.
    UnpinsOnRelease,
    /// A forked child does not keep its parent's files open.
    ForgetsChildren,
    /// A sole lease can be had beside others.
    GrantsSole,
    /// The lease of a process that ended refuses nothing.
    LeaseDiesWithHolder,
    /// A pin keeps the whole file.
    RefusesElsewhere,
    /// A pin keeps one page too few.
    ForgetsTheLastPage,
    /// A refused truncate has changed the size.
    TruncatesAnyway,
}

struct Simulated {
    bug: Bug,
    world: World,
}

const ROLES: [Role; 4] = [Role::Root, Role::Root, Role::Nobody, Role::Verbs];

impl Simulated {
    fn new(fs: Fs, bug: Bug) -> Simulated {
        let world = World::new(fs, 3, 1, &ROLES);
        Simulated { bug, world }
    }

    fn spoil(&mut self, step: &Step) {
        let world = &mut self.world;
        match (self.bug, step) {
            (Bug::ForgetsPins, Step::Pin { write: false, .. }) => {
                world
                    .owners
                    .values_mut()
                    .for_each(|o| o.pins.retain(|p| p.write));
            }
            (Bug::UnpinsOnRelease, Step::Lease { .. }) => {
                let all = &world.descriptions;
                let leased = |id: u32| all.get(&id).is_some_and(|d| d.lease.is_some());
                for owner in world.owners.values_mut() {
                    owner.pins.retain(|pin| leased(pin.description));
                }
            }
            (Bug::ForgetsChildren, Step::Fork { .. }) => {
                world
                    .children
                    .iter_mut()
                    .for_each(|c| c.descriptions.clear());
            }
            (Bug::LeaseDiesWithHolder, Step::Kill { .. }) => {
                let alive: Vec<u32> = world.processes.iter().map(|p| p.id).collect();
                for description in world.descriptions.values_mut() {
                    description.lease = description
                        .lease
                        .take()
                        .filter(|l| alive.contains(&l.holder));
                }
            }
            (Bug::RefusesElsewhere, Step::Pin { .. }) => {
                for pin in world.owners.values_mut().flat_map(|o| &mut o.pins) {
                    pin.sure = Span::new(0, u64::MAX);
                }
            }
            (Bug::ForgetsTheLastPage, Step::Pin { .. }) => {
                for pin in world.owners.values_mut().flat_map(|o| &mut o.pins) {
                    pin.sure.length = pin.at.length.saturating_sub(4096).max(1);
                    pin.perhaps = pin.sure;
                }
            }
            _ => {}
        }
    }
}

impl Kernel for Simulated {
    fn reset(&mut self) -> anyhow::Result<World> {
        *self = Simulated::new(self.world.fs, self.bug);
        Ok(self.world.clone())
    }

    fn act(&mut self, _: &World, step: &Step, wanted: &Expected) -> anyhow::Result<Got> {
        let Some(mut expected) = self.world.expect(step) else {
            anyhow::bail!("not possible any more");
        };
        if let (Bug::GrantsSole, Step::Lease { .. }) = (self.bug, step) {
            expected.errnos[0] = match expected.errnos[0] {
                libc::EAGAIN => 0,
                errno => errno,
            };
        }
        if expected.waits {
            ensure!(expected.breaks == wanted.breaks, "others are asked");
        }
        let mut got = Got {
            errno: expected.errnos[0],
            value: expected.value.unwrap_or(0),
            sizes: Vec::new(),
        };
        if let Step::Change {
            op,
            file,
            partner,
            at,
            ..
        } = step
        {
            let size = self.world.inode(*file).size;
            let truncates = matches!(op, Op::Truncate | Op::Ftruncate);
            let size = match (got.errno, op) {
                (_, Op::Truncate | Op::Ftruncate) if self.bug == Bug::TruncatesAnyway => at.offset,
                (0, _) if truncates => at.offset,
                (0, Op::OpenTruncate) => 0,
                (0, Op::Collapse) => size - at.length,
                (0, Op::Insert) => size + at.length,
                (0, Op::Append) => size + 8192,
                (0, Op::Extend) => size + 65536,
                _ => size,
            };
            got.sizes = vec![size, self.world.inode(*partner).size];
        }
        self.world.apply(step, &expected, &got);
        self.spoil(step);
        Ok(got)
    }

    fn audit(&mut self, world: &World, step: &Step) -> anyhow::Result<()> {
        if *step == Step::Audit {
            ensure!(self.world.listing() == world.listing(), "the listing");
        }
        Ok(())
    }
}

fn find(bug: Bug, fs: Fs, seed: u64) -> (Option<Failure>, usize) {
    let mut kernel = Simulated::new(fs, bug);
    let mut generator = Generator::new(seed, true);
    let mut left = 20_000;
    let next = |world: &World| {
        left -= 1;
        (left > 0).then(|| generator.next(world))
    };
    let (count, failure) = issue(&mut kernel, next, |_| {}).unwrap();
    (failure, count.steps)
}

#[test]
fn a_kernel_without_a_bug_passes() {
    for fs in Fs::ALL {
        let (failure, steps) = find(Bug::None, fs, 1);
        assert!(failure.is_none(), "{failure:?}");
        assert!(steps > 10_000, "{steps}");
    }
}

#[test]
fn every_bug_is_found_and_its_script_gets_short() {
    for bug in [
        Bug::ForgetsPins,
        Bug::UnpinsOnRelease,
        Bug::ForgetsChildren,
        Bug::GrantsSole,
        Bug::LeaseDiesWithHolder,
        Bug::RefusesElsewhere,
        Bug::ForgetsTheLastPage,
        Bug::TruncatesAnyway,
    ] {
        let failure = find(bug, Fs::Xfs, 7).0;
        let failure = failure.unwrap_or_else(|| panic!("{bug:?} was not found"));
        let mut kernel = Simulated::new(Fs::Xfs, bug);
        let deadline = Instant::now() + Duration::from_secs(600);
        let short = shrink(&mut kernel, failure, deadline).unwrap();
        assert!(short.script.len() <= 12, "{bug:?}: {short:#?}");
    }
}

#[test]
fn steps_follow_from_the_seed() {
    let steps = |seed| {
        let world = World::new(Fs::Ext4, 3, 1, &ROLES);
        let mut generator = Generator::new(seed, true);
        let list: Vec<Step> = (0..50).map(|_| generator.next(&world)).collect();
        list
    };
    assert_eq!(steps(5), steps(5));
    assert_ne!(steps(5), steps(6));
}

#[test]
fn scripts_survive_their_files() {
    let world = World::new(Fs::Xfs, 3, 1, &ROLES);
    let mut generator = Generator::new(3, true);
    for _ in 0..300 {
        let step = generator.any_for_tests(&world);
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step);
    }
}

#[test]
fn a_pin_in_a_large_entry_reaches_as_far_as_is_known() {
    let mut world = World::new(Fs::Xfs, 0, 1, &ROLES);
    let at = Span::new(4096, 4096);
    let inode = &mut world.inodes[0];
    for (entry, sure, perhaps) in [
        (Maybe::Yes, Span::new(0, 2 << 20), Span::new(0, 2 << 20)),
        (Maybe::Unknown, at, Span::new(0, 2 << 20)),
        (Maybe::No, at, at),
    ] {
        inode.entries.fill(entry);
        assert_eq!(inode.widened(at), (sure, perhaps));
    }
}
