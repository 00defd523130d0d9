// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's listings of pins and leases, parsed.
//!
//! | file | who may read it | parser |
//! |---|---|---|
//! | `/proc/<pid>/file_pins` | whoever may trace the process | [`file_pins`], [`parse`] |
//! | `/proc/<pid>/fdinfo/<fd>` | whoever may trace the process | [`fd_info`], [`parse_fd_info`] |
//! | `/proc/file_pins` | root | [`system_file_pins`], [`parse_system`] |
//! | `/proc/locks` | everybody | [`file_leases`], [`parse_locks`] |
//!
//! All of them take bytes and give [`PathBuf`]s: a path on Linux need not be text. Space, tab, newline and
//! backslash are escaped in the listings and not in what is returned. A deleted file's path ends in
//! ` (deleted)`, as everywhere in `/proc`; so may the path of one that is not deleted.
//!
//! ```
//! use layout_lease::proc::{parse, Owner};
//!
//! let listing = b"7: /dev/infiniband/uverbs0\n   /mnt/pmem/a\\040file 0-131071 rw\n";
//! let owners = parse(listing)?;
//! assert_eq!(owners[0].owner, Owner::File { fd: 7, path: "/dev/infiniband/uverbs0".into() });
//! assert_eq!(owners[0].pins[0].path.to_str(), Some("/mnt/pmem/a file"));
//! assert_eq!(owners[0].pins[0].bytes(), 128 << 10);
//! # Ok::<(), layout_lease::proc::ParseError>(())
//! ```

mod fdinfo;
mod locks;
mod process;
mod system;

pub use fdinfo::{fd_info, parse_fd_info, FdInfo};
pub use locks::{file_leases, parse_locks, Device, FileLease, LeaseClass, LeaseState};
pub use process::{file_pins, parse, OwnedPins, Owner};
pub use system::{parse_system, system_file_pins, Entry, SystemLease, SystemOwner, SystemPin};

use crate::escape;
use std::io;
use std::path::{Path, PathBuf};

/// One pinned range.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    /// The pinned file.
    pub path: PathBuf,
    /// First byte of the range.
    pub first: u64,
    /// Last byte of the range: inclusive.
    pub last: u64,
    /// Whether the pin was taken for writing.
    pub writable: bool,
}

impl Pin {
    /// The number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether the range and `first..=last` have a byte in common.
    ///
    /// Where the file is mapped with PMD-sized entries the kernel refuses changes of the whole entry,
    /// which the listings do not show: widen `first` and `last` to multiples of 2 MiB to allow for it.
    #[must_use]
    pub fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }
}

/// A listing that does not have the documented form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}: {text:?}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
    /// The line, as far as it is text.
    pub text: String,
}

impl From<ParseError> for io::Error {
    fn from(error: ParseError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Calls `each` for every line; its complaint becomes an error that names the line.
fn each_line<'a>(
    text: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), &'static str>,
) -> Result<(), ParseError> {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if body.is_empty() {
        return Ok(());
    }
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        each(line).map_err(|what| ParseError {
            line: index + 1,
            what,
            text: String::from_utf8_lossy(line).into_owned(),
        })?;
    }
    Ok(())
}

/// `<path> <first>-<last> <r|rw>`
fn pin(path: &[u8], range: &[u8], mode: &[u8]) -> Result<Pin, &'static str> {
    let path = path_field(path)?;
    let dash = range
        .iter()
        .position(|&byte| byte == b'-')
        .ok_or("a range without a dash")?;
    let first = number(&range[..dash]).ok_or("a range that does not begin with a number")?;
    let last = number(&range[dash + 1..]).ok_or("a range that does not end with a number")?;
    // The byte count of 0-u64::MAX does not fit; no file is that long.
    if last < first || last == u64::MAX {
        return Err("a range that ends before it begins");
    }
    let writable = match mode {
        b"r" => false,
        b"rw" => true,
        _ => return Err("a mode that is neither r nor rw"),
    };
    Ok(Pin {
        path,
        first,
        last,
        writable,
    })
}

/// The three fields of a pin and nothing else.
fn pin_line(line: &[u8]) -> Result<Pin, &'static str> {
    let [path, range, mode] = fields(line).ok_or("a pin has three fields")?;
    pin(path, range, mode)
}

/// Exactly `N` fields, with one space between two.
fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut found = [&line[..0]; N];
    let mut count = 0;
    for field in line.split(|&byte| byte == b' ') {
        *found.get_mut(count)? = field;
        count += 1;
    }
    (count == N).then_some(found)
}

fn path_field(field: &[u8]) -> Result<PathBuf, &'static str> {
    if field.is_empty() {
        return Err("an empty path");
    }
    escape::decode(field).map_err(|_| "a path with a broken escape")
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn pid(digits: &[u8]) -> Option<u32> {
    number(digits).and_then(|pid| u32::try_from(pid).ok())
}

fn of_process(pid: u32, name: impl AsRef<Path>) -> PathBuf {
    let mut path = Path::new("/proc").join(pid.to_string());
    path.push(name);
    path
}
