// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results of a run as a file, and those of several machines as one.

use super::result::{Outcome, Outcomes, Verdict};
use crate::error::{Failure, Kind};
use crate::report::tally::Tally;
use crate::report::{Case, Verdict as Counted};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One configuration on one kernel, once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Unit {
    /// `patched` or `base`.
    pub kernel: String,
    /// `xfs/dax`
    pub config: String,
    /// From 1.
    pub round: usize,
    /// What became of its tests.
    pub outcomes: Outcomes,
}

impl Unit {
    /// For headings.
    pub fn title(&self) -> String {
        match self.round {
            1 => format!("{}, {}", self.config, self.kernel),
            n => format!("{}, {}, round {n}", self.config, self.kernel),
        }
    }

    /// How many ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        let of = self.outcomes.values();
        of.filter(|o| o.verdict == verdict).count()
    }

    /// The line that counts them.
    pub fn summary(&self) -> String {
        use Verdict::{Crash, Excluded, Fail, NotRun, Pass};
        let minutes = self.outcomes.values().filter_map(|o| o.seconds);
        format!(
            "{}: {} passed, {} failed, {} crashed, {} not run, {} excluded; {:.0} min",
            self.title(),
            self.count(Pass),
            self.count(Fail),
            self.count(Crash),
            self.count(NotRun),
            self.count(Excluded),
            minutes.sum::<f64>() / 60.0
        )
    }
}

/// All results of a run, with what it was a run of.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Results {
    /// Versions and options, by name.
    pub about: std::collections::BTreeMap<String, String>,
    /// In the order they were run.
    pub units: Vec<Unit>,
}

impl Results {
    /// From a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| {
            Failure::of(
                Kind::Usage,
                format!("{} has no results of fstests: {e}", path.display()),
            )
        })
    }

    /// As a file's text.
    pub fn render(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Adds those of another machine. A test that both have run is the worse of the two.
    pub fn merge(&mut self, other: Results) {
        for (key, value) in other.about {
            let have = self.about.entry(key).or_insert_with(|| value.clone());
            // What comes from several machines is several values itself.
            for one in value.split("; ") {
                if !have.split("; ").any(|h| h == one) {
                    have.push_str(&format!("; {one}"));
                }
            }
        }
        for unit in other.units {
            let same = |u: &&mut Unit| {
                (&u.kernel, &u.config, u.round) == (&unit.kernel, &unit.config, unit.round)
            };
            let Some(have) = self.units.iter_mut().find(same) else {
                self.units.push(unit);
                continue;
            };
            for (name, outcome) in unit.outcomes {
                let old = have.outcomes.get(&name);
                if old.is_none_or(|o| rank(o) < rank(&outcome)) {
                    have.outcomes.insert(name, outcome);
                }
            }
        }
    }

    /// In the project's common form.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for unit in &self.units {
            tally.add(unit.outcomes.iter().map(|(name, o)| {
                let verdict = match o.verdict {
                    Verdict::Pass => Counted::Pass,
                    Verdict::Fail | Verdict::Crash => Counted::Fail,
                    Verdict::NotRun | Verdict::Excluded => Counted::Skip,
                };
                Case::new(
                    &format!("{}: {name}", unit.title()),
                    verdict,
                    o.detail.clone(),
                )
            }));
        }
        tally
    }
}

