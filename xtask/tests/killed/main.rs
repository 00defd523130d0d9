// SPDX-License-Identifier: MIT OR Apache-2.0
//! xtask is killed at random moments and run again: the next run succeeds, makes the same tree,
//! takes nothing for whole that is not, and no process is left.
//!
//! The ordinary run has a release of a few hundred files and a few kills. `DAXPIN_KILLS=N` kills N
//! times; `DAXPIN_KILL_SEED` chooses the moments. With `--include-ignored` the real base is taken from
//! the cache, and `source`, `apply` and `build` of that are killed as well.

mod bed;
mod random;

use bed::{Bed, Killed};
use random::Random;
use std::time::{Duration, Instant};

/// In the ordinary run.
const FEW: usize = 3;
/// For each kill: a run can end before its moment comes.
const ATTEMPTS: usize = 4;

fn kills() -> usize {
    let n = std::env::var("DAXPIN_KILLS").ok();
    n.map_or(FEW, |n| n.parse().expect("DAXPIN_KILLS is a number"))
}

fn seed() -> u64 {
    let seed = std::env::var("DAXPIN_KILL_SEED").ok();
    seed.map_or(1, |s| s.parse().expect("DAXPIN_KILL_SEED is a number"))
}

/// Kills a command one to three times, each at a moment of its usual time or a little later; then
/// lets it run. Gives how it was killed, as far as it had not ended before.
fn kill_and_rerun(bed: &Bed, args: &[&str], usual: Duration, random: &mut Random) -> Vec<Killed> {
    let mut killed = vec![];
    for _ in 0..1 + random.below(3) {
        let after = usual.mul_f64(random.fraction() * 1.1);
        let how = random.choose(&Killed::ALL);
        if bed.kill(args, after, how) {
            killed.push(how);
        }
        bed.check_what_is_there();
    }
    bed.succeed(args);
    killed
}

#[test]
fn source_and_apply() {
    let mut random = Random::new(seed());
    let small = Bed::small();
    let whole = small.another();
    let begun = Instant::now();
    whole.succeed(&["apply"]);
    let usual = begun.elapsed();
    whole.check_finished();
    let wanted = kills();
    let mut done = 0;
    for _ in 0..wanted * ATTEMPTS {
        if done >= wanted {
            break;
        }
        let bed = small.another();
        let killed = kill_and_rerun(&bed, &["apply"], usual, &mut random);
        bed.check_finished();
        // Nothing is left to do.
        bed.succeed(&["apply"]);
        bed.check_finished();
        done += killed.len();
    }
    assert!(
        done >= wanted,
        "killed {done} times only: each run ends in less than {usual:?}"
    );
    println!("apply of a small release, which takes {usual:.1?}, killed {done} times");
}

#[test]
fn what_only_tells() {
    let bed = Bed::small();
    let mut random = Random::new(seed());
    let begun = Instant::now();
    let wanted = bed.output(&["setup", "--dry-run"]);
    let usual = begun.elapsed();
    for _ in 0..2 {
        bed.kill(
            &["setup", "--dry-run"],
            usual.mul_f64(random.fraction()),
            Killed::Group,
        );
        assert_eq!(bed.output(&["setup", "--dry-run"]), wanted);
    }
    bed.check_nothing_left();
}

#[test]
#[ignore = "builds a whole kernel; asked for by --include-ignored"]
fn the_real_base_and_its_build() {
    let kills = kills();
    let mut random = Random::new(seed());
    let bed = Bed::real();
    // Source and series take about that long, a build takes much longer.
    let moment = |random: &mut Random| Duration::from_secs(60).mul_f64(random.fraction());
    let mut done = 0;
    while done < kills.div_ceil(2) {
        let how = random.choose(&Killed::ALL);
        let after = moment(&mut random);
        let killed = bed.kill(&["apply"], after, how);
        bed.check_what_is_there();
        if !killed {
            // It was done: all over again.
            bed.check_finished();
            bed.forget();
        }
        done += usize::from(killed);
    }
    bed.succeed(&["apply"]);
    bed.check_finished();
    println!("apply to the real base, killed {done} times");
    for _ in 0..kills.div_ceil(2) {
        let how = random.choose(&Killed::ALL);
        bed.kill(&["build"], moment(&mut random), how);
    }
    bed.succeed(&["build"]);
    bed.check_finished();
    bed.check_built();
    println!("the build, killed likewise, has come to its end");
}
