// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions by the uverbs interface itself, on any descriptor of a uverbs file.
//!
//! The verbs library belongs to the process that opened the device. What a process does with a descriptor
//! that it was sent, inherited or kept through exec has to do without it.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Which driver a uverbs file is of; `RDMA_DRIVER_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Soft-RoCE.
    Rxe = 14,
    /// Soft-iWARP.
    Siw = 18,
}

/// What to do with a uverbs file, which goes by the name `file`. Mappings go by theirs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Opens the character device with these flags and makes the user context.
    Context {
        file: String,
        path: PathBuf,
        driver: Driver,
        flags: i32,
    },
    /// A protection domain: value is its handle.
    Pd { file: String, driver: Driver },
    /// A memory region: value is its handle.
    Reg {
        file: String,
        driver: Driver,
        pd: u32,
        map: String,
        offset: u64,
        length: u64,
        access: u32,
        /// Have the kernel put its answer where nothing is mapped: it registers, and cannot tell.
        #[serde(default)]
        lost: bool,
    },
    /// Changes access or protection domain of a memory region, or its memory.
    Rereg {
        file: String,
        driver: Driver,
        mr: u32,
        flags: u32,
        pd: u32,
        map: String,
        offset: u64,
        length: u64,
        access: u32,
    },
    /// Deregisters a memory region.
    Dereg {
        file: String,
        driver: Driver,
        mr: u32,
    },
    /// Sends a descriptor over a socket and closes it: only the message holds it then.
    Post { file: String, socket: String },
    /// Receives it, and closes the socket.
    Receive { socket: String, file: String },
    /// `setrlimit(RLIMIT_MEMLOCK)`.
    Memlock { bytes: u64 },
}

/// `IB_MR_REREG_TRANS`.
pub const REREG_TRANS: u32 = 1;
/// `IB_MR_REREG_PD`.
pub const REREG_PD: u32 = 2;
/// `IB_MR_REREG_ACCESS`.
pub const REREG_ACCESS: u32 = 4;

/// `RDMA_VERBS_IOCTL`.
const IOCTL: libc::c_ulong = 0xc018_1b01;
const CORE_IN: u16 = 0;
const CORE_OUT: u16 = 1;
const WRITE_CMD: u16 = 2;
const UHW_IN: u16 = 0x1000;
const UHW_OUT: u16 = 0x1001;
const MANDATORY: u16 = 1;
const HEADER: u16 = 24;
const ATTRIBUTE: u16 = 16;

/// `UVERBS_METHOD_INVOKE_WRITE`: carries out a command of the write interface.
const INVOKE_WRITE: u16 = 0;
/// `UVERBS_METHOD_GET_CONTEXT`.
const GET_CONTEXT: u16 = 3;

/// Commands of the write interface.
#[derive(Clone, Copy)]
enum Command {
    AllocPd = 3,
    RegMr = 9,
    ReregMr = 11,
    DeregMr = 13,
}

/// `struct ib_uverbs_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attribute {
    id: u16,
    length: u16,
    flags: u16,
    reserved: u16,
    data: u64,
}

impl Attribute {
    fn new(id: u16, length: usize, data: u64) -> Attribute {
        Attribute {
            id,
            length: u16::try_from(length).unwrap_or(u16::MAX),
            flags: MANDATORY,
            reserved: 0,
            data,
        }
    }
}

/// `struct ib_uverbs_ioctl_hdr`, and room for attributes. The object is `UVERBS_OBJECT_DEVICE`, 0.
#[repr(C)]
struct Invocation {
    length: u16,
    object: u16,
    method: u16,
    attributes: u16,
    reserved1: u64,
    driver: u32,
    reserved2: u32,
    attribute: [Attribute; 5],
}

/// Input and output of a command, in 32-bit words.
struct Io<'a> {
    input: &'a [u32],
    output: &'a mut [u32],
    /// Where the output goes instead.
    nowhere: bool,
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// Has the kernel carry out a command of the write interface.
fn invoke(fd: BorrowedFd, driver: Driver, command: Command, io: Io) -> Result<(), Errno> {
    // Short input is part of the attribute.
    let input = match *io.input {
        [one] => u64::from(one),
        [one, two] => u64::from(one) | u64::from(two) << 32,
        _ => io.input.as_ptr() as u64,
    };
    let output = match io.nowhere {
        true => 8,
        false => io.output.as_mut_ptr() as u64,
    };
    call(
        fd,
        driver,
        INVOKE_WRITE,
        &[
            Attribute::new(WRITE_CMD, 8, command as u64),
            Attribute::new(CORE_IN, std::mem::size_of_val(io.input), input),
            Attribute::new(CORE_OUT, std::mem::size_of_val(io.output), output),
        ],
    )
}

