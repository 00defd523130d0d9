// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each of the guests does of a run, and what it then says of it.
//!
//! An emulated processor is slow and the tests run one after another: two guests, each with half of
//! the tests, are done in little more than half the time.

use super::Opts;
use crate::cmd::demo;
use crate::env::Ctx;
use crate::guest::ktap;
use crate::guest::session::{shared, Outcome, Session};
use crate::guest::tools::Tools;
use crate::guest::vm;
use crate::kernel::selftests;
use crate::report::{Case, Verdict};
use crate::ui::proc::{last_lines, quote};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Sender};
use std::time::Duration;

/// How many guests share a whole run.
const GUESTS: usize = 2;

/// One guest's part of the work.
pub struct Share {
    /// Where its console and its results are.
    pub logs: PathBuf,
    parts: Vec<Part>,
    silence: Duration,
}

/// Something the guest does and reports of.
enum Part {
    /// The kernel's unit tests.
    Kunit,
    /// The kernel tree's selftests, in the directory they were installed in, on a filesystem.
    Selftests {
        installed: PathBuf,
        fs: &'static str,
        slowness: u32,
    },
    /// The tests of the contract, with these options.
    Contract(String),
    /// The scenario of the demo.
    Demo,
}

impl Part {
    /// In reports, and of its files.
    fn name(&self) -> &'static str {
        match self {
            Part::Kunit => "kunit",
            Part::Selftests { .. } => "kselftest",
            Part::Contract(_) => "contract",
            Part::Demo => "demo",
        }
    }

    fn report(&self, logs: &Path) -> PathBuf {
        shared(logs).join(format!("{}.ktap", self.name()))
    }

    fn command(&self, tools: &Tools, logs: &Path) -> String {
        let guest = quote(tools.guest.as_os_str());
        let report = quote(self.report(logs).as_os_str());
        match self {
            Part::Kunit => format!("{guest} kunit --ktap {report} --suite 'file_pin*'"),
            Part::Selftests {
                installed,
                fs,
                slowness,
            } => selftests::script(installed, fs, "", *slowness, &self.report(logs)),
            Part::Contract(options) => format!("{guest} test --ktap {report}{options}"),
            Part::Demo => demo::script(tools, logs, &[]),
        }
    }

    /// What the guest wrote. What is missing is a failure, never silence.
    fn cases(&self, logs: &Path) -> Vec<Case> {
        let name = self.name();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let mut cases = match self {
            Part::Kunit | Part::Contract(_) => ktap::parse(&read(self.report(logs)), name),
            Part::Selftests { .. } => selftest_cases(&read(self.report(logs))),
            Part::Demo => demo_cases(logs),
        };
        // A part that failed must have said why: exit status and report are held against each other.
        let status = read(shared(logs).join(format!("{name}.status")));
        let status = status.trim().parse::<i32>().ok();
        if status != Some(0) && !cases.iter().any(|c| c.verdict == Verdict::Fail) {
            let why = match status {
                Some(s) => format!("it ended with status {s}"),
                None => "it did not come to its end".into(),
            };
            let said = last_lines(&read(shared(logs).join("stderr")), 6);
            let end = format!("{name}: end");
            cases.push(Case::new(&end, Verdict::Fail, vec![why, said]));
        }
        cases
    }
}

/// The reports that the last run left of the tests of the contract: that of one guest, which has run
/// what a filter let through, or of several, which have shared a whole run.
pub fn contract_reports(logs: &Path) -> Vec<PathBuf> {
    let report = |logs: &Path| Part::Contract(String::new()).report(logs);
    let shared = (0..GUESTS).map(|n| report(&guest_logs(logs, n)));
    let alone = report(logs);
    match alone.exists() {
        true => vec![alone],
        false => shared.collect(),
    }
}

fn guest_logs(logs: &Path, n: usize) -> PathBuf {
    logs.join(format!("guest-{}", n + 1))
}

