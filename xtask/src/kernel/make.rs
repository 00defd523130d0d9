// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuring and building a kernel in the cache.

use super::config;
use super::kbuild;
use super::objects::{self, Counter};
use super::profile::Profile;
use super::snapshot::{self, State};
use super::tree::Tree;
use super::unfinished;
use super::variant;
use crate::env::cache::{require_space, sha256_text, write_atomic};
use crate::env::{tools, Ctx};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A configured source tree and where it builds.
struct Build<'a> {
    ctx: &'a Ctx,
    profile: Profile,
    src: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    /// An option that the source does not know yet may be asked for.
    lenient: bool,
}

/// The image of a commit.
pub struct Built {
    /// Where it is, until the next build of this profile.
    pub image: PathBuf,
    /// Objects that had to be compiled.
    pub objects: usize,
    /// What the compilers warned of.
    pub warnings: Vec<String>,
}

/// Builds a commit of the series in a build directory for such builds.
///
/// The source is that of every other build of the series, so that ccache knows most of it. The first
/// build with the feature switched off starts from the objects of that with the feature on: of most
/// files, make sees that they do not depend on what has changed.
pub fn build_commit(
    ctx: &Ctx,
    tree: &Tree,
    profile: Profile,
    commit: &str,
    logs: &Path,
) -> Result<Built> {
    let flavour = profile.flavour();
    let b = Build {
        ctx,
        profile,
        src: ctx.cache.src(flavour),
        dir: ctx.cache.build(&format!("bisect-{profile}")),
        log: logs.join(format!("{profile}.log")),
        lenient: true,
    };
    let _lock = ctx.cache.lock_source(flavour, &ctx.ui)?;
    let (_, hash) = snapshot::update(ctx, &tree.dir, &State::Commit(commit), flavour)
        .context("bringing the kernel source into the cache")?;
    if !b.dir.join("vmlinux").exists() {
        require_space(&ctx.cache.dir, 3_000_000_000, "a kernel build")?;
    }
    let like = ctx.cache.build(&format!("bisect-{}", Profile::Default));
    if profile != Profile::Default && !b.dir.exists() && like.join("vmlinux").exists() {
        copy_build(&like, &b.dir)?;
    }
    fs::create_dir_all(&b.dir).with_context(|| format!("cannot make {}", b.dir.display()))?;
    b.configure(tree, &hash)?;
    let (objects, said) = b.compile()?;
    let mut warnings = variant::complaints(&said);
    warnings.retain(|c| c.contains("warning:"));
    let image = logs.join(format!("bzImage-{profile}"));
    fs::copy(b.dir.join("arch/x86/boot/bzImage"), &image)
        .with_context(|| format!("cannot copy to {}", image.display()))?;
    Ok(Built {
        image,
        objects,
        warnings,
    })
}

/// Copies a build directory with its file times; an interrupted copy is not left under the name.
fn copy_build(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    Cmd::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(from)
        .arg(&part)
        .output()?;
    fs::rename(&part, to).with_context(|| format!("cannot make {}", to.display()))
}

/// What a build of this profile depends on besides the source.
pub fn settings(ctx: &Ctx, profile: Profile) -> Result<String> {
    let mut text = fragments(ctx, profile)?.concat();
    for tool in ["rustc", "gcc", "ld"] {
        text.push_str(&Cmd::new(tool).arg("--version").output()?);
    }
    Ok(sha256_text(&text))
}

