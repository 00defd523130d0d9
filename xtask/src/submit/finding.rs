// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a check has to say about a patch, and the table of it.

use super::commits::Commit;
use crate::ui::table;

/// Where a finding is that concerns the message of a commit.
pub const MESSAGE: &str = "message";

/// A complaint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The patch; 0 stands for the series as a whole.
    pub patch: usize,
    /// The check and its kind of complaint, such as `checkpatch:LINE_SPACING`.
    pub rule: String,
    /// The file, or [`MESSAGE`].
    pub file: String,
    /// The line in it, where known.
    pub line: Option<usize>,
    /// What is wrong.
    pub text: String,
}

impl Finding {
    /// About a line of a file, or of the message.
    pub fn new(patch: usize, rule: impl Into<String>, file: &str, text: impl Into<String>) -> Self {
        Finding {
            patch,
            rule: rule.into(),
            file: file.into(),
            line: None,
            text: text.into(),
        }
    }

    /// With the line.
    pub fn at(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    /// `FILE:LINE`.
    pub fn place(&self) -> String {
        match self.line {
            Some(n) => format!("{}:{n}", self.file),
            None => self.file.clone(),
        }
    }
}

/// The findings under the subjects of the patches they are about.
pub fn table(findings: &[Finding], commits: &[&Commit]) -> Vec<String> {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort();
    let mut out = vec![];
    for group in sorted.chunk_by(|a, b| a.patch == b.patch) {
        let number = group[0].patch;
        let subject = commits
            .iter()
            .find(|c| c.number == number)
            .map_or("the series as a whole", |c| c.subject.as_str());
        out.push(match number {
            0 => subject.to_string(),
            n => format!("{n:04} {subject}"),
        });
        let rows: Vec<Vec<String>> = group
            .iter()
            .map(|f| vec![f.place(), f.rule.clone(), f.text.clone()])
            .collect();
        out.extend(table::layout(&rows, 2));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::commits::tests::commit;
    use super::*;

    #[test]
    fn findings_are_grouped_by_patch() {
        let c = [commit(2, "mm: two", ""), commit(3, "mm: three", "")];
        let c: Vec<&Commit> = c.iter().collect();
        let f = [
            Finding::new(3, "message:subject", MESSAGE, "too long"),
            Finding::new(2, "checkpatch:X", "mm/a.c", "bad").at(Some(7)),
            Finding::new(0, "maintainers", "mm/b.c", "nobody"),
        ];
        assert_eq!(
            table(&f, &c),
            [
                "the series as a whole",
                "  mm/b.c  maintainers  nobody",
                "0002 mm: two",
                "  mm/a.c:7  checkpatch:X  bad",
                "0003 mm: three",
                "  message  message:subject  too long",
            ]
        );
    }
}
