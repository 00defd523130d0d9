// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names as they may be shown: a file or a command may be called anything, also what a terminal obeys.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name on one line: control characters, backslashes and what is not UTF-8 as `\ooo`.
pub fn shown(name: impl AsRef<OsStr>) -> String {
    let mut out = String::new();
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                let mut buffer = [0; 4];
                octal(&mut out, character.encode_utf8(&mut buffer).as_bytes());
            } else {
                out.push(character);
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out
}

fn octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\{byte:03o}");
    }
}

/// 4096 is `4 KiB`; what is no whole number of a unit gets one decimal.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let whole = bytes >> (10 * unit);
    let rest = bytes - (whole << (10 * unit));
    let tenths = (u128::from(rest) * 10) >> (10 * unit);
    match rest {
        0 => format!("{whole} {}", UNITS[unit]),
        _ => format!("{whole}.{tenths} {}", UNITS[unit]),
    }
}

/// A path in JSON, which has only text: `path` with U+FFFD for what is none, and then `path_hex` as well.
pub struct JsonPath<'a>(pub &'a Path);

impl JsonPath<'_> {
    /// The bytes, where the path is not UTF-8.
    pub fn hex(&self) -> Option<String> {
        let bytes = self.0.as_os_str().as_bytes();
        std::str::from_utf8(bytes).is_err().then(|| {
            bytes.iter().fold(String::new(), |mut out, byte| {
                let _ = write!(out, "{byte:02x}");
                out
            })
        })
    }
}

impl Serialize for JsonPath<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex = self.hex();
        let fields = 1 + usize::from(hex.is_some());
        let mut object = serializer.serialize_struct("path", fields)?;
        object.serialize_field("path", &self.0.to_string_lossy())?;
        if let Some(hex) = &hex {
            object.serialize_field("path_hex", hex)?;
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_shown() {
        assert_eq!(shown("/mnt/a b"), "/mnt/a b");
        assert_eq!(shown("/mnt/\u{1b}[2J\n"), "/mnt/\\033[2J\\012");
        assert_eq!(shown("/mnt/\u{9b}2J"), "/mnt/\\302\\2332J");
        assert_eq!(shown("/mnt/a\\b"), "/mnt/a\\134b");
        assert_eq!(shown("/mnt/ü"), "/mnt/ü");
        assert_eq!(
            shown(OsStr::from_bytes(b"/mnt/\xff\xfe")),
            "/mnt/\\377\\376"
        );
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1_572_864, "1.5 MiB"),
            (2 << 30, "2 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn json_keeps_every_byte_of_a_path() {
        let text = |path: &[u8]| {
            serde_json::to_string(&JsonPath(Path::new(OsStr::from_bytes(path)))).unwrap()
        };
        assert_eq!(text(b"/a\nb"), r#"{"path":"/a\nb"}"#);
        assert_eq!(
            text(b"/a\xff"),
            "{\"path\":\"/a\u{fffd}\",\"path_hex\":\"2f61ff\"}"
        );
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_name_of_any_bytes_is_shown_on_one_line_and_means_only_itself(bytes in vec(any::<u8>(), 0..40)) {
            let text = shown(OsStr::from_bytes(&bytes));
            prop_assert!(!text.chars().any(char::is_control));
            // Every backslash begins a byte.
            let mut back = vec![];
            let mut rest = text.as_bytes();
            while let Some((&first, more)) = rest.split_first() {
                if first == b'\\' {
                    let digits = std::str::from_utf8(&more[..3]).unwrap();
                    back.push(u8::from_str_radix(digits, 8).unwrap());
                    rest = &more[3..];
                } else {
                    back.push(first);
                    rest = more;
                }
            }
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn json_of_any_path_is_json_and_keeps_it(bytes in vec(any::<u8>(), 0..40)) {
            let text = serde_json::to_string(&JsonPath(Path::new(OsStr::from_bytes(&bytes)))).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            match value.get("path_hex") {
                None => prop_assert_eq!(value["path"].as_str().unwrap().as_bytes(), &bytes[..]),
                Some(hex) => {
                    let hex = hex.as_str().unwrap();
                    let digits = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                    prop_assert_eq!(digits.collect::<Vec<u8>>(), bytes);
                }
            }
        }
    }
}
