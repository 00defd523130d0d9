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
on the former must pass on the latter. Takes two kernels, and some minutes for each.

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

/// Verdicts and reasons by test.
type Results = BTreeMap<String, (Verdict, String)>;

/// Runs and compares.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let logs = ctx.logs("pyverbs")?;
    let tools = tools::build(ctx, &logs)?;
    let before = match &opts.base {
        Some(image) => in_guest(ctx, image, &logs, &tools, Profile::Base)?,
        None => {
            let image = build::image(ctx, Profile::Base, &logs)?;
            in_guest(ctx, &image, &logs, &tools, Profile::Base)?
        }
    };
    let image = build::image(ctx, opts.profile, &logs)?;
    let after = in_guest(ctx, &image, &logs, &tools, opts.profile)?;
    if ctx.global.dry_run {
        return Ok(());
    }
    let mut tally = Tally::default();
    tally.add(compare(&before, &after));
    tally.report().iter().for_each(|l| println!("{l}"));
    if tally.count(Verdict::Fail) > 0 {
        return Err(Failure::of(
            Kind::Test,
            "the series does not pass what the base kernel passes".to_string(),
        ));
    }
    Ok(())
}

fn in_guest(
    ctx: &Ctx,
    image: &Path,
    logs: &Path,
    tools: &Tools,
    profile: Profile,
) -> Result<Results> {
    let logs = logs.join(profile.name());
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let out = shared(&logs).join("pyverbs.tsv");
    let session = Session {
        image,
        logs: &logs,
        script: format!(
            "{} pyverbs --out {}",
            quote(tools.guest.as_os_str()),
            quote(out.as_os_str())
        ),
        silence: Duration::from_secs(300) * profile.slowness(),
        limit: None,
        attached: false,
    };
    let mut step = ctx
        .ui
        .step(&format!("running the library's tests ({profile})"));
    let status = session.run(ctx, |l| step.line(l))?.check(&logs)?;
    if ctx.global.dry_run {
        return Ok(Results::new());
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
    let passed = results.values().filter(|r| r.0 == Verdict::Pass).count();
    step.done(&format!("{passed} of {} pass", results.len()));
    Ok(results)
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
    fn a_part_that_fails_counts() {
        let (results, _) = parse("fail\ta\tpart 1\npass\ta\t\n");
        assert_eq!(results["a"].0, Verdict::Fail);
    }
}
