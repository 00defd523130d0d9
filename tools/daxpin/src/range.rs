// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of bytes as people write them: `0-4095`, `1M-2M`, `4096-`.

use std::fmt;
use std::str::FromStr;

/// From the first byte to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub first: u64,
    /// The last byte; the largest number for the end of the file.
    pub last: u64,
}

impl Range {
    /// The whole file.
    pub const ALL: Range = Range {
        first: 0,
        last: u64::MAX,
    };

    /// The range, with whole units of this size at both ends. The size is a power of two.
    pub fn widened(self, unit: u64) -> Range {
        let mask = unit - 1;
        Range {
            first: self.first & !mask,
            last: self.last | mask,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.last {
            u64::MAX => write!(f, "{}-EOF", self.first),
            last => write!(f, "{}-{last}", self.first),
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let (first, last) = text
            .split_once('-')
            .ok_or("a range is FIRST-LAST or FIRST-, in bytes")?;
        let range = Range {
            first: bytes(first)?,
            last: if last.is_empty() {
                u64::MAX
            } else {
                bytes(last)?
            },
        };
        if range.last < range.first {
            return Err("the last byte comes before the first".to_owned());
        }
        Ok(range)
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    // `parse` alone would take a sign.
    let number: u64 = Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{text:?} is no number of bytes (4096, 4K, 2M, 1G)"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than any file has"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_shown() {
        let range: Range = "4K-8191".parse().unwrap();
        assert_eq!((range.first, range.last), (4096, 8191));
        assert_eq!(range.to_string(), "4096-8191");
        assert_eq!("0-".parse(), Ok(Range::ALL));
        assert_eq!(Range::ALL.to_string(), "0-EOF");
        for wrong in ["", "5", "-5", "2-1", "a-b", "1T-99999999999999T", "+1-2"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn widening_keeps_the_end_of_the_file() {
        let range: Range = "3M-3M".parse().unwrap();
        assert_eq!(range.widened(2 << 20).to_string(), "2097152-4194303");
        assert_eq!(Range::ALL.widened(2 << 20), Range::ALL);
    }
}
