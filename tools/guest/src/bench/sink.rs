// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results: one JSON object a line, written as each is there.

use super::count::{section_ends, Costs};
use crate::results::write_line;
use anyhow::Context;
use serde::Serialize;
use std::fs::File;
use std::path::Path;

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// What was done.
    pub name: String,
    /// On what, or how.
    pub variant: String,
    /// What a curve is drawn against: a number of bytes, or of pins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<u64>,
    /// How often it was done.
    pub n: usize,
    /// What is counted.
    pub unit: &'static str,
    /// The median of one time.
    pub value: f64,
    /// The mean of one time.
    pub mean: f64,
}

/// Where the results go.
pub struct Sink {
    file: File,
    records: usize,
}

#[derive(Serialize)]
struct End {
    done: bool,
    records: usize,
}

/// The unit of everything that is counted exactly.
pub const INSTRUCTIONS: &str = "instructions";

impl Sink {
    /// An empty file.
    pub fn create(path: &Path) -> anyhow::Result<Sink> {
        let file =
            File::create(path).with_context(|| format!("cannot write to {}", path.display()))?;
        Ok(Sink { file, records: 0 })
    }

    /// Costs of an operation.
    pub fn costs(&mut self, name: &str, variant: &str, costs: &Costs) -> anyhow::Result<()> {
        self.curve(name, variant, None, costs)
    }

    /// Costs of an operation at a place of a curve.
    pub fn curve(
        &mut self,
        name: &str,
        variant: &str,
        x: impl Into<Option<u64>>,
        costs: &Costs,
    ) -> anyhow::Result<()> {
        self.add(&Record {
            name: name.to_owned(),
            variant: variant.to_owned(),
            x: x.into(),
            n: costs.len(),
            unit: INSTRUCTIONS,
            value: costs.median() as f64,
            mean: costs.mean() as f64,
        })
    }

    /// A value that was found once.
    pub fn value(
        &mut self,
        name: &str,
        variant: &str,
        x: Option<u64>,
        value: f64,
        unit: &'static str,
    ) -> anyhow::Result<()> {
        self.add(&Record {
            name: name.to_owned(),
            variant: variant.to_owned(),
            x,
            n: 1,
            unit,
            value,
            mean: value,
        })
    }

    /// Adds a record, and tells the console.
    pub fn add(&mut self, record: &Record) -> anyhow::Result<()> {
        let at = record.x.map_or(String::new(), |x| format!(" at {x}"));
        println!(
            "{}, {}{at}: {} {} ({} times)",
            record.name, record.variant, record.value, record.unit, record.n
        );
        self.records += 1;
        section_ends();
        write_line(&mut self.file, record)
    }

    /// Ends the file.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let end = End {
            done: true,
            records: self.records,
        };
        write_line(&mut self.file, &end)?;
        self.file.sync_all().ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_object_and_the_last_one_counts_them() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut sink = Sink::create(&path).unwrap();
        let costs = Costs::of(vec![5, 7, 6]);
        sink.costs("punch", "xfs", &costs).unwrap();
        sink.curve("pin", "fsdax", 4096, &costs).unwrap();
        sink.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            r#"{"name":"pin","variant":"fsdax","x":4096,"n":3,"unit":"instructions","value":6.0,"mean":6.0}"#
        );
        assert!(!lines[0].contains("\"x\""));
        assert_eq!(lines[2], r#"{"done":true,"records":2}"#);
    }
}
