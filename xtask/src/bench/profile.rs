// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instructions are spent, by function: what `tools/profile/profile.c` wrote.

use super::records::Record;
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The kernel's half of the addresses.
const KERNEL: u64 = 1 << 63;

/// Functions by address.
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Reads `/proc/kallsyms`.
    pub fn parse(text: &str) -> Result<Symbols> {
        let mut all = vec![];
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(address), Some("t" | "T"), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                let address = u64::from_str_radix(address, 16).context(line.to_string())?;
                all.push((address, name.to_string()));
            }
        }
        if all.iter().all(|(address, _)| *address == 0) {
            bail!("the kernel does not tell the addresses of its functions");
        }
        all.sort();
        // Several names of one place.
        all.dedup_by_key(|entry| entry.0);
        Ok(Symbols(all))
    }

    fn name(&self, address: u64) -> &str {
        if address < KERNEL {
            return "(the program itself)";
        }
        let after = self.0.partition_point(|entry| entry.0 <= address);
        after.checked_sub(1).map_or("(unknown)", |n| &self.0[n].1)
    }
}

/// Instructions of one time, by function, most first.
#[derive(Debug, PartialEq)]
pub struct Section {
    /// How often it was done.
    pub times: u64,
    /// Functions.
    pub functions: Vec<(String, u64)>,
}

/// Reads the sections; there is one for each record.
pub fn parse(text: &str, symbols: &Symbols) -> Result<Vec<Section>> {
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "the profile ends in the middle of a line"
    );
    let mut sections: Vec<(u64, BTreeMap<&str, u64>)> = vec![];
    for line in text.lines() {
        let (first, second) = line.split_once(' ').context(line.to_string())?;
        if first == "section" {
            sections.push((second.parse()?, BTreeMap::new()));
            continue;
        }
        let (_, functions) = sections.last_mut().context("no section")?;
        let address = u64::from_str_radix(first, 16).context(line.to_string())?;
        let sum = functions.entry(symbols.name(address)).or_default();
        *sum = sum
            .checked_add(second.parse()?)
            .with_context(|| format!("{line}: more than can be counted"))?;
    }
    Ok(sections
        .into_iter()
        .map(|(times, functions)| {
            let mut functions: Vec<(String, u64)> = functions
                .into_iter()
                .map(|(name, count)| (name.to_string(), count / times.max(1)))
                .collect();
            functions.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            Section { times, functions }
        })
        .collect())
}

/// A table for each record that has a profile.
pub fn document(records: &[Record], sections: &[Section], longest: usize) -> Result<String> {
    if records.len() != sections.len() {
        bail!("{} records, and {} sections", records.len(), sections.len());
    }
    let mut out = String::from("# Where the instructions are spent\n");
    for (record, section) in records.iter().zip(sections) {
        let total: u64 = section.functions.iter().map(|f| f.1).sum();
        if total == 0 {
            continue;
        }
        let at = record.x.map_or(String::new(), |x| format!(", {x}"));
        let _ = write!(
            out,
            "\n## {}, {}{at}\n\n{total} instructions, mean of {} times\n\n| function | instructions | |\n|---|---:|---:|\n",
            record.name, record.variant, section.times
        );
        for (name, count) in section.functions.iter().take(longest).filter(|f| f.1 > 0) {
            let share = *count as f64 / total as f64 * 100.0;
            let _ = writeln!(out, "| {name} | {count} | {share:.1} % |");
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "ffffffff81000000 T _text\nffffffff81000000 T startup\nffffffff81001000 t gup\nffffffff81002000 D data\nffffffff81003000 T unpin\n";

    #[test]
    fn blocks_are_put_together_by_function() {
        let symbols = Symbols::parse(SYMBOLS).unwrap();
        let text = "section 2\nffffffff81001000 10\nffffffff81001ff0 30\nffffffff81003004 8\n401000 2\nsection 0\n";
        let sections = parse(text, &symbols).unwrap();
        let names: Vec<(&str, u64)> = sections[0]
            .functions
            .iter()
            .map(|f| (f.0.as_str(), f.1))
            .collect();
        assert_eq!(
            names,
            [("gup", 20), ("unpin", 4), ("(the program itself)", 1)]
        );
        assert!(sections[1].functions.is_empty() && sections.len() == 2);
    }

    #[test]
    fn what_was_cut_off_or_cannot_be_counted_is_an_error() {
        let symbols = Symbols::parse(SYMBOLS).unwrap();
        assert!(parse("section 1\nffffffff81001000 10", &symbols).is_err());
        let most = "ffffffff81001000 18446744073709551615\n";
        assert!(parse(&format!("section 1\n{most}"), &symbols).is_ok());
        assert!(parse(&format!("section 1\n{most}{most}"), &symbols).is_err());
    }

    #[test]
    fn hidden_addresses_are_an_error() {
        assert!(Symbols::parse("0000000000000000 T gup\n").is_err());
    }

    #[test]
    fn every_record_has_a_section() {
        let record = Record {
            name: "pin".into(),
            variant: "fsdax".into(),
            x: Some(4096),
            n: 1,
            unit: "instructions".into(),
            value: 1.0,
            mean: 1.0,
        };
        let section = Section {
            times: 3,
            functions: vec![("gup".into(), 75), ("unpin".into(), 25), ("idle".into(), 0)],
        };
        let text = document(&[record], &[section], 9).unwrap();
        assert!(text.contains("## pin, fsdax, 4096") && text.contains("| gup | 75 | 75.0 % |"));
        assert!(!text.contains("idle"));
        assert!(document(
            &[],
            &[Section {
                times: 1,
                functions: vec![]
            }],
            9
        )
        .is_err());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::Index;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn nothing_gets_lost(
            functions in btree_map(KERNEL..u64::MAX, "[a-z_]{1,8}", 1..6),
            samples in vec((any::<Index>(), 0u64..64, 1u64..1 << 40), 0..8),
        ) {
            let all: Vec<(u64, String)> = functions.into_iter().collect();
            let text: String = all.iter().map(|(at, name)| format!("{at:x} t {name}\n")).collect();
            let symbols = Symbols::parse(&text).unwrap();
            let mut profile = String::from("section 1\n");
            let mut want: BTreeMap<&str, u64> = BTreeMap::new();
            for (which, offset, count) in &samples {
                let n = which.index(all.len());
                let end = all.get(n + 1).map_or(u64::MAX, |next| next.0);
                let at = all[n].0.saturating_add(*offset).min(end - 1);
                profile.push_str(&format!("{at:x} {count}\n"));
                *want.entry(&all[n].1).or_default() += count;
            }
            let section = parse(&profile, &symbols).unwrap().remove(0);
            let read: BTreeMap<&str, u64> = section.functions.iter().map(|(n, c)| (n.as_str(), *c)).collect();
            prop_assert_eq!(read, want);
            prop_assert!(section.functions.is_sorted_by(|a, b| a.1 >= b.1));
            if !samples.is_empty() {
                prop_assert!(parse(profile.trim_end(), &symbols).is_err());
            }
        }

        #[test]
        fn noise_never_panics(text in noise(&["section 3\n", "ffffffff81000000 ", "18446744073709551615\n", " t gup\n", "T "])) {
            let symbols = Symbols::parse("ffffffff81000000 T _text\n").unwrap();
            let _ = parse(&text, &symbols);
            let _ = Symbols::parse(&text);
        }
    }
}
