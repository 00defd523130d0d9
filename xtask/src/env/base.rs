// SPDX-License-Identifier: MIT OR Apache-2.0
//! `base.toml`: the one place that says which kernel the series is cut on.

use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;

/// The pinned base kernel and tools.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The kernel itself.
    pub base: Kernel,
    /// Where a Debian machine gets it.
    pub debian: Debian,
    /// Tools that Debian 12 lacks or has too old.
    pub tools: Tools,
}

/// The kernel release.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Such as `7.3.4`.
    pub version: String,
    /// Upstream's tag.
    pub git_tag: String,
    /// Upstream's repository.
    pub git_url: String,
    /// Upstream's tarball as Debian names it.
    pub tarball: String,
    /// Its checksum.
    pub sha256: String,
}

/// Names and versions in Debian's archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// The suite, such as `trixie-backports`.
    pub suite: String,
    /// The source package that holds upstream's tarball.
    pub source_package: String,
    /// Its version.
    pub source_version: String,
    /// The binary package with the same release plus Debian's patches.
    pub patched_package: String,
    /// Checksum of that package.
    pub patched_sha256: String,
    /// The package with the standard library's source.
    pub rust_src_package: String,
}

/// Versions of the tools in the cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The oldest rustc the base kernel accepts.
    pub rustc_min: String,
    /// From PyPI.
    pub virtme_ng: String,
    /// From crates.io.
    pub bindgen_cli: String,
    /// From PyPI: hands the series to mailing lists.
    pub b4: String,
    /// From PyPI: the kernel's `spdxcheck.py` imports it.
    pub ply: String,
    /// From PyPI: the kernel's `spdxcheck.py` imports it.
    pub gitpython: String,
}

impl Base {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Base::parse(&text).map_err(|e| {
            Failure::of(
                Kind::Usage,
                format!("{} is not valid: {e:#}", path.display()),
            )
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let base: Base = toml::from_str(text)?;
        for (name, sum) in [
            ("sha256", &base.base.sha256),
            ("patched_sha256", &base.debian.patched_sha256),
        ] {
            anyhow::ensure!(
                sum.len() == 64 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{name} must be 64 lower-case hexadecimal digits, not {sum:?}"
            );
        }
        anyhow::ensure!(
            base.base.git_tag == format!("v{}", base.base.version),
            "git_tag {:?} is not version {:?}",
            base.base.git_tag,
            base.base.version
        );
        Ok(base)
    }
}

/// The version a kernel tree's top `Makefile` declares, such as `7.3.4` or `7.3-rc7`.
pub fn makefile_version(makefile: &str) -> Option<String> {
    let field = |name: &str| {
        makefile.lines().take(12).find_map(|l| {
            let (key, value) = l.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_string())
        })
    };
    let mut version = format!("{}.{}", field("VERSION")?, field("PATCHLEVEL")?);
    match field("SUBLEVEL")?.as_str() {
        "0" | "" => {}
        s => version.push_str(&format!(".{s}")),
    }
    version.push_str(&field("EXTRAVERSION").unwrap_or_default());
    Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../base.toml");

    #[test]
    fn the_committed_file_is_valid() {
        let b = Base::parse(GOOD).unwrap();
        assert!(b.base.tarball.contains(&b.base.version));
        assert!(b.debian.source_version.starts_with(&b.base.version));
    }

    #[test]
    fn a_short_checksum_is_refused() {
        let bad = GOOD.replace("9894ebada", "");
        assert!(Base::parse(&bad)
            .unwrap_err()
            .to_string()
            .contains("64 lower-case hex"));
    }

    #[test]
    fn tag_and_version_must_agree() {
        let bad = GOOD.replace("v7.3.4", "v7.3.3");
        assert!(Base::parse(&bad)
            .unwrap_err()
            .to_string()
            .contains("is not version"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(Base::parse(&GOOD.replace("suite =", "siute =")).is_err());
    }

    #[test]
    fn version_of_a_makefile() {
        let m = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\nNAME = x\n";
        assert_eq!(makefile_version(m).as_deref(), Some("7.3.4"));
        let rc = m
            .replace("= 4", "= 0")
            .replace("EXTRAVERSION =", "EXTRAVERSION = -rc7");
        assert_eq!(makefile_version(&rc).as_deref(), Some("7.3-rc7"));
        assert_eq!(makefile_version("all:\n"), None);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::prelude::*;
    use proptest::sample::Index;

    const GOOD: &str = include_str!("../../../base.toml");

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_file_that_was_cut_off_is_refused(at in any::<Index>()) {
            // What comes after the last value may be missing.
            let whole = GOOD.trim_end();
            prop_assert!(Base::parse(cut(whole, at)).is_err());
        }

        #[test]
        fn a_checksum_is_refused_unless_it_is_one(at in 0usize..64, byte in "[^\\\\\"\n\r\t]") {
            let sum = Base::parse(GOOD).unwrap().base.sha256;
            let other = format!("{}{byte}{}", &sum[..at], &sum[at + 1..]);
            let digit = matches!(byte.as_bytes(), [b'0'..=b'9' | b'a'..=b'f']);
            prop_assert_eq!(Base::parse(&GOOD.replace(&sum, &other)).is_ok(), digit);
        }

        #[test]
        fn versions_are_read_back(v in 1u8.., p in any::<u8>(), s in any::<u8>(), extra in "(-rc[1-9])?") {
            let text = format!(
                "# SPDX\nVERSION = {v}\nPATCHLEVEL = {p}\nSUBLEVEL = {s}\nEXTRAVERSION = {extra}\n"
            );
            let sublevel = if s == 0 { String::new() } else { format!(".{s}") };
            prop_assert_eq!(makefile_version(&text), Some(format!("{v}.{p}{sublevel}{extra}")));
        }

        #[test]
        fn noise_never_panics(text in noise(&[
            "VERSION", "PATCHLEVEL = 3\n", "SUBLEVEL", "EXTRAVERSION", "[base]\n", "sha256 = \"", "\"\n",
        ])) {
            makefile_version(&text);
            prop_assert!(Base::parse(&text).is_err());
        }
    }
}
