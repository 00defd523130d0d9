// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the server asks its daemon about clients that had state before it was started
//! (`linux/nfsd/cld.h`): there were none. It then needs no grace period.

use crate::setup::mounted;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const PIPEFS: &str = "/tmp/rpc_pipefs";
const COMMAND: usize = 1;
const STATUS: std::ops::Range<usize> = 2..4;
const VERSION: usize = 8;
const GET_VERSION: u8 = 5;

/// Answers until it is dropped.
pub struct Recovery {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recovery {
    /// Waits for the server to be started.
    pub fn begin() -> anyhow::Result<Recovery> {
        std::fs::create_dir_all(PIPEFS)?;
        let pipe = mounted("rpc_pipefs", PIPEFS, "nfsd")?.join("nfsd/cld");
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || answer(&pipe, &told));
        Ok(Recovery {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(pipe: &Path, over: &AtomicBool) {
    let mut open = None;
    let mut message = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        let Some(file) = &mut open else {
            open = File::options().read(true).write(true).open(pipe).ok();
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        match file.read(&mut message) {
            Ok(0) => std::thread::sleep(Duration::from_millis(5)),
            Ok(length) => {
                agree(&mut message[..length]);
                // The server times out if this fails, and says so.
                let _ = file.write(&message[..length]);
            }
            // The server has ended; the next one has a pipe of its own.
            Err(_) => open = None,
        }
    }
}

/// Makes a question its answer.
fn agree(message: &mut [u8]) {
    if let Some(status) = message.get_mut(STATUS) {
        status.fill(0);
    }
    if message.get(COMMAND) == Some(&GET_VERSION) {
        if let Some(version) = message.get_mut(VERSION) {
            *version = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_to_everything_in_version_1() {
        let mut message = [2, GET_VERSION, 0xff, 0xff, 1, 2, 3, 4, 0, 0];
        agree(&mut message);
        assert_eq!(message, [2, GET_VERSION, 0, 0, 1, 2, 3, 4, 1, 0]);
        let mut message = [2, 0, 0xff, 0xff, 1, 2, 3, 4, 9, 9];
        agree(&mut message);
        assert_eq!(message, [2, 0, 0, 0, 1, 2, 3, 4, 9, 9]);
        agree(&mut []);
    }
}
