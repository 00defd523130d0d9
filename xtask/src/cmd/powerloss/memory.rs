// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a machine outlives a power loss: its nvdimms and the ledger, which are files here.

use crate::env::cache::{require_space, Cache};
use anyhow::{ensure, Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes of an nvdimm. Small, for each power loss leaves a copy.
const NVDIMM: u64 = 64 << 20;
/// Bytes of the ledger; QEMU wants a power of two.
const LEDGER: u64 = 4 << 20;
/// The order of these files is that of the devices.
const FILES: [(&str, u64); 3] = [("xfs", NVDIMM), ("ext4", NVDIMM), ("ledger", LEDGER)];
/// Space for the memories of both machines and the copies under way.
const SPACE: u64 = 1 << 30;

/// Words in the ledger; `tools/guest/src/powerloss/ledger.rs` says what they are.
const MAGIC: (u64, u64) = (0, 0x5245_4744_454c_5750);
const ROUND: u64 = 8;
const ORDER: u64 = 16;

/// The files, in a directory that goes on drop.
pub struct Memory {
    dir: TempDir,
}

impl Memory {
    /// Empty memory.
    pub fn new(cache: &Cache) -> Result<Memory> {
        cache.create()?;
        require_space(&cache.dir, SPACE, "what is copied after power losses")?;
        let memory = Memory {
            dir: cache.temp_dir()?,
        };
        for (name, size) in FILES {
            let path = memory.file(name);
            File::create_new(&path)
                .and_then(|file| file.set_len(size))
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(memory)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Arguments for QEMU, by which a machine has the memory in a directory.
    pub fn qemu(dir: &Path) -> Vec<String> {
        // The machine has to have room for nvdimms beside its memory.
        let mut words: Vec<String> = ["-machine", "nvdimm=on", "-m", "slots=2,maxmem=4G"]
            .map(String::from)
            .to_vec();
        for (n, (name, size)) in FILES.iter().enumerate() {
            words.push("-object".into());
            words.push(format!(
                "memory-backend-file,id=kept{n},share=on,mem-path={},size={size}",
                dir.join(name).display()
            ));
            words.push("-device".into());
            words.push(match *name {
                "ledger" => format!("ivshmem-plain,memdev=kept{n}"),
                _ => format!("nvdimm,id=nvdimm{n},memdev=kept{n}"),
            });
        }
        words
    }

    /// The round of work that is under way; 0 for none.
    pub fn round(&self) -> Result<u64> {
        let file = File::open(self.file("ledger"))?;
        let word = |at| -> Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_le_bytes(bytes))
        };
        if word(MAGIC.0)? == MAGIC.1 {
            word(ROUND)
        } else {
            Ok(0)
        }
    }

    /// Tells the machine that checks to look at what is there now.
    pub fn order(&self, order: u64) -> Result<()> {
        let file = File::options().write(true).open(self.file("ledger"))?;
        file.write_all_at(&order.to_le_bytes(), ORDER)
            .context("cannot write to the ledger")
    }

    /// A copy of all of it.
    pub fn copied(&self, cache: &Cache) -> Result<Memory> {
        let copy = Memory::new(cache)?;
        copy.load(self.dir.path())?;
        Ok(copy)
    }

    /// Puts there what another memory holds.
    pub fn load_from(&self, other: &Memory) -> Result<()> {
        self.load(other.dir.path())
    }

    /// The same for the nvdimms only.
    pub fn load_nvdimms_from(&self, other: &Memory) -> Result<()> {
        let names = FILES.iter().filter(|(name, _)| *name != "ledger");
        names
            .into_iter()
            .try_for_each(|(name, size)| put(&other.file(name), &self.file(name), *size))
    }

    /// Puts there what was kept in a directory.
    pub fn load(&self, from: &Path) -> Result<()> {
        FILES
            .iter()
            .try_for_each(|(name, size)| put(&from.join(name), &self.file(name), *size))
    }

    /// Keeps it in a directory.
    pub fn keep(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, _) in FILES {
            let to = dir.join(name);
            fs::copy(self.file(name), &to)
                .with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }
}

/// Writes over a file that a machine has mapped: it must not get shorter meanwhile, as by `fs::copy`.
fn put(from: &Path, to: &Path, size: u64) -> Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let mut source = File::open(from).with_context(context)?;
    let length = source.metadata().with_context(context)?.len();
    ensure!(
        length == size,
        "{} has {length} bytes, and should have {size}",
        from.display()
    );
    let mut target = File::options().write(true).open(to).with_context(context)?;
    std::io::copy(&mut source, &mut target).with_context(context)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache {
            dir: dir.path().into(),
        };
        (dir, cache)
    }

    fn write(memory: &Memory, name: &str, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(memory.file(name)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    #[test]
    fn the_round_is_read() {
        let (_dir, cache) = cache();
        let memory = Memory::new(&cache).unwrap();
        assert_eq!(memory.round().unwrap(), 0);
        write(&memory, "ledger", ROUND, &7_u64.to_le_bytes());
        assert_eq!(memory.round().unwrap(), 0, "without magic");
        write(&memory, "ledger", 0, &MAGIC.1.to_le_bytes());
        assert_eq!(memory.round().unwrap(), 7);
        memory.order(9).unwrap();
        assert_eq!(memory.round().unwrap(), 7);
    }

    #[test]
    fn copies_are_whole_and_their_own() {
        let (dir, cache) = cache();
        let memory = Memory::new(&cache).unwrap();
        write(&memory, "ext4", 12345, b"one");
        let copy = memory.copied(&cache).unwrap();
        write(&memory, "ext4", 12345, b"two");
        let kept = dir.path().join("point-1");
        copy.keep(&kept).unwrap();
        drop(copy);
        let other = Memory::new(&cache).unwrap();
        other.load(&kept).unwrap();
        let read = |memory: &Memory| fs::read(memory.file("ext4")).unwrap();
        assert_eq!(&read(&other)[12345..12348], b"one");
        assert_eq!(read(&other).len() as u64, NVDIMM);
        other.load_nvdimms_from(&memory).unwrap();
        assert_eq!(&read(&other)[12345..12348], b"two");
        File::create(kept.join("xfs")).unwrap();
        let error = other.load(&kept).unwrap_err().to_string();
        assert!(error.contains("has 0 bytes"), "{error}");
    }

    #[test]
    fn memory_is_shared_with_the_files() {
        let words = Memory::qemu(Path::new("/kept"));
        let objects = words.iter().filter(|w| w.contains("share=on")).count();
        assert_eq!(objects, 3);
        assert!(words.contains(&"ivshmem-plain,memdev=kept2".to_string()));
    }
}
