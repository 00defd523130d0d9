// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is there and what is missing. `doctor` prints it, `setup` repairs it, and the commands
//! that need a part ask before they begin.

use super::cache::{free_space, human_size};
use super::{packages, tools, Ctx};
use crate::ui::proc::Cmd;
use anyhow::Result;
use std::path::PathBuf;

/// Space that source, builds and ccache take when nothing is there yet.
pub const SPACE_NEEDED: u64 = 12_000_000_000;

/// What `setup` does about a missing part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Nothing: it is the user's to repair.
    User,
    /// Install these packages.
    Packages(Vec<&'static str>),
    /// Install bindgen into the cache.
    Bindgen,
    /// Make the Python environment.
    Venv,
    /// Unpack Debian's rust-src into the cache.
    RustSrc,
    /// A later command makes it by itself.
    Later,
}

/// How a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There; a few words about it.
    Ok(String),
    /// Worth knowing, no obstacle.
    Note(String),
    /// Missing: what about it, the remedy, and what `setup` can do.
    Missing(String, String, Fix),
}

/// A part and its state.
#[derive(Clone, Debug)]
pub struct Check {
    /// The part.
    pub name: &'static str,
    /// How it is.
    pub state: State,
}

impl Check {
    /// Does it keep a build or a boot from working, even after `setup`'s and later steps?
    pub fn blocks(&self) -> bool {
        matches!(&self.state, State::Missing(_, _, fix) if *fix != Fix::Later)
    }
}

/// Looks at every part.
pub fn all(ctx: &Ctx) -> Result<Vec<Check>> {
    let check = |name, state| Check { name, state };
    let rustc = tools::rustc_version(ctx);
    let packages = debian_packages()?;
    let to_come = match &packages {
        State::Missing(_, _, Fix::Packages(list)) => list.clone(),
        _ => vec![],
    };
    Ok(vec![
        check("root", root()),
        check("disk space", space(ctx)?),
        check("Debian packages", packages),
        check(
            "rustc",
            rustc_state(
                tools::find("rustc"),
                rustc.as_deref().ok(),
                &ctx.base.tools.rustc_min,
            ),
        ),
        check("rust-src", rust_src(ctx, rustc.as_deref().ok())),
        check("libclang", libclang(&to_come)),
        check("bindgen", bindgen(ctx)),
        check("virtme-ng", virtme_ng(ctx)),
        check("QEMU", qemu(&to_come)),
        check("/dev/kvm", kvm()),
        check("kernel source", source(ctx)),
    ])
}

const SETUP: &str = "cargo xtask setup";

fn missing(what: impl Into<String>, remedy: impl Into<String>, fix: Fix) -> State {
    State::Missing(what.into(), remedy.into(), fix)
}

fn root() -> State {
    if rustix::process::geteuid().is_root() {
        State::Ok("yes".into())
    } else {
        State::Note("no: enough to build and boot, not to install packages".into())
    }
}

fn space(ctx: &Ctx) -> Result<State> {
    let free = free_space(&ctx.cache.dir)?;
    let dir = ctx.cache.dir.display();
    let built = ctx.cache.build("default").join("vmlinux").exists();
    Ok(if built || free >= SPACE_NEEDED {
        State::Ok(format!("{} free in {dir}", human_size(free)))
    } else {
        missing(
            format!(
                "{} free in {dir}, {} needed",
                human_size(free),
                human_size(SPACE_NEEDED)
            ),
            "make room, or set DAXPIN_CACHE to a directory on a larger disk",
            Fix::User,
        )
    })
}

fn debian_packages() -> Result<State> {
    if !packages::has_dpkg() {
        let programs = [
            "gcc",
            "make",
            "flex",
            "bison",
            "bc",
            "git",
            "curl",
            "xz",
            "ib_write_bw",
        ];
        let gone: Vec<_> = programs
            .into_iter()
            .filter(|p| !tools::in_path(p))
            .collect();
        return Ok(if gone.is_empty() {
            State::Note("not Debian; the programs looked for are there".into())
        } else {
            missing(
                gone.join(" "),
                "install these with your distribution's tools",
                Fix::User,
            )
        });
    }
    let gone = packages::missing()?;
    Ok(if gone.is_empty() {
        State::Ok("all installed".into())
    } else {
        let list = gone.join(" ");
        missing(
            list.clone(),
            format!("{SETUP} (apt-get install {list})"),
            Fix::Packages(gone),
        )
    })
}

/// Is this rustc, the first in PATH, new enough?
fn rustc_state(path: Option<PathBuf>, version: Option<&str>, min: &str) -> State {
    const NEWER: &str = "rustup toolchain install stable && rustup default stable";
    let Some(path) = path else {
        let remedy = format!("install Rust {min} or later with https://rustup.rs, or: {NEWER}");
        return missing("not in PATH", remedy, Fix::User);
    };
    let path = path.display();
    match version {
        None => missing(
            format!("`{path} --version` fails"),
            format!("{NEWER}, and ~/.cargo/bin first in PATH"),
            Fix::User,
        ),
        Some(v) if tools::numbers(v) < tools::numbers(min) => missing(
            format!("{path} is {v}, too old for this kernel, which needs {min} or later"),
            format!("{NEWER}, and ~/.cargo/bin first in PATH"),
            Fix::User,
        ),
        Some(v) => State::Ok(v.into()),
    }
}

