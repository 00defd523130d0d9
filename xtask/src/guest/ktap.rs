// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reader of KTAP version 1 as kernels, kselftests and our own guest program write it.
//!
//! Nested subtests are two (or four) columns further in. A plan that promises more than there is
//! means the writer died: the missing results count as failures. So do a report without a plan and
//! one that ends in the middle of a line. What is known to fail (`TODO`, kselftest's `XFAIL`) is a
//! skip. A plan of no tests says why there are none: a skip, too.

use crate::report::{Case, Verdict};
use std::cmp::Ordering;

/// A level of nesting: a test and its subtests so far.
#[derive(Default)]
struct Level {
    indent: usize,
    name: Option<String>,
    plan: Option<usize>,
    seen: usize,
    cases: Vec<Case>,
}

impl Level {
    /// What the plan promised and did not come is a failure; so is what it did not promise.
    fn settle(&mut self) {
        let Some(plan) = self.plan.take() else { return };
        let (name, why) = match plan.cmp(&self.seen) {
            Ordering::Equal => return,
            Ordering::Greater => {
                let missing = plan - self.seen;
                let why = format!("{missing} of {plan} results are missing: the test died");
                ("missing results", why)
            }
            Ordering::Less => {
                let why = format!("{} results, the plan has {plan}", self.seen);
                ("too many results", why)
            }
        };
        self.cases.push(Case::new(name, Verdict::Fail, vec![why]));
    }

    fn finish(mut self) -> Vec<Case> {
        self.settle();
        self.cases
    }
}

/// Ends all levels further in than `indent`; gives their cases and the innermost known name.
fn leave(levels: &mut Vec<Level>, indent: usize) -> Option<(Option<String>, Vec<Case>)> {
    let mut inner: Option<(Option<String>, Vec<Case>)> = None;
    while levels.last().is_some_and(|l| l.indent > indent) {
        let Some(mut level) = levels.pop() else { break };
        if let Some((name, cases)) = inner.take() {
            // The line that would have ended the inner level never came.
            level
                .cases
                .extend(grouped(name.as_deref().unwrap_or_default(), cases));
        }
        inner = Some((level.name.clone(), level.finish()));
    }
    inner
}

/// The same where no line tells of the test as a whole: its cases go to the level around it.
fn abandon(levels: &mut Vec<Level>, indent: usize) {
    let inner = leave(levels, indent);
    if let (Some((name, cases)), Some(level)) = (inner, levels.last_mut()) {
        level
            .cases
            .extend(grouped(name.as_deref().unwrap_or_default(), cases));
    }
}

fn grouped(group: &str, cases: Vec<Case>) -> impl Iterator<Item = Case> + '_ {
    cases.into_iter().map(move |mut c| {
        if !group.is_empty() {
            c.name = format!("{group}: {}", c.name);
        }
        c
    })
}

/// Reads what `run_kselftest.sh` writes: the reports of its programs, with `# ` in front of each
/// line, are one level further in than its own results.
pub fn parse_kselftest(text: &str, origin: &str) -> Vec<Case> {
    let nested: String = text
        .split_inclusive('\n')
        .map(|line| match line.strip_prefix('#') {
            Some(rest) => format!("  {}", rest.strip_prefix(' ').unwrap_or(rest)),
            None => line.to_string(),
        })
        .collect();
    let mut cases = parse(&nested, "");
    for case in &mut cases {
        if let Some(name) = case.name.strip_prefix("selftests: ") {
            case.name = name.to_string();
        }
    }
    grouped(origin, cases).collect()
}

