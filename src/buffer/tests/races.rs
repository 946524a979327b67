//! What happens while something else does: each of these went wrong once.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::cache::SetMtime;
use crate::event::OwnCause;
use crate::sys::{Space, Stat, SyncKind, TimeSet, Written};

pub(super) type Hook = Box<dyn FnMut() + Send>;

/// A file in memory, and what is done before each write, and after each read.
#[derive(Default)]
pub(super) struct Hooked {
    pub(super) inner: Memory,
    before_write: Mutex<Option<Hook>>,
    pub(super) after_read: Mutex<Option<Hook>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    /// The hook is away while it works: what it does itself does not call it.
    fn call(hook: &Mutex<Option<Hook>>) {
        let taken = lock(hook).take();
        if let Some(mut work) = taken {
            work();
            lock(hook).get_or_insert(work);
        }
    }
}

impl Backing for Hooked {
    fn read_at(&self, bufs: &mut [std::io::IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        let read = self.inner.read_at(bufs, at);
        Hooked::call(&self.after_read);
        read
    }

    fn write_at(&self, bufs: &[std::io::IoSlice<'_>], at: u64, sync: SyncKind) -> Written {
        Hooked::call(&self.before_write);
        self.inner.write_at(bufs, at, sync)
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        self.inner.set_size(size)
    }

    fn sync(&self, kind: SyncKind) -> SysResult<()> {
        self.inner.sync(kind)
    }

    fn stat(&self) -> SysResult<Stat> {
        self.inner.stat()
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        self.inner.set_mtime(mtime)
    }

    fn space(&self) -> SysResult<Space> {
        self.inner.space()
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        self.inner.quota_left()
    }
}

pub(super) fn hooked(options: Options) -> (Arc<Hooked>, Arc<Bench>) {
    let backing = Arc::new(Hooked::default());
    let bench = Arc::new(Bench::new(options, backing.clone()));
    (backing, bench)
}

/// Waits for what must come.
pub(super) fn until(what: &str, come: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !come() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::yield_now();
    }
}

#[test]
fn bytes_that_become_dirty_during_a_flush_grow_old_too() {
    let aged = Options {
        dirty_age: Some(Nanos(1)),
        ..options()
    };
    let (backing, bench) = hooked(aged);
    let mine = Arc::downgrade(&bench);
    let written = AtomicBool::new(false);
    *lock(&backing.before_write) = Some(Box::new(move || {
        if let Some(bench) = mine
            .upgrade()
            .filter(|_| !written.swap(true, Ordering::SeqCst))
        {
            bench.write(Place::At(0), b"two");
        }
    }));
    let flusher = Flusher::start(&bench.buffers).unwrap();
    bench.write(Place::At(0), b"one");
    until("the second writeback", || {
        backing.inner.contents() == b"two" && bench.file.dirty_bytes() == 0
    });
    drop(flusher);
    bench.check();
}

#[test]
fn a_writeback_of_a_file_that_grows_as_fast_as_it_is_written_ends() {
    let (backing, bench) = hooked(options());
    let (mine, writes) = (Arc::downgrade(&bench), Arc::new(AtomicU64::new(0)));
    let count = writes.clone();
    *lock(&backing.before_write) = Some(Box::new(move || {
        let bench = mine.upgrade().unwrap();
        if count.fetch_add(1, Ordering::SeqCst) < 100 {
            bench.write(Place::End, &[2; BLOCK_SIZE]);
        }
    }));
    bench.write(Place::End, &[1; 10_000]);
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(writes.load(Ordering::SeqCst), 1);
    assert_eq!(bench.file.dirty_bytes(), BLOCK_SIZE as u64);
    *lock(&backing.before_write) = None;
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(bench.contents(), backing.inner.contents());
    bench.check();
}

#[test]
fn a_read_during_a_truncation_finds_what_is_there_before_and_after() {
    let (backing, bench) = hooked(options());
    let reads = Arc::new(AtomicU64::new(0));
    let count = reads.clone();
    let _ = backing
        .inner
        .write_at(&[std::io::IoSlice::new(&[1; 100_000])], 0, SyncKind::None);
    bench
        .file
        .attributes(&mut Did::new(), || backing.stat())
        .unwrap();
    *lock(&backing.after_read) = Some(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    std::thread::scope(|scope| {
        let reader = bench.clone();
        let reader = move || {
            let read = reader.read(0, 100_000).0.len();
            assert!(read >= 50_000, "only {read} bytes");
        };
        let change = || {
            backing.set_size(50_000)?;
            scope.spawn(reader);
            until("the second try", || reads.load(Ordering::SeqCst) >= 2);
            // The third waits for the truncation; one that did not would come within this time.
            let grace = Instant::now() + Duration::from_millis(100);
            while reads.load(Ordering::SeqCst) < 3 && Instant::now() < grace {
                std::thread::yield_now();
            }
            Ok(())
        };
        let mut did = Did::new();
        let stat = || backing.stat();
        bench
            .file
            .truncate(&bench.by(), &mut did, 50_000, change, stat)
            .unwrap();
    });
    bench.check();
}

#[test]
fn a_size_that_was_found_before_a_writeback_is_not_shown_after_it() {
    let (backing, bench) = hooked(options());
    let found = bench.file.attributes(&mut Did::new(), || {
        let found = backing.stat();
        // Meanwhile another thread appends, and its bytes are written back.
        bench.write(Place::End, &[7; 100]);
        bench.write_back(ByteRange::ALL).unwrap();
        found
    });
    assert_eq!(found.unwrap().size, bench.file.size());
}

#[test]
fn what_the_view_itself_does_is_no_change_from_outside() {
    let (backing, bench) = hooked(options());
    bench.write(Place::At(0), &[1; 9_000]);
    bench.write_back(ByteRange::ALL).unwrap();
    bench.write(Place::At(0), b"mine");
    bench.memo.take();
    let mut did = Did::new();
    let mut look = || {
        let found = backing.stat();
        // Meanwhile another thread sets the time.
        let set = || backing.set_mtime(TimeSet::At(77, 0));
        let stat = || backing.stat();
        let mut its = Did::new();
        let done = bench
            .file
            .changing_alone(&mut its, SetMtime::Set, set, stat);
        done.and(found)
    };
    bench.file.attributes(&mut did, &mut look).unwrap();
    assert_eq!(did, []);
    bench.write_back(ByteRange::ALL).unwrap();
    let told = bench.memo.take();
    let [Told::Wrote { conflict, .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(!conflict);
    bench.check();
}

#[test]
fn scattered_bytes_are_written_back_before_they_take_all_memory() {
    let (_, bench) = hooked(options());
    let flusher = Flusher::start(&bench.buffers).unwrap();
    // 16 MiB of blocks in a cache of 4, and only 4 KiB of bytes.
    for n in 0..4096 {
        let (_, did) = bench.write(Place::At(n * BLOCK_SIZE as u64), b"x");
        assert!(
            matches!(did[..], [CacheDid::Buffered { .. }]),
            "{n}: {did:?}"
        );
        until("room", || bench.buffers.gate().closed().is_none());
    }
    drop(flusher);
    let reasons = bench.memo.take().into_iter().filter_map(|told| match told {
        Told::Wrote { reason, .. } => Some(reason),
        _ => None,
    });
    assert!(reasons.count() > 0);
    bench.write_back(ByteRange::ALL).unwrap();
    bench.check();
}

#[test]
fn a_panic_in_a_writeback_costs_nobody_their_bytes() {
    let (backing, bench) = hooked(options());
    bench.write(Place::At(0), &[1; 10_000]);
    *lock(&backing.before_write) = Some(Box::new(|| panic!("of this test")));
    let wrote = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bench.write_back(ByteRange::ALL)
    }));
    assert!(wrote.is_err());
    assert_eq!(bench.file.dirty_bytes(), 10_000);
    bench.check();
    // The hook is gone with the panic.
    bench.write(Place::At(5_000), &[2; 10_000]);
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(bench.contents(), backing.inner.contents());
    assert_eq!(bench.file.dirty_bytes(), 0);
}

#[test]
fn who_gives_up_does_not_wait_for_a_disk_that_does_not_answer() {
    let (backing, bench) = hooked(options());
    bench.write(Place::At(0), &[1; 10_000]);
    let answers = Arc::new(AtomicBool::new(false));
    let abandon = Arc::new(AtomicBool::new(false));
    let (disk, given_up) = (answers.clone(), abandon.clone());
    *lock(&backing.before_write) = Some(Box::new(move || {
        given_up.store(true, Ordering::SeqCst);
        until("the disk's answer", || disk.load(Ordering::SeqCst));
    }));
    let drained = bench.buffers.drain(OwnCause::Signal, &abandon, &|_| ());
    assert_eq!(drained.dirty_bytes, 10_000);
    answers.store(true, Ordering::SeqCst);
    until("the end of the drain", || bench.file.dirty_bytes() == 0);
}

#[test]
fn a_large_read_does_not_drive_out_everything_else() {
    let (backing, bench) = hooked(options());
    let bytes = vec![1; 8 << 20];
    let _ = backing
        .inner
        .write_at(&[std::io::IoSlice::new(&bytes)], 0, SyncKind::None);
    bench
        .file
        .attributes(&mut Did::new(), || backing.stat())
        .unwrap();
    bench.read(0, 100_000);
    let (_, did) = bench.read(1 << 20, 4 << 20);
    assert!(
        matches!(
            did[..],
            [CacheDid::Bypass {
                reason: Reason::Memory,
                ..
            }]
        ),
        "{did:?}"
    );
    let (_, did) = bench.read(0, 100_000);
    assert!(
        matches!(did[..], [CacheDid::Hit { size: 100_000, .. }]),
        "{did:?}"
    );
}

#[test]
fn part_of_a_conflict_written_leaves_the_rest_in_conflict() {
    let (backing, bench) = hooked(options());
    bench.write(Place::At(0), &[1; 100]);
    bench.write(Place::At(10_000), &[1; 100]);
    let slices = [std::io::IoSlice::new(b"others")];
    let _ = backing.inner.write_at(&slices, 0, SyncKind::None);
    bench.write_back(ByteRange::at(0, 100)).unwrap();
    bench.write_back(ByteRange::ALL).unwrap();
    let conflicts: Vec<bool> = bench
        .memo
        .take()
        .iter()
        .filter_map(|told| match told {
            Told::Wrote { conflict, .. } => Some(*conflict),
            _ => None,
        })
        .collect();
    assert_eq!(conflicts, [true, true]);
}
