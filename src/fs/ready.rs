//! What can be answered from memory at once, asked before: for whoever must not wait.
//!
//! The answers are hints. What they say may change at any moment; then somebody waits who would rather not have.

use std::os::fd::AsFd;

use super::Fs;
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
            Some(buffer) if buffer.holds(ByteRange::at(offset, len)) => Ready::Now,
            // What is missing is read with what is ahead of it.
            Some(_) => Ready::Later,
            None if flags & libc::O_DIRECT != 0 => Ready::Later,
            None if sys::is_in_page_cache(handle.as_fd(), offset, len) => Ready::BySource,
            None => Ready::Later,
        }
    }

    /// How soon a write of so many bytes with these flags can be answered.
    #[must_use]
    pub fn can_write(&self, fh: Fh, len: u64, flags: i32) -> Ready {
        let Ok(handle) = self.handle(fh) else {
            return Ready::Now;
        };
        match &handle.buffer {
            _ if flags & PAST != 0 => Ready::Later,
            Some(buffer) if !self.writes_through() => match buffer.asks_for_time() {
                false => Ready::Now,
                // Most files that are made are written to in the same tick. Who holds the file in SOURCE is our own
                // writeback, or somebody from outside.
                true if len <= SMALL && !buffer.is_dirty() => Ready::BySource,
                true => Ready::Later,
            },
            // Past what is dirty in the buffer, which may be much.
            Some(buffer) if buffer.is_dirty() => Ready::Later,
            Some(_) | None => Ready::BySource,
        }
    }

    /// Whether something of the file is to be written back.
    #[must_use]
    pub fn has_dirty(&self, fh: Fh) -> bool {
        let handle = self.handle(fh);
        handle.is_ok_and(|handle| {
            handle
                .buffer
                .as_ref()
                .is_some_and(|buffer| buffer.is_dirty())
        })
    }
}
