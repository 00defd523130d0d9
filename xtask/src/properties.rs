// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the property tests of the parsers have in common. `PROPTEST_CASES` says how many cases each
//! of them tries.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, Index};

/// Few cases for each property: there are many properties, and all run each time.
pub fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 48;
    }
    config
}

/// Text of any kind: made of these words, which mean something to the parser, of what separates
/// words, of numbers and of any characters.
pub fn noise(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => select(words).prop_map(str::to_string),
        2 => select(&[" ", "\n", "  ", "\t", "\r\n", "\n\n", "    ", "#", ":", "=", "/", "-"][..])
            .prop_map(str::to_string),
        1 => any::<u64>().prop_map(|n| n.to_string()),
        1 => (0u32..20).prop_map(|n| n.to_string()),
        1 => any::<String>(),
        1 => vec(any::<u8>(), 0..20).prop_map(|b| String::from_utf8_lossy(&b).into_owned()),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// A text as far as it was written before its writer died; never all of it.
pub fn cut(text: &str, at: Index) -> &str {
    let mut at = at.index(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    &text[..at]
}

/// Does the glob, in which `*` stands for anything, match? As slow as it is plain.
pub fn glob(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(rest) => (0..=name.len())
            .filter(|at| name.is_char_boundary(*at))
            .any(|at| glob(rest, &name[at..])),
        None => match (pattern.chars().next(), name.chars().next()) {
            (None, None) => true,
            (Some(a), Some(b)) if a == b => glob(&pattern[a.len_utf8()..], &name[b.len_utf8()..]),
            _ => false,
        },
    }
}
