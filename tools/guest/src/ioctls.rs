// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls that change a file's layout or its filesystem, with their structures.

use crate::ops::Span;
use crate::protocol::{Call, Descriptor, Ioctl};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const FIDEDUPERANGE: u64 = 0xC018_9436;
const FITRIM: u64 = 0xC018_5879;
const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_FSSETXATTR: u64 = 0x401C_5820;
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;
const FS_IOC_SET_ENCRYPTION_POLICY: u64 = 0x800C_6613;
const EXT4_IOC_MIGRATE: u64 = 0x6609;
const EXT4_IOC_MOVE_EXT: u64 = 0xC028_660F;
const EXT4_IOC_RESIZE_FS: u64 = 0x4008_6610;
const EXT4_IOC_SWAP_BOOT: u64 = 0x6611;
const FS_IOC_SHUTDOWN: u64 = 0x8004_587D;
const XFS_IOC_FREE_EOFBLOCKS: u64 = 0x8080_583A;
const XFS_IOC_SCRUB_METADATA: u64 = 0xC040_583C;
const XFS_IOC_SWAPEXT: u64 = 0xC0C0_586D;
const XFS_IOC_FSGROWFSDATA: u64 = 0x4010_586E;
const XFS_IOC_EXCHANGE_RANGE: u64 = 0x4028_5881;

/// `FS_EXTENT_FL`: ext4 maps the file's blocks by extents.
pub const EXTENTS: u32 = 0x8_0000;
/// `FS_JOURNAL_DATA_FL`.
pub const JOURNAL_DATA: u32 = 0x4000;
/// `FS_XFLAG_EXTSIZE`: allocate in units of this size.
pub const XFLAG_EXTSIZE: u32 = 0x800;
/// `FS_XFLAG_DAX`.
pub const XFLAG_DAX: u32 = 0x8000;

/// Blocks of the filesystems under test.
const BLOCK: u64 = 4096;

fn plain(path: &Path, request: u64, words: &[u64]) -> Ioctl {
    Ioctl {
        path: path.to_owned(),
        request,
        argument: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        others: Vec::new(),
        status: None,
        flags: 0,
    }
}

fn with(mut ioctl: Ioctl, path: &Path, at: usize, width: usize) -> Ioctl {
    let path = path.to_owned();
    ioctl.others.push(Descriptor { path, at, width });
    ioctl
}

/// Shares the equal range of `from` with `to`.
pub fn dedupe(from: &Path, to: &Path, at: Span) -> Call {
    let words = [at.offset, at.length, 1, 0, at.offset, 0, 0];
    let mut ioctl = with(plain(from, FIDEDUPERANGE, &words), to, 24, 8);
    ioctl.status = Some(48);
    Call::Ioctl(ioctl)
}

/// Exchanges the range of two files: `XFS_IOC_EXCHANGE_RANGE`.
pub fn exchange(first: &Path, second: &Path, at: Span) -> Call {
    let words = [0, at.offset, at.offset, at.length, 0];
    let ioctl = plain(second, XFS_IOC_EXCHANGE_RANGE, &words);
    Call::Ioctl(with(ioctl, first, 0, 4))
}

/// Swaps all blocks of two files of this size: `XFS_IOC_SWAPEXT`. The kernel wants to be told the
/// target's times, so that no change since goes unnoticed.
pub fn swap_extents(target: &Path, temporary: &Path, size: u64) -> Call {
    let mut words = [0u64; 24];
    words[4] = size;
    if let Ok(stat) = std::fs::metadata(target) {
        let times = [
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        ];
        // `sx_stat` begins at byte 56; `bs_mtime` and `bs_ctime` are at 56 and 72 in it.
        words[14..18].copy_from_slice(&times.map(|time| time as u64));
    }
    let ioctl = plain(target, XFS_IOC_SWAPEXT, &words);
    Call::Ioctl(with(with(ioctl, target, 8, 8), temporary, 16, 8))
}

/// Exchanges all blocks with those of the boot loader's inode.
pub fn swap_boot(path: &Path) -> Call {
    Call::Ioctl(plain(path, EXT4_IOC_SWAP_BOOT, &[]))
}

/// Exchanges the range of two files: `EXT4_IOC_MOVE_EXT`.
pub fn move_extents(file: &Path, donor: &Path, at: Span) -> Call {
    let (start, blocks) = (at.offset / BLOCK, at.length / BLOCK);
    let ioctl = plain(file, EXT4_IOC_MOVE_EXT, &[0, start, start, blocks, 0]);
    Call::Ioctl(with(ioctl, donor, 4, 4))
}

/// From indirect blocks to extents.
pub fn migrate(path: &Path) -> Call {
    Call::Ioctl(plain(path, EXT4_IOC_MIGRATE, &[]))
}

/// The inode's `FS_*_FL` flags.
pub fn flags(path: &Path) -> std::io::Result<u32> {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path)?;
    let mut flags = 0u64;
    // SAFETY: the kernel writes an int into the long, which outlives the call.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS as libc::Ioctl, &mut flags) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(flags as u32)
}

/// Sets the inode's `FS_*_FL` flags.
pub fn set_flags(path: &Path, flags: u32) -> Call {
    Call::Ioctl(plain(path, FS_IOC_SETFLAGS, &[flags.into()]))
}

