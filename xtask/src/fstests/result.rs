// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of the tests: read from what `check` prints and from the guest's console.

use crate::guest::watchdog::judge;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a test ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it must.
    Pass,
    /// Its output was wrong, the filesystem was, or the kernel's log.
    Fail,
    /// It found that it could not run here, and said why.
    NotRun,
    /// An exclude list names it, with the reason.
    Excluded,
    /// The kernel died or stopped answering in it.
    Crash,
}

impl Verdict {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::NotRun => "not run",
            Verdict::Excluded => "excluded",
            Verdict::Crash => "CRASH",
        }
    }

    /// Does that need somebody's attention?
    pub fn is_bad(self) -> bool {
        matches!(self, Verdict::Fail | Verdict::Crash)
    }
}

/// One test, run once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Why: the difference of its output, the reason it was not run, the end of the console.
    pub detail: Vec<String>,
    /// How long it took, as far as the console tells.
    pub seconds: Option<f64>,
}

/// Outcomes by test.
pub type Outcomes = BTreeMap<String, Outcome>;

/// What `check` printed.
#[derive(Debug, Default, PartialEq)]
pub struct Printed {
    /// Tests that have ended.
    pub ended: Vec<(String, Verdict, Vec<String>)>,
    /// The one that had begun and not ended.
    pub begun: Option<String>,
}

