// SPDX-License-Identifier: MIT OR Apache-2.0
//! `configs/bench-budgets.toml`: what may cost how much, compared with what; and whether it does.

use super::records::{Key, Results, Value};
use anyhow::{bail, Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A budget: a row of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// What is measured.
    pub what: String,
    /// What it is measured against, in words.
    pub against: String,
    /// How the two are found.
    pub compare: Compare,
    /// The names of records it is about; `*` stands for anything.
    pub names: Vec<String>,
    /// The variants, `*` as well; all of them where there is none.
    #[serde(default)]
    pub variants: Vec<String>,
    /// From this place of a curve on.
    #[serde(default)]
    pub from: Option<u64>,
    /// Up to this place of a curve.
    #[serde(default)]
    pub to: Option<u64>,
    /// Why the budget is not what it was once meant to be.
    #[serde(default)]
    pub why: Option<String>,
    /// The ratio, or the value, is at most that.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// The ratio is at least that.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// A ratio that is nearer to 1 than the boots are to each other is no difference.
    #[serde(default)]
    pub within_spread: bool,
}

/// What to divide by.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The same on the base kernel.
    Base,
    /// The same thing of another variant, on the same kernel: what stands in the variant's name is
    /// replaced, from the first text to the second one.
    Variant(String, String),
    /// The same variant of another name.
    Name(String),
    /// Another name, and what stands in the variant's name is replaced.
    NameAndVariant(String, String, String),
    /// The same at this place of the curve, or at the first there is.
    Curve(u64),
    /// Nothing: the value itself.
    Value,
}

/// A file of budgets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    budget: Vec<Budget>,
}

/// Reads the budgets.
pub fn read(path: &Path) -> Result<Vec<Budget>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Budget>> {
    let file: File = toml::from_str(text)?;
    for budget in &file.budget {
        if budget.names.is_empty() {
            bail!("`{}` is about nothing", budget.what);
        }
    }
    Ok(file.budget)
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was measured.
    pub key: Key,
    /// Its value.
    pub value: f64,
    /// What it is divided by; none for a value that stands for itself.
    pub reference: Option<f64>,
    /// The ratio, or the value.
    pub result: f64,
    /// How far boots are apart, of the two together.
    pub spread: f64,
    /// Is it within the budget?
    pub ok: bool,
}

/// What became of a budget.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The budget.
    pub budget: Budget,
    /// Every comparison it is about. None: nothing was measured.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// What has been exceeded.
    pub fn exceeded(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.ok)
    }

    /// The worst comparison.
    pub fn worst(&self) -> Option<&Finding> {
        let least = self.budget.at_least.is_some();
        self.findings.iter().max_by(|a, b| {
            let order = a.result.total_cmp(&b.result);
            if least {
                order.reverse()
            } else {
                order
            }
        })
    }
}

/// Whether a name matches a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|left| {
            (0..=left.len())
                .filter(|at| left.is_char_boundary(*at))
                .any(|at| matches(rest, &left[at..]))
        }),
    }
}

/// Looks at every budget.
pub fn judge(budgets: &[Budget], results: &Results) -> Vec<Outcome> {
    let (base, series) = (results.of("base"), results.of("series"));
    budgets
        .iter()
        .map(|budget| Outcome {
            budget: budget.clone(),
            findings: findings(budget, &base, &series),
        })
        .collect()
}

type Values = BTreeMap<Key, Value>;

fn findings(budget: &Budget, base: &Values, series: &Values) -> Vec<Finding> {
    let about = |key: &Key| {
        let any = |patterns: &[String], name: &str| patterns.iter().any(|p| matches(p, name));
        any(&budget.names, &key.name)
            && (budget.variants.is_empty() || any(&budget.variants, &key.variant))
            && budget.from.is_none_or(|from| key.x >= Some(from))
            && budget.to.is_none_or(|to| key.x.is_some_and(|x| x <= to))
    };
    series
        .iter()
        .filter(|(key, _)| about(key))
        // What comes before the place is mostly constant cost.
        .filter(|(key, _)| !matches!(budget.compare, Compare::Curve(from) if key.x < Some(from)))
        .filter_map(|(key, value)| {
            let reference = match &budget.compare {
                Compare::Value => None,
                compare => Some(*reference(compare, key, base, series)?),
            };
            Some(finding(budget, key, *value, reference))
        })
        .collect()
}