/// Sets the inode's `FS_XFLAG_*` flags and the size its extents are allocated in.
pub fn set_attributes(path: &Path, flags: u32, extent: u32) -> Call {
    let words = [u64::from(flags) | u64::from(extent) << 32, 0, 0, 0];
    Call::Ioctl(plain(path, FS_IOC_FSSETXATTR, &words))
}

/// Gives unused blocks of a filesystem back to its device.
pub fn trim(path: &Path) -> Call {
    Call::Ioctl(plain(path, FITRIM, &[0, u64::MAX, 0]))
}

/// Makes the file read-only and protects it by hashes.
pub fn enable_verity(path: &Path) -> Call {
    let (version, sha256) = (1, 1);
    let mut words = [0u64; 16];
    words[0] = version | sha256 << 32;
    words[1] = BLOCK;
    Call::Ioctl(plain(path, FS_IOC_ENABLE_VERITY, &words))
}

/// Sets an encryption policy.
pub fn encrypt(path: &Path) -> Call {
    Call::Ioctl(plain(path, FS_IOC_SET_ENCRYPTION_POLICY, &[0, 0]))
}

/// Frees what XFS has allocated behind the ends of files.
pub fn free_behind_eof(path: &Path) -> Call {
    let (version, sync) = (1, 1);
    let mut words = [0u64; 16];
    words[0] = version | sync << 32;
    Call::Ioctl(plain(path, XFS_IOC_FREE_EOFBLOCKS, &words))
}

/// Builds the mapping of a file's data anew, whether it is damaged or not.
pub fn repair_data_fork(path: &Path) -> Call {
    const BMBTD: u64 = 12;
    const REPAIR: u64 = 1;
    const FORCE_REBUILD: u64 = 1 << 8;
    let words = [BMBTD | (REPAIR | FORCE_REBUILD) << 32, 0, 0, 0, 0, 0, 0, 0];
    Call::Ioctl(plain(path, XFS_IOC_SCRUB_METADATA, &words))
}

/// Makes ext4 this many blocks large.
pub fn resize_ext4(path: &Path, blocks: u64) -> Call {
    Call::Ioctl(plain(path, EXT4_IOC_RESIZE_FS, &[blocks]))
}

/// Makes XFS this many blocks large.
pub fn resize_xfs(path: &Path, blocks: u64) -> Call {
    let percent_for_inodes = 25;
    Call::Ioctl(plain(
        path,
        XFS_IOC_FSGROWFSDATA,
        &[blocks, percent_for_inodes],
    ))
}

/// How a filesystem is shut down: what becomes of the changes it has not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// All are written first.
    Flush = 0,
    /// None is written.
    NoFlush = 2,
}

/// Shuts a filesystem down: `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`.
pub fn shut_down(path: &Path, how: Shutdown) -> Call {
    let mut ioctl = plain(path, FS_IOC_SHUTDOWN, &[]);
    ioctl.argument = (how as u32).to_le_bytes().to_vec();
    Call::Ioctl(ioctl)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size that is part of the request's number must be that of the structure.
    #[test]
    fn structures_are_as_long_as_their_numbers_say() {
        let (a, b, at) = (Path::new("/a"), Path::new("/b"), Span::new(4096, 8192));
        for call in [
            exchange(a, b, at),
            swap_extents(a, b, 4096),
            swap_boot(a),
            move_extents(a, b, at),
            migrate(a),
            set_flags(a, 0),
            trim(a),
            enable_verity(a),
            free_behind_eof(a),
            repair_data_fork(a),
            resize_ext4(a, 1),
            resize_xfs(a, 1),
            shut_down(a, Shutdown::NoFlush),
        ] {
            let Call::Ioctl(ioctl) = call else { panic!() };
            let size = (ioctl.request >> 16) as usize & 0x3fff;
            assert_eq!(ioctl.argument.len(), size, "{:#x}", ioctl.request);
            for other in &ioctl.others {
                assert!(other.at + other.width <= size, "{:#x}", ioctl.request);
            }
        }
    }

    /// These have a flexible array, or end in the middle of a word.
    #[test]
    fn other_structures_are_long_enough() {
        let (a, b, at) = (Path::new("/a"), Path::new("/b"), Span::new(4096, 8192));
        for (call, length) in [
            (dedupe(a, b, at), 24 + 32),
            (set_attributes(a, 1, 2), 28),
            (encrypt(a), 12),
        ] {
            let Call::Ioctl(ioctl) = call else { panic!() };
            assert!(ioctl.argument.len() >= length, "{:#x}", ioctl.request);
        }
    }

    #[test]
    fn swapext_has_the_times_where_the_kernel_looks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = file.path().metadata().unwrap();
        let Call::Ioctl(ioctl) = swap_extents(file.path(), Path::new("/b"), 1 << 20) else {
            panic!()
        };
        let word = |at: usize| u64::from_le_bytes(ioctl.argument[at..at + 8].try_into().unwrap());
        assert_eq!(word(32), 1 << 20);
        assert_eq!(word(56 + 56), stat.mtime() as u64);
        assert_eq!(word(56 + 72), stat.ctime() as u64);
        assert_eq!(word(56 + 80), stat.ctime_nsec() as u64);
    }
}
