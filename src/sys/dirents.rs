//! Directory listings: getdents64(2) with its own cursors, which seekdir(3) relies on.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use super::{SysResult, check_len};
use crate::error::Errno;

/// One entry, borrowed from the buffer that [`read_dirents`] filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Inode number as the directory tells it.
    pub ino: u64,
    /// Cursor behind this entry.
    pub next: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name.
    pub name: &'a OsStr,
}

/// Moves the descriptor to a cursor got from an earlier [`Dirent::next`], or 0 for the start.
///
/// # Errors
/// `EINVAL` for a cursor that the filesystem never gave.
pub fn seek_dir(fd: BorrowedFd<'_>, cursor: u64) -> SysResult<()> {
    // Cursors are opaque 64-bit values: some filesystems use the sign bit.
    let cursor = i64::from_ne_bytes(cursor.to_ne_bytes());
    // SAFETY: plain numbers.
    let ret = unsafe { libc::lseek(fd.as_raw_fd(), cursor, libc::SEEK_SET) };
    if ret == -1 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// Fills `buf` with entries and iterates over them; an empty iteration is the end.
///
/// # Errors
/// Those of getdents64(2): `EINVAL` where `buf` is too small for one entry, `ENOENT` for a removed
/// directory.
pub fn read_dirents<'a>(
    fd: BorrowedFd<'_>,
    buf: &'a mut [u8],
) -> SysResult<impl Iterator<Item = Dirent<'a>>> {
    // SAFETY: `buf` is valid for writes of its length.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            fd.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    let len = check_len(libc::ssize_t::try_from(ret).unwrap_or(-1))?;
    let mut rest: &'a [u8] = &buf[..len];
    Ok(std::iter::from_fn(move || {
        let (entry, behind) = parse(rest)?;
        rest = behind;
        Some(entry)
    }))
}

/// The layout of `struct linux_dirent64` (man 2 getdents64): ino, off, reclen, type, name.
fn parse(bytes: &[u8]) -> Option<(Dirent<'_>, &[u8])> {
    let ino = u64::from_ne_bytes(bytes.get(0..8)?.try_into().ok()?);
    let next = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let kind = *bytes.get(18)?;
    let name = bytes.get(19..len)?;
    let end = name.iter().position(|&b| b == 0)?;
    let name = OsStr::from_bytes(&name[..end]);
    Some((
        Dirent {
            ino,
            next,
            kind,
            name,
        },
        bytes.get(len..)?,
    ))
}
