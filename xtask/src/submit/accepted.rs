// SPDX-License-Identifier: MIT OR Apache-2.0
//! The findings that are accepted, each with its reason.

use super::finding::Finding;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use std::path::Path;

/// The file in `patches/`.
pub const FILE: &str = "lint-accepted";

/// A line of the file: `RULE WHERE REASON...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    line: usize,
    rule: String,
    place: String,
    reason: String,
}

impl Entry {
    fn covers(&self, f: &Finding) -> bool {
        let place = match self.place.strip_suffix('*') {
            Some(prefix) => f.file.starts_with(prefix),
            None if self.place.ends_with('/') => f.file.starts_with(&self.place),
            None => f.file == self.place,
        };
        self.rule == f.rule && place
    }
}

/// Reads the file; none at all accepts nothing.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    if !path.exists() {
        return Ok(vec![]);
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map_err(|e| Failure::of(Kind::Usage, format!("{}: {e}", path.display())))
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut out: Vec<Entry> = vec![];
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_default().to_string();
        let (rule, place) = (next(), next());
        let reason = words.collect::<Vec<_>>().join(" ");
        if reason.is_empty() {
            return Err(format!(
                "line {}: RULE, FILE and a reason are wanted",
                i + 1
            ));
        }
        if let Some(e) = out.iter().find(|e| e.rule == rule && e.place == place) {
            return Err(format!("lines {} and {} accept the same", e.line, i + 1));
        }
        out.push(Entry {
            line: i + 1,
            rule,
            place,
            reason,
        });
    }
    Ok(out)
}

/// What is left of the findings, and how many each entry took.
#[derive(Debug)]
pub struct Sorted<'a> {
    /// Not accepted.
    pub left: Vec<Finding>,
    /// In the order of the file.
    pub taken: Vec<(&'a Entry, usize)>,
}

/// Takes out what is accepted.
pub fn sort(findings: Vec<Finding>, entries: &[Entry]) -> Sorted<'_> {
    let mut taken: Vec<(&Entry, usize)> = entries.iter().map(|e| (e, 0)).collect();
    let left = findings
        .into_iter()
        .filter(|f| match taken.iter_mut().find(|(e, _)| e.covers(f)) {
            Some((_, n)) => {
                *n += 1;
                false
            }
            None => true,
        })
        .collect();
    Sorted { left, taken }
}

impl Sorted<'_> {
    /// Rows for a table: how often, what, where, why.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let used = self.taken.iter().filter(|(_, n)| *n > 0);
        used.map(|(e, n)| {
            vec![
                n.to_string(),
                e.rule.clone(),
                e.place.clone(),
                e.reason.clone(),
            ]
        })
        .collect()
    }

    /// Entries that nothing needed: findings as well, or the list only grows.
    pub fn stale(&self) -> Vec<Finding> {
        let unused = self.taken.iter().filter(|(_, n)| *n == 0);
        unused
            .map(|(e, _)| {
                let text = format!(
                    "nothing is found by {} in {}: remove the line",
                    e.rule, e.place
                );
                Finding::new(0, "accepted:stale", &format!("patches/{FILE}"), text).at(Some(e.line))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "# what\n\ncheckpatch:A fs/xfs/ XFS indents by tabs\ncheckpatch:B mm/a.c why\n\
                        checkpatch:C * all of them\n";

    #[test]
    fn a_line_without_reason_is_refused() {
        assert_eq!(parse(GOOD).unwrap().len(), 3);
        assert!(parse("checkpatch:A fs/xfs/\n")
            .unwrap_err()
            .contains("line 1"));
        let twice = format!("{GOOD}checkpatch:B mm/a.c another\n");
        assert!(parse(&twice).unwrap_err().contains("accept the same"));
    }

    #[test]
    fn what_is_accepted_is_taken_and_what_is_not_needed_is_told() {
        let entries = parse(GOOD).unwrap();
        let f = |rule: &str, file: &str| Finding::new(1, rule, file, "x");
        let s = sort(
            vec![
                f("checkpatch:A", "fs/xfs/xfs_file.c"),
                f("checkpatch:A", "fs/dax.c"),
                f("checkpatch:C", "message"),
            ],
            &entries,
        );
        let left: Vec<_> = s.left.iter().map(|f| f.file.as_str()).collect();
        assert_eq!(left, ["fs/dax.c"]);
        assert_eq!(s.rows().len(), 2);
        let stale = s.stale();
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].line, Some(4));
    }

    #[test]
    fn the_committed_list_is_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../patches/lint-accepted");
        assert!(!read(Path::new(path)).unwrap().is_empty());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn findings() -> impl Strategy<Value = Vec<Finding>> {
        let finding =
            ("a:[A-C]", "(fs|mm)/[a-c]").prop_map(|(rule, file)| Finding::new(1, rule, &file, "x"));
        vec(finding, 0..8)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn each_finding_is_left_or_taken_once(
            list in btree_map(("a:[A-C]", "\\*|fs/|mm/\\*|fs/[a-c]"), "[a-z][a-z ]{0,9}", 0..6),
            findings in findings(),
        ) {
            let text: String = list.iter().map(|((r, p), why)| format!("{r} {p}  {why}\n# x\n\n")).collect();
            let entries = parse(&text).unwrap();
            prop_assert_eq!(entries.len(), list.len());
            let sorted = sort(findings.clone(), &entries);
            let taken: usize = sorted.taken.iter().map(|(_, n)| n).sum();
            prop_assert_eq!(sorted.left.len() + taken, findings.len());
            prop_assert!(sorted.left.iter().all(|f| !entries.iter().any(|e| e.covers(f))));
            prop_assert_eq!(sorted.rows().len() + sorted.stale().len(), entries.len());
            // Accepting nothing, all is left.
            prop_assert_eq!(sort(findings.clone(), &[]).left, findings);
        }

        #[test]
        fn what_is_taken_has_a_reason(text in noise(&["checkpatch:A ", "fs/a.c ", "why\n", "# "])) {
            if let Ok(entries) = parse(&text) {
                prop_assert!(entries.iter().all(|e| !e.reason.is_empty() && !e.place.is_empty()));
            }
        }
    }
}
