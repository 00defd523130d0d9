// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding the tools that do not simply lie in PATH.

use super::Ctx;
use crate::error::{Failure, Kind};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A version as numbers, for comparing: `1.95.0-nightly (abc)` is `[1, 95, 0]`.
pub fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(|w| !w.is_empty())
        .unwrap_or_default()
        .split('.')
        .map_while(|n| n.parse().ok())
        .collect()
}

/// Refuses with the Debian packages to install if programs that `what` needs are missing.
pub fn require(what: &str, needs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::of(
        Kind::Setup,
        format!(
            "{what} needs more programs\nremedy: apt-get install {}",
            missing.join(" ")
        ),
    ))
}

/// The version of rustc, such as `1.95.0`.
pub fn rustc_version(ctx: &Ctx) -> Result<String> {
    let out = Cmd::new("rustc").arg("--version").cwd(&ctx.root).output()?;
    let version = out
        .split_whitespace()
        .nth(1)
        .context("`rustc --version` says nothing")?;
    Ok(version.to_string())
}

/// The standard library's source for this rustc: the toolchain's own, or Debian's in the cache.
pub fn rust_lib_src(ctx: &Ctx, version: &str) -> Option<PathBuf> {
    let own = || {
        let sysroot = Cmd::new("rustc")
            .args(["--print", "sysroot"])
            .cwd(&ctx.root)
            .output()
            .ok()?;
        Some(Path::new(&sysroot).join("lib/rustlib/src/rust/library"))
    };
    let cached = ctx
        .cache
        .rust_src(version)
        .join(format!("usr/src/rustc-{version}/library"));
    let has_core = |p: &PathBuf| p.join("core/src/lib.rs").exists();
    std::env::var_os("RUST_LIB_SRC")
        .map(PathBuf::from)
        .filter(has_core)
        .or_else(|| own().filter(has_core))
        .or_else(|| Some(cached).filter(has_core))
}

/// The directory of the newest libclang, for bindgen.
pub fn libclang_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("LIBCLANG_PATH") {
        return Some(dir.into());
    }
    newest_libclang(Path::new("/usr/lib"))
}

fn newest_libclang(lib: &Path) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(lib)
        .ok()?
        .flatten()
        .filter_map(|e| {
            let version = e
                .file_name()
                .to_str()?
                .strip_prefix("llvm-")?
                .parse()
                .ok()?;
            let dir = e.path().join("lib");
            let has = std::fs::read_dir(&dir).ok()?.flatten().any(|f| {
                let name = f.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libclang.so") || name.starts_with("libclang-")
            });
            has.then_some((version, dir))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir)
}

/// The pinned bindgen in the cache.
pub fn bindgen(ctx: &Ctx) -> PathBuf {
    ctx.cache
        .bindgen(&ctx.base.tools.bindgen_cli)
        .join("bin/bindgen")
}

/// The file that says the Python environment is whole.
pub fn venv_stamp(ctx: &Ctx) -> PathBuf {
    ctx.cache
        .venv()
        .join(format!(".virtme-ng-{}", ctx.base.tools.virtme_ng))
}

/// The file that says the Python environment for submitting is whole, with these versions.
pub fn submission_stamp(ctx: &Ctx) -> PathBuf {
    let pins = &ctx.base.tools;
    ctx.cache.submission_venv().join(format!(
        ".b4-{}-ply-{}-gitpython-{}",
        pins.b4, pins.ply, pins.gitpython
    ))
}

/// `$PATH` with the Python environment for submitting in front.
pub fn submission_path(ctx: &Ctx) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!(
        "{}:{path}",
        ctx.cache.submission_venv().join("bin").display()
    )
}

/// virtme-ng's program that runs QEMU. (`vng` builds a shell command around it, in which a
/// directory with a space in its name would come apart.)
pub fn virtme_run(ctx: &Ctx) -> PathBuf {
    ctx.cache.venv().join("bin/virtme-run")
}

/// A Python that can make virtual environments: Debian's own rather than one that shadows it.
pub fn python() -> Option<PathBuf> {
    ["/usr/bin/python3", "python3"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| {
            Cmd::new(p)
                .args([
                    "-c",
                    "import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 9))",
                ])
                .succeeds()
        })
}

/// Is this program in PATH?
pub fn in_path(program: &str) -> bool {
    find(program).is_some()
}

/// Where this program is in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_package() {
        assert!(require("this", &[("sh", "dash")]).is_ok());
        let e = require("this", &[("sh", "dash"), ("no-such-program", "a-package")]);
        let e = e.unwrap_err().to_string();
        assert!(
            e.contains("apt-get install a-package") && !e.contains("dash"),
            "{e}"
        );
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(numbers("1.95.0-nightly (abc 2026)"), [1, 95, 0]);
        assert!(numbers("1.9.0") < numbers("1.85.0"));
        assert!(numbers("1.100.0") > numbers("1.95.0"));
        assert_eq!(numbers("bindgen 0.73.2"), [0, 73, 2]);
    }

    #[test]
    fn the_newest_libclang_wins_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for (v, file) in [
            ("9", "libclang.so.1"),
            ("19", "libclang-19.so.1"),
            ("20", "other"),
        ] {
            let lib = dir.path().join(format!("llvm-{v}/lib"));
            std::fs::create_dir_all(&lib).unwrap();
            std::fs::write(lib.join(file), "").unwrap();
        }
        assert_eq!(
            newest_libclang(dir.path()),
            Some(dir.path().join("llvm-19/lib"))
        );
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn versions_are_read_back_and_compare_as_numbers(
            a in vec(any::<u32>(), 1..4),
            b in vec(any::<u32>(), 1..4),
            program in "([a-z]{1,6} )?",
            rest in "(-nightly| \\([a-f]{3}\\))?",
        ) {
            let text = |n: &[u32]| n.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            let read = |n: &[u32]| numbers(&format!("{program}{}{rest}", text(n)));
            prop_assert_eq!(&read(&a), &a);
            prop_assert_eq!(read(&a) < read(&b), a < b);
        }

        #[test]
        fn noise_never_panics(text in noise(&["1.95.0", ".", "99999999999", "-", "rustc "])) {
            numbers(&text);
        }
    }
}
