// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench`: what the series costs, in instructions, beside the base kernel and beside what else one
//! could do.

use super::build;
use crate::bench::records::{parse, Boot, Results, Setting};
use crate::bench::{budgets, markdown, page, profile};
use crate::env::cache::write_atomic;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::guest::session::{shared, Session};
use crate::guest::tools::{self, Tools};
use crate::guest::vm::{Clock, Machine};
use crate::kernel::profile::Profile;
use crate::ui::proc::{quote, Cmd};
use crate::ui::table;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Boots the base kernel and the series, with the same configuration and command line, on a machine that
counts instructions; then the series on two processors. Results go to out/bench: bench.json, the page
bench.html, and bench.md. Budgets are in configs/bench-budgets.toml.

Examples:
  cargo xtask bench
  cargo xtask bench --check
  cargo xtask bench --only files --only gup --boots 1
  cargo xtask bench --profile --only owned
  cargo xtask bench --from out/bench/bench.json --document Documentation/bench.md";

/// Measure what the series costs
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Fail if a budget is exceeded, or something with a budget was not measured
    #[arg(long)]
    check: bool,
    /// Only groups of this name (`*` stands for anything); can be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this kernel and machine; can be given several times
    #[arg(long, value_enum, value_name = "WHAT")]
    on: Vec<On>,
    /// How often each kernel is booted on a machine that counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,
    /// The base kernel's image, to build none
    #[arg(long, value_name = "IMAGE")]
    base: Option<PathBuf>,
    /// Measure nothing, and take these results
    #[arg(long, value_name = "JSON")]
    from: Option<PathBuf>,
    /// Add the new boots to these results, for groups that were measured one by one
    #[arg(long, value_name = "JSON", conflicts_with = "from")]
    add_to: Option<PathBuf>,
    /// Find out which functions of the kernel the instructions are spent in, and write that to
    /// out/bench/profile.md; only the series is booted, once
    #[arg(long, conflicts_with_all = ["from", "add_to", "check"])]
    profile: bool,
    /// Write the tables to this file as well
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
}

const BASE: &str = "base";
const SERIES: &str = "series";

/// A kernel and a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// The base kernel, on a machine that counts
    Base,
    /// The series, on a machine that counts
    Series,
    /// The series, on two processors
    Processors,
}

impl Opts {
    fn has(&self, on: On) -> bool {
        self.on.is_empty() || self.on.contains(&on)
    }
}

/// Measures, writes and judges.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    let budgets = budgets::read(&ctx.root.join("configs/bench-budgets.toml"))?;
    let earlier = opts.from.as_ref().or(opts.add_to.as_ref());
    let earlier = earlier.map(|path| load(path)).transpose()?;
    let logs = ctx.logs("bench")?;
    if opts.profile {
        return profiled(ctx, opts, &logs);
    }
    let results = match (earlier, &opts.from) {
        (Some(results), Some(_)) => results,
        (earlier, _) => {
            let mut new = measure(ctx, opts, &logs)?;
            if let Some(earlier) = earlier {
                new.boots.splice(0..0, earlier.boots);
                let mut images = earlier.setting.images;
                images.extend(std::mem::take(&mut new.setting.images));
                new.setting.images = images;
            }
            new
        }
    };
    if ctx.global.dry_run {
        return Ok(());
    }
    let outcomes = budgets::judge(&budgets, &results);
    let json = serde_json::to_string_pretty(&results)?;
    write_atomic(&logs.join("bench.json"), json.as_bytes())?;
    write_atomic(
        &logs.join("bench.html"),
        page::page(&results, &outcomes).as_bytes(),
    )?;
    let document = markdown::document(&results, &outcomes);
    write_atomic(&logs.join("bench.md"), document.as_bytes())?;
    if let Some(path) = &opts.document {
        write_atomic(path, document.as_bytes())?;
    }
    table::layout(&markdown::rows(&outcomes), 0)
        .iter()
        .for_each(|l| println!("{l}"));
    for line in markdown::summary(&results) {
        println!("\n{line}");
    }
    println!("\n{}", logs.join("bench.html").display());
    let failed: Vec<&str> = results
        .boots
        .iter()
        .flat_map(|boot| boot.failed.iter().map(String::as_str))
        .collect();
    if !failed.is_empty() && opts.from.is_none() {
        return Err(Failure::of(
            Kind::Test,
            format!("not everything could be measured\n{}", failed.join("\n")),
        ));
    }
    let exceeded = markdown::exceeded(&outcomes);
    let missing = outcomes.iter().filter(|o| o.findings.is_empty()).count();
    if opts.check && (!exceeded.is_empty() || missing > 0) {
        return Err(Failure::of(
            Kind::Test,
            format!(
                "{} comparisons exceed their budgets, {missing} budgets have nothing measured\n{}",
                exceeded.len(),
                exceeded.join("\n")
            ),
        ));
    }
    Ok(())
}