/// Divides the work. Single tests are left to one guest, which has the least to set up.
pub fn divide(opts: &Opts, logs: &Path, selftests: Option<PathBuf>) -> Vec<Share> {
    let slowness = opts.profile.slowness();
    let mut options = match &opts.filter {
        Some(f) => format!(" --filter {}", quote(f.as_ref())),
        None => String::new(),
    };
    if !opts.profile.has_feature() {
        options.push_str(" --without-feature");
    }
    let contract = |fs: &str| Part::Contract(format!("{options} --fs {fs}"));
    let parts = if opts.filter.is_some() {
        vec![vec![Part::Contract(options)]]
    } else {
        let of = |fs: &'static str| {
            let selftests = selftests.clone().map(|installed| Part::Selftests {
                installed,
                fs,
                slowness,
            });
            selftests.into_iter().chain([contract(fs)])
        };
        let kernel = opts.whole().then_some(Part::Kunit).into_iter();
        let scenario = opts.whole().then_some(Part::Demo);
        vec![
            kernel.chain(of("xfs")).collect(),
            of("ext4").chain(scenario).collect(),
        ]
    };
    let number = parts.len();
    let share = |(n, parts)| Share {
        logs: match number {
            1 => logs.to_path_buf(),
            _ => guest_logs(logs, n),
        },
        parts,
        silence: Duration::from_secs(120) * slowness,
    };
    parts.into_iter().enumerate().map(share).collect()
}

impl Share {
    /// The run as a session of a guest.
    pub fn session<'a>(&'a self, image: &'a Path, tools: &Tools) -> Session<'a> {
        let mut script = String::new();
        for part in &self.parts {
            let status = shared(&self.logs).join(format!("{}.status", part.name()));
            let status = quote(status.as_os_str());
            let command = part.command(tools, &self.logs);
            script.push_str(&format!("{command}; echo $? >{status}\n"));
        }
        Session {
            image,
            logs: &self.logs,
            script: format!("{script}true"),
            silence: self.silence,
            limit: None,
            attached: false,
        }
    }

    /// What the guest reported.
    pub fn cases(&self) -> Vec<Case> {
        self.parts
            .iter()
            .flat_map(|p| p.cases(&self.logs))
            .collect()
    }
}

/// Runs all of them, at once if the machine has room for that; what became of each.
pub fn run(
    ctx: &Ctx,
    shares: &[Share],
    image: &Path,
    tools: &Tools,
    mut note: impl FnMut(&str),
) -> Vec<Result<Outcome>> {
    let one = |share: &Share, lines: &Sender<String>| {
        std::fs::create_dir_all(&share.logs)
            .with_context(|| format!("cannot make {}", share.logs.display()))?;
        share.session(image, tools).run(ctx, |line| {
            // Nobody listens any more when the run was interrupted.
            let _ = lines.send(line.to_string());
        })
    };
    let together = if ctx.jobs() > 1 && vm::room_for(shares.len()) {
        shares.len()
    } else {
        1
    };
    let mut outcomes = Vec::new();
    for shares in shares.chunks(together) {
        let (sender, lines) = channel::<String>();
        outcomes.extend(std::thread::scope(|scope| {
            let threads: Vec<_> = shares
                .iter()
                .map(|share| {
                    let sender = sender.clone();
                    scope.spawn(move || one(share, &sender))
                })
                .collect();
            drop(sender);
            lines.iter().for_each(|line| note(&line));
            let ended = |t: std::thread::ScopedJoinHandle<'_, _>| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of a guest panicked")))
            };
            threads.into_iter().map(ended).collect::<Vec<_>>()
        }));
    }
    outcomes
}

/// A program of ours that tells of no subtests has not run them, whatever its exit status.
pub fn selftest_cases(report: &str) -> Vec<Case> {
    let mut cases = ktap::parse_kselftest(report, "kselftest");
    for case in &mut cases {
        let program = case.name.matches(": ").count() == 2;
        if program && case.verdict == Verdict::Pass {
            case.verdict = Verdict::Fail;
            case.detail = vec!["it reported nothing of its subtests".into()];
        }
    }
    cases
}

