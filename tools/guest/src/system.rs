// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/file_pins`, read strictly: a line that is not exactly as documented is an error.

use layout_lease::escape;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The listing of everything in the system that can refuse a layout change.
pub const FILE_PINS: &str = "/proc/file_pins";

/// A pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The owning file; none for an owning mm.
    pub owner: Option<PathBuf>,
    /// The processes that have the owner, as written.
    pub pids: Vec<u32>,
    /// The pinned file.
    pub path: PathBuf,
    /// First byte.
    pub first: u64,
    /// Last byte, inclusive.
    pub last: u64,
    /// For writing as well.
    pub writable: bool,
}

/// An exclusive layout lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who set it last; 0 for somebody the reader has no number for.
    pub pid: u32,
    /// The leased file.
    pub path: PathBuf,
    /// Whether nobody else may have one.
    pub sole: bool,
}

/// The whole listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// All pins, in the kernel's order.
    pub pins: Vec<Pin>,
    /// All leases, which come after them.
    pub leases: Vec<Lease>,
}

impl Listing {
    /// Reads it at once.
    pub fn read() -> anyhow::Result<Listing> {
        parse(&std::fs::read(FILE_PINS)?)
    }

    /// The pins of a file.
    pub fn pins_of(&self, path: &Path) -> Vec<&Pin> {
        self.pins.iter().filter(|pin| pin.path == path).collect()
    }

    /// The leases of a file.
    pub fn leases_of(&self, path: &Path) -> Vec<&Lease> {
        let of = |lease: &&Lease| lease.path == path;
        self.leases.iter().filter(of).collect()
    }
}

