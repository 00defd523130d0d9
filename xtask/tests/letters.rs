// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cover letters in `Documentation/submission/` and the patches name the same things.

use std::fs;
use std::path::{Path, PathBuf};

fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// The subject of a mail, unfolded, without `[PATCH n/m]`.
fn subject(mail: &str) -> String {
    let (_, rest) = mail.split_once("\nSubject: ").unwrap();
    let mut lines = rest.lines();
    let mut subject = lines.next().unwrap().to_string();
    for more in lines.take_while(|line| line.starts_with(' ')) {
        subject += more;
    }
    subject.split_once("] ").unwrap().1.to_string()
}

/// Whoever adds or renames a patch, or moves it to another series, has a letter to change.
#[test]
fn each_patch_is_in_one_letter() {
    let letters: Vec<(PathBuf, String)> = files("Documentation/submission", "txt")
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    let patches = files("patches", "patch");
    assert!(!patches.is_empty());
    for patch in patches {
        let subject = subject(&fs::read_to_string(patch).unwrap());
        let named: Vec<&PathBuf> = letters
            .iter()
            .filter(|(_, text)| text.lines().any(|line| line.ends_with(&subject)))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(named.len(), 1, "\"{subject}\" is named in {named:?}");
    }
}

/// The first line is the subject: short enough with `[PATCH 00/15] ` before it.
#[test]
fn letters_are_mails() {
    let letters = files("Documentation/submission", "txt");
    assert!(!letters.is_empty());
    for path in letters {
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let subject = lines.next().unwrap();
        assert!(subject.len() <= 75, "{}: {subject}", path.display());
        assert_eq!(lines.next(), Some(""), "{}", path.display());
    }
}
