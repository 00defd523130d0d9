// SPDX-License-Identifier: MIT OR Apache-2.0
//! The blocks that are written: each says in its first words what it is, and all of its other bytes
//! follow from that. So a block that is found where another one belongs can be named, and of each
//! byte of a torn one it is known whose it is.

use std::fmt;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
const MAGIC: u64 = 0x4b43_4f4c_4245_5750;
const WORD: usize = 8;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The worker that wrote it.
    pub worker: u32,
    /// The worker's number for the file.
    pub file: u32,
    /// Which of the worker's writes.
    pub generation: u64,
    /// Where in the file, in blocks.
    pub index: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "block {} of file {} of worker {}, generation {}",
            self.index, self.file, self.worker, self.generation
        )
    }
}

impl Identity {
    /// The bytes of the block.
    pub fn content(self) -> [u8; BLOCK] {
        let owner = u64::from(self.worker) << 32 | u64::from(self.file);
        let head = [MAGIC, owner, self.generation, self.index];
        let seed = head[1..].iter().fold(MAGIC, |sum, word| {
            (sum ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        });
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = [0; BLOCK];
        for (n, place) in bytes.chunks_exact_mut(WORD).enumerate() {
            let word = head.get(n).copied().unwrap_or_else(|| random.u64(..));
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What a whole block is, if it is one of those written here.
    pub fn of(bytes: &[u8]) -> Option<Identity> {
        let word = |n: usize| {
            let part = bytes.get(n * WORD..(n + 1) * WORD)?;
            Some(u64::from_le_bytes(part.try_into().ok()?))
        };
        if word(0)? != MAGIC {
            return None;
        }
        let owner = word(1)?;
        let identity = Identity {
            worker: u32::try_from(owner >> 32).ok()?,
            file: owner as u32,
            generation: word(2)?,
            index: word(3)?,
        };
        (identity.content() == bytes).then_some(identity)
    }
}

/// What some block is, for people.
pub fn describe(bytes: &[u8]) -> String {
    if let Some(identity) = Identity::of(bytes) {
        return identity.to_string();
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return "zeros".to_owned();
    }
    let head: Vec<String> = bytes.iter().take(32).map(|b| format!("{b:02x}")).collect();
    format!("no whole block of a file: {} ...", head.concat())
}

/// What a block may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros: nothing was written yet, or not since it was allocated.
    Zeros,
    /// This block.
    Written(Identity),
}

impl Content {
    fn bytes(self) -> [u8; BLOCK] {
        match self {
            Content::Zeros => [0; BLOCK],
            Content::Written(identity) => identity.content(),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Content::Zeros => f.write_str("zeros"),
            Content::Written(identity) => write!(f, "generation {}", identity.generation),
        }
    }
}

/// How a block was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// As one of those that it may be.
    Whole,
    /// With bytes of several of those: the power was lost while it was written.
    Torn,
    /// With bytes of none.
    Wrong,
}

/// Judges a block that may be one of these, or, if there are several, a mixture.
pub fn judge(bytes: &[u8], allowed: &[Content]) -> Found {
    let allowed: Vec<[u8; BLOCK]> = allowed.iter().map(|content| content.bytes()).collect();
    if allowed.iter().any(|content| content == bytes) {
        return Found::Whole;
    }
    let known = |(at, byte): (usize, &u8)| allowed.iter().any(|content| content[at] == *byte);
    let same_length = bytes.len() == BLOCK;
    if allowed.len() > 1 && same_length && bytes.iter().enumerate().all(known) {
        Found::Torn
    } else {
        Found::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = Identity {
        worker: 3,
        file: 7,
        generation: 12,
        index: 5,
    };
    const NEXT: Identity = Identity {
        generation: 13,
        ..ONE
    };

    #[test]
    fn a_block_says_what_it_is() {
        assert_eq!(Identity::of(&ONE.content()), Some(ONE));
        assert_eq!(
            describe(&ONE.content()),
            "block 5 of file 7 of worker 3, generation 12"
        );
        assert_eq!(describe(&[0; BLOCK]), "zeros");
    }

    #[test]
    fn one_changed_byte_makes_it_no_block() {
        for at in [0, 8, 31, 40, BLOCK - 1] {
            let mut bytes = ONE.content();
            bytes[at] ^= 1;
            assert_eq!(Identity::of(&bytes), None, "{at}");
            assert!(describe(&bytes).starts_with("no whole block"));
        }
    }

    #[test]
    fn blocks_differ_all_over() {
        let (one, next) = (ONE.content(), NEXT.content());
        let same = one.iter().zip(&next).filter(|(a, b)| a == b).count();
        assert!(same < 100, "{same} bytes are the same");
    }

    #[test]
    fn a_torn_block_is_made_of_what_it_may_be() {
        let (old, new) = (Content::Written(ONE), Content::Written(NEXT));
        let mut torn = ONE.content();
        torn[..1000].copy_from_slice(&NEXT.content()[..1000]);
        assert_eq!(judge(&torn, &[old, new]), Found::Torn);
        assert_eq!(judge(&torn, &[new]), Found::Wrong);
        assert_eq!(judge(&torn, &[old, Content::Zeros]), Found::Wrong);
        assert_eq!(judge(&NEXT.content(), &[old, new]), Found::Whole);
        torn[2000] ^= 0x55;
        let byte = torn[2000];
        assert!(byte != ONE.content()[2000] && byte != NEXT.content()[2000]);
        assert_eq!(judge(&torn, &[old, new]), Found::Wrong);
    }

    #[test]
    fn what_was_acknowledged_is_not_older() {
        let new = [Content::Written(NEXT)];
        assert_eq!(judge(&ONE.content(), &new), Found::Wrong);
        assert_eq!(judge(&[0; BLOCK], &new), Found::Wrong);
        assert_eq!(judge(&[0; BLOCK], &[Content::Zeros]), Found::Whole);
        assert_eq!(judge(&[0; 100], &[Content::Zeros]), Found::Wrong);
    }
}
