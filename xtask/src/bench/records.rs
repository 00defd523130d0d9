// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest measured, boot by boot.

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One thing measured in one boot.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Record {
    /// What was done.
    pub name: String,
    /// On what, or how.
    pub variant: String,
    /// What a curve is drawn against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<u64>,
    /// How often it was done.
    pub n: usize,
    /// What is counted.
    pub unit: String,
    /// The median of one time.
    pub value: f64,
    /// The mean of one time.
    pub mean: f64,
}

/// The unit of what the machine counts itself, whatever the host does.
pub const INSTRUCTIONS: &str = "instructions";

/// Which thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What was done.
    pub name: String,
    /// On what, or how.
    pub variant: String,
    /// The place on a curve.
    pub x: Option<u64>,
}

impl Record {
    /// Which thing it is about.
    pub fn key(&self) -> Key {
        Key {
            name: self.name.clone(),
            variant: self.variant.clone(),
            x: self.x,
        }
    }
}

/// All records of one boot.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Boot {
    /// `base` or `series`.
    pub kernel: String,
    /// Does the machine count instructions?
    pub counted: bool,
    /// What was measured, in the guest's order.
    pub records: Vec<Record>,
    /// What the guest said that could not be measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

/// How and what was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Setting {
    /// The kernel's release.
    pub release: String,
    /// The commit the series ends with, and the checksums of the images.
    pub images: BTreeMap<String, String>,
    /// The commit of the project, and whether there were changes.
    pub project: String,
    /// The kernel's command line in a machine that counts.
    pub command_line: String,
    /// QEMU's version.
    pub qemu: String,
}

/// Everything.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Results {
    /// How and what was measured.
    pub setting: Setting,
    /// The boots.
    pub boots: Vec<Boot>,
}

#[derive(Deserialize)]
struct End {
    done: bool,
    records: usize,
}

/// Reads what the guest wrote: the records, and whether it came to its end.
pub fn parse(text: &str) -> Result<(Vec<Record>, bool)> {
    let mut records: Vec<Record> = vec![];
    let mut complete = false;
    for (n, line) in text.lines().enumerate() {
        if complete {
            bail!("line {} of the results comes after the end", n + 1);
        }
        if let Ok(end) = serde_json::from_str::<End>(line) {
            if !end.done || end.records != records.len() {
                bail!(
                    "the guest counted {}, {} were read",
                    end.records,
                    records.len()
                );
            }
            complete = true;
            continue;
        }
        records.push(
            serde_json::from_str(line).with_context(|| format!("line {} of the results", n + 1))?,
        );
    }
    Ok((records, complete))
}

/// A value over several boots: the mean of the boots, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The mean of the boots' medians.
    pub value: f64,
    /// The largest less the smallest, as a share of the mean.
    pub spread: f64,
    /// How many boots.
    pub boots: usize,
}

impl Results {
    /// Every value of a kernel.
    pub fn of(&self, kernel: &str) -> BTreeMap<Key, Value> {
        let mut all: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for boot in self.boots.iter().filter(|boot| boot.kernel == kernel) {
            for record in &boot.records {
                all.entry(record.key()).or_default().push(record.value);
            }
        }
        all.into_iter()
            .map(|(key, values)| (key, value(&values)))
            .collect()
    }

    /// The units, by name.
    pub fn unit(&self, name: &str) -> &str {
        let records = self.boots.iter().flat_map(|boot| &boot.records);
        let mut of = records.filter(|record| record.name == name);
        of.next().map_or("", |record| &record.unit)
    }

