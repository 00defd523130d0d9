// SPDX-License-Identifier: MIT OR Apache-2.0
//! Comparing functions of two objects, instruction by instruction.
//!
//! With the feature switched off a kernel must cost what it did before. For the functions that
//! every workload runs, "the same" is taken literally: same instructions, same order.

use crate::ui::proc::Cmd;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Objects and the functions in them that are compared.
pub const HOT: &[(&str, &[&str])] = &[
    (
        "mm/gup.o",
        &[
            "pin_user_pages_fast",
            "get_user_pages_fast",
            "pin_user_pages",
            "__get_user_pages",
            "__gup_longterm_locked",
            "gup_fast_fallback",
            "unpin_user_pages",
            "unpin_user_page_range_dirty_lock",
        ],
    ),
    (
        "fs/attr.o",
        &["notify_change", "setattr_prepare", "inode_newsize_ok"],
    ),
    (
        "fs/locks.o",
        &[
            "posix_lock_inode",
            "flock_lock_inode",
            "locks_remove_file",
            "locks_get_lock_context",
            "lease_modify",
            "time_out_leases",
        ],
    ),
    (
        "fs/dax.o",
        &["dax_iomap_rw", "dax_iomap_fault", "dax_finish_sync_fault"],
    ),
    (
        "fs/ext4/inode.o",
        &["ext4_iomap_begin", "ext4_page_mkwrite", "ext4_dirty_inode"],
    ),
    (
        "fs/xfs/xfs_file.o",
        &[
            "xfs_file_read_iter",
            "xfs_file_write_iter",
            "xfs_file_fsync",
        ],
    ),
];

/// The functions of an object, each with its instructions.
///
/// Addresses are left out; what a relocation refers to is in the text by its name.
pub fn functions(object: &Path) -> Result<BTreeMap<String, String>> {
    let text = Cmd::new("objdump")
        .args(["-dr", "--no-show-raw-insn", "--no-addresses"])
        .arg(object)
        .output()
        .with_context(|| format!("cannot disassemble {}", object.display()))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(n) = line.strip_prefix('<').and_then(|l| l.strip_suffix(">:")) {
            name = Some(n.to_string());
            // Of several functions of one name, all count.
            out.entry(n.to_string()).or_default();
        } else if let Some(body) = name.as_ref().and_then(|n| out.get_mut(n)) {
            let insn = line.trim();
            // Padding between functions belongs to neither.
            if !insn.is_empty() && !insn.starts_with("nop") {
                body.push_str(&normal(insn));
                body.push('\n');
            }
        }
    }
    out
}

/// A relocation against a section names an offset that moves with every other function: only that
/// there is one counts.
fn normal(insn: &str) -> String {
    match insn.split_once(char::is_whitespace) {
        Some((kind, target)) if kind.starts_with("R_") => {
            let target = target.trim();
            let symbol = target.split(['+', '-']).next().unwrap_or(target);
            let local = symbol.starts_with('.') || symbol.starts_with("__bug_table");
            format!("{kind} {}", if local { symbol } else { target })
        }
        _ => insn.split(" #").next().unwrap_or(insn).to_string(),
    }
}

/// The source files that two objects were made from. Macros hand the number of their line on, for
/// messages: it is the same number if it stands for the same line.
#[derive(Default)]
pub struct Sources {
    old: Vec<String>,
    new: Vec<String>,
}

impl Sources {
    /// Of the text of both.
    pub fn new(old: &str, new: &str) -> Self {
        let lines = |text: &str| text.lines().map(str::to_string).collect();
        Sources {
            old: lines(old),
            new: lines(new),
        }
    }

    /// Do both instructions load the number of the same line into the same register?
    fn same_line(&self, old: &str, new: &str) -> bool {
        let (Some((a, to)), Some((b, also_to))) = (loaded(old), loaded(new)) else {
            return false;
        };
        let line =
            |lines: &'_ [String], n: usize| n.checked_sub(1).and_then(|n| lines.get(n)).cloned();
        to == also_to
            && line(&self.old, a)
                .is_some_and(|l| !l.trim().is_empty() && Some(l) == line(&self.new, b))
    }

    fn same(&self, old: &str, new: &str) -> bool {
        let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
        old.len() == new.len()
            && old
                .iter()
                .zip(&new)
                .all(|(a, b)| a == b || self.same_line(a, b))
    }
}

/// The number and the register of `mov $0x10,%esi`.
fn loaded(insn: &str) -> Option<(usize, &str)> {
    let (number, register) = insn
        .strip_prefix("mov ")?
        .trim()
        .strip_prefix("$0x")?
        .split_once(",%")?;
    Some((usize::from_str_radix(number, 16).ok()?, register))
}

