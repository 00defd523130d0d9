// SPDX-License-Identifier: MIT OR Apache-2.0
//! External data representation (RFC 4506), as much of it as a small NFS client needs.

use anyhow::Context;

/// Values on their way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Nothing yet.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// An unsigned integer, an enum or a union's discriminant.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Encoder {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// An unsigned hyper.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Encoder {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A boolean.
    #[must_use]
    pub fn bool(self, value: bool) -> Encoder {
        self.u32(u32::from(value))
    }

    /// Opaque data of fixed length, or something encoded already.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Encoder {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Opaque data of variable length, or a string.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn opaque(self, bytes: &[u8]) -> Encoder {
        self.u32(bytes.len() as u32).fixed(bytes)
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Values that came in.
#[derive(Clone, Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Reads from the beginning.
    pub fn new(bytes: Vec<u8>) -> Decoder {
        Decoder { bytes, at: 0 }
    }

    /// Opaque data of fixed length.
    pub fn fixed(&mut self, length: usize) -> anyhow::Result<&[u8]> {
        let begin = self.at;
        let end = begin.checked_add(length).context("an absurd length")?;
        self.at = end.next_multiple_of(4);
        self.bytes
            .get(begin..end)
            .with_context(|| format!("{length} bytes at {begin} of {}", self.bytes.len()))
    }

    /// An unsigned integer, an enum or a union's discriminant.
    pub fn u32(&mut self) -> anyhow::Result<u32> {
        Ok(u32::from_be_bytes(self.fixed(4)?.try_into()?))
    }

    /// An unsigned hyper.
    pub fn u64(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from_be_bytes(self.fixed(8)?.try_into()?))
    }

    /// Opaque data of variable length.
    pub fn opaque(&mut self) -> anyhow::Result<&[u8]> {
        let length = self.u32()?;
        self.fixed(usize::try_from(length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_out_comes_in() {
        let bytes = Encoder::new()
            .u32(7)
            .u64(1 << 40)
            .bool(true)
            .opaque(b"abcde")
            .fixed(b"xyz")
            .bytes();
        assert_eq!(bytes.len(), 4 + 8 + 4 + 4 + 8 + 4);
        let mut decoder = Decoder::new(bytes);
        assert_eq!(decoder.u32().unwrap(), 7);
        assert_eq!(decoder.u64().unwrap(), 1 << 40);
        assert_eq!(decoder.u32().unwrap(), 1);
        assert_eq!(decoder.opaque().unwrap(), b"abcde");
        assert_eq!(decoder.fixed(3).unwrap(), b"xyz");
        assert!(decoder.u32().is_err());
    }

    #[test]
    fn a_length_beyond_the_end_is_an_error() {
        assert!(Decoder::new(vec![0xff; 8]).opaque().is_err());
    }
}
