// SPDX-License-Identifier: MIT OR Apache-2.0
//! `variants`: compiles what the series touches in other configurations and with other compilers.

use super::{apply, setup};
use crate::env::cache::require_space;
use crate::env::{tools, Ctx};
use crate::error::{Failure, Kind};
use crate::kernel::profile::Profile;
use crate::kernel::snapshot::{self, State};
use crate::kernel::tree::Tree;
use crate::kernel::variant::{self, Split, Variant, VARIANTS};
use crate::kernel::{config, disassembly, kbuild, make};
use crate::ui::table;
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Compiles the files that the series touches, not the whole kernel. A variant whose compiler is not
installed is refused with the name of the Debian package; without names, all variants are built.

Examples:
  cargo xtask variants
  cargo xtask variants clang arm64
  cargo xtask variants --list";

/// Compile the touched files in other configurations: 32-bit, arm64, clang, without Rust, ...
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Which ones (default: all)
    names: Vec<String>,
    /// List them
    #[arg(long)]
    list: bool,
}

/// Builds and reports.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    if opts.list {
        let rows: Vec<Vec<String>> = VARIANTS
            .iter()
            .map(|v| vec![v.name.into(), v.about.into()])
            .collect();
        table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
        return Ok(());
    }
    let chosen = choose(&opts.names)?;
    setup::ensure(ctx)?;
    for v in &chosen {
        tools::require(&format!("the variant {}", v.name), v.needs)?;
    }
    let Some(tree) = apply::ensure(ctx)? else {
        return Ok(());
    };
    let logs = ctx.logs("variants")?;
    let mut rows = vec![];
    let mut failed = 0;
    for v in chosen {
        let outcome = build(ctx, &tree, v, &logs);
        crate::ui::signals::check()?;
        let said = match &outcome {
            Ok(split) if split.left_out.is_empty() => format!("{} objects", split.objects.len()),
            Ok(split) => format!(
                "{} objects; not in this configuration: {}",
                split.objects.len(),
                split.left_out.join(" ")
            ),
            Err(e) => {
                failed += 1;
                let text = crate::error::text(e);
                eprintln!("{}: {text}", v.name);
                format!(
                    "FAILED, see {}",
                    logs.join(format!("{}.log", v.name)).display()
                )
            }
        };
        rows.push(vec![v.name.to_string(), v.about.to_string(), said]);
    }
    table::layout(&rows, 0).iter().for_each(|l| println!("{l}"));
    if failed > 0 {
        return Err(Failure::of(
            Kind::Test,
            format!("{failed} of {} variants do not build cleanly", rows.len()),
        ));
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Variant>> {
    if names.is_empty() {
        return Ok(VARIANTS.iter().collect());
    }
    let find = |name: &String| {
        variant::named(name).ok_or_else(|| {
            let all: Vec<&str> = VARIANTS.iter().map(|v| v.name).collect();
            Failure::of(
                Kind::Usage,
                format!("there is no variant {name:?}; there are {}", all.join(", ")),
            )
        })
    };
    names.iter().map(find).collect()
}

/// Compiles one variant. What is wrong with the code is a failed test, not a failed set-up.
fn build(ctx: &Ctx, tree: &Tree, v: &Variant, logs: &Path) -> Result<Split> {
    let touched = tree
        .git()
        .args(["diff", "--name-only", "--diff-filter=d", &tree.base])
        .output()?;
    let (split, new) = compile(ctx, tree, v, logs, Profile::Default, &touched)?;
    if v.same {
        compile(ctx, tree, v, logs, Profile::Base, &touched)?;
        same_code(ctx, v)?;
    }
    if !v.compare {
        let warnings: Vec<&String> = new.iter().filter(|c| c.contains("warning:")).collect();
        return refuse(&warnings, "warnings").map(|()| split);
    }
    let (_, old) = compile(ctx, tree, v, logs, Profile::Base, &touched)?;
    let added = variant::added(&old, &new);
    refuse(
        &added.iter().collect::<Vec<_>>(),
        "complaints that the base has not",
    )
    .map(|()| split)
}

/// Holds the hot functions against those of the base.
fn same_code(ctx: &Ctx, v: &Variant) -> Result<()> {
    let dir = |flavour: &str| ctx.cache.build(&format!("{}-{flavour}", v.name));
    let (base, series) = (
        dir(Profile::Base.flavour()),
        dir(Profile::Default.flavour()),
    );
    let mut wrong = vec![];
    for (object, names) in disassembly::HOT {
        if !series.join(object).exists() {
            // Not touched by the series, so not compiled.
            continue;
        }
        let old = disassembly::functions(&base.join(object))?;
        let new = disassembly::functions(&series.join(object))?;
        let source = |profile: Profile| {
            let path = ctx.cache.src(profile.flavour()).join(object);
            let path = path.with_extension("c");
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let sources =
            disassembly::Sources::new(&source(Profile::Base)?, &source(Profile::Default)?);
        wrong.extend(
            disassembly::different(names, &old, &new, &sources)
                .into_iter()
                .map(|d| format!("{object}: {d}")),
        );
    }
    refuse(
        &wrong.iter().collect::<Vec<_>>(),
        "hot functions differ from the base",
    )
}

fn refuse(complaints: &[&String], what: &str) -> Result<()> {
    if complaints.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = complaints.iter().map(|c| format!("  {c}")).collect();
    Err(Failure::of(
        Kind::Test,
        format!("{} {what}:\n{}", complaints.len(), list.join("\n")),
    ))
}

/// Configures and compiles in the series' or the base's source; gives the compiler's complaints.
fn compile(
    ctx: &Ctx,
    tree: &Tree,
    v: &Variant,
    logs: &Path,
    profile: Profile,
    touched: &str,
) -> Result<(Split, Vec<String>)> {
    let flavour = profile.flavour();
    let _lock = ctx.cache.lock_source(flavour, &ctx.ui)?;
    let state = if profile == Profile::Base {
        State::Commit(&tree.base)
    } else {
        State::WorkTree
    };
    let (src, _) = snapshot::update(ctx, &tree.dir, &state, flavour)
        .context("bringing the kernel source into the cache")?;
    let dir = ctx.cache.build(&format!("{}-{flavour}", v.name));
    let log = logs.join(format!("{}.log", v.name));
    let label = format!("{} ({flavour}): {}", v.name, v.about);
    compile_at(ctx, &Place { src, dir, log }, v, profile, touched, &label)
}

/// Where something is compiled.
pub struct Place {
    /// The source.
    pub src: PathBuf,
    /// The build directory.
    pub dir: PathBuf,
    /// The log.
    pub log: PathBuf,
}

/// Configures and compiles what of the touched files the variant has.
pub fn compile_at(
    ctx: &Ctx,
    place: &Place,
    v: &Variant,
    profile: Profile,
    touched: &str,
    label: &str,
) -> Result<(Split, Vec<String>)> {
    let Place { src, dir, log } = place;
    require_space(&ctx.cache.dir, 500_000_000, "the objects of a variant")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut step = ctx.ui.step(label);

    let arch = format!("ARCH={}", v.arch);
    let make = |targets: &[&str]| {
        let args: Vec<&str> = [arch.as_str()]
            .into_iter()
            .chain(v.make.iter().copied())
            .chain(targets.iter().copied())
            .collect();
        kbuild::make(ctx, src, dir, &args)
    };
    configure(ctx, v, dir, profile, |targets| {
        kbuild::run(ctx, log, &make(targets)?, |l| step.line(l)).map(drop)
    })?;

    let result = config::parse(&fs::read_to_string(dir.join(".config"))?);
    let split = variant::split(touched.lines().filter(|f| src.join(f).exists()), |option| {
        result.get(option).is_some_and(|value| value != "n")
    });
    kbuild::run(ctx, log, &make(&["prepare"])?, |l| step.line(l))?;
    // Old objects would hide what the compiler has to say.
    for object in &split.objects {
        let _ = fs::remove_file(dir.join(object));
    }
    let mut targets = vec!["-k"];
    targets.extend(split.objects.iter().map(String::as_str));
    let mut text = String::new();
    // Directories by themselves: kbuild goes another way for single objects.
    for targets in [&targets[..], v.also] {
        if !targets.is_empty() {
            text += &kbuild::run(ctx, log, &make(targets)?, |l| step.line(l))
                .map_err(|e| Failure::of(Kind::Test, crate::error::text(&e)))?;
        }
    }
    step.done(&format!("{} objects", split.objects.len()));
    Ok((split, variant::complaints(&text)))
}

/// The default configuration with the variant's over it. What the variant asks for is looked for
/// in the result; of the default, another architecture may lack this and that.
fn configure(
    ctx: &Ctx,
    v: &Variant,
    dir: &Path,
    profile: Profile,
    mut make: impl FnMut(&[&str]) -> Result<()>,
) -> Result<()> {
    let fragments = make::fragments(ctx, profile)?;
    let mut requested = config::merge(fragments.iter().map(String::as_str));
    let own = config::parse(v.config);
    requested.extend(own.clone());
    let dot_config = dir.join(".config");
    make(&["tinyconfig"])?;
    let tiny = fs::read_to_string(&dot_config).context("make tinyconfig wrote no .config")?;
    fs::write(&dot_config, config::overlay(&tiny, &requested))
        .with_context(|| format!("cannot write {}", dot_config.display()))?;
    make(&["olddefconfig"])?;
    let result = fs::read_to_string(&dot_config).context("make olddefconfig: no .config")?;
    let mut wrong = config::verify(&own, &result);
    wrong.retain(|m| !profile.tolerates(&m.name));
    config::refuse(&wrong, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_gets_the_list() {
        let e = choose(&["clnag".into()]).unwrap_err().to_string();
        assert!(e.contains("clang") && e.contains("arm64"), "{e}");
        assert_eq!(choose(&[]).unwrap().len(), VARIANTS.len());
    }
}
