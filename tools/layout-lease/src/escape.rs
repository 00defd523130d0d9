// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths in the kernel's listings: space, tab, newline and backslash are written as `\ooo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Why a path could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a backslash at byte {at} is not followed by three octal digits")]
pub struct BadEscape {
    /// Where in the encoded bytes.
    pub at: usize,
}

/// The bytes behind an escaped path.
///
/// # Errors
/// A backslash that does not begin an octal escape of one byte.
pub fn decode(text: &[u8]) -> Result<PathBuf, BadEscape> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'\\' {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let byte = text
            .get(at + 1..at + 4)
            .and_then(octal)
            .ok_or(BadEscape { at })?;
        out.push(byte);
        at += 4;
    }
    Ok(PathBuf::from(OsString::from_vec(out)))
}

fn octal(digits: &[u8]) -> Option<u8> {
    let mut value = 0u32;
    for digit in digits {
        value = value * 8 + char::from(*digit).to_digit(8)?;
    }
    u8::try_from(value).ok()
}

/// Writes bytes the way the kernel does. The inverse of [`decode`], for tests and messages.
#[must_use]
pub fn encode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            out.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn decodes_what_d_path_gives() {
        let path = decode(br"/mnt/a\040b\011\012\134c\040(deleted)").unwrap();
        assert_eq!(path.as_os_str().as_bytes(), b"/mnt/a b\t\n\\c (deleted)");
    }

    #[test]
    fn refuses_half_an_escape() {
        for bad in [&br"/a\04"[..], br"/a\", br"/a\9ab", br"/a\777"] {
            assert_eq!(decode(bad), Err(BadEscape { at: 2 }));
        }
    }
}
