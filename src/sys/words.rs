//! Words in memory that a forked process shares: what is kept in them is still there when the process that
//! kept it is gone.
//!
//! Layer: vocabulary (`sys`). It says nothing of what the words mean.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use super::SysResult;
use super::arena::{map, unmap};
use crate::error::Errno;

/// Atomic words, all zero at first. The system provides a page of them when it is first written to.
pub struct Words {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone, is not bound to a thread, and is reached as atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Address space for `count` words, which no memory is set aside for (`MAP_NORESERVE`, man 2 mmap).
    ///
    /// # Errors
    /// `EINVAL` for none; `ENOMEM` where the address space has no room.
    pub fn new(count: usize) -> SysResult<Words> {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        let bytes = count
            .checked_mul(size_of::<AtomicU64>())
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or(Errno::ENOMEM)?;
        Ok(Words {
            base: map(bytes)?.cast(),
            count,
        })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, begins at a page, was zero at first, which is a valid word, and
        // lives as long as `self`. Other processes change it as atomics only.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({})", self.count)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        unmap(self.base.cast(), self.count * size_of::<AtomicU64>());
    }
}