fn demo_cases(logs: &Path) -> Vec<Case> {
    let failure = |why: String| vec![Case::new("demo: results", Verdict::Fail, vec![why])];
    match demo::read(logs) {
        Err(e) => failure(format!("{e:#}")),
        Ok((steps, complete)) => {
            let mut cases: Vec<Case> = steps
                .iter()
                .map(|s| {
                    let name = format!("demo: {}: {}: {}", s.fs, s.group, s.step);
                    let detail = format!("expected {}, got {}", s.expected, s.got);
                    match s.ok {
                        true => Case::new(&name, Verdict::Pass, vec![]),
                        false => Case::new(&name, Verdict::Fail, vec![detail]),
                    }
                })
                .collect();
            if !complete {
                cases.extend(failure("the scenario did not come to its end".into()));
            }
            cases
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::profile::Profile;

    fn opts(profile: Profile, filter: Option<&str>) -> Opts {
        Opts {
            profile,
            junit: None,
            filter: filter.map(str::to_string),
        }
    }

    fn names(shares: &[Share]) -> Vec<Vec<&'static str>> {
        let of = |s: &Share| s.parts.iter().map(Part::name).collect();
        shares.iter().map(of).collect()
    }

    #[test]
    fn everything_is_done_once_and_each_filesystem_by_one_guest() {
        let shares = divide(
            &opts(Profile::Default, None),
            Path::new("/l"),
            Some("/s".into()),
        );
        assert_eq!(
            names(&shares),
            [
                vec!["kunit", "kselftest", "contract"],
                vec!["kselftest", "contract", "demo"]
            ]
        );
        assert_ne!(shares[0].logs, shares[1].logs);
        assert_eq!(shares.len(), GUESTS);
        let tools = Tools {
            guest: "/g".into(),
            daxpin: "/d".into(),
            examples: "/e".into(),
        };
        let script = |n: usize| shares[n].session(Path::new("/k"), &tools).script;
        assert!(script(0).contains("--fs xfs") && !script(0).contains("--fs ext4"));
        assert!(script(1).contains("--fs ext4") && !script(1).contains("--fs xfs"));
    }

    #[test]
    fn a_kernel_without_the_feature_has_no_registry_and_no_scenario() {
        let shares = divide(&opts(Profile::Base, None), Path::new("/l"), None);
        assert_eq!(names(&shares), [["contract"], ["contract"]]);
    }

    #[test]
    fn single_tests_need_one_guest() {
        let shares = divide(
            &opts(Profile::Default, Some("lease.*")),
            Path::new("/l"),
            None,
        );
        assert_eq!(names(&shares), [["contract"]]);
        assert_eq!(shares[0].logs, Path::new("/l"));
    }

    #[test]
    fn a_selftest_that_tells_nothing_has_failed() {
        let verdicts = |text: &str| -> Vec<Verdict> {
            selftest_cases(text).iter().map(|c| c.verdict).collect()
        };
        let end = "ok 1 selftests: fs/a: a.sh\n";
        let silent = format!("TAP version 13\n1..1\n# selftests: fs/a: a.sh\n{end}");
        assert_eq!(verdicts(&silent), [Verdict::Fail]);
        let nested = "# TAP version 13\n# 1..1\n# ok 1 first\n";
        let telling = format!("TAP version 13\n1..1\n# selftests: fs/a: a.sh\n{nested}{end}");
        assert_eq!(verdicts(&telling), [Verdict::Pass]);
        let skipped = "TAP version 13\n1..1\nok 1 selftests: fs/a: a.sh # SKIP no feature\n";
        assert_eq!(verdicts(skipped), [Verdict::Skip]);
    }

    #[test]
    fn a_guest_that_wrote_nothing_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let shares = divide(&opts(Profile::Default, None), dir.path(), Some("/s".into()));
        for share in &shares {
            for part in &share.parts {
                let cases = part.cases(&share.logs);
                assert!(
                    cases.iter().any(|c| c.verdict == Verdict::Fail),
                    "{}",
                    part.name()
                );
            }
        }
    }
}
