// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel configuration: merging the fragments in `configs/` and checking the result.
//!
//! Kconfig drops a requested symbol silently when a dependency is missing. A test bed that lacks
//! an option tests nothing, so every requested line is looked for in the final `.config`.

use crate::error::{Failure, Kind};
use anyhow::Result;
use std::collections::BTreeMap;

/// Symbols and their values; `n` stands for "is not set".
pub type Symbols = BTreeMap<String, String>;

/// Reads a fragment or a `.config`.
pub fn parse(text: &str) -> Symbols {
    let mut out = Symbols::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix("# ")
            .and_then(|l| l.strip_suffix(" is not set"))
        {
            if name.starts_with("CONFIG_") {
                out.insert(name.to_string(), "n".into());
            }
        } else if let Some((name, value)) = line.split_once('=') {
            if name.starts_with("CONFIG_") {
                out.insert(name.to_string(), value.to_string());
            }
        }
    }
    out
}

/// Merges fragments; later ones override earlier ones.
pub fn merge<'a>(fragments: impl IntoIterator<Item = &'a str>) -> Symbols {
    let mut out = Symbols::new();
    for f in fragments {
        out.extend(parse(f));
    }
    out
}

/// A `.config` with the requested symbols put in place of its own.
pub fn overlay(config: &str, requested: &Symbols) -> String {
    let mut all = parse(config);
    all.extend(requested.clone());
    all.iter()
        .map(|(name, value)| match value.as_str() {
            "n" => format!("# {name} is not set\n"),
            v => format!("{name}={v}\n"),
        })
        .collect()
}

/// A requested symbol that the result does not have as requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The symbol.
    pub name: String,
    /// What was asked for.
    pub wanted: String,
    /// What came out; `None` when the result does not mention it.
    pub got: Option<String>,
}

/// Compares what was requested with what came out. A symbol the result does not mention is off.
pub fn verify(requested: &Symbols, result: &str) -> Vec<Mismatch> {
    let result = parse(result);
    requested
        .iter()
        .filter_map(|(name, wanted)| {
            let got = result.get(name);
            let same = got.map_or("n", String::as_str) == wanted;
            (!same).then(|| Mismatch {
                name: name.clone(),
                wanted: wanted.clone(),
                got: got.cloned(),
            })
        })
        .collect()
}