/// The test's name, if this is the line it begins with, and the rest of the line.
fn beginning(line: &str) -> Option<(&str, &str)> {
    let end = line.find([' ', '\t', '[']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    is_test(name).then_some((name, rest))
}

/// Is that the name of a test: `generic/001`?
pub fn is_test(name: &str) -> bool {
    name.split_once('/').is_some_and(|(dir, number)| {
        !dir.is_empty()
            && dir
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && (3..=4).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Leaves out how long the test took last time: ` 12s ... `.
fn without_last_time(rest: &str) -> &str {
    match rest.split_once("s ...") {
        Some((n, after)) if n.trim().parse::<u32>().is_ok() => after,
        _ => rest,
    }
}

/// ` 12s`: all that is printed about a test that has passed.
fn is_time(text: &str) -> bool {
    text.trim()
        .strip_suffix('s')
        .is_some_and(|n| n.parse::<u32>().is_ok())
}

fn judge_entry(first: &str, more: &[&str]) -> (Verdict, Vec<String>) {
    if more.is_empty() && is_time(first) {
        return (Verdict::Pass, vec![]);
    }
    let text = first.trim();
    let detail = |first: &str| -> Vec<String> {
        std::iter::once(first)
            .chain(more.iter().copied())
            .map(|l| l.trim_end().to_string())
            .filter(|l| !l.is_empty())
            .collect()
    };
    if let Some(why) = text.strip_prefix("[not run]") {
        return (Verdict::NotRun, detail(why.trim()));
    }
    if text.starts_with("[expunged]") {
        return (Verdict::Excluded, detail(text));
    }
    (Verdict::Fail, detail(text))
}

/// Reads what `check` has printed so far. What it sums up at the end is left out.
pub fn parse_check(text: &str) -> Printed {
    let mut printed = Printed::default();
    let mut entry: Option<(&str, &str, Vec<&str>)> = None;
    let mut finished = false;
    let mut end = |e: Option<(&str, &str, Vec<&str>)>| {
        if let Some((name, first, more)) = e {
            let (verdict, detail) = judge_entry(first, &more);
            printed.ended.push((name.to_string(), verdict, detail));
        }
    };
    for line in text.lines() {
        if let Some((name, rest)) = beginning(line) {
            end(entry.take());
            entry = Some((name, without_last_time(rest), vec![]));
        } else if line.starts_with("Ran: ") || line.starts_with("Interrupted!") {
            finished = line.starts_with("Ran: ");
            break;
        } else if let Some((_, _, more)) = &mut entry {
            more.push(line);
        }
    }
    // The last one has ended if there is something said of it that only comes at its end.
    match entry {
        Some((name, first, more)) => {
            let quiet = first.trim().is_empty() && more.iter().all(|l| l.trim().is_empty());
            if finished || (!quiet && text.ends_with('\n')) {
                end(Some((name, first, more)));
            } else {
                printed.begun = Some(name.to_string());
            }
        }
        None => printed.begun = None,
    }
    printed
}

/// What the console says of one test.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When it began, in seconds since the boot.
    pub began: f64,
    /// When the last line came.
    pub last: f64,
    /// Lines in which the kernel complains.
    pub complaints: Vec<String>,
    /// The last lines.
    pub tail: Vec<String>,
}

/// Lines of the console that are kept of a test.
const TAIL: usize = 60;

/// Cuts the console at the lines that `check` has put there.
pub fn parse_console(text: &str) -> Vec<(String, Heard)> {
    let mut tests: Vec<(String, Heard)> = vec![];
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        let time = timestamp(line);
        if let Some(name) = line.split_once("run fstests ").map(|(_, r)| r) {
            let name = name.split(' ').next().unwrap_or_default();
            if is_test(name) {
                let at = time.unwrap_or_default();
                if let Some((_, before)) = tests.last_mut() {
                    before.last = at;
                }
                let heard = Heard {
                    began: at,
                    last: at,
                    ..Heard::default()
                };
                tests.push((name.to_string(), heard));
                continue;
            }
        }
        let Some((_, heard)) = tests.last_mut() else {
            continue;
        };
        heard.last = time.unwrap_or(heard.last);
        if judge(line).is_some() {
            heard.complaints.push(line.to_string());
        }
        if heard.tail.len() == TAIL {
            heard.tail.remove(0);
        }
        heard.tail.push(line.to_string());
    }
    tests
}

/// The time that printk puts in front of a line.
fn timestamp(line: &str) -> Option<f64> {
    let (time, _) = line.strip_prefix('[')?.split_once(']')?;
    let time: f64 = time.trim().parse().ok()?;
    time.is_finite().then_some(time)
}

/// Puts together what `check` and the console say of one session. With `trouble`, the session ended
/// early, and the test that was running is why.
pub fn outcomes(check: &str, console: &str, trouble: Option<&str>) -> Outcomes {
    let printed = parse_check(check);
    let heard: BTreeMap<String, Heard> = parse_console(console).into_iter().collect();
    let seconds = |name: &str| heard.get(name).map(|h| h.last - h.began);
    let mut all = Outcomes::new();
    let mut add = |name: String, verdict, detail| {
        let seconds = seconds(&name);
        all.insert(
            name,
            Outcome {
                verdict,
                detail,
                seconds,
            },
        );
    };
    for (name, verdict, mut detail) in printed.ended {
        if let Some(h) = heard.get(&name) {
            if verdict.is_bad() {
                detail.extend(h.complaints.iter().cloned());
            }
        }
        add(name, verdict, detail);
    }
    if let (Some(name), Some(why)) = (printed.begun, trouble) {
        let mut detail = vec![why.to_string()];
        if let Some(h) = heard.get(&name) {
            detail.extend(h.tail.iter().cloned());
        }
        add(name, Verdict::Crash, detail);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: &str = "\
FSTYP         -- xfs (debug)
MKFS_OPTIONS  -- -f /dev/pmem1

generic/001        4s
generic/002 5s ...  6s
generic/003       [not run] this kernel has no layout leases
generic/004 2s ... - output mismatch (see /r/generic/004.out.bad)
    --- tests/generic/004.out
    +++ /r/generic/004.out.bad
    @@ -1 +1 @@
    -a
    +generic/001 looks like a test
    ...
generic/005 _check_dmesg: something found in dmesg (see /r/generic/005.dmesg)

generic/1006       [failed, exit status 1]- output mismatch (see x)
generic/007       [expunged]
";

    fn verdicts(p: &Printed) -> Vec<(&str, Verdict)> {
        p.ended.iter().map(|(n, v, _)| (n.as_str(), *v)).collect()
    }

    #[test]
    fn every_kind_of_end_is_known() {
        use Verdict::{Excluded, Fail, NotRun, Pass};
        let p = parse_check(&format!("{CHECK}Ran: generic/001 generic/002\n"));
        assert_eq!(
            verdicts(&p),
            [
                ("generic/001", Pass),
                ("generic/002", Pass),
                ("generic/003", NotRun),
                ("generic/004", Fail),
                ("generic/005", Fail),
                ("generic/1006", Fail),
                ("generic/007", Excluded),
            ]
        );
        assert_eq!(p.begun, None);
        assert_eq!(p.ended[2].2, ["this kernel has no layout leases"]);
        assert!(p.ended[3].2.iter().any(|l| l.trim() == "-a"));
    }

    #[test]
    fn the_test_that_was_running_is_known() {
        let p = parse_check(&format!("{CHECK}generic/008 3s ... "));
        assert_eq!(p.ended.len(), 7);
        assert_eq!(p.begun.as_deref(), Some("generic/008"));
        assert_eq!(
            parse_check("generic/009       ").begun.as_deref(),
            Some("generic/009")
        );
        assert_eq!(parse_check("generic/009        7s\n").begun, None);
        assert_eq!(parse_check("").begun, None);
    }

    const CONSOLE: &str = "\
[    9.0] Linux version 7.3.4
[   10.5] run fstests generic/001 at 2026-01-01 00:00:00
[   11.0] XFS (pmem0): Mounting V5 Filesystem
[   14.0] run fstests generic/008 at 2026-01-01 00:00:04\r
[   15.0] WARNING: CPU: 0 PID: 1 at fs/dax.c:1
[   16.0] Kernel panic - not syncing: x
";

    #[test]
    fn the_console_is_cut_into_tests() {
        let t = parse_console(CONSOLE);
        assert_eq!(t.len(), 2);
        assert_eq!((t[0].1.began, t[0].1.last), (10.5, 14.0));
        assert_eq!(t[1].1.complaints.len(), 2);
    }

    #[test]
    fn what_is_no_number_is_no_time() {
        for time in ["nan", "inf", "-infinity", "x"] {
            assert_eq!(
                timestamp(&format!("[{time}] run fstests generic/001")),
                None
            );
        }
        assert_eq!(timestamp("[    1.5] x"), Some(1.5));
    }

    #[test]
    fn a_crash_is_that_of_the_test_that_was_running() {
        let all = outcomes(
            "generic/001        4s\ngeneric/008       ",
            CONSOLE,
            Some("the kernel is in trouble: Kernel panic"),
        );
        assert_eq!(all["generic/001"].verdict, Verdict::Pass);
        assert_eq!(all["generic/001"].seconds, Some(3.5));
        let crash = &all["generic/008"];
        assert_eq!(crash.verdict, Verdict::Crash);
        assert!(crash
            .detail
            .iter()
            .any(|l| l.contains("Kernel panic - not")));
    }

    #[test]
    fn an_interrupted_run_blames_nobody() {
        let all = outcomes("generic/001        4s\ngeneric/008       ", CONSOLE, None);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["generic/001"]);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    const KINDS: [Verdict; 4] = [
        Verdict::Pass,
        Verdict::Fail,
        Verdict::NotRun,
        Verdict::Excluded,
    ];

    /// Tests in order, how they ended, and whether they had been run before.
    fn run() -> impl Strategy<Value = Vec<(Verdict, bool, u32)>> {
        vec((select(&KINDS[..]), any::<bool>(), 0u32..2000), 1..8)
    }

    fn name(n: usize) -> String {
        format!("generic/{:03}", n * 7 + 1)
    }

    /// What `check` prints up to its closing lines.
    fn write(run: &[(Verdict, bool, u32)]) -> String {
        let mut out = String::from("FSTYP         -- xfs (debug)\nMOUNT_OPTIONS -- -o dax\n\n");
        for (n, (verdict, before, seconds)) in run.iter().enumerate() {
            out.push_str(&match before {
                true => format!("{} {seconds}s ... ", name(n)),
                false => format!("{}       ", name(n)),
            });
            out.push_str(&match verdict {
                Verdict::Pass => format!(" {seconds}s\n"),
                Verdict::NotRun => "[not run] no such thing\n".to_string(),
                Verdict::Excluded => "[expunged]\n".to_string(),
                _ => format!(
                    "- output mismatch (see /r/{n}.out.bad)\n    --- a\n    +{} {seconds}s\n    ...\n",
                    name(n + 1)
                ),
            });
        }
        out
    }

    fn console(run: &[(Verdict, bool, u32)]) -> String {
        let line = |n: usize| {
            format!(
                "[{:5}.5] run fstests {} at x\n[{0:5}.7] XFS (pmem0): x\n",
                n * 10,
                name(n)
            )
        };
        (0..run.len()).map(line).collect()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_result_is_read_back(run in run()) {
            let text = format!("{}Ran: generic/001\nPassed all\n", write(&run));
            let all = outcomes(&text, &console(&run), None);
            let read: Vec<Verdict> = all.values().map(|o| o.verdict).collect();
            prop_assert_eq!(read, run.iter().map(|r| r.0).collect::<Vec<_>>());
            prop_assert!(all.values().all(|o| o.seconds.is_some_and(|s| (0.0..11.0).contains(&s))));
        }

        #[test]
        fn nothing_is_made_up_about_what_was_cut_off(run in run(), at in any::<Index>()) {
            let text = write(&run);
            let at = at.index(text.len());
            let printed = parse_check(&text[..at]);
            for (n, (test, verdict, _)) in printed.ended.iter().enumerate() {
                prop_assert_eq!(test, &name(n));
                prop_assert_eq!(*verdict, run[n].0);
            }
            let begun = (0..run.len()).filter(|n| {
                text.find(&format!("\n{} ", name(*n))).is_some_and(|begin| begin + name(*n).len() + 1 < at)
            });
            let known = printed.ended.len() + usize::from(printed.begun.is_some());
            prop_assert!(known >= begun.count());
            // The one that was running is to blame, and none that had ended.
            let all = outcomes(&text[..at], "", Some("it died"));
            let crashed: Vec<&String> = all.iter().filter(|(_, o)| o.verdict == Verdict::Crash).map(|(n, _)| n).collect();
            prop_assert_eq!(crashed, printed.begun.iter().collect::<Vec<_>>());
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "generic/001", "xfs/1234 ", " 4s ... ", " 5s\n", "[not run] ", "[expunged]", "Ran: ",
            "Interrupted!", "run fstests ", "[  1.5] ", "[nan] ", "BUG:", "- output mismatch",
        ])) {
            let all = outcomes(&text, &text, Some("x"));
            prop_assert!(all.values().all(|o| o.seconds.is_none_or(f64::is_finite)));
        }
    }
}
