//! A file that is only memory: the double for tests of what a buffer does to a file's bytes.
//!
//! Layer: effect. Sparse as a file on disk is: only pages that were written to take memory. Its clock
//! is logical: it moves by a second with each change of the file, so that "changed since" has one
//! answer in every run. Nothing fails but what no file can have, and what the [`Disk`] that it lies on has no room for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backing, Disk, total};
use crate::error::Errno;
use crate::sys::{Space, Stat, SyncKind, SysResult, TimeSet, Written};

/// Bytes that are allocated together. As pages of the kernel, so that holes look alike.
const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;
/// No file is larger (`off_t`).
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

type Page = Box<[u8; PAGE]>;

/// A file in memory. A clone is a second handle to the same file.
#[derive(Clone)]
pub struct Memory {
    ino: u64,
    file: Arc<Mutex<File>>,
}

/// Invariant: no page starts at or behind the size, and the bytes of a page behind the size are zero.
struct File {
    /// By page number: offset / `PAGE`.
    pages: BTreeMap<u64, Page>,
    size: u64,
    /// Changes so far: the time, in seconds.
    clock: i64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    /// Where its pages come from; none where there is room without end.
    disk: Option<Disk>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    /// An empty file, with an inode number of its own.
    #[must_use]
    pub fn new() -> Memory {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let file = File {
            pages: BTreeMap::new(),
            size: 0,
            clock: 0,
            mtime: (0, 0),
            ctime: (0, 0),
            disk: None,
        };
        Memory {
            ino: MADE.fetch_add(1, Ordering::Relaxed) + 1,
            file: Arc::new(Mutex::new(file)),
        }
    }

    /// An empty file on a disk.
    #[must_use]
    pub fn on(disk: &Disk) -> Memory {
        let memory = Memory::new();
        memory.file().disk = Some(disk.clone());
        memory
    }

    /// A file that holds these bytes.
    #[must_use]
    pub fn holding(bytes: &[u8]) -> Memory {
        let memory = Memory::new();
        memory.file().put(bytes, 0);
        memory
    }

    /// All of the file, its holes as zeros. Only for files that fit into memory.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let file = self.file();
        let size = usize::try_from(file.size).expect("a file to look at fits into memory");
        let mut bytes = vec![0; size];
        file.get(&mut bytes, 0);
        bytes
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.file().size)
    }
}

impl Backing for Memory {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        if at > SIZE_MAX && bufs.iter().any(|buf| !buf.is_empty()) {
            return Err(Errno::EINVAL);
        }
        let file = self.file();
        let mut done = 0;
        for buf in bufs {
            let got = file.get(buf, at.saturating_add(done as u64));
            done += got;
            if got < buf.len() {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, _sync: SyncKind) -> Written {
        let bytes = total(bufs);
        if bytes == 0 {
            return Written::all(0);
        }
        if at > SIZE_MAX {
            return Written::failed(Errno::EINVAL);
        }
        if bytes > SIZE_MAX - at {
            return Written::failed(Errno::EFBIG);
        }
        let mut file = self.file();
        let (fits, error) = file.take_pages(at, bytes);
        if fits == 0
            && let Some(error) = error
        {
            return Written::failed(error);
        }
        let (mut pos, mut left) = (at, usize::try_from(fits).unwrap_or(usize::MAX));
        for buf in bufs {
            let here = &buf[..buf.len().min(left)];
            file.put(here, pos);
            pos += here.len() as u64;
            left -= here.len();
        }
        file.modified();
        Written { bytes: fits, error }
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let mut file = self.file();
        file.cut(size);
        file.size = size;
        file.modified();
        Ok(())
    }

    fn sync(&self, _kind: SyncKind) -> SysResult<()> {
        Ok(())
    }

    fn stat(&self) -> SysResult<Stat> {
        let file = self.file();
        Ok(Stat {
            ino: self.ino,
            dev: 0,
            mode: libc::S_IFREG | 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: file.size,
            blocks: file.pages.len() as u64 * (PAGE_BYTES / 512),
            blksize: 4096,
            atime: (0, 0),
            mtime: file.mtime,
            ctime: file.ctime,
            btime: None,
        })
    }

    fn space(&self) -> SysResult<Space> {
        let file = self.file();
        Ok(file.disk.as_ref().map_or_else(Space::default, Disk::space))
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        let file = self.file();
        file.disk
            .as_ref()
            .map_or(Err(Errno::ESRCH), Disk::quota_left)
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        let mut file = self.file();
        file.ctime = file.tick();
        match mtime {
            TimeSet::Keep => {}
            TimeSet::Now => file.mtime = file.ctime,
            TimeSet::At(sec, nsec) => file.mtime = (sec, nsec),
        }
        Ok(())
    }
}

impl File {
    fn tick(&mut self) -> (i64, u32) {
        self.clock += 1;
        (self.clock, 0)
    }

