//! File data between one place of a file and many places of memory: preadv(2) and pwritev2(2),
//! continued until they are complete.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::io::{SyncKind, offset, write_once};
use super::{SysResult, check_len, retry};
use crate::error::Errno;

/// Most vectors that one call takes: `UIO_MAXIOV` of include/uapi/linux/uio.h.
const VECTORS_MAX: usize = 1024;

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a failed write is told by this value alone"]
pub struct Written {
    /// Bytes written, from the start of what was asked for without a gap.
    pub bytes: u64,
    /// What ended the write; none where all of it is written.
    pub error: Option<Errno>,
}

impl Written {
    /// All of a write of `bytes` bytes.
    pub fn all(bytes: u64) -> Written {
        Written { bytes, error: None }
    }

    /// Nothing but an error.
    pub fn failed(error: Errno) -> Written {
        Written {
            bytes: 0,
            error: Some(error),
        }
    }
}

/// Reads from `at` on until the buffers are full or the file ends, in their order. A short count means
/// the end and nothing else: where an error comes after some bytes, it is the result, so that no
/// caller takes an unreadable place for the end of the file.
///
/// # Errors
/// Those of preadv(2), after which the buffers hold what they held or what was read; `EINVAL` for a
/// place that no file has.
pub fn read_vectored_at(
    fd: BorrowedFd<'_>,
    bufs: &mut [IoSliceMut<'_>],
    at: u64,
) -> SysResult<usize> {
    let mut done = 0;
    for some in bufs.chunks_mut(VECTORS_MAX) {
        let want: usize = some.iter().map(|buf| buf.len()).sum();
        let got = read_some(fd, some, offset_behind(at, done)?)?;
        done += got;
        if got < want {
            break;
        }
    }
    Ok(done)
}

/// The same for as many vectors as one call takes.
fn read_some(fd: BorrowedFd<'_>, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
    let mut done = 0;
    let mut rest = bufs;
    while rest.iter().any(|buf| !buf.is_empty()) {
        let pos = offset(offset_behind(at, done)?)?;
        let got = retry(|| nix::sys::uio::preadv(fd, rest, pos).map_err(Errno::from))?;
        if got == 0 {
            break;
        }
        done += got;
        let (whole, into) = split(rest.iter().map(|buf| buf.len()), got);
        rest = &mut rest[whole..];
        if into > 0 {
            // A vector cannot be moved forward without spoiling the caller's: it is finished alone.
            let tail = &mut rest[0][into..];
            let want = tail.len();
            let got = read_one(fd, tail, offset_behind(at, done)?)?;
            done += got;
            if got < want {
                break;
            }
            rest = &mut rest[1..];
        }
    }
    Ok(done)
}

fn read_one(fd: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> SysResult<usize> {
    let mut done = 0;
    while done < buf.len() {
        let pos = offset(offset_behind(at, done)?)?;
        let got = retry(|| nix::sys::uio::pread(fd, &mut buf[done..], pos).map_err(Errno::from))?;
        if got == 0 {
            break;
        }
        done += got;
    }
    Ok(done)
}

/// Writes the buffers, in their order, from `at` on, until all is written or it fails.
///
/// Both may be: some bytes, and the error that stopped it there ([`Written`]). Errors are those of
/// pwritev2(2); `EIO` where the file takes nothing and gives no reason; `EINVAL` for a place that no
/// file has.
pub fn write_vectored_at(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    at: u64,
    sync: SyncKind,
) -> Written {
    let mut bytes = 0;
    for some in bufs.chunks(VECTORS_MAX) {
        if let Err(error) = write_some(fd, some, at, sync, &mut bytes) {
            let error = Some(error);
            return Written { bytes, error };
        }
    }
    Written::all(bytes)
}

/// The same for as many vectors as one call takes; `done` counts what is written, from `at` on.
fn write_some(
    fd: BorrowedFd<'_>,
    bufs: &[IoSlice<'_>],
    at: u64,
    sync: SyncKind,
    done: &mut u64,
) -> SysResult<()> {
    let mut rest = bufs;
    while rest.iter().any(|buf| !buf.is_empty()) {
        let put = step(at, done, |pos| write_many(fd, rest, pos, sync.rwf()))?;
        let (whole, into) = split(rest.iter().map(|buf| buf.len()), put);
        rest = &rest[whole..];
        if into > 0 {
            let mut tail = &rest[0][into..];
            while !tail.is_empty() {
                let put = step(at, done, |pos| write_once(fd, tail, pos, sync.rwf()))?;
                tail = &tail[put..];
            }
            rest = &rest[1..];
        }
    }
    Ok(())
}

/// One call for what comes behind the `done` bytes from `at` on, which it adds to them.
fn step(at: u64, done: &mut u64, call: impl FnOnce(i64) -> SysResult<usize>) -> SysResult<usize> {
    let pos = at.checked_add(*done).ok_or(Errno::EINVAL)?;
    match call(offset(pos)?)? {
        // It would be the same for ever.
        0 => Err(Errno::EIO),
        put => {
            *done += put as u64;
            Ok(put)
        }
    }
}

fn write_many(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>], at: i64, flags: i32) -> SysResult<usize> {
    let count = libc::c_int::try_from(bufs.len()).map_err(|_| Errno::EINVAL)?;
    let vectors = bufs.as_ptr().cast::<libc::iovec>();
    // SAFETY: an `IoSlice` has the layout of an iovec (its documentation promises it), there are
    // `count` of them, and the call only reads what they point to.
    retry(|| check_len(unsafe { libc::pwritev2(fd.as_raw_fd(), vectors, count, at, flags) }))
}

/// How many vectors `bytes` fill, and how far they reach into the next. Empty vectors behind a filled
/// one count as filled only where bytes follow.
fn split(lengths: impl Iterator<Item = usize>, bytes: usize) -> (usize, usize) {
    let (mut whole, mut left) = (0, bytes);
    for len in lengths {
        if left < len || left == 0 {
            break;
        }
        left -= len;
        whole += 1;
    }
    (whole, left)
}

fn offset_behind(at: u64, done: usize) -> SysResult<u64> {
    at.checked_add(done as u64).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251 + 1).to_le_bytes()[0]).collect()
    }

    /// `data` in pieces of 0, 1, 2, ... 6, 0, 1, ... bytes.
    fn pieces(data: &[u8]) -> Vec<&[u8]> {
        let (mut found, mut rest) = (Vec::new(), data);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((found.len() % 7).min(rest.len()));
            found.push(piece);
            rest = more;
        }
        found
    }

    #[test]
    fn many_small_buffers_are_written_and_read_in_their_order() {
        let file = tempfile::tempfile().unwrap();
        let data = pattern(20_000);
        let parts = pieces(&data);
        assert!(parts.len() > 4 * VECTORS_MAX);
        let out: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        for sync in [SyncKind::None, SyncKind::Data, SyncKind::All] {
            let written = write_vectored_at(file.as_fd(), &out, 5, sync);
            assert_eq!(written, Written::all(20_000));
        }
        let mut back = vec![0; 20_005];
        assert_eq!(file.read_at(&mut back, 0).unwrap(), 20_005);
        assert_eq!(back[..5], [0; 5]);
        assert_eq!(back[5..], data);

        let mut room: Vec<Vec<u8>> = parts.iter().map(|part| vec![0; part.len()]).collect();
        let mut bufs: Vec<_> = room.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        assert_eq!(read_vectored_at(file.as_fd(), &mut bufs, 5), Ok(20_000));
        assert!(bufs.iter().zip(&parts).all(|(buf, part)| **buf == **part));
    }

    #[test]
    fn the_end_of_the_file_may_lie_inside_a_vector() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdefg", 0).unwrap();
        let (mut one, mut two, mut three) = ([9; 3], [9; 3], [9; 3]);
        let mut bufs = [&mut one, &mut two, &mut three].map(|buf| IoSliceMut::new(buf));
        assert_eq!(read_vectored_at(file.as_fd(), &mut bufs, 2), Ok(5));
        assert_eq!((&one, &two, &three), (b"cde", b"fg\x09", &[9; 3]));
    }

    #[test]
    fn behind_the_end_there_is_nothing() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let mut one = [9; 3];
        for at in [3, 4, 1 << 40] {
            let mut bufs = [IoSliceMut::new(&mut one)];
            assert_eq!(read_vectored_at(file.as_fd(), &mut bufs, at), Ok(0));
        }
        assert_eq!(one, [9; 3]);
    }

    #[test]
    fn vectors_without_bytes_are_no_end() {
        let file = tempfile::tempfile().unwrap();
        let mut out = vec![IoSlice::new(&[]); 3 * VECTORS_MAX];
        assert_eq!(
            write_vectored_at(file.as_fd(), &out, 0, SyncKind::None),
            Written::all(0)
        );
        out.push(IoSlice::new(b"xy"));
        assert_eq!(
            write_vectored_at(file.as_fd(), &out, 0, SyncKind::None),
            Written::all(2)
        );
        let (mut nothing, mut last) = (vec![[]; 3 * VECTORS_MAX], [0; 2]);
        let mut bufs: Vec<_> = nothing
            .iter_mut()
            .map(|buf: &mut [u8; 0]| IoSliceMut::new(buf))
            .collect();
        assert_eq!(read_vectored_at(file.as_fd(), &mut bufs, 0), Ok(0));
        bufs.push(IoSliceMut::new(&mut last));
        assert_eq!(read_vectored_at(file.as_fd(), &mut bufs, 0), Ok(2));
        assert_eq!(&last, b"xy");
    }

    #[test]
    fn what_the_system_call_says_is_the_error() {
        let write_only = File::create(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
        let mut buf = [0; 4];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        let read = read_vectored_at(write_only.as_fd(), &mut bufs, 0);
        assert_eq!(read, Err(Errno::EBADF));
        let file = File::open("/dev/null").unwrap();
        let out = [IoSlice::new(b"abc")];
        let written = write_vectored_at(file.as_fd(), &out, 0, SyncKind::None);
        assert_eq!(written, Written::failed(Errno::EBADF));
        let written = write_vectored_at(write_only.as_fd(), &out, u64::MAX, SyncKind::None);
        assert_eq!(written, Written::failed(Errno::EINVAL));
    }

    /// A file in memory that may not grow takes a write page by page, up to the first that it may not.
    #[test]
    fn a_write_that_stops_on_its_way_tells_how_far_it_came_and_why() {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let fd = memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(8192).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        let data = pattern(15_000);
        let out: Vec<_> = data.chunks(5_000).map(IoSlice::new).collect();
        let written = write_vectored_at(file.as_fd(), &out, 0, SyncKind::None);
        assert_eq!((written.bytes, written.error), (8192, Some(Errno::EPERM)));
        let mut back = vec![0; 8192];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, data[..8192]);
    }

    /// The memory of this process as a file: behind the stack there is nothing to read, and no end.
    #[test]
    fn an_error_behind_some_bytes_is_not_taken_for_the_end_of_the_file() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
        let end = stack.split(['-', ' ']).nth(1).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let mut room = [[9; 4]; 4];
        let mut bufs = room.each_mut().map(|buf| IoSliceMut::new(buf));
        assert_eq!(
            read_vectored_at(memory.as_fd(), &mut bufs[..2], end - 8),
            Ok(8)
        );
        assert_eq!(
            read_vectored_at(memory.as_fd(), &mut bufs, end - 10),
            Err(Errno::EIO)
        );
    }

    #[test]
    fn bytes_are_found_in_their_vector() {
        let split = |lengths: &[usize], bytes| split(lengths.iter().copied(), bytes);
        assert_eq!(split(&[4, 4], 3), (0, 3));
        assert_eq!(split(&[4, 4], 4), (1, 0));
        assert_eq!(split(&[0, 4, 0, 4], 5), (3, 1));
        assert_eq!(split(&[0, 4, 0, 4], 8), (4, 0));
    }
}
