// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads what `cargo test` writes.

use super::{Case, Verdict};

/// The tests in the output of `cargo test`; names get the test binary's in front.
///
/// A binary that counts more tests in its closing line than it named, or that never came to a
/// closing line, is a failure of its own.
pub fn parse(output: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    let mut binary = String::new();
    let mut announced: Option<usize> = None;
    let mut first = 0;
    let mut collecting: Option<String> = None;
    for line in output.lines() {
        let text = line.trim();
        if let Some(b) = running(text) {
            unfinished(&mut cases, &binary, announced.take());
            binary = b;
        } else if let Some(n) = text.strip_prefix("running ").and_then(|r| {
            r.strip_suffix(" tests")
                .or_else(|| r.strip_suffix(" test"))?
                .parse::<usize>()
                .ok()
        }) {
            announced = Some(n);
            first = cases.len();
        } else if let Some((name, verdict)) = test_line(text) {
            let mut case = Case::new(&format!("{binary}: {name}"), verdict, vec![]);
            if verdict == Verdict::Skip {
                let reason = text.split_once("... ignored").map_or("", |(_, r)| r);
                let reason = reason.trim_start_matches(',').trim();
                case.detail
                    .push(if reason.is_empty() { "ignored" } else { reason }.to_string());
            }
            cases.push(case);
        } else if let Some(name) = text
            .strip_prefix("---- ")
            .and_then(|t| t.strip_suffix(" ----"))
            .and_then(|t| {
                t.strip_suffix(" stdout")
                    .or_else(|| t.strip_suffix(" stderr"))
            })
        {
            collecting = Some(format!("{binary}: {name}"));
        } else if text == "failures:" {
            collecting = None;
        } else if let Some(totals) = text.strip_prefix("test result: ") {
            collecting = None;
            announced = None;
            let counted = count(totals);
            let of = |v: Verdict| cases[first..].iter().filter(|c| c.verdict == v).count();
            let named = [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(of);
            if counted != named {
                let [ran, named] = [counted, named].map(|n| n.iter().sum::<usize>());
                let why = format!("{ran} tests ran, {named} were named: {totals}");
                cases.push(Case::new(
                    &format!("{binary}: results"),
                    Verdict::Fail,
                    vec![why],
                ));
            }
        } else if let Some(name) = &collecting {
            if let Some(c) = cases.iter_mut().rev().find(|c| c.name == *name) {
                if !text.is_empty() {
                    c.detail.push(line.to_string());
                }
            }
        }
    }
    unfinished(&mut cases, &binary, announced);
    cases
}

fn unfinished(cases: &mut Vec<Case>, binary: &str, announced: Option<usize>) {
    if announced.is_some() {
        let why = "it ended before its closing line".to_string();
        cases.push(Case::new(
            &format!("{binary}: results"),
            Verdict::Fail,
            vec![why],
        ));
    }
}

/// The name of the binary in cargo's announcement.
fn running(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix("Running ") {
        let path = rest
            .split_once('(')
            .map_or(rest, |(_, p)| p.trim_end_matches(')'));
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.rsplit_once('-').map_or(file, |(n, _)| n);
        return Some(name.to_string());
    }
    text.strip_prefix("Doc-tests ")
        .map(|n| format!("{n} documentation"))
}

fn test_line(text: &str) -> Option<(&str, Verdict)> {
    let (name, end) = text.strip_prefix("test ")?.rsplit_once(" ... ")?;
    // `should panic` and the like are remarks on the name.
    let name = name.split(" - should panic").next().unwrap_or(name);
    if end == "ok" || end.starts_with("ok ") {
        Some((name, Verdict::Pass))
    } else if end.starts_with("FAILED") {
        Some((name, Verdict::Fail))
    } else if end.starts_with("ignored") {
        Some((name, Verdict::Skip))
    } else {
        None
    }
}

/// Tests counted in `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`: those three.
fn count(totals: &str) -> [usize; 3] {
    let number = |what: &str| -> usize {
        let part = totals.split(['.', ';']).find(|p| p.trim().ends_with(what));
        part.and_then(|p| p.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    ["passed", "failed", "ignored"].map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
   Compiling xtask v0.1.0
     Running unittests src/main.rs (target/debug/deps/xtask-0a1b2c3d)

running 3 tests
test a::works ... ok
test b::fails ... FAILED
test c::later ... ignored, needs a guest

failures:

---- b::fails stdout ----
thread 'b::fails' panicked at src/b.rs:1:1:
boom

failures:
    b::fails

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests layout_lease

running 1 test
test src/lib.rs - (line 3) - compile ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn every_test_is_found_with_its_diagnostics() {
        let c = parse(OUTPUT);
        let brief: Vec<_> = c.iter().map(|c| (c.name.as_str(), c.verdict)).collect();
        assert_eq!(
            brief,
            [
                ("xtask: a::works", Verdict::Pass),
                ("xtask: b::fails", Verdict::Fail),
                ("xtask: c::later", Verdict::Skip),
                (
                    "layout_lease documentation: src/lib.rs - (line 3) - compile",
                    Verdict::Pass
                ),
            ]
        );
        assert!(c[1].detail.iter().any(|l| l == "boom"));
        assert_eq!(c[2].detail, ["needs a guest"]);
    }

    #[test]
    fn a_binary_that_died_is_a_failure() {
        let cut = &OUTPUT[..OUTPUT.find("test b::fails").unwrap()];
        let c = parse(cut);
        assert_eq!(c.last().unwrap().verdict, Verdict::Fail);
    }

    #[test]
    fn a_failure_that_is_counted_and_not_named_is_one() {
        let c = parse(&OUTPUT.replace("b::fails ... FAILED", "b::fails ... ok"));
        assert!(c.iter().any(|c| c.verdict == Verdict::Fail));
    }

    #[test]
    fn lines_lost_in_other_output_show_in_the_count() {
        let c = parse(&OUTPUT.replace("test a::works ... ok\n", "noise"));
        assert!(c
            .iter()
            .any(|c| c.name == "xtask: results" && c.verdict == Verdict::Fail));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    type Binary = Vec<Verdict>;

    fn binaries() -> impl Strategy<Value = Vec<Binary>> {
        let verdict = select(&[Verdict::Pass, Verdict::Pass, Verdict::Fail, Verdict::Skip][..]);
        vec(vec(verdict, 1..6), 1..4)
    }

    /// What cargo prints; and the results in it.
    fn write(binaries: &[Binary]) -> (String, Vec<(String, Verdict)>) {
        let (mut out, mut found) = (String::new(), vec![]);
        for (b, tests) in binaries.iter().enumerate() {
            out.push_str(&format!(
                "     Running unittests src/lib.rs (target/debug/deps/b{b}-0a1b)\n\nrunning {} tests\n",
                tests.len()
            ));
            for (t, verdict) in tests.iter().enumerate() {
                let word = match verdict {
                    Verdict::Pass => "ok",
                    Verdict::Fail => "FAILED",
                    Verdict::Skip => "ignored, why",
                };
                out.push_str(&format!("test m::t{t} ... {word}\n"));
                found.push((format!("b{b}: m::t{t}"), *verdict));
            }
            let count = |v| tests.iter().filter(|t| **t == v).count();
            let failed = count(Verdict::Fail);
            let word = if failed == 0 { "ok" } else { "FAILED" };
            out.push_str(&format!(
                "\ntest result: {word}. {} passed; {failed} failed; {} ignored; 0 measured; \
                 0 filtered out; finished in 0.00s\n\n",
                count(Verdict::Pass),
                count(Verdict::Skip)
            ));
        }
        (out, found)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_result_is_read_back(binaries in binaries()) {
            let (text, found) = write(&binaries);
            let read: Vec<_> = parse(&text).into_iter().map(|c| (c.name, c.verdict)).collect();
            prop_assert_eq!(read, found);
        }

        #[test]
        fn a_binary_that_was_cut_off_has_not_passed(binary in vec(Just(Verdict::Pass), 1..6), at in any::<Index>()) {
            let (text, _) = write(&[binary]);
            let begin = text.find("running").unwrap() + "running 1 tests\n".len();
            let end = text.find("; 0 failed").unwrap();
            let at = begin + at.index(end - begin);
            prop_assert!(parse(&text[..at]).iter().any(|c| c.verdict == Verdict::Fail));
        }

        #[test]
        fn a_line_that_was_lost_is_missed(binaries in binaries(), at in any::<Index>()) {
            let (text, found) = write(&binaries);
            let at = at.index(found.len());
            let lost = text.lines().filter(|l| l.starts_with("test m")).nth(at).unwrap();
            let first = text.match_indices(lost).next().unwrap().0;
            let text = format!("{}{}", &text[..first], &text[first + lost.len()..]);
            prop_assert!(parse(&text).iter().any(|c| c.verdict == Verdict::Fail));
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "running 3 tests\n", "test a ... ok\n", "test b ... FAILED\n", "test result: ok. ",
            "1 passed", "; 0 failed", "---- a stdout ----\n", "failures:\n", "Running x (",
            "Doc-tests y", "test ", " ... ", "ignored,", " - should panic",
        ])) {
            parse(&text);
        }
    }
}
