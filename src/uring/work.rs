//! What a request may wait for: so that the thread of a queue, which waits for nothing, knows what to give away.

use super::entry::{Entry, Request};
use super::wire::{op, valid};
use crate::fs::{Fs, Ready};
use crate::types::Fh;

/// What a request waits for, as far as can be told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing but memory.
    Memory,
    /// SOURCE's filesystem, for what it has in memory (names, attributes, its page cache): not at all, unless it is slow.
    Source,
    /// SOURCE's disk, or other programs, for who knows how long.
    Long,
}

impl From<Ready> for Work {
    fn from(ready: Ready) -> Work {
        match ready {
            Ready::Now => Work::Memory,
            Ready::BySource => Work::Source,
            Ready::Later => Work::Long,
        }
    }
}

/// What this request waits for.
pub(super) fn work(fs: &Fs, request: &Request, entry: &Entry) -> Work {
    let args = entry.args();
    let fh = Fh(args.u64(0));
    let long = match request.opcode {
        op::READ => {
            return fs
                .can_read(fh, args.u64(8), args.u32(16).into(), args.i32(32))
                .into();
        }
        op::WRITE => return fs.can_write(fh, args.i32(32)).into(),
        op::FLUSH => return fs.can_flush(fh).into(),
        op::LSEEK => return fs.can_seek(fh).into(),
        op::RENAME | op::RENAME2 => return fs.can_rename().into(),
        op::RELEASE | op::RELEASEDIR => false,
        op::SETATTR if args.u32(0) & valid::SIZE != 0 => true,
        op::OPEN if args.i32(0) & libc::O_TRUNC != 0 => true,
        op::FSYNC
        | op::FSYNCDIR
        | op::FALLOCATE
        | op::COPY_FILE_RANGE
        | op::COPY_FILE_RANGE_64
        | op::IOCTL => true,
        _ => return Work::Source,
    };
    if long { Work::Long } else { Work::Memory }
}
