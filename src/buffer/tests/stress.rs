//! Many threads on one file: writers, appenders of versions, readers, a truncater, the flusher, and a cache
//! that is too small. Each byte carries the version of the write that put it there. A reader knows which
//! versions were there at some moment while it read, and that no byte goes back to an older one.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;
use crate::backing::Real;

/// Bytes of one region: no multiple of a block, so that regions share blocks.
const REGION: usize = 5_000;
/// Each region has one writer, and each writer several, so that a region has time to be evicted.
const REGIONS: usize = 12;
const WRITERS: usize = 3;
/// Writes of each writer.
const WRITES: u32 = 1_200;
/// Where the truncater cuts.
const TAIL: u64 = (REGIONS * REGION) as u64 + 700;

/// The versions of one region: those begun, those over.
#[derive(Default)]
struct History {
    begun: AtomicU64,
    over: AtomicU64,
}

/// A backing whose reads are sometimes slow to be put to use: others get in between.
#[derive(Debug)]
struct Late {
    inner: Arc<dyn Backing>,
    reads: AtomicU64,
}

/// One read of so many is late.
const LATE: u64 = 16;
/// By this much: longer than a write and its writeback take.
const LATE_BY: std::time::Duration = std::time::Duration::from_micros(300);

impl Backing for Late {
    fn read_at(&self, bufs: &mut [std::io::IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        let read = self.inner.read_at(bufs, at);
        if self
            .reads
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LATE)
        {
            thread::sleep(LATE_BY);
        }
        read
    }

    fn write_at(
        &self,
        bufs: &[std::io::IoSlice<'_>],
        at: u64,
        sync: sys::SyncKind,
    ) -> sys::Written {
        self.inner.write_at(bufs, at, sync)
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        self.inner.set_size(size)
    }

    fn sync(&self, kind: sys::SyncKind) -> SysResult<()> {
        self.inner.sync(kind)
    }

    fn stat(&self) -> SysResult<sys::Stat> {
        self.inner.stat()
    }

    fn set_mtime(&self, mtime: sys::TimeSet) -> SysResult<()> {
        self.inner.set_mtime(mtime)
    }

    fn space(&self) -> SysResult<sys::Space> {
        self.inner.space()
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        self.inner.quota_left()
    }
}

/// Ends the others when its thread does, also by a failed assertion.
struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct World {
    bench: Bench,
    histories: Vec<History>,
    stop: AtomicBool,
}

impl World {
    fn write(&self, region: usize, seed: u32) {
        let history = &self.histories[region];
        let version = history.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // The whole region in pieces of changing size, all of one version.
        let start = (region * REGION) as u64;
        let piece = 1 + (seed as usize * 7919) % REGION;
        let mut at = 0;
        while at < REGION {
            let len = piece.min(REGION - at);
            let data = vec![version as u8; len];
            let place = Place::At(start + at as u64);
            if seed.is_multiple_of(50) {
                self.bench.write_through(place, &data, Reason::OSync);
            } else {
                self.bench.write(place, &data);
            }
            at += len;
        }
        history.over.store(version, Ordering::SeqCst);
    }

    /// Reads a region and checks each byte; `seen` is what the same reader saw last.
    fn read(&self, region: usize, seen: &mut [u64]) {
        let history = &self.histories[region];
        let from = history.over.load(Ordering::SeqCst);
        let (bytes, _) = self.bench.read((region * REGION) as u64, REGION);
        let to = history.begun.load(Ordering::SeqCst);
        for (at, last) in seen.iter_mut().enumerate() {
            let byte = bytes.get(at).copied().unwrap_or(0);
            // Versions are shown modulo 256, and far fewer are under way at one time.
            let oldest = from.max(*last);
            let version = (oldest..=to).find(|version| *version as u8 == byte);
            let Some(version) = version else {
                panic!("region {region}, byte {at} is {byte}: not a version of {oldest}..={to}");
            };
            *last = version;
        }
    }

    /// Beyond all regions: written, cut off, extended. What was cut off comes back as zeros.
    fn cut(&self, seed: u32) {
        let len = 1 + (seed as usize * 31) % 9_000;
        self.bench.write(Place::At(TAIL), &vec![0xee; len]);
        self.bench.truncate(TAIL);
        self.bench.truncate(TAIL + len as u64);
        let (bytes, _) = self.bench.read(TAIL, len);
        assert_eq!(bytes, vec![0; len], "zeros after a cut");
    }
}

fn stress(backing: Arc<dyn Backing>) -> World {
    let small = Options {
        cache_bytes: 40 << 10,
        dirty_limit: 16 << 10,
        dirty_age: Some(Nanos(1_000)),
        ..options()
    };
    let world = World {
        bench: Bench::new(
            small,
            Arc::new(Late {
                inner: backing,
                reads: AtomicU64::new(0),
            }),
        ),
        histories: (0..REGIONS).map(|_| History::default()).collect(),
        stop: AtomicBool::new(false),
    };
    for region in 0..REGIONS {
        world.write(region, 1);
    }
    let flusher = Flusher::start(&world.bench.buffers).unwrap();
    thread::scope(|scope| {
        let world = &world;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let stop = EndsAll(&world.stop);
                    for seed in 0..WRITES {
                        let turn = seed as usize * 5 % (REGIONS / WRITERS);
                        world.write(turn * WRITERS + writer, seed);
                    }
                    std::mem::forget(stop);
                })
            })
            .collect();
        for reader in 0..2 {
            scope.spawn(move || {
                let _stop = EndsAll(&world.stop);
                let mut seen = vec![vec![0; REGION]; REGIONS];
                let mut turn = reader;
                while !world.stop.load(Ordering::SeqCst) {
                    turn = (turn + 5) % REGIONS;
                    world.read(turn, &mut seen[turn]);
                }
            });
        }
        scope.spawn(move || {
            let _stop = EndsAll(&world.stop);
            let mut seed = 0;
            while !world.stop.load(Ordering::SeqCst) {
                seed += 1;
                world.cut(seed);
                world.bench.write_back(ByteRange::ALL).unwrap();
            }
        });
        let stop = EndsAll(&world.stop);
        for writer in writers {
            writer.join().unwrap();
        }
        drop(stop);
    });
    drop(flusher);
    world
}

fn check_end(world: &World) {
    world.bench.write_back(ByteRange::ALL).unwrap();
    world.bench.check();
    for (region, history) in world.histories.iter().enumerate() {
        let last = history.over.load(Ordering::SeqCst) as u8;
        let (bytes, _) = world.bench.read((region * REGION) as u64, REGION);
        assert_eq!(bytes, vec![last; REGION], "region {region}");
    }
}

#[test]
fn every_byte_that_is_read_was_there_at_that_time_over_memory() {
    let backing = Memory::new();
    let world = stress(Arc::new(backing.clone()));
    check_end(&world);
    let below = backing.contents();
    let (bytes, _) = world.bench.read(0, below.len());
    assert_eq!(below, bytes);
}

#[test]
fn every_byte_that_is_read_was_there_at_that_time_over_a_real_file() {
    let file = tempfile::tempfile().unwrap();
    let world = stress(Arc::new(Real::new(Arc::new(file.into()))));
    check_end(&world);
}
