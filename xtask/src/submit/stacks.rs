// SPDX-License-Identifier: MIT OR Apache-2.0
//! `patches/stacks.toml`: how the series is cut into parts that are sent one after the other.

use super::commits::Commit;
use crate::error::{Failure, Kind};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file in `patches/`.
pub const FILE: &str = "stacks.toml";
/// More patches than this at once are too many for a reader.
pub const MOST: usize = 15;

/// A part of the series, sent as a series of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// A short name, for the command line and for branches.
    pub name: String,
    /// The subject of its first patch; it ends before the first patch of the next.
    pub first: String,
    /// The file with its cover letter: the first line is the subject.
    pub cover: PathBuf,
    /// What the versions of this part have in common, as b4 makes it up.
    pub change_id: String,
    /// Which version comes next.
    pub revision: u32,
    /// The parts without which it does not apply, those excepted that they name themselves.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Why it has more patches than are good for a reader.
    pub long: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    stack: Vec<Stack>,
}

/// Reads the file.
pub fn read(path: &Path) -> Result<Vec<Stack>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map_err(|e| {
        Failure::of(
            Kind::Usage,
            format!("{} is not valid: {e:#}", path.display()),
        )
    })
}

fn parse(text: &str) -> Result<Vec<Stack>> {
    let stacks = toml::from_str::<Document>(text)?.stack;
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut ids: BTreeSet<&str> = BTreeSet::new();
    for s in &stacks {
        let plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        anyhow::ensure!(
            !s.name.is_empty() && s.name.chars().all(plain),
            "{:?} is no name: lower-case letters, digits, - and _ are",
            s.name
        );
        for n in &s.needs {
            anyhow::ensure!(
                names.contains(n.as_str()),
                "{} needs {n}, which is not before it",
                s.name
            );
        }
        anyhow::ensure!(names.insert(&s.name), "{} is there twice", s.name);
        let id_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        anyhow::ensure!(
            s.change_id.len() > 8 && s.change_id.chars().all(id_plain),
            "{}: {:?} is no change-id",
            s.name,
            s.change_id
        );
        anyhow::ensure!(ids.insert(&s.change_id), "{} is there twice", s.change_id);
        anyhow::ensure!(s.revision > 0, "{}: versions begin with 1", s.name);
    }
    Ok(stacks)
}

/// A stack with its patches.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What the file says.
    pub stack: &'a Stack,
    /// Its commits.
    pub commits: &'a [Commit],
}

/// Cuts the series. All that is wrong is told at once.
pub fn cut<'a>(stacks: &'a [Stack], commits: &'a [Commit]) -> Result<Vec<Part<'a>>> {
    let mut wrong = vec![];
    let mut starts = vec![];
    for s in stacks {
        let at: Vec<usize> = commits
            .iter()
            .enumerate()
            .filter(|(_, c)| c.subject == s.first)
            .map(|(i, _)| i)
            .collect();
        match at[..] {
            [i] => starts.push(i),
            [] => wrong.push(format!(
                "{}: no patch has the subject {:?}",
                s.name, s.first
            )),
            _ => wrong.push(format!("{}: several patches are {:?}", s.name, s.first)),
        }
    }
    if wrong.is_empty() {
        if starts.first() != Some(&0) {
            wrong.push("the first stack does not begin with the first patch".into());
        }
        for (i, w) in starts.windows(2).enumerate() {
            if w[0] >= w[1] {
                let (a, b) = (&stacks[i].name, &stacks[i + 1].name);
                wrong.push(format!("{b} begins before {a} in the series"));
            }
        }
    }
    let mut parts = vec![];
    if wrong.is_empty() {
        for (i, s) in stacks.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(commits.len());
            let commits = &commits[starts[i]..end];
            if commits.len() > MOST && s.long.is_none() {
                wrong.push(format!(
                    "{} has {} patches, {MOST} are enough",
                    s.name,
                    commits.len()
                ));
            }
            parts.push(Part { stack: s, commits });
        }
    }
    if wrong.is_empty() {
        return Ok(parts);
    }
    Err(Failure::of(
        Kind::Test,
        format!(
            "patches/{FILE} does not fit the series:\n  {}",
            wrong.join("\n  ")
        ),
    ))
}

/// The names of everything a stack needs, directly or not, in the order of the file.
pub fn needed(stacks: &[Stack], name: &str) -> Vec<String> {
    let mut wanted: BTreeSet<&str> = BTreeSet::from([name]);
    // What is needed comes earlier, so one pass from the end sees all.
    for s in stacks.iter().rev() {
        if wanted.contains(s.name.as_str()) {
            wanted.extend(s.needs.iter().map(String::as_str));
        }
    }
    stacks
        .iter()
        .filter(|s| s.name != name && wanted.contains(s.name.as_str()))
        .map(|s| s.name.clone())
        .collect()
}

