// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demo's results: one JSON object a line, written as each step ends.

use anyhow::Context;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// One step of the demo.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// `xfs`, `ext4`, or what kind of memory.
    pub fs: String,
    /// Which part of the scenario.
    pub group: String,
    /// What was tried.
    pub step: String,
    /// What the contract says.
    pub expected: String,
    /// What happened.
    pub got: String,
    /// The errno of the call, 0 for success; nothing where the step is not one call.
    pub errno: Option<i32>,
    /// How long the call took.
    pub nanoseconds: Option<u64>,
    /// Whether that is what the contract says.
    pub ok: bool,
}

#[derive(Serialize)]
struct End {
    done: bool,
    steps: usize,
}

/// Where the rows go.
pub struct Results {
    file: File,
    begun: Instant,
    steps: usize,
    failed: usize,
}

impl Results {
    /// An empty file of results.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the results to {}", path.display()))?;
        Ok(Results {
            file,
            begun: Instant::now(),
            steps: 0,
            failed: 0,
        })
    }

    /// Adds a row, and tells the console.
    pub fn add(&mut self, row: &Row) -> anyhow::Result<()> {
        self.steps += 1;
        self.failed += usize::from(!row.ok);
        write_line(&mut self.file, row)?;
        println!(
            "[{:7.2}] {} {:4} {:24} {:42} {}",
            self.begun.elapsed().as_secs_f64(),
            if row.ok { "ok  " } else { "FAIL" },
            row.fs,
            row.group,
            row.step,
            row.got
        );
        Ok(())
    }

    /// Ends the file; whether every row was ok.
    pub fn finish(mut self) -> anyhow::Result<bool> {
        let steps = self.steps;
        write_line(&mut self.file, &End { done: true, steps })?;
        self.file.sync_all().ok();
        println!("{} steps, {} not as the contract says", steps, self.failed);
        Ok(self.failed == 0)
    }
}

/// Adds an object to a file of results, on a line of its own.
pub fn write_line(file: &mut File, value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    file.write_all(line.as_bytes())
        .context("cannot write the results")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_then_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        let mut results = Results::create(&path).unwrap();
        let row = Row {
            fs: "xfs".into(),
            ok: true,
            ..Row::default()
        };
        results.add(&row).unwrap();
        results.add(&Row { ok: false, ..row }).unwrap();
        assert!(!results.finish().unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with(r#"{"fs":"xfs","group":"","step":"","expected":"""#));
        assert_eq!(lines[2], r#"{"done":true,"steps":2}"#);
    }
}
