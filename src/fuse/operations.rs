//! The requests, one by one: arguments out of fuser's types, the call, the answer.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::Edge;
use super::convert::{
    TTL, call, entry_attr, entry_type, errno, generation, node, plain_attr, time_set,
};
use crate::error::Errno;
use crate::fs::{Attr, Listing, NewAttrs, NewEntry, ReadFrom, WriteFrom};
use crate::sys::{SyncKind, SysResult};
use crate::types::Fh;

/// Every call is seen, mappings work, and writes within a file do not take turns.
const OPENED: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

thread_local! {
    /// What a read reads into; kept, because a fresh megabyte for each read would be zeroed first.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

fn sync_kind(datasync: bool) -> SyncKind {
    if datasync {
        SyncKind::Data
    } else {
        SyncKind::All
    }
}

fn answer_entry(reply: ReplyEntry, result: SysResult<Attr>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &entry_attr(&attr), generation(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_attr(reply: ReplyAttr, result: SysResult<Attr>) {
    match result {
        Ok(attr) => reply.attr(&TTL, &plain_attr(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_empty(reply: ReplyEmpty, result: SysResult<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_xattr(reply: ReplyXattr, asked: u32, result: SysResult<Vec<u8>>) {
    match result {
        Ok(value) if asked == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_written(reply: ReplyWrite, result: SysResult<usize>) {
    match result {
        Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Edge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher
            .run(move |fs| answer_entry(reply, fs.lookup(&call, node(parent), &name)));
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.dispatcher.fs().forget(node(ino), count);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| answer_attr(reply, fs.getattr(&call, node(ino))));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (call, handle) = (call(req), handle.map(fh));
        let (atime, mtime) = (time_set(atime), time_set(mtime));
        let new = NewAttrs {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        self.dispatcher
            .run(move |fs| answer_attr(reply, fs.setattr(&call, node(ino), handle, new)));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| match fs.readlink(&call, node(ino)) {
                Ok(target) => reply.data(target.as_encoded_bytes()),
                Err(error) => reply.error(errno(error)),
            });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (call, name, new) = (call(req), name.to_owned(), NewEntry { mode, umask });
        self.dispatcher.run(move |fs| {
            answer_entry(
                reply,
                fs.mknod(&call, node(parent), &name, new, u64::from(rdev)),
            );
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (call, name, new) = (call(req), name.to_owned(), NewEntry { mode, umask });
        self.dispatcher
            .run(move |fs| answer_entry(reply, fs.mkdir(&call, node(parent), &name, new)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.unlink(&call, node(parent), &name)));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.rmdir(&call, node(parent), &name)));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (call, name, target) = (call(req), name.to_owned(), target.as_os_str().to_owned());
        self.dispatcher
            .run(move |fs| answer_entry(reply, fs.symlink(&call, node(parent), &name, &target)));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (call, name, new_name) = (call(req), name.to_owned(), new_name.to_owned());
        self.dispatcher.run(move |fs| {
            let (from, to) = ((node(parent), &*name), (node(new_parent), &*new_name));
            answer_empty(reply, fs.rename(&call, from, to, flags.bits()));
        });
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (call, name) = (call(req), new_name.to_owned());
        self.dispatcher.run(move |fs| {
            answer_entry(reply, fs.link(&call, node(ino), node(new_parent), &name));
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| match fs.open(&call, node(ino), flags.0) {
                Ok(fh) => reply.opened(FileHandle(fh.0), OPENED),
                Err(error) => reply.error(errno(error)),
            });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (call, name, new) = (call(req), name.to_owned(), NewEntry { mode, umask });
        self.dispatcher.run(
            move |fs| match fs.create(&call, node(parent), &name, flags, new) {
                Ok((attr, fh)) => {
                    let (entry, handle) = (entry_attr(&attr), FileHandle(fh.0));
                    reply.created(&TTL, &entry, generation(&attr), handle, OPENED);
                }
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn read(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let call = call(req);
        // On a direct_io file the kernel names the lock owner of a call, and none of its own reads
        // (fs/fuse/file.c fuse_send_read()).
        let from = lock_owner.map_or(ReadFrom::PageCache, |_| ReadFrom::Call);
        self.dispatcher.run(move |fs| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let size = usize::try_from(size).unwrap_or(0);
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                match fs.read(&call, fh(handle), offset, &mut buffer[..size], from) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(errno(error)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let call = call(req);
        let from = if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            WriteFrom::Mapping
        } else if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            WriteFrom::CallClearingSetId
        } else {
            WriteFrom::Call
        };
        self.dispatcher.run_with(data, move |fs, data| {
            answer_written(
                reply,
                fs.write(&call, fh(handle), offset, data, flags.0, from),
            );
        });
    }

    fn flush(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.flush(&call, fh(handle))));
    }

    fn release(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.release(&call, fh(handle))));
    }

    fn fsync(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (call, kind) = (call(req), sync_kind(datasync));
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.fsync(&call, fh(handle), kind)));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| match fs.opendir(&call, node(ino), flags.0) {
                Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
                Err(error) => reply.error(errno(error)),
            });
    }

    fn readdir(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        cursor: u64,
        mut reply: ReplyDirectory,
    ) {
        let call = call(req);
        self.dispatcher.run(move |fs| {
            let listed = fs.readdir(&call, fh(handle), cursor, Listing::Names, |slot| {
                !reply.add(
                    INodeNo(slot.ino),
                    slot.next,
                    entry_type(slot.kind),
                    slot.name,
                )
            });
            match listed {
                Ok(_) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        cursor: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let call = call(req);
        self.dispatcher.run(move |fs| {
            let listed = fs.readdir(&call, fh(handle), cursor, Listing::Attributes, |slot| {
                let attr = slot.attr.map_or_else(
                    // Node id 0: the kernel takes the name and looks the rest up when it needs it.
                    || fuser::FileAttr {
                        kind: entry_type(slot.kind),
                        ..no_attr()
                    },
                    |attr| entry_attr(&attr),
                );
                let generation = slot.attr.as_ref().map_or(fuser::Generation(0), generation);
                !reply.add(
                    INodeNo(slot.ino),
                    slot.next,
                    slot.name,
                    &TTL,
                    &attr,
                    generation,
                )
            });
            match listed {
                Ok(_) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.releasedir(&call, fh(handle))));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (call, kind) = (call(req), sync_kind(datasync));
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.fsyncdir(&call, fh(handle), kind)));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| match fs.statfs(&call, node(ino)) {
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
            });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher.run_with(value, move |fs, value| {
            answer_empty(reply, fs.setxattr(&call, node(ino), &name, value, flags));
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher.run(move |fs| {
            let room = usize::try_from(size).unwrap_or(0);
            answer_xattr(reply, size, fs.getxattr(&call, node(ino), &name, room));
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let call = call(req);
        self.dispatcher.run(move |fs| {
            let room = usize::try_from(size).unwrap_or(0);
            answer_xattr(reply, size, fs.listxattr(&call, node(ino), room));
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (call, name) = (call(req), name.to_owned());
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.removexattr(&call, node(ino), &name)));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let call = call(req);
        self.dispatcher
            .run(move |fs| answer_empty(reply, fs.access(&call, node(ino), mask.bits())));
    }

    fn ioctl(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: IoctlFlags,
        command: u32,
        input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let call = call(req);
        self.dispatcher.run_with(input, move |fs, input| {
            match fs.ioctl(&call, fh(handle), command, input) {
                Ok(record) => {
                    let room = usize::try_from(room).unwrap_or(0).min(record.len());
                    reply.ioctl(0, &record[..room]);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let call = call(req);
        self.dispatcher.run(move |fs| {
            answer_empty(reply, fs.fallocate(&call, fh(handle), mode, offset, len));
        });
    }

    fn lseek(
        &self,
        req: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let call = call(req);
        self.dispatcher.run(
            move |fs| match fs.lseek(&call, fh(handle), offset, whence) {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let call = call(req);
        self.dispatcher.run(move |fs| {
            // The answer counts in 32 bits; the kernel asks again for the rest.
            let len = usize::try_from(len.min(COPY_MAX)).unwrap_or(0);
            let (from, to) = ((fh(fh_in), offset_in), (fh(fh_out), offset_out));
            answer_written(reply, fs.copy_file_range(&call, from, to, len));
        });
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // Regular files are always ready; so answered, the kernel says so itself from then on.
        reply.error(errno(Errno::ENOSYS));
    }
}

/// The most that one copy_file_range answers for: `MAX_RW_COUNT` of include/linux/fs.h.
const COPY_MAX: u64 = 0x7fff_f000;

fn no_attr() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
