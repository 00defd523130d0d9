// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fstests`: tests of xfstests, and ours in its form, in the guest.

use super::build;
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::fstests::compare::{self, Change};
use crate::fstests::config::Config;
use crate::fstests::job::Fleet;
use crate::fstests::result::Verdict;
use crate::fstests::run::Job;
use crate::fstests::select::{self, Selection, Shard};
use crate::fstests::store::Results;
use crate::fstests::{self, html, lint, overlay, patches, stage};
use crate::kernel::profile::Profile;
use crate::report::junit;
use crate::report::tally::Tally;
use crate::report::Verdict as Counted;
use crate::ui::proc::Cmd;
use crate::ui::table;
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Runs tests of a tree of xfstests that you have built, and those in fstests/, which are laid over it
in the guest: nothing is written to the tree. Without tests and groups: the group layoutlease. A
crash or a hang is the running test's, and the rest is run in a new guest. Results are in
out/fstests: report.html, junit.xml, results.json.

Examples:
  cargo xtask fstests --xfstests ~/xfstests
  cargo xtask fstests --xfstests ~/xfstests -c xfs/dax,ext4/dax -g dax --compare base
  cargo xtask fstests --xfstests ~/xfstests -c xfs/dax -g quick -x fuzzers --shard 1/4
  cargo xtask fstests --xfstests ~/xfstests -c ext4/dax generic/907 ext4/901 --pinner io_uring
  cargo xtask fstests report --merge 1/results.json 2/results.json --out all";

/// Run xfstests, and our tests for it, in the guest
#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Opts {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Action {
    /// Write our tests as patches to a tree of xfstests
    #[command(
        after_help = "Example:\n  cargo xtask fstests export --xfstests ~/xfstests --out patches-fstests"
    )]
    Export(Export),
    /// Check our tests; with a tree of xfstests also that the patches apply to it
    #[command(
        after_help = "Examples:\n  cargo xtask fstests check\n  cargo xtask fstests check --xfstests ~/xfstests"
    )]
    Check(Check),
    /// Make one report of the results of several machines
    #[command(
        after_help = "Example:\n  cargo xtask fstests report --merge 1/results.json 2/results.json --out all"
    )]
    Report(Report),
    /// Write job files for LAVA, each with a part of the tests
    #[command(after_help = JOB_EXAMPLE)]
    Job(JobFiles),
}

const JOB_EXAMPLE: &str = "\
A job runs in a container that has the packages of `cargo xtask doctor`, Rust, and a built tree of
xfstests. Of the files results.json `fstests report --merge` makes one report.

Example:
  cargo xtask fstests job --shards 4 --container example.org/fstests:1 --tree /opt/xfstests \\
      --repository https://example.org/project.git --out jobs -- -c xfs/dax,ext4/dax -g quick";

#[derive(Args)]
struct JobFiles {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: usize,
    /// The container's image
    #[arg(long, value_name = "IMAGE")]
    container: String,
    /// Where the tree of xfstests is in it
    #[arg(long, value_name = "DIR")]
    tree: String,
    /// Where git finds this project
    #[arg(long, value_name = "URL")]
    repository: String,
    /// What to test of it
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// The command that is given the file of results
    #[arg(long, value_name = "COMMAND", default_value = "cat")]
    publish: String,
    /// Give a job up after so many minutes
    #[arg(long, value_name = "N", default_value_t = 360)]
    minutes: u32,
    /// Where the files go: 1.yaml and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Options of `fstests`
    #[arg(last = true)]
    options: Vec<String>,
}

#[derive(Args)]
struct Export {
    /// The tree, a git repository
    #[arg(long, value_name = "DIR")]
    xfstests: Option<PathBuf>,
    /// An empty directory, or a new one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
struct Check {
    /// The tree, a git repository
    #[arg(long, value_name = "DIR")]
    xfstests: Option<PathBuf>,
}

#[derive(Args)]
struct Report {
    /// Files results.json
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    merge: Vec<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    /// The unpatched base kernel
    Base,
}

/// Who pins pages in our tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Pinner {
    /// The kernel's own test of get_user_pages
    #[default]
    GupTest,
    /// Registered buffers of io_uring
    IoUring,
    /// Memory regions of the software RDMA device
    Rdma,
}