/// Reads a report; `origin` is put in front of every case's name.
pub fn parse(text: &str, origin: &str) -> Vec<Case> {
    let mut levels = vec![Level::default()];
    let mut diagnostics: Vec<String> = vec![];
    let (mut is_ktap, mut planned) = (false, false);
    for raw in text.lines() {
        let line = without_timestamp(raw);
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let version = body.starts_with("KTAP version") || body.starts_with("TAP version");
        let (plan, result) = (plan(body), result(body));
        let structural = version || plan.is_some() || result.is_some();
        is_ktap |= structural;
        if version || plan.is_some() {
            abandon(&mut levels, indent);
        }
        if structural && levels.last().is_some_and(|l| l.indent < indent) {
            levels.push(Level {
                indent,
                ..Level::default()
            });
        }
        let Some(level) = levels.last_mut() else {
            break;
        };
        if version {
            diagnostics.clear();
            if indent == 0 {
                // Another report in the same file does not make up for what the one before lacks.
                level.settle();
                level.seen = 0;
            }
        } else if plan.is_some() {
            planned |= indent == 0;
            level.plan = plan;
            if let Some(why) = skipped_plan(body) {
                let why = vec![why.to_string()];
                level.cases.push(Case::new("all", Verdict::Skip, why));
            }
        } else if let Some(name) = body.strip_prefix("# Subtest:") {
            level.name = Some(name.trim().to_string());
        } else if let Some(why) = body.strip_prefix("Bail out!") {
            is_ktap = true;
            level.cases.push(Case::new(
                "Bail out!",
                Verdict::Fail,
                vec![why.trim().into()],
            ));
        } else if let Some(r) = result {
            let inner = leave(&mut levels, indent);
            let Some(level) = levels.last_mut() else {
                break;
            };
            level.seen += 1;
            let mut detail = std::mem::take(&mut diagnostics);
            if let Some((_, cases)) = inner.filter(|(_, cases)| !cases.is_empty()) {
                // The line that sums up its subtests counts only if it tells what they do not.
                let late = r
                    .reason
                    .as_deref()
                    .is_some_and(|r| r.starts_with("TIMEOUT"));
                let told = !late && cases.iter().any(|c| c.verdict == Verdict::Fail);
                level.cases.extend(grouped(&r.name, cases));
                if r.verdict != Verdict::Fail || told {
                    continue;
                }
            }
            detail.splice(0..0, r.reason);
            level.cases.push(Case::new(&r.name, r.verdict, detail));
        } else if !body.is_empty() {
            diagnostics.push(body.strip_prefix("# ").unwrap_or(body).to_string());
        }
    }
    abandon(&mut levels, 0);
    let mut root = levels.pop().unwrap_or_default();
    let broken = if !is_ktap {
        Some("no KTAP at all: the test program did not start")
    } else if !planned {
        Some("no plan: the test program died before it said how many results there are")
    } else if !text.ends_with('\n') {
        Some("it ends in the middle of a line: the test program died")
    } else {
        None
    };
    if let Some(why) = broken {
        let why = vec![why.to_string()];
        root.cases.push(Case::new("report", Verdict::Fail, why));
    }
    grouped(origin, root.finish()).collect()
}

/// printk puts a time before what the kernel itself reports.
fn without_timestamp(line: &str) -> &str {
    let Some(rest) = line.strip_prefix('[') else {
        return line;
    };
    let Some((time, body)) = rest.split_once("] ") else {
        return line;
    };
    let is_time = !time.is_empty() && time.chars().all(|c| " .".contains(c) || c.is_ascii_digit());
    if is_time {
        body
    } else {
        line
    }
}

