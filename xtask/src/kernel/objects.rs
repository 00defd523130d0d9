// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a kernel build is, from the lines kbuild writes.

use std::path::Path;

/// Objects of a whole build when no earlier one tells.
const ABOUT: usize = 1900;

/// Counts objects as they are announced.
#[derive(Debug)]
pub struct Counter {
    built: usize,
    total: Option<usize>,
    whole: bool,
}

impl Counter {
    /// For a build directory: `present` objects are there already, `total` is what an earlier
    /// whole build counted, `whole` says whether this one is to build everything.
    pub fn new(present: usize, total: Option<usize>, whole: bool) -> Self {
        Counter {
            built: if whole { present } else { 0 },
            total,
            whole,
        }
    }

    /// Takes a line of output.
    pub fn line(&mut self, line: &str) {
        if is_object(line) {
            self.built += 1;
        }
    }

    /// Objects built.
    pub fn built(&self) -> usize {
        self.built
    }

    /// For the progress line.
    pub fn status(&self) -> String {
        match (self.whole, self.total) {
            (false, _) => format!("{} objects rebuilt", self.built),
            (true, Some(t)) => format!("{} of {} objects", self.built.min(t), t),
            (true, None) => format!("{} of about {} objects", self.built, ABOUT.max(self.built)),
        }
    }
}

/// Does this line of kbuild's announce an object file?
pub fn is_object(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let Some(tag) = words.next().filter(|_| line.starts_with("  ")) else {
        return false;
    };
    let object = words.next_back().is_some_and(|w| w.ends_with(".o"));
    object && matches!(tag, "CC" | "AS" | "RUSTC" | "LD" | "AR")
        || tag == "RUSTC" && line.contains(" L ")
}

/// Object files below a directory.
pub fn present(dir: &Path) -> usize {
    let mut count = 0;
    let mut todo = vec![dir.to_path_buf()];
    while let Some(d) = todo.pop() {
        for entry in std::fs::read_dir(d).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => todo.push(entry.path()),
                Ok(t) if t.is_file() => {
                    count += usize::from(entry.path().extension().is_some_and(|e| e == "o"));
                }
                _ => {}
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_lines_are_told_from_others() {
        assert!(is_object("  CC      mm/gup.o"));
        assert!(is_object("  AS      arch/x86/entry/entry_64.o"));
        assert!(is_object("  RUSTC L rust/core.o"));
        assert!(is_object("  LD      vmlinux.o"));
        for l in [
            "  GEN     x.o.cmd",
            "  HOSTCC  scripts/a",
            "mm/gup.c:1: warning: x.o",
            "",
        ] {
            assert!(!is_object(l), "{l}");
        }
    }

    #[test]
    fn a_whole_build_counts_against_a_total() {
        let mut c = Counter::new(10, Some(12), true);
        assert_eq!(c.status(), "10 of 12 objects");
        (0..5).for_each(|_| c.line("  CC      a.o"));
        assert_eq!(c.status(), "12 of 12 objects");
    }

    #[test]
    fn a_first_build_counts_against_an_estimate() {
        assert_eq!(
            Counter::new(0, None, true).status(),
            "0 of about 1900 objects"
        );
        assert_eq!(
            Counter::new(2000, None, true).status(),
            "2000 of about 2000 objects"
        );
    }

    #[test]
    fn a_partial_build_has_no_total() {
        let mut c = Counter::new(1900, Some(1900), false);
        c.line("  CC      a.o");
        assert_eq!(c.status(), "1 objects rebuilt");
    }
}
