// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Debian packages everything is built, booted and tested with.

use crate::ui::proc::Cmd;
use anyhow::Result;

/// Packages and what needs them.
pub const PACKAGES: &[(&str, &[&str])] = &[
    (
        "building the kernel",
        &[
            "build-essential",
            "flex",
            "bison",
            "libelf-dev",
            "libssl-dev",
            "bc",
            "kmod",
            "cpio",
            "rsync",
            "ccache",
            "clang-19",
            "libclang-19-dev",
        ],
    ),
    (
        "getting the source",
        &["git", "curl", "ca-certificates", "xz-utils"],
    ),
    (
        "booting it",
        &["qemu-system-x86", "python3-venv", "iproute2"],
    ),
    (
        "RDMA in the guest",
        &[
            "perftest",
            "rdma-core",
            "ibverbs-providers",
            "ibverbs-utils",
            "python3-pyverbs",
        ],
    ),
    ("MPI in the guest", &["openmpi-bin", "python3-mpi4py"]),
    (
        "building the examples",
        &["libibverbs-dev", "librdmacm-dev"],
    ),
    ("checking the manual pages", &["mandoc"]),
    ("checking the tests for xfstests", &["shellcheck"]),
    (
        "persistent memory in the guest",
        &["xfsprogs", "e2fsprogs", "ndctl", "daxctl"],
    ),
];

/// Is this a machine with Debian's package manager?
pub fn has_dpkg() -> bool {
    Cmd::new("dpkg-query").arg("--version").succeeds()
}

/// The packages that are not installed.
pub fn missing() -> Result<Vec<&'static str>> {
    let all: Vec<&str> = PACKAGES
        .iter()
        .flat_map(|(_, p)| p.iter().copied())
        .collect();
    let cmd = Cmd::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]);
    // It fails when one is unknown and still tells about the others.
    let (_, out, _) = cmd.args(&all).try_output()?;
    Ok(not_installed(&all, &out))
}

fn not_installed<'a>(all: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed: Vec<&str> = listing
        .lines()
        .filter_map(|l| l.strip_suffix(" installed"))
        .collect();
    all.iter()
        .filter(|p| !installed.contains(p))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_but_configured_is_not_installed() {
        let listing = "flex installed\nbison config-files\n";
        assert_eq!(
            not_installed(&["flex", "bison", "bc"], listing),
            ["bison", "bc"]
        );
    }
}
