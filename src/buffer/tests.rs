//! The engine over files in memory and over real ones: a model test, the account of every byte, failing
//! writebacks, and a stress of many threads on one file with a history of every byte.

#![allow(
    clippy::cast_possible_truncation,
    reason = "offsets of the tests are small"
)]

mod ahead;
mod faults;
mod model;
mod plans;
mod races;
mod room;
mod stress;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::backing::{Backing, Counted, Memory};
use crate::cache::Stream;
use crate::error::Errno;
use crate::event::{ByteText, CacheDid, Cause, Reason};
use crate::types::{ByteRange, Ino, Seq};

/// What a journal was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Wrote {
        range: ByteRange,
        error: Option<Errno>,
        reason: Reason,
        writes: u64,
        conflict: bool,
    },
    Discarded {
        range: ByteRange,
        reason: Reason,
    },
    Evicted {
        blocks: u64,
        reason: Reason,
    },
}

/// A journal that remembers.
#[derive(Debug, Default)]
struct Memo {
    seq: AtomicU64,
    clock: AtomicU64,
    told: Mutex<Vec<Told>>,
}

impl Memo {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut lock(&self.told))
    }
}

impl Journal for Memo {
    fn now(&self) -> Nanos {
        Nanos(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    fn issue(&self, _: &dyn Subject) -> Option<Issued> {
        Some(Issued {
            seq: Seq(self.seq.fetch_add(1, Ordering::Relaxed) + 1),
            at: self.now(),
        })
    }

    fn wrote_back(&self, _: &dyn Subject, _: Issued, done: &WroteBack<'_>) {
        lock(&self.told).push(Told::Wrote {
            range: done.range,
            error: done.error,
            reason: done.reason,
            writes: done.run.writes,
            conflict: done.conflict,
        });
    }

    fn discarded(&self, _: &dyn Subject, range: ByteRange, reason: Reason, _: Cause) {
        lock(&self.told).push(Told::Discarded { range, reason });
    }

    fn evicted(&self, _: &dyn Subject, blocks: u64, reason: Reason) {
        lock(&self.told).push(Told::Evicted { blocks, reason });
    }
}

#[derive(Debug)]
struct Nameless;

impl Subject for Nameless {
    fn ino(&self) -> Ino {
        Ino(1)
    }

    fn path(&self) -> ByteText {
        ByteText::default()
    }
}

/// A file in its buffers.
struct Bench {
    memo: Arc<Memo>,
    buffers: Arc<Buffers>,
    file: Arc<File>,
    backing: Arc<dyn Backing>,
    stream: Mutex<Stream>,
}

fn options() -> Options {
    Options {
        policy: Policy::WriteBack,
        cache_bytes: 4 << 20,
        dirty_limit: 2 << 20,
        dirty_age: None,
        dirty_files: 1000,
        on_close: OnClose::Writeback,
    }
}

impl File {
    /// As `buffer`, for who does not ask why not.
    fn write(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        writer: &Arc<dyn Backing>,
        place: Place,
        data: &[u8],
    ) -> SysResult<Option<Put>> {
        Ok(self.buffer(by, did, writer, place, data)?.ok())
    }
}

impl Bench {
    fn new(options: Options, backing: Arc<dyn Backing>) -> Bench {
        let memo = Arc::new(Memo::default());
        let journal: Arc<dyn Journal> = memo.clone();
        let shared = Arc::new(Shared::new(&options).unwrap());
        let buffers = Buffers::new(options, shared, journal).unwrap();
        let stat = backing.stat().unwrap();
        let file = File::new(&buffers, Arc::new(Nameless), &stat);
        file.count_open();
        Bench {
            memo,
            buffers,
            file,
            backing,
            stream: Mutex::default(),
        }
    }

    fn by(&self) -> By {
        By {
            seq: Some(Seq(self.memo.seq.fetch_add(1, Ordering::Relaxed) + 1)),
            now: self.memo.now(),
        }
    }

    /// Writes as `fs` does: into the buffer, else past it.
    fn write(&self, place: Place, data: &[u8]) -> (Put, Did) {
        let (by, mut did) = (self.by(), Did::new());
        let buffered = self.file.write(&by, &mut did, &self.backing, place, data);
        match buffered.unwrap() {
            Some(put) => (put, did),
            None => self.write_through(place, data, Reason::Memory),
        }
    }

    fn write_through(&self, place: Place, data: &[u8], reason: Reason) -> (Put, Did) {
        self.try_through(place, data, reason).unwrap()
    }

    fn try_through(&self, place: Place, data: &[u8], reason: Reason) -> SysResult<(Put, Did)> {
        let (by, mut did) = (self.by(), Did::new());
        let put = |place, data: &[u8]| {
            let at = match place {
                Place::At(at) | Place::Within(at) => at,
                Place::End => self.backing.stat()?.size,
            };
            let slices = [std::io::IoSlice::new(data)];
            let done = self.backing.write_at(&slices, at, sys::SyncKind::None);
            match done.error {
                Some(errno) if done.bytes == 0 => Err(errno),
                _ => Ok(Put {
                    count: done.bytes as usize,
                    at,
                }),
            }
        };
        let stat = || self.backing.stat();
        let put = self
            .file
            .write_through(&by, &mut did, reason, (place, data), put, stat);
        Ok((put?, did))
    }

    fn read(&self, at: u64, len: usize) -> (Vec<u8>, Did) {
        let (mut out, mut did) = (vec![0xaa; len], Did::new());
        let read = self
            .file
            .read(&mut did, &self.backing, &self.stream, at, &mut out);
        out.truncate(read.unwrap());
        (out, did)
    }

    fn write_back(&self, range: ByteRange) -> SysResult<()> {
        let mut did = Did::new();
        self.file
            .write_back(&self.by(), &mut did, range, Reason::Fsync)
    }

    fn truncate(&self, size: u64) -> Did {
        let mut did = Did::new();
        let done = self.file.truncate(
            &self.by(),
            &mut did,
            size,
            || self.backing.set_size(size),
            || self.backing.stat(),
        );
        done.unwrap();
        did
    }

    fn contents(&self) -> Vec<u8> {
        self.read(0, self.file.size() as usize + 10).0
    }

    fn check(&self) {
        let state = self.file.lock();
        state.cache.check_invariants(self.buffers.storage());
        lock(&self.buffers.pool).check_invariants();
        assert_eq!(self.buffers.dirty_bytes(), state.cache.dirty_bytes());
        assert_eq!(self.file.room.dirty(), state.cache.dirty_blocks());
        let held = state.cache.slots().len();
        let pool = lock(&self.buffers.pool);
        assert_eq!(pool.free() + held, pool.slots(), "no slot is lost");
    }
}

use crate::sys::{self, SysResult};

#[test]
fn small_writes_reach_source_in_few_large_ones() {
    let backing = Arc::new(Counted::new(Memory::new()));
    let large = Options {
        cache_bytes: 256 << 20,
        dirty_limit: 64 << 20,
        ..options()
    };
    let bench = Bench::new(large, backing.clone());
    const WRITES: u64 = 200_000;
    for n in 0..WRITES {
        bench.write(Place::At(n * 100), &[n as u8; 100]);
    }
    bench.write_back(ByteRange::ALL).unwrap();
    let wrote = backing.counts().write;
    let most = WRITES * 100 / (1 << 20) + 8;
    assert_eq!(wrote.bytes, WRITES * 100);
    assert!(
        wrote.calls <= most,
        "{} writes, at most {most}",
        wrote.calls
    );
    let merged = bench.memo.take().into_iter().map(|told| match told {
        Told::Wrote { writes, .. } => writes,
        other => panic!("{other:?}"),
    });
    // A write that two runs share is counted in both.
    let sum: u64 = merged.sum();
    assert!((WRITES..WRITES + wrote.calls).contains(&sum), "{sum}");
    bench.check();
}

#[test]
fn a_file_rewritten_a_hundred_times_is_written_once() {
    let backing = Arc::new(Counted::new(Memory::new()));
    let bench = Bench::new(options(), backing.clone());
    for n in 0..100 {
        bench.write(Place::At(0), &[n; 10_000]);
    }
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(backing.writes(), [(0, 10_000)]);
    assert_eq!(backing.inner().contents(), [99; 10_000]);
}

#[test]
fn what_is_discarded_never_touches_source() {
    let backing = Arc::new(Counted::new(Memory::new()));
    let bench = Bench::new(options(), backing.clone());
    bench.write(Place::At(5), &[1; 10_000]);
    bench.file.bury();
    assert_eq!(bench.memo.take(), [], "it has a name");
    bench.file.lost_name(bench.by().cause());
    bench.file.bury();
    assert_eq!(backing.counts().write.calls, 0);
    let told = bench.memo.take();
    let range = ByteRange::at(5, 10_000);
    let reason = Reason::Unlink;
    assert_eq!(told, [Told::Discarded { range, reason }]);
    bench.check();
}

#[test]
fn a_reader_is_read_ahead_for_and_told_so() {
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
    let backing = Arc::new(Counted::new(Memory::holding(&bytes)));
    let bench = Bench::new(options(), backing.clone());
    let mut all = Did::new();
    for at in (0..1_000_000).step_by(10_000) {
        let (read, did) = bench.read(at, 10_000);
        assert_eq!(read, bytes[at as usize..at as usize + 10_000]);
        all.extend(did);
    }
    let calls = backing.counts().read.calls;
    assert!(calls < 15, "{calls} reads of SOURCE for 100 reads");
    let ahead: u64 = all
        .iter()
        .map(|did| match did {
            CacheDid::Hit { readahead, .. } => *readahead,
            _ => 0,
        })
        .sum();
    assert!(ahead > 800_000, "{ahead} bytes came from read-ahead");
    bench.check();
}

#[test]
fn a_small_cache_holds_what_it_may_and_no_more() {
    let small = Options {
        cache_bytes: 64 << 10,
        dirty_limit: 32 << 10,
        ..options()
    };
    let backing = Arc::new(Memory::new());
    let bench = Bench::new(small, backing.clone());
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n / 3) as u8).collect();
    for (n, piece) in data.chunks(3_000).enumerate() {
        bench.write(Place::At(n as u64 * 3_000), piece);
        bench.buffers.flush();
        assert!(bench.buffers.dirty_bytes() <= 32 << 10);
    }
    assert_eq!(bench.contents(), data);
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(backing.contents(), data);
    let evicted = bench.memo.take().iter().any(
        |told| matches!(told, Told::Evicted { reason: Reason::Memory, blocks } if *blocks > 0),
    );
    assert!(evicted);
    bench.check();
}

