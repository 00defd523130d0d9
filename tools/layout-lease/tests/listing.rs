// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parser against listings of any shape, and against noise.

use layout_lease::escape;
use layout_lease::proc::{parse, OwnedPins, Owner, Pin};
use proptest::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

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

fn write(owners: &[OwnedPins]) -> Vec<u8> {
    let mut out = Vec::new();
    for owned in owners {
        match &owned.owner {
            Owner::Mm => out.extend_from_slice(b"mm:\n"),
            Owner::File { fd, path } => {
                out.extend_from_slice(format!("{fd}: ").as_bytes());
                out.extend(escape::encode(path.as_os_str().as_bytes()));
                out.push(b'\n');
            }
        }
        for pin in &owned.pins {
            out.extend_from_slice(b"   ");
            out.extend(escape::encode(pin.path.as_os_str().as_bytes()));
            let mode = if pin.writable { "rw" } else { "r" };
            out.extend_from_slice(format!(" {}-{} {mode}\n", pin.first, pin.last).as_bytes());
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_kernel_writes_is_read_back(owners in listing()) {
        prop_assert_eq!(parse(&write(&owners)).unwrap(), owners);
    }

    #[test]
    fn escapes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoded = escape::decode(&escape::encode(&bytes)).unwrap();
        prop_assert_eq!(decoded.as_os_str().as_bytes(), &bytes[..]);
    }

    #[test]
    fn noise_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_damaged_listing_never_panics(owners in listing(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = write(&owners);
        if !text.is_empty() {
            let at = at.index(text.len());
            text[at] = byte;
            let _ = parse(&text);
        }
    }
}
