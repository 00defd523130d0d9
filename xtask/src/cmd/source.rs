// SPDX-License-Identifier: MIT OR Apache-2.0
//! `source`: gets the pristine base kernel into `linux/`.

mod submodule;

use crate::env::archive::{self, Archive, Missing};
use crate::env::cache::require_space_or;
use crate::env::Ctx;
use crate::error::{Failure, Kind};
use crate::kernel::import::{self, Tarball, BASE_BRANCH};
use crate::kernel::tree::{Tree, BRANCH};
use crate::ui::proc::Cmd;
use anyhow::{bail, ensure, Context, Result};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::Path;

const EXAMPLES: &str = "\
With --from debian the tarball of base.toml is downloaded through the machine's Debian mirror,
verified, and imported into a git repository in the cache; linux/ is a clone of that. When the
mirror no longer has upstream's tarball, the package linux-source is taken: the same release plus
Debian's own patches. The files those patches touch are recorded, and `series check` refuses a
series that touches one of them.

Examples:
  cargo xtask source
  cargo xtask source --from git
  cargo xtask source --from git --url https://git.example/linux.git --ref v7.3.4
  cargo xtask source --submodule --url ~/src/linux";

/// Get the pristine base kernel into linux/
#[derive(Args, Default)]
#[command(after_help = EXAMPLES)]
pub struct Opts {
    /// Where from (default: debian where apt is, else git)
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Repository for --from git and --submodule (default: that in base.toml)
    #[arg(long)]
    url: Option<String>,
    /// Tag or branch for --from git (default: that in base.toml)
    #[arg(long = "ref", requires = "from", value_name = "TAG")]
    reference: Option<String>,
    /// Make linux/ a submodule at the tag of base.toml (writes .gitmodules, to be committed)
    #[arg(long, conflicts_with_all = ["from", "reference"])]
    submodule: bool,
}

/// Where the source comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// Debian's archive
    Debian,
    /// A shallow clone
    Git,
}

/// Gets the source.
pub fn run(ctx: &Ctx, opts: &Opts) -> Result<()> {
    submodule::undo_unfinished(ctx);
    if let Some(tree) = Tree::find(ctx)? {
        if opts.submodule && !submodule::configured(ctx) {
            bail!(
                "{} is there already, and no submodule; move it away first",
                tree.dir.display()
            );
        }
        ctx.ui
            .note(&format!("{} is there already", tree.dir.display()));
        return Ok(());
    }
    get(ctx, opts)
}

/// Gets the source unless there is some.
pub fn ensure(ctx: &Ctx) -> Result<()> {
    submodule::undo_unfinished(ctx);
    if Tree::find(ctx)?.is_some() {
        return Ok(());
    }
    get(ctx, &Opts::default())
}

fn get(ctx: &Ctx, opts: &Opts) -> Result<()> {
    if let Some(dir) = &ctx.global.linux {
        bail!("--linux {}: there is no kernel tree", dir.display());
    }
    let from = opts.from.unwrap_or_else(|| {
        if Path::new("/etc/apt").exists() {
            From::Debian
        } else {
            From::Git
        }
    });
    if from == From::Debian && !opts.submodule && (opts.url.is_some() || opts.reference.is_some()) {
        return Err(Failure::of(
            Kind::Usage,
            "--url and --ref go with --from git",
        ));
    }
    let dest = ctx.linux();
    if !ctx.global.dry_run && dest.exists() && fs::read_dir(&dest)?.next().is_some() {
        bail!(
            "{} exists and is no kernel tree; move it away",
            dest.display()
        );
    }
    if opts.submodule {
        return submodule::make(ctx, opts.url.as_deref());
    }
    match from {
        From::Debian => from_debian(ctx, &dest),
        From::Git => from_git(ctx, &dest, opts),
    }
}

fn from_debian(ctx: &Ctx, dest: &Path) -> Result<()> {
    let base = ctx.cache.base_git(&ctx.base.base.version);
    let _lock = (!ctx.global.dry_run)
        .then(|| ctx.cache.lock("cache", &ctx.ui)?.with_children())
        .transpose()?;
    if !base.exists() {
        if !ctx.global.dry_run {
            ctx.cache.sweep();
        }
        let tarball = tarball(ctx)?;
        if !ctx.global.dry_run {
            import::import(ctx, tarball, &base)?;
        }
    }
    // A clone in the same file system shares the pack. With --local git would refuse any other.
    let tmp = dest.with_file_name(".linux.tmp");
    let clone = Cmd::new("git")
        .args([
            "-c",
            "checkout.workers=0",
            "clone",
            "-q",
            "--branch",
            BASE_BRANCH,
        ])
        .arg(&base)
        .arg(&tmp);
    if ctx.global.dry_run {
        println!("{clone}\nmv {} {}", tmp.display(), dest.display());
        return Ok(());
    }
    require_space_or(
        &ctx.root,
        2_500_000_000,
        "the kernel tree",
        "clone this project to a larger disk, or give a kernel tree there with --linux",
    )?;
    let remove = || {
        if tmp.exists() {
            let _ = fs::remove_dir_all(&tmp);
        }
    };
    remove();
    let step = ctx.ui.step("checking out linux/");
    let made = ctx
        .exec(&clone)
        .and_then(|_| ctx.exec(&Cmd::git(&tmp).args(["remote", "remove", "origin"])))
        .and_then(|_| ctx.exec(&Cmd::git(&tmp).args(["checkout", "-q", "-b", BRANCH])));
    if let Err(e) = made {
        remove();
        return Err(e);
    }
    if dest.exists() {
        fs::remove_dir(dest).with_context(|| format!("cannot replace {}", dest.display()))?;
    }
    fs::rename(&tmp, dest).with_context(|| format!("cannot rename to {}", dest.display()))?;
    step.done("");
    Ok(())
}

