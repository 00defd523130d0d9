// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest takes into its memory: of the user's tree what running tests takes, with our files
//! over it, and the programs that scripts call all the time.
//!
//! The guest's root is the host's, over 9p and without a cache. A test calls thousands of small
//! programs; from memory they start many times faster.

use super::overlay::{file_name, files};
use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The tree's place in the archive.
const TREE: &str = "root/tree";
/// Directories of the tree that tests use.
const PARTS: [&str; 4] = ["common", "src", "ltp", "tools"];
/// What only building takes.
const SOURCES: [&str; 7] = ["c", "h", "o", "lo", "la", "dep", "in"];

/// Programs that xfstests' scripts call, as far as the host has them.
const PROGRAMS: &str = "\
    attr awk basename bash bc blkdiscard blkid blockdev cat chacl chattr chgrp chmod chown chroot cmp \
    comm cp cut date dd debugfs df diff dirname dmesg dmsetup du dumpe2fs e2fsck e4defrag echo egrep \
    env expand expr fallocate false fgrep file filefrag find findmnt flock fold free fsck fsck.ext4 \
    fsck.xfs fsfreeze fstrim gawk getcap getconf getent getfacl getfattr grep head hexdump hostname id \
    indent ip join kill ldd ln logger losetup ls lsattr lsblk md5sum mkdir mkfifo mkfs mkfs.ext4 \
    mkfs.xfs mknod mkswap mktemp mount mountpoint mv nice nproc od paste perl pgrep pidof pkill printf \
    ps pwd quota quotacheck quotaoff quotaon rdma readlink realpath renice repquota resize2fs rm rmdir \
    sed seq setcap setfacl setfattr setpriv setsid sh sha256sum shuf sleep sort split stat stty su \
    swapoff swapon sync sysctl tac tail tar tee test timeout touch tr truncate true tsort tty tune2fs \
    udevadm umount uname uniq unshare uuidgen wc which who xargs xfs_admin xfs_bmap xfs_db xfs_freeze \
    xfs_fsr xfs_growfs xfs_info xfs_io xfs_logprint xfs_mdrestore xfs_metadump xfs_mkfile xfs_quota \
    xfs_repair xfs_spaceman xfsdump xfsrestore xxd yes";

/// Files of /etc that they read.
const ETC: &str = "\
    bash.bashrc environment fstab group hostname hosts ld.so.cache localtime login.defs magic \
    mke2fs.conf nsswitch.conf passwd profile protocols services shadow xattr.conf";

/// Files of the archive, by their place in it.
type Contents = BTreeMap<PathBuf, PathBuf>;

/// Writes the archive for these tests.
pub fn pack(tree: &Path, layer: &Path, tests: &BTreeSet<String>, archive: &Path) -> Result<()> {
    let mut contents = Contents::new();
    add_tree(&mut contents, tree, tests)?;
    // Ours come last, and win.
    add_all(&mut contents, layer, Path::new(TREE))?;
    add_programs(&mut contents)?;
    let file =
        fs::File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    for (place, from) in &contents {
        tar.append_path_with_name(from, place)
            .with_context(|| format!("cannot put {} into the archive", from.display()))?;
    }
    tar.into_inner().context("cannot finish the archive")?;
    Ok(())
}

fn add_tree(contents: &mut Contents, tree: &Path, tests: &BTreeSet<String>) -> Result<()> {
    let place = Path::new(TREE);
    for file in files(tree)? {
        let name = file_name(&file);
        if matches!(name.as_str(), "check" | "randomize.awk") {
            contents.insert(place.join(name), file);
        }
    }
    for part in PARTS {
        add_all(contents, &tree.join(part), &place.join(part))?;
    }
    let mut dirs: Vec<&str> = tests.iter().filter_map(|t| t.split('/').next()).collect();
    dirs.dedup();
    for dir in dirs {
        // Of a test 001 also its output 001.out, or 001.out.xfs, and what else goes by its name.
        for file in files(&tree.join("tests").join(dir))? {
            let name = file_name(&file);
            let number = name.split('.').next().unwrap_or_default();
            if name == "group.list" || tests.contains(&format!("{dir}/{number}")) {
                contents.insert(place.join("tests").join(dir).join(name), file);
            }
        }
    }
    Ok(())
}

