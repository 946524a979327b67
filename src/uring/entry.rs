//! An entry of a queue: the memory in which the kernel puts a request, and takes its answer from.
//!
//! The layout is that of `struct fuse_uring_req_header` (include/uapi/linux/fuse.h): 128 bytes for the header of the
//! request, and of the answer; 128 bytes for the operation's first argument; then how much of the payload is
//! in use. Names and data are in the payload, and so is what an answer says.

use crate::error::Errno;
use crate::fs::Call;
use crate::sys::{Pages, SysResult};
use crate::types::{NodeId, Tid};

/// Bytes of `struct fuse_uring_req_header`.
const HEADER: usize = 288;
/// Where the operation's first argument is.
const OP_IN: usize = 128;
/// Where `struct fuse_uring_ent_in_out` is.
const RING: usize = 256;
/// Payload of an answer that is delayed: there may be as many as entries.
const KEPT: usize = 16 << 10;

/// The memory of an entry. Where it lies never changes: the kernel knows it.
#[derive(Debug)]
pub(super) struct Entry {
    header: Box<[u8; HEADER]>,
    payload: Pages,
}

/// What every request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: NodeId,
    pub(super) call: Call,
}

/// The operation's first argument, field by field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Args([u8; OP_IN]);

impl Args {
    /// The 32-bit field at this offset.
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(&self.0, at)
    }

    /// The 64-bit field at this offset.
    pub(super) fn u64(&self, at: usize) -> u64 {
        u64_at(&self.0, at)
    }

    /// The same with a sign.
    pub(super) fn i32(&self, at: usize) -> i32 {
        self.u32(at).cast_signed()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into();
    u32::from_ne_bytes(field.expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..at + 8].try_into();
    u64::from_ne_bytes(field.expect("eight bytes"))
}

impl Entry {
    /// One with room for so many bytes of payload.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn new(payload: usize) -> SysResult<Entry> {
        Ok(Entry {
            header: Box::new([0; HEADER]),
            payload: Pages::new(payload)?,
        })
    }

    /// Gives back the memory of a large payload that nobody needs any more.
    pub(super) fn forget_input(&mut self) {
        if self.input().len() > KEPT {
            self.payload.clear();
        }
    }

    /// The two areas, as a registration has them.
    pub(super) fn areas(&mut self) -> [libc::iovec; 2] {
        [
            libc::iovec {
                iov_base: self.header.as_mut_ptr().cast(),
                iov_len: HEADER,
            },
            libc::iovec {
                iov_base: self.payload.as_mut_ptr().cast(),
                iov_len: self.payload.len(),
            },
        ]
    }

    /// The request that lies in it: `struct fuse_in_header`.
    pub(super) fn request(&self) -> Request {
        let header = &*self.header;
        Request {
            opcode: u32_at(header, 4),
            unique: u64_at(header, 8),
            node: NodeId(u64_at(header, 16)),
            call: Call {
                uid: u32_at(header, 24),
                gid: u32_at(header, 28),
                tid: Tid(u32_at(header, 32)),
                unique: u64_at(header, 8),
            },
        }
    }

    pub(super) fn args(&self) -> Args {
        let mut args = [0; OP_IN];
        args.copy_from_slice(&self.header[OP_IN..OP_IN + OP_IN]);
        Args(args)
    }

    /// What answers this request names it by.
    pub(super) fn commit_id(&self) -> u64 {
        u64_at(&*self.header, RING + 8)
    }

    /// What came with the request: names and data.
    pub(super) fn input(&self) -> &[u8] {
        let size = usize::try_from(u32_at(&*self.header, RING + 16)).unwrap_or(0);
        &self.payload[..size.min(self.payload.len())]
    }

    /// Where what the answer says goes.
    pub(super) fn output(&mut self) -> &mut [u8] {
        &mut self.payload
    }

    /// The answer: so many bytes of output, or an error (`struct fuse_out_header`).
    pub(super) fn answer(&mut self, unique: u64, result: SysResult<usize>) {
        let (size, error) = match result {
            Ok(size) => (size.min(self.payload.len()), 0),
            Err(errno) => (0, -errno.raw()),
        };
        let size = u32::try_from(size).unwrap_or(0);
        let header = &mut *self.header;
        header[..4].copy_from_slice(&(size + 16).to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..16].copy_from_slice(&unique.to_ne_bytes());
        header[RING + 16..RING + 20].copy_from_slice(&size.to_ne_bytes());
    }
}

/// The NUL-terminated name at the beginning of `bytes`, and what is behind it.
///
/// # Errors
/// `EINVAL` where there is none.
pub(super) fn split_name(bytes: &[u8]) -> SysResult<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let end = end.ok_or(Errno::EINVAL)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_answer_put_where_the_kernel_looks() {
        let mut entry = Entry::new(8192).unwrap();
        let fields = [(4, 15u32), (24, 1000), (28, 100), (32, 4711)];
        for (at, value) in fields {
            entry.header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        entry.header[8..16].copy_from_slice(&77u64.to_ne_bytes());
        entry.header[16..24].copy_from_slice(&5u64.to_ne_bytes());
        entry.header[OP_IN + 8..OP_IN + 16].copy_from_slice(&4096u64.to_ne_bytes());
        entry.header[RING + 8..RING + 16].copy_from_slice(&99u64.to_ne_bytes());
        entry.header[RING + 16..RING + 20].copy_from_slice(&6u32.to_ne_bytes());
        entry.payload[..6].copy_from_slice(b"name\0x");
        let request = entry.request();
        assert_eq!((request.opcode, request.unique), (15, 77));
        assert_eq!(request.node, NodeId(5));
        assert_eq!(request.call.tid, Tid(4711));
        assert_eq!((request.call.uid, request.call.gid), (1000, 100));
        assert_eq!(entry.args().u64(8), 4096);
        assert_eq!(entry.commit_id(), 99);
        let (name, rest) = split_name(entry.input()).unwrap();
        assert_eq!((name, rest), (&b"name"[..], &b"x"[..]));
        entry.answer(77, Ok(100));
        assert_eq!(u32_at(&*entry.header, 0), 116);
        assert_eq!(u32_at(&*entry.header, 4), 0);
        assert_eq!(u32_at(&*entry.header, RING + 16), 100);
        entry.answer(77, Err(Errno::ENOSPC));
        assert_eq!(u32_at(&*entry.header, 4).cast_signed(), -libc::ENOSPC);
        assert_eq!(u32_at(&*entry.header, RING + 16), 0);
        assert_eq!(split_name(b"no end"), Err(Errno::EINVAL));
    }
}
