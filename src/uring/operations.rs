//! The requests, one by one: arguments out of an entry, the call, the answer into it.
//!
//! The layout of arguments is that of include/uapi/linux/fuse.h.

use std::os::unix::ffi::OsStrExt;

use super::entry::{Args, Entry, Request, split_name};
use super::out::{Out, name};
use super::wire::{
    COPY_MAX, FSYNC_FDATASYNC, OPENED, READ_LOCKOWNER, WRITE_CACHE, WRITE_KILL_SUIDGID, op, valid,
};
use crate::error::Errno;
use crate::fs::{
    Answer, Attr, Fs, KernelCache, Listing, NewAttrs, NewEntry, Promise, ReadFrom, ReadHow,
    WriteFrom, WriteHow,
};
use crate::sys::{SyncKind, SysResult, TimeSet};
use crate::types::{Fh, NodeId};

/// What became of a request.
pub(super) enum Done {
    /// Its answer is in the entry.
    Answered,
    /// It comes: the bytes that a write has taken.
    Later(Promise<usize>),
}

/// Whether a request goes on with what was opened before.
pub(super) fn goes_on(request: &Request) -> bool {
    matches!(
        request.opcode,
        op::READ
            | op::WRITE
            | op::RELEASE
            | op::FLUSH
            | op::FSYNC
            | op::READDIR
            | op::READDIRPLUS
            | op::RELEASEDIR
            | op::FSYNCDIR
    )
}

/// Performs a request. Afterwards the entry has its answer, unless that comes later.
pub(super) fn perform(fs: &Fs, request: &Request, entry: &mut Entry) -> Done {
    let result = match request.opcode {
        op::WRITE => match write(fs, request, entry) {
            Answer::Now(written) => written.map(|count| written_out(entry, count)),
            Answer::Later(promise) => return Done::Later(promise),
        },
        _ => answer(fs, request, entry),
    };
    entry.answer(request.unique, result);
    Done::Answered
}

/// The answer of a write that came later.
pub(super) fn answer_written(request: &Request, entry: &mut Entry, written: SysResult<usize>) {
    let result = written.map(|count| written_out(entry, count));
    entry.answer(request.unique, result);
}

/// `struct fuse_write_out`.
fn written_out(entry: &mut Entry, count: usize) -> usize {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Out::new(entry.output()).u32(count).u32(0).len()
}

fn answer(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    match request.opcode {
        op::READ => read(fs, request, entry),
        op::FLUSH | op::RELEASE | op::FSYNC | op::RELEASEDIR | op::FSYNCDIR | op::FALLOCATE => {
            of_handle(fs, request, entry).map(|()| 0)
        }
        op::OPEN | op::OPENDIR | op::CREATE | op::TMPFILE => opened(fs, request, entry),
        op::GETATTR | op::STATX | op::SETATTR => attributes(fs, request, entry),
        op::LOOKUP | op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK => named(fs, request, entry),
        op::UNLINK | op::RMDIR | op::RENAME | op::RENAME2 => {
            unnamed(fs, request, entry).map(|()| 0)
        }
        op::READDIR | op::READDIRPLUS => listed(fs, request, entry),
        op::GETXATTR | op::LISTXATTR | op::SETXATTR | op::REMOVEXATTR => xattr(fs, request, entry),
        op::LSEEK | op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 | op::IOCTL => {
            extents(fs, request, entry)
        }
        op::READLINK => {
            let target = fs.readlink(&request.call, request.node)?;
            Ok(Out::new(entry.output()).bytes(target.as_bytes()).len())
        }
        op::ACCESS => {
            let mask = entry.args().i32(0);
            fs.access(&request.call, request.node, mask).map(|()| 0)
        }
        op::STATFS => {
            let found = fs.statfs(&request.call, request.node)?;
            Ok(Out::new(entry.output()).statfs(&found).len())
        }
        // Among them poll: regular files are always ready; so answered, the kernel says so itself from then on.
        _ => Err(Errno::ENOSYS),
    }
}

/// `struct fuse_read_in`. On a direct_io file the kernel names the lock owner of a call, and none of its own
/// reads (fs/fuse/file.c fuse_send_read()).
fn read(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let args = entry.args();
    let from = match args.u32(20) & READ_LOCKOWNER {
        0 => ReadFrom::PageCache,
        _ => ReadFrom::Call,
    };
    let flags = args.i32(32);
    let size = size_of(args.u32(16)).min(entry.output().len());
    let into = &mut entry.output()[..size];
    let how = ReadHow { flags, from };
    fs.read(&request.call, Fh(args.u64(0)), args.u64(8), into, how)
}

