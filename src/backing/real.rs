//! A file of SOURCE, by its descriptor.
//!
//! Layer: effect. How the descriptor was opened decides what it can do: reading and writing need
//! those modes, and `O_APPEND` must not be set, as Linux then ignores the offset of a write
//! (man 2 pwrite, BUGS).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use super::Backing;
use crate::sys::{self, Space, Stat, SyncKind, SysResult, TimeSet, Written};
use crate::types::OwnFd;

/// The descriptor of an open file.
#[derive(Clone, Debug)]
pub struct Real(Arc<OwnedFd>);

impl Real {
    /// A backing by a descriptor that others may hold too.
    #[must_use]
    pub fn new(fd: Arc<OwnedFd>) -> Real {
        Real(fd)
    }
}

impl Backing for Real {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        sys::read_vectored_at(self.0.as_fd(), bufs, at)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, sync: SyncKind) -> Written {
        sys::write_vectored_at(self.0.as_fd(), bufs, at, sync)
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        sys::set_size(self.0.as_fd(), size)
    }

    fn sync(&self, kind: SyncKind) -> SysResult<()> {
        sys::fsync(self.0.as_fd(), kind)
    }

    fn stat(&self) -> SysResult<Stat> {
        sys::stat(self.0.as_fd())
    }

    fn own_fd(&self) -> Option<OwnFd> {
        u32::try_from(self.0.as_raw_fd()).ok().map(OwnFd)
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        sys::set_times(self.0.as_fd(), TimeSet::Keep, mtime)
    }

    fn space(&self) -> SysResult<Space> {
        sys::space(self.0.as_fd())
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        sys::quota_left(self.0.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_time_of_modification_leaves_that_of_access() {
        let file = Real::new(Arc::new(tempfile::tempfile().unwrap().into()));
        let before = file.stat().unwrap();
        file.set_mtime(TimeSet::At(1_000_000_000, 123_456_789))
            .unwrap();
        let after = file.stat().unwrap();
        assert_eq!(after.mtime, (1_000_000_000, 123_456_789));
        assert_eq!(after.atime, before.atime);
        assert!(after.ctime >= before.ctime);
    }
}
