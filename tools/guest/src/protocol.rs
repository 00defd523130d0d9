// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver asks of a process that takes part in a scenario: one JSON object a line each way.
//!
//! Two programs understand it: `guest worker` (Rust, see `worker.rs`) and the verbs client
//! (`verbs_client.py`), which adds memory regions and RDMA. Whoever is asked does everything *itself*:
//! that is how a lease's holder, and a process that is not, come to try the same thing.

use crate::rings::RingCall;
use crate::uverbs::Verb;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One system call of a layout change (or of an additive change), with its arguments.
///
/// Files are opened by path first, read-write; only the call itself is timed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    Ftruncate {
        path: PathBuf,
        size: u64,
        /// More flags for opening the file.
        #[serde(default)]
        flags: i32,
    },
    Truncate {
        path: PathBuf,
        size: u64,
    },
    OpenTruncate {
        path: PathBuf,
    },
    Fallocate {
        path: PathBuf,
        mode: u32,
        offset: u64,
        length: u64,
        #[serde(default)]
        flags: i32,
    },
    CloneRange {
        from: PathBuf,
        from_offset: u64,
        length: u64,
        to: PathBuf,
        to_offset: u64,
        #[serde(default)]
        flags: i32,
    },
    /// `copy_file_range(2)` from the start of one file to the start of another.
    CopyRange {
        from: PathBuf,
        to: PathBuf,
        length: u64,
    },
    Pwrite {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
    /// `swapon(2)`.
    Swapon {
        path: PathBuf,
    },
    Ioctl(Ioctl),
}

/// `ioctl(2)` on a file, with a structure; see `ioctls.rs` for those there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioctl {
    pub path: PathBuf,
    pub request: u64,
    /// The structure's bytes.
    pub argument: Vec<u8>,
    /// Other files, opened like this one, whose descriptors go into the structure.
    pub others: Vec<Descriptor>,
    /// Where in the structure the kernel leaves an errno, negative.
    pub status: Option<usize>,
    /// More flags for opening the files.
    #[serde(default)]
    pub flags: i32,
}

/// A descriptor in a structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    pub path: PathBuf,
    /// Its first byte in the structure.
    pub at: usize,
    /// How many bytes it has.
    pub width: usize,
}

impl Call {
    /// The same on descriptions opened with O_NONBLOCK; `None` for a call that takes a path.
    pub fn nonblocking(mut self) -> Option<Call> {
        match &mut self {
            Call::Ftruncate { flags, .. }
            | Call::Fallocate { flags, .. }
            | Call::CloneRange { flags, .. }
            | Call::Ioctl(Ioctl { flags, .. }) => *flags |= libc::O_NONBLOCK,
            Call::Truncate { .. }
            | Call::OpenTruncate { .. }
            | Call::CopyRange { .. }
            | Call::Pwrite { .. }
            | Call::Swapon { .. } => return None,
        }
        Some(self)
    }
}