/// The tarball, downloaded and verified: upstream's, or Debian's patched variant.
fn tarball(ctx: &Ctx) -> Result<Tarball> {
    let (pin, debian) = (&ctx.base.base, &ctx.base.debian);
    let have = ctx.cache.downloads().join(&pin.tarball);
    let deb = format!(
        "{}_{}_all.deb",
        debian.patched_package, debian.source_version
    );
    for (path, patched) in [
        (have.clone(), false),
        (ctx.cache.downloads().join(deb), true),
    ] {
        if path.exists() {
            return Ok(Tarball { path, patched });
        }
    }
    let archive = Archive::open(ctx)?;
    if ctx.global.dry_run {
        println!(
            "apt-get source --download-only {}={}",
            debian.source_package, debian.source_version
        );
        println!("git fast-import < {}", pin.tarball);
        return Ok(Tarball {
            path: have,
            patched: false,
        });
    }
    let listed = archive.source_files(&debian.source_package, &debian.source_version);
    let upstream = listed
        .unwrap_or_default()
        .into_iter()
        .find(|f| f.name == pin.tarball);
    if let Some(file) = upstream {
        match archive::download(ctx, &file, &pin.sha256) {
            Ok(path) => {
                return Ok(Tarball {
                    path,
                    patched: false,
                })
            }
            Err(Missing::Failed(e)) => return Err(e),
            Err(Missing::NotThere) => {}
        }
    }
    ctx.ui.note(&format!(
        "the archive does not have upstream's {}; taking {} of the same release, which has \
         Debian's patches (cargo xtask source --help)",
        pin.tarball, debian.patched_package
    ));
    let elsewhere = "the archive has neither; `cargo xtask source --from git` needs no Debian";
    let file = archive
        .binary_file(&debian.patched_package, &debian.source_version)
        .context(elsewhere)?;
    match archive::download(ctx, &file, &debian.patched_sha256) {
        Ok(path) => Ok(Tarball {
            path,
            patched: true,
        }),
        Err(Missing::Failed(e)) => Err(e),
        Err(Missing::NotThere) => bail!(elsewhere),
    }
}

fn from_git(ctx: &Ctx, dest: &Path, opts: &Opts) -> Result<()> {
    let pin = &ctx.base.base;
    let reference = opts.reference.as_deref().unwrap_or(&pin.git_tag);
    if submodule::configured(ctx) {
        return submodule::check_out(ctx, opts.url.as_deref());
    }
    let step = (!ctx.global.dry_run).then(|| ctx.ui.step(&format!("cloning {reference}")));
    let url = opts.url.as_deref().unwrap_or(&pin.git_url);
    let tmp = dest.with_file_name(".linux.tmp");
    if !ctx.global.dry_run && tmp.exists() {
        fs::remove_dir_all(&tmp).with_context(|| format!("removing {}", tmp.display()))?;
    }
    let clone = Cmd::new("git")
        .args(["-c", "advice.detachedHead=false", "clone", "-q"])
        .args(["--depth", "1", "--branch", reference, url])
        .arg(&tmp);
    let made = ctx
        .exec(&clone)
        .with_context(|| format!("cannot clone {reference} from {url}"))
        .and_then(|_| {
            if ctx.global.dry_run {
                Ok(())
            } else {
                begin(ctx, &tmp)
            }
        });
    if let Err(e) = made {
        let _ = fs::remove_dir_all(&tmp);
        return Err(e);
    }
    if ctx.global.dry_run {
        return Ok(());
    }
    if dest.exists() {
        fs::remove_dir(dest).with_context(|| format!("cannot replace {}", dest.display()))?;
    }
    fs::rename(&tmp, dest).with_context(|| format!("cannot rename to {}", dest.display()))?;
    let tree = Tree::required(ctx)?;
    ensure!(tree.dir == dest, "the clone went astray");
    if let Some(step) = step {
        step.done("");
    }
    Ok(())
}

/// Makes our branches in a new clone, whatever it has checked out; refuses another release.
fn begin(ctx: &Ctx, dir: &Path) -> Result<()> {
    // What was cloned may be a branch that has the name of one of ours.
    ctx.exec(&Cmd::git(dir).args(["checkout", "-q", "--detach"]))?;
    let base = Cmd::git(dir).args(["rev-parse", "HEAD"]).output()?;
    let tree = Tree {
        dir: dir.to_path_buf(),
        base,
    };
    tree.check_version(ctx)?;
    ctx.exec(&tree.git().args(["branch", "-f", BASE_BRANCH, &tree.base]))?;
    let checkout = ["checkout", "-q", "-B", BRANCH, &tree.base];
    ctx.exec(&tree.git().args(checkout)).map(drop)
}
