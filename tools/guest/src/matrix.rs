// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Documentation/matrix.md`: which operation was tried in which state of a file, and which test proves it.

use crate::ktap::{results, Outcome};
use crate::setup::Fs;
use crate::tests::{list, Listed};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

/// Where the results are.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The results of a run of all tests; more than once if there are several reports
    #[arg(long, value_name = "FILE", required = true)]
    ktap: Vec<PathBuf>,
}

const INTRODUCTION: &str = "\
<!-- SPDX-License-Identifier: MIT OR Apache-2.0 -->
<!-- Written by `cargo xtask matrix` from the results of `cargo xtask test`. -->
# What was tried

Each cell is a test that passed in the guest: the operation of its row, in the state of the file that its
column names, on XFS (above) and ext4 (below, where it differs; `–` where the filesystem does not have the
operation, or where there is nothing to tell apart). What the cell says is what the [contract](semantics.md)
says and what the test asks for. A refusal also means: at once, and size, blocks, mode with its suid and sgid
bits, times, extents and data of every file involved are as before.

The test of a cell is called *area*`.`*filesystem*`.`*column*`.`*row*. To run one:

    cargo xtask test --filter 'layout.xfs.pinned.punch'
";

/// What the columns of an area mean.
const AREAS: [(&str, &str); 7] = [
    (
        "layout",
        "Subtractive operations. `free`: nobody holds the file. `own_lease`: the caller does, by a lease of \
         any kind. `exclusive_of_another`: another process has an exclusive lease; `..._and_own`: so does the \
         caller. `pinned`: the range is pinned, the lease kept; `pinned_released`: the lease released; both by \
         the holder and by another process. `pinned_behind`, `pinned_before`: the operation is aimed behind or \
         before the pinned range, by the holder, and by another process after the release; `pinned_adjacent`: at the \
         very next pages.",
    ),
    (
        "breaking",
        "Subtractive operations while another process has a lease that can be broken. `waits`: until the holder \
         releases it. `interrupted`: by a signal. `nonblock`: through a description with O_NONBLOCK.",
    ),
    (
        "transient",
        "Subtractive operations while direct I/O from the file is under way. `in_range`: aimed at the pages of \
         that; `behind`, `before`: elsewhere. `interrupted`: by a signal.",
    ),
    (
        "additive",
        "Operations that are never refused. `any_state`: with each of the four leases, by the holder and by \
         another process, and on a pinned file, the lease kept and released.",
    ),
    (
        "unsupported",
        "What would move blocks but does not exist for DAX files, or on this device. `any_state`: nobody holds \
         the file, the caller does, another process does, it is pinned with the lease kept and released.",
    ),
    (
        "names",
        "Names of a file that another process holds by an exclusive lease alone, or by a pin alone.",
    ),
    (
        "mounts",
        "The filesystem under such a file. `pinned_beside_no_dax`: the other file of the operation is not DAX.",
    ),
];

