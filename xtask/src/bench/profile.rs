// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instructions are spent, by function: what `tools/profile/profile.c` wrote.

use super::records::Record;
use anyhow::{bail, Context, Result};
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
    let mut sections: Vec<(u64, BTreeMap<&str, u64>)> = vec![];
    for line in text.lines() {
        let (first, second) = line.split_once(' ').context(line.to_string())?;
        if first == "section" {
            sections.push((second.parse()?, BTreeMap::new()));
            continue;
        }
        let (_, functions) = sections.last_mut().context("no section")?;
        let address = u64::from_str_radix(first, 16).context(line.to_string())?;
        *functions.entry(symbols.name(address)).or_default() += second.parse::<u64>()?;
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
