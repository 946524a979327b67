//! Numbers of the protocol, named as in include/uapi/linux/fuse.h.

/// Opcodes.
pub(super) mod op {
    pub(in crate::uring) const LOOKUP: u32 = 1;
    pub(in crate::uring) const GETATTR: u32 = 3;
    pub(in crate::uring) const SETATTR: u32 = 4;
    pub(in crate::uring) const READLINK: u32 = 5;
    pub(in crate::uring) const SYMLINK: u32 = 6;
    pub(in crate::uring) const MKNOD: u32 = 8;
    pub(in crate::uring) const MKDIR: u32 = 9;
    pub(in crate::uring) const UNLINK: u32 = 10;
    pub(in crate::uring) const RMDIR: u32 = 11;
    pub(in crate::uring) const RENAME: u32 = 12;
    pub(in crate::uring) const LINK: u32 = 13;
    pub(in crate::uring) const OPEN: u32 = 14;
    pub(in crate::uring) const READ: u32 = 15;
    pub(in crate::uring) const WRITE: u32 = 16;
    pub(in crate::uring) const STATFS: u32 = 17;
    pub(in crate::uring) const RELEASE: u32 = 18;
    pub(in crate::uring) const FSYNC: u32 = 20;
    pub(in crate::uring) const SETXATTR: u32 = 21;
    pub(in crate::uring) const GETXATTR: u32 = 22;
    pub(in crate::uring) const LISTXATTR: u32 = 23;
    pub(in crate::uring) const REMOVEXATTR: u32 = 24;
    pub(in crate::uring) const FLUSH: u32 = 25;
    pub(in crate::uring) const OPENDIR: u32 = 27;
    pub(in crate::uring) const READDIR: u32 = 28;
    pub(in crate::uring) const RELEASEDIR: u32 = 29;
    pub(in crate::uring) const FSYNCDIR: u32 = 30;
    pub(in crate::uring) const ACCESS: u32 = 34;
    pub(in crate::uring) const CREATE: u32 = 35;
    pub(in crate::uring) const IOCTL: u32 = 39;
    pub(in crate::uring) const FALLOCATE: u32 = 43;
    pub(in crate::uring) const READDIRPLUS: u32 = 44;
    pub(in crate::uring) const RENAME2: u32 = 45;
    pub(in crate::uring) const LSEEK: u32 = 46;
    pub(in crate::uring) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::uring) const TMPFILE: u32 = 51;
    pub(in crate::uring) const STATX: u32 = 52;
    pub(in crate::uring) const COPY_FILE_RANGE_64: u32 = 53;
}

/// `valid` of `struct fuse_setattr_in`.
pub(super) mod valid {
    pub(in crate::uring) const MODE: u32 = 1;
    pub(in crate::uring) const UID: u32 = 1 << 1;
    pub(in crate::uring) const GID: u32 = 1 << 2;
    pub(in crate::uring) const SIZE: u32 = 1 << 3;
    pub(in crate::uring) const ATIME: u32 = 1 << 4;
    pub(in crate::uring) const MTIME: u32 = 1 << 5;
    pub(in crate::uring) const FH: u32 = 1 << 6;
    pub(in crate::uring) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::uring) const MTIME_NOW: u32 = 1 << 8;
}

/// `FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES`: every call is seen, mappings work, and writes within a file
/// do not take turns.
pub(super) const OPENED: u32 = 1 | 1 << 6;
pub(super) const READ_LOCKOWNER: u32 = 1 << 1;
pub(super) const WRITE_CACHE: u32 = 1;
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub(super) const FSYNC_FDATASYNC: u32 = 1;
/// The most that one copy_file_range answers for: `MAX_RW_COUNT` of include/linux/fs.h.
pub(super) const COPY_MAX: u64 = 0x7fff_f000;
