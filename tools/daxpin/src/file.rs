// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which file it is, whatever its name.

use crate::text::JsonPath;
use layout_lease::proc::Device;
use rustix::fs::{makedev, statx, AtFlags, FileType, Statx, StatxAttributes, StatxFlags, CWD};
use rustix::io::Errno;
use serde::{Serialize, Serializer};
use std::os::fd::AsFd;
use std::path::Path;

/// A file as the kernel tells it from others: filesystem and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The filesystem.
    pub device: Device,
    /// The inode.
    pub inode: u64,
}

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut object = serializer.serialize_struct("id", 2)?;
        let Device { major, minor } = self.device;
        object.serialize_field("device", &format!("{major}:{minor}"))?;
        object.serialize_field("inode", &self.inode)?;
        object.end()
    }
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Device { major, minor } = self.device;
        write!(f, "inode {} on device {major}:{minor}", self.inode)
    }
}

/// What a file is and is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which one.
    pub id: FileId,
    /// Regular, a directory, ...
    pub kind: FileType,
    /// Its pages are its blocks.
    pub dax: bool,
    /// Nothing in it can be changed.
    pub immutable: bool,
    /// It can grow only.
    pub append_only: bool,
    /// Its contents are encrypted or verified, which DAX cannot do.
    pub transformed: bool,
    /// Somebody may execute it.
    pub executable: bool,
    /// Its owner.
    pub uid: u32,
    /// The mount it was reached by, as in mountinfo.
    pub mount: u64,
}

/// What is asked for.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

impl From<Statx> for Known {
    fn from(stat: Statx) -> Self {
        let is = |flag| stat.stx_attributes.contains(flag);
        Known {
            id: FileId {
                device: Device::from(makedev(stat.stx_dev_major, stat.stx_dev_minor)),
                inode: stat.stx_ino,
            },
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            dax: is(StatxAttributes::DAX),
            immutable: is(StatxAttributes::IMMUTABLE),
            append_only: is(StatxAttributes::APPEND),
            transformed: is(StatxAttributes::ENCRYPTED) || is(StatxAttributes::VERITY),
            executable: stat.stx_mode & 0o111 != 0,
            uid: stat.stx_uid,
            mount: stat.stx_mnt_id,
        }
    }
}

impl Known {
    /// The file a path leads to. Never waits for a network or triggers a mount: what was pinned is local.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn at(path: &Path) -> Result<Known, Errno> {
        let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        statx(CWD, path, flags, WANTED).map(Known::from)
    }

    /// An open file.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn open(fd: impl AsFd) -> Result<Known, Errno> {
        statx(fd, "", AtFlags::EMPTY_PATH, WANTED).map(Known::from)
    }

    /// Whether pins are possible at all.
    pub fn is_regular(&self) -> bool {
        self.kind == FileType::RegularFile
    }
}

/// A file in JSON: its path, and what it was found to be.
#[derive(Serialize)]
pub struct JsonFile<'a> {
    /// The name, where there is one.
    #[serde(flatten)]
    pub path: Option<JsonPath<'a>>,
    /// Device and inode, where they could be found out.
    #[serde(flatten)]
    pub id: Option<FileId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_hard_link_is_the_same_file_and_a_copy_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let [first, link, copy] = ["first", "link", "copy"].map(|name| directory.path().join(name));
        std::fs::write(&first, "text").unwrap();
        std::fs::hard_link(&first, &link).unwrap();
        std::fs::copy(&first, &copy).unwrap();
        let id = |path| Known::at(path).unwrap().id;
        assert_eq!(id(&first), id(&link));
        assert_ne!(id(&first), id(&copy));
        let stat = std::fs::metadata(&first).unwrap();
        assert_eq!(id(&first).inode, stat.ino());
        assert_eq!(id(&first).device, Device::from(stat.dev()));
    }

    #[test]
    fn a_file_in_json_is_flat() {
        let file = JsonFile {
            path: Some(JsonPath(Path::new("/mnt/a"))),
            id: Some(FileId {
                device: Device {
                    major: 259,
                    minor: 1,
                },
                inode: 131,
            }),
        };
        assert_eq!(
            serde_json::to_string(&file).unwrap(),
            r#"{"path":"/mnt/a","device":"259:1","inode":131}"#
        );
        let unknown = JsonFile { id: None, ..file };
        assert_eq!(
            serde_json::to_string(&unknown).unwrap(),
            r#"{"path":"/mnt/a"}"#
        );
    }
}