impl Pinner {
    fn name(self) -> &'static str {
        match self {
            Pinner::GupTest => "gup_test",
            Pinner::IoUring => "io_uring",
            Pinner::Rdma => "rdma",
        }
    }
}

#[derive(Args)]
struct Run {
    /// A tree of xfstests, built as its README says
    #[arg(long, value_name = "DIR")]
    xfstests: Option<PathBuf>,
    /// Configurations
    #[arg(
        long,
        short = 'c',
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "xfs/dax,ext4/dax"
    )]
    config: Vec<Config>,
    /// Tests of these groups
    #[arg(long, short = 'g', value_name = "LIST", value_delimiter = ',')]
    group: Vec<String>,
    /// No tests of these groups
    #[arg(long, short = 'x', value_name = "LIST", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Tests by name, * and ? allowed
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
    /// Tests listed in a file, # begins a comment
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Run everything so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: usize,
    /// Go on with the last run where it was interrupted
    #[arg(long)]
    resume: bool,
    /// Run all of it on that kernel as well, and tell what is different
    #[arg(long, value_enum)]
    compare: Option<Against>,
    /// The base kernel's image, to build none
    #[arg(long, value_name = "IMAGE", requires = "compare")]
    base: Option<PathBuf>,
    /// Which build of the series
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Who pins pages in our tests
    #[arg(long, value_enum, default_value_t)]
    pinner: Pinner,
    /// Only the I-th of N parts of the tests
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// A test that is silent for so many seconds hangs
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
}

/// Runs the subcommand.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    match &opts.action {
        None => run_tests(ctx, &opts.run),
        Some(Action::Export(o)) => export(ctx, o),
        Some(Action::Check(o)) => check(ctx, o),
        Some(Action::Report(o)) => report(o),
        Some(Action::Job(o)) => job_files(o),
    }
}

fn job_files(opts: &JobFiles) -> Result<()> {
    let fleet = Fleet {
        container: opts.container.clone(),
        xfstests: opts.tree.clone(),
        repository: opts.repository.clone(),
        revision: opts.revision.clone(),
        options: opts.options.clone(),
        publish: opts.publish.clone(),
        minutes: opts.minutes,
    };
    std::fs::create_dir_all(&opts.out)
        .with_context(|| format!("cannot make {}", opts.out.display()))?;
    for shard in 1..=opts.shards {
        let file = std::path::absolute(opts.out.join(format!("{shard}.yaml")))?;
        write_atomic(&file, fleet.lava(shard, opts.shards).as_bytes())?;
        println!("{}", file.display());
    }
    Ok(())
}

fn export(ctx: &Ctx, opts: &Export) -> Result<()> {
    let tree = fstests::tree(opts.xfstests.as_deref())?;
    if std::fs::read_dir(&opts.out).is_ok_and(|mut d| d.next().is_some()) {
        return Err(Failure::of(
            Kind::Usage,
            format!("{} is not empty", opts.out.display()),
        ));
    }
    let out = std::path::absolute(&opts.out)?;
    let names = patches::export(ctx, &tree, &out)?;
    println!("{} patches in {}", names.len(), out.display());
    Ok(())
}

fn check(ctx: &Ctx, opts: &Check) -> Result<()> {
    let mut tally = Tally::default();
    tally.add(lint::cases(ctx)?);
    tally.report().iter().for_each(|l| println!("{l}"));
    if opts.xfstests.is_some() {
        let tree = fstests::tree(opts.xfstests.as_deref())?;
        println!("{}", patches::check(ctx, &tree)?);
    }
    match tally.count(Counted::Fail) {
        0 => Ok(()),
        n => Err(Failure::of(Kind::Test, format!("{n} checks failed"))),
    }
}