    fn modified(&mut self) {
        self.mtime = self.tick();
        self.ctime = self.mtime;
    }

    /// Copies what the file has from `at` on, as much as fits.
    fn get(&self, buf: &mut [u8], at: u64) -> usize {
        let there = self.size.saturating_sub(at);
        let len = usize::try_from(there).map_or(buf.len(), |there| there.min(buf.len()));
        let mut rest = &mut buf[..len];
        let mut pos = at;
        while !rest.is_empty() {
            let (number, inside, step) = place(pos, rest.len());
            let (here, more) = rest.split_at_mut(step);
            match self.pages.get(&number) {
                Some(page) => here.copy_from_slice(&page[inside..inside + step]),
                None => here.fill(0),
            }
            pos += step as u64;
            rest = more;
        }
        len
    }

    /// Sees to it that there are pages for `bytes` bytes from `at` on, or for as many as there is room for, and why
    /// not for more.
    fn take_pages(&self, at: u64, bytes: u64) -> (u64, Option<Errno>) {
        let Some(disk) = &self.disk else {
            return (bytes, None);
        };
        let mut pos = at;
        while pos < at + bytes {
            let (number, ..) = place(pos, 0);
            if !self.pages.contains_key(&number)
                && let Err(error) = disk.take()
            {
                return (pos - at, Some(error));
            }
            pos = (number + 1) * PAGE_BYTES;
        }
        (bytes, None)
    }

    /// Puts bytes at a place, which with them fits into a file.
    fn put(&mut self, bytes: &[u8], at: u64) {
        let (mut rest, mut pos) = (bytes, at);
        while !rest.is_empty() {
            let (number, inside, step) = place(pos, rest.len());
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| Box::new([0; PAGE]));
            let (here, more) = rest.split_at(step);
            page[inside..inside + step].copy_from_slice(here);
            pos += step as u64;
            rest = more;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(pos);
        }
    }

    /// Forgets what is behind `size`.
    fn cut(&mut self, size: u64) {
        let (number, inside, _) = place(size, 0);
        let first = if inside == 0 { number } else { number + 1 };
        let gone = self.pages.split_off(&first);
        if let Some(disk) = &self.disk {
            disk.give(gone.len() as u64);
        }
        if inside == 0 {
            return;
        }
        if let Some(page) = self.pages.get_mut(&number) {
            page[inside..].fill(0);
        }
    }
}