/// Every place of the kernel that frees, moves or shares blocks, and the tests that go through it; a name
/// that ends in `*` stands for all that begin so. Without a test: why.
const PLACES: [(&str, &str, &[&str]); 31] = [
    (
        "ext4 setattr",
        "`ext4_setattr`",
        &[
            "layout.ext4.pinned.truncate",
            "layout.ext4.pinned.ftruncate",
            "layout.ext4.pinned.open_trunc",
            "additive.ext4.any_state.extend",
            "additive.ext4.any_state.same_size",
        ],
    ),
    (
        "ext4 punch, zero",
        "`ext4_fallocate`",
        &["layout.ext4.pinned.punch", "layout.ext4.pinned.zero_range"],
    ),
    (
        "ext4 write zeroes",
        "`ext4_fallocate`",
        &["unsupported.ext4.any_state.write_zeroes"],
    ),
    (
        "ext4 collapse, insert",
        "`ext4_fallocate`",
        &["layout.ext4.pinned.collapse", "layout.ext4.pinned.insert"],
    ),
    (
        "ext4 allocate, write",
        "`ext4_fallocate`, `ext4_dax_write_iter`",
        &[
            "additive.ext4.any_state.allocate*",
            "additive.ext4.any_state.append",
            "additive.ext4.any_state.overwrite",
            "additive.ext4.any_state.fill_a_hole",
        ],
    ),
    (
        "ext4 MOVE_EXT",
        "`mext_check_validity`",
        &[
            "unsupported.ext4.any_state.move_ext*",
            "mounts.ext4.pinned_beside_no_dax.move_ext*",
        ],
    ),
    (
        "ext4 SWAP_BOOT",
        "`swap_inode_boot_loader`",
        &["layout.ext4.pinned.swap_boot"],
    ),
    (
        "ext4 MIGRATE, extents flag",
        "`ext4_ext_migrate`, `ext4_ind_migrate`",
        &["additive.ext4.pinned.migrate"],
    ),
    (
        "ext4 journalled data",
        "`ext4_ioctl_setflags`",
        &["unsupported.ext4.any_state.journal_data"],
    ),
    (
        "ext4 verity, encryption",
        "`ext4_ioctl`",
        &[
            "unsupported.ext4.any_state.verity",
            "unsupported.ext4.any_state.encrypt",
        ],
    ),
    (
        "FITRIM",
        "`ext4_trim_fs`, `xfs_ioc_trim`",
        &[
            "unsupported.xfs.any_state.fitrim",
            "unsupported.ext4.any_state.fitrim",
        ],
    ),
    (
        "grow, shrink",
        "`ext4_resize_fs`, `xfs_growfs_data`",
        &[
            "mounts.xfs.pinned_released.grow",
            "mounts.ext4.pinned_released.grow",
            "unsupported.xfs.any_state.shrink",
            "unsupported.ext4.any_state.shrink",
        ],
    ),
    (
        "XFS setattr",
        "`xfs_vn_setattr`",
        &[
            "layout.xfs.pinned.truncate",
            "layout.xfs.pinned.ftruncate",
            "layout.xfs.pinned.open_trunc",
            "additive.xfs.any_state.extend",
            "additive.xfs.any_state.same_size",
        ],
    ),
    (
        "XFS fallocate",
        "`xfs_falloc_break_layouts`",
        &[
            "layout.xfs.pinned.punch",
            "layout.xfs.pinned.zero_range",
            "layout.xfs.pinned.collapse",
            "layout.xfs.pinned.insert",
            "layout.xfs.pinned.unshare",
            "unsupported.xfs.any_state.write_zeroes",
            "additive.xfs.any_state.allocate*",
        ],
    ),
    (
        "XFS write",
        "`xfs_file_write_checks`",
        &[
            "additive.xfs.any_state.append",
            "additive.xfs.any_state.overwrite",
            "additive.xfs.any_state.fill_a_hole",
            "sharing.xfs.write_beside_copies_only_what_is_shared",
        ],
    ),
    (
        "XFS reflink, dedupe",
        "`xfs_reflink_remap_prep`",
        &[
            "layout.xfs.pinned.reflink*",
            "layout.xfs.pinned.dedupe*",
            "mounts.xfs.no_reflink_with_no_dax",
        ],
    ),
    (
        "XFS exchange range",
        "`xfs_exchrange_contents`",
        &[
            "layout.xfs.pinned.exchange*",
            "mounts.xfs.pinned_beside_no_dax.exchange*",
        ],
    ),
    (
        "XFS swapext",
        "`xfs_swap_extents`",
        &[
            "layout.xfs.pinned.swapext*",
            "mounts.xfs.pinned_beside_no_dax.swapext*",
        ],
    ),
    (
        "XFS two-inode break",
        "`xfs_ilock2_io_mmap`",
        &[
            "transient.xfs.in_range.reflink*",
            "transient.xfs.in_range.exchange*",
            "breaking.xfs.interrupted.reflink*",
        ],
    ),
    (
        "XFS online repair",
        "`xchk_setup_inode_bmap`",
        &["unsupported.xfs.any_state.repair"],
    ),
    (
        "XFS blocks behind EOF",
        "`xfs_free_eofblocks`",
        &["additive.xfs.any_state.free_behind_eof"],
    ),
    (
        "XFS zone garbage collection",
        "`xfs_zone_gc_finish_chunk`",
        &[],
    ),
    (
        "copy_file_range",
        "`vfs_copy_file_range`",
        &[
            "additive.xfs.exclusive_of_another.copy_file_range",
            "additive.xfs.pinned.copy_file_range",
            "additive.ext4.pinned.copy_file_range",
        ],
    ),
    (
        "DAX flag",
        "`ext4_dax_dontcache`, `xfs_ioctl_setattr_prepare_dax`",
        &[
            "additive.xfs.any_state.set_attributes",
            "additive.ext4.any_state.set_attributes",
        ],
    ),
    (
        "unlink, evict",
        "`dax_break_layout_final`",
        &[
            "names.xfs.pinned_released.unlink",
            "names.ext4.pinned_released.unlink",
            "names.xfs.pinned_released.rename_over",
            "lifetime.xfs.unlink_under_a_pin",
        ],
    ),
    (
        "swapon",
        "`swapon`",
        &[
            "unsupported.xfs.any_state.swapon",
            "unsupported.ext4.any_state.swapon",
        ],
    ),
    (
        "umount, remount",
        "`umount`, `reconfigure_super`",
        &[
            "mounts.xfs.pinned_released.umount",
            "mounts.ext4.pinned_released.umount",
            "mounts.xfs.pinned_released.lazy_umount",
            "mounts.xfs.pinned_released.remount_ro",
        ],
    ),
    (
        "freeze",
        "`freeze_super`",
        &[
            "mounts.xfs.pinned_released.freeze",
            "mounts.ext4.pinned_released.freeze",
        ],
    ),
    (
        "failed write behind EOF",
        "`ext4_truncate_failed_write`",
        &[],
    ),
    ("memory failure", "`mf_dax_kill_procs`", &[]),
    ("removal of the device", "`pmem_pagemap_kill`", &[]),
];

