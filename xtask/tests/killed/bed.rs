// SPDX-License-Identifier: MIT OR Apache-2.0
//! A clone of the project and a cache that nothing else uses, and xtask in them.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, kill_process_group, Pid, Signal};
use tempfile::TempDir;

/// How long processes may take to end after what had started them.
const GRACE: Duration = Duration::from_secs(30);
/// How long any run may take; a build on a busy machine takes longest.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// How a run is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// Ctrl-C.
    Interrupt,
    /// xtask and whatever is in its process group, by SIGKILL.
    Group,
    /// Everything at once by SIGKILL, as when a container ends.
    Everything,
}

impl Killed {
    /// Each of them.
    pub const ALL: [Killed; 3] = [Killed::Interrupt, Killed::Group, Killed::Everything];
}

/// A clone with its cache.
pub struct Bed {
    dir: TempDir,
    base: String,
    series: String,
}

fn run(cmd: &mut Command) -> String {
    let output = cmd.stdin(Stdio::null()).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim_end().to_string();
    assert!(
        output.status.success(),
        "{cmd:?}: {}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn git(dir: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"];
    run(Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(identity)
        .args(args))
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The value of a key of `base.toml`.
fn pinned(table: &str, key: &str) -> String {
    let text = fs::read_to_string(project().join("base.toml")).unwrap();
    let pins: toml::Table = text.parse().unwrap();
    pins[table][key].as_str().unwrap().to_string()
}

impl Bed {
    fn empty() -> Self {
        // Not in /tmp, which may be small.
        let dir = tempfile::Builder::new()
            .prefix("killed-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        for sub in ["main/patches", "main/xtask", "cache/downloads"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let bed = Bed {
            dir,
            base: String::new(),
            series: String::new(),
        };
        fs::copy(project().join("base.toml"), bed.root().join("base.toml")).unwrap();
        git(&bed.root(), &["init", "-q"]);
        bed
    }

    /// With a release of a few hundred files, and ten patches to it.
    pub fn small() -> Self {
        let mut bed = Bed::empty();
        let version = pinned("base", "version");
        let numbers: Vec<&str> = version.split('.').collect();
        let top = format!("linux-{version}");
        let tree = bed.dir.path().join(&top);
        for n in 0..300 {
            let dir = tree.join(format!("d{}", n % 20));
            fs::create_dir_all(&dir).unwrap();
            fs::write(
                dir.join(format!("f{n}.c")),
                format!("int f{n};\n").repeat(100),
            )
            .unwrap();
        }
        let makefile = format!(
            "VERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = {}\nEXTRAVERSION =\n",
            numbers[0], numbers[1], numbers[2]
        );
        fs::write(tree.join("Makefile"), makefile).unwrap();
        fs::write(tree.join("COPYING"), "GPL-2.0\n").unwrap();
        let tarball = bed
            .cache()
            .join("downloads")
            .join(pinned("base", "tarball"));
        run(Command::new("tar")
            .arg("-C")
            .arg(bed.dir.path())
            .arg("-cJf")
            .arg(tarball)
            .arg(&top));
        git(&tree, &["init", "-q", "-b", "base"]);
        git(&tree, &["add", "."]);
        git(&tree, &["commit", "-q", "-m", "base"]);
        bed.base = git(&tree, &["rev-parse", "HEAD^{tree}"]);
        for n in 0..10 {
            for m in 0..10 {
                let file = tree.join(format!("d{m}/f{}.c", m + 20 * n));
                let text = fs::read_to_string(&file).unwrap();
                fs::write(&file, text.replacen("int", "long", 50)).unwrap();
            }
            fs::write(tree.join(format!("d{n}/new.c")), "int x;\n").unwrap();
            git(&tree, &["add", "."]);
            git(&tree, &["commit", "-q", "-m", &format!("x: change {n}")]);
        }
        bed.series = git(&tree, &["rev-parse", "HEAD^{tree}"]);
        let patches = bed.root().join("patches");
        let format = ["format-patch", "-q", "--no-signature", "-o"];
        let to = patches.to_str().unwrap();
        git(&tree, &[&format[..], &[to, "-10"]].concat());
        let mut names: Vec<String> = fs::read_dir(&patches)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap() + "\n")
            .collect();
        names.sort();
        fs::write(patches.join("series"), names.concat()).unwrap();
        fs::remove_dir_all(&tree).unwrap();
        bed
    }

    /// With the project's own patches, and what the machine's cache has of downloads and tools.
    pub fn real() -> Self {
        let mut bed = Bed::empty();
        let cache = std::env::var_os("DAXPIN_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/daxpin"),
            PathBuf::from,
        );
        for sub in ["patches", "configs", "mutants"] {
            let _ = fs::remove_dir_all(bed.root().join(sub));
            run(Command::new("cp")
                .arg("-a")
                .arg(project().join(sub))
                .arg(bed.root().join(sub)));
        }
        let bindgen = format!("bindgen-{}", pinned("tools", "bindgen_cli"));
        let shared = ["ccache", "venv", "downloads", &bindgen].map(str::to_string);
        let sources = fs::read_dir(&cache).unwrap().flatten();
        let sources = sources.map(|e| e.file_name().into_string().unwrap());
        let sources = sources.filter(|n| n.starts_with("rust-src-") || n.starts_with("qemu-"));
        for name in shared.into_iter().chain(sources) {
            let to = bed.cache().join(&name);
            let _ = fs::remove_dir(&to);
            if cache.join(&name).exists() {
                std::os::unix::fs::symlink(cache.join(&name), to).unwrap();
            }
        }
        let version = pinned("base", "version");
        let known = cache.join(format!("base-{version}.git"));
        assert!(
            known.exists(),
            "{} is wanted to compare with: cargo xtask source",
            known.display()
        );
        bed.base = git(&known, &["rev-parse", "base^{tree}"]);
        bed.series = bed.patched(&known);
        bed
    }

    /// The tree that the patches make of the base in this repository, which is only read.
    fn patched(&self, base: &Path) -> String {
        let objects = self.dir.path().join("objects");
        fs::create_dir(&objects).unwrap();
        let git = |args: &[&str]| {
            run(Command::new("git")
                .arg("-C")
                .arg(base)
                .env("GIT_INDEX_FILE", objects.join("index"))
                .env("GIT_OBJECT_DIRECTORY", &objects)
                .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", base.join("objects"))
                .args(args))
        };
        git(&["read-tree", "base"]);
        let patches = self.root().join("patches");
        let list = fs::read_to_string(patches.join("series")).unwrap();
        let paths = list.lines().map(|n| patches.join(n).display().to_string());
        let paths: Vec<String> = paths.collect();
        let mut apply = vec!["apply", "--cached", "--whitespace=nowarn"];
        apply.extend(paths.iter().map(String::as_str));
        git(&apply);
        git(&["write-tree"])
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("main")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut cmd = Command::new(env!("CARGO_BIN_EXE_xtask"));
        cmd.args(args)
            .env("CARGO_MANIFEST_DIR", self.root().join("xtask"))
            .env("DAXPIN_CACHE", self.cache())
            .stdin(Stdio::null())
            .process_group(0);
        cmd
    }

    fn start(&self, args: &[&str]) -> Child {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut cmd = self.command(args);
        cmd.stdout(log.try_clone().unwrap()).stderr(log);
        cmd.spawn().unwrap()
    }

    /// Runs xtask; it must succeed, and no process may be left of it.
    pub fn succeed(&self, args: &[&str]) {
        let mut child = self.start(args);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LIMIT {
                self.kill_everything();
                panic!("{args:?} does not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{args:?}: {status}\n{}", self.log());
        self.check_nothing_left();
    }

    /// What xtask prints.
    pub fn output(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    }

    /// Starts xtask and kills it after this time. Was it still there?
    pub fn kill(&self, args: &[&str], after: Duration, how: Killed) -> bool {
        let mut child = self.start(args);
        let begun = Instant::now();
        while begun.elapsed() < after {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{args:?}: {status}\n{}", self.log());
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = Pid::from_child(&child);
        match how {
            Killed::Interrupt => drop(kill_process_group(pid, Signal::INT)),
            Killed::Group => drop(kill_process_group(pid, Signal::KILL)),
            Killed::Everything => self.kill_everything(),
        }
        let status = child.wait().unwrap();
        if how == Killed::Interrupt {
            // Before the handler is there, the signal itself ends it.
            let ended = matches!(status.code(), Some(0 | 130)) || status.signal() == Some(2);
            assert!(
                ended,
                "interrupted {args:?} after {after:?}: {status}\n{}",
                self.log()
            );
            self.check_nothing_left();
        }
        !status.success()
    }

    /// Another one in the same state, in which nothing has been run yet.
    pub fn another(&self) -> Bed {
        let mut bed = Bed::empty();
        for sub in ["main", "cache"] {
            run(Command::new("cp")
                .args(["-a", "-T"])
                .arg(self.dir.path().join(sub))
                .arg(bed.dir.path().join(sub)));
        }
        bed.base.clone_from(&self.base);
        bed.series.clone_from(&self.series);
        bed
    }

    /// Removes what `source` and `apply` have made.
    pub fn forget(&self) {
        let version = pinned("base", "version");
        let _ = fs::remove_dir_all(self.cache().join(format!("base-{version}.git")));
        let _ = fs::remove_dir_all(self.root().join("linux"));
    }

    /// The processes that have been started here, whoever their parents are.
    fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("DAXPIN_CACHE={}", self.cache().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())
        })
        .map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (pid, line.trim_end().to_string())
        })
        // One that has ended in the meantime has no command line.
        .filter(|(_, line)| !line.is_empty())
        .collect()
    }

    fn kill_everything(&self) {
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }

    /// Whatever has its final name is whole.
    pub fn check_what_is_there(&self) {
        let version = pinned("base", "version");
        let base = self.cache().join(format!("base-{version}.git"));
        if base.exists() {
            git(&base, &["fsck", "--connectivity-only", "--no-dangling"]);
            assert_eq!(git(&base, &["rev-parse", "base^{tree}"]), self.base);
        }
        let linux = self.root().join("linux");
        if linux.exists() {
            assert_eq!(git(&linux, &["rev-parse", "base^{tree}"]), self.base);
            let tip = git(&linux, &["rev-parse", "series^{tree}"]);
            assert!(tip == self.base || tip == self.series, "{tip}");
        }
    }

    /// Everything is as if nothing had been killed.
    pub fn check_finished(&self) {
        self.check_what_is_there();
        let linux = self.root().join("linux");
        assert_eq!(git(&linux, &["rev-parse", "HEAD^{tree}"]), self.series);
        assert_eq!(git(&linux, &["symbolic-ref", "HEAD"]), "refs/heads/series");
        assert_eq!(git(&linux, &["status", "--porcelain"]), "");
        assert_eq!(git(&linux, &["worktree", "list"]).lines().count(), 1);
        let names = |dir: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap().flatten();
            entries
                .map(|e| e.file_name().into_string().unwrap())
                .collect()
        };
        let mut left = names(self.cache());
        left.retain(|n| n.starts_with(".tmp"));
        assert_eq!(left, Vec::<String>::new(), "in the cache");
        let mut left = names(self.root());
        left.retain(|n| n.starts_with(".linux"));
        assert_eq!(left, Vec::<String>::new(), "in the clone");
        self.check_nothing_left();
    }

    /// The kernel is there, and make has nothing left to do.
    pub fn check_built(&self) {
        let image = self.root().join("out/build/bzImage");
        assert!(fs::metadata(&image).unwrap().len() > 1 << 20);
        self.succeed(&["build"]);
        let log = self.log();
        assert!(log.contains(" 0 objects built"), "{log}");
    }

    /// No process is left, now or soon.
    pub fn check_nothing_left(&self) {
        let begun = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            if begun.elapsed() > GRACE {
                self.kill_everything();
                panic!("left over: {left:#?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Nothing may write into the directory while it is removed.
        self.kill_everything();
    }
}