/// A request. Files, mappings and memory regions go by names the driver chooses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    Open {
        name: String,
        path: PathBuf,
        flags: i32,
    },
    Close {
        name: String,
    },
    /// A second descriptor for the same open file description.
    Dup {
        name: String,
        new: String,
    },
    /// The number of a descriptor is the value.
    Number {
        name: String,
    },
    /// A copy of a descriptor of another process (`pidfd_getfd`): what SCM_RIGHTS would give.
    Take {
        pid: u32,
        fd: i32,
        name: String,
    },
    /// `fcntl(F_SETLEASE)` with this very argument.
    SetLease {
        name: String,
        argument: i32,
    },
    GetLease {
        name: String,
    },
    /// `fcntl(F_SETSIG)`.
    SetSignal {
        name: String,
        signal: i32,
    },
    /// `mmap`: of a file, or anonymous. `inside` places it over part of an earlier mapping.
    Map {
        map: String,
        name: Option<String>,
        offset: u64,
        length: u64,
        prot: i32,
        flags: i32,
        inside: Option<(String, u64)>,
    },
    Unmap {
        map: String,
    },
    /// Writes the pattern of `seed` into a mapping.
    Fill {
        map: String,
        offset: u64,
        length: u64,
        seed: u32,
    },
    /// Whether a mapping holds the pattern of `seed`: value 1 or 0.
    Compare {
        map: String,
        offset: u64,
        length: u64,
        seed: u32,
    },
    Fsync {
        name: String,
    },
    /// Moves a mapping to another address.
    Remap {
        map: String,
    },
    /// `write(2)` with O_DIRECT from part of a mapping to the beginning of a device or file.
    DirectWrite {
        map: String,
        offset: u64,
        length: u64,
        path: PathBuf,
    },
    /// `vmsplice(2)` of part of a mapping into a pipe: descriptors `<name>.read` and `<name>.write`.
    Splice {
        map: String,
        offset: u64,
        length: u64,
        name: String,
    },
    Do(Call),
    /// Pins part of a mapping in the name of an open gup_test file; workers only.
    GupPin {
        name: String,
        map: String,
        offset: u64,
        length: u64,
        write: bool,
    },
    /// Lets go of all that the file has pinned.
    GupUnpin {
        name: String,
    },
    /// Something about a ring of io_uring; workers only.
    Ring(RingCall),
    /// Something with a uverbs file, without the verbs library.
    Verbs(Verb),
    /// Registers part of a mapping as a memory region.
    Reg {
        mr: String,
        map: String,
        offset: u64,
        length: u64,
        access: u32,
    },
    Dereg {
        mr: String,
    },
    /// Allocates a memory window of type 2.
    Window {
        mw: String,
    },
    /// Binds a window to all of a region, which must have been registered for that.
    Bind {
        mw: String,
        mr: String,
    },
    DropWindow {
        mw: String,
    },
    /// RDMA WRITE from the start of one region to the start of another, over the RoCE device.
    RdmaWrite {
        from: String,
        to: String,
        length: u64,
    },
    /// The same again and again in the background, until `StreamStop`, whose value is the bytes sent.
    Stream {
        from: String,
        to: String,
        length: u64,
    },
    StreamStop,
    /// Sends the uverbs descriptor to a UNIX socket, without anybody to take it out.
    SendOwner {
        socket: PathBuf,
    },
    /// That many child processes, each with an uverbs file of its own, that register one piece of the
    /// mapping each and leave. Value is how many could.
    Swarm {
        map: String,
        length: u64,
        processes: u32,
    },
    /// Keeps others from tracing this process, and from looking into it (`PR_SET_DUMPABLE`).
    Undumpable,
    /// Reports a page of a mapping as broken hardware (`MADV_HWPOISON`).
    Poison {
        map: String,
        offset: u64,
        length: u64,
    },
    /// Waits for a signal: value is its number, 0 when none came.
    WaitSignal {
        signal: i32,
        milliseconds: u64,
    },
    /// Gives up root for good.
    SetUid {
        uid: u32,
    },
    /// Forks a child that sleeps with copies of every descriptor: value is its pid.
    Fork,
    /// Execs this program again, descriptors (and their names) kept.
    Exec,
    /// Lets go of everything: regions, mappings, descriptors.
    Reset,
    Exit,
}

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// 0 for success.
    #[serde(default)]
    pub errno: i32,
    /// How long the call itself took.
    #[serde(default)]
    pub ns: u64,
    /// What the call returned, where that says something.
    #[serde(default)]
    pub value: i64,
    /// What went wrong, for people.
    #[serde(default)]
    pub text: String,
}

impl Reply {
    /// An error the protocol itself is to blame for.
    pub fn broken(text: impl Into<String>) -> Self {
        Reply {
            errno: libc::EPROTO,
            text: text.into(),
            ..Reply::default()
        }
    }
}

/// The bytes every party writes and expects: 64-bit little-endian words, seed above, index below.
pub fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 8);
    let mut word = u64::from(seed) << 32;
    while out.len() < length {
        out.extend_from_slice(&word.to_le_bytes());
        word += 1;
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_flat_objects() {
        let request = Request::Do(Call::OpenTruncate {
            path: "/a b".into(),
        });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"cmd":"do","call":"open_truncate","path":"/a b"}"#);
        assert!(serde_json::from_str::<Request>(&text).is_ok());
    }

    #[test]
    fn pattern_has_the_seed_and_the_index() {
        let bytes = pattern(0x0102_0304, 20);
        assert_eq!(bytes.len(), 20);
        assert_eq!(&bytes[8..16], &[1, 0, 0, 0, 4, 3, 2, 1]);
    }
}
