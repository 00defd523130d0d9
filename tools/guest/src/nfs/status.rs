// SPDX-License-Identifier: MIT OR Apache-2.0
//! Status codes of NFSv4.1 (RFC 8881, section 15.1).

use std::fmt;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// Success.
    pub const OK: Status = Status(0);
    /// Input/output error.
    pub const IO: Status = Status(5);
    /// Try again later.
    pub const DELAY: Status = Status(10008);
    /// The file has no layout for the client: use the server.
    pub const LAYOUT_UNAVAILABLE: Status = Status(10059);
    /// A layout is being recalled: return it first.
    pub const RECALL_CONFLICT: Status = Status(10061);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Status::OK => "NFS4_OK",
            Status::IO => "NFS4ERR_IO",
            Status::DELAY => "NFS4ERR_DELAY",
            Status::LAYOUT_UNAVAILABLE => "NFS4ERR_LAYOUTUNAVAILABLE",
            Status::RECALL_CONFLICT => "NFS4ERR_RECALLCONFLICT",
            Status(other) => return write!(f, "NFS status {other}"),
        })
    }
}
