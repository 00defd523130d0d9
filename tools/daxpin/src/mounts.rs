// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounted filesystems: `/proc/<pid>/mountinfo`.

use crate::file::Known;
use layout_lease::escape;
use layout_lease::proc::Device;
use std::io;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The filesystem's device.
    pub device: Device,
    /// Where, in the process's view.
    pub point: PathBuf,
    /// `xfs`
    pub kind: String,
    /// What is mounted; for a filesystem on a block device, its path.
    pub source: PathBuf,
    /// Options of this mount and of the filesystem, separated by commas.
    pub options: String,
}

impl Mount {
    /// Whether `option` (`dax=always`) is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|set| set == option)
    }

    /// Whether files of it can take part.
    pub fn can_take_part(&self) -> bool {
        matches!(self.kind.as_str(), "ext4" | "xfs")
    }
}

/// The mounts a process sees, the oldest first.
///
/// # Errors
/// Those of reading.
pub fn of(process: &Path) -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(process.join("mountinfo"))?))
}

/// The mounts this process sees.
///
/// # Errors
/// Those of reading.
pub fn own() -> io::Result<Vec<Mount>> {
    of(Path::new("/proc/self"))
}

/// The mount an open or named file was reached by; nothing where it is another namespace's.
///
/// # Errors
/// Those of reading.
pub fn of_file(known: &Known) -> io::Result<Option<Mount>> {
    Ok(own()?.into_iter().find(|mount| mount.id == known.mount))
}

/// The mount a path lies in: the one with the longest mount point; of several there, the one on top.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

fn parse(text: &[u8]) -> Vec<Mount> {
    // What cannot be read is left out: the kernel's format does not change, and nothing depends on a
    // line of it alone.
    text.split(|&byte| byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let separator = words.iter().position(|word| *word == b"-")?;
    let (front, back) = (words.get(..separator)?, words.get(separator + 1..)?);
    let (major, minor) = std::str::from_utf8(front.get(2)?).ok()?.split_once(':')?;
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    Some(Mount {
        id: std::str::from_utf8(front.first()?).ok()?.parse().ok()?,
        device: Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        point: escape::decode(front.get(4)?).ok()?,
        kind: text(back.first()?),
        source: escape::decode(back.get(1)?).ok()?,
        options: format!("{},{}", text(front.get(5)?), text(back.get(2)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 0:20 / / rw,relatime - 9p rootfs rw,trans=virtio\n\
        30 22 259:0 / /tmp/dax\\040one rw,relatime shared:1 - xfs /dev/pmem0 rw,attr2,dax=always\n\
        31 30 259:1 / /tmp/dax\\040one/sub rw - ext4 /dev/pmem1 rw,dax=always,data=journal\n\
        32 30 259:2 / /tmp/dax\\040one/sub rw - ext4 /dev/pmem2 rw,dax=never\n";

    #[test]
    fn mounts_are_read() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[1].point, Path::new("/tmp/dax one"));
        assert!(mounts[1].can_take_part() && !mounts[0].can_take_part());
        assert!(mounts[1].has("dax=always") && !mounts[1].has("dax"));
        assert_eq!(mounts[1].source, Path::new("/dev/pmem0"));
    }

    #[test]
    fn the_longest_mount_point_wins_and_the_top_one_of_two() {
        let mounts = parse(TEXT);
        let minor = |path: &str| holding(&mounts, Path::new(path)).unwrap().device.minor;
        assert_eq!(minor("/etc/passwd"), 20);
        assert_eq!(minor("/tmp/dax one/subject"), 0);
        assert_eq!(minor("/tmp/dax one/sub/file"), 2);
    }

    #[test]
    fn this_system_has_a_root() {
        let mounts = own().unwrap();
        assert!(holding(&mounts, Path::new("/")).is_some());
        let proc = Known::at(Path::new("/proc/version")).unwrap();
        assert_eq!(of_file(&proc).unwrap().unwrap().kind, "proc");
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    fn path() -> impl Strategy<Value = PathBuf> {
        vec(vec(1u8..=255, 1..6), 0..4).prop_map(|parts| {
            let parts = parts.into_iter().map(|mut part| {
                part.iter_mut()
                    .filter(|b| **b == b'/')
                    .for_each(|b| *b = b'x');
                [vec![b'/', b'p'], part].concat()
            });
            let bytes = parts.collect::<Vec<_>>().concat();
            PathBuf::from(OsString::from_vec(if bytes.is_empty() {
                b"/".to_vec()
            } else {
                bytes
            }))
        })
    }

    fn mount() -> impl Strategy<Value = Mount> {
        let option = "[a-z]{1,5}(=[a-z]{1,4})?";
        (
            any::<u64>(),
            any::<u8>(),
            any::<u16>(),
            path(),
            "ext4|xfs|9p",
            path(),
            vec(option, 2..5),
        )
            .prop_map(|(id, major, minor, point, kind, source, options)| Mount {
                id,
                device: Device {
                    major: major.into(),
                    minor: minor.into(),
                },
                point,
                kind,
                source,
                options: options.join(","),
            })
    }

    /// The kernel's line, with or without optional fields.
    fn write(mount: &Mount, optional: &str) -> Vec<u8> {
        let encode = |path: &Path| escape::encode(path.as_os_str().as_bytes());
        let (of_mount, of_fs) = mount.options.split_once(',').unwrap();
        let Device { major, minor } = mount.device;
        [
            format!("{} 1 {major}:{minor} / ", mount.id).into_bytes(),
            encode(&mount.point),
            format!(" {of_mount} {optional}- {} ", mount.kind).into_bytes(),
            encode(&mount.source),
            format!(" {of_fs}\n").into_bytes(),
        ]
        .concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mounts_are_read_back(mounts in vec(mount(), 0..5), optional in "(shared:[0-9] )?(master:[0-9] )?") {
            let text: Vec<u8> = mounts.iter().flat_map(|m| write(m, &optional)).collect();
            prop_assert_eq!(parse(&text), mounts);
        }

        #[test]
        fn the_mount_that_holds_a_path_is_the_nearest(mounts in vec(mount(), 1..6), rest in path(), of in any::<prop::sample::Index>()) {
            let below = mounts[of.index(mounts.len())].point.join(rest.strip_prefix("/").unwrap());
            let found = holding(&mounts, &below).unwrap();
            prop_assert!(below.starts_with(&found.point));
            let nearer = |m: &&Mount| below.starts_with(&m.point) && m.point.starts_with(&found.point) && m.point != found.point;
            prop_assert_eq!(mounts.iter().find(nearer), None);
            // Of several in one place, the last one lies on top.
            let last = mounts.iter().rfind(|m| m.point == found.point);
            prop_assert_eq!(last, Some(found));
        }

        #[test]
        fn damage_never_panics(mount in mount(), at in any::<prop::sample::Index>(), byte in any::<u8>(), noise in vec(any::<u8>(), 0..80)) {
            parse(&noise);
            let mut text = write(&mount, "");
            let at = at.index(text.len());
            text[at] = byte;
            parse(&text);
        }
    }
}