/// Calls a method with these attributes, and input and output for the driver. Pointers in the
/// attributes must be of what they say.
fn call(
    fd: BorrowedFd,
    driver: Driver,
    method: u16,
    attributes: &[Attribute],
) -> Result<(), Errno> {
    let mut driver_output = [0_u64; 2];
    // Both drivers take zeros, and siw wants them.
    let for_driver = [
        Attribute::new(UHW_IN, 8, 0),
        Attribute::new(UHW_OUT, 16, driver_output.as_mut_ptr() as u64),
    ];
    let mut all = [Attribute::default(); 5];
    let mut number = 0;
    for (place, attribute) in all.iter_mut().zip(attributes.iter().chain(&for_driver)) {
        *place = *attribute;
        number += 1;
    }
    let mut invocation = Invocation {
        length: HEADER + number * ATTRIBUTE,
        object: 0,
        method,
        attributes: number,
        reserved1: 0,
        driver: driver as u32,
        reserved2: 0,
        attribute: all,
    };
    // SAFETY: the kernel reads the invocation and the input, and writes to the outputs at most what
    // their attributes say; all of them outlive the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL as _, &raw mut invocation) };
    if result < 0 {
        return Err(last());
    }
    Ok(())
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Opens the device and makes the user context.
pub fn context(path: &Path, driver: Driver, flags: i32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path ends in NUL and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | flags) };
    if fd < 0 {
        return Err(last());
    }
    // SAFETY: just opened, and nobody else knows the number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    call(as_fd(&fd), driver, GET_CONTEXT, &[])?;
    Ok(fd)
}

fn as_fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// A protection domain: its handle.
pub fn pd(fd: BorrowedFd, driver: Driver) -> Result<u32, Errno> {
    let mut output = [0];
    let io = Io {
        input: &[0, 0],
        output: &mut output,
        nowhere: false,
    };
    invoke(fd, driver, Command::AllocPd, io)?;
    Ok(output[0])
}

/// What to register: address, length, protection domain, access.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Address in this process.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Handle of the protection domain.
    pub pd: u32,
    /// Access flags.
    pub access: u32,
}

/// A memory region: its handle. With `lost` the kernel cannot answer.
pub fn reg(fd: BorrowedFd, driver: Driver, region: Region, lost: bool) -> Result<u32, Errno> {
    let mut output = [0; 3];
    let Region { start, length, .. } = region;
    let input = [
        0,
        0,
        low(start),
        high(start),
        low(length),
        high(length),
        low(start),
        high(start),
        region.pd,
        region.access,
    ];
    let io = Io {
        input: &input,
        output: &mut output,
        nowhere: lost,
    };
    invoke(fd, driver, Command::RegMr, io)?;
    Ok(output[0])
}

/// Changes what `flags` say of a memory region.
pub fn rereg(
    fd: BorrowedFd,
    driver: Driver,
    mr: u32,
    flags: u32,
    region: Region,
) -> Result<(), Errno> {
    let mut output = [0; 2];
    let Region { start, length, .. } = region;
    let input = [
        0,
        0,
        mr,
        flags,
        low(start),
        high(start),
        low(length),
        high(length),
        low(start),
        high(start),
        region.pd,
        region.access,
    ];
    let io = Io {
        input: &input,
        output: &mut output,
        nowhere: false,
    };
    invoke(fd, driver, Command::ReregMr, io)
}

/// Deregisters a memory region.
pub fn dereg(fd: BorrowedFd, driver: Driver, mr: u32) -> Result<(), Errno> {
    let io = Io {
        input: &[mr],
        output: &mut [],
        nowhere: false,
    };
    invoke(fd, driver, Command::DeregMr, io)
}

/// A socket with a message that holds the descriptor.
pub fn post(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    use rustix::net::{
        sendmsg, socketpair, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, SocketType,
    };
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::empty(),
        None,
    )?;
    let fds = [as_fd(&fd)];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&fds));
    let data = [std::io::IoSlice::new(b"f")];
    sendmsg(&near, &data, &mut message, SendFlags::empty())?;
    Ok(far)
}

/// The descriptor out of the message.
pub fn receive(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut data, &mut message, RecvFlags::empty())?;
    for part in message.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part {
            return fds.next().ok_or(Errno::NOMSG);
        }
    }
    Err(Errno::NOMSG)
}

/// Limits the memory that this process may have pinned.
pub fn memlock(bytes: u64) -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the limit outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) } < 0 {
        return Err(last());
    }
    Ok(())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn invocation_is_as_the_kernel_has_it() {
        assert_eq!(std::mem::size_of::<Attribute>(), usize::from(ATTRIBUTE));
        let whole = usize::from(HEADER + 5 * ATTRIBUTE);
        assert_eq!(std::mem::size_of::<Invocation>(), whole);
    }

    #[test]
    fn descriptors_come_out_of_the_message() {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, b"here").unwrap();
        let socket = post(file.into()).unwrap();
        let again = std::fs::File::from(receive(&socket).unwrap());
        assert_eq!(again.metadata().unwrap().len(), 4);
        assert!(rustix::net::recv(
            &socket,
            &mut [0_u8; 1][..],
            rustix::net::RecvFlags::DONTWAIT
        )
        .is_err());
    }
}
