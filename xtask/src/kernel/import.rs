// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a git repository of the kernel's tarball: one commit, one pack, the same hash everywhere.
//!
//! The tarball streams through xz and the `tar` crate into `git fast-import`; nothing is unpacked
//! to disk. Debian's patched variant is recognised file by file: everything upstream has the time
//! of the release, that of `COPYING`; what Debian's patches touched is newer.

use crate::env::cache::require_space;
use crate::env::Ctx;
use crate::ui::proc::{last_lines, Cmd};
use crate::ui::signals;
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The branch the base commit is on, in every repository xtask makes.
pub const BASE_BRANCH: &str = "base";
/// The list, inside the base repository, of files that differ from upstream's.
const PATCHED_LIST: &str = "debian-patched.txt";
/// Where Debian's addition to `.gitignore` begins: it ignores every new file, which would keep them
/// out of commits and builds without a word.
const IGNORE_ALL: &str = "#\n# Debian packaging: ignore everything";
/// Author, committer and date of the base commit: fixed, so that its hash is.
const IDENTITY: &str = "Linux base <base@localhost> 1767225600 +0000";
/// Files in a kernel release, about; for the progress line only.
const ABOUT_FILES: usize = 93_000;

/// The files that are Debian's, not upstream's, in commit `base` of the tree at `dir`: those the
/// cache knows to be patched, as far as they are the same there.
pub fn debian_patched(base_git: &Path, dir: &Path, base: &str) -> Vec<String> {
    let text = fs::read_to_string(base_git.join(PATCHED_LIST)).unwrap_or_default();
    let paths: Vec<&str> = text.lines().collect();
    if paths.is_empty() {
        return vec![];
    }
    let list = |dir: &Path, commit: &str| -> Vec<String> {
        let cmd = Cmd::git(dir).args(["ls-tree", commit, "--"]).args(&paths);
        cmd.output()
            .unwrap_or_default()
            .lines()
            .map(str::to_string)
            .collect()
    };
    let patched = list(base_git, BASE_BRANCH);
    let same = list(dir, base).into_iter().filter(|l| patched.contains(l));
    same.filter_map(|l| Some(l.split_once('\t')?.1.to_string()))
        .collect()
}

/// Imports the base's tarball as `dest`. `patched` says that it is Debian's variant.
pub fn import(ctx: &Ctx, tarball: Tarball, dest: &Path) -> Result<()> {
    let title = format!("Linux {}", ctx.base.base.version);
    into_git(ctx, tarball, dest, &title, |version| {
        ensure!(
            version == ctx.base.base.version,
            "the tarball has Linux {version:?}, base.toml says {}",
            ctx.base.base.version
        );
        Ok(())
    })
}

/// Imports the tarball of any release.
pub fn import_any(ctx: &Ctx, tarball: Tarball, dest: &Path) -> Result<()> {
    let name = tarball.path.file_name().unwrap_or_default();
    let title = format!("Linux, from {}", name.to_string_lossy());
    into_git(ctx, tarball, dest, &title, |_| Ok(()))
}

fn into_git(
    ctx: &Ctx,
    tarball: Tarball,
    dest: &Path,
    title: &str,
    accept: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    require_space(&ctx.cache.dir, 800_000_000, "the base repository")?;
    let tmp = ctx.cache.temp_dir()?;
    let repo = tmp.path().join("base.git");
    Cmd::new("git")
        .args(["init", "-q", "--bare", "-b", BASE_BRANCH])
        .arg(&repo)
        .output()?;
    for (key, value) in [("core.compression", "1"), ("gc.auto", "0")] {
        Cmd::git(&repo).args(["config", key, value]).output()?;
    }
    let mut step = ctx.ui.step("importing the kernel source into git");
    let times = stream(ctx, &tarball, &repo, title, |n| {
        step.status(format!("{n} of about {ABOUT_FILES} files"));
    })?;
    let version = Cmd::git(&repo).args(["show", "base:Makefile"]).output()?;
    accept(&crate::env::base::makefile_version(&version).unwrap_or_default())?;
    if tarball.patched {
        let list = newer_than_release(&times)?;
        fs::write(repo.join(PATCHED_LIST), list.join("\n") + "\n")?;
    }
    step.done(&format!("{} files", times.len()));
    if let Some(parent) = dest.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::rename(&repo, dest).with_context(|| format!("cannot rename to {}", dest.display()))
}