/// What counts for more when there are two results.
fn rank(outcome: &Outcome) -> usize {
    use Verdict::{Crash, Excluded, Fail, NotRun, Pass};
    [Excluded, NotRun, Pass, Fail, Crash]
        .iter()
        .position(|v| *v == outcome.verdict)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(test: &str, verdict: Verdict, host: &str) -> Results {
        let outcome = Outcome {
            verdict,
            detail: vec!["why".into()],
            seconds: Some(60.0),
        };
        Results {
            about: [("host".to_string(), host.to_string())].into(),
            units: vec![Unit {
                kernel: "patched".into(),
                config: "xfs/dax".into(),
                round: 1,
                outcomes: [(test.to_string(), outcome)].into(),
            }],
        }
    }

    #[test]
    fn shards_become_one() {
        let mut all = results("generic/001", Verdict::Pass, "a");
        all.merge(results("generic/002", Verdict::Fail, "b"));
        all.merge(results("generic/001", Verdict::NotRun, "a"));
        assert_eq!(all.units.len(), 1);
        assert_eq!(all.about["host"], "a; b");
        let unit = &all.units[0];
        assert_eq!(
            (unit.count(Verdict::Pass), unit.count(Verdict::Fail)),
            (1, 1)
        );
        assert_eq!(
            unit.summary(),
            "xfs/dax, patched: 1 passed, 1 failed, 0 crashed, 0 not run, 0 excluded; 2 min"
        );
        assert_eq!(all.tally().summary(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_was_put_together_is_not_told_twice() {
        let mut all = results("generic/001", Verdict::Pass, "a");
        all.merge(results("generic/002", Verdict::Pass, "b"));
        let before = all.clone();
        all.merge(before.clone());
        assert_eq!(all, before);
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        let all = results("generic/001", Verdict::Crash, "a");
        std::fs::write(&path, all.render().unwrap()).unwrap();
        assert_eq!(Results::read(&path).unwrap(), all);
        std::fs::write(&path, "{}").unwrap();
        assert!(Results::read(&path).is_err());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    fn results() -> impl Strategy<Value = Results> {
        use Verdict::{Crash, Excluded, Fail, NotRun, Pass};
        let outcome = (
            select(&[Pass, Fail, NotRun, Excluded, Crash][..]),
            vec("[ -~]{0,6}", 0..2),
            proptest::option::of((0u32..10_000).prop_map(f64::from)),
        )
            .prop_map(|(verdict, detail, seconds)| Outcome {
                verdict,
                detail,
                seconds,
            });
        let outcomes = btree_map("generic/00[1-5]", outcome, 0..4);
        let units = btree_map(
            ("base|patched", "xfs/dax|ext4/dax", 1usize..3),
            outcomes,
            0..4,
        );
        let about = btree_map("[ab]", "[x-z]", 0..3);
        (about, units).prop_map(|(about, units)| Results {
            about,
            units: units
                .into_iter()
                .map(|((kernel, config, round), outcomes)| Unit {
                    kernel,
                    config,
                    round,
                    outcomes,
                })
                .collect(),
        })
    }

    type Verdicts = std::collections::BTreeMap<(String, String, usize, String), Verdict>;

    fn verdicts(results: &Results) -> Verdicts {
        let of = |u: &Unit| {
            let key = (u.kernel.clone(), u.config.clone(), u.round);
            let each = u.outcomes.clone().into_iter();
            each.map(move |(test, o)| ((key.0.clone(), key.1.clone(), key.2, test), o.verdict))
        };
        results.units.iter().flat_map(of).collect()
    }

    fn merged(parts: &[&Results]) -> Results {
        let mut all = Results::default();
        parts.iter().for_each(|p| all.merge((*p).clone()));
        all
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_file_is_read_back_and_a_part_of_it_is_refused(all in results(), at in any::<Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("results.json");
            std::fs::write(&path, all.render().unwrap()).unwrap();
            prop_assert_eq!(&Results::read(&path).unwrap(), &all);
            let text = all.render().unwrap();
            std::fs::write(&path, cut(text.trim_end(), at)).unwrap();
            prop_assert!(Results::read(&path).is_err());
        }

        #[test]
        fn the_order_of_machines_does_not_matter(a in results(), b in results(), c in results()) {
            let one = merged(&[&a, &b, &c]);
            prop_assert_eq!(verdicts(&one), verdicts(&merged(&[&c, &a, &b])));
            let nested = merged(&[&merged(&[&a, &b]), &merged(&[&b, &c])]);
            prop_assert_eq!(verdicts(&one), verdicts(&nested));
            // And once is enough.
            prop_assert_eq!(&merged(&[&one, &one]), &one);
            prop_assert_eq!(&merged(&[&one, &a, &b, &c]), &one);
        }

        #[test]
        fn nothing_bad_gets_lost(a in results(), b in results()) {
            let all = merged(&[&a, &b]);
            let known = verdicts(&all);
            for part in [&a, &b] {
                for (test, verdict) in verdicts(part) {
                    prop_assert!(!verdict.is_bad() || known[&test].is_bad());
                }
            }
            let tests: usize = all.units.iter().map(|u| u.outcomes.len()).sum();
            prop_assert_eq!(all.tally().cases.len(), tests);
            prop_assert_eq!(known.len(), tests);
        }
    }
}
