//! Memory that the kernel provides in large pieces: a file without a name on a tmpfs of its own, which is mounted nowhere.
//!
//! A page of 4 KiB takes the kernel 2 us to provide, and one of 64 in a piece of 256 KiB a tenth of that
//! (docs/PERFORMANCE.md). Anonymous shared memory comes in such pieces only where a setting of the system says so
//! (Documentation/admin-guide/mm/transhuge.rst, `shmem_enabled`), and a tmpfs where its mount option does. Mounting takes
//! `CAP_SYS_ADMIN`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::Mode;

use super::{SysResult, check, own_size_limit};
use crate::error::Errno;

/// A file of so many bytes, all of them zero and none of them there yet.
///
/// # Errors
/// `EPERM` without the capability, `EINVAL` or `ENOSYS` where the kernel has no such tmpfs (before Linux 5.2, or built
/// without), `EFBIG` beyond the size of a file that this process may make (`RLIMIT_FSIZE`).
pub(super) fn memory_file(bytes: usize) -> SysResult<OwnedFd> {
    let length = libc::off_t::try_from(bytes).map_err(|_| Errno::EFBIG)?;
    // Past the limit of this process it would be SIGXFSZ.
    if u64::try_from(bytes).unwrap_or(u64::MAX) > own_size_limit() {
        return Err(Errno::EFBIG);
    }
    let root = mount(bytes)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = openat(&root, c".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    nix::unistd::ftruncate(&file, length)?;
    Ok(file)
}

/// Has the system set memory aside for a range of the file, which does not change what is in it.
///
/// # Errors
/// `ENOSPC` or `ENOMEM` where there is none.
pub(super) fn set_aside(file: &OwnedFd, offset: usize, bytes: usize) -> SysResult<()> {
    let number = |bytes| libc::off_t::try_from(bytes).map_err(|_| Errno::EFBIG);
    let (offset, bytes) = (number(offset)?, number(bytes)?);
    Ok(fallocate(
        file.as_fd(),
        FallocateFlags::empty(),
        offset,
        bytes,
    )?)
}

/// include/uapi/linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
/// Nobody comes here by a name; this is what a mount of data has.
const ATTRIBUTES: libc::c_uint = 2 | 4 | 8;

/// The root of a tmpfs that is gone with its last file.
fn mount(bytes: usize) -> SysResult<OwnedFd> {
    // SAFETY: a string and a plain number.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let size = std::ffi::CString::new(bytes.to_string()).map_err(|_| Errno::EINVAL)?;
    // Pages that reach beyond the file's end would be more than was asked for.
    let options = [(c"huge", c"within_size"), (c"size", size.as_c_str())];
    for (key, value) in options {
        configure(&context, FSCONFIG_SET_STRING, Some((key, value)))?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None)?;
    // SAFETY: plain numbers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            ATTRIBUTES,
        )
    })
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    option: Option<(&CStr, &CStr)>,
) -> SysResult<()> {
    let nothing = std::ptr::null();
    let (key, value) = option.map_or((nothing, nothing), |(k, v)| (k.as_ptr(), v.as_ptr()));
    // SAFETY: the strings outlive the call; the command without an option takes none.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    check(libc::c_int::try_from(ret).unwrap_or(-1)).map(drop)
}

fn owned(ret: libc::c_long) -> SysResult<OwnedFd> {
    let fd = RawFd::try_from(ret).unwrap_or(-1);
    // SAFETY: the call has just made it, so it is nobody else's.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}
