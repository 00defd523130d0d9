// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says, from now on.

use anyhow::{bail, Context};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// `/dev/kmsg`, behind what was there when it was opened.
pub struct Kmsg {
    file: File,
    seen: Vec<String>,
}

impl Kmsg {
    /// Begins to listen.
    pub fn from_now() -> anyhow::Result<Kmsg> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("open /dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        let seen = Vec::new();
        Ok(Kmsg { file, seen })
    }

    /// All lines so far.
    pub fn lines(&mut self) -> anyhow::Result<&[String]> {
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&record[..count]);
                    let line = text.split_once(';').map_or("", |(_, line)| line);
                    let line = line.lines().next().unwrap_or_default();
                    self.seen.push(line.to_owned());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(&self.seen),
                // Overwritten before it could be read: go on with what is left.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("read /dev/kmsg"),
            }
        }
    }

    /// Waits until there is a line with all these words in it.
    pub fn wait_for(&mut self, words: &[&str], time: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + time;
        loop {
            let lines = self.lines()?;
            let found = lines
                .iter()
                .find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return Ok(line.clone());
            }
            if Instant::now() > deadline {
                bail!("the kernel does not say {words:?} within {time:?}, but {lines:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
