// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's archive through an apt configuration of our own: finding files, and downloading them
//! so that an interrupted download goes on where it stopped.

use super::cache::{require_space, sha256_file};
use super::{apt, Ctx};
use crate::ui::proc::{last_lines, Cmd};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A file in the archive, as apt describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it is.
    pub uri: String,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The checksum from the signed index.
    pub sha256: Option<String>,
}

/// Parses the lines `apt-get --print-uris` writes: `'URI' NAME SIZE SHA256:SUM`.
pub fn parse_uris(text: &str) -> Vec<Remote> {
    text.lines()
        .filter_map(|line| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut words = rest.split_whitespace();
            let name = words.next()?.replace("%3a", ":");
            // It is to become the name of a file of ours.
            let plain = !name.contains('/') && !matches!(name.as_str(), "." | "..");
            Some(Remote {
                uri: uri.to_string(),
                name: plain.then_some(name)?,
                size: words.next()?.parse().ok()?,
                sha256: words
                    .find_map(|w| w.strip_prefix("SHA256:"))
                    .map(str::to_string),
            })
        })
        .collect()
}

/// The pinned suite of Debian's archive.
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Writes the configuration and fetches the suite's index.
    pub fn open(ctx: &Ctx) -> Result<Self> {
        let list = apt::own_sources_list(Path::new("/etc/apt"), &ctx.base.debian.suite)?;
        let archive = Archive {
            dir: ctx.cache.dir.join("apt"),
        };
        if !ctx.global.dry_run {
            for sub in ["lists/partial", "cache/archives/partial"] {
                let d = archive.dir.join(sub);
                fs::create_dir_all(&d).with_context(|| format!("cannot make {}", d.display()))?;
            }
            super::cache::write_atomic(&archive.dir.join("sources.list"), list.as_bytes())?;
        }
        ctx.exec(
            &archive
                .apt("apt-get")
                .args(["-q", "--error-on=any", "update"]),
        )
        .with_context(|| format!("cannot read the index of {}", ctx.base.debian.suite))?;
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Cmd {
        let set = |key: &str, path: PathBuf| format!("{key}={}", path.display());
        let options = [
            set("Dir::Etc::sourcelist", self.dir.join("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".into(),
            set("Dir::State::lists", self.dir.join("lists")),
            set("Dir::Cache", self.dir.join("cache")),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            // The index is of a suite the machine's pins know nothing of.
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
        ];
        let mut cmd = Cmd::new(program).env("LC_ALL", "C.UTF-8");
        if rustix::process::geteuid().is_root() {
            // The cache may be where the user _apt cannot write.
            cmd = cmd.args(["-o", "APT::Sandbox::User=root"]);
        }
        for o in options {
            cmd = cmd.arg("-o").arg(o);
        }
        cmd
    }

    /// The files of a source package.
    pub fn source_files(&self, package: &str, version: &str) -> Result<Vec<Remote>> {
        let cmd = self
            .apt("apt-get")
            .args([
                "-q",
                "--print-uris",
                "--download-only",
                "--only-source",
                "source",
            ])
            .arg(format!("{package}={version}"));
        Ok(parse_uris(&cmd.output()?))
    }

    /// The file of a binary package.
    pub fn binary_file(&self, package: &str, version: &str) -> Result<Remote> {
        let spec = format!("{package}={version}");
        let cmd = self
            .apt("apt-get")
            .args(["-q", "--print-uris", "download"])
            .arg(&spec);
        let files = parse_uris(&cmd.output()?);
        files
            .into_iter()
            .next()
            .with_context(|| format!("the archive has no {spec}"))
    }

    /// The versions of a binary package in the suite.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let out = self.apt("apt-cache").args(["madison", package]).output()?;
        Ok(out
            .lines()
            .filter_map(|l| Some(l.split('|').nth(1)?.trim().to_string()))
            .collect())
    }
}

/// Why a download gave no file.
#[derive(Debug)]
pub enum Missing {
    /// The server says it has no such file.
    NotThere,
    /// Anything else.
    Failed(anyhow::Error),
}

/// Downloads into the cache's `downloads/`, verified against `sha256`; gives the path.
///
/// The bytes go to `NAME.part`, which a later run continues.
pub fn download(ctx: &Ctx, file: &Remote, sha256: &str) -> Result<PathBuf, Missing> {
    let dir = ctx.cache.downloads();
    let path = dir.join(&file.name);
    if path.exists() {
        return Ok(path);
    }
    fetch(ctx, file, sha256, &path)?;
    Ok(path)
}

fn fetch(ctx: &Ctx, file: &Remote, sha256: &str, path: &Path) -> Result<(), Missing> {
    let part = path.with_file_name(format!("{}.part", file.name));
    let failed = |e: anyhow::Error| Missing::Failed(e);
    let cmd = Cmd::new("curl")
        .args([
            "--fail",
            "--location",
            "--silent",
            "--show-error",
            "--retry",
            "3",
        ])
        .args(["--connect-timeout", "20", "--continue-at", "-", "--output"])
        .arg(&part)
        .arg(&file.uri);
    if ctx.global.dry_run {
        println!("{cmd}");
        return Ok(());
    }
    fs::create_dir_all(ctx.cache.downloads())
        .with_context(|| format!("cannot make {}", ctx.cache.downloads().display()))
        .map_err(failed)?;
    let size_of = |p: &Path| p.metadata().map_or(0, |m| m.len());
    if size_of(&part) < file.size {
        let missing = file.size - size_of(&part);
        require_space(
            &ctx.cache.dir,
            missing,
            &format!("downloading {}", file.name),
        )
        .map_err(failed)?;
        let mut step = ctx.ui.step(&format!("downloading {}", file.name));
        let mut child = cmd
            .spawn(|c| {
                c.stderr(std::process::Stdio::piped());
            })
            .map_err(failed)?;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            let mb = |b: u64| b / 1_000_000;
            step.status(format!("{} of {} MB", mb(size_of(&part)), mb(file.size)));
            std::thread::sleep(std::time::Duration::from_millis(200));
        };
        crate::ui::signals::check().map_err(failed)?;
        if !status.success() {
            let mut err = String::new();
            if let Some(mut s) = child.child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut s, &mut err);
            }
            if err.contains("error: 404") {
                step.done("not in the archive");
                return Err(Missing::NotThere);
            }
            return Err(failed(anyhow::anyhow!(
                "downloading failed; the next run goes on where this one stopped\n\
                 `{cmd}` ({status}): {}",
                last_lines(&err, 3)
            )));
        }
        step.done(&format!("{} MB", file.size / 1_000_000));
    }
    verify_and_keep(&part, path, sha256).map_err(failed)
}

