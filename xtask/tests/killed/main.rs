// SPDX-License-Identifier: MIT OR Apache-2.0
//! xtask is killed at random moments and run again: the next run succeeds, makes the same tree,
//! takes nothing for whole that is not, and no process is left.
//!
//! The ordinary run has a release of a few hundred files and a few kills. `DAXPIN_KILLS=N` kills N
//! times, and then takes the real base from the cache and kills `source`, `apply` and `build` as
//! well; `DAXPIN_KILL_SEED` chooses the moments.

mod bed;
mod random;

use bed::{Bed, Killed};
use random::Random;
use std::time::{Duration, Instant};

/// In the ordinary run.
const FEW: usize = 3;
/// A run that was to be killed and has ended by itself counts as well, but not for ever.
const ATTEMPTS: usize = 4;

fn kills() -> Option<usize> {
    let n = std::env::var("DAXPIN_KILLS").ok()?;
    Some(n.parse().expect("DAXPIN_KILLS is a number"))
}

fn seed() -> u64 {
    let seed = std::env::var("DAXPIN_KILL_SEED").ok();
    seed.map_or(1, |s| s.parse().expect("DAXPIN_KILL_SEED is a number"))
}

/// Tells the reader of the ordinary run what it has not done.
fn announce(what: &str) {
    // Past the test harness, which keeps what a test that passes has printed.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "killed: {what}");
}

/// Kills a command, at a moment of its undisturbed time or a little later, until it has been
/// killed or has ended `ATTEMPTS` times; then lets it run.
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
    let wanted = kills().unwrap_or(FEW);
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
    announce(&format!(
        "apply of a small release, which takes {usual:.1?}, killed {done} times"
    ));
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
fn the_real_base_and_its_build() {
    let Some(kills) = kills() else {
        announce("the real base and its build were NOT tried: DAXPIN_KILLS=N asks for it");
        return;
    };
    let mut random = Random::new(seed());
    let bed = Bed::real();
    // Source and series take about that long, a build takes much longer.
    let moment = |random: &mut Random| Duration::from_secs(60).mul_f64(random.fraction());
    let mut done = 0;
    while done < kills.div_ceil(3) {
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
    announce(&format!("apply to the real base, killed {done} times"));
    for _ in 0..kills.div_ceil(3) {
        let how = random.choose(&Killed::ALL);
        bed.kill(&["build"], moment(&mut random), how);
    }
    bed.succeed(&["build"]);
    bed.check_finished();
    bed.check_built();
    announce("the build, killed likewise, has come to its end");
}
