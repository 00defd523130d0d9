// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other ways to configure and compile the kernel, in which the series must build as well.
//!
//! What the series touches is compiled, object by object: a whole kernel for each of them would
//! take a day. Whatever a configuration leaves out is named in the result.

/// A way to build.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name on the command line, and that of its build directory.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    /// `ARCH=`.
    pub arch: &'static str,
    /// More arguments to make.
    pub make: &'static [&'static str],
    /// Put over the default configuration, and looked for in the result.
    pub config: &'static str,
    /// What is compiled besides the files that the series touches.
    pub also: &'static [&'static str],
    /// Compare the compiler's complaints with those about the base.
    pub compare: bool,
    /// Compare the hot functions with those of the base.
    pub same: bool,
    /// Programs it needs and the Debian package that has each.
    pub needs: &'static [(&'static str, &'static str)],
}

/// Arguments to make for clang and its tools.
pub const CLANG: &[&str] = &["LLVM=-19", "CC=ccache clang-19"];

/// The programs of it that a build calls, and the Debian package of each.
pub const CLANG_NEEDS: &[(&str, &str)] = &[
    ("clang-19", "clang-19"),
    ("ld.lld-19", "lld-19"),
    ("llvm-nm-19", "llvm-19"),
];

/// All of them.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "off",
        about: "the feature switched off; hot functions as in the base",
        arch: "x86_64",
        make: &[],
        config: "CONFIG_FILE_PINS=n\nCONFIG_FILE_PINS_KUNIT_TEST=n\n",
        also: &[],
        compare: false,
        same: true,
        needs: &[],
    },
    Variant {
        name: "no-rust",
        about: "a kernel without Rust",
        arch: "x86_64",
        make: &[],
        config: "CONFIG_RUST=n\nCONFIG_FILE_PINS=n\nCONFIG_FILE_PINS_KUNIT_TEST=n\n",
        also: &[],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "no-dax",
        about: "a kernel without filesystem DAX",
        arch: "x86_64",
        make: &[],
        config:
            "CONFIG_RUST=n\nCONFIG_FILE_PINS=n\nCONFIG_FILE_PINS_KUNIT_TEST=n\nCONFIG_FS_DAX=n\n",
        also: &[],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "no-locks",
        about: "a kernel without file locks",
        arch: "x86_64",
        make: &[],
        config: "CONFIG_RUST=n\nCONFIG_FILE_PINS=n\nCONFIG_FILE_PINS_KUNIT_TEST=n\n\
                 CONFIG_FILE_LOCKING=n\nCONFIG_NFSD=n\nCONFIG_NFS_FS=n\n",
        also: &[],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "no-rdma",
        about: "the feature without RDMA",
        arch: "x86_64",
        make: &[],
        config: "CONFIG_FILE_PINS=y\nCONFIG_INFINIBAND=n\n",
        also: &[],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "drivers",
        about: "all RDMA drivers that register user memory",
        arch: "x86_64",
        make: &[],
        config: include_str!("../../../configs/drivers.config"),
        also: &["drivers/infiniband/"],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "i386",
        about: "32-bit x86",
        arch: "i386",
        make: &[],
        config: "CONFIG_64BIT=n\nCONFIG_RUST=n\nCONFIG_INFINIBAND=y\nCONFIG_XFS_FS=y\n\
                 CONFIG_EXT4_FS=y\nCONFIG_XFS_ONLINE_SCRUB=y\n",
        also: &[],
        compare: false,
        same: false,
        needs: &[],
    },
    Variant {
        name: "clang",
        about: "clang instead of gcc",
        arch: "x86_64",
        make: CLANG,
        config: "CONFIG_FILE_PINS=y\nCONFIG_XFS_ONLINE_SCRUB=y\n",
        also: &[],
        compare: false,
        same: false,
        needs: CLANG_NEEDS,
    },
    Variant {
        name: "arm64",
        about: "arm64, cross-compiled by clang",
        arch: "arm64",
        make: CLANG,
        config: "CONFIG_FILE_PINS=y\nCONFIG_INFINIBAND=y\nCONFIG_XFS_FS=y\nCONFIG_EXT4_FS=y\n",
        also: &[],
        compare: false,
        same: false,
        needs: CLANG_NEEDS,
    },
    Variant {
        name: "w1",
        about: "no warning at W=1 that the base has not",
        arch: "x86_64",
        make: &["W=1"],
        config: "CONFIG_FILE_PINS=y\nCONFIG_XFS_ONLINE_SCRUB=y\n",
        also: &[],
        compare: true,
        same: false,
        needs: &[],
    },
    Variant {
        name: "sparse",
        about: "no complaint of sparse that the base has not",
        arch: "x86_64",
        make: &["C=2"],
        config: "CONFIG_FILE_PINS=y\nCONFIG_XFS_ONLINE_SCRUB=y\n",
        also: &[],
        compare: true,
        same: false,
        needs: &[("sparse", "sparse")],
    },
];

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Variant> {
    VARIANTS.iter().find(|v| v.name == name)
}

