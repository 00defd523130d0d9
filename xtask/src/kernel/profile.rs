// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel builds by name.

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
    /// The pristine base kernel: what the tests must fail on
    Base,
}

impl Profile {
    /// The name, which is also that of the build directory.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Off => "off",
            Profile::Debug => "debug",
            Profile::Base => "base",
        }
    }

    /// The configuration fragments in `configs/`, later ones overriding earlier ones.
    pub fn fragments(self) -> Vec<&'static str> {
        let mut f = vec!["guest", "dax", "rdma", "nfs", "trace", "feature"];
        match self {
            Profile::Default | Profile::Base => {}
            Profile::Off => f.push("off"),
            Profile::Debug => f.push("debug"),
        }
        f
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
        matches!(self, Profile::Default | Profile::Debug)
    }

    /// How many times slower than the default kernel this one runs, for deadlines.
    pub fn slowness(self) -> u32 {
        if self == Profile::Debug {
            4
        } else {
            1
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
