// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong, in words: one sentence for each errno of the contract.

use std::io;

/// Which call failed; the same errno means different things for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `fcntl(F_SETLEASE)` with `F_RDLCK` or `F_WRLCK`.
    Set,
    /// `fcntl(F_GETLEASE)`.
    Get,
    /// `fcntl(F_SETLEASE, F_UNLCK)`.
    Release,
}

impl Call {
    fn doing(self) -> &'static str {
        match self {
            Call::Set => "cannot take the lease",
            Call::Get => "cannot read the lease",
            Call::Release => "cannot release the lease",
        }
    }
}

/// A refused lease call.
///
/// | errno | meaning |
/// |---|---|
/// | `EINVAL` | not a regular file, bits that do not go together, leases switched off (`fs.leases-enable`), or a kernel without layout leases |
/// | `EOPNOTSUPP` | the inode is not DAX, or its filesystem or kind of inode takes no part |
/// | `EBADF` | an exclusive lease needs a description that is open for writing |
/// | `EACCES` | neither the file's owner nor `CAP_LEASE` |
/// | `EAGAIN` | somebody else's lease is in the way, or this one is being broken |
/// | `EBUSY` | the description already holds a plain (not layout) lease, or the other way round |
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} ({})", .call.doing(), self.explanation(), self.name())]
pub struct Error {
    call: Call,
    errno: i32,
}

impl Error {
    /// An error of `call` with this errno.
    #[must_use]
    pub fn new(call: Call, errno: i32) -> Self {
        Error { call, errno }
    }

    pub(crate) fn last(call: Call) -> Self {
        Error::new(call, io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// The errno as the kernel gave it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The call that was refused.
    #[must_use]
    pub fn call(&self) -> Call {
        self.call
    }

    /// What this errno means for this call, as one clause without a full stop.
    #[must_use]
    pub fn explanation(&self) -> &'static str {
        match (self.call, self.errno) {
            (Call::Set, libc::EINVAL) => {
                "this is not a regular file, the flags do not go together, leases are switched off \
                 (sysctl fs.leases-enable), or the running kernel has no layout leases"
            }
            (Call::Set, libc::EOPNOTSUPP) => {
                "the file is not on a DAX mount (or not a DAX inode), \
                 or its filesystem does not support layout leases for it"
            }
            (_, libc::EBADF) => {
                "an exclusive lease needs a file descriptor that is open, and open for writing"
            }
            (Call::Set, libc::EACCES) => {
                "only the owner of the file, or a process with CAP_LEASE, may lease it"
            }
            (Call::Set, libc::EAGAIN) => {
                "somebody else's lease on this file conflicts, or this one is being broken; \
                 try again when that one is gone"
            }
            (Call::Release, libc::EAGAIN) => "this descriptor holds no lease",
            (Call::Set, libc::EBUSY) => {
                "this open file already holds a lease of the other flavour \
                 (plain instead of layout, or layout instead of plain); release it first"
            }
            (Call::Set, libc::ENOLCK) => "the kernel has no room for another lease",
            (Call::Set, libc::EPERM) => "a security module forbids the lease",
            _ => "the kernel refused for a reason that has no place in the contract",
        }
    }

    /// The errno's name (`ETXTBSY`), or its number where it has none here.
    #[must_use]
    pub fn name(&self) -> String {
        let name = match self.errno {
            libc::EINVAL => "EINVAL",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EBADF => "EBADF",
            libc::EACCES => "EACCES",
            libc::EAGAIN => "EAGAIN",
            libc::EBUSY => "EBUSY",
            libc::ENOLCK => "ENOLCK",
            libc::EPERM => "EPERM",
            other => return format!("errno {other}"),
        };
        name.to_owned()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::from_raw_os_error(error.errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_call_the_reason_and_the_errno() {
        let text = Error::new(Call::Set, libc::EOPNOTSUPP).to_string();
        assert!(text.starts_with("cannot take the lease: "), "{text}");
        assert!(text.contains("DAX"), "{text}");
        assert!(text.ends_with("(EOPNOTSUPP)"), "{text}");
    }

    #[test]
    fn each_errno_of_the_contract_has_its_own_sentence() {
        let contract = [
            libc::EINVAL,
            libc::EOPNOTSUPP,
            libc::EBADF,
            libc::EACCES,
            libc::EAGAIN,
            libc::EBUSY,
        ];
        let sentences: std::collections::HashSet<_> = contract
            .iter()
            .map(|&errno| Error::new(Call::Set, errno).explanation())
            .collect();
        assert_eq!(sentences.len(), contract.len());
        assert_eq!(Error::new(Call::Get, 999).name(), "errno 999");
    }

    #[test]
    fn keeps_the_errno_as_an_io_error() {
        let error: io::Error = Error::new(Call::Set, libc::EBUSY).into();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }
}