/// The texts of the profile's configuration fragments, in their order.
pub fn fragments(ctx: &Ctx, profile: Profile) -> Result<Vec<String>> {
    let read = |name: &&str| {
        let path = ctx.root.join(format!("configs/{name}.config"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    profile.fragments().iter().map(read).collect()
}

/// Builds the tree under this profile; gives the image.
pub fn build(ctx: &Ctx, tree: &Tree, profile: Profile, logs: &Path) -> Result<PathBuf> {
    tools::require(&format!("the profile {profile}"), profile.needs())?;
    let flavour = profile.flavour();
    let dir = ctx.cache.build(profile.name());
    let b = Build {
        ctx,
        profile,
        src: ctx.cache.src(flavour),
        dir,
        log: logs.join("build.log"),
        lenient: false,
    };
    let image = b.dir.join("arch/x86/boot/bzImage");
    if ctx.global.dry_run {
        println!("{}\n{}", b.make(&["olddefconfig"])?, b.make(&["bzImage"])?);
        return Ok(image);
    }
    let _lock = ctx.cache.lock_source(flavour, &ctx.ui)?;
    let hooks = crate::mutants::hooks(ctx);
    let state = match profile {
        Profile::Base => State::Commit(&tree.base),
        Profile::Mutants => State::Patched(&hooks),
        _ => State::WorkTree,
    };
    let (_, hash) = snapshot::update(ctx, &tree.dir, &state, flavour)
        .context("bringing the kernel source into the cache")?;
    if !b.dir.join("vmlinux").exists() {
        require_space(&ctx.cache.dir, 3_000_000_000, "a kernel build")?;
    }
    fs::create_dir_all(&b.dir).with_context(|| format!("cannot make {}", b.dir.display()))?;
    b.configure(tree, &hash)?;
    b.compile()?;
    // A copy, so that a later build does not change the image under a running guest.
    let kept = logs.join("bzImage");
    fs::copy(&image, &kept).with_context(|| format!("cannot copy to {}", kept.display()))?;
    Ok(kept)
}

impl Build<'_> {
    fn make(&self, targets: &[&str]) -> Result<Cmd> {
        let args: Vec<&str> = ["ARCH=x86_64"]
            .iter()
            .chain(self.profile.compilers())
            .chain(targets)
            .copied()
            .collect();
        kbuild::make(self.ctx, &self.src, &self.dir, &args)
    }

    /// What the configuration depends on: the fragments, the tree's Kconfig files, the tools.
    fn fingerprint(&self, fragments: &[String], hash: &str) -> Result<String> {
        let git_dir = self.src.with_extension("git");
        let tree = Cmd::git(&git_dir)
            .env("GIT_DIR", &git_dir)
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                Cmd::git(&self.ctx.linux())
                    .args([
                        "rev-parse",
                        "--path-format=absolute",
                        "--git-path",
                        "objects",
                    ])
                    .output()?,
            )
            .args(["ls-tree", "-r", hash])
            .output()?;
        let kconfig = |l: &&str| {
            l.contains("Kconfig") || l.ends_with(".config") || l.contains("\tscripts/kconfig/")
        };
        let mut text: String = tree.lines().filter(kconfig).collect::<Vec<_>>().join("\n");
        for f in fragments {
            text.push_str(f);
        }
        for tool in ["rustc", "gcc", "ld"] {
            text.push_str(&Cmd::new(tool).arg("--version").output()?);
        }
        text.push_str(
            &self
                .make(&[])?
                .to_string()
                .replace(&format!("-j{}", self.ctx.jobs()), ""),
        );
        Ok(sha256_text(&text))
    }

    fn configure(&self, tree: &Tree, hash: &str) -> Result<()> {
        let fragments = fragments(self.ctx, self.profile)?;
        let stamp = self.dir.join(".xtask-configured");
        let print = self.fingerprint(&fragments, hash)?;
        if fs::read_to_string(&stamp).is_ok_and(|s| s == print) && self.dir.join(".config").exists()
        {
            return Ok(());
        }
        let _ = fs::remove_file(&stamp);
        let mut step = self
            .ctx
            .ui
            .step(&format!("configuring the kernel ({})", self.profile));
        let dot_config = self.dir.join(".config");
        let requested = config::merge(fragments.iter().map(String::as_str));
        self.run(&self.make(&["tinyconfig"])?, |l| step.line(l))?;
        let tiny = fs::read_to_string(&dot_config).context("make tinyconfig wrote no .config")?;
        fs::write(&dot_config, config::overlay(&tiny, &requested))
            .with_context(|| format!("cannot write {}", dot_config.display()))?;
        self.run(&self.make(&["olddefconfig"])?, |l| step.line(l))?;
        let result = fs::read_to_string(&dot_config).context("make olddefconfig: no .config")?;
        let mut wrong = config::verify(&requested, &result);
        wrong.retain(|m| {
            let unknown = || m.got.is_none() && !self.knows(tree, &m.name);
            !(self.profile.tolerates(&m.name) || self.lenient && unknown())
        });
        config::refuse(&wrong, |symbol| self.knows(tree, symbol))?;
        write_atomic(&stamp, print.as_bytes())?;
        step.done("");
        Ok(())
    }

    /// Does some Kconfig file of the source tree define the symbol?
    fn knows(&self, _tree: &Tree, symbol: &str) -> bool {
        let name = symbol.trim_start_matches("CONFIG_");
        Cmd::new("grep")
            .args(["-rqE", "--include=Kconfig*"])
            .arg(format!("^(menu)?config {name}$"))
            .arg(&self.src)
            .succeeds()
    }

    /// Gives the number of objects compiled, and what was printed besides their names.
    fn compile(&self) -> Result<(usize, String)> {
        let total_file = self.dir.join(".xtask-objects");
        let total = fs::read_to_string(&total_file)
            .ok()
            .and_then(|t| t.parse().ok());
        let whole = !self.dir.join("vmlinux").exists();
        let present = if whole {
            objects::present(&self.dir)
        } else {
            0
        };
        let mut counter = Counter::new(present, total, whole);
        let label = format!("building the kernel ({})", self.profile);
        let mut step = self.ctx.ui.step(&label);
        unfinished::begin(&self.dir)?;
        let said = kbuild::run(self.ctx, &self.log, &self.make(&["bzImage"])?, |l| {
            counter.line(l);
            step.status(counter.status());
            step.line(l);
        })?;
        unfinished::end(&self.dir)?;
        if whole {
            write_atomic(
                &total_file,
                objects::present(&self.dir).to_string().as_bytes(),
            )?;
        }
        let built = counter.built() - if whole { present } else { 0 };
        step.done(&format!("{built} objects built"));
        Ok((built, said))
    }

    fn run(&self, cmd: &Cmd, line: impl FnMut(&str)) -> Result<()> {
        kbuild::run(self.ctx, &self.log, cmd, line).map(drop)
    }
}
