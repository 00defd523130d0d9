// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine xtask runs on: the project's files, the cache, Debian's archive and the tools.

pub mod apt;
pub mod archive;
pub mod base;
pub mod cache;
pub mod cargo;
pub mod check;
pub mod packages;
pub mod tools;

use crate::cli::Global;
use crate::error;
use crate::ui::proc::Cmd;
use crate::ui::progress::Ui;
use anyhow::{Context, Result};
use base::Base;
use cache::Cache;
use std::path::{Path, PathBuf};

/// What every subcommand needs to know.
pub struct Ctx {
    /// The project's top directory.
    pub root: PathBuf,
    /// The cache outside the clone.
    pub cache: Cache,
    /// `base.toml`.
    pub base: Base,
    /// Options of every subcommand.
    pub global: Global,
    /// How to talk to the user.
    pub ui: Ui,
}

impl Ctx {
    /// Reads the project's files and the environment.
    pub fn new(mut global: Global) -> Result<Self> {
        // cargo says where the package is now; the clone may have moved since this was compiled.
        let now = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let now = now.filter(|dir| dir.ends_with("xtask") && dir.join("../base.toml").exists());
        let root = now
            .as_deref()
            .unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")))
            .parent()
            .context("xtask is not inside the project")?
            .to_path_buf();
        for path in [&mut global.linux, &mut global.kernel]
            .into_iter()
            .flatten()
        {
            *path = std::path::absolute(&*path)
                .with_context(|| format!("cannot resolve {}", path.display()))?;
        }
        Ok(Ctx {
            cache: Cache::locate()?,
            base: Base::read(&root.join("base.toml"))?,
            ui: Ui::new(global.verbose),
            root,
            global,
        })
    }

    /// The same without `--dry-run`, for what means something else by it.
    pub fn for_real(&self) -> Ctx {
        Ctx {
            root: self.root.clone(),
            cache: self.cache.clone(),
            base: self.base.clone(),
            global: Global {
                dry_run: false,
                ..self.global.clone()
            },
            ui: self.ui,
        }
    }

    /// The kernel tree the series lives in: `--linux DIR` or `linux/`.
    pub fn linux(&self) -> PathBuf {
        self.global
            .linux
            .clone()
            .unwrap_or_else(|| self.root.join("linux"))
    }

    /// Number of parallel jobs.
    pub fn jobs(&self) -> usize {
        self.global
            .jobs
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// Makes the directory for this run's logs and keeps the previous one as `NAME.old`.
    pub fn logs(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join("out").join(name);
        if !self.global.dry_run {
            let old = self.root.join("out").join(format!("{name}.old"));
            if dir.exists() {
                let _ = std::fs::remove_dir_all(&old);
                // Where a directory cannot be renamed, as in the lower layer of a container's root,
                // there is no previous one.
                std::fs::rename(&dir, &old)
                    .or_else(|_| std::fs::remove_dir_all(&dir))
                    .with_context(|| format!("cannot replace the old logs in {}", dir.display()))?;
            }
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            error::set_log_dir(dir.clone());
        }
        Ok(dir)
    }

    /// Runs a command that changes something: prints it in a dry run, shows it with `--verbose`.
    /// Gives its stdout.
    pub fn exec(&self, cmd: &Cmd) -> Result<String> {
        if self.global.dry_run {
            println!("{cmd}");
            return Ok(String::new());
        }
        if self.global.verbose {
            eprintln!("+ {cmd}");
        }
        cmd.output()
    }
}
