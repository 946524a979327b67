//! Extended attributes of the file behind an `O_PATH` descriptor, through `/proc/self/fd`: the calls
//! that take descriptors refuse such ones before Linux 6.13.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use super::path::proc_path;
use super::{SysResult, c_name, check, check_len};

/// The value of an extended attribute of the file behind an `O_PATH` descriptor.
///
/// # Errors
/// Those of getxattr(2): `ENODATA`, `ERANGE` where `size` is too small, `EOPNOTSUPP`.
pub fn get_xattr(fd: BorrowedFd<'_>, name: &OsStr, size: usize) -> SysResult<Vec<u8>> {
    let (path, name) = (proc_path(fd), c_name(name)?);
    let mut value = vec![0u8; size];
    // SAFETY: the strings are NUL-terminated, the buffer is valid for its length.
    let len = check_len(unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    })?;
    // With size 0 the call only tells the length: hand that on as that many zero bytes.
    value.resize(len, 0);
    Ok(value)
}

/// The names of all extended attributes, each ended by NUL.
///
/// # Errors
/// Those of listxattr(2).
pub fn list_xattr(fd: BorrowedFd<'_>, size: usize) -> SysResult<Vec<u8>> {
    let path = proc_path(fd);
    let mut names = vec![0u8; size];
    // SAFETY: the string is NUL-terminated, the buffer is valid for its length.
    let len = check_len(unsafe {
        libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len())
    })?;
    names.resize(len, 0);
    Ok(names)
}

/// setxattr(2); `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
///
/// # Errors
/// Those of the call.
pub fn set_xattr(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8], flags: i32) -> SysResult<()> {
    let (path, name) = (proc_path(fd), c_name(name)?);
    // SAFETY: the strings are NUL-terminated, the value is valid for its length.
    check(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })
    .map(drop)
}

/// removexattr(2).
///
/// # Errors
/// Those of the call.
pub fn remove_xattr(fd: BorrowedFd<'_>, name: &OsStr) -> SysResult<()> {
    let (path, name) = (proc_path(fd), c_name(name)?);
    // SAFETY: the strings are NUL-terminated and outlive the call.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}
