//! Results of the filesystem as fuser's answers.

use std::time::SystemTime;

use fuser::{
    FileAttr, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};
use nix::sys::statvfs::Statvfs;

use super::convert::{entry_attr, entry_lifetime, entry_type, errno, generation, plain_attr};
use crate::fs::{Attr, Fs};
use crate::sys::SysResult;

pub(super) fn answer_entry(fs: &Fs, reply: ReplyEntry, result: SysResult<Attr>) {
    match result {
        Ok(attr) => reply.entry(
            &entry_lifetime(fs, &attr),
            &entry_attr(&attr),
            generation(&attr),
        ),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_attr(fs: &Fs, reply: ReplyAttr, result: SysResult<Attr>) {
    match result {
        Ok(attr) => reply.attr(&fs.lifetimes(&attr).attr, &plain_attr(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_empty(reply: ReplyEmpty, result: SysResult<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_xattr(reply: ReplyXattr, asked: u32, result: SysResult<Vec<u8>>) {
    match result {
        Ok(value) if asked == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_written(reply: ReplyWrite, result: SysResult<usize>) {
    match result {
        Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_bytes(reply: ReplyData, result: SysResult<impl AsRef<[u8]>>) {
    match result {
        Ok(bytes) => reply.data(bytes.as_ref()),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn answer_statfs(reply: ReplyStatfs, result: SysResult<Statvfs>) {
    match result {
        Ok(s) => reply.statfs(
            s.blocks(),
            s.blocks_free(),
            s.blocks_available(),
            s.files(),
            s.files_free(),
            u32::try_from(s.block_size()).unwrap_or(4096),
            u32::try_from(s.name_max()).unwrap_or(255),
            u32::try_from(s.fragment_size()).unwrap_or(4096),
        ),
        Err(error) => reply.error(errno(error)),
    }
}

/// The attributes of an entry of which only the name is known.
pub(super) fn no_attr(kind: u8) -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: entry_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