/// `struct fuse_write_in`.
fn write(fs: &Fs, request: &Request, entry: &Entry) -> Answer<usize> {
    let args = entry.args();
    let from = match args.u32(20) {
        flags if flags & WRITE_CACHE != 0 => WriteFrom::Mapping,
        flags if flags & WRITE_KILL_SUIDGID != 0 => WriteFrom::CallClearingSetId,
        _ => WriteFrom::Call,
    };
    let flags = args.i32(32);
    let how = WriteHow { flags, from };
    fs.write(
        &request.call,
        Fh(args.u64(0)),
        args.u64(8),
        entry.input(),
        how,
    )
}

fn of_handle(fs: &Fs, request: &Request, entry: &Entry) -> SysResult<()> {
    let (args, call) = (entry.args(), &request.call);
    let fh = Fh(args.u64(0));
    let kind = match args.u32(8) & FSYNC_FDATASYNC {
        0 => SyncKind::All,
        _ => SyncKind::Data,
    };
    match request.opcode {
        op::FLUSH => fs.flush(call, fh),
        op::RELEASE => fs.release(call, fh),
        op::FSYNC => fs.fsync(call, fh, kind),
        op::RELEASEDIR => fs.releasedir(call, fh),
        op::FSYNCDIR => fs.fsyncdir(call, fh, kind),
        _ => fs.fallocate(call, fh, args.i32(24), args.u64(8), args.u64(16)),
    }
}

/// `struct fuse_open_in` and `struct fuse_create_in`; answered with `struct fuse_open_out`.
fn opened(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let (args, call) = (entry.args(), &request.call);
    let flags = args.i32(0);
    let (attr, fh, open_flags) = match request.opcode {
        op::OPEN => (None, fs.open(call, request.node, flags)?, open_flags(fs)),
        op::OPENDIR => (None, fs.opendir(call, request.node, flags)?, 0),
        _ => {
            let (bytes, _) = split_name(entry.input())?;
            let new = NewEntry {
                mode: args.u32(4),
                umask: args.u32(8),
            };
            let (attr, fh) = match request.opcode {
                // The name is the kernel's own, for itself.
                op::TMPFILE => fs.tmpfile(call, request.node, flags, new)?,
                _ => fs.create(call, request.node, name(bytes), flags, new)?,
            };
            (Some(attr), fh, open_flags(fs))
        }
    };
    let mut out = Out::new(entry.output());
    if let Some(attr) = attr {
        out.entry_out(&attr, fs.lifetimes(&attr));
    }
    Ok(out.u64(fh.0).u32(open_flags).u32(0).len())
}

/// How the kernel treats what was opened.
fn open_flags(fs: &Fs) -> u32 {
    match fs.kernel_cache() {
        KernelCache::Off => OPENED,
        KernelCache::Read | KernelCache::WriteBack => 0,
    }
}

fn attributes(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let args = entry.args();
    let attr: Attr = match request.opcode {
        op::SETATTR => {
            let fh = (args.u32(0) & valid::FH != 0).then(|| Fh(args.u64(8)));
            fs.setattr(&request.call, request.node, fh, new_attrs(&args))?
        }
        _ => fs.getattr(&request.call, request.node)?,
    };
    let mut out = Out::new(entry.output());
    Ok(match request.opcode {
        op::STATX => out.statx_out(&attr).len(),
        _ => out.attr_out(&attr, fs.lifetimes(&attr).attr).len(),
    })
}

fn new_attrs(args: &Args) -> NewAttrs {
    let given = |bit: u32| args.u32(0) & bit != 0;
    let time = |set: u32, now: u32, seconds: usize, nanos: usize| {
        if given(now) {
            TimeSet::Now
        } else if given(set) {
            TimeSet::At(args.u64(seconds).cast_signed(), args.u32(nanos))
        } else {
            TimeSet::Keep
        }
    };
    NewAttrs {
        mode: given(valid::MODE).then(|| args.u32(68)),
        uid: given(valid::UID).then(|| args.u32(76)),
        gid: given(valid::GID).then(|| args.u32(80)),
        size: given(valid::SIZE).then(|| args.u64(16)),
        atime: time(valid::ATIME, valid::ATIME_NOW, 32, 56),
        mtime: time(valid::MTIME, valid::MTIME_NOW, 40, 60),
    }
}