/// Everything below a directory but sources.
fn add_all(contents: &mut Contents, dir: &Path, place: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for path in entries.flatten().map(|e| e.path()) {
        let name = file_name(&path);
        let source = path
            .extension()
            .is_some_and(|e| SOURCES.iter().any(|s| e == *s));
        if path.is_dir() && !name.starts_with('.') {
            add_all(contents, &path, &place.join(name))?;
        } else if path.is_file() && !source {
            contents.insert(place.join(name), path);
        }
    }
    Ok(())
}

/// The programs, the libraries they want, and what they read, at their places.
fn add_programs(contents: &mut Contents) -> Result<()> {
    let places = ["/usr/sbin", "/usr/bin"];
    let mut found = vec![];
    for name in PROGRAMS.split_whitespace() {
        let path = places
            .iter()
            .map(|p| Path::new(p).join(name))
            .find(|p| p.is_file());
        found.extend(path);
    }
    // It fails for scripts, and goes on with the next one.
    let (_, out, _) = Cmd::new("ldd").args(&found).try_output()?;
    found.extend(libraries(&out));
    found.extend(
        ETC.split_whitespace()
            .map(|name| Path::new("/etc").join(name)),
    );
    for path in found {
        // Its directory may be a link to the one in /usr; its name has to be the one it is called by.
        let Some(dir) = path.parent().and_then(|d| fs::canonicalize(d).ok()) else {
            continue;
        };
        if let (Ok(place), Ok(real)) = (dir.strip_prefix("/"), fs::canonicalize(&path)) {
            if ["usr", "etc"].iter().any(|p| place.starts_with(p)) {
                contents.insert(place.join(file_name(&path)), real);
            }
        }
    }
    Ok(())
}

/// The paths in what ldd says.
fn libraries(text: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, p)| p);
        let path = path.split(" (0x").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    let indented = text.lines().filter(|l| l.starts_with('\t'));
    indented.filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_that_were_found() {
        let text = "/usr/bin/bash:\n\tlinux-vdso.so.1 (0x00007fff)\n\tlibtinfo.so.6 => \
            /lib/x86_64-linux-gnu/libtinfo.so.6 (0x00007f1)\n\tlibx.so => not found\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n/usr/bin/ldd:\n\tnot a dynamic executable\n";
        let paths: Vec<_> = libraries(text).into_iter().collect();
        assert_eq!(
            paths,
            [
                Path::new("/lib/x86_64-linux-gnu/libtinfo.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn the_archive_has_what_was_asked_for_and_ours_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, layer) = (dir.path().join("tree"), dir.path().join("layer"));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for part in PARTS {
            write(tree.join(part).join("x"), "theirs");
        }
        write(tree.join("src/x.c"), "");
        write(tree.join(".git/config"), "");
        for name in ["001", "001.out.xfs", "002", "group.list"] {
            write(tree.join("tests/generic").join(name), "theirs");
        }
        write(layer.join("tests/generic/group.list"), "ours");
        let tests = ["generic/001".to_string()].into();
        let mut contents = Contents::new();
        add_tree(&mut contents, &tree, &tests).unwrap();
        add_all(&mut contents, &layer, Path::new(TREE)).unwrap();
        let names: Vec<String> = contents.keys().map(|p| p.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "root/tree/common/x",
                "root/tree/ltp/x",
                "root/tree/src/x",
                "root/tree/tests/generic/001",
                "root/tree/tests/generic/001.out.xfs",
                "root/tree/tests/generic/group.list",
                "root/tree/tools/x",
            ]
        );
        let list = &contents[Path::new("root/tree/tests/generic/group.list")];
        assert_eq!(fs::read_to_string(list).unwrap(), "ours");
    }
}
