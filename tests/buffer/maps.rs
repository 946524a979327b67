//! Mappings of files that are dirty: case 18.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::errno::Errno;

use crate::call::{fallocate, fd, fork};
use crate::view::{all_of, each, pattern, same};

/// A shared mapping, read and written bytewise as others do the same.
pub(crate) struct Map {
    start: NonNull<u8>,
    size: usize,
}

impl Map {
    pub(crate) fn new(file: &File, size: usize) -> Map {
        let (null, prot) = (std::ptr::null_mut(), PROT_READ | PROT_WRITE);
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(null, size, prot, MAP_SHARED, fd(file), 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", Errno::last());
        Map {
            start: NonNull::new(start.cast()).unwrap(),
            size,
        }
    }

    pub(crate) fn get(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        assert!(range.end <= self.size);
        // SAFETY: inside the mapping; volatile, as others change it.
        range
            .map(|i| unsafe { self.start.add(i).read_volatile() })
            .collect()
    }

    pub(crate) fn set(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.size);
        for (i, &byte) in (offset..).zip(data) {
            // SAFETY: inside the mapping, which is writable.
            unsafe { self.start.add(i).write_volatile(byte) };
        }
    }

    pub(crate) fn sync(&self) {
        assert_eq!(self.try_sync(), Ok(()), "msync");
    }

    pub(crate) fn try_sync(&self) -> Result<(), Errno> {
        // SAFETY: the mapping's own range.
        let synced = unsafe { libc::msync(self.start.as_ptr().cast(), self.size, libc::MS_SYNC) };
        Errno::result(synced).map(drop)
    }
}

// SAFETY: the memory is shared with other processes anyhow; each access is volatile, of one byte.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping's own range; nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

#[test]
fn case_18_a_mapping_and_reads_and_writes_are_one_file() {
    each(|v| {
        let mut wanted = pattern(50_000, 1);
        let f = v.create("f");
        f.write_all_at(&wanted, 0).unwrap();
        let map = Map::new(&f, wanted.len());
        let second = Map::new(&v.open("f", libc::O_RDWR), wanted.len());
        same("mapped while dirty", &map.get(0..50_000), &wanted);
        map.set(4_090, b"stored across pages");
        wanted[4_090..4_109].copy_from_slice(b"stored across pages");
        same("read after a store", &all_of(&f), &wanted);
        f.write_all_at(&pattern(9_000, 2), 4_100).unwrap();
        wanted[4_100..13_100].copy_from_slice(&pattern(9_000, 2));
        same("mapped after a write", &map.get(0..50_000), &wanted);
        same("the second mapping", &second.get(0..50_000), &wanted);
        second.set(40_000, b"second");
        wanted[40_000..40_006].copy_from_slice(b"second");
        map.sync();
        v.holds("f", &wanted);
        drop(f);
        // A mapping outlives its descriptor.
        map.set(1, b"after close");
        wanted[1..12].copy_from_slice(b"after close");
        map.sync();
        drop((map, second));
        v.shows("f", &wanted);
        v.holds("f", &wanted);
    });
}

#[test]
fn case_18_stores_reach_source_when_the_mapping_is_gone_and_the_file_synced() {
    each(|v| {
        let mut wanted = pattern(10_000, 1);
        v.given("f", &wanted);
        let f = v.open("f", libc::O_RDWR);
        let map = Map::new(&f, wanted.len());
        map.set(5_000, b"stored");
        wanted[5_000..5_006].copy_from_slice(b"stored");
        drop(map);
        f.sync_all().unwrap();
        v.holds("f", &wanted);
        v.shows("f", &wanted);
    });
}

#[test]
fn case_18_truncate_and_fallocate_are_seen_in_a_mapping_and_a_store_past_the_end_stays_out() {
    each(|v| {
        let mut wanted = pattern(20_000, 1);
        let f = v.create("f");
        f.write_all_at(&wanted, 0).unwrap();
        let map = Map::new(&f, wanted.len());
        map.set(100, b"stored");
        wanted[100..106].copy_from_slice(b"stored");
        f.set_len(10_000).unwrap();
        wanted.truncate(10_000);
        // Past the end in the last page: it is never data.
        map.set(10_100, b"nowhere");
        same("after truncate", &all_of(&f), &wanted);
        f.set_len(15_000).unwrap();
        wanted.resize(15_000, 0);
        same("after it grew", &all_of(&f), &wanted);
        same(
            "the mapping after it grew",
            &map.get(9_000..15_000),
            &wanted[9_000..],
        );
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        fallocate(&f, punch, 50, 5_000).unwrap();
        wanted[50..5_050].fill(0);
        same("after a punch", &map.get(0..15_000), &wanted);
        map.set(60, b"into the hole");
        wanted[60..73].copy_from_slice(b"into the hole");
        map.sync();
        drop(map);
        drop(f);
        v.shows("f", &wanted);
        v.holds_as_closed("f", &wanted);
    });
}

#[test]
fn case_18_appends_of_several_pages_are_seen_in_a_mapping() {
    each(|v| {
        let mut wanted = pattern(5_000, 1);
        let f = v.open("f", libc::O_RDWR | libc::O_CREAT | libc::O_APPEND);
        let append = |data: &[u8]| std::io::Write::write_all(&mut &f, data).unwrap();
        append(&wanted);
        let map = Map::new(&f, 40_960);
        same("before", &map.get(0..5_000), &wanted);
        map.set(4_999, b"!");
        wanted[4_999] = b'!';
        append(&pattern(30_000, 2));
        wanted.extend(pattern(30_000, 2));
        same("after the append", &map.get(0..35_000), &wanted);
        drop(map);
        v.shows("f", &wanted);
    });
}

#[test]
fn case_18_touching_a_page_past_the_end_is_a_sigbus() {
    each(|v| {
        let f = v.create("f");
        f.write_all_at(&pattern(20_000, 1), 0).unwrap();
        let map = Map::new(&f, 20_000);
        assert_eq!(map.get(16_384..16_390), pattern(20_000, 1)[16_384..16_390]);
        f.set_len(5_000).unwrap();
        let child = fork(|| {
            map.get(16_384..16_385);
            true
        });
        assert_eq!(child.wait(), 128 + libc::SIGBUS);
        v.shows("f", &pattern(20_000, 1)[..5_000]);
    });
}