fn report(opts: &Report) -> Result<()> {
    let mut all = Results::default();
    for file in &opts.merge {
        all.merge(Results::read(file)?);
    }
    std::fs::create_dir_all(&opts.out)
        .with_context(|| format!("cannot make {}", opts.out.display()))?;
    finish(&std::path::absolute(&opts.out)?, &all)
}

/// A kernel to run on.
struct Kernel {
    name: &'static str,
    image: PathBuf,
}

const PATCHED: &str = "patched";
const BASE: &str = "base";

fn kernels(ctx: &Ctx, opts: &Run, logs: &Path) -> Result<Vec<Kernel>> {
    let mut all = vec![];
    if opts.compare == Some(Against::Base) {
        let image = match &opts.base {
            Some(image) => std::path::absolute(image)?,
            None => build::image(ctx, Profile::Base, logs)?,
        };
        all.push(Kernel { name: BASE, image });
    }
    let name = match opts.profile {
        Profile::Base => BASE,
        _ => PATCHED,
    };
    let image = build::image(ctx, opts.profile, logs)?;
    all.push(Kernel { name, image });
    Ok(all)
}

fn selection(opts: &Run) -> Result<Selection> {
    let mut names = opts.tests.clone();
    if let Some(file) = &opts.list {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let lines = crate::kernel::series::parse_list(&text);
        names.extend(
            lines
                .iter()
                .flat_map(|l| l.split_whitespace())
                .map(str::to_string),
        );
    }
    let mut groups = opts.group.clone();
    if names.is_empty() && groups.is_empty() {
        groups.push(overlay::GROUP.to_string());
    }
    Ok(Selection {
        names,
        groups,
        without: opts.exclude.clone(),
    })
}

/// What was run on what, for the report, and for knowing whether it is the same run again.
fn about(opts: &Run, tree: &Path, selection: &Selection) -> BTreeMap<String, String> {
    let git = Cmd::git(tree)
        .args(["log", "-1", "--format=%h %cs"])
        .output();
    let mut about = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            about.insert(key.to_string(), value);
        }
    };
    add("xfstests", git.unwrap_or_else(|_| "unknown".into()));
    add("tests", selection.names.join(" "));
    add("groups", selection.groups.join(" "));
    add("without groups", selection.without.join(" "));
    add("pinner", opts.pinner.name().to_string());
    add("profile", opts.profile.to_string());
    add("rounds", opts.repeat.to_string());
    about
}

/// The directory of this run; with `--resume`, that of the last one, if it was the same.
fn directory(ctx: &Ctx, opts: &Run, about: &BTreeMap<String, String>) -> Result<PathBuf> {
    let text = serde_json::to_string_pretty(about)? + "\n";
    let dir = ctx.root.join("out/fstests");
    let plan = dir.join("plan.json");
    if !opts.resume {
        let dir = ctx.logs("fstests")?;
        if !ctx.global.dry_run {
            write_atomic(&plan, text.as_bytes())?;
        }
        return Ok(dir);
    }
    match std::fs::read_to_string(&plan) {
        Ok(old) if old == text => {
            crate::error::set_log_dir(dir.clone());
            Ok(dir)
        }
        Ok(_) => Err(Failure::of(
            Kind::Usage,
            format!("the last run was another one (see {})", plan.display()),
        )),
        Err(_) => Err(Failure::of(
            Kind::Usage,
            "there is no run to go on with".to_string(),
        )),
    }
}

