// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/<pid>/file_pins`: what a process keeps pinned, by owning file.
//!
//! ```text
//! 7: /dev/infiniband/uverbs0
//!    /mnt/pmem/data 0-131071 rw
//! mm:
//!    /mnt/pmem/ring 4096-8191 r
//! ```

use super::{each_line, number, of_process, path_field, pin_line, ParseError, Pin};
use std::io;
use std::path::PathBuf;

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

/// An owner and its pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPins {
    /// Who keeps them.
    pub owner: Owner,
    /// The pins, in the kernel's order.
    pub pins: Vec<Pin>,
}

/// Reads and parses the pins of a process.
///
/// ```no_run
/// for owned in layout_lease::proc::file_pins(std::process::id())? {
///     for pin in &owned.pins {
///         println!("{}: {} bytes from {}", pin.path.display(), pin.bytes(), pin.first);
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `NotFound` for a kernel without the feature or a process that is gone, `ESRCH` for one that went while
/// it was read, `PermissionDenied` for a process the caller may not trace, `InvalidData` for a listing that
/// does not parse.
pub fn file_pins(pid: u32) -> io::Result<Vec<OwnedPins>> {
    Ok(parse(&std::fs::read(of_process(pid, "file_pins"))?)?)
}

/// Parses the text of `/proc/<pid>/file_pins`.
///
/// # Errors
/// The first line that does not have the documented form.
pub fn parse(text: &[u8]) -> Result<Vec<OwnedPins>, ParseError> {
    let mut owners: Vec<OwnedPins> = Vec::new();
    each_line(text, |line| {
        if let Some(pin) = line.strip_prefix(b"   ") {
            let pin = pin_line(pin)?;
            let owned = owners.last_mut().ok_or("a pin before any owner")?;
            owned.pins.push(pin);
        } else {
            owners.push(OwnedPins {
                owner: parse_owner(line)?,
                pins: Vec::new(),
            });
        }
        Ok(())
    })?;
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
        .ok_or("an owner without a path")?;
    Ok(Owner::File {
        fd,
        path: path_field(path)?,
    })
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
        let cases: [(&[u8], usize, &str); 7] = [
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
            (b"7: \n", 1, "an empty path"),
        ];
        for (text, line, what) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.what), (line, what));
        }
    }

    #[test]
    fn overlap_is_of_bytes() {
        let pin = &parse(LISTING).unwrap()[0].pins[1];
        assert!(pin.overlaps(0, 4096) && pin.overlaps(8191, 9000) && pin.overlaps(5000, 5000));
        assert!(!pin.overlaps(0, 4095) && !pin.overlaps(8192, u64::MAX));
    }
}