/// For trying the series on other releases: what it touches, the feature on.
pub const ELSEWHERE: Variant = Variant {
    name: "elsewhere",
    about: "another release",
    arch: "x86_64",
    make: &[],
    config: "CONFIG_FILE_PINS=y\nCONFIG_XFS_ONLINE_SCRUB=y\n",
    compare: false,
    same: false,
    also: &[],
    needs: &[],
};

/// Files and the option without which kbuild does not compile them; the first match decides.
const OPTIONS: &[(&str, &str)] = &[
    ("drivers/infiniband/sw/rxe/", "CONFIG_RDMA_RXE"),
    ("drivers/infiniband/sw/siw/", "CONFIG_RDMA_SIW"),
    ("drivers/infiniband/core/umem", "CONFIG_INFINIBAND_USER_MEM"),
    (
        "drivers/infiniband/core/uverbs",
        "CONFIG_INFINIBAND_USER_ACCESS",
    ),
    (
        "drivers/infiniband/hw/bnxt_re/",
        "CONFIG_INFINIBAND_BNXT_RE",
    ),
    ("drivers/infiniband/hw/cxgb4/", "CONFIG_INFINIBAND_CXGB4"),
    ("drivers/infiniband/hw/efa/", "CONFIG_INFINIBAND_EFA"),
    ("drivers/infiniband/hw/erdma/", "CONFIG_INFINIBAND_ERDMA"),
    ("drivers/infiniband/hw/hns/", "CONFIG_INFINIBAND_HNS_HIP08"),
    ("drivers/infiniband/hw/ionic/", "CONFIG_INFINIBAND_IONIC"),
    ("drivers/infiniband/hw/irdma/", "CONFIG_INFINIBAND_IRDMA"),
    ("drivers/infiniband/hw/mana/", "CONFIG_MANA_INFINIBAND"),
    ("drivers/infiniband/hw/mlx4/", "CONFIG_MLX4_INFINIBAND"),
    ("drivers/infiniband/hw/mlx5/", "CONFIG_MLX5_INFINIBAND"),
    ("drivers/infiniband/hw/mthca/", "CONFIG_INFINIBAND_MTHCA"),
    ("drivers/infiniband/hw/ocrdma/", "CONFIG_INFINIBAND_OCRDMA"),
    ("drivers/infiniband/hw/qedr/", "CONFIG_INFINIBAND_QEDR"),
    (
        "drivers/infiniband/hw/vmw_pvrdma/",
        "CONFIG_INFINIBAND_VMWARE_PVRDMA",
    ),
    ("drivers/infiniband/sw/rdmavt/", "CONFIG_INFINIBAND_RDMAVT"),
    ("drivers/infiniband/", "CONFIG_INFINIBAND"),
    ("fs/dax.c", "CONFIG_FS_DAX"),
    ("fs/ext4/", "CONFIG_EXT4_FS"),
    ("fs/locks.c", "CONFIG_FILE_LOCKING"),
    ("fs/nfsd/blocklayout", "CONFIG_NFSD_PNFS"),
    ("fs/nfsd/nfs4layouts", "CONFIG_NFSD_PNFS"),
    ("fs/nfsd/", "CONFIG_NFSD_V4"),
    ("fs/proc/file_pins", "CONFIG_FILE_PINS"),
    ("fs/xfs/scrub/", "CONFIG_XFS_ONLINE_SCRUB"),
    ("fs/xfs/xfs_pnfs", "CONFIG_EXPORTFS_BLOCK_OPS"),
    ("fs/xfs/xfs_zone", "CONFIG_XFS_RT"),
    ("fs/xfs/xfs_notify_failure", "CONFIG_MEMORY_FAILURE"),
    ("fs/xfs/", "CONFIG_XFS_FS"),
    ("io_uring/", "CONFIG_IO_URING"),
    ("mm/file_pins/", "CONFIG_FILE_PINS"),
    ("mm/gup_test", "CONFIG_GUP_TEST"),
    ("mm/memory-failure", "CONFIG_MEMORY_FAILURE"),
    ("mm/memremap", "CONFIG_ZONE_DEVICE"),
    ("rust/helpers/", "CONFIG_RUST"),
];

/// What of the touched files a configuration compiles, and what it leaves out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Objects, as arguments to make.
    pub objects: Vec<String>,
    /// Source files.
    pub left_out: Vec<String>,
}