fn plan(body: &str) -> Option<usize> {
    body.strip_prefix("1..")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The reason in `1..0 # SKIP reason`.
fn skipped_plan(body: &str) -> Option<&str> {
    let (plan, directive) = body.split_once('#')?;
    let why = directive.trim_start();
    let is_skip = why.get(..4).is_some_and(|w| w.eq_ignore_ascii_case("SKIP"));
    (plan.trim() == "1..0" && is_skip).then(|| why[4..].trim_start_matches(':').trim())
}

struct Line {
    name: String,
    verdict: Verdict,
    reason: Option<String>,
}

fn result(body: &str) -> Option<Line> {
    let (ok, rest) = match body.strip_prefix("ok") {
        Some(r) => (true, r),
        None => (false, body.strip_prefix("not ok")?),
    };
    if !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    let (text, directive) = match rest.split_once('#') {
        Some((t, d)) => (t, d.trim()),
        None => (rest, ""),
    };
    let text = text.trim();
    let number = text.chars().take_while(char::is_ascii_digit).count();
    let name = text[number..].trim_start_matches([' ', '-']).trim();
    let word = directive
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    let reason = directive
        .get(word.len()..)
        .unwrap_or_default()
        .trim()
        .to_string();
    let (verdict, reason) = match (ok, word.as_str()) {
        (true, "SKIP" | "SKIP:") => (Verdict::Skip, Some(reason)),
        (false, "SKIP" | "SKIP:") => (Verdict::Skip, Some(reason)),
        (false, "TODO") | (_, "XFAIL") => (Verdict::Skip, Some(format!("known to fail: {reason}"))),
        (true, _) => (Verdict::Pass, None),
        (false, "") => (Verdict::Fail, None),
        (false, _) => (Verdict::Fail, Some(directive.to_string())),
    };
    let name = if name.is_empty() {
        format!("test {}", &text[..number])
    } else {
        name.into()
    };
    Some(Line {
        name,
        verdict,
        reason: reason.filter(|r| !r.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Fail, Pass, Skip};

    fn brief(text: &str) -> Vec<(String, Verdict)> {
        parse(text, "")
            .into_iter()
            .map(|c| (c.name, c.verdict))
            .collect()
    }

    fn case(name: &str, v: Verdict) -> (String, Verdict) {
        (name.into(), v)
    }

    #[test]
    fn flat_report() {
        let cases = brief("KTAP version 1\n1..3\nok 1 a\nnot ok 2 - b\nok 3 c # SKIP no device\n");
        assert_eq!(cases, [case("a", Pass), case("b", Fail), case("c", Skip)]);
    }

    #[test]
    fn nested_report_counts_leaves() {
        let text = "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: suite\n    1..2\n    \
            ok 1 a\n    # why it failed\n    not ok 2 b\nnot ok 1 suite\nok 2 alone\n";
        assert_eq!(
            brief(text),
            [
                case("suite: a", Pass),
                case("suite: b", Fail),
                case("alone", Pass)
            ]
        );
        assert_eq!(parse(text, "")[1].detail, ["why it failed"]);
    }

    #[test]
    fn kunit_suite_with_comments() {
        let text = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: file_pin\n    # module: x\n    \
            1..2\n    ok 1 insert\n    ok 2 overlap\n# file_pin: pass:2 fail:0 skip:0 total:2\n\
            # Totals: pass:2 fail:0 skip:0 total:2\nok 1 file_pin\n";
        assert_eq!(
            brief(text),
            [
                case("file_pin: insert", Pass),
                case("file_pin: overlap", Pass)
            ]
        );
    }

    #[test]
    fn parameterised_tests_nest_twice() {
        let text = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: s\n    1..2\n        \
            KTAP version 1\n        # Subtest: t\n        1..2\n        ok 1 p1\n        not ok 2 p2\n    \
            not ok 1 t\n    ok 2 u\nnot ok 1 s\n";
        let got = brief(text);
        assert_eq!(got.iter().filter(|c| c.1 == Fail).count(), 1, "{got:?}");
        assert_eq!(got.iter().filter(|c| c.1 == Pass).count(), 2, "{got:?}");
    }

    #[test]
    fn missing_results_are_failures() {
        let cases = brief("KTAP version 1\n1..3\nok 1 a\n");
        assert_eq!(cases, [case("a", Pass), case("missing results", Fail)]);
    }

    #[test]
    fn a_nested_writer_that_died_is_a_failure() {
        let text = "KTAP version 1\n1..1\n  KTAP version 1\n  # Subtest: s\n  1..2\n  ok 1 a\n";
        let got = brief(text);
        assert_eq!(got[0], case("s: a", Pass));
        assert!(
            got[1..].iter().all(|c| c.1 == Fail) && got.len() > 1,
            "{got:?}"
        );
    }

    #[test]
    fn todo_failures_are_skips_with_the_reason() {
        let cases = parse("TAP version 13\n1..1\nnot ok 1 x # TODO later\n", "");
        assert_eq!(cases[0].verdict, Skip);
        assert_eq!(cases[0].detail, ["known to fail: later"]);
    }

    #[test]
    fn timestamps_of_the_kernel_log_are_dropped() {
        let text = "[    1.000000] KTAP version 1\n[    1.0] 1..1\n[    1.1] ok 1 a\n";
        assert_eq!(brief(text), [case("a", Pass)]);
    }

    #[test]
    fn bail_out_and_nothing_at_all_are_failures() {
        assert_eq!(brief("KTAP version 1\nBail out! no device\n")[0].1, Fail);
        assert_eq!(brief("bash: guest: not found\n")[0].1, Fail);
    }

    #[test]
    fn a_group_that_failed_by_itself_is_a_failure() {
        let text = "KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\n# leaked memory\nnot ok 1 s\n";
        let got = brief(text);
        assert_eq!(got, [case("s: a", Pass), case("s", Fail)]);
    }

    #[test]
    fn the_origin_goes_in_front() {
        assert_eq!(
            parse("KTAP version 1\n1..1\nok 1 a\n", "guest")[0].name,
            "guest: a"
        );
    }

    const KSELFTEST: &str = "\
TAP version 13
1..2
# timeout set to 1800
# selftests: fs/a: a.sh
# TAP version 13
# 1..2
#   TAP version 13
#   1..3
#   # Starting 3 tests from 1 test cases.
#   #  RUN           one.first ...
#   #            OK  one.first
#   ok 1 one.first
#   #  RUN           one.second ...
#   # a.c:7:second:Expected 0 (0) == f() (-1)
#   #          FAIL  one.second
#   not ok 2 one.second
#   ok 3 one.third # XFAIL reported upstream
#   # FAILED: 2 / 3 tests passed.
#   # Totals: pass:1 fail:1 xfail:1 xpass:0 skip:0 error:0
# not ok 1 xfs.one
#   TAP version 13
#   1..0 # SKIP no gup_test
# ok 2 xfs.two # SKIP
# # Totals: pass:0 fail:1 xfail:0 xpass:0 skip:1 error:0
not ok 1 selftests: fs/a: a.sh # exit=1
# timeout set to 45
# selftests: fs/a: b
# TAP version 13
# 1..2
# ok 1 x
#
not ok 2 selftests: fs/a: b # TIMEOUT 45 seconds
# Totals: pass:0 fail:2 xfail:0 xpass:0 skip:0 error:0
";

    #[test]
    fn kselftest_nests_with_a_prefix() {
        let cases = parse_kselftest(KSELFTEST, "k");
        let brief: Vec<_> = cases.iter().map(|c| (c.name.as_str(), c.verdict)).collect();
        assert_eq!(
            brief,
            [
                ("k: fs/a: a.sh: xfs.one: one.first", Pass),
                ("k: fs/a: a.sh: xfs.one: one.second", Fail),
                ("k: fs/a: a.sh: xfs.one: one.third", Skip),
                ("k: fs/a: a.sh: xfs.two: all", Skip),
                ("k: fs/a: b: x", Pass),
                ("k: fs/a: b: missing results", Fail),
                ("k: fs/a: b", Fail),
            ]
        );
        assert!(cases[1].detail.iter().any(|l| l.contains("Expected 0")));
        assert_eq!(cases[2].detail, ["known to fail: reported upstream"]);
        assert_eq!(cases[3].detail, ["no gup_test"]);
        assert_eq!(cases[6].detail[0], "TIMEOUT 45 seconds");
    }

    #[test]
    fn a_plan_of_nothing_is_a_skip_with_its_reason() {
        let cases = parse("TAP version 13\n1..0 # SKIP no device\n", "");
        assert_eq!((cases.len(), cases[0].verdict), (1, Skip));
        assert_eq!(cases[0].detail, ["no device"]);
        assert!(parse("TAP version 13\n1..0\n", "").is_empty());
    }

    #[test]
    fn what_was_cut_off_has_not_passed() {
        assert_eq!(
            brief("KTAP version 1\n1..2\nok 1 a\nok 2 b"),
            [case("a", Pass), case("b", Pass), case("report", Fail)]
        );
        assert_eq!(brief("KTAP version 1\n"), [case("report", Fail)]);
        assert_eq!(
            brief("KTAP version 1\nok 1 a\n"),
            [case("a", Pass), case("report", Fail)]
        );
        let first = "KTAP version 1\n1..2\nok 1 a\n";
        assert_eq!(
            brief(&format!("{first}KTAP version 1\n1..1\nok 1 b\n")),
            [
                case("a", Pass),
                case("missing results", Fail),
                case("b", Pass)
            ]
        );
    }

    #[test]
    fn a_result_that_was_not_planned_is_a_failure() {
        assert_eq!(
            brief("KTAP version 1\n1..1\nok 1 a\nok 2 b\n")[2],
            case("too many results", Fail)
        );
    }

    #[test]
    fn a_kselftest_runner_that_died_is_a_failure() {
        let cut = &KSELFTEST[..KSELFTEST.find("not ok 1 selftests").unwrap()];
        let cases = parse_kselftest(cut, "k");
        assert!(cases
            .iter()
            .any(|c| c.verdict == Fail && c.name.contains("missing")));
        assert_eq!(parse_kselftest("sh: not found\n", "k")[0].verdict, Fail);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    /// A test, or a group of them.
    #[derive(Clone, Debug)]
    enum Node {
        Test(Verdict, String),
        Group(Vec<Node>),
    }

    fn node() -> impl Strategy<Value = Node> {
        let verdict = select(&[Verdict::Pass, Verdict::Fail, Verdict::Skip][..]);
        let test = (verdict, "[a-z ]{0,6}").prop_map(|(v, why)| Node::Test(v, why));
        test.prop_recursive(3, 12, 4, |inner| vec(inner, 1..4).prop_map(Node::Group))
    }

    fn report() -> impl Strategy<Value = Vec<Node>> {
        vec(node(), 1..5)
    }

    /// Writes the tests as the kernel does; gives the results that a reader has to find.
    fn write(
        nodes: &[Node],
        columns: usize,
        depth: usize,
        out: &mut String,
    ) -> Vec<(String, Verdict)> {
        let margin = " ".repeat(columns * depth);
        out.push_str(&format!(
            "{margin}KTAP version 1\n{margin}1..{}\n",
            nodes.len()
        ));
        let mut found = vec![];
        for (n, node) in nodes.iter().enumerate() {
            let name = format!("t{n}");
            let line = |ok: &str, rest: &str| format!("{margin}{ok} {} {name}{rest}\n", n + 1);
            match node {
                Node::Test(verdict, why) => {
                    out.push_str(&match verdict {
                        Verdict::Pass => line("ok", ""),
                        Verdict::Fail => format!("{margin}# {why}\n{}", line("not ok", "")),
                        Verdict::Skip => line("ok", &format!(" # SKIP {why}")),
                    });
                    found.push((name, *verdict));
                }
                Node::Group(inner) => {
                    let inner = write(inner, columns, depth + 1, out);
                    let failed = inner.iter().any(|(_, v)| *v == Verdict::Fail);
                    out.push_str(&line(if failed { "not ok" } else { "ok" }, ""));
                    found.extend(inner.into_iter().map(|(n, v)| (format!("{name}: {n}"), v)));
                }
            }
        }
        found
    }

    fn brief(cases: Vec<Case>) -> Vec<(String, Verdict)> {
        cases.into_iter().map(|c| (c.name, c.verdict)).collect()
    }

    fn fails(cases: &[Case]) -> bool {
        cases.iter().any(|c| c.verdict == Verdict::Fail)
    }

    /// As the kernel's runner prints a program's report.
    fn kselftest(report: &str, failed: bool) -> String {
        let inner: String = report.lines().map(|l| format!("# {l}\n")).collect();
        let verdict = if failed { "not ok" } else { "ok" };
        format!("TAP version 13\n1..1\n# selftests: d: p\n{inner}{verdict} 1 selftests: d: p\n")
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_result_is_read_back(nodes in report(), columns in select(&[2usize, 4][..])) {
            let mut text = String::new();
            let found = write(&nodes, columns, 0, &mut text);
            prop_assert_eq!(brief(parse(&text, "")), found.clone());
            let failed = found.iter().any(|(_, v)| *v == Verdict::Fail);
            let wrapped = brief(parse_kselftest(&kselftest(&text, failed), ""));
            let named = found.into_iter().map(|(n, v)| (format!("d: p: {n}"), v));
            prop_assert_eq!(wrapped, named.collect::<Vec<_>>());
        }

        #[test]
        fn a_report_that_was_cut_off_has_not_passed(nodes in report(), at in any::<Index>()) {
            let mut text = String::new();
            let found = write(&nodes, 4, 0, &mut text);
            let failed = found.iter().any(|(_, v)| *v == Verdict::Fail);
            let wrapped = kselftest(&text, failed);
            prop_assert!(fails(&parse(cut(&text, at), "")));
            prop_assert!(fails(&parse_kselftest(cut(&wrapped, at), "")));
            // Nor does a whole report after it make it good.
            let lines = cut(&text, at).lines().count().saturating_sub(1);
            let whole_lines: String = text.split_inclusive('\n').take(lines).collect();
            let again = format!("{whole_lines}KTAP version 1\n1..1\nok 1 x\n");
            prop_assert!(whole_lines.lines().count() < 2 || fails(&parse(&again, "")));
        }

        #[test]
        fn what_comes_in_between_does_not_matter(
            nodes in report(),
            lines in vec(("[A-Z][a-z:.=]{0,12}", any::<Index>()), 0..6),
        ) {
            let mut text = String::new();
            let found = write(&nodes, 4, 0, &mut text);
            let mut all: Vec<String> = text.lines().map(str::to_string).collect();
            for (line, at) in lines {
                let at = at.index(all.len() + 1);
                all.insert(at, format!("# {line}"));
            }
            prop_assert_eq!(brief(parse(&(all.join("\n") + "\n"), "")), found);
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "ok", "not ok", "ok 1 a", "1..3", "1..0", "KTAP version 1\n", "TAP version 13\n",
            "# SKIP", "# Subtest: ", "Bail out!", "[ 1.0] ", "# TODO", "XFAIL", "\nnot ok 2 - b #",
        ])) {
            let cases = parse(&text, "x");
            prop_assert!(cases.iter().all(|c| c.name.starts_with("x: ")));
            parse_kselftest(&text, "");
        }
    }
}
