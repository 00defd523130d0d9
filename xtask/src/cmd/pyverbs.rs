// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pyverbs`: what the verbs library's own tests say of the base kernel must be true of the series.

use super::build;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Session};
use crate::guest::tools::{self, Tools};
use crate::kernel::profile::Profile;
use crate::report::tally::Tally;
use crate::report::{Case, Verdict};
use crate::ui::proc::quote;
use anyhow::{Context, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const EXAMPLES: &str = "\
The tests of python3-pyverbs run on rxe, on the base kernel first and on the series then. What passes
on the former must pass on the latter. Takes two kernels, and some minutes for each. A test that fails on
the series alone is run by itself, again and again on both: some of the library's tests depend on how
fast a completion arrives.

Example:
  cargo xtask pyverbs";

/// Run the verbs library's own tests on the base kernel and on the series
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Which build of the series
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// The base kernel's image, to build none
    #[arg(long, value_name = "IMAGE")]
    base: Option<std::path::PathBuf>,
}

/// How often a test is run that fails on the series alone.
const AGAIN: u32 = 40;

/// Verdicts and reasons by test.
type Results = BTreeMap<String, (Verdict, String)>;

/// Runs and compares.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("pyverbs")?;
    let tools = tools::build(ctx, &logs)?;
    let base = match &opts.base {
        Some(image) => image.clone(),
        None => build::image(ctx, Profile::Base, &logs)?,
    };
    let guests = Guests {
        ctx,
        logs: &logs,
        tools: &tools,
    };
    let before = guests.all(&base, Profile::Base)?;
    let image = build::image(ctx, opts.profile, &logs)?;
    let after = guests.all(&image, opts.profile)?;
    if ctx.global.dry_run {
        return Ok(());
    }
    let mut cases = compare(&before, &after);
    let failed: Vec<&mut Case> = cases
        .iter_mut()
        .filter(|c| c.verdict == Verdict::Fail)
        .collect();
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|c| c.name.clone()).collect();
        let before = guests.again(&base, Profile::Base, &names)?;
        let after = guests.again(&image, opts.profile, &names)?;
        for case in failed {
            judge_again(case, &before, &after);
        }
    }
    let mut tally = Tally::default();
    tally.add(cases);
    tally.report().iter().for_each(|l| println!("{l}"));
    if tally.count(Verdict::Fail) > 0 {
        return Err(Failure::of(
            Kind::Test,
            "the series does not pass what the base kernel passes".to_string(),
        ));
    }
    Ok(())
}

/// Where the tests run.
struct Guests<'a> {
    ctx: &'a Ctx,
    logs: &'a Path,
    tools: &'a Tools,
}

impl Guests<'_> {
    /// All tests, once.
    fn all(&self, image: &Path, profile: Profile) -> Result<Results> {
        let label = format!("running the library's tests ({profile})");
        let (_, results) = self.run(image, profile, profile.name(), &label, "")?;
        let passed = results.values().filter(|r| r.0 == Verdict::Pass).count();
        self.ctx
            .ui
            .note(&format!("{passed} of {} pass", results.len()));
        Ok(results)
    }

    /// These tests, many times; gives how often each failed.
    fn again(
        &self,
        image: &Path,
        profile: Profile,
        names: &[String],
    ) -> Result<BTreeMap<String, u32>> {
        let label = format!("{} of them {AGAIN} times ({profile})", names.len());
        let mut args = format!(" --times {AGAIN}");
        for name in names {
            args += &format!(" --test {}", quote(name.as_ref()));
        }
        let (text, _) = self.run(image, profile, &format!("{profile}-again"), &label, &args)?;
        let mut failed = BTreeMap::new();
        for line in text.lines() {
            if let Some(("fail", rest)) = line.split_once('\t') {
                let name = rest.split('\t').next().unwrap_or_default();
                *failed.entry(name.to_string()).or_default() += 1;
            }
        }
        Ok(failed)
    }

    /// What the tests said, line by line, and the results of that.
    fn run(
        &self,
        image: &Path,
        profile: Profile,
        name: &str,
        label: &str,
        args: &str,
    ) -> Result<(String, Results)> {
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        let out = shared(&logs).join("pyverbs.tsv");
        let session = Session {
            image,
            logs: &logs,
            script: format!(
                "{} pyverbs --out {}{args}",
                quote(self.tools.guest.as_os_str()),
                quote(out.as_os_str())
            ),
            silence: Duration::from_secs(300) * profile.slowness(),
            limit: None,
            attached: false,
        };
        let mut step = self.ctx.ui.step(label);
        let status = session.run(self.ctx, |l| step.line(l))?.check(&logs)?;
        if self.ctx.global.dry_run {
            return Ok((String::new(), Results::new()));
        }
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        let (results, complete) = parse(&text);
        if status != 0 || !complete {
            return Err(Failure::of(
                Kind::Test,
                format!(
                    "the tests did not come to their end; see {}",
                    logs.display()
                ),
            ));
        }
        step.done("");
        Ok((text, results))
    }
}

/// What failed on the series alone, the first time: if it fails on the base kernel too when it is run
/// often enough, and on the series no more than twice as often, the test is not steady.
fn judge_again(case: &mut Case, before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) {
    let failed = |of: &BTreeMap<String, u32>| of.get(&case.name).copied().unwrap_or(0);
    let (base, series) = (failed(before), failed(after));
    if base > 0 && series <= 2 * base {
        case.verdict = Verdict::Skip;
    }
    case.detail.push(format!(
        "of {AGAIN} times by itself, it fails {base} on the base kernel and {series} on the series"
    ));
}