/// Reads a listing in pieces of this size, to its end.
pub fn read_by(file: &mut File, size: usize) -> std::io::Result<Vec<u8>> {
    let (mut all, mut piece) = (Vec::new(), vec![0; size]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

/// Parses a whole listing.
pub fn parse(text: &[u8]) -> anyhow::Result<Listing> {
    let mut listing = Listing::default();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        parse_line(line, &mut listing)
            .ok_or_else(|| anyhow::anyhow!("odd line {:?}", String::from_utf8_lossy(line)))?;
    }
    Ok(listing)
}

fn parse_line(line: &[u8], listing: &mut Listing) -> Option<()> {
    let fields: Vec<&[u8]> = line
        .strip_suffix(b"\n")?
        .split(|&byte| byte == b' ')
        .collect();
    match fields[..] {
        [b"pin", owner, pids, path, range, mode] if listing.leases.is_empty() => {
            let dash = range.iter().position(|&byte| byte == b'-')?;
            listing.pins.push(Pin {
                owner: match owner {
                    b"mm" => None,
                    path => Some(absolute(path)?),
                },
                pids: match pids {
                    b"-" => Vec::new(),
                    pids => ascending(pids)?,
                },
                path: absolute(path)?,
                first: number(&range[..dash])?,
                last: number(&range[dash + 1..])?,
                writable: match mode {
                    b"rw" => true,
                    b"r" => false,
                    _ => return None,
                },
            });
        }
        [b"lease", pid, path, kind] => listing.leases.push(Lease {
            pid: number(pid)?.try_into().ok()?,
            path: absolute(path)?,
            sole: match kind {
                b"sole" => true,
                b"shared" => false,
                _ => return None,
            },
        }),
        _ => return None,
    }
    Some(())
}

/// A path from the root, with nothing in it that should have been escaped: spaces have split the line.
fn absolute(text: &[u8]) -> Option<PathBuf> {
    if text.contains(&b'\t') {
        return None;
    }
    escape::decode(text).ok().filter(|path| path.is_absolute())
}

fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Numbers that go up, each once.
fn ascending(text: &[u8]) -> Option<Vec<u32>> {
    let pids: Option<Vec<u32>> = text
        .split(|&byte| byte == b',')
        .map(|pid| number(pid)?.try_into().ok().filter(|&pid| pid > 0))
        .collect();
    pids.filter(|pids| pids.is_sorted_by(|one, next| one < next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_form() {
        let text = b"pin /dev/infiniband/uverbs0 7,12 /mnt/a\\040b 0-4095 rw\npin mm - /c 4096-8191 r\nlease 7 /mnt/a sole\nlease 0 /c\\040(deleted) shared\n";
        let listing = parse(text).unwrap();
        assert_eq!(
            listing.pins_of(Path::new("/mnt/a b")),
            [&Pin {
                owner: Some("/dev/infiniband/uverbs0".into()),
                pids: vec![7, 12],
                path: "/mnt/a b".into(),
                first: 0,
                last: 4095,
                writable: true,
            }]
        );
        assert!(listing.pins[1].owner.is_none() && listing.pins[1].pids.is_empty());
        assert!(listing.leases[0].sole && listing.leases[0].pid == 7);
        let deleted = listing.leases_of(Path::new("/c (deleted)"));
        assert!(!deleted[0].sole && deleted[0].pid == 0);
    }

    #[test]
    fn is_strict() {
        for odd in [
            &b"pin /d - /a 0-4095 rw"[..],
            b"pin /d 2,1 /a 0-4095 rw\n",
            b"pin /d 1,1 /a 0-4095 rw\n",
            b"pin /d 0 /a 0-4095 rw\n",
            b"pin /d  /a 0-4095 rw\n",
            b"pin d - /a 0-4095 rw\n",
            b"pin /d - /a b 0-4095 rw\n",
            b"pin /d - /a 0-4095 w\n",
            b"lease - /a sole\n",
            b"lease 1 /a\n",
            b"lease 1 /a sole\npin /d - /a 0-4095 rw\n",
            b"\n",
        ] {
            assert!(parse(odd).is_err(), "{:?}", String::from_utf8_lossy(odd));
        }
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    fn path() -> impl Strategy<Value = PathBuf> {
        vec(1u8..=255, 0..20).prop_map(|mut bytes| {
            bytes.insert(0, b'/');
            PathBuf::from(OsString::from_vec(bytes))
        })
    }

    fn escaped(path: &Path) -> Vec<u8> {
        escape::encode(path.as_os_str().as_bytes())
    }

    /// A line of the kernel's, and what it says.
    fn line() -> impl Strategy<Value = (Vec<u8>, Listing)> {
        let pids = proptest::collection::btree_set(1u32..1 << 22, 0..4);
        let pin = (
            proptest::option::of(path()),
            pids,
            path(),
            any::<u32>(),
            any::<bool>(),
        );
        let pin = pin.prop_map(|(owner, pids, path, first, writable)| {
            let first = u64::from(first);
            let pids: Vec<u32> = pids.into_iter().collect();
            let words: Vec<String> = pids.iter().map(u32::to_string).collect();
            let pin = Pin {
                owner,
                pids,
                path,
                first,
                last: first + 4095,
                writable,
            };
            let text = [
                b"pin ".to_vec(),
                pin.owner.as_deref().map_or(b"mm".to_vec(), escaped),
                format!(
                    " {} ",
                    if words.is_empty() {
                        "-".into()
                    } else {
                        words.join(",")
                    }
                )
                .into_bytes(),
                escaped(&pin.path),
                format!(
                    " {first}-{} {}\n",
                    first + 4095,
                    if writable { "rw" } else { "r" }
                )
                .into_bytes(),
            ];
            (
                text.concat(),
                Listing {
                    pins: vec![pin],
                    leases: vec![],
                },
            )
        });
        let lease = (1u32..1 << 22, path(), any::<bool>()).prop_map(|(pid, path, sole)| {
            let kind = if sole { " sole\n" } else { " shared\n" };
            let text = [
                format!("lease {pid} ").into_bytes(),
                escaped(&path),
                kind.into(),
            ];
            (
                text.concat(),
                Listing {
                    pins: vec![],
                    leases: vec![Lease { pid, path, sole }],
                },
            )
        });
        prop_oneof![pin, lease]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_the_kernel_writes_is_read_back(lines in vec(line(), 0..6)) {
            let (leases, pins): (Vec<_>, Vec<_>) = lines.into_iter().partition(|(_, l)| l.pins.is_empty());
            let mut text = vec![];
            let mut want = Listing::default();
            for (line, listing) in pins.into_iter().chain(leases) {
                text.extend(line);
                want.pins.extend(listing.pins);
                want.leases.extend(listing.leases);
            }
            let read = parse(&text).unwrap();
            prop_assert_eq!(&read.pins, &want.pins);
            prop_assert_eq!(&read.leases, &want.leases);
        }

        #[test]
        fn a_line_that_was_cut_off_is_odd((line, _) in line(), at in any::<Index>()) {
            let at = 1 + at.index(line.len() - 1);
            prop_assert!(parse(&line[..at]).is_err());
        }

        #[test]
        fn noise_never_panics((mut line, _) in line(), at in any::<Index>(), byte in any::<u8>(), noise in vec(any::<u8>(), 0..60)) {
            let _ = parse(&noise);
            let at = at.index(line.len());
            line[at] = byte;
            let _ = parse(&line);
        }
    }
}