/// What to divide by. Nothing for what is itself the reference.
fn reference<'a>(
    compare: &Compare,
    key: &Key,
    base: &'a Values,
    series: &'a Values,
) -> Option<&'a Value> {
    let mut other = key.clone();
    match compare {
        Compare::Value => return None,
        Compare::Base => return base.get(key),
        Compare::Variant(from, to) => other.variant = key.variant.replace(from.as_str(), to),
        Compare::Name(name) => other.name = name.clone(),
        Compare::NameAndVariant(name, from, to) => {
            other.name = name.clone();
            other.variant = key.variant.replace(from.as_str(), to);
        }
        Compare::Curve(x) => {
            let same = |k: &&Key| k.name == key.name && k.variant == key.variant;
            let mut places = series.keys().filter(same).filter_map(|k| k.x);
            other.x = places.find(|place| place >= x);
        }
    }
    if other == *key {
        return None;
    }
    series.get(&other)
}

fn finding(budget: &Budget, key: &Key, value: Value, reference: Option<Value>) -> Finding {
    let result = reference.map_or(value.value, |r| value.value / r.value);
    let spread = value.spread + reference.map_or(0.0, |r| r.spread);
    let inside = budget.at_most.is_none_or(|most| result <= most)
        && budget.at_least.is_none_or(|least| result >= least);
    Finding {
        key: key.clone(),
        value: value.value,
        reference: reference.map(|r| r.value),
        result,
        spread,
        ok: inside || budget.within_spread && (result - 1.0).abs() <= spread,
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::results;
    use super::*;

    fn budget(compare: &str, rest: &str) -> Budget {
        let text = format!(
            "[[budget]]\nwhat = \"w\"\nagainst = \"a\"\ncompare = {compare}\nnames = [\"p*\"]\n{rest}"
        );
        parse(&text).unwrap().remove(0)
    }

    fn only(budget: Budget, results: &Results) -> Vec<(f64, bool)> {
        let outcome = judge(&[budget], results).remove(0);
        let pairs = outcome.findings.iter().map(|f| (f.result, f.ok));
        pairs.collect()
    }

    #[test]
    fn the_committed_budgets_are_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let budgets = read(&root.join("configs/bench-budgets.toml")).unwrap();
        assert!(budgets.len() > 10);
    }

    #[test]
    fn base_is_the_same_on_the_other_kernel() {
        let results = results(&[
            ("base", "punch", "xfs", None, 100.0),
            ("series", "punch", "xfs", None, 102.0),
            ("series", "punch", "ext4", None, 7.0),
            ("series", "other", "xfs", None, 7.0),
        ]);
        assert_eq!(
            only(budget("\"base\"", "at_most = 1.01"), &results),
            [(1.02, false)]
        );
        assert_eq!(
            only(budget("\"base\"", "at_most = 1.02"), &results),
            [(1.02, true)]
        );
        let none = budget("\"base\"", "at_most = 1.0\nvariants = [\"ext*\"]");
        assert!(only(none, &results).is_empty());
    }

    #[test]
    fn variants_names_curves_and_values() {
        let results = results(&[
            ("series", "pin", "fsdax-4k", Some(0), 29.0),
            ("series", "pin", "fsdax-4k", Some(1), 30.0),
            ("series", "pin", "fsdax-4k", Some(8), 60.0),
            ("series", "pin", "devdax-4k", Some(8), 40.0),
            ("series", "punch", "fsdax-4k", Some(8), 20.0),
        ]);
        let variant = budget("{ variant = [\"fsdax\", \"devdax\"] }", "at_most = 1.1");
        assert_eq!(only(variant, &results), [(1.5, false)]);
        let curve = budget("{ curve = 1 }", "at_most = 2.0");
        assert_eq!(only(curve, &results), [(2.0, true)]);
        let name = budget("{ name = \"punch\" }", "at_least = 3.0");
        assert_eq!(only(name, &results), [(3.0, true)]);
        let value = budget("\"value\"", "at_most = 50\nvariants = [\"fsdax*\"]");
        let values = only(value, &results);
        assert_eq!(
            values,
            [(29.0, true), (30.0, true), (60.0, false), (20.0, true)]
        );
    }

    #[test]
    fn a_part_of_a_curve() {
        let results = results(&[
            ("series", "p", "v", Some(1), 10.0),
            ("series", "p", "v", Some(2), 20.0),
            ("series", "p", "v", Some(3), 30.0),
        ]);
        let part = |rest: &str| only(budget("\"value\"", rest), &results);
        assert_eq!(part("from = 2"), [(20.0, true), (30.0, true)]);
        assert_eq!(part("to = 1\nat_most = 5"), [(10.0, false)]);
    }

    #[test]
    fn what_boots_differ_by_is_no_difference() {
        let results = results(&[
            ("base", "p", "v", None, 100.0),
            ("base", "p", "v", None, 104.0),
            ("series", "p", "v", None, 104.0),
        ]);
        let strict = budget("\"base\"", "at_most = 1.01");
        assert!(!only(strict, &results)[0].1);
        let lenient = budget("\"base\"", "at_most = 1.01\nwithin_spread = true");
        assert!(only(lenient, &results)[0].1);
    }

    #[test]
    fn patterns() {
        assert!(matches("fsdax-*, xfs", "fsdax-4k, xfs") && matches("*", ""));
        assert!(!matches("fsdax", "fsdax-4k") && matches("*-4k", "fsdax-4k"));
    }
}

