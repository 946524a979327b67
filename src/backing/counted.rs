//! A backing that counts what is asked of it: the double for tests and benchmarks of how many calls a
//! buffer makes, and which.
//!
//! Layer: effect. It changes nothing about the calls.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Backing, total};
use crate::sys::{Space, Stat, SyncKind, SysResult, TimeSet, Written};
use crate::types::OwnFd;

/// Writes remembered, the newest. 16 bytes each, so at most 16 MiB; more would only serve a test that
/// should look at less.
const WRITES_MAX: usize = 1 << 20;

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls made, failed ones too.
    pub calls: u64,
    /// Bytes that were read or written; 0 for other kinds.
    pub bytes: u64,
}

/// Calls of all kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Backing::read_at`].
    pub read: Count,
    /// [`Backing::write_at`].
    pub write: Count,
    /// [`Backing::set_size`].
    pub set_size: Count,
    /// [`Backing::sync`].
    pub sync: Count,
    /// [`Backing::stat`].
    pub stat: Count,
    /// [`Backing::set_mtime`].
    pub set_mtime: Count,
    /// [`Backing::space`].
    pub space: Count,
    /// [`Backing::quota_left`].
    pub quota_left: Count,
}

#[derive(Debug, Default)]
struct Counter {
    calls: AtomicU64,
    bytes: AtomicU64,
}

/// A backing and what was asked of it.
#[derive(Debug)]
pub struct Counted<B> {
    inner: B,
    read: Counter,
    write: Counter,
    set_size: Counter,
    sync: Counter,
    stat: Counter,
    set_mtime: Counter,
    space: Counter,
    quota_left: Counter,
    writes: Mutex<VecDeque<(u64, u64)>>,
}

impl<B> Counted<B> {
    /// A backing of which nothing has been asked.
    #[must_use]
    pub fn new(inner: B) -> Counted<B> {
        Counted {
            inner,
            read: Counter::default(),
            write: Counter::default(),
            set_size: Counter::default(),
            sync: Counter::default(),
            stat: Counter::default(),
            set_mtime: Counter::default(),
            space: Counter::default(),
            quota_left: Counter::default(),
            writes: Mutex::default(),
        }
    }

    /// What it wraps; calls to that are not counted.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// What was asked so far. While calls are running, each number is right for some moment, but not
    /// all for the same.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            read: self.read.count(),
            write: self.write.count(),
            set_size: self.set_size.count(),
            sync: self.sync.count(),
            stat: self.stat.count(),
            set_mtime: self.set_mtime.count(),
            space: self.space.count(),
            quota_left: self.quota_left.count(),
        }
    }

    /// Offset and length of each write as it was asked for, whatever became of it, in the order in
    /// which they began: the newest 1,048,576.
    #[must_use]
    pub fn writes(&self) -> Vec<(u64, u64)> {
        self.newest().iter().copied().collect()
    }

    fn newest(&self) -> MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, at: u64, len: u64) {
        let mut newest = self.newest();
        if newest.len() == WRITES_MAX {
            newest.pop_front();
        }
        newest.push_back((at, len));
    }
}

impl Counter {
    fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count(&self) -> Count {
        Count {
            calls: self.calls.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl<B: Backing> Backing for Counted<B> {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        self.read.call();
        let read = self.inner.read_at(bufs, at)?;
        self.read.moved(read as u64);
        Ok(read)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, sync: SyncKind) -> Written {
        self.write.call();
        self.remember(at, total(bufs));
        let written = self.inner.write_at(bufs, at, sync);
        self.write.moved(written.bytes);
        written
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        self.set_size.call();
        self.inner.set_size(size)
    }

    fn sync(&self, kind: SyncKind) -> SysResult<()> {
        self.sync.call();
        self.inner.sync(kind)
    }

    fn stat(&self) -> SysResult<Stat> {
        self.stat.call();
        self.inner.stat()
    }

    fn own_fd(&self) -> Option<OwnFd> {
        self.inner.own_fd()
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        self.set_mtime.call();
        self.inner.set_mtime(mtime)
    }

    fn space(&self) -> SysResult<Space> {
        self.space.call();
        self.inner.space()
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        self.quota_left.call();
        self.inner.quota_left()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Faulty, Memory, When};
    use super::*;
    use crate::error::Errno;

    #[test]
    fn calls_and_the_bytes_they_moved_are_counted() {
        let file = Counted::new(Faulty::new(Memory::new()));
        let out = [IoSlice::new(b"abc"), IoSlice::new(b"de")];
        assert_eq!(file.write_at(&out, 7, SyncKind::None), Written::all(5));
        file.inner().cut_writes(When::Nth(1), 2, Errno::ENOSPC);
        assert_eq!(file.write_at(&out, 1, SyncKind::None).bytes, 2);
        let read = file.read_at(&mut [IoSliceMut::new(&mut [0; 100])], 10);
        assert_eq!(read, Ok(2));
        file.inner().fail(Call::Read, When::Always, Errno::EIO);
        let read = file.read_at(&mut [IoSliceMut::new(&mut [0; 100])], 10);
        assert_eq!(read, Err(Errno::EIO));
        file.set_size(3).unwrap();
        file.sync(SyncKind::Data).unwrap();
        file.set_mtime(TimeSet::At(1, 2)).unwrap();
        assert_eq!(file.stat().unwrap().mtime, (1, 2));
        assert_eq!(file.space().unwrap().total, 0);
        assert_eq!(file.quota_left(), Err(Errno::ESRCH));
        let once = Count { calls: 1, bytes: 0 };
        let expected = Counts {
            read: Count { calls: 2, bytes: 2 },
            write: Count { calls: 2, bytes: 7 },
            set_size: once,
            sync: once,
            stat: once,
            set_mtime: once,
            space: once,
            quota_left: once,
        };
        assert_eq!(file.counts(), expected);
        assert_eq!(file.writes(), [(7, 5), (1, 5)]);
    }

    #[test]
    fn the_newest_writes_are_remembered() {
        let file = Counted::new(());
        for at in 0..=WRITES_MAX as u64 {
            file.remember(at, 1);
        }
        let writes = file.writes();
        assert_eq!(writes.len(), WRITES_MAX);
        assert_eq!(writes.first(), Some(&(1, 1)));
        assert_eq!(writes.last(), Some(&(WRITES_MAX as u64, 1)));
    }
}
