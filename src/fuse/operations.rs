//! The requests, one by one: arguments out of fuser's types, the call, the answer.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::Edge;
use super::answer::{
    answer_attr, answer_bytes, answer_empty, answer_entry, answer_statfs, answer_written,
    answer_xattr, no_attr,
};
use super::convert::{
    call, entry_attr, entry_lifetime, entry_type, errno, generation, node, time_set,
};
use crate::error::Errno;
use crate::fs::{
    Fs, KernelCache, Listing, NewAttrs, NewEntry, ReadFrom, ReadHow, WriteFrom, WriteHow,
};
use crate::sys::SyncKind;
use crate::types::Fh;

/// Every call is seen, mappings work, and writes within a file do not take turns.
const OPENED: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
/// The most that one copy_file_range answers for: `MAX_RW_COUNT` of include/linux/fs.h.
const COPY_MAX: u64 = 0x7fff_f000;

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

fn usize_of(size: u32) -> usize {
    usize::try_from(size).unwrap_or(0)
}

/// Requests whose arguments are few and small: each line has fuser's arguments, what has to be owned
/// because another thread may do the work, and the work.
macro_rules! requests {
    ($($method:ident($($arg:ident: $type:ty),*) [$($owned:ident = $from:expr),*]
       |$fs:ident, $call:ident| $work:expr;)*) => {
        $(
            #[allow(unused_variables)]
            fn $method(&self, req: &Request, $($arg: $type),*) {
                let $call = call(req);
                $(let $owned = $from;)*
                self.dispatcher.run(move |$fs| $work);
            }
        )*
    };
}

/// The same for requests that carry data, which is copied only where another thread does the work.
macro_rules! requests_with_data {
    ($($method:ident($($arg:ident: $type:ty),*) [$($owned:ident = $from:expr),*]
       $data:ident |$fs:ident, $call:ident| $work:expr;)*) => {
        $(
            #[allow(unused_variables)]
            fn $method(&self, req: &Request, $($arg: $type),*) {
                let $call = call(req);
                $(let $owned = $from;)*
                self.dispatcher.run_with($data, move |$fs, $data| $work);
            }
        )*
    };
}

