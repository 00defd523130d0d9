// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test results of every kind, in one form: counted, printed, written as JUnit XML.

pub mod junit;
pub mod libtest;
pub mod markup;
pub mod tally;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// Not as it must be.
    Fail,
    /// Not tried, for a reason that is given.
    Skip,
}

/// One counted test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name, with that of the suite in front.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it failed or was skipped.
    pub detail: Vec<String>,
}

impl Case {
    /// A case.
    pub fn new(name: &str, verdict: Verdict, detail: Vec<String>) -> Self {
        Case {
            name: name.to_string(),
            verdict,
            detail,
        }
    }

    /// A check that is a test of its own, from its result.
    pub fn check(name: &str, result: &anyhow::Result<()>) -> Self {
        match result {
            Ok(()) => Case::new(name, Verdict::Pass, vec![]),
            Err(e) => {
                let text = crate::error::text(e);
                Case::new(
                    name,
                    Verdict::Fail,
                    text.lines().map(str::to_string).collect(),
                )
            }
        }
    }
}
