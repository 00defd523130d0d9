// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mutants`: takes hooks of the series out, one at a time, and sees that tests notice.

use super::{build, matrix::write_or_compare};
use crate::env::cache::sha256_file;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::tools;
use crate::kernel::profile::Profile;
use crate::kernel::selftests;
use crate::mutants::list::{control, Fs, List, Mutant, CONTROL};
use crate::mutants::record::Record;
use crate::mutants::run::Runner;
use crate::mutants::{report, results};
use crate::ui::proc::Cmd;
use crate::ui::table;
use anyhow::{bail, Context, Result};
use clap::Args;
use std::fs;
use std::path::Path;

const EXAMPLES: &str = "\
Builds one kernel with mutants/hooks.patch on top of the series, and boots it once for each mutant of
mutants/list.toml, with the tests that have to notice; and once with everything in its place, when the
same tests have to pass. A kernel that panics, complains or hangs counts as noticed, and is said so.
Fails if nobody notices a mutant, or if one of the listed tests does not. Results are in out/mutants, for
--resume and for --write.

Examples:
  cargo xtask mutants
  cargo xtask mutants pinned_range_ignored --fs xfs
  cargo xtask mutants --resume --write";

/// Take hooks out of the kernel one at a time: do the tests notice?
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Which ones (default: all)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// List them
    #[arg(long)]
    list: bool,
    /// On this filesystem only
    #[arg(long, value_enum)]
    fs: Option<Fs>,
    /// Keep results of earlier runs of the same tests on the same kernel; those without a mutant
    /// are kept in any case
    #[arg(long)]
    resume: bool,
    /// Write Documentation/mutants.md from all results that there are
    #[arg(long)]
    write: bool,
}

/// Runs and reports.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let list = List::read(ctx)?;
    let chosen = list.choose(&opts.names, opts.fs)?;
    if opts.list {
        let row = |m: &Mutant| vec![m.name.clone(), m.breaks.clone()];
        let rows: Vec<_> = chosen.iter().map(row).collect();
        table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
        return Ok(());
    }
    let dir = results(ctx);
    if !ctx.global.dry_run {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        crate::error::set_log_dir(dir.clone());
    }
    let image = build::image(ctx, Profile::Mutants, &dir)?;
    let tools = tools::build(ctx, &dir)?;
    let selftests =
        selftests::build(ctx, &dir)?.context("the kernel tree has no selftests of the feature")?;
    let checksum = match ctx.global.dry_run {
        true => String::new(),
        false => sha256_file(&image)?,
    };
    let runner = Runner {
        ctx,
        image: &image,
        checksum: &checksum,
        tools: &tools,
        selftests: &selftests,
        dir: &dir,
    };

    let mut wanted = vec![];
    let all = control(&chosen);
    match Record::read(&dir, CONTROL)? {
        Some(old) => wanted.extend(old.missing(&all, &checksum)),
        None => wanted.push(all),
    }
    for m in &chosen {
        let old = Record::read(&dir, &m.name)?;
        let same = old.is_some_and(|r| r.is_of(m, &checksum));
        if !(opts.resume && same) {
            wanted.push(m.clone());
        }
    }
    let mut step = ctx.ui.step(&format!("running {} guests", wanted.len()));
    let mut finished = 0;
    // Both closures show what happens.
    let step_cell = std::cell::RefCell::new(&mut step);
    runner.all(
        &wanted,
        |line| step_cell.borrow_mut().line(line),
        |record| {
            finished += 1;
            let status = format!("{finished} of {}", wanted.len());
            ctx.ui.note(&format!("{status}: {}", said(record)));
            step_cell.borrow_mut().status(status);
        },
    )?;
    step.done("");
    if ctx.global.dry_run {
        return Ok(());
    }
    let verdict = judge(&dir, &chosen);
    if opts.write {
        let tests = Cmd::new(&tools.guest)
            .args(["test", "--list", "--ktap", "/dev/null", "--filter", "*"])
            .output()?;
        let text = report::markdown(&dir, &list.mutants, tests.lines())?;
        let document = ctx.root.join("Documentation/mutants.md");
        println!("{}", write_or_compare(&document, &text, false)?);
    }
    verdict
}

/// One line on a run that has just ended.
fn said(r: &Record) -> String {
    let mut line = format!(
        "{}: {} failed, {} passed, {} skipped, {} s",
        r.mutant.name,
        r.failed.len(),
        r.passed.len(),
        r.skipped.len(),
        r.seconds
    );
    if let Some(t) = &r.trouble {
        line += &format!("; {}", t.lines().next().unwrap_or_default());
    }
    line
}

/// Prints the table, and says whether everything is as it must be.
fn judge(dir: &Path, chosen: &[Mutant]) -> Result<()> {
    let Some(control) = Record::read(dir, CONTROL)? else {
        bail!("there is no result of the run without a mutant");
    };
    let mut wrong = vec![];
    for test in &control.failed {
        wrong.push(format!("{test} fails without any mutant"));
    }
    if let Some(t) = &control.trouble {
        wrong.push(format!("without any mutant: {t}"));
    }
    let mut rows = vec![];
    for m in chosen {
        let Some(r) = Record::read(dir, &m.name)? else {
            wrong.push(format!("{}: no guest got to user space", m.name));
            continue;
        };
        let noticed: Vec<&str> = r.noticed(&control).map(String::as_str).collect();
        rows.push(vec![
            m.name.clone(),
            noticed.len().to_string(),
            report::brief(&r, &noticed),
        ]);
        if !r.is_noticed(&control) {
            wrong.push(format!("nobody notices {}", m.name));
        }
        for test in r.blind(&control) {
            wrong.push(format!("{test} does not notice {}", m.name));
        }
    }
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    wrong.iter().for_each(|w| println!("FAILED: {w}"));
    println!(
        "{} mutants, {} tests without a mutant, {} complaints",
        chosen.len(),
        control.passed.len() + control.failed.len(),
        wrong.len()
    );
    match wrong.len() {
        0 => Ok(()),
        n => Err(Failure::of(
            Kind::Test,
            format!("{n} things are not as they must be, see above"),
        )),
    }
}
