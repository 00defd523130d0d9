// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parsers against listings of any shape, and against noise.

use layout_lease::escape;
use layout_lease::proc::{
    parse, parse_fd_info, parse_locks, parse_system, Device, Entry, FdInfo, FileLease, LeaseClass,
    LeaseState, OwnedPins, Owner, Pin, SystemLease, SystemOwner, SystemPin,
};
use layout_lease::LeaseKind;
use proptest::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

fn path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec(1u8..=255, 0..40).prop_map(|mut bytes| {
        bytes.insert(0, b'/');
        PathBuf::from(OsString::from_vec(bytes))
    })
}

fn pin() -> impl Strategy<Value = Pin> {
    (path(), 0u64..1 << 50, 1u64..1 << 40, any::<bool>()).prop_map(
        |(path, page, pages, writable)| Pin {
            path,
            first: page * 4096,
            last: page * 4096 + pages * 4096 - 1,
            writable,
        },
    )
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        (any::<u32>(), path()).prop_map(|(fd, path)| Owner::File { fd, path }),
        Just(Owner::Mm),
    ]
}

fn listing() -> impl Strategy<Value = Vec<OwnedPins>> {
    let owned = (owner(), proptest::collection::vec(pin(), 0..6))
        .prop_map(|(owner, pins)| OwnedPins { owner, pins });
    proptest::collection::vec(owned, 0..6)
}

fn kind() -> impl Strategy<Value = LeaseKind> {
    prop_oneof![Just(LeaseKind::Shared), Just(LeaseKind::Sole)]
}

fn entry() -> impl Strategy<Value = Entry> {
    let owner = prop_oneof![path().prop_map(SystemOwner::File), Just(SystemOwner::Mm)];
    let pids = proptest::collection::vec(1u32..1 << 22, 0..4);
    prop_oneof![
        (owner, pids, pin()).prop_map(|(owner, pids, pin)| Entry::Pin(SystemPin {
            owner,
            pids,
            pin
        })),
        (proptest::option::of(1u32..1 << 22), path(), kind())
            .prop_map(|(pid, path, kind)| Entry::Lease(SystemLease { pid, path, kind })),
    ]
}

fn lease() -> impl Strategy<Value = FileLease> {
    let class = prop_oneof![
        Just(LeaseClass::Layout),
        Just(LeaseClass::Plain),
        Just(LeaseClass::Delegation)
    ];
    let state = prop_oneof![
        Just(LeaseState::Active),
        Just(LeaseState::Exclusive),
        Just(LeaseState::Breaking)
    ];
    (
        class,
        state,
        proptest::option::of(kind()),
        proptest::option::of(1u32..1 << 22),
        (0u32..1 << 12, 0u32..1 << 20),
        any::<u64>(),
    )
        .prop_map(
            |(class, state, kind, pid, (major, minor), inode)| FileLease {
                class,
                state,
                kind,
                pid,
                device: Device { major, minor },
                inode,
            },
        )
}

fn escaped(path: &Path) -> Vec<u8> {
    escape::encode(path.as_os_str().as_bytes())
}

fn pin_fields(pin: &Pin) -> Vec<u8> {
    let mode = if pin.writable { "rw" } else { "r" };
    let mut out = escaped(&pin.path);
    out.extend_from_slice(format!(" {}-{} {mode}\n", pin.first, pin.last).as_bytes());
    out
}

fn write(owners: &[OwnedPins]) -> Vec<u8> {
    let mut out = Vec::new();
    for owned in owners {
        match &owned.owner {
            Owner::Mm => out.extend_from_slice(b"mm:\n"),
            Owner::File { fd, path } => {
                out.extend_from_slice(format!("{fd}: ").as_bytes());
                out.extend(escaped(path));
                out.push(b'\n');
            }
        }
        for pin in &owned.pins {
            out.extend_from_slice(b"   ");
            out.extend(pin_fields(pin));
        }
    }
    out
}

fn write_system(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        match entry {
            Entry::Pin(pin) => {
                out.extend_from_slice(b"pin ");
                out.extend(match &pin.owner {
                    SystemOwner::File(path) => escaped(path),
                    SystemOwner::Mm => b"mm".to_vec(),
                });
                let pids: Vec<String> = pin.pids.iter().map(u32::to_string).collect();
                let pids = if pids.is_empty() {
                    "-".to_owned()
                } else {
                    pids.join(",")
                };
                out.extend_from_slice(format!(" {pids} ").as_bytes());
                out.extend(pin_fields(&pin.pin));
            }
            Entry::Lease(lease) => {
                let pid = lease.pid.unwrap_or(0);
                out.extend_from_slice(format!("lease {pid} ").as_bytes());
                out.extend(escaped(&lease.path));
                out.extend_from_slice(match lease.kind {
                    LeaseKind::Shared => b" shared\n",
                    LeaseKind::Sole => b" sole\n",
                });
            }
        }
    }
    out
}

