//! Directory streams.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::attrs::Attr;
use super::handle::{Handle, Opened};
use super::inode::lock;
use super::observe::{Note, On};
use super::{Call, Fs};
use crate::buffer::Did;
use crate::event::OpKind;
use crate::sys::{self, Dirent, SyncKind, SysResult};
use crate::types::{Fh, NodeId};

/// Bytes read from SOURCE's directory at a time; a request for a listing asks for about as much.
const LISTING_BYTES: usize = 32 * 1024;

/// One entry on its way into an answer.
#[derive(Debug)]
pub struct DirSlot<'a> {
    /// Cursor behind the entry.
    pub next: u64,
    /// Inode number.
    pub ino: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name.
    pub name: &'a OsStr,
    /// Its attributes with one lookup counted, where they were asked for and to be had.
    pub attr: Option<Attr>,
}

/// What a listing is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Names only.
    Names,
    /// Attributes too: each entry but `.` and `..` counts as a lookup.
    Attributes,
}

impl Fs {
    /// opendir(3).
    ///
    /// # Errors
    /// `EACCES`, `ENOTDIR` as SOURCE says.
    pub fn opendir(&self, call: &Call, node: NodeId, flags: i32) -> SysResult<Fh> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Opendir, call, On::Inode(&inode), |note| {
                note.set(|op| op.flags = crate::event::open_flag_names(flags));
                self.check_way(call, &inode)?;
                let dir = self.reopen(&inode, libc::O_RDONLY | libc::O_DIRECTORY)?;
                let opener = (*call, note.thread());
                let handle = self.opened(inode.clone(), Opened::dir(dir), opener)?;
                note.set(|op| op.fh = Some(handle.fh));
                Ok(handle.fh)
            })
    }

    /// Lists from `cursor` on, until `place` says that it has no room. Returns how many were placed.
    ///
    /// # Errors
    /// `ENOENT` for a removed directory, `EINVAL` for a cursor never given.
    pub fn readdir(
        &self,
        call: &Call,
        fh: Fh,
        cursor: u64,
        listing: Listing,
        mut place: impl FnMut(DirSlot<'_>) -> bool,
    ) -> SysResult<u64> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Readdir, call, On::Handle(&handle), |note| {
                let placed = self.list(&handle, cursor, listing, note, &mut place)?;
                note.set(|op| {
                    op.offset = Some(cursor);
                    op.entries = Some(placed);
                });
                Ok(placed)
            })
    }

    fn list(
        &self,
        handle: &Arc<Handle>,
        cursor: u64,
        listing: Listing,
        note: &mut Note,
        place: &mut impl FnMut(DirSlot<'_>) -> bool,
    ) -> SysResult<u64> {
        // Held over the reading: the descriptor has one position, and two requests on it take turns.
        let mut stands_at = lock(&handle.cursor);
        let mut buf = vec![0; LISTING_BYTES];
        let mut placed = 0;
        let mut next = cursor;
        if *stands_at != cursor || cursor == 0 {
            sys::seek_dir(handle.as_fd(), cursor)?;
        }
        loop {
            // Unknown until this block is placed whole: a failure below makes the next one seek.
            *stands_at = u64::MAX;
            let mut end = true;
            let entries = match sys::read_dirents(handle.as_fd(), &mut buf) {
                // What was placed counts as looked up: it must reach the kernel.
                Err(_) if placed > 0 => return Ok(placed),
                entries => entries?,
            };
            for entry in entries {
                end = false;
                if !self.place(handle, entry, listing, note, place) {
                    return Ok(placed);
                }
                next = entry.next;
                placed += 1;
            }
            *stands_at = next;
            if end {
                return Ok(placed);
            }
        }
    }

    /// Hands one entry over; says whether there was room.
    fn place(
        &self,
        handle: &Arc<Handle>,
        entry: Dirent<'_>,
        listing: Listing,
        note: &mut Note,
        place: &mut impl FnMut(DirSlot<'_>) -> bool,
    ) -> bool {
        let dots = entry.name == "." || entry.name == "..";
        let mut did = Did::new();
        let attr = match listing {
            // What cannot be looked up (removed meanwhile, not permitted) is listed by name alone.
            Listing::Attributes if !dots => self
                .find(&handle.inode, entry.name, &mut did)
                .ok()
                .map(|(_, attr)| attr),
            _ => None,
        };
        note.did(did);
        let Dirent {
            ino,
            next,
            kind,
            name,
        } = entry;
        let room = place(DirSlot {
            next,
            ino,
            kind,
            name,
            attr,
        });
        if let (false, Some(attr)) = (room, attr) {
            self.forget(attr.node, 1);
        }
        room
    }

    /// closedir(3), the last one.
    ///
    /// # Errors
    /// `EBADF` for one that is not open.
    pub fn releasedir(&self, call: &Call, fh: Fh) -> SysResult<()> {
        let handle = self.handles.remove(fh)?;
        self.observer
            .op(OpKind::Releasedir, call, On::Handle(&handle), |_| Ok(()))
    }

    /// fsync(2) of a directory.
    ///
    /// # Errors
    /// Those of the call.
    pub fn fsyncdir(&self, call: &Call, fh: Fh, kind: SyncKind) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Fsyncdir, call, On::Handle(&handle), |note| {
                note.set(|op| op.datasync = kind == SyncKind::Data);
                sys::fsync(handle.as_fd(), kind)
            })
    }
}
