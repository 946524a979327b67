//! File data: positional reads and writes that are complete, and the sync family.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{SysResult, check, check_len, retry};
use crate::error::Errno;

/// How durable a write or sync has to be when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Not at all.
    None,
    /// The data and what is needed to read it (`O_DSYNC`, fdatasync).
    Data,
    /// All metadata too (`O_SYNC`, fsync).
    All,
}

impl SyncKind {
    pub(super) fn rwf(self) -> libc::c_int {
        match self {
            SyncKind::None => 0,
            SyncKind::Data => libc::RWF_DSYNC,
            SyncKind::All => libc::RWF_SYNC,
        }
    }
}

pub(super) fn offset(at: u64) -> SysResult<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| Errno::EINVAL)
}

/// Reads until the buffer is full or the file ends, so that a short count means the end.
///
/// # Errors
/// Those of pread(2), if nothing was read before.
pub fn read_at(fd: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> SysResult<usize> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        let pos = offset(at + done as u64)?;
        let step = retry(|| {
            // SAFETY: `rest` is valid for writes of its length.
            check_len(unsafe {
                libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), pos)
            })
        });
        match step {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether a read of this range would find its first and last byte in the page cache, or the end of the file. `false` as well
/// where the filesystem cannot tell (man 2 preadv2, `RWF_NOWAIT`).
#[must_use]
pub fn is_in_page_cache(fd: BorrowedFd<'_>, at: u64, len: u64) -> bool {
    let has = |at: u64| {
        let Ok(at) = offset(at) else { return false };
        let mut byte = 0_u8;
        let part = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        // SAFETY: the one part is a byte that is valid for writes and outlives the call.
        unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) >= 0 }
    };
    has(at) && has(at.saturating_add(len.saturating_sub(1)))
}

/// Writes all of `data` at `at`, or as much as was possible before an error.
///
/// # Errors
/// Those of pwritev2(2), if nothing was written before.
pub fn write_at(fd: BorrowedFd<'_>, data: &[u8], at: u64, sync: SyncKind) -> SysResult<usize> {
    write_all(data, |rest, done| {
        write_once(fd, rest, offset(at + done as u64)?, sync.rwf())
    })
}

/// Appends all of `data` at the end of the file as it is now, whoever else appends
/// (`RWF_APPEND`, man 2 pwritev2), and returns how much was written and the offset behind it.
/// The descriptor's own position is used to learn the latter: callers of the same descriptor must
/// take turns.
///
/// # Errors
/// Those of pwritev2(2), if nothing was written before.
pub fn append(fd: BorrowedFd<'_>, data: &[u8], sync: SyncKind) -> SysResult<(usize, u64)> {
    let written = write_all(data, |rest, _| {
        // Offset -1: use and move the file position.
        write_once(fd, rest, -1, libc::RWF_APPEND | sync.rwf())
    })?;
    // SAFETY: plain numbers.
    let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR) };
    let end = u64::try_from(end).map_err(|_| Errno::last())?;
    Ok((written, end))
}

fn write_all(
    data: &[u8],
    mut step: impl FnMut(&[u8], usize) -> SysResult<usize>,
) -> SysResult<usize> {
    let mut done = 0;
    loop {
        match step(&data[done..], done) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if done == data.len() {
            break;
        }
    }
    Ok(done)
}

pub(super) fn write_once(fd: BorrowedFd<'_>, data: &[u8], at: i64, flags: i32) -> SysResult<usize> {
    let iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: one iovec that covers `data`, which the call only reads.
    retry(|| check_len(unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const iov, 1, at, flags) }))
}

/// fsync(2) or fdatasync(2).
///
/// # Errors
/// Those of the call.
pub fn fsync(fd: BorrowedFd<'_>, kind: SyncKind) -> SysResult<()> {
    let raw = fd.as_raw_fd();
    match kind {
        SyncKind::None => Ok(()),
        // SAFETY: plain numbers.
        SyncKind::Data => retry(|| check(unsafe { libc::fdatasync(raw) }).map(drop)),
        // SAFETY: plain numbers.
        SyncKind::All => retry(|| check(unsafe { libc::fsync(raw) }).map(drop)),
    }
}

/// fallocate(2).
///
/// # Errors
/// Those of the call.
pub fn fallocate(fd: BorrowedFd<'_>, mode: i32, at: u64, len: u64) -> SysResult<()> {
    let (at, len) = (offset(at)?, offset(len)?);
    // SAFETY: plain numbers.
    retry(|| check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, at, len) }).map(drop))
}

/// lseek(2) to the next data or hole; `whence` is `SEEK_DATA` or `SEEK_HOLE`.
///
/// # Errors
/// Those of the call: `ENXIO` past the end.
pub fn seek_extent(fd: BorrowedFd<'_>, at: i64, whence: i32) -> SysResult<i64> {
    // SAFETY: plain numbers.
    let ret = unsafe { libc::lseek(fd.as_raw_fd(), at, whence) };
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

/// copy_file_range(2): how much was copied, which may be less than asked for.
///
/// # Errors
/// Those of the call.
pub fn copy_range(
    from: (BorrowedFd<'_>, u64),
    to: (BorrowedFd<'_>, u64),
    len: usize,
) -> SysResult<usize> {
    let (mut at_in, mut at_out) = (offset(from.1)?, offset(to.1)?);
    retry(|| {
        // SAFETY: the offsets are valid for reads and writes during the call.
        check_len(unsafe {
            libc::copy_file_range(
                from.0.as_raw_fd(),
                &raw mut at_in,
                to.0.as_raw_fd(),
                &raw mut at_out,
                len,
                0,
            )
        })
    })
}

/// An ioctl(2) whose argument is a small record that the kernel reads or fills in place.
/// The caller answers for `command` being one that touches at most `record.len()` bytes.
///
/// # Errors
/// Those of the call.
pub fn ioctl_in_place(fd: BorrowedFd<'_>, command: u32, record: &mut [u8]) -> SysResult<i32> {
    // SAFETY: `record` is valid for its length; only whitelisted commands with a record of a known
    // size come here (fs/ioctl).
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command.into(), record.as_mut_ptr()) })
}