/// As the kernel's `lock_get_status()` does.
fn lock_line(number: usize, lease: &FileLease) -> String {
    let class = match lease.class {
        LeaseClass::Layout => "LAYOUT ",
        LeaseClass::Plain => "LEASE  ",
        LeaseClass::Delegation => "DELEG  ",
    };
    let state = match lease.state {
        LeaseState::Active => "ACTIVE    ",
        LeaseState::Exclusive => "EXCLUSIVE ",
        LeaseState::Breaking => "BREAKING  ",
    };
    let kind = match lease.kind {
        None => "UNLCK",
        Some(LeaseKind::Shared) => "READ",
        Some(LeaseKind::Sole) => "WRITE",
    };
    let (Device { major, minor }, pid) = (lease.device, lease.pid.unwrap_or(0));
    format!(
        "{number}: {class}{state}{kind} {pid} {major:02x}:{minor:02x}:{} 0 EOF\n",
        lease.inode
    )
}

const OTHER_LOCKS: [&str; 4] = [
    "7: POSIX  ADVISORY  WRITE 3568 00:2f:32388 2147483647 2147483647\n",
    "7: -> POSIX  ADVISORY  WRITE 3568 00:2f:32388 0 EOF\n",
    "8: FLOCK  ADVISORY  WRITE 3517 00:19:1 0 EOF\n",
    "9: LEASE  BREAKER   READ 7 <none>:0 0 EOF\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_kernel_writes_is_read_back(owners in listing()) {
        prop_assert_eq!(parse(&write(&owners)).unwrap(), owners);
    }

    #[test]
    fn the_whole_system_is_read_back(entries in proptest::collection::vec(entry(), 0..8)) {
        prop_assert_eq!(parse_system(&write_system(&entries)).unwrap(), entries);
    }

    #[test]
    fn leases_are_read_back_from_among_other_locks(
        leases in proptest::collection::vec(lease(), 0..8),
        others in proptest::collection::vec(prop::sample::select(&OTHER_LOCKS[..]), 8),
    ) {
        let lines = leases.iter().enumerate().map(|(number, lease)| lock_line(number, lease));
        let text: String = lines.zip(others).flat_map(|(line, other)| [line, other.to_owned()]).collect();
        prop_assert_eq!(parse_locks(text.as_bytes()).unwrap(), leases);
    }

    #[test]
    fn a_descriptor_is_read_back(
        pins in proptest::collection::vec(pin(), 0..6),
        leases in proptest::collection::vec(lease(), 0..3),
    ) {
        let mut text = b"pos:\t0\nflags:\t02100002\nmnt_id:\t21\nino:\t77\n".to_vec();
        for (number, lease) in leases.iter().enumerate() {
            text.extend_from_slice(b"lock:\t");
            text.extend_from_slice(lock_line(number, lease).as_bytes());
        }
        for pin in &pins {
            text.extend_from_slice(b"file_pin:\t");
            text.extend(pin_fields(pin));
        }
        prop_assert_eq!(parse_fd_info(&text).unwrap(), FdInfo { pins, leases });
    }

    #[test]
    fn escapes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoded = escape::decode(&escape::encode(&bytes)).unwrap();
        prop_assert_eq!(decoded.as_os_str().as_bytes(), &bytes[..]);
    }

    #[test]
    fn an_escaped_path_is_one_field(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let special = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n');
        prop_assert!(!escape::encode(&bytes).iter().any(special));
    }

    #[test]
    fn noise_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let _ = parse_system(&bytes);
        let _ = parse_locks(&bytes);
        let _ = parse_fd_info(&bytes);
    }

    #[test]
    fn a_damaged_listing_never_panics(
        owners in listing(),
        entries in proptest::collection::vec(entry(), 0..8),
        leases in proptest::collection::vec(lease(), 0..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let locks: String = leases.iter().map(|lease| lock_line(1, lease)).collect();
        let texts = [write(&owners), write_system(&entries), locks.into_bytes()];
        for (mut text, which) in texts.into_iter().zip(0..) {
            if text.is_empty() {
                continue;
            }
            let at = at.index(text.len());
            text[at] = byte;
            match which {
                0 => drop(parse(&text)),
                1 => drop(parse_system(&text)),
                _ => drop(parse_locks(&text)),
            }
        }
    }
}