/// Sorts the touched files by whether `enabled` says yes to the option they need.
pub fn split<'a>(
    touched: impl IntoIterator<Item = &'a str>,
    enabled: impl Fn(&str) -> bool,
) -> Split {
    let mut out = Split::default();
    for file in touched {
        let stem = match file.rsplit_once('.') {
            // Helpers are included into one file, programs of user space are not the kernel's.
            _ if file.starts_with("tools/") || file.starts_with("rust/") => continue,
            Some((stem, "c")) => stem,
            // Of a crate, only the root is an object.
            Some((stem, "rs")) if stem.ends_with("file_pin_registry") => stem,
            _ => continue,
        };
        let needs = OPTIONS.iter().find(|(prefix, _)| file.starts_with(prefix));
        if needs.is_none_or(|(_, option)| enabled(option)) {
            out.objects.push(format!("{stem}.o"));
        } else {
            out.left_out.push(file.to_string());
        }
    }
    out
}

/// The complaints of a compiler or of sparse, without line numbers: those change with every patch.
pub fn complaints(log: &str) -> Vec<String> {
    let mut out: Vec<String> = log
        .lines()
        .filter(|l| l.contains("warning:") || l.contains("error:"))
        .map(|l| {
            let mut words = l.splitn(2, ": ");
            let place = words.next().unwrap_or_default();
            let file = place.split(':').next().unwrap_or_default();
            let short = ["src/series/", "src/base/"]
                .iter()
                .find_map(|dir| file.split_once(dir))
                .map_or(file.trim_start_matches("./"), |(_, rest)| rest);
            format!("{short}: {}", words.next().unwrap_or_default())
        })
        .collect();
    out.sort();
    out
}

/// Complaints that `new` has and `old` has not, or has less often.
pub fn added(old: &[String], new: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = old.iter().collect();
    new.iter()
        .filter(|c| match left.iter().position(|o| o == c) {
            Some(i) => {
                left.swap_remove(i);
                false
            }
            None => true,
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = VARIANTS.iter().map(|v| v.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VARIANTS.len());
    }

    #[test]
    fn what_is_left_out_is_named() {
        let files = [
            "fs/attr.c",
            "fs/xfs/scrub/bmap.c",
            "fs/xfs/xfs_file.c",
            "include/linux/dax.h",
            "mm/file_pins/file_pin_registry.rs",
            "mm/file_pins/set.rs",
            "rust/helpers/helpers.c",
            "tools/testing/selftests/mm/gup_test.c",
        ];
        let s = split(files, |o| o == "CONFIG_XFS_FS" || o == "CONFIG_FILE_PINS");
        assert_eq!(
            s.objects,
            [
                "fs/attr.o",
                "fs/xfs/xfs_file.o",
                "mm/file_pins/file_pin_registry.o"
            ]
        );
        assert_eq!(s.left_out, ["fs/xfs/scrub/bmap.c"]);
    }

    #[test]
    fn line_numbers_and_trees_do_not_matter() {
        let old = complaints("/c/src/base/fs/a.c:10:2: warning: x\n  CC fs/a.o\n");
        let new = complaints(
            "../../src/series/fs/a.c:12:2: warning: x\n/c/src/series/fs/a.c:90:2: warning: x\n",
        );
        assert_eq!(old, ["fs/a.c: warning: x"]);
        assert_eq!(added(&old, &new), ["fs/a.c: warning: x"]);
        assert_eq!(added(&new, &old), Vec::<String>::new());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn complaints_are_told_apart_by_what_they_say(
            said in vec(("(fs|mm)/[a-b]\\.c", 1usize..99, "[a-z]{1,3}"), 0..6),
            more in ("(fs|mm)/[a-b]\\.c", 1usize..99, "[a-z]{1,3}"),
            shift in 0usize..9,
        ) {
            let line = |(file, n, text): &(String, usize, String), tree: &str, by: usize| {
                format!("../src/{tree}/{file}:{}:7: warning: {text}\n  CC      {file}.o\n", n + by)
            };
            let old: String = said.iter().map(|s| line(s, "base", 0)).collect();
            let new: String = said.iter().rev().map(|s| line(s, "series", shift)).collect();
            let (old, same) = (complaints(&old), complaints(&new));
            prop_assert_eq!(&old, &same);
            prop_assert_eq!(added(&old, &same), Vec::<String>::new());
            let worse = complaints(&format!("{new}{}", line(&more, "series", 0)));
            prop_assert_eq!(added(&old, &worse).len(), 1);
        }

        #[test]
        fn noise_never_panics(text in noise(&["warning:", "error: ", "src/series/", ": ", "./a.c:1", "\n"])) {
            prop_assert!(complaints(&text).is_sorted());
        }
    }
}