#[test]
fn a_change_from_outside_is_noticed_and_dirty_bytes_win() {
    let backing = Arc::new(Memory::holding(&[b'a'; 9_000]));
    let bench = Bench::new(options(), backing.clone());
    assert_eq!(bench.read(0, 9_000).0, [b'a'; 9_000]);
    bench.write(Place::At(100), b"mine");
    // Somebody else writes and extends.
    let slices = [std::io::IoSlice::new(&[b'b'; 10_000])];
    let _ = backing.write_at(&slices, 0, sys::SyncKind::None);
    let mut did = Did::new();
    let stat = bench.file.attributes(&mut did, || backing.stat()).unwrap();
    assert_eq!(stat.size, 10_000);
    let reason = Reason::ChangedBelow;
    // The block with the dirty bytes keeps nothing but them.
    assert_eq!(
        did,
        [CacheDid::Invalidate {
            size: 8_996,
            reason
        }]
    );
    let mut expected = vec![b'b'; 10_000];
    expected[100..104].copy_from_slice(b"mine");
    assert_eq!(bench.contents(), expected);
    bench.memo.take();
    bench.write_back(ByteRange::ALL).unwrap();
    let told = bench.memo.take();
    assert!(
        matches!(&told[..], [Told::Wrote { conflict: true, .. }]),
        "{told:?}"
    );
    assert_eq!(backing.contents(), expected);
    // It is as the view left it now.
    bench.write(Place::At(0), b"x");
    bench.write_back(ByteRange::ALL).unwrap();
    let told = bench.memo.take();
    assert!(matches!(
        &told[..],
        [Told::Wrote {
            conflict: false,
            ..
        }]
    ));
    bench.check();
}

