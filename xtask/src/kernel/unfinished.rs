// SPDX-License-Identifier: MIT OR Apache-2.0
//! What make leaves in a build directory when it is killed together with its compilers.
//!
//! kbuild compiles into the final name and then writes down, in `.NAME.cmd`, how. When an object is
//! made anew and everything is killed in between, the object is new and the file still says what it
//! said: make takes the half of an object for one. A mark tells that a build was begun and has not
//! come to its end; then such objects are removed, and so are such files as are not whole.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// The mark, in the build directory.
const MARK: &str = ".xtask-building";

/// To be called before make: repairs what the last build left, and sets the mark.
pub fn begin(dir: &Path) -> Result<()> {
    let mark = dir.join(MARK);
    if let Ok(since) = fs::metadata(&mark).and_then(|m| m.modified()) {
        repair(dir, since)?;
    }
    fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
}

/// To be called when make has succeeded.
pub fn end(dir: &Path) -> Result<()> {
    let mark = dir.join(MARK);
    fs::remove_file(&mark).with_context(|| format!("cannot remove {}", mark.display()))
}

/// Removes the targets that were made since then and have not been written down, and what was
/// written down in part.
fn repair(dir: &Path, since: SystemTime) -> Result<()> {
    let cannot = |path: &Path| format!("cannot look through {}", path.display());
    for entry in fs::read_dir(dir).with_context(|| cannot(dir))? {
        let entry = entry.with_context(|| cannot(dir))?;
        let path = entry.path();
        let kind = entry.file_type().with_context(|| cannot(&path))?;
        if kind.is_dir() {
            repair(&path, since)?;
            continue;
        }
        let changed = entry.metadata().and_then(|m| m.modified());
        let changed = changed.with_context(|| cannot(&path))?;
        if !kind.is_file() || changed < since {
            continue;
        }
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let wrong = if name.starts_with('.') && name.ends_with(".cmd") {
            !is_whole(name, &fs::read_to_string(&path).unwrap_or_default())
        } else {
            let command = dir.join(format!(".{name}.cmd"));
            let written = fs::metadata(command).and_then(|m| m.modified());
            written.is_ok_and(|written| written < changed)
        };
        if wrong {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Does a `.cmd` file have all that is written into it? For an object that is what it depends on, at
/// the end; one that was linked has only a command, and is linked again.
fn is_whole(name: &str, text: &str) -> bool {
    text.ends_with('\n') && (!name.ends_with(".o.cmd") || text.contains("\n$(deps_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const WRITTEN: &str = "savedcmd_a.o := gcc -c -o a.o a.c\n\nsource_a.o := a.c\n\n\
                           deps_a.o := \\\n  a.h \\\n\na.o: $(deps_a.o)\n\n$(deps_a.o):\n";

    #[test]
    fn a_command_that_was_cut_off_is_not_whole() {
        assert!(is_whole(".a.o.cmd", WRITTEN));
        assert!(is_whole(".a.a.cmd", "savedcmd_a.a := ar cDPrsT a.a\n"));
        for at in 0..WRITTEN.len() {
            assert!(!is_whole(".a.o.cmd", &WRITTEN[..at]), "{at}");
        }
    }

    #[test]
    fn what_make_was_killed_at_is_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("fs");
        fs::create_dir(&dir).unwrap();
        let start = SystemTime::now() - Duration::from_secs(1000);
        let write = |name: &str, text: &str, second: u64| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(start + Duration::from_secs(second))
                .unwrap();
        };
        // Of an earlier build; done in the one that was killed; half done in it, for the second
        // time and for the first; written down in part.
        write("old.o", "x", 1);
        write(".old.o.cmd", WRITTEN, 2);
        write("done.o", "x", 20);
        write(".done.o.cmd", WRITTEN, 21);
        write("half.o", "x", 22);
        write(".half.o.cmd", WRITTEN, 2);
        write("first.o", "x", 22);
        write("part.o", "x", 22);
        write(".part.o.cmd", &WRITTEN[..70], 23);
        write("plain.txt", "x", 22);
        let names = || {
            let entries = fs::read_dir(&dir).unwrap().flatten();
            let mut names: Vec<String> = entries
                .map(|e| e.file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let all = names();
        begin(tmp.path()).unwrap();
        assert_eq!(names(), all, "there was no mark");
        let mark = fs::File::options().append(true).open(tmp.path().join(MARK));
        mark.unwrap()
            .set_modified(start + Duration::from_secs(10))
            .unwrap();
        begin(tmp.path()).unwrap();
        let mut left = all;
        left.retain(|n| n != "half.o" && n != ".part.o.cmd");
        assert_eq!(names(), left);
        end(tmp.path()).unwrap();
        write("half.o", "x", 22);
        begin(tmp.path()).unwrap();
        assert!(dir.join("half.o").exists());
    }
}