/// The error for mismatches, all of them together; `known` tells whether the tree has a symbol.
pub fn refuse(mismatches: &[Mismatch], known: impl Fn(&str) -> bool) -> Result<()> {
    if mismatches.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = mismatches
        .iter()
        .map(|m| {
            let why = match &m.got {
                Some(v) => format!("became {v}"),
                None if known(&m.name) => "was dropped: a dependency is missing".into(),
                None => "is unknown to this tree".into(),
            };
            format!("  {}={} {why}", m.name, m.wanted)
        })
        .collect();
    let hint = if mismatches.iter().any(|m| m.name == "CONFIG_RUST") {
        "\nCONFIG_RUST depends on rustc, bindgen, libclang and rust-src: cargo xtask doctor"
    } else {
        ""
    };
    Err(Failure::of(
        Kind::Setup,
        format!(
            "the kernel's configuration is not what configs/ asks for:\n{}{hint}",
            lines.join("\n")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_fragments_override() {
        let m = merge([
            "CONFIG_A=y\nCONFIG_B=8\n",
            "# why\n# CONFIG_A is not set\nCONFIG_C=n\n",
        ]);
        assert_eq!(m["CONFIG_A"], "n");
        assert_eq!(m["CONFIG_B"], "8");
        assert_eq!(m["CONFIG_C"], "n");
    }

    #[test]
    fn overlay_replaces_and_adds() {
        let c = overlay(
            "CONFIG_A=y\n# CONFIG_B is not set\n",
            &merge(["CONFIG_B=y\nCONFIG_A=n"]),
        );
        assert_eq!(c, "# CONFIG_A is not set\nCONFIG_B=y\n");
    }

    #[test]
    fn off_is_off_whether_said_or_not() {
        let want = merge(["CONFIG_A=n\n# CONFIG_B is not set\n"]);
        assert!(verify(&want, "# CONFIG_A is not set\n").is_empty());
    }

    #[test]
    fn all_mismatches_are_reported_together() {
        let want = merge(["CONFIG_X=y\nCONFIG_Y=y\nCONFIG_Z=8\nCONFIG_OK=y\n"]);
        let got = verify(&want, "CONFIG_Z=4\nCONFIG_OK=y\n");
        assert_eq!(got.len(), 3);
        let e = refuse(&got, |s| s == "CONFIG_Y").unwrap_err().to_string();
        assert!(e.contains("CONFIG_X=y is unknown to this tree"), "{e}");
        assert!(e.contains("CONFIG_Y=y was dropped"), "{e}");
        assert!(e.contains("CONFIG_Z=8 became 4"), "{e}");
    }

    #[test]
    fn missing_rust_points_to_the_doctor() {
        let got = verify(&merge(["CONFIG_RUST=y"]), "");
        let e = refuse(&got, |_| true).unwrap_err().to_string();
        assert!(e.contains("cargo xtask doctor"), "{e}");
    }

    #[test]
    fn committed_fragments_do_not_contradict_each_other() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
        let read = |n: &str| std::fs::read_to_string(format!("{dir}/{n}.config")).unwrap();
        let mut seen: BTreeMap<String, (String, &str)> = BTreeMap::new();
        for name in super::super::profile::Profile::Default.fragments() {
            for (symbol, value) in parse(&read(name)) {
                if let Some((old, at)) = seen.insert(symbol.clone(), (value.clone(), name)) {
                    assert_eq!(old, value, "{symbol} in {at}.config and {name}.config");
                }
            }
        }
        assert_eq!(seen["CONFIG_RUST"].0, "y");
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn fragment() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("y".to_string()),
            Just("n".to_string()),
            "[0-9]{1,4}",
            "\"[ -~]{0,8}\""
        ];
        let line =
            ("CONFIG_[A-D]", value, any::<bool>()).prop_map(|(name, value, said)| {
                match value.as_str() {
                    "n" if said => format!("# {name} is not set\n"),
                    _ => format!("{name}={value}\n"),
                }
            });
        vec(prop_oneof![4 => line, 1 => "# [a-z ]{0,9}\n"], 0..8).prop_map(|l| l.concat())
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn later_fragments_count_and_order_is_all(a in fragment(), b in fragment(), c in fragment()) {
            let all = merge([a.as_str(), &b, &c]);
            for (name, value) in &all {
                let last = [&c, &b, &a].into_iter().find_map(|f| parse(f).get(name).cloned());
                prop_assert_eq!(last.as_ref(), Some(value));
            }
            // In one piece, in two, twice.
            prop_assert_eq!(&parse(&format!("{a}{b}{c}")), &all);
            prop_assert_eq!(&merge([format!("{a}{b}").as_str(), &c]), &all);
            prop_assert_eq!(&merge([a.as_str(), &b, &c, &a, &b, &c]), &all);
        }

        #[test]
        fn what_is_put_over_a_configuration_is_in_it(
            have in prop_oneof![fragment(), noise(&["CONFIG_A", "=y", " is not set", "# ", "\n# CONFIG_B is not set\n"])],
            want in prop_oneof![fragment(), noise(&["CONFIG_A", "=n", " is not set", "# ", "\nCONFIG_C=\"a b\"\n"])],
        ) {
            let requested = merge([want.as_str()]);
            let text = overlay(&have, &requested);
            prop_assert_eq!(verify(&requested, &text), vec![]);
            prop_assert_eq!(parse(&text), merge([have.as_str(), &want]));
            prop_assert_eq!(overlay(&text, &requested), text);
        }

        #[test]
        fn whatever_is_not_as_requested_is_told(have in fragment(), want in fragment()) {
            let (have_symbols, requested) = (parse(&have), parse(&want));
            let wrong = verify(&requested, &have);
            for (name, value) in &requested {
                let got = have_symbols.get(name).map_or("n", String::as_str);
                prop_assert_eq!(got != value, wrong.iter().any(|m| m.name == *name));
            }
            prop_assert_eq!(refuse(&wrong, |_| false).is_err(), !wrong.is_empty());
        }
    }
}