/// A cover letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Its subject.
    pub subject: String,
    /// What follows.
    pub body: String,
}

/// The cover letters; the files that are missing or say nothing are told together.
pub fn covers(root: &Path, parts: &[&Part]) -> Result<Vec<Cover>> {
    let mut out = vec![];
    let mut wrong = vec![];
    for p in parts {
        let path = root.join(&p.stack.cover);
        match std::fs::read_to_string(&path) {
            Ok(text) => match cover(&text) {
                Ok(c) => out.push(c),
                Err(e) => wrong.push(format!("{}: {e}", path.display())),
            },
            Err(e) => wrong.push(format!("{}: {e}", path.display())),
        }
    }
    if wrong.is_empty() {
        return Ok(out);
    }
    Err(Failure::of(
        Kind::Setup,
        format!(
            "cover letters are missing (patches/{FILE} names them; plain text, the first line is \
             the subject):\n  {}",
            wrong.join("\n  ")
        ),
    ))
}

/// Takes the text of the file apart. A comment at its head is not part of the letter.
fn cover(text: &str) -> Result<Cover, String> {
    let mut lines = text
        .lines()
        .skip_while(|l| l.trim().is_empty() || l.starts_with("<!--"));
    let subject = lines.next().unwrap_or_default();
    let subject = subject.trim_start_matches("# ").trim().to_string();
    let body = lines.collect::<Vec<_>>().join("\n").trim().to_string();
    if subject.is_empty() || body.is_empty() {
        return Err("a subject and a text are wanted".into());
    }
    if subject.chars().count() > 75 {
        return Err("the subject has more than 75 columns".into());
    }
    Ok(Cover { subject, body })
}

#[cfg(test)]
mod tests {
    use super::super::commits::tests::commit;
    use super::*;

    fn file(parts: &[(&str, &str, &str)]) -> String {
        let part = |(name, first, needs): &(&str, &str, &str)| {
            format!(
                "[[stack]]\nname = {name:?}\nfirst = {first:?}\ncover = \"x.md\"\n\
                 change_id = \"20261122-{name}-0123456789ab\"\nrevision = 1\nneeds = [{needs}]\n"
            )
        };
        parts.iter().map(part).collect()
    }

    #[test]
    fn the_series_is_cut_at_the_first_patches() {
        let c = ["a", "b", "c", "d"].iter().enumerate();
        let c: Vec<_> = c.map(|(i, s)| commit(i + 1, s, "")).collect();
        let s = parse(&file(&[("one", "a", ""), ("two", "c", "\"one\"")])).unwrap();
        let parts = cut(&s, &c).unwrap();
        let sizes: Vec<_> = parts.iter().map(|p| p.commits.len()).collect();
        assert_eq!(sizes, [2, 2]);
        let e = |f: &[(&str, &str, &str)]| {
            let s = parse(&file(f)).unwrap();
            cut(&s, &c).unwrap_err().to_string()
        };
        assert!(e(&[("one", "b", "")]).contains("does not begin with the first patch"));
        assert!(e(&[("one", "a", ""), ("two", "x", "")]).contains("no patch has the subject"));
        let wrong_order = [("one", "a", ""), ("two", "d", ""), ("three", "b", "")];
        assert!(e(&wrong_order).contains("three begins before two"));
    }

    #[test]
    fn too_many_patches_are_refused() {
        let c: Vec<_> = (1..=16).map(|n| commit(n, &format!("s{n}"), "")).collect();
        let s = parse(&file(&[("one", "s1", "")])).unwrap();
        let e = cut(&s, &c).unwrap_err().to_string();
        assert!(e.contains("one has 16 patches"), "{e}");
        let s = parse(&(file(&[("one", "s1", "")]) + "long = \"each for itself\"\n")).unwrap();
        assert_eq!(cut(&s, &c).unwrap()[0].commits.len(), 16);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse(&file(&[("one", "a", "\"two\""), ("two", "b", "")])).is_err());
        assert!(parse(&file(&[("one", "a", ""), ("one", "b", "")])).is_err());
        assert!(parse(&file(&[("One two", "a", "")])).is_err());
    }

    #[test]
    fn needs_are_followed() {
        let s = parse(&file(&[
            ("a", "a", ""),
            ("b", "b", ""),
            ("c", "c", "\"b\""),
            ("d", "d", "\"c\""),
        ]))
        .unwrap();
        assert_eq!(needed(&s, "d"), ["b", "c"]);
        assert!(needed(&s, "b").is_empty());
    }

    #[test]
    fn a_cover_letter_is_taken_apart() {
        let c =
            cover("<!-- SPDX-License-Identifier: x -->\n\n# mm: pins\n\nText.\n\nMore.\n").unwrap();
        assert_eq!(c.subject, "mm: pins");
        assert_eq!(c.body, "Text.\n\nMore.");
        assert!(cover("only a subject\n").is_err());
    }

    #[test]
    fn missing_letters_are_told_together() {
        let s = parse(&file(&[("one", "a", ""), ("two", "b", "")])).unwrap();
        let c = [commit(1, "a", ""), commit(2, "b", "")];
        let parts = cut(&s, &c).unwrap();
        let parts: Vec<&Part> = parts.iter().collect();
        let e = covers(Path::new("/nowhere"), &parts)
            .unwrap_err()
            .to_string();
        assert_eq!(e.matches("/nowhere/x.md").count(), 2, "{e}");
    }

    /// The subject of a patch file: the header may go on over several lines.
    fn subject(patch: &str) -> String {
        let mut lines = patch.lines().skip_while(|l| !l.starts_with("Subject: "));
        let mut out = lines.next().unwrap().to_string();
        for l in lines.take_while(|l| l.starts_with(' ')) {
            out.push_str(l);
        }
        out.split_once("] ").unwrap().1.to_string()
    }

    #[test]
    fn the_committed_file_fits_the_committed_patches() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../patches");
        let stacks = read(&dir.join(FILE)).unwrap();
        let list = std::fs::read_to_string(dir.join("series")).unwrap();
        let commits: Vec<_> = crate::kernel::series::parse_list(&list)
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let bytes = std::fs::read(dir.join(name)).unwrap();
                commit(i + 1, &subject(&String::from_utf8_lossy(&bytes)), "")
            })
            .collect();
        let parts = cut(&stacks, &commits).unwrap();
        assert_eq!(
            parts.iter().map(|p| p.commits.len()).sum::<usize>(),
            commits.len()
        );
    }
}

