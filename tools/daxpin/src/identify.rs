// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which file a path in a listing of pins means.
//!
//! The kernel lists a pinned file under the name its last user opened it by. The name may be gone
//! (`/mnt/a (deleted)`), belong to another file by now, lie in another mount namespace, or be hidden by a
//! mount. So the processes that keep the pin are asked first: what they still map or have open under that
//! very name is told exactly, by device and inode. Only then the name itself is looked up.

use crate::file::{FileId, Known};
use crate::mounts::{self, Mount};
use crate::process;
use layout_lease::proc::Device;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is known about which file a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// One the owner maps or has open under this name. More than one: several bear the name.
    Users(BTreeSet<FileId>),
    /// The one that has the name now.
    Named(FileId, Place),
    /// There is none of that name any more.
    Nameless(Place),
}

/// Where the name lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The filesystem that holds the name, if it is one whose files can be pinned.
    holding: Option<Device>,
    /// Those mounted at parts of the name that it hides, in the view of who keeps the pin.
    hidden: Vec<Device>,
}

/// Whether a pin is on a certain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// It is not.
    No,
    /// It cannot be ruled out.
    Maybe,
    /// It is.
    Yes,
}

impl Identity {
    /// Whether it is this file.
    pub fn is(&self, target: FileId) -> Match {
        let may = |may| if may { Match::Maybe } else { Match::No };
        match self {
            Identity::Users(files) if !files.contains(&target) => Match::No,
            Identity::Users(files) if files.len() == 1 => Match::Yes,
            Identity::Users(_) => Match::Maybe,
            Identity::Named(file, _) if *file == target => Match::Yes,
            // The pinned file may be below a mount that came later.
            Identity::Named(_, place) => may(place.hidden.contains(&target.device)),
            Identity::Nameless(place) => may(match place.holding {
                Some(device) => device == target.device || place.hidden.contains(&target.device),
                // A detached mount has no place in any tree.
                None => true,
            }),
        }
    }

    /// The file, if there is just one it can be.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Identity::Users(files) if files.len() == 1 => files.first().copied(),
            Identity::Named(file, _) => Some(*file),
            _ => None,
        }
    }
}

/// Looks up names, and remembers what was read for it.
#[derive(Default)]
pub struct Identifier {
    users: HashMap<u32, Users>,
    views: HashMap<PathBuf, Vec<Mount>>,
}

/// What a process uses, by name.
#[derive(Default)]
struct Users {
    mapped: Vec<(Vec<u8>, FileId)>,
    open: Vec<(u32, PathBuf)>,
}

impl Identifier {
    /// What `path` in a listing means, for a pin these processes keep.
    pub fn identify(&mut self, path: &Path, pids: &[u32]) -> Identity {
        let mut users = BTreeSet::new();
        for &pid in pids {
            users.extend(self.users(pid).named(pid, path));
        }
        if !users.is_empty() {
            return Identity::Users(users);
        }
        let root = pids
            .iter()
            .find_map(|&pid| elsewhere(pid))
            .unwrap_or_else(|| PathBuf::from("/"));
        let place = self.place(path, &root, pids);
        match Known::at(&below(&root, path)) {
            // Only DAX files can be pinned: any other got the name, or covers it.
            Ok(known) if known.is_regular() && known.dax => Identity::Named(known.id, place),
            _ => Identity::Nameless(place),
        }
    }

    fn users(&mut self, pid: u32) -> &Users {
        self.users.entry(pid).or_insert_with(|| Users::of(pid))
    }

    fn place(&mut self, path: &Path, root: &Path, pids: &[u32]) -> Place {
        let view = match pids.first() {
            Some(&pid) if root != Path::new("/") => process::directory(pid),
            _ => PathBuf::from("/proc/self"),
        };
        let mounts = self
            .views
            .entry(view)
            .or_insert_with_key(|view| mounts::of(view).unwrap_or_default());
        let holding = mounts::holding(mounts, path);
        let hidden = mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .filter(|mount| holding.is_some_and(|holding| holding.id != mount.id));
        Place {
            holding: holding
                .filter(|mount| mount.can_take_part())
                .map(|mount| mount.device),
            hidden: hidden.map(|mount| mount.device).collect(),
        }
    }
}

