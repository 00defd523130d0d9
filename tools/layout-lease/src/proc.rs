// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/<pid>/file_pins`: what a process keeps pinned, by owning file.
//!
//! ```text
//! 7: /dev/infiniband/uverbs0
//!    /mnt/pmem/data 0-131071 rw
//! mm:
//!    /mnt/pmem/ring 4096-8191 r
//! ```

use crate::escape;
use std::io;
use std::path::{Path, PathBuf};

/// Who keeps the pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An open file, by its number in this process and its path.
    File {
        /// The descriptor's number.
        fd: u32,
        /// The owner's path, for RDMA the uverbs device.
        path: PathBuf,
    },
    /// The process's memory itself.
    Mm,
}

/// One pinned range.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// An owner and its pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPins {
    /// Who keeps them.
    pub owner: Owner,
    /// The pins, in the kernel's order.
    pub pins: Vec<Pin>,
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

/// Reads and parses the pins of a process.
///
/// # Errors
/// `NotFound` for a kernel without the feature or a process that is gone, `PermissionDenied` for a
/// process the caller may not trace, `InvalidData` for a listing that does not parse.
pub fn file_pins(pid: u32) -> io::Result<Vec<OwnedPins>> {
    let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("file_pins"))?;
    parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Parses the text of a listing.
///
/// # Errors
/// The first line that does not have the documented form.
pub fn parse(text: &[u8]) -> Result<Vec<OwnedPins>, ParseError> {
    let mut owners: Vec<OwnedPins> = Vec::new();
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if body.is_empty() {
        return Ok(owners);
    }
    for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
        let error = |what| ParseError {
            line: index + 1,
            what,
            text: String::from_utf8_lossy(line).into_owned(),
        };
        if let Some(pin) = line.strip_prefix(b"   ") {
            let pin = parse_pin(pin).map_err(error)?;
            owners
                .last_mut()
                .ok_or_else(|| error("a pin before any owner"))?
                .pins
                .push(pin);
        } else {
            let owner = parse_owner(line).map_err(error)?;
            owners.push(OwnedPins {
                owner,
                pins: Vec::new(),
            });
        }
    }
    Ok(owners)
}

fn parse_owner(line: &[u8]) -> Result<Owner, &'static str> {
    if line == b"mm:" {
        return Ok(Owner::Mm);
    }
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or("an owner without a colon")?;
    let fd = number(&line[..colon])
        .and_then(|fd| u32::try_from(fd).ok())
        .ok_or("an owner that is not a descriptor number")?;
    let path = line[colon + 1..]
        .strip_prefix(b" ")
        .filter(|path| !path.is_empty())
        .ok_or("an owner without a path")?;
    let path = escape::decode(path).map_err(|_| "a path with a broken escape")?;
    Ok(Owner::File { fd, path })
}

fn parse_pin(line: &[u8]) -> Result<Pin, &'static str> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (path, range, mode) = match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(path), Some(range), Some(mode), None) => (path, range, mode),
        _ => return Err("a pin has three fields"),
    };
    if path.is_empty() {
        return Err("a pin without a path");
    }
    let path = escape::decode(path).map_err(|_| "a path with a broken escape")?;
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

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &[u8] = b"7: /dev/infiniband/uverbs0\n   /mnt/a\\040b 0-131071 rw\n   /mnt/c 4096-8191 r\n12: /dev/infiniband/uverbs1\nmm:\n   /mnt/ring 0-4095 rw\n";

    #[test]
    fn reads_the_documented_form() {
        let owners = parse(LISTING).unwrap();
        assert_eq!(owners.len(), 3);
        assert_eq!(
            owners[0].owner,
            Owner::File {
                fd: 7,
                path: "/dev/infiniband/uverbs0".into()
            }
        );
        assert_eq!(owners[0].pins[0].path, PathBuf::from("/mnt/a b"));
        assert_eq!(owners[0].pins[0].bytes(), 131_072);
        assert!(owners[0].pins[0].writable);
        assert!(!owners[0].pins[1].writable);
        assert!(owners[1].pins.is_empty());
        assert_eq!(owners[2].owner, Owner::Mm);
    }

    #[test]
    fn no_pins_is_an_empty_file() {
        assert_eq!(parse(b"").unwrap(), vec![]);
    }

    #[test]
    fn says_which_line_is_wrong() {
        let cases: [(&[u8], usize, &str); 6] = [
            (b"   /a 0-1 r\n", 1, "a pin before any owner"),
            (b"7: /d\n   /a 0-1\n", 2, "a pin has three fields"),
            (
                b"7: /d\n   /a 4096-1 r\n",
                2,
                "a range that ends before it begins",
            ),
            (
                b"7: /d\n   /a 0-1 w\n",
                2,
                "a mode that is neither r nor rw",
            ),
            (b"x: /d\n", 1, "an owner that is not a descriptor number"),
            (b"7: /d\\1\n", 1, "a path with a broken escape"),
        ];
        for (text, line, what) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.what), (line, what));
        }
    }
}