/// The results, and whether they are complete.
fn parse(text: &str) -> (Results, bool) {
    let mut results = Results::new();
    let mut complete = false;
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let (verdict, name) = (fields.next(), fields.next().unwrap_or_default());
        let verdict = match verdict {
            Some("pass") => Verdict::Pass,
            Some("skip") => Verdict::Skip,
            Some("end") => {
                complete = true;
                continue;
            }
            _ => Verdict::Fail,
        };
        let why = fields.next().unwrap_or_default().to_string();
        let entry = results
            .entry(name.to_string())
            .or_insert((verdict, why.clone()));
        // A test with parts fails if one of them does.
        if verdict == Verdict::Fail {
            *entry = (verdict, why);
        }
    }
    (results, complete)
}

/// What passed must pass. What did not is left out, with its reason, unless it passes now.
fn compare(before: &Results, after: &Results) -> Vec<Case> {
    let missing = (Verdict::Fail, "it was not run".to_string());
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let (was, why_before) = before.get(name).unwrap_or(&missing);
            let (is, why_after) = after.get(name).unwrap_or(&missing);
            match (was, is) {
                (_, Verdict::Pass) => Case::new(name, Verdict::Pass, vec![]),
                (Verdict::Pass, _) => {
                    Case::new(name, Verdict::Fail, vec![format!("now: {why_after}")])
                }
                _ => {
                    let why = format!("does not pass on the base kernel either: {why_before}");
                    Case::new(name, Verdict::Skip, vec![why])
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_must_pass() {
        let (before, complete) = parse("pass\ta\t\npass\tb\t\nskip\tc\tno such device\nfail\td\tx");
        assert!(!complete);
        let (after, complete) =
            parse("pass\ta\t\nfail\tb\tnot now\nskip\tc\tno such\npass\td\t\nend\t4\t\n");
        assert!(complete);
        let cases = compare(&before, &after);
        let verdicts: Vec<Verdict> = cases.iter().map(|c| c.verdict).collect();
        use Verdict::{Fail, Pass, Skip};
        assert_eq!(verdicts, [Pass, Fail, Skip, Pass]);
        assert_eq!(cases[1].detail, ["now: not now"]);
    }

    #[test]
    fn a_test_that_was_not_run_has_not_passed() {
        let (before, _) = parse("pass\ta\t\n");
        let cases = compare(&before, &Results::new());
        assert_eq!(cases[0].verdict, Verdict::Fail);
    }

    #[test]
    fn a_test_that_is_not_steady_fails_on_the_base_too() {
        let times = |n: u32| BTreeMap::from([("a".to_string(), n)]);
        let verdict = |base, series| {
            let mut case = Case::new("a", Verdict::Fail, vec!["now: x".into()]);
            judge_again(&mut case, &times(base), &times(series));
            assert!(case.detail[1].contains(&format!("{series} on the series")));
            case.verdict
        };
        assert_eq!(verdict(3, 6), Verdict::Skip);
        assert_eq!(verdict(3, 7), Verdict::Fail);
        assert_eq!(verdict(0, 1), Verdict::Fail);
        // Once is enough to have failed.
        assert_eq!(verdict(0, 0), Verdict::Fail);
    }

    #[test]
    fn a_part_that_fails_counts() {
        let (results, _) = parse("fail\ta\tpart 1\npass\ta\t\n");
        assert_eq!(results["a"].0, Verdict::Fail);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    fn results() -> impl Strategy<Value = Results> {
        let verdict = select(&[Verdict::Pass, Verdict::Fail, Verdict::Skip][..]);
        btree_map("[a-z.]{1,8}", (verdict, "[a-z ]{0,8}"), 0..6)
    }

    fn write(results: &Results) -> String {
        let word = |v: &Verdict| match v {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Skip => "skip",
        };
        let lines = results
            .iter()
            .map(|(n, (v, why))| format!("{}\t{n}\t{why}\n", word(v)));
        lines.collect::<String>() + &format!("end\t{}\t\n", results.len())
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn results_are_read_back_and_a_part_is_not_complete(results in results(), at in any::<Index>()) {
            let text = write(&results);
            let (read, complete) = parse(&text);
            prop_assert!(complete);
            prop_assert_eq!(&read, &results);
            let part: String = text.split_inclusive('\n').take(at.index(results.len() + 1)).collect();
            prop_assert!(!parse(&part).1);
        }

        #[test]
        fn each_test_of_either_kernel_is_judged_once(before in results(), after in results()) {
            let cases = compare(&before, &after);
            let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            prop_assert!(cases.iter().map(|c| &c.name).eq(names));
            for case in &cases {
                let passes = |r: &Results| r.get(&case.name).is_some_and(|r| r.0 == Verdict::Pass);
                prop_assert_eq!(case.verdict == Verdict::Pass, passes(&after));
                prop_assert_eq!(case.verdict == Verdict::Fail, passes(&before) && !passes(&after));
            }
        }

        #[test]
        fn noise_never_panics(text in noise(&["pass\t", "fail\t", "end\t", "a\t", "\n"]), more in vec(any::<u8>(), 0..9)) {
            parse(&text);
            parse(&String::from_utf8_lossy(&more));
        }
    }
}
