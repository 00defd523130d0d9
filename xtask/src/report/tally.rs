// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting, and what a person reads at the end.

use super::{Case, Verdict};

/// Lines of diagnostics shown for one failure.
const DETAIL: usize = 25;

/// All results of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// In the order they came.
    pub cases: Vec<Case>,
}

impl Tally {
    /// Adds results.
    pub fn add(&mut self, cases: impl IntoIterator<Item = Case>) {
        self.cases.extend(cases);
    }

    /// How many ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|c| c.verdict == verdict).count()
    }

    /// The closing line.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::Skip)
        )
    }

    /// Skips with their reasons, then failures with their diagnostics, then the closing line.
    pub fn report(&self) -> Vec<String> {
        let mut out = vec![];
        for c in self.cases.iter().filter(|c| c.verdict == Verdict::Skip) {
            let reason = c.detail.first().map_or("no reason given", String::as_str);
            out.push(format!("skipped: {}: {reason}", c.name));
        }
        for c in self.cases.iter().filter(|c| c.verdict == Verdict::Fail) {
            out.push(format!("FAILED: {}", c.name));
            let left_out = c.detail.len().saturating_sub(DETAIL);
            if left_out > 0 {
                out.push(format!("    ({left_out} lines left out)"));
            }
            out.extend(c.detail[left_out..].iter().map(|l| format!("    {l}")));
        }
        out.push(self.summary());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_is_the_last_and_counts_all() {
        let mut t = Tally::default();
        t.add([
            Case::new("a", Verdict::Pass, vec![]),
            Case::new("b", Verdict::Skip, vec!["no device".into()]),
            Case::new("c", Verdict::Fail, vec!["want 1".into(), "got 2".into()]),
        ]);
        assert_eq!(
            t.report(),
            [
                "skipped: b: no device",
                "FAILED: c",
                "    want 1",
                "    got 2",
                "1 passed, 1 failed, 1 skipped"
            ]
        );
    }

    #[test]
    fn long_diagnostics_keep_their_end() {
        let mut t = Tally::default();
        t.add([Case::new(
            "a",
            Verdict::Fail,
            (0..100).map(|n| n.to_string()).collect(),
        )]);
        let r = t.report();
        assert_eq!(r[1], "    (75 lines left out)");
        assert_eq!(r[r.len() - 2], "    99");
    }
}