#[cfg(test)]
mod properties {
    use super::super::commits::tests::commit;
    use super::cut as cut_up;
    use super::*;
    use crate::properties::{config, cut, noise};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// Lengths of parts, and for each pair whether the later one needs the earlier.
    fn stacks() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<bool>>)> {
        vec(1usize..5, 1..5).prop_flat_map(|sizes| {
            let n = sizes.len();
            (Just(sizes), vec(vec(any::<bool>(), n), n))
        })
    }

    fn write(sizes: &[usize], needs: &[Vec<bool>]) -> (String, Vec<Commit>) {
        let (mut text, mut commits) = (String::new(), vec![]);
        for (n, size) in sizes.iter().enumerate() {
            let named: Vec<String> = (0..n)
                .filter(|m| needs[n][*m])
                .map(|m| format!("s{m}"))
                .collect();
            text.push_str(&format!(
                "[[stack]]\nname = \"s{n}\"\nfirst = \"x: p{}\"\ncover = \"c\"\n\
                 change_id = \"20260101-{n}-0123456789ab\"\nrevision = 1\nneeds = {named:?}\n",
                commits.len()
            ));
            for _ in 0..*size {
                let number = commits.len();
                commits.push(commit(number + 1, &format!("x: p{number}"), ""));
            }
        }
        (text, commits)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn parts_make_up_the_series((sizes, needs) in stacks()) {
            let (text, commits) = write(&sizes, &needs);
            let stacks = parse(&text).unwrap();
            let parts = cut_up(&stacks, &commits).unwrap();
            prop_assert_eq!(parts.iter().map(|p| p.commits.len()).collect::<Vec<_>>(), sizes);
            let together: Vec<Commit> = parts.iter().flat_map(|p| p.commits.to_vec()).collect();
            prop_assert_eq!(together, commits);
        }

        #[test]
        fn what_is_needed_is_complete_and_in_order((sizes, needs) in stacks()) {
            let stacks = parse(&write(&sizes, &needs).0).unwrap();
            for stack in &stacks {
                let all = needed(&stacks, &stack.name);
                prop_assert!(!all.contains(&stack.name));
                prop_assert!(all.is_sorted());
                for name in stack.needs.iter().chain(&all) {
                    prop_assert!(all.contains(name));
                    prop_assert!(needed(&stacks, name).iter().all(|n| all.contains(n)));
                }
            }
        }

        #[test]
        fn a_series_with_another_first_patch_does_not_fit((sizes, needs) in stacks(), at in any::<Index>()) {
            let (text, mut commits) = write(&sizes, &needs);
            let stacks = parse(&text).unwrap();
            let first = &stacks[at.index(stacks.len())].first;
            commits.retain(|c| c.subject != *first);
            prop_assert!(cut_up(&stacks, &commits).is_err());
        }

        #[test]
        fn noise_never_panics(
            (sizes, needs) in stacks(),
            at in any::<Index>(),
            text in noise(&["[[stack]]\n", "name = \"a\"\n", "# x", "<!--", "-->", "needs = [", "revision = 0"]),
        ) {
            let _ = parse(&text);
            let _ = parse(cut(&write(&sizes, &needs).0, at));
            if let Ok(letter) = cover(&text) {
                prop_assert!(!letter.subject.is_empty() && !letter.body.is_empty());
            }
        }
    }
}