#[cfg(test)]
mod properties {
    use super::super::records::tests::results;
    use super::*;
    use crate::properties::{config, cut, glob, noise};
    use proptest::prelude::*;
    use proptest::sample::Index;

    const COMMITTED: &str = include_str!("../../../configs/bench-budgets.toml");

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn patterns_mean_what_they_mean_elsewhere(pattern in "[ab*]{0,6}", name in "[abä]{0,7}") {
            prop_assert_eq!(matches(&pattern, &name), glob(&pattern, &name));
        }

        #[test]
        fn a_budget_is_kept_or_exceeded_by_the_ratio(base in 1u32..1 << 20, series in 0u32..1 << 20, permille in 1u32..3000) {
            let (base, series, most) = (f64::from(base), f64::from(series), f64::from(permille) / 1000.0);
            let results = results(&[("base", "p", "v", None, base), ("series", "p", "v", None, series)]);
            let budget = |rest: &str| {
                let text = format!("[[budget]]\nwhat = \"w\"\nagainst = \"a\"\ncompare = \"base\"\nnames = [\"p\"]\n{rest}\n");
                parse(&text).unwrap()
            };
            let ok = |rest: &str| judge(&budget(rest), &results)[0].exceeded().count() == 0;
            prop_assert_eq!(ok(&format!("at_most = {most:?}")), series / base <= most);
            prop_assert_eq!(ok(&format!("at_least = {most:?}")), series / base >= most);
        }

        #[test]
        fn of_a_file_that_was_cut_off_no_budget_is_widened(at in any::<Index>()) {
            let whole = parse(COMMITTED).unwrap();
            if let Ok(part) = parse(cut(COMMITTED.trim_end(), at)) {
                // All but the last are as they were.
                let same = |(a, b): (&Budget, &Budget)| format!("{a:?}") == format!("{b:?}");
                prop_assert!(part.len() <= whole.len());
                prop_assert!(part.iter().zip(&whole).take(part.len().saturating_sub(1)).all(same));
            }
        }

        #[test]
        fn noise_never_panics(text in noise(&["[[budget]]\n", "what = \"\"\n", "names = [\"*\"]\n", "compare = ", "{ curve = 1 }\n"])) {
            let _ = parse(&text);
            let pattern: String = text.chars().take(12).collect();
            matches(&pattern, "abc");
        }
    }
}