/// What the view itself does next must not hide that somebody else was there before.
#[test]
fn a_change_from_outside_is_noticed_also_when_the_view_changes_the_file_next() {
    type Act = fn(&Bench);
    let acts: [(&str, Act); 4] = [
        ("a write past the buffer", |bench| {
            bench.write_through(Place::At(8_000), b"x", Reason::OSync);
        }),
        ("a truncation", |bench| {
            bench.truncate(9_000);
        }),
        ("a time that is set", |bench| {
            let set = || bench.backing.set_mtime(sys::TimeSet::At(1, 0));
            let stat = || bench.backing.stat();
            let mtime = crate::cache::SetMtime::Set;
            let mut did = Did::new();
            bench
                .file
                .changing_alone(&mut did, mtime, set, stat)
                .unwrap();
        }),
        ("a buffered write", |bench| {
            bench.write(Place::At(8_000), b"x");
        }),
    ];
    for (name, act) in acts {
        let backing = Arc::new(Memory::holding(&[b'a'; 9_000]));
        let bench = Bench::new(options(), backing.clone());
        assert_eq!(bench.read(0, 5).0, b"aaaaa");
        let slices = [std::io::IoSlice::new(b"other")];
        let _ = backing.write_at(&slices, 0, sys::SyncKind::None);
        act(&bench);
        bench
            .file
            .attributes(&mut Did::new(), || backing.stat())
            .unwrap();
        assert_eq!(bench.read(0, 5).0, b"other", "after {name}");
        bench.check();
    }
}

#[test]
fn a_conflict_ends_with_the_bytes_it_was_about() {
    let backing = Arc::new(Memory::holding(b"aaaa"));
    let bench = Bench::new(options(), backing.clone());
    bench.write(Place::At(0), b"mine");
    let slices = [std::io::IoSlice::new(b"others")];
    let _ = backing.write_at(&slices, 0, sys::SyncKind::None);
    bench
        .file
        .attributes(&mut Did::new(), || backing.stat())
        .unwrap();
    bench.truncate(0);
    bench.write(Place::At(0), b"new");
    bench.memo.take();
    bench.write_back(ByteRange::ALL).unwrap();
    let told = bench.memo.take();
    assert!(matches!(
        &told[..],
        [Told::Wrote {
            conflict: false,
            ..
        }]
    ));
}