/// Why there is no test.
const WITHOUT_A_TEST: [(&str, &str); 4] = [
    (
        "XFS zone garbage collection",
        "files of zoned devices cannot be leased",
    ),
    (
        "failed write behind EOF",
        "nothing behind the end of a file can be pinned",
    ),
    ("memory failure", "no blocks change; not part of this table"),
    (
        "removal of the device",
        "no blocks change; not part of this table",
    ),
];

/// Prints the matrix; every test must have been run and have passed.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let mut passed = BTreeMap::new();
    for file in &options.ktap {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("no results at {}", file.display()))?;
        passed.extend(results(&text));
    }
    let tests = list();
    let mut missing = 0;
    for test in &tests {
        let name = full_name(test);
        if passed.get(&name) != Some(&Outcome::Pass) {
            eprintln!("did not pass: {name}");
            missing += 1;
        }
    }
    anyhow::ensure!(
        missing == 0,
        "{missing} of {} tests did not pass in this run",
        tests.len(),
    );
    print!("{}", render(&tests));
    Ok(true)
}

fn full_name(test: &Listed) -> String {
    format!("{}.{}.{}", test.area, test.fs.name(), test.name)
}

/// The whole document.
fn render(tests: &[Listed]) -> String {
    let mut out = INTRODUCTION.to_owned();
    for (area, words) in AREAS {
        let _ = write!(out, "\n## {area}\n\n{words}\n\n");
        out.push_str(&table(tests, area));
    }
    out.push_str("\n## Places in the kernel\n\n");
    out.push_str(
        "Every place that frees, moves or shares blocks, and tests that go through it.\n\n",
    );
    out.push_str("| | where | tests |\n|---|---|---|\n");
    for (what, place, names) in PLACES {
        let names = match names {
            [] => WITHOUT_A_TEST
                .iter()
                .find(|(place, _)| *place == what)
                .map_or_else(String::new, |(_, why)| format!("none: {why}")),
            names => names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let _ = writeln!(out, "| {what} | {place} | {names} |");
    }
    out.push_str("\n## Other tests\n\nNot of an operation in a state; their names say what they are about.\n");
    for (area, names) in others(tests) {
        let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(out, "\n**{area}**: {}\n", names.join(", "));
    }
    out
}

/// The operations of an area by the states it has; both in the order the tests run.
fn table(tests: &[Listed], area: &str) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), [Option<&str>; 2]> = BTreeMap::new();
    for test in tests.iter().filter(|test| test.area == area) {
        let (Some(expects), Some((column, row))) = (&test.expects, test.name.split_once('.'))
        else {
            continue;
        };
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !rows.contains(&row) {
            rows.push(row);
        }
        let cell = cells.entry((row, column)).or_default();
        cell[usize::from(test.fs == Fs::Ext4)] = Some(expects);
    }
    let mut out = format!("| | {} |\n|---|", columns.join(" | "));
    out.push_str(&"---|".repeat(columns.len()));
    out.push('\n');
    for row in rows {
        let _ = write!(out, "| `{row}` |");
        for column in &columns {
            let cell = match cells.get(&(row, *column)) {
                None => "–".to_owned(),
                Some([xfs, ext4]) if xfs == ext4 => xfs.unwrap_or("–").to_owned(),
                Some([xfs, ext4]) => {
                    format!("{}<br>{}", xfs.unwrap_or("–"), ext4.unwrap_or("–"))
                }
            };
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
    out
}

/// What is in no table, each once for both filesystems, by area.
fn others(tests: &[Listed]) -> Vec<(&str, Vec<&str>)> {
    let mut areas: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for test in tests.iter().filter(|test| test.expects.is_none()) {
        if !seen.insert((test.area, &test.name)) {
            continue;
        }
        match areas.iter_mut().find(|(area, _)| *area == test.area) {
            Some((_, names)) => names.push(&test.name),
            None => areas.push((test.area, vec![&test.name])),
        }
    }
    areas
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../Documentation/matrix.md");

    #[test]
    fn document_has_the_tests_there_are() {
        assert!(
            DOCUMENT == render(&list()),
            "Documentation/matrix.md is not what the tests are: \
             run `cargo xtask test`, then `cargo xtask matrix`"
        );
    }

    #[test]
    fn cells_are_named_after_state_and_operation() {
        for test in list() {
            if test.expects.is_some() {
                assert_eq!(test.name.matches('.').count(), 1, "{}", test.name);
                assert!(AREAS.iter().any(|(area, _)| *area == test.area));
            }
        }
    }

    #[test]
    fn places_name_tests_that_exist() {
        let names: Vec<String> = list().iter().map(full_name).collect();
        for (what, _, wanted) in PLACES {
            for wanted in wanted {
                let found = match wanted.strip_suffix('*') {
                    Some(begin) => names.iter().any(|name| name.starts_with(begin)),
                    None => names.iter().any(|name| name == wanted),
                };
                assert!(found, "{what}: there is no {wanted}");
            }
            let explained = WITHOUT_A_TEST.iter().any(|(place, _)| *place == what);
            assert_eq!(wanted.is_empty(), explained, "{what}");
        }
    }
}
