//! The buffers' beginning and end: the writeback thread, and the drain.

use std::sync::atomic::AtomicBool;

use super::Fs;
use super::inode::lock;
use crate::buffer::{Drained, Flusher, Lost};
use crate::error::Errno;
use crate::event::OwnCause;
use crate::sys::SysResult;

impl Fs {
    /// Starts the thread that writes back what has grown old. Not before the server has forked: a thread
    /// does not survive that.
    ///
    /// # Errors
    /// `EAGAIN` where no thread can be started.
    pub fn start_flusher(&self) -> SysResult<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let flusher = Flusher::start(files.buffers()).map_err(Errno::from)?;
        *lock(&self.flusher) = Some(flusher);
        Ok(())
    }

    /// Writes back everything, until done or `abandon` is set; `tell` hears now and then how many bytes are left.
    /// The view is gone, or as good as gone: who still writes is not waited for, and writes past the buffer.
    pub fn drain(&self, cause: OwnCause, abandon: &AtomicBool, tell: &dyn Fn(u64)) -> Drained {
        let Some(files) = &self.files else {
            return Drained::default();
        };
        let flusher = lock(&self.flusher).take();
        if let Some(flusher) = flusher {
            flusher.stop(abandon);
        }
        files.buffers().drain(cause, abandon, tell)
    }

    /// What the drain has left dirty.
    #[must_use]
    pub fn left_over(&self) -> Vec<Lost> {
        let mut left = Vec::new();
        if let Some(files) = &self.files {
            files.buffers().left_over(&mut |lost| left.push(lost));
        }
        left
    }

    /// Dirty bytes of all files.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        let files = self.files.as_ref();
        files.map_or(0, |files| files.buffers().dirty_bytes())
    }
}
