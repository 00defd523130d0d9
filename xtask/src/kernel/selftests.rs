// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel tree's own selftests of the feature: built outside of the tree, run in the guest.

use super::snapshot::{self, State};
use super::tree::Tree;
use crate::env::Ctx;
use crate::ui::proc::{last_lines, quote, Cmd};
use anyhow::{bail, Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The directory below `tools/testing/selftests`.
const COLLECTION: &str = "filesystems/layout_lease";
/// The source tree in the cache. The base kernel has no such tests; it is tried with those of the
/// series.
const FLAVOUR: &str = "series";
/// Seconds that all of it may take on a kernel that is not slowed down by checks.
const LIMIT: u32 = 1800;

/// Where `make` puts what it makes.
struct Output {
    dir: PathBuf,
}

impl Output {
    fn of(ctx: &Ctx) -> Self {
        Output {
            dir: ctx.cache.dir.join("selftests"),
        }
    }

    /// What is copied together for the guest.
    fn installed(&self) -> PathBuf {
        self.dir.join("install")
    }

    /// The kernel's headers first, which the tests are compiled with.
    fn commands(&self, ctx: &Ctx, src: &Path) -> [Cmd; 2] {
        let make = |dir: PathBuf| {
            Cmd::new("make")
                .env("LC_ALL", "C.UTF-8")
                .arg("-s")
                .arg("-C")
                .arg(dir)
                .arg(format!("O={}", self.dir.display()))
                .arg(format!("-j{}", ctx.jobs()))
                .args(["ARCH=x86_64", "--no-print-directory"])
        };
        let install = make(src.join("tools/testing/selftests"))
            .arg(format!("TARGETS={COLLECTION}"))
            .args(["FORCE_TARGETS=1", "USERCFLAGS=-Werror"])
            .arg(format!("KSFT_INSTALL_PATH={}", self.installed().display()))
            .arg("install");
        [make(src.to_path_buf()).arg("headers"), install]
    }
}

/// Builds the tests; gives the directory they were installed in, or `None` if the tree has none.
pub fn build(ctx: &Ctx, logs: &Path) -> Result<Option<PathBuf>> {
    let output = Output::of(ctx);
    if ctx.global.dry_run {
        let src = ctx.cache.src(FLAVOUR);
        output
            .commands(ctx, &src)
            .iter()
            .for_each(|c| println!("{c}"));
        return Ok(Some(output.installed()));
    }
    let tree = Tree::find(ctx)?.context("there is no kernel tree to take the selftests from")?;
    let _lock = ctx.cache.lock_source(FLAVOUR, &ctx.ui)?;
    let (src, _) = snapshot::update(ctx, &tree.dir, &State::WorkTree, FLAVOUR)
        .context("bringing the kernel source into the cache")?;
    let tests = src.join("tools/testing/selftests").join(COLLECTION);
    if !tests.join("Makefile").exists() {
        return Ok(None);
    }
    let mut step = ctx.ui.step("building the kernel's selftests");
    let installed = output.installed();
    if installed.exists() {
        std::fs::remove_dir_all(&installed)
            .with_context(|| format!("cannot remove the old {}", installed.display()))?;
    }
    std::fs::create_dir_all(&output.dir)
        .with_context(|| format!("cannot make {}", output.dir.display()))?;
    let mut log =
        std::fs::File::create(logs.join("selftests.log")).context("cannot write selftests.log")?;
    for cmd in output.commands(ctx, &src) {
        let (status, text) = step.run(&cmd)?;
        writeln!(log, "+ {cmd}\n{text}").context("cannot write selftests.log")?;
        if !status.success() {
            bail!("`{cmd}` failed\n{}", last_lines(&text, 20));
        }
    }
    step.done("");
    Ok(Some(installed))
}

/// The command line for the guest's shell, which runs them on these filesystems; `only` names
/// programs, if not all are to be run.
///
/// The runner writes its programs' output a character at a time, which costs a message to the host for
/// each; line by line it is a third as much time in all.
pub fn script(installed: &Path, fs: &str, only: &str, slowness: u32, report: &Path) -> String {
    let (fs, only) = (quote(fs.as_ref()), quote(only.as_ref()));
    let run = format!(
        "LAYOUT_LEASE_DEV=/dev/pmem0 LAYOUT_LEASE_FS={fs} LAYOUT_LEASE_TESTS={only} {} -c {COLLECTION} -o {} 2>&1 | \
         stdbuf -oL sed '' >{}",
        quote(installed.join("run_kselftest.sh").as_os_str()),
        LIMIT * slowness,
        quote(report.as_os_str())
    );
    // The status is the runner's.
    format!("bash -o pipefail -c {}", quote(run.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_built_inside_the_source_tree() {
        let ctx = Ctx::new(crate::cli::Global::default()).unwrap();
        let output = Output::of(&ctx);
        for cmd in output.commands(&ctx, Path::new("/src")) {
            let line = cmd.to_string();
            assert!(
                line.contains(&format!("O={}", output.dir.display())),
                "{line}"
            );
        }
        assert!(output.installed().starts_with(&ctx.cache.dir));
    }

    #[test]
    fn a_slow_kernel_gets_more_time_and_the_status_is_the_runners() {
        let line = script(
            Path::new("/cache/install"),
            "xfs",
            "",
            4,
            Path::new("/out/report"),
        );
        assert!(line.contains("LAYOUT_LEASE_FS=xfs "), "{line}");
        assert!(line.contains("/cache/install/run_kselftest.sh -c filesystems/layout_lease"));
        assert!(line.contains(" -o 7200 2>&1 |"), "{line}");
        assert!(line.starts_with("bash -o pipefail -c "), "{line}");
        assert!(line.contains(">/out/report"), "{line}");
    }
}