/// A source tarball and where it lies.
pub struct Tarball {
    /// The `.tar.xz`, or the `.deb` that has one inside.
    pub path: PathBuf,
    /// The `.deb` of Debian's `linux-source` package?
    pub patched: bool,
}

impl Tarball {
    /// The shell command that writes the uncompressed tarball to stdout.
    fn reader(&self, member: &str) -> Cmd {
        if self.patched {
            let script = format!(
                "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | tar -xOf - {member} | xz -dc"
            );
            Cmd::new("bash")
                .args(["-c", &script, "bash"])
                .arg(&self.path)
        } else {
            Cmd::new("xz").args(["-dc", "--"]).arg(&self.path)
        }
    }
}

/// Feeds the tarball to fast-import; gives the modification time of every file.
fn stream(
    ctx: &Ctx,
    tarball: &Tarball,
    repo: &Path,
    title: &str,
    mut progress: impl FnMut(usize),
) -> Result<BTreeMap<String, u64>> {
    let member = format!("./usr/src/{}.tar.xz", ctx.base.debian.patched_package);
    let reader = tarball.reader(&member);
    let (complaints, theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let stderr = theirs.try_clone().context("cannot duplicate a pipe")?;
    let mut unpack = reader.spawn(|c| {
        c.stdout(Stdio::piped()).stderr(stderr);
    })?;
    // Without deltas it takes half the time, and one commit has next to none to offer.
    let writer = Cmd::git(repo)
        .args(["-c", "core.compression=1", "fast-import", "--quiet"])
        .args(["--done", "--depth=0", "--date-format=raw"]);
    let mut import = writer.spawn(|c| {
        c.stdin(Stdio::piped()).stderr(theirs);
    })?;
    let complaints =
        std::thread::spawn(move || std::io::read_to_string(fs::File::from(complaints)));
    let source = unpack.child.stdout.take().context("no pipe from xz")?;
    let sink = import.child.stdin.take().context("no pipe to git")?;
    let mut sink = BufWriter::with_capacity(1 << 20, sink);
    let message = format!("{title}\n");
    let converted = convert(
        BufReader::with_capacity(1 << 20, source),
        &mut sink,
        &message,
        &mut progress,
    );
    let flushed = sink.flush();
    drop(sink);
    let imported = import.wait()?;
    let unpacked = unpack.wait()?;
    signals::check()?;
    let said = match complaints.join() {
        Ok(text) => last_lines(&text.unwrap_or_default(), 6),
        Err(_) => String::new(),
    };
    if !imported.success() {
        bail!("`{writer}` failed ({imported})\n{said}");
    }
    if !unpacked.success() {
        bail!("`{reader}` failed ({unpacked})\n{said}");
    }
    flushed.context("writing to git fast-import")?;
    converted
}

/// Turns a tar stream into a fast-import stream of one commit, dropping the top directory.
fn convert(
    tar: impl Read,
    out: &mut impl Write,
    message: &str,
    progress: &mut impl FnMut(usize),
) -> Result<BTreeMap<String, u64>> {
    write!(
        out,
        "commit refs/heads/{BASE_BRANCH}\nauthor {IDENTITY}\ncommitter {IDENTITY}\ndata {}\n{message}",
        message.len()
    )?;
    let mut times = BTreeMap::new();
    let mut blocks = LastBlock::new(tar);
    let mut archive = tar::Archive::new(&mut blocks);
    for entry in archive.entries().context("reading the tarball")? {
        let mut entry = entry.context("reading the tarball")?;
        let path = String::from_utf8(entry.path_bytes().into_owned())
            .context("a file name in the tarball is not UTF-8")?;
        let Some((_, path)) = path.trim_start_matches("./").split_once('/') else {
            continue;
        };
        ensure!(
            !path.contains('\n') && !path.starts_with('"'),
            "odd file name {path:?}"
        );
        let path = path.to_string();
        match entry.header().entry_type() {
            tar::EntryType::Regular if path == ".gitignore" => {
                let mut text = String::new();
                entry
                    .read_to_string(&mut text)
                    .context("reading .gitignore")?;
                let ours = text.find(IGNORE_ALL);
                let text = &text[..ours.unwrap_or(text.len())];
                let text = if ours.is_some() {
                    text.trim_end().to_string() + "\n"
                } else {
                    text.into()
                };
                write!(out, "M 100644 inline {path}\ndata {}\n{text}\n", text.len())?;
                if ours.is_some() {
                    // Upstream's again.
                    continue;
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let executable = entry.header().mode()? & 0o100 != 0;
                let mode = if executable { "100755" } else { "100644" };
                writeln!(out, "M {mode} inline {path}\ndata {}", entry.size())?;
                std::io::copy(&mut entry, out).context("copying to git fast-import")?;
                writeln!(out)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().context("a link without target")?;
                writeln!(out, "M 120000 inline {path}\ndata {}", target.len())?;
                out.write_all(&target)?;
                writeln!(out)?;
            }
            tar::EntryType::Directory | tar::EntryType::XGlobalHeader => continue,
            other => bail!("{path} in the tarball is neither file nor link: {other:?}"),
        }
        times.insert(path, entry.header().mtime()?);
        if times.len() % 500 == 0 {
            signals::check()?;
            progress(times.len());
        }
    }
    ensure!(blocks.is_empty(), "the tarball ends before its end");
    writeln!(out, "done")?;
    Ok(times)
}

/// Passes a tarball on and remembers its last block: an archive that is whole ends with empty ones.
struct LastBlock<R> {
    tar: R,
    block: Vec<u8>,
}

/// The size of a tarball's blocks.
const BLOCK: usize = 512;

impl<R: Read> LastBlock<R> {
    fn new(tar: R) -> Self {
        LastBlock {
            tar,
            block: Vec::with_capacity(BLOCK),
        }
    }

    fn is_empty(&self) -> bool {
        self.block.len() == BLOCK && self.block.iter().all(|&byte| byte == 0)
    }
}

impl<R: Read> Read for LastBlock<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.tar.read(buffer)?;
        let new = &buffer[count.saturating_sub(BLOCK)..count];
        let surplus = (self.block.len() + new.len()).saturating_sub(BLOCK);
        self.block.drain(..surplus);
        self.block.extend_from_slice(new);
        Ok(count)
    }
}

