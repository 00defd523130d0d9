// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache outside the clone: what is in it, who may write it, how things get in.
//!
//! Everything is made under a temporary name beside its place and renamed into it, so what has its
//! final name is whole. A lock file keeps two xtask processes from making the same thing.

use crate::ui::proc::Kept;
use crate::ui::progress::Ui;
use crate::ui::signals;
use anyhow::{bail, Context, Result};
use rustix::fs::{flock, FlockOperation};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Marks what may be removed when it is found without its maker.
const TEMP_PREFIX: &str = ".tmp-";

/// Paths in the cache.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The top directory.
    pub dir: PathBuf,
}

impl Cache {
    /// `$DAXPIN_CACHE`, or `daxpin` in the user's cache directory.
    pub fn locate() -> Result<Self> {
        let var = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let dir = if let Some(dir) = var("DAXPIN_CACHE") {
            dir
        } else if let Some(dir) = var("XDG_CACHE_HOME") {
            dir.join("daxpin")
        } else {
            var("HOME")
                .context("neither HOME nor DAXPIN_CACHE is set")?
                .join(".cache/daxpin")
        };
        Ok(Cache {
            dir: std::path::absolute(&dir)?,
        })
    }

    /// Verified downloads.
    pub fn downloads(&self) -> PathBuf {
        self.dir.join("downloads")
    }

    /// The pristine base as a bare git repository.
    pub fn base_git(&self, version: &str) -> PathBuf {
        self.dir.join(format!("base-{version}.git"))
    }

    /// The source tree builds are made from; one for the series, one for the pristine base.
    pub fn src(&self, flavour: &str) -> PathBuf {
        self.dir.join("src").join(flavour)
    }

    /// Build directory of a profile.
    pub fn build(&self, profile: &str) -> PathBuf {
        self.dir.join("build").join(profile)
    }

    /// What is known of the commits of the series: which of them build, and boot.
    pub fn built(&self) -> PathBuf {
        self.dir.join("built")
    }

    /// What cargo has compiled of our own programs.
    pub fn cargo(&self) -> PathBuf {
        self.dir.join("cargo")
    }

    /// ccache's directory.
    pub fn ccache(&self) -> PathBuf {
        self.dir.join("ccache")
    }

    /// The Python environment with virtme-ng.
    pub fn venv(&self) -> PathBuf {
        self.dir.join("venv")
    }

    /// The Python environment with b4 and what the kernel's own checks import.
    pub fn submission_venv(&self) -> PathBuf {
        self.dir.join("submission-venv")
    }

    /// The bindgen program of this version.
    pub fn bindgen(&self, version: &str) -> PathBuf {
        self.dir.join(format!("bindgen-{version}"))
    }

    /// Rust's library source for this version of rustc.
    pub fn rust_src(&self, version: &str) -> PathBuf {
        self.dir.join(format!("rust-src-{version}"))
    }

