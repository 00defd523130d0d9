// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mutants/list.toml`: what each mutant breaks, and which tests have to notice.

use crate::env::Ctx;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;

/// The name that stands for the kernel as it is.
pub const CONTROL: &str = "none";

/// A filesystem of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fs {
    /// XFS
    Xfs,
    /// ext4
    Ext4,
}

impl Fs {
    /// As the guest's programs call it.
    pub fn name(self) -> &'static str {
        match self {
            Fs::Xfs => "xfs",
            Fs::Ext4 => "ext4",
        }
    }
}

fn both() -> Vec<Fs> {
    vec![Fs::Xfs, Fs::Ext4]
}

/// A hook that is taken out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// As the kernel's command line has it.
    pub name: String,
    /// What is wrong then, in a sentence.
    pub breaks: String,
    /// On which filesystems it is tried.
    #[serde(default = "both")]
    pub fs: Vec<Fs>,
    /// Tests of the contract that have to notice: for each of these globs, one test at least.
    #[serde(default)]
    pub contract: Vec<String>,
    /// The same of the kernel's selftests: programs.
    #[serde(default)]
    pub kselftest: Vec<String>,
}

/// All of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    #[serde(rename = "mutant")]
    pub mutants: Vec<Mutant>,
}

impl List {
    /// Reads the file.
    pub fn read(ctx: &Ctx) -> Result<List> {
        let path = ctx.root.join("mutants/list.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text)
            .map_err(|e| Failure::of(Kind::Usage, format!("{}: {e}", path.display())))
    }

    /// Those of these names, or all; on one filesystem, if that is wanted.
    pub fn choose(&self, names: &[String], fs: Option<Fs>) -> Result<Vec<Mutant>> {
        let known = |name: &&String| !self.mutants.iter().any(|m| m.name == **name);
        if let Some(name) = names.iter().find(known) {
            return Err(Failure::of(
                Kind::Usage,
                format!("there is no mutant {name:?} (cargo xtask mutants --list)"),
            ));
        }
        let mut chosen = self.mutants.clone();
        chosen.retain(|m| names.is_empty() || names.contains(&m.name));
        if let Some(fs) = fs {
            chosen.retain(|m| m.fs.contains(&fs));
            chosen.iter_mut().for_each(|m| m.fs = vec![fs]);
        }
        Ok(chosen)
    }
}

/// All tests of these mutants, to be run with every hook in its place.
pub fn control(mutants: &[Mutant]) -> Mutant {
    let none = Mutant {
        name: CONTROL.into(),
        breaks: "nothing".into(),
        fs: vec![],
        contract: vec![],
        kselftest: vec![],
    };
    mutants.iter().fold(none, |all, m| union(&all, m))
}

/// The first one with the tests of the other as well.
pub fn union(one: &Mutant, other: &Mutant) -> Mutant {
    fn add<T: Clone + PartialEq>(to: &mut Vec<T>, from: &[T]) {
        for item in from {
            if !to.contains(item) {
                to.push(item.clone());
            }
        }
    }
    let mut all = one.clone();
    add(&mut all.fs, &other.fs);
    add(&mut all.contract, &other.contract);
    add(&mut all.kselftest, &other.kselftest);
    all
}

/// Does a test's name match? `*` stands for anything.
pub fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::hooks;
    use std::collections::BTreeSet;

    fn ctx() -> Ctx {
        Ctx::new(crate::cli::Global::default()).unwrap()
    }

    #[test]
    fn the_list_and_the_patch_have_the_same_mutants() {
        let ctx = ctx();
        let patch = fs::read_to_string(hooks(&ctx)).unwrap();
        let known: BTreeSet<&str> = patch
            .lines()
            .filter_map(|l| l.strip_prefix("+\tm("))
            .filter_map(|l| l.split(')').next())
            .filter(|name| *name != CONTROL)
            .collect();
        let list = List::read(&ctx).unwrap();
        let listed: BTreeSet<&str> = list.mutants.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(known, listed);
        assert_eq!(list.mutants.len(), listed.len(), "a name is there twice");
        for name in known {
            let hook = format!("file_pin_mutant({name})");
            let in_rust = format!("mutant(c\"{name}\")");
            assert!(
                patch.contains(&hook) || patch.contains(&in_rust),
                "{name} has no hook"
            );
        }
    }

