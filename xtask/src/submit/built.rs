// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a state of the source: that it builds, and that it boots. Kept in the cache by
//! the hash of the tree, so that it outlives a rebase that changes only other patches.

use crate::env::cache::write_atomic;
use crate::kernel::profile::Profile;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A build that went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// Objects that were compiled for it.
    pub objects: usize,
    /// Objects of drivers and other parts that the kernel for the guest has not; of an older result
    /// that is not known.
    #[serde(default)]
    pub others: Option<usize>,
    /// How long it took.
    pub seconds: u64,
    /// How long it took to boot and to end; `None` while that has not been tried.
    pub boot_seconds: Option<u64>,
}

/// Where the results are.
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// In this directory.
    pub fn new(dir: PathBuf) -> Self {
        Store { dir }
    }

    fn file(&self, tree: &str, profile: Profile, settings: &str) -> PathBuf {
        let settings = &settings[..settings.len().min(16)];
        self.dir.join(format!("{tree}-{profile}-{settings}.json"))
    }

    /// What is known, if anything; a file that cannot be read is as good as none.
    pub fn get(&self, tree: &str, profile: Profile, settings: &str) -> Option<Built> {
        let text = std::fs::read_to_string(self.file(tree, profile, settings)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Notes a result.
    pub fn put(&self, tree: &str, profile: Profile, settings: &str, b: &Built) -> Result<()> {
        let text = serde_json::to_string(b).context("writing a result")?;
        write_atomic(
            Path::new(&self.file(tree, profile, settings)),
            text.as_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_kept_by_tree_profile_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let s = Store::new(dir.path().join("built"));
        let b = Built {
            objects: 3,
            others: Some(0),
            seconds: 40,
            boot_seconds: None,
        };
        s.put("t1", Profile::Default, "abc", &b).unwrap();
        assert_eq!(s.get("t1", Profile::Default, "abc"), Some(b));
        assert_eq!(s.get("t1", Profile::Off, "abc"), None);
        assert_eq!(s.get("t1", Profile::Default, "abd"), None);
        assert_eq!(s.get("t2", Profile::Default, "abc"), None);
    }
}