fn rust_src(ctx: &Ctx, rustc: Option<&str>) -> State {
    let Some(version) = rustc else {
        return missing("no rustc to have the source for", SETUP, Fix::RustSrc);
    };
    match tools::rust_lib_src(ctx, version) {
        Some(dir) => State::Ok(dir.display().to_string()),
        None => missing(
            format!("the standard library's source for rustc {version}"),
            format!("{SETUP}, or `rustup component add rust-src`"),
            Fix::RustSrc,
        ),
    }
}

/// What a package has, which is one of those to be installed, or else the user's to find.
fn from_package(what: &str, package: &str, to_come: &[&str], otherwise: &str) -> State {
    if to_come.contains(&package) {
        missing(what, format!("{SETUP} ({package})"), Fix::Later)
    } else {
        missing(what, otherwise, Fix::User)
    }
}

fn libclang(to_come: &[&str]) -> State {
    match tools::libclang_dir() {
        Some(dir) => State::Ok(dir.display().to_string()),
        None => from_package(
            "none in /usr/lib/llvm-*",
            "libclang-19-dev",
            to_come,
            "let LIBCLANG_PATH name the directory with libclang.so",
        ),
    }
}

fn bindgen(ctx: &Ctx) -> State {
    let want = &ctx.base.tools.bindgen_cli;
    if tools::bindgen(ctx).exists() {
        State::Ok(want.clone())
    } else {
        missing(format!("{want} is not in the cache"), SETUP, Fix::Bindgen)
    }
}

fn virtme_ng(ctx: &Ctx) -> State {
    let want = &ctx.base.tools.virtme_ng;
    if tools::venv_stamp(ctx).exists() {
        State::Ok(want.clone())
    } else {
        missing(format!("{want} is not in the cache"), SETUP, Fix::Venv)
    }
}

fn qemu(to_come: &[&str]) -> State {
    const PROGRAM: &str = "qemu-system-x86_64";
    match Cmd::new(PROGRAM).arg("--version").output() {
        Ok(v) => State::Ok(v.lines().next().unwrap_or_default().to_string()),
        Err(_) if tools::in_path(PROGRAM) => missing(
            format!("`{PROGRAM} --version` fails"),
            "repair or replace it: apt-get install --reinstall qemu-system-x86",
            Fix::User,
        ),
        Err(_) => from_package(
            &format!("{PROGRAM} is not in PATH"),
            "qemu-system-x86",
            to_come,
            "put the directory it is in into PATH (Debian's package has it in /usr/bin)",
        ),
    }
}

fn kvm() -> State {
    State::Note(if std::path::Path::new("/dev/kvm").exists() {
        "there, not used without --kvm: it can be there and yet hang the guest".into()
    } else {
        "absent: the guest is emulated, which is what the times given are for".into()
    })
}

fn source(ctx: &Ctx) -> State {
    let dir = ctx.linux();
    if dir.join("Makefile").exists() {
        State::Ok(dir.display().to_string())
    } else {
        missing(
            format!("no tree in {}", dir.display()),
            "cargo xtask source, then cargo xtask apply (demo and test do it)",
            Fix::Later,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_rustc_names_both_versions_and_the_remedy() {
        let state = |version| rustc_state(Some("/usr/bin/rustc".into()), version, "1.85.0");
        let State::Missing(what, remedy, _) = state(Some("1.63.0")) else {
            panic!("1.63 must not do");
        };
        for part in ["/usr/bin/rustc", "1.63.0", "1.85.0"] {
            assert!(what.contains(part), "{what}");
        }
        assert!(remedy.contains("rustup"), "{remedy}");
        assert!(matches!(state(None), State::Missing(_, _, Fix::User)));
        assert_eq!(state(Some("1.95.0")), State::Ok("1.95.0".into()));
    }

    #[test]
    fn set_up_is_the_remedy_only_for_what_it_installs() {
        let qemu = |to_come: &[&str]| from_package("x", "qemu-system-x86", to_come, "put it there");
        let State::Missing(_, remedy, fix) = qemu(&["perftest", "qemu-system-x86"]) else {
            panic!("it is missing");
        };
        assert!(
            remedy.contains("xtask setup") && fix == Fix::Later,
            "{remedy}"
        );
        assert_eq!(qemu(&["perftest"]), missing("x", "put it there", Fix::User));
    }

    #[test]
    fn what_a_later_step_makes_blocks_nothing() {
        let c = |fix| Check {
            name: "x",
            state: missing("a", "b", fix),
        };
        assert!(!c(Fix::Later).blocks());
        assert!(c(Fix::Venv).blocks());
    }
}