/// The named functions that differ, and those that only one of the objects has.
pub fn different(
    names: &[&str],
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    sources: &Sources,
) -> Vec<String> {
    names
        .iter()
        .filter_map(|n| match (old.get(*n), new.get(*n)) {
            (Some(a), Some(b)) if sources.same(a, b) => None,
            (Some(a), Some(b)) => Some(format!(
                "{n}: {} instructions in the base, {} with the series",
                a.lines().count(),
                b.lines().count()
            )),
            (None, None) => Some(format!("{n}: in neither object, so nothing is compared")),
            (None, _) => Some(format!("{n}: not in the base")),
            (_, None) => Some(format!("{n}: only in the base")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\nDisassembly of section .text:\n\n<f>:\n\tpush   %rbx\n\tcall   <f+0x5>\n\
                       \t\tR_X86_64_PLT32\tg-0x4\n\tlea    0x0(%rip),%rax        # <f+0x9>\n\
                       \t\tR_X86_64_PC32\t.rodata+0x10\n\tret\n\tnop\n<h>:\n\tret\n";

    #[test]
    fn where_data_lies_does_not_matter() {
        let old = parse(OLD);
        let new = parse(
            &OLD.replace(".rodata+0x10", ".rodata+0x50")
                .replace("<f+0x9>", "<f+0x8>"),
        );
        assert_eq!(old["f"].lines().count(), 6);
        assert_eq!(
            different(&["f", "h"], &old, &new, &Sources::default()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn another_instruction_or_callee_does() {
        let old = parse(OLD);
        for changed in [
            OLD.replace("%rbx", "%rbp"),
            OLD.replace("\tg-0x4", "\tk-0x4"),
        ] {
            assert_eq!(
                different(&["f", "h"], &old, &parse(&changed), &Sources::default()).len(),
                1
            );
        }
        assert_eq!(
            different(&["gone"], &old, &old, &Sources::default()).len(),
            1
        );
    }

    #[test]
    fn every_function_of_a_name_counts() {
        let two = |first: &str| parse(&format!("<f>:\n\t{first}\n\n<f>:\n\tret\n"));
        let differ = different(&["f"], &two("push"), &two("pop"), &Sources::default());
        assert_eq!(differ.len(), 1);
    }

    #[test]
    fn a_line_that_moved_is_the_same_line() {
        let sources = Sources::new("a\nb\n\n", "new\na\nb\n");
        let function = |n: &str, to: &str| parse(&format!("<f>:\n\tmov    $0x{n},%{to}\n"));
        let differ = |old, new| different(&["f"], &old, &new, &sources).len();
        assert_eq!(differ(function("2", "esi"), function("3", "esi")), 0);
        assert_eq!(differ(function("2", "esi"), function("2", "esi")), 0);
        assert_eq!(differ(function("2", "esi"), function("3", "edx")), 1);
        assert_eq!(differ(function("1", "esi"), function("3", "esi")), 1);
        assert_eq!(differ(function("3", "esi"), function("4", "esi")), 1);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{select, Index};

    fn object() -> impl Strategy<Value = Vec<Vec<String>>> {
        let insn = prop_oneof![
            select(&["ret", "push   %rbx", "call   <f+0x5>", "nopw   0x0(%rax)"][..])
                .prop_map(str::to_string),
            "mov    \\$0x[1-9],%e(si|dx)",
            "\tR_X86_64_PLT32\t[a-c]-0x4",
            "\tR_X86_64_PC32\t\\.rodata\\+0x[0-9]{2}",
        ];
        vec(vec(insn, 1..8), 1..5)
    }

    fn write(functions: &[Vec<String>]) -> String {
        let mut out = String::from(
            "\nx.o:     file format elf64-x86-64\n\n\nDisassembly of section .text:\n",
        );
        for (n, insns) in functions.iter().enumerate() {
            out.push_str(&format!("\n<f{n}>:\n"));
            insns.iter().for_each(|i| out.push_str(&format!("\t{i}\n")));
        }
        out
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn an_object_is_like_itself_in_any_order(mut functions in object()) {
            let one = parse(&write(&functions));
            prop_assert_eq!(one.len(), functions.len());
            let names: Vec<String> = one.keys().cloned().collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert!(different(&names, &one, &one, &Sources::default()).is_empty());
            functions.iter_mut().for_each(|f| f.push("nop".into()));
            let padded = parse(&write(&functions));
            prop_assert!(different(&names, &one, &padded, &Sources::default()).is_empty());
        }

        #[test]
        fn an_instruction_more_is_told(mut functions in object(), f in any::<Index>(), at in any::<Index>()) {
            let old = parse(&write(&functions));
            let f = f.index(functions.len());
            let at = at.index(functions[f].len() + 1);
            functions[f].insert(at, "lock incl (%rdi)".into());
            let new = parse(&write(&functions));
            let names: Vec<&str> = old.keys().map(String::as_str).collect();
            let told = different(&names, &old, &new, &Sources::default());
            prop_assert_eq!(told.len(), 1);
            let name = format!("f{f}:");
            prop_assert!(told[0].starts_with(&name));
        }

        #[test]
        fn noise_never_panics(a in noise(&["<f>:\n", "\tret\n", "R_", "mov $0x", ",%esi", " #", "nop"]), b in noise(&["a\n", "\n"])) {
            let parsed = parse(&a);
            let names: Vec<&str> = parsed.keys().map(String::as_str).collect();
            prop_assert!(different(&names, &parsed, &parsed, &Sources::new(&b, &a)).is_empty());
        }
    }
}
