// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel builds by name.

use super::variant;
use clap::ValueEnum;
use std::fmt;

/// What kernel to build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// The series, with the feature on
    #[default]
    Default,
    /// The series, with the feature switched off
    Off,
    /// The series, with lock, sleep and page-state checks
    Debug,
    /// The series, compiled by clang instead of gcc
    Clang,
    /// The series, compiled by clang, with KASAN and UBSAN in C and Rust, and KMEMLEAK
    Kasan,
    /// The series, compiled by clang, with KCSAN in C: Rust code is not instrumented
    Kcsan,
    /// The series, with allocations and copies that can be made to fail
    Fault,
    /// The pristine base kernel: what the tests must fail on
    Base,
    /// The series, with hooks that can be taken out one at a time: see `xtask mutants`
    Mutants,
}

impl Profile {
    /// The name, which is also that of the build directory.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Off => "off",
            Profile::Debug => "debug",
            Profile::Clang => "clang",
            Profile::Kasan => "kasan",
            Profile::Kcsan => "kcsan",
            Profile::Fault => "fault",
            Profile::Base => "base",
            Profile::Mutants => "mutants",
        }
    }

    /// The configuration fragments in `configs/`, later ones overriding earlier ones.
    pub fn fragments(self) -> Vec<&'static str> {
        let mut f = vec!["guest", "dax", "rdma", "nfs", "trace", "feature"];
        match self {
            Profile::Default | Profile::Clang | Profile::Base | Profile::Mutants => {}
            Profile::Off | Profile::Debug | Profile::Kasan | Profile::Kcsan | Profile::Fault => {
                f.push(self.name());
            }
        }
        f
    }

    /// Arguments to make that choose the compilers.
    pub fn compilers(self) -> &'static [&'static str] {
        match self {
            Profile::Clang | Profile::Kasan | Profile::Kcsan => variant::CLANG,
            _ => &[],
        }
    }

    /// Programs that the build needs besides the usual ones, and the Debian package of each.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self.compilers() {
            [] => &[],
            _ => variant::CLANG_NEEDS,
        }
    }

    /// The source tree in the cache: the base has its own, so that neither spoils the other's
    /// file times.
    pub fn flavour(self) -> &'static str {
        if self == Profile::Base {
            "base"
        } else {
            "series"
        }
    }

    /// May this requested symbol be unknown to the tree?
    pub fn tolerates(self, symbol: &str) -> bool {
        self == Profile::Base && symbol.starts_with("CONFIG_FILE_PINS")
    }

    /// Has this kernel layout leases and file pins?
    pub fn has_feature(self) -> bool {
        !matches!(self, Profile::Off | Profile::Base)
    }

    /// How many times slower than the default kernel this one runs, for deadlines.
    pub fn slowness(self) -> u32 {
        match self {
            Profile::Debug | Profile::Kasan | Profile::Kcsan | Profile::Fault => 4,
            _ => 1,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
