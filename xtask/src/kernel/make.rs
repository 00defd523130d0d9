// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuring and building a kernel in the cache.

use super::config;
use super::objects::{self, Counter};
use super::profile::Profile;
use super::snapshot::{self, State};
use super::tree::Tree;
use crate::env::cache::{require_space, sha256_text, write_atomic};
use crate::env::{tools, Ctx};
use crate::error::{Failure, Kind};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A configured source tree and where it builds.
struct Build<'a> {
    ctx: &'a Ctx,
    profile: Profile,
    src: PathBuf,
    dir: PathBuf,
    log: PathBuf,
}

/// Builds the tree under this profile; gives the image.
pub fn build(ctx: &Ctx, tree: &Tree, profile: Profile, logs: &Path) -> Result<PathBuf> {
    let flavour = profile.flavour();
    let dir = ctx.cache.build(profile.name());
    let b = Build {
        ctx,
        profile,
        src: ctx.cache.src(flavour),
        dir,
        log: logs.join("build.log"),
    };
    let image = b.dir.join("arch/x86/boot/bzImage");
    if ctx.global.dry_run {
        println!("{}\n{}", b.make(&["olddefconfig"])?, b.make(&["bzImage"])?);
        return Ok(image);
    }
    let _lock = ctx.cache.lock(&format!("src-{flavour}"), &ctx.ui)?;
    let state = if profile == Profile::Base {
        State::Commit(&tree.base)
    } else {
        State::WorkTree
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
    /// `make` with everything that must be the same each time.
    fn make(&self, targets: &[&str]) -> Result<Cmd> {
        let rustc = tools::rustc_version(self.ctx)?;
        let lib_src = tools::rust_lib_src(self.ctx, &rustc).unwrap_or_else(|| {
            self.ctx
                .cache
                .rust_src(&rustc)
                .join(format!("usr/src/rustc-{rustc}/library"))
        });
        let libclang = tools::libclang_dir().unwrap_or_else(|| "/usr/lib/llvm-19/lib".into());
        Ok(Cmd::new("make")
            .env("LIBCLANG_PATH", libclang)
            .env("CCACHE_DIR", self.ctx.cache.ccache())
            .env("CCACHE_BASEDIR", &self.ctx.cache.dir)
            .env("CCACHE_NOHASHDIR", "1")
            .env("CCACHE_MAXSIZE", "5G")
            .env("LC_ALL", "C.UTF-8")
            .arg("-C")
            .arg(&self.src)
            .arg(format!("O={}", self.dir.display()))
            .arg(format!("-j{}", self.ctx.jobs()))
            .args([
                "ARCH=x86_64",
                "CC=ccache gcc",
                "LOCALVERSION=",
                "--no-print-directory",
            ])
            .arg(format!("BINDGEN={}", tools::bindgen(self.ctx).display()))
            .arg(format!("RUST_LIB_SRC={}", lib_src.display()))
            .args([
                "KBUILD_BUILD_TIMESTAMP=Thu Jan 1 00:00:00 UTC 2026",
                "KBUILD_BUILD_USER=u",
            ])
            .args(["KBUILD_BUILD_HOST=h", "KBUILD_BUILD_VERSION=1"])
            .args(targets))
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
        let read = |name: &&str| {
            let path = self.ctx.root.join(format!("configs/{name}.config"));
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let fragments = self
            .profile
            .fragments()
            .iter()
            .map(read)
            .collect::<Result<Vec<String>>>()?;
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
        wrong.retain(|m| !self.profile.tolerates(&m.name));
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

    fn compile(&self) -> Result<()> {
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
        self.run(&self.make(&["bzImage"])?, |l| {
            counter.line(l);
            step.status(counter.status());
            step.line(l);
        })?;
        if whole {
            write_atomic(
                &total_file,
                objects::present(&self.dir).to_string().as_bytes(),
            )?;
        }
        step.done(&format!(
            "{} objects built",
            counter.built() - if whole { present } else { 0 }
        ));
        Ok(())
    }

    /// Runs make; the output goes to the log, and the error shows where the compiler complained.
    fn run(&self, cmd: &Cmd, mut line: impl FnMut(&str)) -> Result<()> {
        let mut log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let _ = writeln!(log, "+ {cmd}");
        if self.ctx.global.verbose {
            eprintln!("+ {cmd}");
        }
        let mut text = String::new();
        let status = cmd.lines(|l| {
            // The log is for the reader; a full disk shows in make's own failure.
            let _ = writeln!(log, "{l}");
            if !objects::is_object(l) {
                text.push_str(l);
                text.push('\n');
            }
            line(l);
        })?;
        if status.success() {
            return Ok(());
        }
        if text.contains("No space left on device") {
            bail!(
                "no space left in {} while building; make room, or let DAXPIN_CACHE name a \
                 directory on a larger disk",
                self.ctx.cache.dir.display()
            );
        }
        Err(Failure::of(
            Kind::Setup,
            format!("`{cmd}` failed ({status})\n{}", complaints(&text)),
        ))
    }
}

/// The part of make's output worth showing: from the first error on.
fn complaints(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|l| l.contains("error:") || l.contains("error[") || l.contains("*** "));
    match first {
        Some(i) => lines[i.saturating_sub(2)..(i + 12).min(lines.len())].join("\n"),
        None => last_lines(text, 12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_shown_not_the_end() {
        let mut text = String::from("  GEN x\nmm/a.c: In function 'f':\nmm/a.c:1:2: error: boo\n");
        text.push_str(&"make: noise\n".repeat(40));
        let c = complaints(&text);
        assert!(c.contains("In function") && c.contains("boo"), "{c}");
        assert!(c.lines().count() < 16);
    }
}