fn load(path: &Path) -> Result<Results> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn measure(ctx: &Ctx, opts: &Opts, logs: &Path) -> Result<Results> {
    let mut images: Vec<(&str, PathBuf)> = vec![];
    if opts.has(On::Base) {
        let base = match &opts.base {
            Some(image) => image.clone(),
            // `--kernel` is about the series.
            None => build::image(&without_kernel(ctx)?, Profile::Base, logs)?,
        };
        // A build leaves its image in the logs, where the next one would overwrite it.
        images.push((BASE, kept(ctx, &base, logs, BASE)?));
    }
    if opts.has(On::Series) || opts.has(On::Processors) {
        let series = build::image(ctx, Profile::Default, logs)?;
        images.push((SERIES, kept(ctx, &series, logs, SERIES)?));
    }
    let tools = tools::build(ctx, logs)?;
    let mut results = Results {
        setting: setting(ctx, &images)?,
        boots: vec![],
    };
    let mut all = vec![];
    for round in 1..=opts.boots {
        for (kernel, image) in &images {
            if *kernel == BASE || opts.has(On::Series) {
                let name = format!("{kernel}-{round}");
                all.push((*kernel, image, Clock::Instructions, name));
            }
        }
    }
    if let (true, Some((kernel, image))) = (opts.has(On::Processors), images.last()) {
        all.push((*kernel, image, Clock::Host, format!("{kernel}-processors")));
    }
    for (kernel, image, clock, name) in all {
        let logs = logs.join(&name);
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        let mut step = ctx.ui.step(&format!("measuring ({name})"));
        let guest = Guest {
            ctx,
            image,
            logs: &logs,
            tools: &tools,
            only: &opts.only,
            qemu: vec![],
        };
        let (boot, release) = guest.boot(kernel, clock, |line| step.line(line))?;
        step.done(&format!("{} values", boot.records.len()));
        if !release.is_empty() {
            results.setting.release = release;
        }
        results.boots.push(boot);
    }
    Ok(results)
}

/// How many functions of each record are shown.
const LONGEST: usize = 25;

