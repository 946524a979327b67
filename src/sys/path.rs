//! The namespace: the `*at` system calls, relative to directory descriptors, never following a
//! symbolic link in the last component.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use super::{SysResult, c_name, check, check_len, retry};
use crate::error::Errno;

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// Leave it.
    Keep,
    /// The time of the call, by the kernel's clock.
    Now,
    /// Seconds since the epoch and nanoseconds.
    At(i64, u32),
}

/// What a descriptor obtained by [`open_below`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The file exists; `O_CREAT` is not passed.
    Existing,
    /// Make it with this mode (`O_CREAT | O_EXCL`).
    New(u32),
    /// Make one without a name, in this directory, with this mode (`O_TMPFILE`).
    Nameless(u32),
}

const EMPTY: &CStr = c"";

/// Opens a directory, following links: only for SOURCE itself as the user named it.
///
/// # Errors
/// Those of open(2).
pub fn open_path(path: &OsStr) -> SysResult<OwnedFd> {
    let path = c_name(path)?;
    open_raw(libc::AT_FDCWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// Opens `name` in the directory `dir`.
///
/// # Errors
/// Those of openat(2); `ELOOP` for a symbolic link unless `O_PATH` is among the flags.
pub fn open_below(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: i32,
    access: Access,
) -> SysResult<OwnedFd> {
    let name = c_name(name)?;
    let (more, mode) = match access {
        Access::Existing => (0, 0),
        Access::New(mode) => (libc::O_CREAT | libc::O_EXCL, mode),
        Access::Nameless(mode) => (libc::O_TMPFILE, mode),
    };
    open_raw(
        dir.as_raw_fd(),
        &name,
        flags | more | libc::O_NOFOLLOW,
        mode,
    )
}

/// Opens the file behind an `O_PATH` descriptor, through its link in `/proc/self/fd`
/// (`proc_fds` is that directory).
///
/// # Errors
/// Those of open(2), for the permission bits of the file itself.
pub fn reopen(proc_fds: BorrowedFd<'_>, fd: BorrowedFd<'_>, flags: i32) -> SysResult<OwnedFd> {
    let name = fd_name(fd);
    open_raw(proc_fds.as_raw_fd(), &name, flags & !libc::O_NOFOLLOW, 0)
}

fn open_raw(dir: RawFd, name: &CStr, flags: i32, mode: u32) -> SysResult<OwnedFd> {
    retry(|| {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = check(unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
        // SAFETY: openat just returned this descriptor; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn fd_name(fd: BorrowedFd<'_>) -> CString {
    let digits = fd.as_raw_fd().to_string();
    CString::new(digits).expect("a decimal number has no NUL")
}

/// The file behind a descriptor, for calls that only take paths.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> CString {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    CString::new(path).expect("a decimal number has no NUL")
}

/// Whether a file lies on an overlay filesystem, whose files change their birth time (and lower
/// inode) when they are first written to.
#[must_use]
pub fn is_overlay(fd: BorrowedFd<'_>) -> bool {
    let kind = nix::sys::statfs::fstatfs(fd).map(|statfs| statfs.filesystem_type());
    kind == Ok(nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

/// Free space and limits of the filesystem behind a descriptor.
///
/// # Errors
/// Those of fstatfs(2).
pub fn statfs(fd: BorrowedFd<'_>) -> SysResult<nix::sys::statvfs::Statvfs> {
    nix::sys::statvfs::fstatvfs(fd).map_err(Errno::from)
}

/// mkdirat(2).
///
/// # Errors
/// Those of the call.
pub fn make_dir(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> SysResult<()> {
    let name = c_name(name)?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// mknodat(2): a file, fifo, socket or device node.
///
/// # Errors
/// Those of the call.
pub fn make_node(dir: BorrowedFd<'_>, name: &OsStr, mode: u32, rdev: u64) -> SysResult<()> {
    let name = c_name(name)?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, rdev) }).map(drop)
}

/// symlinkat(2).
///
/// # Errors
/// Those of the call.
pub fn make_symlink(target: &OsStr, dir: BorrowedFd<'_>, name: &OsStr) -> SysResult<()> {
    let (target, name) = (c_name(target)?, c_name(name)?);
    // SAFETY: both strings are NUL-terminated and outlive the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// A new name for the file behind `fd`: linkat(2) through `/proc/self/fd`, which needs no privilege.
///
/// # Errors
/// Those of linkat(2).
pub fn link_fd(
    proc_fds: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
) -> SysResult<()> {
    let (from, name) = (fd_name(fd), c_name(name)?);
    // SAFETY: both strings are NUL-terminated and outlive the call.
    check(unsafe {
        libc::linkat(
            proc_fds.as_raw_fd(),
            from.as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
    .map(drop)
}

/// unlinkat(2), with `AT_REMOVEDIR` for a directory.
///
/// # Errors
/// Those of the call.
pub fn unlink(dir: BorrowedFd<'_>, name: &OsStr, flags: i32) -> SysResult<()> {
    let name = c_name(name)?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

/// renameat2(2); `flags` are `RENAME_*` as the application gave them.
///
/// # Errors
/// Those of the call.
pub fn rename(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
    flags: u32,
) -> SysResult<()> {
    let (old, new) = (c_name(from.1)?, c_name(to.1)?);
    // SAFETY: both strings are NUL-terminated and outlive the call.
    check(unsafe {
        libc::renameat2(
            from.0.as_raw_fd(),
            old.as_ptr(),
            to.0.as_raw_fd(),
            new.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// What the symbolic link behind an `O_PATH` descriptor says.
///
/// # Errors
/// Those of readlinkat(2); `EINVAL` for what is not a link.
pub fn read_link(fd: BorrowedFd<'_>) -> SysResult<OsString> {
    let capacity = usize::try_from(libc::PATH_MAX).unwrap_or(4096);
    let mut buf = vec![0u8; capacity];
    // SAFETY: the buffer is valid for `capacity` bytes, the name is NUL-terminated.
    let len = check_len(unsafe {
        libc::readlinkat(
            fd.as_raw_fd(),
            EMPTY.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    })?;
    buf.truncate(len);
    Ok(OsString::from_vec(buf))
}

/// access(2) with the effective ids of this thread, on an `O_PATH` descriptor.
///
/// # Errors
/// Those of faccessat2(2).
pub fn access(fd: BorrowedFd<'_>, mask: i32) -> SysResult<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: plain numbers and a NUL-terminated string.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            EMPTY.as_ptr(),
            mask,
            flags,
        )
    };
    check_len(libc::ssize_t::try_from(ret).unwrap_or(-1)).map(drop)
}

/// chmod(2) of the file behind an `O_PATH` descriptor. `/proc/self/fd` rather than fchmodat2(2),
/// which is only in Linux 6.6 and newer.
///
/// # Errors
/// Those of chmod(2).
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> SysResult<()> {
    let path = proc_path(fd);
    // SAFETY: `path` is NUL-terminated and outlives the call.
    check(unsafe { libc::chmod(path.as_ptr(), mode) }).map(drop)
}

/// chown(2) of the file behind a descriptor; `None` leaves an id.
///
/// # Errors
/// Those of fchownat(2).
pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the name is NUL-terminated.
    check(unsafe {
        libc::fchownat(
            fd.as_raw_fd(),
            EMPTY.as_ptr(),
            uid,
            gid,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// utimensat(2) of the file behind a descriptor, a symbolic link included.
///
/// # Errors
/// Those of the call.
pub fn set_times(fd: BorrowedFd<'_>, atime: TimeSet, mtime: TimeSet) -> SysResult<()> {
    let times = [timespec(atime), timespec(mtime)];
    // SAFETY: `times` holds two records, the name is NUL-terminated.
    check(unsafe {
        libc::utimensat(
            fd.as_raw_fd(),
            EMPTY.as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

fn timespec(time: TimeSet) -> libc::timespec {
    match time {
        TimeSet::Keep => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        TimeSet::Now => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_NOW,
        },
        TimeSet::At(sec, nsec) => libc::timespec {
            tv_sec: sec,
            tv_nsec: i64::from(nsec),
        },
    }
}

/// ftruncate(2).
///
/// # Errors
/// Those of the call; `EFBIG` for a size that no file can have.
pub fn set_size(fd: BorrowedFd<'_>, size: u64) -> SysResult<()> {
    let size = libc::off_t::try_from(size).map_err(|_| Errno::EFBIG)?;
    // SAFETY: plain numbers.
    retry(|| check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) }).map(drop))
}

/// The directory of this process's descriptors, for [`reopen`] and [`link_fd`].
///
/// # Errors
/// Those of open(2), where `/proc` is not mounted.
pub fn open_proc_fds() -> SysResult<OwnedFd> {
    let dir = open_path(OsStr::new("/proc/self/fd"))?;
    debug_assert!(dir.as_fd().as_raw_fd() >= 0);
    Ok(dir)
}