    /// The directory itself, made when missing.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| {
            format!(
                "cannot make the cache {} (DAXPIN_CACHE names another)",
                self.dir.display()
            )
        })
    }

    /// A temporary directory in the cache, gone when dropped; those of runs that were killed go now.
    pub fn temp_dir(&self) -> Result<TempDir> {
        self.create()?;
        self.sweep();
        tempfile::Builder::new()
            .prefix(&format!("{TEMP_PREFIX}{}-", std::process::id()))
            .tempdir_in(&self.dir)
            .with_context(|| format!("cannot write to the cache {}", self.dir.display()))
    }

    /// Takes a lock by name; waits, saying for whom, while another process has it.
    pub fn lock(&self, name: &str, ui: &Ui) -> Result<Lock> {
        self.create()?;
        let path = self.dir.join(format!("{name}.lock"));
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(e).with_context(|| format!("locking {}", path.display())),
            }
            if !told {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                ui.note(&format!(
                    "waiting for another xtask (pid {pid}), which has {name} locked"
                ));
                told = true;
            }
            signals::check()?;
            std::thread::sleep(Duration::from_millis(200));
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .context("writing a lock file")?;
        // A full disk must not stop a run that needs no space; the pid is a courtesy.
        let _ = write!(file, "{}", std::process::id());
        Ok(Lock {
            _file: file,
            _kept: None,
        })
    }

    /// Takes the lock on a source tree and on what is built from it.
    pub fn lock_source(&self, flavour: &str, ui: &Ui) -> Result<Lock> {
        self.lock(&format!("src-{flavour}"), ui)?.with_children()
    }

    /// Takes the lock on a kernel tree of the user's.
    pub fn lock_tree(&self, dir: &Path, ui: &Ui) -> Result<Lock> {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.into());
        let name = sha256_text(&dir.to_string_lossy());
        self.lock(&format!("tree-{}", &name[..12]), ui)?
            .with_children()
    }

    /// Removes what an earlier run that was killed left behind, told by the process in the name.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(TEMP_PREFIX)) else {
                continue;
            };
            let owner = rest.split_once('-').and_then(|(pid, _)| pid.parse().ok());
            let alive = owner
                .and_then(rustix::process::Pid::from_raw)
                .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
            if !alive {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// A held lock; the kernel drops it when the process ends, however that happens.
pub struct Lock {
    _file: File,
    _kept: Option<Kept>,
}

impl Lock {
    /// The same for as long as anything runs that this thread starts while it is held: what a run
    /// that was killed has left behind may be writing for another moment.
    pub fn with_children(self) -> Result<Lock> {
        let file = self._file.try_clone().context("duplicating a lock")?;
        Ok(Lock {
            _kept: Some(Kept::new(file.into())),
            ..self
        })
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        signals::check()?;
        match file
            .read(&mut buf)
            .with_context(|| format!("cannot read {}", path.display()))?
        {
            0 => break,
            n => hash.update(&buf[..n]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of a text, in hexadecimal.
pub fn sha256_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut tmp = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .tempfile_in(dir)?;
        tmp.write_all(content)?;
        tmp.as_file().set_permissions(
            <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644),
        )?;
        tmp.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// An error unless the file system of `dir`, in the cache, has this many bytes free.
pub fn require_space(dir: &Path, bytes: u64, purpose: &str) -> Result<()> {
    let elsewhere = "let DAXPIN_CACHE name a directory on a larger disk";
    require_space_or(dir, bytes, purpose, elsewhere)
}

/// The same for any directory; with what to do unless room can be made there.
pub fn require_space_or(dir: &Path, bytes: u64, purpose: &str, elsewhere: &str) -> Result<()> {
    let free = free_space(dir)?;
    if free < bytes {
        bail!(
            "no space: {purpose} needs about {} in {}, which has {} free\n  \
             remedy: make room, or {elsewhere}",
            human_size(bytes),
            dir.display(),
            human_size(free)
        );
    }
    Ok(())
}

/// Bytes free where `dir` is, or where it would be made.
pub fn free_space(dir: &Path) -> Result<u64> {
    let mut d = dir;
    while !d.exists() {
        d = d
            .parent()
            .context("no directory exists on the way to the cache")?;
    }
    let s = rustix::fs::statvfs(d).with_context(|| format!("statvfs {}", d.display()))?;
    Ok(s.f_bavail * s.f_frsize)
}

/// A size as a person writes it.
pub fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_known_ones() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_text(""), empty);
        let f = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(sha256_file(f.path()).unwrap(), empty);
    }

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_held_until_children_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().into(),
        };
        let free = || {
            let file = File::open(dir.path().join("x.lock")).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        let ui = Ui::new(false);
        let lock = cache.lock("x", &ui).unwrap();
        let cat = crate::ui::proc::Cmd::new("cat");
        let start = || {
            cat.spawn(|c| {
                c.stdin(std::process::Stdio::piped());
            })
        };
        let mut without = start().unwrap();
        let lock = lock.with_children().unwrap();
        let mut with = start().unwrap();
        drop(lock);
        assert!(!free());
        drop(with.child.stdin.take());
        assert!(with.wait().unwrap().success());
        assert!(free());
        drop(without.child.stdin.take());
        assert!(without.wait().unwrap().success());
    }

    #[test]
    fn too_little_space_says_how_much_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let e = require_space(dir.path(), u64::MAX, "a build")
            .unwrap_err()
            .to_string();
        assert!(e.contains("a build") && e.contains("DAXPIN_CACHE"), "{e}");
    }

    #[test]
    fn sweeping_takes_what_dead_processes_left() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().into(),
        };
        // Beyond the largest pid that Linux gives out.
        let dead = dir.path().join(".tmp-4194305-abc");
        fs::create_dir(&dead).unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        let used = cache.temp_dir().unwrap();
        cache.sweep();
        assert!(!dead.exists());
        assert!(used.path().exists());
        assert!(dir.path().join("src").exists());
    }
}