fn profiled(ctx: &Ctx, opts: &Opts, logs: &Path) -> Result<()> {
    let image = build::image(ctx, Profile::Default, logs)?;
    let tools = tools::build(ctx, logs)?;
    let plugin = logs.join("profile.so");
    let compile = Cmd::new("gcc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&plugin)
        .arg(ctx.root.join("tools/profile/profile.c"));
    ctx.exec(&compile)?;
    let raw = logs.join("profile.raw");
    let guest = Guest {
        ctx,
        image: &image,
        logs,
        tools: &tools,
        only: &opts.only,
        qemu: vec![
            "-plugin".into(),
            format!("{},out={}", plugin.display(), raw.display()),
        ],
    };
    let mut step = ctx.ui.step("profiling");
    let (boot, _) = guest.boot(SERIES, Clock::Instructions, |line| step.line(line))?;
    if ctx.global.dry_run {
        return Ok(());
    }
    step.done(&format!("{} values", boot.records.len()));
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let symbols = profile::Symbols::parse(&read(&shared(logs).join("kallsyms"))?)?;
    let sections = profile::parse(&read(&raw)?, &symbols)?;
    let document = profile::document(&boot.records, &sections, LONGEST)?;
    let path = logs.join("profile.md");
    write_atomic(&path, document.as_bytes())?;
    println!("{}", path.display());
    Ok(())
}

fn without_kernel(ctx: &Ctx) -> Result<Ctx> {
    let mut global = ctx.global.clone();
    global.kernel = None;
    Ctx::new(global)
}

fn kept(ctx: &Ctx, image: &Path, logs: &Path, name: &str) -> Result<PathBuf> {
    let copy = logs.join(format!("bzImage-{name}"));
    if ctx.global.dry_run {
        return Ok(image.to_path_buf());
    }
    std::fs::copy(image, &copy).with_context(|| format!("cannot copy {}", image.display()))?;
    Ok(copy)
}

/// What somebody needs to know who wants to measure the same.
fn setting(ctx: &Ctx, images: &[(&str, PathBuf)]) -> Result<Setting> {
    if ctx.global.dry_run {
        return Ok(Setting::default());
    }
    let git = |args: &[&str]| Cmd::git(&ctx.root).args(args.iter().copied()).output();
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?
        .trim()
        .is_empty();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut setting = Setting {
        project: format!(
            "{}{}",
            commit.trim(),
            if changed { ", with changes" } else { "" }
        ),
        command_line: Clock::Instructions.kernel_options(Machine::SMALL).join(" "),
        ..Setting::default()
    };
    let version = Cmd::new("qemu-system-x86_64").arg("--version").output()?;
    setting.qemu = format!(
        "{}, {}",
        version.lines().next().unwrap_or_default(),
        Clock::Instructions.qemu_options().join(" ")
    );
    for (name, image) in images {
        let bytes =
            std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
        let sum: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        setting
            .images
            .insert((*name).into(), format!("bzImage, sha256 {}", &sum[..16]));
    }
    Ok(setting)
}

struct Guest<'a> {
    ctx: &'a Ctx,
    image: &'a Path,
    logs: &'a Path,
    tools: &'a Tools,
    only: &'a [String],
    qemu: Vec<String>,
}

impl Guest<'_> {
    fn boot(&self, kernel: &str, clock: Clock, note: impl FnMut(&str)) -> Result<(Boot, String)> {
        let out = shared(self.logs).join("bench.jsonl");
        let word = |p: &Path| quote(p.as_os_str());
        let mut script = format!(
            "uname -r >{}\ncat /proc/kallsyms >{}\n{} bench --results {} --daxpin {}",
            word(&shared(self.logs).join("release")),
            word(&shared(self.logs).join("kallsyms")),
            word(&self.tools.guest),
            word(&out),
            word(&self.tools.daxpin)
        );
        for name in self.only {
            script.push_str(&format!(" --only {}", quote(name.as_ref())));
        }
        let session = Session {
            image: self.image,
            logs: self.logs,
            script,
            silence: Duration::from_secs(600),
            limit: None,
            attached: false,
        };
        let status = session
            .run_on(self.ctx, clock, &self.qemu, note)?
            .check(self.logs)?;
        if self.ctx.global.dry_run {
            return Ok((Boot::default(), String::new()));
        }
        let text = std::fs::read_to_string(&out)
            .with_context(|| format!("the guest wrote no results: {}", out.display()))?;
        let (records, complete) = parse(&text)?;
        let said = std::fs::read_to_string(shared(self.logs).join("stderr")).unwrap_or_default();
        let mut failed: Vec<String> = said
            .lines()
            .filter(|l| l.starts_with("guest: "))
            .map(str::to_string)
            .collect();
        if !complete || status != 0 && failed.is_empty() {
            failed.push(format!("guest: ended with status {status}"));
        }
        let release =
            std::fs::read_to_string(shared(self.logs).join("release")).unwrap_or_default();
        let boot = Boot {
            kernel: kernel.into(),
            counted: clock == Clock::Instructions,
            records,
            failed,
        };
        Ok((boot, release.trim().into()))
    }
}