/// The root of a process that sees other mounts than this one does.
fn elsewhere(pid: u32) -> Option<PathBuf> {
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
    let directory = process::directory(pid);
    let (its, own) = (namespace(&directory)?, namespace(Path::new("/proc/self"))?);
    (its != own).then(|| directory.join("root"))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

impl Users {
    fn of(pid: u32) -> Users {
        let maps = std::fs::read(process::directory(pid).join("maps")).unwrap_or_default();
        Users {
            mapped: maps
                .split(|&byte| byte == b'\n')
                .filter_map(mapping)
                .collect(),
            open: process::descriptors(pid).unwrap_or_default(),
        }
    }

    fn named<'a>(&'a self, pid: u32, path: &'a Path) -> impl Iterator<Item = FileId> + 'a {
        let in_maps = as_in_maps(path);
        let mapped = self
            .mapped
            .iter()
            .filter(move |(name, _)| *name == in_maps)
            .map(|(_, file)| *file);
        let open = self
            .open
            .iter()
            .filter(move |(_, target)| target == path)
            .filter_map(move |(fd, _)| {
                let link = process::directory(pid).join("fd").join(fd.to_string());
                Known::at(&link).ok().map(|known| known.id)
            });
        mapped.chain(open)
    }
}

/// The processes that map a file, whatever its name.
pub fn users_of(file: FileId) -> Vec<u32> {
    let maps_it = |pid: &u32| {
        let maps = std::fs::read(process::directory(*pid).join("maps")).unwrap_or_default();
        let mut mapped = maps.split(|&byte| byte == b'\n').filter_map(mapping);
        mapped.any(|(_, mapped)| mapped == file)
    };
    let all = process::all().unwrap_or_default();
    all.into_iter().filter(maps_it).collect()
}

/// In `/proc/<pid>/maps` a newline is the one byte that is escaped.
fn as_in_maps(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\012"),
            byte => out.push(byte),
        }
    }
    out
}

/// `7f0000000000-7f0000100000 rw-s 00000000 103:00 131       /mnt/a b`
fn mapping(line: &[u8]) -> Option<(Vec<u8>, FileId)> {
    let mut rest = line;
    let mut words = [&line[..0]; 5];
    for word in &mut words {
        let end = rest.iter().position(|&byte| byte == b' ')?;
        *word = &rest[..end];
        rest = &rest[end + 1..];
    }
    let [_, _, _, device, inode] = words.map(|word| std::str::from_utf8(word).ok());
    let (major, minor) = device?.split_once(':')?;
    let start = rest.iter().position(|&byte| byte != b' ')?;
    let device = Device {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
    };
    let inode = inode?.parse().ok()?;
    Some((rest[start..].to_vec(), FileId { device, inode }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(minor: u32, inode: u64) -> FileId {
        FileId {
            device: Device { major: 259, minor },
            inode,
        }
    }

    fn place(holding: Option<u32>, hidden: &[u32]) -> Place {
        let device = |minor| Device { major: 259, minor };
        Place {
            holding: holding.map(device),
            hidden: hidden.iter().map(|&minor| device(minor)).collect(),
        }
    }

    #[test]
    fn users_are_exact() {
        let one = Identity::Users([id(0, 1)].into());
        assert_eq!(one.is(id(0, 1)), Match::Yes);
        assert_eq!(one.is(id(0, 2)), Match::No);
        let two = Identity::Users([id(0, 1), id(0, 2)].into());
        assert_eq!(two.is(id(0, 1)), Match::Maybe);
        assert_eq!(two.is(id(0, 3)), Match::No);
        assert_eq!((one.file(), two.file()), (Some(id(0, 1)), None));
    }

    #[test]
    fn a_name_may_be_covered_by_another_filesystem() {
        let named = Identity::Named(id(1, 7), place(Some(1), &[0]));
        assert_eq!(named.is(id(1, 7)), Match::Yes);
        assert_eq!(named.is(id(1, 8)), Match::No);
        assert_eq!(named.is(id(0, 7)), Match::Maybe);
        assert_eq!(named.is(id(2, 7)), Match::No);
        // A bind mount of the same filesystem hides as well.
        let bound = Identity::Named(id(0, 7), place(Some(0), &[0]));
        assert_eq!(bound.is(id(0, 8)), Match::Maybe);
    }

    #[test]
    fn a_name_that_is_gone_rules_out_other_filesystems_only() {
        let gone = Identity::Nameless(place(Some(0), &[1]));
        assert_eq!(gone.is(id(0, 1)), Match::Maybe);
        assert_eq!(gone.is(id(1, 1)), Match::Maybe);
        assert_eq!(gone.is(id(2, 1)), Match::No);
        let detached = Identity::Nameless(place(None, &[]));
        assert_eq!(detached.is(id(1, 1)), Match::Maybe);
    }

    #[test]
    fn mappings_have_devices_and_odd_names() {
        let line = b"7f0000000000-7f0000100000 rw-s 00000000 103:00 131                        /mnt/a b\\012 (deleted)";
        let (name, file) = mapping(line).unwrap();
        assert_eq!(name, as_in_maps(Path::new("/mnt/a b\n (deleted)")));
        assert_eq!(file, id(0, 131));
        assert!(mapping(b"7f00-7f01 rw-p 00000000 00:00 0 ").is_none());
        assert!(mapping(b"").is_none());
    }

    #[test]
    fn a_deleted_open_file_is_told_by_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("gone");
        let file = std::fs::File::create(&path).unwrap();
        let known = Known::open(&file).unwrap().id;
        std::fs::remove_file(&path).unwrap();
        // The name belongs to another file by now, which must not be taken for it.
        std::fs::write(&path, "another").unwrap();
        let listed = PathBuf::from(format!("{} (deleted)", path.display()));
        let identity = Identifier::default().identify(&listed, &[std::process::id()]);
        assert_eq!(identity, Identity::Users([known].into()));
        assert_eq!(identity.is(Known::at(&path).unwrap().id), Match::No);
    }
}