    #[test]
    fn somebody_has_to_notice() {
        for m in List::read(&ctx()).unwrap().mutants {
            let tests = m.contract.len() + m.kselftest.len();
            assert!(tests > 0 && !m.fs.is_empty(), "{}: no tests", m.name);
            assert!(m.breaks.ends_with('.'), "{}: no sentence", m.name);
        }
    }

    #[test]
    fn one_filesystem_can_be_chosen() {
        let list: List = toml::from_str(
            "[[mutant]]\nname = 'a'\nbreaks = 'A.'\nfs = ['ext4']\ncontract = ['x.*', 'y']\n\
             [[mutant]]\nname = 'b'\nbreaks = 'B.'\ncontract = ['x.*']\nkselftest = ['p']\n",
        )
        .unwrap();
        let names = |c: &[Mutant]| c.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&list.choose(&[], None).unwrap()), ["a", "b"]);
        let xfs = list.choose(&[], Some(Fs::Xfs)).unwrap();
        assert_eq!(names(&xfs), ["b"]);
        assert_eq!(xfs[0].fs, [Fs::Xfs]);
        assert!(list.choose(&["c".into()], None).is_err());
        let all = control(&list.mutants);
        assert_eq!(all.fs, [Fs::Ext4, Fs::Xfs]);
        assert_eq!(all.contract, ["x.*", "y"]);
        assert_eq!(all.kselftest, ["p"]);
    }

    #[test]
    fn globs() {
        assert!(matches("layout.*.pinned.*", "layout.xfs.pinned.punch"));
        assert!(!matches(
            "layout.*.pinned.*",
            "layout.xfs.pinned_behind.punch"
        ));
        assert!(matches("lease.xfs.conflicts", "lease.xfs.conflicts"));
        assert!(!matches("lease.xfs.conflict", "lease.xfs.conflicts"));
        assert!(matches("*", "") && matches("a*a", "aa") && !matches("a*a", "a"));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::properties::{config, cut, glob, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{subsequence, Index};

    fn mutants() -> impl Strategy<Value = Vec<Mutant>> {
        let globs = || vec("[a-c.*]{1,4}", 0..3);
        let mutant = (subsequence(both(), 1..=2), globs(), globs());
        vec(mutant, 1..5).prop_map(|all| {
            let named = all.into_iter().enumerate();
            named
                .map(|(n, (fs, contract, kselftest))| Mutant {
                    name: format!("m{n}"),
                    breaks: "It breaks.".into(),
                    fs,
                    contract,
                    kselftest,
                })
                .collect()
        })
    }

    fn write(mutants: &[Mutant]) -> String {
        let mut out = String::new();
        for m in mutants {
            let fs: Vec<&str> = m.fs.iter().map(|f| f.name()).collect();
            out.push_str(&format!(
                "[[mutant]]\nname = {:?}\nbreaks = {:?}\nfs = {fs:?}\ncontract = {:?}\nkselftest = {:?}\n",
                m.name, m.breaks, m.contract, m.kselftest
            ));
        }
        out
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn a_list_is_read_back(mutants in mutants()) {
            let list: List = toml::from_str(&write(&mutants)).unwrap();
            prop_assert_eq!(&list.mutants, &mutants);
            prop_assert_eq!(&list.choose(&[], None).unwrap(), &mutants);
            for fs in both() {
                let chosen = list.choose(&[], Some(fs)).unwrap();
                prop_assert_eq!(chosen.len(), mutants.iter().filter(|m| m.fs.contains(&fs)).count());
            }
        }

        #[test]
        fn a_mutant_more_changes_nothing_that_is_there(mutants in mutants()) {
            let all = control(&mutants);
            for m in &mutants {
                prop_assert_eq!(&union(&all, m), &all);
                prop_assert!(m.contract.iter().all(|g| all.contract.contains(g)));
                prop_assert!(m.kselftest.iter().all(|p| all.kselftest.contains(p)));
                prop_assert!(m.fs.iter().all(|f| all.fs.contains(f)));
            }
        }

        #[test]
        fn globs_mean_what_they_mean_elsewhere(pattern in "[ab*]{0,6}", name in "[abä]{0,7}") {
            prop_assert_eq!(matches(&pattern, &name), glob(&pattern, &name));
        }

        #[test]
        fn noise_never_panics(
            mutants in mutants(),
            at in any::<Index>(),
            text in noise(&["[[mutant]]\n", "name = ", "\"", "fs = [\"xfs\"]\n", "contract"]),
        ) {
            let _ = toml::from_str::<List>(&text);
            let _ = toml::from_str::<List>(cut(&write(&mutants), at));
            matches(&text, &text);
        }
    }
}