/// The files with another time than `COPYING`, the time of upstream's release.
fn newer_than_release(times: &BTreeMap<String, u64>) -> Result<Vec<String>> {
    let release = times.get("COPYING").context("the tarball has no COPYING")?;
    Ok(times
        .iter()
        .filter(|(_, t)| *t != release)
        .map(|(p, _)| p.clone())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tarball() -> Vec<u8> {
        let mut b = tar::Builder::new(vec![]);
        let mut add = |path: &str, mode, mtime, data: &[u8]| {
            let mut h = tar::Header::new_gnu();
            h.set_mode(mode);
            h.set_mtime(mtime);
            h.set_size(data.len() as u64);
            b.append_data(&mut h, path, data).unwrap();
        };
        add("linux-7/COPYING", 0o644, 100, b"GPL\n");
        add("linux-7/mm/memory.c", 0o664, 200, b"int x;\n");
        add("linux-7/scripts/run.sh", 0o755, 100, b"#!/bin/sh\n");
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Symlink);
        h.set_mtime(100);
        h.set_size(0);
        b.append_link(&mut h, "linux-7/link", "COPYING").unwrap();
        b.into_inner().unwrap()
    }

    #[test]
    fn a_tarball_becomes_one_commit() {
        let mut out = vec![];
        let times = convert(&tarball()[..], &mut out, "Linux 7\n", &mut |_| {}).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("commit refs/heads/base\nauthor Linux base <base@localhost> "));
        assert!(out.contains("data 8\nLinux 7\nM 100644 inline COPYING\ndata 4\nGPL\n\n"));
        assert!(out.contains("M 100755 inline scripts/run.sh\n"));
        assert!(out.contains("M 120000 inline link\ndata 7\nCOPYING\n"));
        assert!(out.ends_with("done\n"));
        assert_eq!(newer_than_release(&times).unwrap(), ["mm/memory.c"]);
    }

    #[test]
    fn a_tarball_that_ends_between_two_files_is_refused() {
        let tar = tarball();
        let convert = |tar: &[u8]| convert(tar, &mut vec![], "Linux 7\n", &mut |_| {});
        assert!(convert(&tar).is_ok());
        // A file takes two blocks.
        assert!(convert(&tar[..2 * BLOCK]).is_err() && convert(&[]).is_err());
    }

    #[test]
    fn debians_ignoring_of_everything_is_taken_out() {
        let mut b = tar::Builder::new(vec![]);
        let text = format!("*.o\n\n{IGNORE_ALL} at the top level\n#\n/*\n!/debian/\n");
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        h.set_mtime(200);
        h.set_size(text.len() as u64);
        b.append_data(&mut h, "linux-7/.gitignore", text.as_bytes())
            .unwrap();
        let tar = b.into_inner().unwrap();
        let mut out = vec![];
        let times = convert(&tar[..], &mut out, "Linux 7\n", &mut |_| {}).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains("M 100644 inline .gitignore\ndata 4\n*.o\n\n"),
            "{out}"
        );
        assert!(times.is_empty());
    }

    #[test]
    fn git_takes_it_and_the_hash_is_fixed() {
        let dir = tempfile::tempdir().unwrap();
        Cmd::new("git")
            .args(["init", "-q", "--bare", "-b", "base"])
            .arg(dir.path())
            .output()
            .unwrap();
        let mut child = Cmd::git(dir.path())
            .args(["fast-import", "--quiet", "--done"])
            .spawn(|c| {
                c.stdin(Stdio::piped());
            })
            .unwrap();
        let mut stdin = child.child.stdin.take().unwrap();
        convert(&tarball()[..], &mut stdin, "Linux 7\n", &mut |_| {}).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        let hash = Cmd::git(dir.path())
            .args(["rev-parse", "base"])
            .output()
            .unwrap();
        assert_eq!(hash, "45e32d140f27692b3bd3ae0d3e849388c55034c4");
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::config;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::Index;

    type Files = BTreeMap<String, (Vec<u8>, bool)>;

    fn files() -> impl Strategy<Value = Files> {
        btree_map(
            "[a-z]{1,8}(/[a-z .]{0,8}[a-z])?",
            (vec(any::<u8>(), 0..1500), any::<bool>()),
            1..5,
        )
    }

    fn tarball(files: &Files) -> Vec<u8> {
        let mut tar = tar::Builder::new(vec![]);
        for (path, (data, executable)) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_mtime(7);
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, format!("linux-7/{path}"), &data[..])
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn converted(tar: &[u8]) -> Result<(BTreeMap<String, u64>, Vec<u8>)> {
        let mut out = vec![];
        convert(tar, &mut out, "Linux 7\n", &mut |_| {}).map(|times| (times, out))
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_file_is_in_the_commit(files in files()) {
            let (times, out) = converted(&tarball(&files)).unwrap();
            prop_assert!(times.keys().eq(files.keys()));
            let mut want = format!(
                "commit refs/heads/base\nauthor {IDENTITY}\ncommitter {IDENTITY}\ndata 8\nLinux 7\n"
            )
            .into_bytes();
            for (path, (data, executable)) in &files {
                let mode = if *executable { "100755" } else { "100644" };
                want.extend(format!("M {mode} inline {path}\ndata {}\n", data.len()).bytes());
                want.extend(data);
                want.push(b'\n');
            }
            want.extend(b"done\n");
            prop_assert_eq!(out, want);
        }

        #[test]
        fn a_tarball_that_was_cut_off_is_refused(files in files(), at in any::<Index>()) {
            let tar = tarball(&files);
            // Of the two empty blocks at its end one may be missing.
            let at = at.index(tar.len() - BLOCK);
            prop_assert!(converted(&tar[..at]).is_err());
            // Between two files as well.
            prop_assert!(converted(&tar[..at / BLOCK * BLOCK]).is_err());
        }

        #[test]
        fn damage_never_panics(files in files(), at in any::<Index>(), byte in any::<u8>()) {
            let mut tar = tarball(&files);
            let at = at.index(tar.len());
            tar[at] = byte;
            let _ = converted(&tar);
        }
    }
}
