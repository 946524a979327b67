//! A filesystem that is only numbers, for files in memory to lie on: the double for tests of what a buffer does
//! when SOURCE is full.
//!
//! Layer: effect. It counts pages, of all its files together, and of what their owner may have of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Errno;
use crate::sys::{Space, SysResult};

/// A filesystem. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Pages>>);

#[derive(Clone, Copy, Debug)]
struct Pages {
    size: u64,
    total: u64,
    free: u64,
    /// What the owner of all files may still have.
    quota: Option<u64>,
}

impl Disk {
    /// An empty one, of so many pages of `size` bytes.
    #[must_use]
    pub fn new(total: u64, size: u64) -> Disk {
        Disk(Arc::new(Mutex::new(Pages {
            size,
            total,
            free: total,
            quota: None,
        })))
    }

    /// From now on, quotas are on and leave so many pages.
    pub fn set_quota(&self, pages: u64) {
        self.pages().quota = Some(pages);
    }

    /// Pages that are free.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.pages().free
    }

    /// Takes a page.
    ///
    /// # Errors
    /// `ENOSPC` and `EDQUOT`.
    pub fn take(&self) -> SysResult<()> {
        let mut pages = self.pages();
        let quota = pages.quota.map(|left| left.checked_sub(1));
        let quota = match quota {
            None => None,
            Some(None) => return Err(Errno::EDQUOT),
            Some(left) => left,
        };
        pages.free = pages.free.checked_sub(1).ok_or(Errno::ENOSPC)?;
        pages.quota = quota;
        Ok(())
    }

    /// Gives so many pages back.
    pub fn give(&self, count: u64) {
        let mut pages = self.pages();
        pages.free += count;
        pages.quota = pages.quota.map(|left| left + count);
    }

    pub(super) fn space(&self) -> Space {
        let pages = *self.pages();
        Space {
            total: pages.total * pages.size,
            free: pages.free * pages.size,
            unit: pages.size,
        }
    }

    pub(super) fn quota_left(&self) -> SysResult<Option<u64>> {
        let pages = *self.pages();
        let left = pages.quota.ok_or(Errno::ESRCH)?;
        Ok(Some(left * pages.size))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
