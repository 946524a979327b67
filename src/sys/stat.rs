//! The attributes of files.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{SysResult, c_name, check};

/// What statx(2) tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number on its filesystem.
    pub ino: u64,
    /// Device number of its filesystem.
    pub dev: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device nodes (as `mknod(2)` takes it).
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte units allocated.
    pub blocks: u64,
    /// Preferred I/O size, bytes.
    pub blksize: u32,
    /// Last access: seconds since the epoch and nanoseconds.
    pub atime: (i64, u32),
    /// Last modification.
    pub mtime: (i64, u32),
    /// Last status change.
    pub ctime: (i64, u32),
    /// Creation, where the filesystem knows it.
    pub btime: Option<(i64, u32)>,
}

/// The attributes of the file behind a descriptor (`O_PATH` will do).
///
/// # Errors
/// Those of statx(2).
pub fn stat(fd: BorrowedFd<'_>) -> SysResult<Stat> {
    stat_raw(fd, c"", libc::AT_EMPTY_PATH)
}

/// The attributes of whatever has this name in a directory, a symbolic link too.
///
/// # Errors
/// Those of statx(2); `EINVAL` for a name with a NUL byte.
pub fn stat_below(dir: BorrowedFd<'_>, name: &OsStr) -> SysResult<Stat> {
    // As O_PATH does not either.
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    stat_raw(dir, &c_name(name)?, flags)
}

fn stat_raw(fd: BorrowedFd<'_>, name: &CStr, flags: i32) -> SysResult<Stat> {
    let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the name is NUL-terminated, the buffer is valid for one statx record.
    check(unsafe { libc::statx(fd.as_raw_fd(), name.as_ptr(), flags, mask, buf.as_mut_ptr()) })?;
    // SAFETY: statx succeeded and filled the (zeroed) record.
    Ok(from_statx(&unsafe { buf.assume_init() }))
}

fn from_statx(x: &libc::statx) -> Stat {
    let time = |t: &libc::statx_timestamp| (t.tv_sec, t.tv_nsec);
    Stat {
        ino: x.stx_ino,
        dev: libc::makedev(x.stx_dev_major, x.stx_dev_minor),
        mode: u32::from(x.stx_mode),
        nlink: x.stx_nlink,
        uid: x.stx_uid,
        gid: x.stx_gid,
        rdev: libc::makedev(x.stx_rdev_major, x.stx_rdev_minor),
        size: x.stx_size,
        blocks: x.stx_blocks,
        blksize: x.stx_blksize,
        atime: time(&x.stx_atime),
        mtime: time(&x.stx_mtime),
        ctime: time(&x.stx_ctime),
        btime: (x.stx_mask & libc::STATX_BTIME != 0).then(|| time(&x.stx_btime)),
    }
}
