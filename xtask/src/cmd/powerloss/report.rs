// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guests report, and what it comes to.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What was found on a filesystem after a power loss.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Report {
    /// The number of the power loss.
    pub point: u64,
    /// The filesystem.
    pub fs: String,
    /// Files looked at.
    pub files: usize,
    /// Blocks that may have one content only.
    pub durable: usize,
    /// Others.
    pub pending: usize,
    /// Of these, those with parts of several.
    pub torn: usize,
    /// Pinned files that are where they were.
    pub pinned: usize,
    /// Workers to which an fsync had not returned.
    pub in_fsync: usize,
    /// Transfers under way.
    pub in_transfer: usize,
    /// What is not as it has to be.
    pub problems: Vec<String>,
}

/// The file that a guest writes its reports to.
pub struct Reports {
    path: PathBuf,
    seen: usize,
}

impl Reports {
    /// It need not be there yet.
    pub fn new(path: PathBuf) -> Reports {
        Reports { path, seen: 0 }
    }

    /// What is new. `None` stands for the empty line that says that the guest is ready.
    pub fn poll(&mut self) -> Result<Vec<Option<Report>>> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let new: Vec<&str> = whole.lines().skip(self.seen).collect();
        self.seen += new.len();
        let parse = |line: &str| match line {
            "" => Ok(None),
            line => serde_json::from_str(line)
                .map(Some)
                .with_context(|| format!("the guest reports {line:?}")),
        };
        new.into_iter().map(parse).collect()
    }
}

/// How a power was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// QEMU was stopped, and its memory copied.
    Stop,
    /// It was killed.
    Kill,
}

/// What came of all power losses, for one filesystem.
#[derive(Default)]
struct Sum {
    stops: usize,
    kills: usize,
    points_in_fsync: usize,
    points_in_transfer: usize,
    count: Report,
}

/// The same for all filesystems.
#[derive(Default)]
pub struct Tally {
    sums: BTreeMap<String, Sum>,
    /// What is not as it has to be.
    pub problems: Vec<String>,
    /// Power losses after which something was not.
    pub failed: usize,
}

impl Tally {
    /// Adds the reports of all filesystems after a power loss; whether everything is as it has to be.
    pub fn add(&mut self, loss: Loss, reports: &[Report]) -> bool {
        let mut good = true;
        for report in reports {
            let sum = self.sums.entry(report.fs.clone()).or_default();
            match loss {
                Loss::Stop => sum.stops += 1,
                Loss::Kill => sum.kills += 1,
            }
            sum.points_in_fsync += usize::from(report.in_fsync > 0);
            sum.points_in_transfer += usize::from(report.in_transfer > 0);
            let count = &mut sum.count;
            count.files += report.files;
            count.durable += report.durable;
            count.pending += report.pending;
            count.torn += report.torn;
            count.pinned += report.pinned;
            let what = match loss {
                Loss::Stop => "stop",
                Loss::Kill => "kill",
            };
            let line = |problem| format!("{}, {what} {}: {problem}", report.fs, report.point);
            self.problems.extend(report.problems.iter().map(line));
            good &= report.problems.is_empty();
        }
        self.failed += usize::from(!good);
        good
    }

    /// How many power losses there were, as each filesystem has seen them.
    pub fn losses(&self) -> usize {
        let all = self.sums.values().map(|sum| sum.stops + sum.kills);
        all.max().unwrap_or(0)
    }

    /// Lines for people.
    pub fn summary(&self) -> Vec<String> {
        let line = |(fs, sum): (&String, &Sum)| {
            let count = &sum.count;
            format!(
                "{fs}: {} stops and {} kills, {} of them during fsync, {} during a transfer into \
                 pinned memory; {} files with {} blocks that are durable and {} that may be ({} torn); \
                 {} pinned files where they were",
                sum.stops,
                sum.kills,
                sum.points_in_fsync,
                sum.points_in_transfer,
                count.files,
                count.durable,
                count.pending,
                count.torn,
                count.pinned
            )
        };
        self.sums.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"point":3,"fs":"xfs","files":2,"durable":9,"pending":1,"torn":1,"pinned":1,"in_fsync":1,"in_transfer":0,"problems":[],"milliseconds":12}"#;

    #[test]
    fn whole_lines_are_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports");
        let mut reports = Reports::new(path.clone());
        assert!(reports.poll().unwrap().is_empty());
        std::fs::write(&path, format!("\n{}", &LINE[..20])).unwrap();
        assert_eq!(reports.poll().unwrap(), [None]);
        std::fs::write(&path, format!("\n{LINE}\n")).unwrap();
        let new = reports.poll().unwrap();
        let report = new[0].as_ref().unwrap();
        assert_eq!((new.len(), report.point, report.durable), (1, 3, 9));
        assert!(reports.poll().unwrap().is_empty());
        std::fs::write(&path, format!("\n{LINE}\njunk\n")).unwrap();
        assert!(reports.poll().is_err());
    }

    #[test]
    fn a_problem_on_one_filesystem_fails_the_power_loss() {
        let good: Report = serde_json::from_str(LINE).unwrap();
        let bad = Report {
            fs: "ext4".into(),
            problems: vec!["0/a: gone".into()],
            ..good.clone()
        };
        let mut tally = Tally::default();
        assert!(tally.add(Loss::Stop, std::slice::from_ref(&good)));
        assert!(!tally.add(Loss::Kill, &[good, bad]));
        assert_eq!(tally.problems, ["ext4, kill 3: 0/a: gone"]);
        assert_eq!((tally.failed, tally.losses()), (1, 2));
        let lines = tally.summary();
        assert!(lines[1].starts_with("xfs: 1 stops and 1 kills, 2 of them during fsync, 0 during"));
        assert!(lines[1].contains("18 blocks that are durable and 2 that may be (2 torn)"));
    }
}
