//! What can be answered from memory at once, asked before: for whoever must not wait.
//!
//! The answers are hints. What they say may change at any moment; then somebody waits who would rather not have.

use super::Fs;
use crate::types::{ByteRange, Fh};

impl Fs {
    /// Whether all of a read is in the buffer.
    #[must_use]
    pub fn has_buffered(&self, fh: Fh, offset: u64, len: u64) -> bool {
        let Ok(handle) = self.handle(fh) else {
            return true;
        };
        let buffer = handle.buffer.as_ref();
        buffer.is_some_and(|buffer| buffer.holds(ByteRange::at(offset, len)))
    }

    /// Whether a write with these flags goes into the buffer.
    #[must_use]
    pub fn takes_to_buffer(&self, fh: Fh, flags: i32) -> bool {
        let Ok(handle) = self.handle(fh) else {
            return true;
        };
        let past = libc::O_DIRECT | libc::O_SYNC | libc::O_DSYNC;
        handle.buffer.is_some() && flags & past == 0 && !self.writes_through()
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