    /// The spread of everything counted in instructions that several boots of one kernel have: the
    /// largest, with what has it, and the share that agrees to half a percent.
    pub fn spread(&self) -> Option<Spread> {
        let mut all: Vec<(f64, Key)> = vec![];
        for kernel in ["base", "series"] {
            for (key, value) in self.of(kernel) {
                if value.boots > 1 && self.unit(&key.name) == INSTRUCTIONS {
                    all.push((value.spread, key));
                }
            }
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let within = all.iter().filter(|(spread, _)| *spread <= 0.005).count();
        Some(Spread {
            median: all.get(all.len() / 2)?.0,
            within,
            of: all.len(),
            largest: all.last()?.clone(),
        })
    }
}

/// How well boots agree.
#[derive(Clone, Debug)]
pub struct Spread {
    /// That of most values.
    pub median: f64,
    /// How many values agree to half a percent.
    pub within: usize,
    /// Of how many.
    pub of: usize,
    /// The largest, and which value has it.
    pub largest: (f64, Key),
}

fn value(values: &[f64]) -> Value {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    Value {
        value: mean,
        spread: if mean == 0.0 {
            0.0
        } else {
            (most - least) / mean
        },
        boots: values.len(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results of one record a line: kernel, name, variant, x, value.
    pub fn results(lines: &[(&str, &str, &str, Option<u64>, f64)]) -> Results {
        let boots = lines.iter().map(|&(kernel, name, variant, x, value)| Boot {
            kernel: kernel.into(),
            counted: true,
            records: vec![Record {
                name: name.into(),
                variant: variant.into(),
                x,
                n: 3,
                unit: INSTRUCTIONS.into(),
                value,
                mean: value,
            }],
            failed: vec![],
        });
        Results {
            setting: Setting::default(),
            boots: boots.collect(),
        }
    }

    #[test]
    fn records_are_read_and_a_wrong_count_is_noticed() {
        let line = r#"{"name":"a","variant":"b","x":1,"n":3,"unit":"instructions","value":5.0,"mean":6.0}"#;
        let (records, complete) =
            parse(&format!("{line}\n{{\"done\":true,\"records\":1}}\n")).unwrap();
        assert!(complete && records[0].x == Some(1));
        assert!(!parse(line).unwrap().1);
        assert!(parse("{\"done\":true,\"records\":1}\n").is_err());
        assert!(parse("junk\n").is_err());
    }

    #[test]
    fn boots_are_averaged_and_their_spread_is_told() {
        let results = results(&[
            ("base", "a", "v", None, 1000.0),
            ("base", "a", "v", None, 1010.0),
            ("base", "b", "v", None, 7.0),
            ("base", "b", "v", None, 7.0),
            ("series", "a", "v", None, 3.0),
        ]);
        let base = results.of("base");
        let a = base.iter().find(|(key, _)| key.name == "a").unwrap().1;
        assert!(a.value == 1005.0 && a.boots == 2 && (a.spread - 0.00995).abs() < 1e-4);
        let spread = results.spread().unwrap();
        assert_eq!(
            (spread.within, spread.of, spread.largest.1.name.as_str()),
            (1, 2, "a")
        );
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let number = || (0u32..1 << 30).prop_map(|n| f64::from(n) / 4.0);
        let record = (
            "[ -~]{0,9}",
            "[a-z]{1,5}",
            proptest::option::of(any::<u64>()),
            1usize..99,
            number(),
            number(),
        );
        let record = record.prop_map(|(name, variant, x, n, value, mean)| {
            let unit = INSTRUCTIONS.into();
            Record {
                name,
                variant,
                x,
                n,
                unit,
                value,
                mean,
            }
        });
        vec(record, 0..6)
    }

    fn write(records: &[Record]) -> String {
        let lines = records
            .iter()
            .map(|r| serde_json::to_string(r).unwrap() + "\n");
        lines.collect::<String>() + &format!("{{\"done\":true,\"records\":{}}}\n", records.len())
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn records_are_read_back(records in records()) {
            prop_assert_eq!(parse(&write(&records)).unwrap(), (records, true));
        }

        #[test]
        fn what_was_cut_off_is_not_complete(records in records(), at in any::<Index>()) {
            let text = write(&records);
            if let Ok((read, complete)) = parse(cut(text.trim_end(), at)) {
                prop_assert!(!complete && records.starts_with(&read));
            }
        }

        #[test]
        fn a_record_that_was_lost_is_missed(records in records(), at in any::<Index>()) {
            prop_assume!(!records.is_empty());
            let text = write(&records);
            let lost = at.index(records.len());
            let left = text.lines().enumerate().filter(|(n, _)| *n != lost);
            let left: Vec<&str> = left.map(|(_, l)| l).collect();
            prop_assert!(parse(&left.join("\n")).is_err());
        }

        #[test]
        fn a_mean_lies_between_the_boots(values in vec(0u32..1 << 20, 1..6)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let of = value(&values);
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(least <= of.value && of.value <= most && of.boots == values.len());
            prop_assert!(of.spread >= 0.0 && (of.spread == 0.0) == (most == least));
        }

        #[test]
        fn noise_never_panics(text in noise(&["{\"done\":true", ",\"records\":0}\n", "{\"name\":", "}"])) {
            let _ = parse(&text);
        }
    }
}