impl Filesystem for Edge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.dispatcher.fs().forget(node(ino), count);
    }

    requests! {
        lookup(parent: INodeNo, name: &OsStr, reply: ReplyEntry) [name = name.to_owned()]
            |fs, call| answer_entry(fs, reply, fs.lookup(&call, node(parent), &name));

        getattr(ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) []
            |fs, call| answer_attr(fs, reply, fs.getattr(&call, node(ino)));

        setattr(ino: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
                atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>,
                handle: Option<FileHandle>, crtime: Option<SystemTime>,
                chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>,
                bsd_flags: Option<BsdFileFlags>, reply: ReplyAttr)
            [new = NewAttrs { mode, uid, gid, size, atime: time_set(atime), mtime: time_set(mtime) }]
            |fs, call| answer_attr(fs, reply, fs.setattr(&call, node(ino), handle.map(fh), new));

        readlink(ino: INodeNo, reply: ReplyData) []
            |fs, call| answer_bytes(reply, fs.readlink(&call, node(ino)).map(OsStringExt::into_vec));

        mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry)
            [name = name.to_owned(), new = NewEntry { mode, umask }, rdev = u64::from(rdev)]
            |fs, call| answer_entry(fs, reply, fs.mknod(&call, node(parent), &name, new, rdev));

        mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry)
            [name = name.to_owned(), new = NewEntry { mode, umask }]
            |fs, call| answer_entry(fs, reply, fs.mkdir(&call, node(parent), &name, new));

        unlink(parent: INodeNo, name: &OsStr, reply: ReplyEmpty) [name = name.to_owned()]
            |fs, call| answer_empty(reply, fs.unlink(&call, node(parent), &name));

        rmdir(parent: INodeNo, name: &OsStr, reply: ReplyEmpty) [name = name.to_owned()]
            |fs, call| answer_empty(reply, fs.rmdir(&call, node(parent), &name));

        symlink(parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry)
            [name = name.to_owned(), target = target.as_os_str().to_owned()]
            |fs, call| answer_entry(fs, reply, fs.symlink(&call, node(parent), &name, &target));

        rename(parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr,
               flags: RenameFlags, reply: ReplyEmpty)
            [name = name.to_owned(), new_name = new_name.to_owned()]
            |fs, call| {
                let (from, to) = ((node(parent), &*name), (node(new_parent), &*new_name));
                answer_empty(reply, fs.rename(&call, from, to, flags.bits()));
            };

        link(ino: INodeNo, new_parent: INodeNo, name: &OsStr, reply: ReplyEntry)
            [name = name.to_owned()]
            |fs, call| answer_entry(fs, reply, fs.link(&call, node(ino), node(new_parent), &name));

        open(ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) []
            |fs, call| match fs.open(&call, node(ino), flags.0) {
                Ok(fh) => reply.opened(FileHandle(fh.0), opened(fs)),
                Err(error) => reply.error(errno(error)),
            };

        create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate)
            [name = name.to_owned(), new = NewEntry { mode, umask }]
            |fs, call| match fs.create(&call, node(parent), &name, flags, new) {
                Ok((attr, fh)) => {
                    let (entry, handle) = (entry_attr(&attr), FileHandle(fh.0));
                    let kept = entry_lifetime(fs, &attr);
                    reply.created(&kept, &entry, generation(&attr), handle, opened(fs));
                }
                Err(error) => reply.error(errno(error)),
            };

        // On a direct_io file the kernel names the lock owner of a call, and none of its own reads
        // (fs/fuse/file.c fuse_send_read()).
        read(ino: INodeNo, handle: FileHandle, offset: u64, size: u32, flags: OpenFlags,
             lock_owner: Option<LockOwner>, reply: ReplyData)
            [from = lock_owner.map_or(ReadFrom::PageCache, |_| ReadFrom::Call),
             how = ReadHow { flags: flags.0, from }, size = usize_of(size)]
            |fs, call| READ_BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let count = fs.read(&call, fh(handle), offset, &mut buffer[..size], how);
                answer_bytes(reply, count.map(|count| &buffer[..count]));
            });

        flush(ino: INodeNo, handle: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.flush(&call, fh(handle)));

        release(ino: INodeNo, handle: FileHandle, flags: OpenFlags, lock_owner: Option<LockOwner>,
                flush: bool, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.release(&call, fh(handle)));

        fsync(ino: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.fsync(&call, fh(handle), sync_kind(datasync)));

        opendir(ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) []
            |fs, call| match fs.opendir(&call, node(ino), flags.0) {
                Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
                Err(error) => reply.error(errno(error)),
            };

        readdir(ino: INodeNo, handle: FileHandle, cursor: u64, reply: ReplyDirectory)
            [listing = reply]
            |fs, call| {
                let mut listing = listing;
                let listed = fs.readdir(&call, fh(handle), cursor, Listing::Names, |slot| {
                    !listing.add(INodeNo(slot.ino), slot.next, entry_type(slot.kind), slot.name)
                });
                match listed {
                    Ok(_) => listing.ok(),
                    Err(error) => listing.error(errno(error)),
                }
            };

        readdirplus(ino: INodeNo, handle: FileHandle, cursor: u64, reply: ReplyDirectoryPlus)
            [listing = reply]
            |fs, call| {
                let mut listing = listing;
                let listed = fs.readdir(&call, fh(handle), cursor, Listing::Attributes, |slot| {
                    let attr = slot.attr.as_ref().map_or_else(|| no_attr(slot.kind), entry_attr);
                    let kept = slot.attr.as_ref().map(|attr| entry_lifetime(fs, attr)).unwrap_or_default();
                    let generation = slot.attr.as_ref().map_or(Generation(0), generation);
                    !listing.add(INodeNo(slot.ino), slot.next, slot.name, &kept, &attr, generation)
                });
                match listed {
                    Ok(_) => listing.ok(),
                    Err(error) => listing.error(errno(error)),
                }
            };

        releasedir(ino: INodeNo, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.releasedir(&call, fh(handle)));

        fsyncdir(ino: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.fsyncdir(&call, fh(handle), sync_kind(datasync)));

        statfs(ino: INodeNo, reply: ReplyStatfs) []
            |fs, call| answer_statfs(reply, fs.statfs(&call, node(ino)));

        getxattr(ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) [name = name.to_owned()]
            |fs, call| {
                answer_xattr(reply, size, fs.getxattr(&call, node(ino), &name, usize_of(size)));
            };

        listxattr(ino: INodeNo, size: u32, reply: ReplyXattr) []
            |fs, call| answer_xattr(reply, size, fs.listxattr(&call, node(ino), usize_of(size)));

        removexattr(ino: INodeNo, name: &OsStr, reply: ReplyEmpty) [name = name.to_owned()]
            |fs, call| answer_empty(reply, fs.removexattr(&call, node(ino), &name));

        access(ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.access(&call, node(ino), mask.bits()));

        fallocate(ino: INodeNo, handle: FileHandle, offset: u64, len: u64, mode: i32,
                  reply: ReplyEmpty) []
            |fs, call| answer_empty(reply, fs.fallocate(&call, fh(handle), mode, offset, len));

        lseek(ino: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) []
            |fs, call| match fs.lseek(&call, fh(handle), offset, whence) {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(errno(error)),
            };

        // The answer counts in 32 bits; the kernel asks again for the rest.
        copy_file_range(ino_in: INodeNo, fh_in: FileHandle, offset_in: u64, ino_out: INodeNo,
                        fh_out: FileHandle, offset_out: u64, len: u64, flags: CopyFileRangeFlags,
                        reply: ReplyWrite)
            [len = usize::try_from(len.min(COPY_MAX)).unwrap_or(0)]
            |fs, call| {
                let (from, to) = ((fh(fh_in), offset_in), (fh(fh_out), offset_out));
                answer_written(reply, fs.copy_file_range(&call, from, to, len));
            };

        // Regular files are always ready; so answered, the kernel says so itself from then on.
        poll(ino: INodeNo, handle: FileHandle, notifier: PollNotifier, events: PollEvents,
             flags: PollFlags, reply: ReplyPoll) []
            |_fs, _call| reply.error(errno(Errno::ENOSYS));
    }

    requests_with_data! {
        write(ino: INodeNo, handle: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags,
              flags: OpenFlags, lock_owner: Option<LockOwner>, reply: ReplyWrite)
            [how = WriteHow { flags: flags.0, from: write_from(write_flags) }]
            data |fs, call| {
                let answer = fs.write(&call, fh(handle), offset, data, how);
                answer.then(move |written| answer_written(reply, written));
            };

        setxattr(ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32,
                 reply: ReplyEmpty)
            [name = name.to_owned()]
            value |fs, call| answer_empty(reply, fs.setxattr(&call, node(ino), &name, value, flags));

        ioctl(ino: INodeNo, handle: FileHandle, flags: IoctlFlags, command: u32, input: &[u8],
              room: u32, reply: ReplyIoctl) []
            input |fs, call| match fs.ioctl(&call, fh(handle), command, input) {
                Ok(record) => reply.ioctl(0, &record[..usize_of(room).min(record.len())]),
                Err(error) => reply.error(errno(error)),
            };
    }
}

/// How the kernel treats what was opened.
fn opened(fs: &Fs) -> FopenFlags {
    match fs.kernel_cache() {
        KernelCache::Off => OPENED,
        KernelCache::Read | KernelCache::WriteBack => FopenFlags::empty(),
    }
}

fn write_from(flags: WriteFlags) -> WriteFrom {
    if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
        WriteFrom::Mapping
    } else if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
        WriteFrom::CallClearingSetId
    } else {
        WriteFrom::Call
    }
}
