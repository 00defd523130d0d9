// SPDX-License-Identifier: MIT OR Apache-2.0
//! `series prep` and `series send`: the series in parts, each a branch that b4 manages.

use crate::cmd::setup;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::series::{self, Bench};
use crate::kernel::tree::{rev, Tree};
use crate::submit::b4::{branch, Below, B4};
use crate::submit::commits::{self, Commit};
use crate::submit::scratch::Scratch;
use crate::submit::stacks::{self, covers, needed, Cover, Part, Stack};
use crate::submit::trailers;
use crate::ui::{signals, table};
use anyhow::{Context, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const PREP: &str = "\
patches/stacks.toml says where the parts begin, which file has the cover letter of each, and which
others it needs. Each part becomes a branch b4/NAME in a work tree in the cache, with its cover
letter, change-id, addresses (from get_maintainer.pl) and `b4 prep --check`. linux/ stays as it is.

The patches have no Signed-off-by: who submits them adds it, and whatever else the kernel's process
asks for, with --trailer, once for each line.

Examples:
  cargo xtask series prep --list
  cargo xtask series prep fixes --trailer 'Signed-off-by: Jane Doe <jane@example.org>'
  cargo xtask series prep";

const SEND: &str = "\
Writes the mails of prepared parts into a directory, for reading. It sends nothing; whoever wants to
send does so with b4 itself, in the work tree that prep names.

Examples:
  cargo xtask series send --dry-run
  cargo xtask series send --dry-run fixes --out /tmp/mails";

/// Hand the series to b4, part by part: branch, cover letter, addresses, checks
#[derive(Args)]
#[command(after_help = PREP)]
pub struct PrepOpts {
    /// Which parts (default: all)
    stacks: Vec<String>,
    /// A line to add at the end of every commit message
    #[arg(long = "trailer", value_name = "LINE")]
    trailers: Vec<String>,
    /// List the parts
    #[arg(long)]
    list: bool,
}

/// Write the mails that b4 would send into a directory; needs --dry-run, for it never sends
#[derive(Args)]
#[command(after_help = SEND)]
pub struct SendOpts {
    /// Which parts (default: all that are prepared)
    stacks: Vec<String>,
    /// Where to (default: out/mails)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The scratch tree's name.
const SCRATCH: &str = "prep";

/// Prepares.
pub fn prep(ctx: &Ctx, opts: &PrepOpts) -> Result<()> {
    trailers::check(&opts.trailers)?;
    let tree = Tree::required(ctx)?;
    let all = commits::list(&tree)?;
    let stacks = stacks::read(&series::dir(ctx).join(stacks::FILE))?;
    let parts = stacks::cut(&stacks, &all)?;
    let chosen = choose(&parts, &opts.stacks)?;
    if opts.list || ctx.global.dry_run {
        list(ctx, &chosen);
        return Ok(());
    }
    // Of those that others need, b4 wants the letters as well.
    let mut concerned = chosen.clone();
    for p in &parts {
        let wanted = chosen
            .iter()
            .any(|c| needed(&stacks, &c.stack.name).contains(&p.stack.name));
        if wanted && !concerned.iter().any(|c| c.stack == p.stack) {
            concerned.push(p);
        }
    }
    let letters: BTreeMap<&str, Cover> = concerned
        .iter()
        .map(|p| p.stack.name.as_str())
        .zip(covers(&ctx.root, &concerned)?)
        .collect();
    setup::submission_tools(ctx)?;
    needs_suffice(ctx, &tree, &stacks, &parts, &chosen)?;

    let scratch = Scratch::open(ctx, SCRATCH, &tree.dir, false)?;
    let step = ctx.ui.step("making the branches");
    let tips = trailers::add(&scratch, &tree.base, &all, &opts.trailers)?;
    // Off the branches, so that they can be moved.
    let last = tips.last().context("the series is empty")?;
    scratch.checkout("whole", last)?;
    let set = |name: &str, commit: &str| {
        let args = ["branch", "-f", "--no-track", name, commit];
        scratch.git().args(args).output().map(drop)
    };
    set("stack/base", &tree.base)?;
    let mut at: BTreeMap<&str, (String, String)> = BTreeMap::new();
    let mut below = ("stack/base".to_string(), tree.base.clone());
    let mut begins: BTreeMap<&str, String> = BTreeMap::new();
    for p in &parts {
        let name = p.stack.name.as_str();
        let tip = &tips[p.commits[p.commits.len() - 1].number - 1];
        begins.insert(name, below.0.clone());
        at.insert(name, (below.1.clone(), tip.clone()));
        below = (format!("stack/{name}"), tip.clone());
        set(&below.0, tip)?;
    }
    step.done(&format!("{} patches", tips.len()));

    let b4 = B4::new(ctx, &scratch, trailers::signed(&opts.trailers))?;
    for p in &concerned {
        let (base, tip) = &at[p.stack.name.as_str()];
        b4.mark(p.stack, base, tip, &letters[p.stack.name.as_str()])?;
    }
    let upstream = &ctx.base.base.git_tag;
    let base = rev(&tree.dir, upstream);
    let mut rows = vec![
        ["part", "patches", "addresses", "b4 prep --check", "branch"]
            .map(String::from)
            .to_vec(),
    ];
    for p in &chosen {
        signals::check()?;
        let name = p.stack.name.as_str();
        let names = needed(&stacks, name);
        let below = Below {
            branch: begins[name].clone(),
            base: base.clone().unwrap_or_else(|| tree.base.clone()),
            release: upstream.clone(),
            needs: stacks.iter().filter(|s| names.contains(&s.name)).collect(),
        };
        let step = ctx.ui.step(&format!("{name}: addresses and checks"));
        b4.enroll(p.stack, &at[name].1, &below, &letters[name])?;
        let addresses = b4.addresses(p.stack)?;
        let c = b4.check()?;
        step.done("");
        rows.push(vec![
            name.into(),
            p.commits.len().to_string(),
            addresses.to_string(),
            format!(
                "{} clean, {} warnings, {} errors",
                c.clean, c.warnings, c.errors
            ),
            branch(p.stack),
        ]);
    }
    println!();
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    println!("in {}", scratch.dir.display());
    if base.is_none() {
        println!(
            "the base-commit in the mails is that of the imported tarball, for {} has no tag \
             {upstream} (cargo xtask source --from git)",
            tree.dir.display()
        );
    }
    println!("what of the checks is accepted, and why: cargo xtask series lint");
    if !trailers::signed(&opts.trailers) {
        println!("no patch is signed off: the submitter does that, with --trailer");
    }
    println!("the mails: cargo xtask series send --dry-run");
    Ok(())
}

/// Writes the mails.
pub fn send(ctx: &Ctx, opts: &SendOpts) -> Result<()> {
    if !ctx.global.dry_run {
        return Err(Failure::of(
            Kind::Usage,
            "this never sends: `cargo xtask series send --dry-run` writes the mails into a directory",
        ));
    }
    let ctx = &ctx.for_real();
    let tree = Tree::required(ctx)?;
    let all = commits::list(&tree)?;
    let stacks = stacks::read(&series::dir(ctx).join(stacks::FILE))?;
    let parts = stacks::cut(&stacks, &all)?;
    let scratch = Scratch::open(ctx, SCRATCH, &tree.dir, true)?;
    let prepared = |p: &Part| rev(&scratch.dir, &format!("refs/heads/{}", branch(p.stack)));
    let mut chosen = choose(&parts, &opts.stacks)?;
    if opts.stacks.is_empty() {
        chosen.retain(|p| prepared(p).is_some());
    }
    let missing: Vec<&str> = chosen
        .iter()
        .filter(|p| !prepared(p).is_some_and(|tip| same_tree(&scratch, &tip, p.commits)))
        .map(|p| p.stack.name.as_str())
        .collect();
    if chosen.is_empty() || !missing.is_empty() {
        return Err(Failure::of(
            Kind::Setup,
            format!(
                "not prepared, or not since the series changed: {}\nremedy: cargo xtask series prep \
                 {}",
                if missing.is_empty() { "anything".into() } else { missing.join(", ") },
                missing.join(" ")
            ),
        ));
    }
    setup::submission_tools(ctx)?;
    // The messages say whether they are signed off; what b4 checks does not matter here.
    let b4 = B4::new(ctx, &scratch, true)?;
    let out = match &opts.out {
        Some(dir) => std::path::absolute(dir)?,
        None => ctx.root.join("out/mails"),
    };
    let mut rows = vec![];
    for p in chosen {
        let dir = out.join(&p.stack.name);
        if dir.exists() {
            let mails = |name: &str| name.ends_with(".eml");
            for old in fs::read_dir(&dir)?.flatten() {
                if mails(&old.file_name().to_string_lossy()) {
                    let _ = fs::remove_file(old.path());
                }
            }
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        b4.write(p.stack, &dir)?;
        let count = fs::read_dir(&dir)?.flatten().count();
        rows.push(vec![
            p.stack.name.clone(),
            format!("{count} mails"),
            dir.display().to_string(),
        ]);
    }
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    println!("nothing has been sent");
    Ok(())
}

fn same_tree(scratch: &Scratch, tip: &str, commits: &[Commit]) -> bool {
    let args = ["rev-parse", &format!("{tip}^{{tree}}")];
    let tree = scratch.git().args(args).output().ok();
    tree.as_deref() == commits.last().map(|c| c.tree.as_str())
}

fn choose<'a>(parts: &'a [Part<'a>], names: &[String]) -> Result<Vec<&'a Part<'a>>> {
    if names.is_empty() {
        return Ok(parts.iter().collect());
    }
    let find = |n: &String| {
        parts.iter().find(|p| p.stack.name == *n).ok_or_else(|| {
            let all: Vec<&str> = parts.iter().map(|p| p.stack.name.as_str()).collect();
            Failure::of(
                Kind::Usage,
                format!("there is no part {n:?}; there are {}", all.join(", ")),
            )
        })
    };
    names.iter().map(find).collect()
}

fn list(ctx: &Ctx, parts: &[&Part]) {
    let heading = ["part", "patches", "", "needs", "cover letter"].map(String::from);
    let mut rows = vec![heading.to_vec()];
    for p in parts {
        let number = |c: Option<&Commit>| c.map_or(0, |c| c.number);
        let (from, to) = (number(p.commits.first()), number(p.commits.last()));
        let cover = p.stack.cover.display().to_string();
        let there = ctx.root.join(&p.stack.cover).exists();
        rows.push(vec![
            p.stack.name.clone(),
            format!("{from:04}-{to:04}"),
            p.commits.len().to_string(),
            p.stack.needs.join(" "),
            if there {
                cover
            } else {
                format!("{cover} (missing)")
            },
        ]);
    }
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
}

/// Each part must go on the base with nothing before it than what it says it needs.
fn needs_suffice(
    ctx: &Ctx,
    tree: &Tree,
    stacks: &[Stack],
    parts: &[Part],
    chosen: &[&Part],
) -> Result<()> {
    let step = ctx.ui.step("applying each part to what it needs");
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let tip = tree.tip().context("the tree has no branch `series`")?;
    let names = series::format(&tree.dir, &tree.base, &tip, tmp.path())?;
    let bench = Bench::new(ctx, &tree.dir)?;
    let mut wrong = vec![];
    for p in chosen {
        let needed = needed(stacks, &p.stack.name);
        let files: Vec<PathBuf> = parts
            .iter()
            .filter(|q| q.stack == p.stack || needed.contains(&q.stack.name))
            .flat_map(|q| q.commits)
            .map(|c| tmp.path().join(&names[c.number - 1]))
            .collect();
        if let Err(e) = bench.apply(&tree.base, &files) {
            let first = e.to_string();
            let lines: Vec<&str> = first
                .lines()
                .filter(|l| !l.starts_with("remedy"))
                .take(3)
                .collect();
            let text = lines
                .join("\n    ")
                .replace(&format!("{}/", tmp.path().display()), "");
            wrong.push(format!("{}: {text}", p.stack.name));
        }
    }
    if wrong.is_empty() {
        step.done("");
        return Ok(());
    }
    Err(Failure::of(
        Kind::Test,
        format!(
            "patches/{}: a part needs more than it says:\n  {}",
            stacks::FILE,
            wrong.join("\n  ")
        ),
    ))
}