/// What makes a name, or finds what it leads to.
fn named(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let (args, call, node) = (entry.args(), &request.call, request.node);
    let (bytes, rest) = split_name(entry.input())?;
    let bytes = name(bytes);
    let attr = match request.opcode {
        op::LOOKUP => fs.lookup(call, node, bytes),
        op::MKNOD => {
            let new = NewEntry {
                mode: args.u32(0),
                umask: args.u32(8),
            };
            fs.mknod(call, node, bytes, new, args.u32(4).into())
        }
        op::MKDIR => {
            let new = NewEntry {
                mode: args.u32(0),
                umask: args.u32(4),
            };
            fs.mkdir(call, node, bytes, new)
        }
        op::SYMLINK => {
            let (target, _) = split_name(rest)?;
            fs.symlink(call, node, bytes, name(target))
        }
        _ => fs.link(call, NodeId(args.u64(0)), node, bytes),
    }?;
    let mut out = Out::new(entry.output());
    Ok(out.entry_out(&attr, fs.lifetimes(&attr)).len())
}

fn unnamed(fs: &Fs, request: &Request, entry: &Entry) -> SysResult<()> {
    let (args, call, node) = (entry.args(), &request.call, request.node);
    let (bytes, rest) = split_name(entry.input())?;
    let bytes = name(bytes);
    let rename = |flags: u32| {
        let (new, _) = split_name(rest)?;
        let to = (NodeId(args.u64(0)), name(new));
        fs.rename(call, (node, bytes), to, flags)
    };
    match request.opcode {
        op::UNLINK => fs.unlink(call, node, bytes),
        op::RMDIR => fs.rmdir(call, node, bytes),
        op::RENAME => rename(0),
        _ => rename(args.u32(8)),
    }
}

/// `struct fuse_read_in`.
fn listed(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let args = entry.args();
    let listing = match request.opcode {
        op::READDIR => Listing::Names,
        _ => Listing::Attributes,
    };
    let room = size_of(args.u32(16));
    let mut out = Out::new(entry.output());
    let fh = Fh(args.u64(0));
    fs.readdir(&request.call, fh, args.u64(8), listing, |slot| {
        let lifetimes = slot.attr.as_ref().map(|attr| fs.lifetimes(attr));
        out.entry(&slot, listing, lifetimes.unwrap_or_default(), room)
    })?;
    Ok(out.len())
}

/// `struct fuse_getxattr_in`, and `struct fuse_setxattr_in` in its older form, which holds without
/// `FUSE_SETXATTR_EXT`.
fn xattr(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let (args, call, node) = (entry.args(), &request.call, request.node);
    let size = size_of(args.u32(0));
    let value = match request.opcode {
        op::LISTXATTR => fs.listxattr(call, node, size)?,
        opcode => {
            let (bytes, value) = split_name(entry.input())?;
            let bytes = name(bytes);
            match opcode {
                op::GETXATTR => fs.getxattr(call, node, bytes, size)?,
                op::SETXATTR => {
                    let value = value.get(..size).ok_or(Errno::EINVAL)?;
                    fs.setxattr(call, node, bytes, value, args.i32(4))?;
                    return Ok(0);
                }
                _ => {
                    fs.removexattr(call, node, bytes)?;
                    return Ok(0);
                }
            }
        }
    };
    let mut out = Out::new(entry.output());
    Ok(match size {
        0 => out
            .u32(u32::try_from(value.len()).unwrap_or(u32::MAX))
            .u32(0)
            .len(),
        _ => out.bytes(&value).len(),
    })
}

fn extents(fs: &Fs, request: &Request, entry: &mut Entry) -> SysResult<usize> {
    let (args, call) = (entry.args(), &request.call);
    let fh = Fh(args.u64(0));
    match request.opcode {
        op::LSEEK => {
            let at = fs.lseek(call, fh, args.u64(8).cast_signed(), args.i32(16))?;
            Ok(Out::new(entry.output()).u64(at.cast_unsigned()).len())
        }
        op::IOCTL => {
            let record = fs.ioctl(call, fh, args.u32(12), entry.input())?;
            let room = size_of(args.u32(28)).min(record.len());
            let mut out = Out::new(entry.output());
            out.u32(0).u32(0).u32(0).u32(0);
            Ok(out.bytes(&record[..room]).len())
        }
        // `struct fuse_copy_file_range_in`; the kernel asks again for what is beyond.
        opcode => {
            let len = usize::try_from(args.u64(40).min(COPY_MAX)).unwrap_or(0);
            let (from, to) = ((fh, args.u64(8)), (Fh(args.u64(24)), args.u64(32)));
            let count = fs.copy_file_range(call, from, to, len)?;
            let mut out = Out::new(entry.output());
            Ok(match opcode {
                op::COPY_FILE_RANGE => written_size(&mut out, count),
                _ => out.u64(count as u64).len(),
            })
        }
    }
}

fn written_size(out: &mut Out<'_>, count: usize) -> usize {
    out.u32(u32::try_from(count).unwrap_or(u32::MAX))
        .u32(0)
        .len()
}

fn size_of(size: u32) -> usize {
    usize::try_from(size).unwrap_or(0)
}
