//! File data: read, and the calls after which what was written is where it belongs.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::handle::Handle;
use super::observe::{Note, On, Watch};
use super::{Call, Fs};
use crate::buffer::{Did, File, OnClose};
use crate::caller::{Asked, From};
use crate::error::Errno;
use crate::event::{CacheDid, OpKind, Reason};
use crate::sys::{self, SyncKind, SysResult};
use crate::types::{ByteRange, Fh};

/// Where a read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The application's own call.
    Call,
    /// The kernel's page cache wants to be filled: a page fault, sendfile, splice or execve.
    PageCache,
}

/// A read, as the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadHow {
    /// The open file's flags at this moment.
    pub flags: i32,
    /// Where it comes from.
    pub from: ReadFrom,
}

impl Fs {
    /// Reads into `buf`; short only at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(
        &self,
        call: &Call,
        fh: Fh,
        offset: u64,
        buf: &mut [u8],
        how: ReadHow,
    ) -> SysResult<usize> {
        let handle = self.handle(fh)?;
        let (from, watch) = match how.from {
            ReadFrom::PageCache => (From::PageCache, Watch::InPassing),
            ReadFrom::Call if how.flags & libc::O_DIRECT != 0 => (From::MaybeLater, Watch::Aside),
            ReadFrom::Call => (From::Call, Watch::Here),
        };
        let len = buf.len() as u64;
        let on = On::Handle(&handle);
        self.observer
            .op_watched(OpKind::Read, call, on, watch, |note| {
                note.set(|op| {
                    op.offset = Some(offset);
                    op.size = Some(len);
                });
                note.asks(Asked::Read { offset, len, from });
                note_page_cache(how.from, note);
                let count = match &handle.buffer {
                    Some(buffer) => read_buffered(&handle, buffer, offset, buf, how, note)?,
                    None => {
                        let count = sys::read_at(handle.as_fd(), buf, offset)?;
                        note_bypass(note, count, Reason::Policy);
                        count
                    }
                };
                note_size(note, &handle);
                note.set(|op| {
                    op.ret = Some(count as u64);
                    // The file may have shrunk since: what was read was within it.
                    op.file_size = op.file_size.map(|size| size.max(offset + count as u64));
                });
                Ok(count)
            })
    }

    /// close(2) of one descriptor: writes back, unless that is left for later, and tells an error that
    /// nobody has been told of, or that SOURCE tells only then.
    ///
    /// # Errors
    /// Those of writing back, and of close(2): `EIO`, `ENOSPC`, `EDQUOT`.
    pub fn flush(&self, call: &Call, fh: Fh) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Flush, call, On::Handle(&handle), |note| {
                if let Some(buffer) = &handle.buffer {
                    let nameless = buffer.is_nameless();
                    let writes =
                        handle.writable && self.on_close() == OnClose::Writeback && !nameless;
                    if nameless {
                        // A lookup that began before the last name was removed may have noted it after that.
                        note.set(|op| op.unlinked = true);
                    }
                    let reason = writes.then_some(Reason::Close);
                    bring_back(buffer, reason, &handle.told, note)?;
                }
                let copy = handle.as_fd().try_clone_to_owned()?;
                nix::unistd::close(copy).map_err(Errno::from)
            })
    }

    /// fsync(2) and fdatasync(2).
    ///
    /// # Errors
    /// Those of writing back, and of the calls.
    pub fn fsync(&self, call: &Call, fh: Fh, kind: SyncKind) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Fsync, call, On::Handle(&handle), |note| {
                note.set(|op| op.datasync = kind == SyncKind::Data);
                if let Some(buffer) = &handle.buffer {
                    bring_back(buffer, Some(Reason::Fsync), &handle.told, note)?;
                }
                sys::fsync(handle.as_fd(), kind)
            })
    }
}

/// Writes a file back for `reason`, if there is one, and tells what this open file description has not
/// been told of earlier writebacks.
fn bring_back(
    buffer: &Arc<File>,
    reason: Option<Reason>,
    told: &AtomicU64,
    note: &mut Note,
) -> SysResult<()> {
    let mut did = Did::new();
    let written = match reason {
        Some(reason) => buffer.write_back(&note.by(), &mut did, ByteRange::ALL, reason),
        None => Ok(()),
    };
    note.did(did);
    note_dirty(note, buffer);
    let news = buffer.news(told);
    written.and(news.map_or(Ok(()), Err))
}

fn read_buffered(
    handle: &Handle,
    buffer: &Arc<File>,
    offset: u64,
    buf: &mut [u8],
    how: ReadHow,
    note: &mut Note,
) -> SysResult<usize> {
    let by = note.by();
    let mut did = Did::new();
    let direct = how.flags & libc::O_DIRECT != 0 && how.from == ReadFrom::Call;
    let count = if direct {
        let range = ByteRange::at(offset, buf.len() as u64);
        let around = (range, Reason::ODirect);
        let read = || sys::read_at(handle.as_fd(), buf, offset);
        buffer.settled(&by, &mut did, around, read)
    } else {
        buffer.read(&mut did, &handle.backing, &handle.stream, offset, buf)
    };
    note.did(did);
    let count = count?;
    if direct {
        note_bypass(note, count, Reason::ODirect);
    } else if count > 0 && how.flags & libc::O_NOATIME == 0 {
        buffer.touch_access_time(&*handle.backing);
    }
    Ok(count)
}

fn note_page_cache(from: ReadFrom, note: &mut Note) {
    if !note.recording() || from != ReadFrom::PageCache {
        return;
    }
    let fault = note.is_page_fault();
    note.set(|op| {
        op.mapped = fault;
        op.page_cache = !fault;
    });
}

fn note_bypass(note: &mut Note, count: usize, reason: Reason) {
    if count > 0 {
        let size = count as u64;
        note.did(vec![CacheDid::Bypass { size, reason }]);
    }
}

/// How much of a file is dirty after the operation.
pub(super) fn note_dirty(note: &mut Note, buffer: &File) {
    if note.recording() {
        let dirty = buffer.dirty_bytes();
        note.set(|op| op.dirty = Some(dirty));
    }
}

/// What an operation on an open file says of it: its size, and how much of it is dirty.
pub(super) fn note_size(note: &mut Note, handle: &Handle) {
    if !note.recording() {
        return;
    }
    let (size, dirty) = match &handle.buffer {
        Some(buffer) => {
            let (size, dirty) = buffer.size_and_dirty();
            (Some(size), Some(dirty))
        }
        None => (sys::stat(handle.as_fd()).ok().map(|stat| stat.size), None),
    };
    note.set(|op| {
        op.file_size = size;
        op.dirty = dirty;
    });
}
