// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything about a file that a refused operation must leave as it was.

use anyhow::{bail, Context};
use rustix::fs::{fgetxattr, setxattr, statx, AtFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Size, blocks, times, capabilities, extents and contents at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    size: u64,
    blocks: u64,
    mode: u16,
    mtime: (i64, u32),
    ctime: (i64, u32),
    btime: (i64, u32),
    /// As `setcap` sets them. Changes of the data take them away.
    capabilities: Option<Vec<u8>>,
    extents: Vec<Extent>,
    digest: u64,
}

/// One extent of the file's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub logical: u64,
    /// Offset on the device.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

/// How many extents that differ are shown.
const SHOWN: usize = 3;

impl Snapshot {
    /// Looks at a file.
    pub fn take(path: &Path) -> anyhow::Result<Snapshot> {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, wanted)?;
        Ok(Snapshot {
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            mode: stat.stx_mode,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            btime: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            capabilities: capabilities(&file)?,
            extents: extents(&file)?,
            digest: digest(&mut file)?,
        })
    }

    /// What became different, in words; `None` for nothing.
    pub fn difference(&self, after: &Snapshot) -> Option<String> {
        let mut what = Vec::new();
        if self.size != after.size {
            what.push(format!("size {} to {}", self.size, after.size));
        }
        if self.blocks != after.blocks {
            what.push(format!("blocks {} to {}", self.blocks, after.blocks));
        }
        if self.mode != after.mode {
            what.push(format!("mode {:o} to {:o}", self.mode, after.mode));
        }
        if self.mtime != after.mtime {
            what.push("mtime".to_owned());
        }
        if self.ctime != after.ctime {
            what.push("ctime".to_owned());
        }
        if self.btime != after.btime {
            what.push("btime".to_owned());
        }
        if self.capabilities != after.capabilities {
            what.push("capabilities".to_owned());
        }
        if self.extents != after.extents {
            let only = |one: &[Extent], other: &[Extent]| -> Vec<Extent> {
                let gone = |e: &&Extent| !other.contains(e);
                one.iter().filter(gone).take(SHOWN).copied().collect()
            };
            let (old, new) = (&self.extents, &after.extents);
            what.push(format!(
                "extents {:?} to {:?}",
                only(old, new),
                only(new, old)
            ));
        }
        if self.digest != after.digest {
            what.push("data".to_owned());
        }
        (!what.is_empty()).then(|| what.join(", "))
    }
}

const CAPABILITIES: &str = "security.capability";

/// Lets whoever runs the file bind to low ports.
pub fn make_capable(path: &Path) -> anyhow::Result<()> {
    // struct vfs_ns_cap_data before version 3: CAP_NET_BIND_SERVICE permitted, and effective.
    const VERSION_2_EFFECTIVE: u32 = 0x0200_0001;
    const NET_BIND_SERVICE: u32 = 1 << 10;
    let words = [VERSION_2_EFFECTIVE, NET_BIND_SERVICE, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    setxattr(path, CAPABILITIES, &value, XattrFlags::empty())
        .with_context(|| format!("no capabilities for {}", path.display()))
}

/// Whether the file still has what [`make_capable`] gave it.
pub fn is_capable(path: &Path) -> anyhow::Result<bool> {
    Ok(capabilities(&File::open(path)?)?.is_some())
}

fn capabilities(file: &File) -> anyhow::Result<Option<Vec<u8>>> {
    let mut value = [0u8; 64];
    match fgetxattr(file, CAPABILITIES, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error).context("the file's capabilities"),
    }
}

/// A 64-bit digest of the rest of a file: not for adversaries, but no two patterns here share one.
fn digest(file: &mut File) -> std::io::Result<u64> {
    let mut buffer = vec![0u8; 1 << 20];
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        for chunk in buffer[..filled].chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = (sum ^ u64::from_le_bytes(word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23);
        }
        if filled < buffer.len() {
            return Ok(sum);
        }
    }
}

const MAX_EXTENTS: usize = 512;
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B;

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; MAX_EXTENTS],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// The layout of a file, as FIEMAP tells it. Nothing is written back for it.
pub fn extents(file: &File) -> anyhow::Result<Vec<Extent>> {
    // SAFETY: all zeroes is a valid value of this structure of integers.
    let mut map: Box<Fiemap> = Box::new(unsafe { std::mem::zeroed() });
    map.length = u64::MAX;
    map.extent_count = MAX_EXTENTS as u32;
    // SAFETY: the structure has room for as many extents as it says, and outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &mut *map) } < 0 {
        return Err(std::io::Error::last_os_error()).context("FIEMAP");
    }
    let count = map.mapped_extents as usize;
    if count >= MAX_EXTENTS {
        bail!("more than {MAX_EXTENTS} extents");
    }
    let extents = map.extents[..count].iter().map(|extent| Extent {
        logical: extent.logical,
        physical: extent.physical,
        length: extent.length,
        flags: extent.flags,
    });
    Ok(joined(extents))
}

/// Extents that continue each other are one: ext4 tells of them as the disk has them, or as its cache has
/// joined them when it was asked before.
fn joined(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    const LAST: u32 = 1;
    let mut list: Vec<Extent> = Vec::new();
    for extent in extents {
        match list.last_mut() {
            Some(before)
                if before.logical + before.length == extent.logical
                    && before.physical + before.length == extent.physical
                    && before.flags == extent.flags & !LAST =>
            {
                before.length += extent.length;
                before.flags = extent.flags;
            }
            _ => list.push(extent),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn digest_sees_one_byte_and_the_order() {
        let mut file = tempfile::tempfile().unwrap();
        let mut digest_of = |bytes: &[u8]| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            digest(&mut file).unwrap()
        };
        let base = digest_of(b"0123456789abcdef");
        assert_eq!(base, digest_of(b"0123456789abcdef"));
        assert_ne!(base, digest_of(b"0123456789abcdeg"));
        assert_ne!(base, digest_of(b"89abcdef01234567"));
        assert_ne!(base, digest_of(b""));
    }

    #[test]
    fn extents_that_continue_each_other_are_one() {
        let extent = |logical, physical, flags| Extent {
            logical,
            physical,
            length: 10,
            flags,
        };
        let told = [extent(0, 50, 0), extent(10, 60, 0), extent(20, 70, 1)];
        let whole = Extent {
            length: 30,
            ..extent(0, 50, 1)
        };
        assert_eq!(joined(told.into_iter()), [whole]);
        let apart = [extent(0, 50, 0), extent(10, 61, 0), extent(20, 71, 0x801)];
        assert_eq!(joined(apart.into_iter()), apart);
    }

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(std::mem::size_of::<FiemapExtent>(), 56);
        assert_eq!(std::mem::offset_of!(Fiemap, extents), 32);
    }
}