fn run_tests(ctx: &Ctx, opts: &Run) -> Result<()> {
    let tree = fstests::tree(opts.xfstests.as_deref())?;
    let selection = selection(opts)?;
    let about = about(opts, &tree, &selection);
    let dir = directory(ctx, opts, &about)?;
    let kernels = kernels(ctx, opts, &dir)?;
    let layer = dir.join("layer");
    if !ctx.global.dry_run {
        overlay::make(ctx, &tree, &layer)?;
    }
    let mut all = Results {
        about,
        ..Results::default()
    };
    let stage = dir.join("stage.tar");
    let tests = opts
        .config
        .iter()
        .map(|c| tests_for(ctx, opts, &selection, *c, &tree))
        .collect::<Result<Vec<_>>>()?;
    if !ctx.global.dry_run {
        let union = tests.iter().flatten().cloned().collect();
        stage::pack(&tree, &layer, &union, &stage)?;
    }
    for (config, tests) in opts.config.iter().zip(&tests) {
        for round in 1..=opts.repeat {
            for kernel in &kernels {
                let job = Job {
                    image: &kernel.image,
                    kernel: kernel.name,
                    config: *config,
                    round,
                    tests,
                    stage: &stage,
                    pinner: opts.pinner.name(),
                    silence: Duration::from_secs(opts.timeout) * opts.profile.slowness(),
                    dir: dir
                        .join(kernel.name)
                        .join(config.slug())
                        .join(round.to_string()),
                };
                all.units.push(job.run(ctx)?);
                if !ctx.global.dry_run {
                    write(&dir, &all)?;
                }
            }
        }
    }
    if ctx.global.dry_run {
        return Ok(());
    }
    finish(&dir, &all)
}

/// The tests of a configuration, upstream's and ours, without those it excludes.
fn tests_for(
    ctx: &Ctx,
    opts: &Run,
    selection: &Selection,
    config: Config,
    tree: &Path,
) -> Result<Vec<String>> {
    let dirs = config.directories();
    let mut groups = select::groups_of(&tree.join("tests"), &dirs)?;
    for test in overlay::tests(ctx)? {
        if dirs.iter().any(|d| test.name.starts_with(&format!("{d}/"))) {
            groups.insert(test.name, test.groups.into_iter().collect());
        }
    }
    let excluded = config.excluded(ctx)?;
    let mut tests = selection.tests(config, &groups)?;
    tests.retain(|t| !excluded.contains_key(t));
    Ok(match opts.shard {
        Some(shard) => shard.of(tests),
        None => tests,
    })
}

fn differences(all: &Results) -> Option<Vec<compare::Difference>> {
    let has = |kernel: &str| all.units.iter().any(|u| u.kernel == kernel);
    (has(BASE) && has(PATCHED)).then(|| compare::differences(all, BASE, PATCHED))
}

fn write(dir: &Path, all: &Results) -> Result<()> {
    let page = html::render(all, differences(all).as_deref());
    write_atomic(&dir.join("results.json"), all.render()?.as_bytes())?;
    write_atomic(&dir.join("report.html"), page.as_bytes())?;
    let junit = junit::render(&all.tally());
    write_atomic(&dir.join("junit.xml"), junit.as_bytes())
}

/// Writes the reports, prints what matters, and says whether that is as it must be.
fn finish(dir: &Path, all: &Results) -> Result<()> {
    write(dir, all)?;
    let differences = differences(all);
    for unit in &all.units {
        for (name, o) in unit.outcomes.iter().filter(|(_, o)| o.verdict.is_bad()) {
            let first = o.detail.first().map_or("", String::as_str);
            println!("{}: {}: {name}: {first}", o.verdict.word(), unit.title());
        }
    }
    if let Some(d) = &differences {
        println!("base against patched: {} differences", d.len());
        table::layout(&compare::rows(d), 2)
            .iter()
            .for_each(|l| println!("{l}"));
    }
    println!("report: {}", dir.join("report.html").display());
    all.units.iter().for_each(|u| println!("{}", u.summary()));
    let regressed = match &differences {
        Some(d) => d.iter().filter(|d| d.change <= Change::Worse).count(),
        None => 0,
    };
    let of = |v: Verdict| all.units.iter().map(|u| u.count(v)).sum::<usize>();
    match (
        &differences,
        regressed,
        of(Verdict::Crash),
        of(Verdict::Fail),
    ) {
        (Some(_), 0, ..) | (None, _, 0, 0) => Ok(()),
        (Some(_), n, ..) => Err(Failure::of(Kind::Test, format!("{n} regressions"))),
        (None, _, 0, n) => Err(Failure::of(Kind::Test, format!("{n} tests failed"))),
        (None, _, n, _) => Err(Failure::of(
            Kind::Kernel,
            format!("the kernel did not survive {n} tests"),
        )),
    }
}
