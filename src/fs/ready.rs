//! What can be answered from memory at once, asked before: for whoever must not wait.
//!
//! The answers are hints. What they say may change at any moment; then somebody waits who would rather not have.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Fs;
use super::handle::Handle;
use super::inode::lock;
use crate::buffer::OnClose;
use crate::sys;
use crate::types::{ByteRange, Fh};

/// How soon a request for data can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// From memory of the view's own.
    Now,
    /// By SOURCE from what it has in memory, so at once, unless it is slow.
    BySource,
    /// When SOURCE has done what may take long.
    Later,
}

/// For more bytes than these, another thread costs little.
const SMALL: u64 = 64 << 10;

/// Writes and reads with these flags wait for the disk.
const PAST: i32 = libc::O_DIRECT | libc::O_SYNC | libc::O_DSYNC;

impl Fs {
    /// How soon a read can be answered.
    #[must_use]
    pub fn can_read(&self, fh: Fh, offset: u64, len: u64, flags: i32) -> Ready {
        let Ok(handle) = self.handle(fh) else {
            // An error, which takes no time.
            return Ready::Now;
        };
        match &handle.buffer {
            Some(buffer) => {
                let range = ByteRange::at(offset, len);
                if buffer.holds(range) {
                    return Ready::Now;
                }
                // What is missing is read with what is ahead of it.
                let ahead = lock(&handle.stream).would_fetch(range);
                let all = len.saturating_add(ahead);
                let quick = all <= SMALL
                    && !buffer.is_coming(range)
                    && sys::is_in_page_cache(handle.as_fd(), offset, all);
                if quick { Ready::BySource } else { Ready::Later }
            }
            None if flags & libc::O_DIRECT != 0 => Ready::Later,
            None if sys::is_in_page_cache(handle.as_fd(), offset, len) => Ready::BySource,
            None => Ready::Later,
        }
    }

    /// How soon a write with these flags can be answered.
    #[must_use]
    pub fn can_write(&self, fh: Fh, flags: i32) -> Ready {
        let Ok(handle) = self.handle(fh) else {
            return Ready::Now;
        };
        match &handle.buffer {
            _ if flags & PAST != 0 => Ready::Later,
            Some(_) if !self.writes_through() => Ready::Now,
            // Past what is dirty in the buffer, which may be much.
            Some(buffer) if buffer.is_dirty() => Ready::Later,
            Some(_) | None => Ready::BySource,
        }
    }

    /// How soon close(2) of a descriptor can be answered.
    #[must_use]
    pub fn can_flush(&self, fh: Fh) -> Ready {
        let handle = self.handle(fh);
        match handle.as_ref().map(|handle| handle.buffer.as_deref()) {
            Ok(Some(buffer)) if buffer.is_dirty() && self.on_close() == OnClose::Writeback => {
                match buffer.dirty_bytes() <= SMALL && !buffer.is_busy() {
                    true => Ready::BySource,
                    false => Ready::Later,
                }
            }
            // SOURCE's own close(2).
            Ok(_) => Ready::BySource,
            // An error takes no time.
            Err(_) => Ready::Now,
        }
    }

    /// How soon data and holes of an open file can be told apart, for which what is dirty goes to SOURCE.
    #[must_use]
    pub fn can_seek(&self, fh: Fh) -> Ready {
        let handle = self.handle(fh);
        let waits = |handle: &Arc<Handle>| {
            let buffer = handle.buffer.as_ref();
            buffer.is_some_and(|buffer| buffer.is_dirty() || buffer.is_busy())
        };
        match handle.is_ok_and(|handle| waits(&handle)) {
            true => Ready::Later,
            false => Ready::BySource,
        }
    }

    /// How soon a file can be renamed, before which its data goes to SOURCE if it takes another's name.
    #[must_use]
    pub fn can_rename(&self) -> Ready {
        match self.dirty_bytes() {
            0 => Ready::BySource,
            _ => Ready::Later,
        }
    }
}