/// Where a byte lies: the number of its page, its place in it, and how many of `len` bytes from it on
/// lie in that page.
fn place(at: u64, len: usize) -> (u64, usize, usize) {
    let inside = usize::try_from(at % PAGE_BYTES).expect("less than a page");
    (at / PAGE_BYTES, inside, len.min(PAGE - inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_for_so_many_pages_of_all_its_files_and_gets_them_back() {
        let disk = Disk::new(3, PAGE_BYTES);
        let (one, two) = (Memory::on(&disk), Memory::on(&disk));
        assert_eq!(write(&one, b"x", 5_000), Written::all(1));
        let cut = write(&two, &[1; 3 * PAGE], 100);
        assert_eq!((cut.bytes, cut.error), (8_092, Some(Errno::ENOSPC)));
        assert_eq!(write(&one, b"over", 5_000), Written::all(4));
        assert_eq!(write(&one, b"x", 0), Written::failed(Errno::ENOSPC));
        two.set_size(PAGE_BYTES).unwrap();
        assert_eq!(disk.free(), 1);
        disk.set_quota(0);
        assert_eq!(write(&one, b"x", 0), Written::failed(Errno::EDQUOT));
        assert_eq!(one.quota_left(), Ok(Some(0)));
        assert_eq!(one.space().unwrap().free, PAGE_BYTES);
    }

    fn write(file: &Memory, bytes: &[u8], at: u64) -> Written {
        file.write_at(&[IoSlice::new(bytes)], at, SyncKind::None)
    }

    fn read(file: &Memory, len: usize, at: u64) -> Vec<u8> {
        let mut bytes = vec![9; len];
        let got = file
            .read_at(&mut [IoSliceMut::new(&mut bytes)], at)
            .unwrap();
        bytes.truncate(got);
        bytes
    }

    #[test]
    fn a_clone_is_the_same_file() {
        let file = Memory::holding(b"abc");
        assert_eq!(write(&file.clone(), b"xy", 2), Written::all(2));
        assert_eq!(file.contents(), b"abxy");
        assert_eq!(file.stat().unwrap().ino, file.clone().stat().unwrap().ino);
        assert_ne!(file.stat().unwrap().ino, Memory::new().stat().unwrap().ino);
    }

    #[test]
    fn a_write_far_out_takes_the_memory_of_its_page() {
        let file = Memory::new();
        assert_eq!(write(&file, b"far", 1 << 40), Written::all(3));
        let stat = file.stat().unwrap();
        assert_eq!((stat.size, stat.blocks), ((1 << 40) + 3, 8));
        assert_eq!(read(&file, 8, (1 << 40) - 2), b"\0\0far");
        assert_eq!(read(&file, 5, 1 << 39), [0; 5]);
        file.set_size(1 << 40).unwrap();
        assert_eq!(file.stat().unwrap().blocks, 0);
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let file = Memory::holding(&[7; 3 * PAGE]);
        file.set_size(PAGE_BYTES + 1).unwrap();
        file.set_size(3 * PAGE_BYTES).unwrap();
        let mut expected = vec![0; 3 * PAGE];
        expected[..=PAGE].fill(7);
        assert_eq!(file.contents(), expected);
        assert_eq!(file.stat().unwrap().blocks, 16);
    }

    #[test]
    fn time_moves_with_each_change_and_only_then() {
        let file = Memory::holding(b"abc");
        let times = || {
            let stat = file.stat().unwrap();
            (stat.mtime, stat.ctime)
        };
        assert_eq!(times(), ((0, 0), (0, 0)));
        assert_eq!(write(&file, b"x", 0), Written::all(1));
        assert_eq!(times(), ((1, 0), (1, 0)));
        assert_eq!(write(&file, b"", 9), Written::all(0));
        assert_eq!(read(&file, 3, 0), b"xbc");
        file.sync(SyncKind::All).unwrap();
        assert_eq!(times(), ((1, 0), (1, 0)));
        file.set_mtime(TimeSet::At(1_000, 5)).unwrap();
        assert_eq!(times(), ((1_000, 5), (2, 0)));
        file.set_size(3).unwrap();
        assert_eq!(times(), ((3, 0), (3, 0)));
    }

    #[test]
    fn what_no_file_can_have_is_refused() {
        let file = Memory::new();
        assert_eq!(write(&file, b"x", u64::MAX), Written::failed(Errno::EINVAL));
        assert_eq!(
            write(&file, b"xy", SIZE_MAX - 1),
            Written::failed(Errno::EFBIG)
        );
        assert_eq!(file.set_size(SIZE_MAX + 1), Err(Errno::EFBIG));
        assert_eq!(write(&file, b"x", SIZE_MAX - 1), Written::all(1));
        assert_eq!(read(&file, 9, SIZE_MAX - 2), b"\0x");
        assert_eq!(read(&file, 9, SIZE_MAX), b"");
    }
}
