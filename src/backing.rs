//! SOURCE: file data. The few calls that a buffer needs to bring data in and to write it back, as a
//! trait, so that the buffer can be tried on a file that fails, is slow, or is only memory.
//!
//! Layer: effect, alone; imports the vocabulary. Names, permissions, extended attributes and open
//! modes are not here: a backing is a file that somebody has opened. It holds no data back and caches
//! nothing: what it has taken, every other reader of SOURCE sees.
//!
//! [`Real`] is the one that mounts use. [`Memory`], [`Faulty`] and [`Counted`] are the doubles that
//! tests and benchmarks put in its place, and may be stacked: `Counted<Faulty<Memory>>`.

mod counted;
mod disk;
mod faulty;
mod memory;
mod real;

pub use counted::{Count, Counted, Counts};
pub use disk::Disk;
pub use faulty::{Call, Faulty, When};
pub use memory::Memory;
pub use real::Real;

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use crate::sys::{Space, Stat, SyncKind, SysResult, TimeSet, Written};
use crate::types::OwnFd;

/// The data of one file of SOURCE. Calls may come from many threads at once; calls that overlap are
/// for the caller to order.
pub trait Backing: Send + Sync + fmt::Debug {
    /// Fills the buffers, in their order, with the file's bytes from `at` on. A short count means
    /// that the file ends there, and nothing else.
    ///
    /// # Errors
    /// Those of preadv(2). Then the buffers may hold anything, also where a part was readable.
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize>;

    /// Writes the buffers, in their order, from `at` on, until all is written or it fails: both some
    /// bytes and an error may be. Errors are those of pwritev2(2).
    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, sync: SyncKind) -> Written;

    /// Cuts the file, or extends it by a hole, to `size` bytes.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    fn set_size(&self, size: u64) -> SysResult<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of fsync(2) and fdatasync(2).
    fn sync(&self, kind: SyncKind) -> SysResult<()>;

    /// The file's attributes.
    ///
    /// # Errors
    /// Those of statx(2).
    fn stat(&self) -> SysResult<Stat>;

    /// The descriptor behind it, if there is one: a process that shares this one's descriptors can write with
    /// it when this one is gone.
    fn own_fd(&self) -> Option<OwnFd> {
        None
    }

    /// Sets the time of last modification: to a time, or to now by the clock of SOURCE. Leaves the access
    /// time; the change time becomes now, as with every change of an inode.
    ///
    /// # Errors
    /// Those of utimensat(2).
    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()>;

    /// The space of the filesystem that the file is on.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    fn space(&self) -> SysResult<Space>;

    /// Bytes that the quotas which the file counts for leave; `None` where there is no limit.
    ///
    /// # Errors
    /// `ESRCH` where the filesystem counts nothing for anybody.
    fn quota_left(&self) -> SysResult<Option<u64>>;
}

impl<B: Backing + ?Sized> Backing for Arc<B> {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        (**self).read_at(bufs, at)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, sync: SyncKind) -> Written {
        (**self).write_at(bufs, at, sync)
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        (**self).set_size(size)
    }

    fn sync(&self, kind: SyncKind) -> SysResult<()> {
        (**self).sync(kind)
    }

    fn stat(&self) -> SysResult<Stat> {
        (**self).stat()
    }

    fn own_fd(&self) -> Option<OwnFd> {
        (**self).own_fd()
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        (**self).set_mtime(mtime)
    }

    fn space(&self) -> SysResult<Space> {
        (**self).space()
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        (**self).quota_left()
    }
}

/// Bytes of all buffers of a write.
fn total(bufs: &[IoSlice<'_>]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<Vec<u8>>),
        Read(u64, Vec<usize>),
        SetSize(u64),
    }

    /// Near the start, where all steps meet, and far out, where files are sparse.
    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0..20_000u64, 1 => (0..9_000u64).prop_map(|at| (1 << 40) + at)]
    }

    fn step() -> impl Strategy<Value = Step> {
        // Each buffer of one byte over and over: what is shrunk stays legible.
        let buffer = (any::<u8>(), 0..3_000usize).prop_map(|(byte, len)| vec![byte; len]);
        prop_oneof![
            4 => (place(), vec(buffer, 0..6)).prop_map(|(at, bufs)| Step::Write(at, bufs)),
            3 => (place(), vec(0..5_000usize, 0..6)).prop_map(|(at, lens)| Step::Read(at, lens)),
            2 => place().prop_map(Step::SetSize),
        ]
    }

    fn read(file: &dyn Backing, at: u64, lens: &[usize]) -> (SysResult<usize>, Vec<Vec<u8>>) {
        let mut room: Vec<Vec<u8>> = lens.iter().map(|len| vec![9; *len]).collect();
        let mut bufs: Vec<_> = room.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let got = file.read_at(&mut bufs, at);
        (got, room)
    }

    fn write(file: &dyn Backing, at: u64, bufs: &[Vec<u8>]) -> Written {
        let bufs: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        file.write_at(&bufs, at, SyncKind::None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_file_in_memory_is_as_one_on_disk(steps in vec(step(), 1..20)) {
            let real = Real::new(Arc::new(tempfile::tempfile().unwrap().into()));
            let memory = Memory::new();
            for step in steps {
                match step {
                    Step::Write(at, bufs) => {
                        prop_assert_eq!(write(&real, at, &bufs), write(&memory, at, &bufs));
                    }
                    Step::Read(at, lens) => {
                        prop_assert_eq!(read(&real, at, &lens), read(&memory, at, &lens));
                    }
                    Step::SetSize(size) => {
                        prop_assert_eq!(real.set_size(size), memory.set_size(size));
                    }
                }
                prop_assert_eq!(real.stat().unwrap().size, memory.stat().unwrap().size);
            }
            for at in [0, (1 << 40) - 9] {
                prop_assert!(read(&real, at, &[50_000]) == read(&memory, at, &[50_000]));
            }
        }
    }

    #[test]
    fn a_shared_backing_is_a_backing() {
        let file: Arc<dyn Backing> = Arc::new(Counted::new(Memory::holding(b"abc")));
        let twice = Arc::new(Arc::clone(&file));
        twice.set_size(2).unwrap();
        assert_eq!(write(&twice, 2, &[b"xy".to_vec()]), Written::all(2));
        assert_eq!(read(&file, 1, &[2, 9]).0, Ok(3));
        twice.sync(SyncKind::All).unwrap();
        twice.set_mtime(TimeSet::At(7, 0)).unwrap();
        assert_eq!(twice.stat().unwrap().mtime, (7, 0));
    }
}