/// Renames a finished download into place if its checksum is right, and removes it if not.
fn verify_and_keep(part: &Path, path: &Path, sha256: &str) -> Result<()> {
    let got = sha256_file(part)?;
    if got != sha256 {
        let _ = fs::remove_file(part);
        bail!(
            "{} has the wrong checksum and was removed; run again to download it anew\n\
             expected {sha256}\n     got {got}",
            part.display()
        );
    }
    fs::rename(part, path).with_context(|| format!("cannot rename to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_parsed_and_noise_is_not() {
        let text = "Reading package lists...\nNOTICE: 'linux' packaging is maintained in Git\n\
            'http://m.example/pool/linux_7.orig.tar.xz' linux_7.orig.tar.xz 155 SHA256:abc\n\
            'http://m.example/pool/x.deb' x_1%3a2_all.deb 7 MD5Sum:1\n";
        let files = parse_uris(text);
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].name, "linux_7.orig.tar.xz");
        assert_eq!(files[0].sha256.as_deref(), Some("abc"));
        assert_eq!(files[1].name, "x_1:2_all.deb");
        assert_eq!(files[1].sha256, None);
    }

    #[test]
    fn a_path_is_no_name() {
        for name in ["../x.deb", "/etc/x", "a/b", ".."] {
            let line = format!("'http://m.example/x' {name} 7 SHA256:0\n");
            assert_eq!(parse_uris(&line), [], "{name}");
        }
    }

    #[test]
    fn a_wrong_checksum_removes_the_download() {
        let dir = tempfile::tempdir().unwrap();
        let (part, path) = (dir.path().join("f.part"), dir.path().join("f"));
        fs::write(&part, "x").unwrap();
        let e = verify_and_keep(&part, &path, "00").unwrap_err().to_string();
        assert!(
            e.contains("wrong checksum") && e.contains("expected 00"),
            "{e}"
        );
        assert!(!part.exists() && !path.exists());
    }

    #[test]
    fn a_right_checksum_puts_it_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (part, path) = (dir.path().join("f.part"), dir.path().join("f"));
        fs::write(&part, "").unwrap();
        verify_and_keep(&part, &path, &super::super::cache::sha256_text("")).unwrap();
        assert!(!part.exists() && path.exists());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::env::cache::sha256_text;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn what_apt_prints_is_read_back(
            files in vec(("http://[a-z]{1,6}/[a-z]{1,9}", "[a-z0-9_.+-]{1,12}", any::<u64>(), proptest::option::of("[0-9a-f]{64}")), 0..4),
        ) {
            let files: Vec<Remote> = files
                .into_iter()
                .map(|(uri, name, size, sha256)| Remote { uri, name: format!("x:{name}"), size, sha256 })
                .collect();
            let mut text = String::from("Reading package lists...\n");
            for f in &files {
                let sum = f.sha256.as_ref().map_or("MD5Sum:1".into(), |s| format!("SHA256:{s}"));
                text.push_str(&format!("'{}' {} {} {sum}\n", f.uri, f.name.replace(':', "%3a"), f.size));
            }
            prop_assert_eq!(parse_uris(&text), files);
        }

        #[test]
        fn a_download_that_was_cut_off_is_not_taken(content in "[ -~]{1,80}", at in any::<Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let (part, path) = (dir.path().join("f.part"), dir.path().join("f"));
            fs::write(&part, cut(&content, at)).unwrap();
            prop_assert!(verify_and_keep(&part, &path, &sha256_text(&content)).is_err());
            prop_assert!(!part.exists() && !path.exists());
            fs::write(&part, &content).unwrap();
            prop_assert!(verify_and_keep(&part, &path, &sha256_text(&content)).is_ok());
            prop_assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }

        #[test]
        fn no_name_leads_elsewhere(
            names in vec("[./a]{1,4}|\\.\\./[a-z]{1,4}|/etc/[a-z]{1,4}|[a-z]{1,4}", 0..6),
            noise in noise(&["'http://x' ", "a.deb ", "../", "/etc/", "7 ", "SHA256:", "%3a", ".."]),
        ) {
            let lines = names.iter().map(|n| format!("'http://x/y' {n} 7 SHA256:0\n"));
            let text = lines.collect::<String>() + &noise;
            for file in parse_uris(&text) {
                let path = Path::new("/downloads").join(&file.name);
                prop_assert_eq!(path.parent(), Some(Path::new("/downloads")));
                prop_assert!(path.file_name().is_some());
            }
        }
    }
}
