// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unpatched kernel against the patched one: what is different, regressions first.

use super::result::Verdict;
use super::store::{Results, Unit};

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It passed, or could not be run for a good reason, and fails now; or it passed and is not run.
    Regression,
    /// It failed and does so still, in another way.
    Worse,
    /// It failed and passes now, or is not run any more.
    Better,
    /// It could not be run, and passes now.
    New,
}

impl Change {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Change::Regression => "REGRESSION",
            Change::Worse => "worse",
            Change::Better => "better",
            Change::New => "new",
        }
    }
}

/// One test that ends differently.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// What it means.
    pub change: Change,
    /// The configuration.
    pub config: String,
    /// The test.
    pub test: String,
    /// On the unpatched kernel.
    pub before: Option<Verdict>,
    /// On the patched one.
    pub after: Option<Verdict>,
    /// What the patched one has to say of it.
    pub why: String,
}

fn change(before: Option<Verdict>, after: Option<Verdict>) -> Option<Change> {
    use Verdict::{Crash, Excluded, Fail, NotRun, Pass};
    match (before, after) {
        _ if before == after => None,
        (Some(Excluded), _) | (_, Some(Excluded)) => None,
        (Some(Fail), Some(Crash)) => Some(Change::Worse),
        (_, Some(Fail | Crash)) if before != Some(Crash) => Some(Change::Regression),
        (Some(Pass), _) => Some(Change::Regression),
        (Some(Fail | Crash), _) => Some(Change::Better),
        (Some(NotRun) | None, Some(Pass)) => Some(Change::New),
        _ => None,
    }
}

fn units<'a>(all: &'a Results, kernel: &'a str) -> impl Iterator<Item = &'a Unit> {
    all.units.iter().filter(move |u| u.kernel == kernel)
}

/// All differences, the bad ones first.
pub fn differences(all: &Results, base: &str, patched: &str) -> Vec<Difference> {
    let mut out = vec![];
    for after in units(all, patched) {
        let same = |u: &&Unit| (&u.config, u.round) == (&after.config, after.round);
        let Some(before) = units(all, base).find(same) else {
            continue;
        };
        let names: std::collections::BTreeSet<&String> = before
            .outcomes
            .keys()
            .chain(after.outcomes.keys())
            .collect();
        for name in names {
            let (old, new) = (before.outcomes.get(name), after.outcomes.get(name));
            let verdict = |o: Option<&super::result::Outcome>| o.map(|o| o.verdict);
            let Some(change) = change(verdict(old), verdict(new)) else {
                continue;
            };
            let why = new.and_then(|o| o.detail.first()).cloned();
            out.push(Difference {
                change,
                config: after.config.clone(),
                test: name.clone(),
                before: verdict(old),
                after: verdict(new),
                why: why.unwrap_or_default(),
            });
        }
    }
    out.sort_by(|a, b| (a.change, &a.config, &a.test).cmp(&(b.change, &b.config, &b.test)));
    out
}

/// Rows of a table of them.
pub fn rows(differences: &[Difference]) -> Vec<Vec<String>> {
    let word = |v: Option<Verdict>| v.map_or("-", Verdict::word).to_string();
    differences
        .iter()
        .map(|d| {
            vec![
                d.change.word().to_string(),
                d.config.clone(),
                d.test.clone(),
                word(d.before),
                word(d.after),
                d.why.clone(),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::result::Outcome;
    use super::*;
    use Verdict::{Crash, Excluded, Fail, NotRun, Pass};

    fn unit(kernel: &str, verdicts: &[(&str, Verdict)]) -> Unit {
        let outcome = |v: Verdict| Outcome {
            verdict: v,
            detail: vec![],
            seconds: None,
        };
        Unit {
            kernel: kernel.into(),
            config: "xfs/dax".into(),
            round: 1,
            outcomes: verdicts
                .iter()
                .map(|(n, v)| (n.to_string(), outcome(*v)))
                .collect(),
        }
    }

    #[test]
    fn regressions_come_first() {
        let before = [
            ("generic/001", Pass),
            ("generic/002", Pass),
            ("generic/003", Fail),
            ("generic/004", NotRun),
            ("generic/005", Fail),
            ("generic/006", Pass),
            ("generic/007", Crash),
            ("generic/008", Pass),
            ("generic/009", Fail),
            ("generic/010", NotRun),
        ];
        let after = [
            ("generic/001", Pass),
            ("generic/002", NotRun),
            ("generic/003", Pass),
            ("generic/004", Pass),
            ("generic/005", Fail),
            ("generic/006", Crash),
            ("generic/007", Fail),
            ("generic/008", Excluded),
            ("generic/009", Crash),
            ("generic/010", Fail),
        ];
        let all = Results {
            about: Default::default(),
            units: vec![unit("base", &before), unit("patched", &after)],
        };
        let d = differences(&all, "base", "patched");
        let seen: Vec<(Change, &str)> = d.iter().map(|d| (d.change, d.test.as_str())).collect();
        use Change::{Better, New, Regression, Worse};
        assert_eq!(
            seen,
            [
                (Regression, "generic/002"),
                (Regression, "generic/006"),
                (Regression, "generic/010"),
                (Worse, "generic/009"),
                (Better, "generic/003"),
                (Better, "generic/007"),
                (New, "generic/004"),
            ]
        );
        assert_eq!(rows(&d)[1][3..5], ["pass".to_string(), "CRASH".into()]);
    }

    #[test]
    fn a_test_that_is_missing_has_not_passed() {
        let all = Results {
            about: Default::default(),
            units: vec![unit("base", &[("generic/001", Pass)]), unit("patched", &[])],
        };
        let d = differences(&all, "base", "patched");
        assert_eq!(d[0].change, Change::Regression);
    }
}
