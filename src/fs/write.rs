//! Writing: into the buffer, or past it and why.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::answer::Answer;
use super::data::note_size;
use super::handle::Handle;
use super::observe::{Note, On, Watch};
use super::{Call, Fs, KernelCache};
use crate::buffer::{Did, File, Gate, Place, Privileges, Put};
use crate::caller::{Asked, From};
use crate::event::{CacheDid, OpKind, Reason, write_flag_names};
use crate::sys::{self, SyncKind, SysResult};
use crate::types::Fh;

/// Where a write comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFrom {
    /// A caller who keeps set-id bits (`CAP_FSETID`).
    Call,
    /// A caller whose write clears set-id bits (FUSE_WRITE_KILL_SUIDGID).
    CallClearingSetId,
    /// The kernel writes a page back that a mapping had changed, or with its own write-back cache anybody
    /// (FUSE_WRITE_CACHE).
    Mapping,
}

/// Where the bytes of a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    IntoBuffer,
    Past,
}

/// A write, as the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteHow {
    /// The open file's flags, with those of the call (`RWF_DSYNC`, `RWF_SYNC`) added.
    pub flags: i32,
    /// Where it comes from.
    pub from: WriteFrom,
}

impl Fs {
    /// Writes `data`: at `offset`, or with `O_APPEND` among the flags wherever the file ends now. The
    /// answer may have to wait until less is dirty.
    ///
    /// # Errors
    /// Those of pwritev2(2); with a buffer, those that only SOURCE knows come at fsync(2) or close(2).
    pub fn write(
        &self,
        call: &Call,
        fh: Fh,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Answer<usize> {
        let (from, watch) = match how.flags & libc::O_DIRECT {
            0 => (From::Call, Watch::Here),
            _ => (From::MaybeLater, Watch::Aside),
        };
        let handle = match self.handle(fh) {
            Ok(handle) => handle,
            Err(errno) => return Answer::Now(Err(errno)),
        };
        let went = Cell::new(Went::Past);
        let work = |note: &mut Note| {
            self.note_write(note, offset, data, how);
            let len = data.len() as u64;
            note.asks(Asked::Write {
                offset,
                len,
                from,
                appends: how.flags & libc::O_APPEND != 0,
                by_pages: self.options.kernel_cache != KernelCache::Off,
            });
            // A page goes where it belongs, however its file is open.
            let place = match how.from {
                WriteFrom::Mapping if self.kernel_writes_back() => Place::At(offset),
                WriteFrom::Mapping => Place::Within(offset),
                _ if how.flags & libc::O_APPEND != 0 => Place::End,
                _ => Place::At(offset),
            };
            let put = match &handle.buffer {
                Some(buffer) => {
                    let (put, way) =
                        self.write_buffered(call, &handle, buffer, (place, data), how, note)?;
                    went.set(way);
                    put
                }
                None => self.write_unbuffered(call, &handle, (place, data), how, note)?,
            };
            note_size(note, &handle);
            note.set(|op| {
                op.offset = Some(put.at);
                op.ret = Some(put.count as u64);
            });
            Ok(put.count)
        };
        let on = On::Handle(&handle);
        self.observer
            .op_that_may_wait(OpKind::Write, call, on, watch, work, || {
                self.waits(went.get(), how.from)
            })
    }

    fn note_write(&self, note: &mut Note, offset: u64, data: &[u8], how: WriteHow) {
        note.set(|op| {
            op.offset = Some(offset);
            op.size = Some(data.len() as u64);
            op.flags = write_flag_names(how.flags);
            let page = how.from == WriteFrom::Mapping;
            op.mapped = page && !self.kernel_writes_back();
            op.page_cache = page && self.kernel_writes_back();
        });
    }

    /// Whether pages come from the kernel that write(2) has changed, and so may make a file longer.
    fn kernel_writes_back(&self) -> bool {
        self.options.kernel_cache == KernelCache::WriteBack
    }

    /// Where a writer has to wait now: one that has put something into the buffer. Not for the pages of a mapping:
    /// the kernel writes 64 of them at a time, and as long as these wait it brings in no page of any file
    /// (fs/fuse/dev.c flush_bg_queue()).
    fn waits(&self, went: Went, from: WriteFrom) -> Option<(Arc<Gate>, Reason)> {
        if went == Went::Past || from == WriteFrom::Mapping {
            return None;
        }
        let gate = self.files.as_ref()?.buffers().gate();
        gate.closed().map(|reason| (Arc::clone(gate), reason))
    }

    /// Whether a writer has not waited for its last answer.
    fn is_ahead(&self, call: &Call) -> bool {
        let files = self.files.as_ref();
        files.is_some_and(|files| files.buffers().gate().holds(call.tid))
    }

    fn write_buffered(
        &self,
        call: &Call,
        handle: &Arc<Handle>,
        buffer: &Arc<File>,
        (place, data): (Place, &[u8]),
        how: WriteHow,
        note: &mut Note,
    ) -> SysResult<(Put, Went)> {
        let by = note.by();
        let mut did = Did::new();
        let reason = match self.goes_through(handle, buffer, (place, data), how)? {
            Some(reason) => reason,
            None if self.is_ahead(call) => Reason::Memory,
            None => match buffer.buffer(&by, &mut did, &handle.backing, place, data)? {
                Ok(put) => {
                    note.did(did);
                    return Ok((put, Went::IntoBuffer));
                }
                Err(reason) => reason,
            },
        };
        let put = buffer.write_through(
            &by,
            &mut did,
            reason,
            (place, data),
            |place, data| self.put(call, handle, (place, data), how),
            || sys::stat(handle.as_fd()),
        );
        note.did(did);
        Ok((put?, Went::Past))
    }

    /// Why a write must not be buffered, if it must not.
    fn goes_through(
        &self,
        handle: &Arc<Handle>,
        buffer: &Arc<File>,
        (place, data): (Place, &[u8]),
        how: WriteHow,
    ) -> SysResult<Option<Reason>> {
        if self.writes_through() {
            return Ok(Some(Reason::Policy));
        }
        if self.clears_privileges(handle, buffer, how.from)? {
            return Ok(Some(Reason::SetId));
        }
        let start = match place {
            Place::At(at) | Place::Within(at) => at,
            Place::End => buffer.size(),
        };
        // Then SOURCE's `EFBIG` is the write's own answer.
        let end = start.saturating_add(data.len() as u64);
        let beyond = !buffer.may_reach(end, || handle.size_limit());
        Ok(match how.flags {
            // A page of a mapping is the kernel's to write, however the file was opened.
            _ if how.from == WriteFrom::Mapping => beyond.then_some(Reason::SizeLimit),
            flags if flags & libc::O_DIRECT != 0 => Some(Reason::ODirect),
            flags if flags & libc::O_SYNC != 0 => Some(Reason::OSync),
            _ if beyond => Some(Reason::SizeLimit),
            _ => None,
        })
    }

    /// Whether the write has to clear set-id bits or capabilities, as SOURCE does it.
    fn clears_privileges(
        &self,
        handle: &Handle,
        buffer: &File,
        from: WriteFrom,
    ) -> SysResult<bool> {
        let found = buffer.privileges(|| {
            let capability = OsStr::new("security.capability");
            let fd = self.fd(&handle.inode)?;
            Ok(Privileges {
                set_id: sys::stat(handle.as_fd())?.mode & (libc::S_ISUID | libc::S_ISGID) != 0,
                capabilities: sys::get_xattr(fd.as_fd(), capability, 0).is_ok(),
            })
        })?;
        Ok(match from {
            WriteFrom::Mapping => false,
            WriteFrom::Call => found.capabilities,
            WriteFrom::CallClearingSetId => found.capabilities || found.set_id,
        })
    }

    fn write_unbuffered(
        &self,
        call: &Call,
        handle: &Arc<Handle>,
        (place, data): (Place, &[u8]),
        how: WriteHow,
        note: &mut Note,
    ) -> SysResult<Put> {
        let put = self.put(call, handle, (place, data), how)?;
        if put.count > 0 {
            let size = put.count as u64;
            let reason = Reason::Policy;
            note.did(vec![CacheDid::WriteThrough { size, reason }]);
        }
        Ok(put)
    }

    /// Writes to SOURCE.
    fn put(
        &self,
        call: &Call,
        handle: &Handle,
        (place, data): (Place, &[u8]),
        how: WriteHow,
    ) -> SysResult<Put> {
        let write = || put(handle, place, data, how.flags);
        match how.from {
            WriteFrom::CallClearingSetId => self.as_unprivileged(call, write),
            WriteFrom::Call | WriteFrom::Mapping => write(),
        }
    }
}

/// Writes to SOURCE's file, and tells how much and where.
fn put(handle: &Handle, place: Place, data: &[u8], flags: i32) -> SysResult<Put> {
    let sync = match flags & libc::O_SYNC {
        libc::O_SYNC => SyncKind::All,
        0 => SyncKind::None,
        _ => SyncKind::Data,
    };
    match place {
        Place::At(at) | Place::Within(at) => {
            let count = sys::write_at(handle.as_fd(), data, at, sync)?;
            Ok(Put { count, at })
        }
        Place::End => {
            let _turn = super::inode::lock(&handle.append_turn);
            let (count, end) = sys::append(handle.as_fd(), data, sync)?;
            let at = end.saturating_sub(count as u64);
            Ok(Put { count, at })
        }
    }
}
