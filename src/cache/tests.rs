//! The model test: random operations on several files with tiny blocks, few slots and colliding ranges,
//! against a `Vec<u8>` for each file. Full contents, the account of every byte and the invariants are
//! compared after every step. Writebacks are planned and completed, failed and cut short in any order with
//! everything else, and fetched blocks are put in late.

#![allow(
    clippy::cast_possible_truncation,
    reason = "offsets of the tests are small"
)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::types::{ByteRange, FileId, Nanos, OwnFd, Seq, Slot};

const BLOCK: usize = 16;
const SLOTS: u32 = 12;
const FILES: usize = 3;

/// Memory on the heap.
struct Heap {
    blocks: RefCell<Vec<[u8; BLOCK]>>,
    bits: RefCell<Vec<Bits>>,
    /// Changes until the process is killed in the middle of one; 0 is never.
    killed_after: Cell<u32>,
}

impl Heap {
    fn new() -> Heap {
        Heap {
            blocks: RefCell::new(vec![[0xee; BLOCK]; SLOTS as usize]),
            bits: RefCell::new(vec![Bits::default(); SLOTS as usize]),
            killed_after: Cell::new(0),
        }
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Heap {
    /// Counts down to the change at which the process is killed.
    fn is_killed(&self) -> bool {
        let left = self.killed_after.get();
        self.killed_after.set(left.saturating_sub(1));
        left == 1
    }
}

impl Memory for Heap {
    fn block_size(&self) -> usize {
        BLOCK
    }

    fn read(&self, slot: Slot, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.blocks.borrow()[slot.0 as usize][at..at + out.len()]);
    }

    fn write(&self, slot: Slot, at: usize, data: &[u8]) {
        if self.is_killed() {
            let half = data.len() / 2;
            self.blocks.borrow_mut()[slot.0 as usize][at..at + half].copy_from_slice(&data[..half]);
            panic!("killed");
        }
        self.blocks.borrow_mut()[slot.0 as usize][at..at + data.len()].copy_from_slice(data);
    }

    fn copy(&self, from: Slot, to: Slot) {
        let mut blocks = self.blocks.borrow_mut();
        blocks[to.0 as usize] = blocks[from.0 as usize];
    }

    fn bits(&self, slot: Slot) -> Bits {
        self.bits.borrow()[slot.0 as usize]
    }

    fn store_bits(&self, slot: Slot, bits: &Bits) {
        if self.is_killed() {
            let half = bits.0.len() / 2;
            self.bits.borrow_mut()[slot.0 as usize].0[..half].copy_from_slice(&bits.0[..half]);
            panic!("killed");
        }
        self.bits.borrow_mut()[slot.0 as usize] = *bits;
    }
}

/// Bytes by what became of them: law 3 of the trace.
#[derive(Default)]
struct Account {
    buffered: u64,
    written: u64,
    overwritten: u64,
    discarded: u64,
}

struct File {
    cache: FileCache,
    source: Vec<u8>,
    model: Vec<u8>,
    account: Account,
    /// The batch under writeback, with the bytes it had when it was planned.
    batch: Option<(Batch, Vec<Vec<u8>>)>,
    /// Blocks fetched and not put in yet: index, bytes, epoch.
    fetched: Vec<(u64, Vec<u8>, u64)>,
}

struct World {
    memory: Heap,
    records: Vec<AtomicU64>,
    undo: Vec<AtomicU64>,
    pool: Pool,
    files: Vec<File>,
    clock: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        file: usize,
        at: u64,
        len: usize,
    },
    Read {
        file: usize,
        at: u64,
        len: u64,
    },
    Fetch {
        file: usize,
        at: u64,
        len: u64,
    },
    PutIn {
        file: usize,
    },
    Plan {
        file: usize,
        at: u64,
        len: u64,
    },
    /// Of each run, this share (of 4) is written.
    Complete {
        file: usize,
        shares: Vec<u64>,
    },
    Truncate {
        file: usize,
        size: u64,
    },
    Discard {
        file: usize,
    },
    Through {
        file: usize,
        at: u64,
        len: usize,
    },
    Evict {
        count: usize,
    },
    Outside {
        file: usize,
        at: usize,
        size: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..FILES;
    let at = 0u64..100;
    let step = prop_oneof![
        6 => (file.clone(), at.clone(), 1usize..60)
            .prop_map(|(file, at, len)| Step::Write { file, at, len }),
        3 => (file.clone(), at.clone(), 1u64..80)
            .prop_map(|(file, at, len)| Step::Read { file, at, len }),
        1 => (file.clone(), at.clone(), 1u64..80)
            .prop_map(|(file, at, len)| Step::Fetch { file, at, len }),
        1 => file.clone().prop_map(|file| Step::PutIn { file }),
        2 => (file.clone(), at.clone(), 1u64..120)
            .prop_map(|(file, at, len)| Step::Plan { file, at, len }),
        3 => (file.clone(), proptest::collection::vec(0u64..6, 1..4))
            .prop_map(|(file, shares)| Step::Complete { file, shares }),
        1 => (file.clone(), 0u64..140).prop_map(|(file, size)| Step::Truncate { file, size }),
        1 => file.clone().prop_map(|file| Step::Discard { file }),
        1 => (file.clone(), at, 1usize..60)
            .prop_map(|(file, at, len)| Step::Through { file, at, len }),
        2 => (1usize..6).prop_map(|count| Step::Evict { count }),
        1 => (file, 0usize..100, 0usize..140)
            .prop_map(|(file, at, size)| Step::Outside { file, at, size }),
    ];
    proptest::collection::vec(step, 1..80)
}

impl World {
    fn new() -> World {
        let file = |id| File {
            cache: FileCache::new(FileId(id as u64 + 1), 0),
            source: Vec::new(),
            model: Vec::new(),
            account: Account::default(),
            batch: None,
            fetched: Vec::new(),
        };
        World {
            memory: Heap::new(),
            records: words(SLOTS as usize * RECORD_WORDS),
            undo: words(LANE_WORDS),
            pool: Pool::new(SLOTS),
            files: (0..FILES).map(file).collect(),
            clock: 0,
        }
    }

    fn fresh_bytes(&mut self, len: usize) -> Vec<u8> {
        self.clock += 1;
        let clock = self.clock;
        (0..len)
            .map(|n| (clock * 31 + n as u64 * 7) as u8)
            .collect()
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Write { file, at, len } => self.write(file, at, len),
            Step::Read { file, at, len } => {
                self.fetch(file, ByteRange::at(at, len));
                self.put_in(file);
            }
            Step::Fetch { file, at, len } => self.fetch(file, ByteRange::at(at, len)),
            Step::PutIn { file } => self.put_in(file),
            Step::Plan { file, at, len } => self.plan(file, ByteRange::at(at, len)),
            Step::Complete { file, ref shares } => self.complete(file, shares),
            Step::Truncate { file, size } => self.truncate(file, size),
            Step::Discard { file } => self.discard(file),
            Step::Through { file, at, len } => self.through(file, at, len),
            Step::Evict { count } => self.evict(count),
            Step::Outside { file, at, size } => self.outside(file, at, size),
        }
    }

    fn write(&mut self, file: usize, at: u64, len: usize) {
        let data = self.fresh_bytes(len);
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let range = ByteRange::at(at, len as u64);
        let need = self.files[file].cache.slots_needed(storage, range);
        let mut stock = Vec::new();
        self.pool.take(need, &mut stock);
        if stock.len() < need {
            self.pool.give_back(&stock);
            // As an engine would: past the buffer.
            self.through_bytes(file, at, &data);
            return;
        }
        let of = &mut self.files[file];
        let stamp = Stamp {
            seq: Seq(self.clock),
            now: Nanos(self.clock),
            via: Some(OwnFd(file as u32)),
        };
        let wrote = of.cache.write(
            storage,
            &mut stock,
            (at, &data),
            stamp,
            Undo::over(&self.undo),
        );
        assert_eq!(wrote.newly_dirty + wrote.overwrote, len as u64);
        of.account.buffered += len as u64;
        of.account.overwritten += wrote.overwrote;
        self.pool.give_back(&stock);
        put(&mut of.model, at, &data);
    }

    /// Reads what is missing of SOURCE, and keeps it to be put in.
    fn fetch(&mut self, file: usize, range: ByteRange) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        let mut out = vec![0; range.len() as usize];
        let plan = of.cache.read(storage, range, &mut out);
        self.pool.touch(&plan.touched);
        let mut sum = plan.hit + plan.hole;
        for missing in plan.missing {
            sum += missing.len();
            let first = missing.start / BLOCK as u64;
            for index in first..missing.end.div_ceil(BLOCK as u64) {
                let start = (index as usize * BLOCK).min(of.source.len());
                let end = (start + BLOCK).min(of.source.len());
                of.fetched
                    .push((index, of.source[start..end].to_vec(), plan.epoch));
            }
        }
        assert_eq!(sum, plan.len as u64, "hit + hole + miss of a read");
        assert!(plan.dirty <= plan.hit && plan.ahead <= plan.hit);
    }

    fn put_in(&mut self, file: usize) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        for (index, bytes, epoch) in std::mem::take(&mut self.files[file].fetched) {
            let mut stock = Vec::new();
            self.pool.take(1, &mut stock);
            let Some(&slot) = stock.first() else { return };
            self.memory.write(slot, 0, &bytes);
            let of = &mut self.files[file];
            match of
                .cache
                .fill(storage, (index, slot, bytes.len()), epoch, index % 2 == 0)
            {
                Filled::Kept => self.pool.admit(slot, of.cache.id(), index),
                Filled::Returned => self.pool.give_back(&[slot]),
            }
        }
    }

    fn plan(&mut self, file: usize, range: ByteRange) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        if of.batch.is_some() {
            return;
        }
        let Some(batch) = of.cache.plan_writeback(storage, range, 0) else {
            return;
        };
        let bytes = batch.runs.iter().map(|run| run_bytes(&self.memory, run));
        let bytes: Vec<_> = bytes.collect();
        for (run, bytes) in batch.runs.iter().zip(&bytes) {
            assert_eq!(run.range.len(), bytes.len() as u64, "pieces cover the run");
            assert!(run.writes > 0 && run.first <= run.last && run.blocks > 0);
        }
        of.batch = Some((batch, bytes));
    }

    fn complete(&mut self, file: usize, shares: &[u64]) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        let Some((batch, bytes)) = of.batch.take() else {
            return;
        };
        let mut written = Vec::new();
        for (n, (run, bytes)) in batch.runs.iter().zip(&bytes).enumerate() {
            let now = run_bytes(&self.memory, run);
            assert_eq!(&now, bytes, "what is being written does not change");
            let share = shares[n % shares.len()].min(4);
            let count = run.range.len() * share / 4;
            put(&mut of.source, run.range.start, &bytes[..count as usize]);
            written.push(count);
        }
        let committed = of.cache.commit_writeback(storage, &batch, &written);
        assert_eq!(committed.written, written.iter().sum::<u64>());
        of.account.written += committed.written;
        let superseded: u64 = committed.superseded.iter().map(|range| range.len()).sum();
        of.account.discarded += superseded;
        self.pool.give_back(&committed.freed);
        for slot in committed.clean {
            let (id, index) = Records::over(&self.records).owner(slot);
            self.pool.admit(slot, id, index);
        }
    }

    fn truncate(&mut self, file: usize, size: u64) {
        self.complete(file, &[4]);
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        of.source.resize(size as usize, 0);
        of.model.resize(size as usize, 0);
        let dropped = of.cache.truncate(storage, size);
        of.account.discarded += dropped.discarded_bytes();
        self.pool.give_back(&dropped.freed);
    }

    fn discard(&mut self, file: usize) {
        self.complete(file, &[4]);
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        let dropped = of.cache.discard(storage);
        of.account.discarded += dropped.discarded_bytes();
        of.model = of.source.clone();
        assert_eq!(of.cache.dirty_bytes(), 0);
        self.pool.give_back(&dropped.freed);
    }

    fn through(&mut self, file: usize, at: u64, len: usize) {
        let data = self.fresh_bytes(len);
        self.through_bytes(file, at, &data);
    }

    fn through_bytes(&mut self, file: usize, at: u64, data: &[u8]) {
        self.complete(file, &[4]);
        self.plan(file, ByteRange::at(at, data.len() as u64));
        self.complete(file, &[4]);
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        put(&mut of.source, at, data);
        put(&mut of.model, at, data);
        of.cache.overlay(storage, at, data);
    }

    fn evict(&mut self, count: usize) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        for slot in self.pool.victims(count) {
            let (id, index) = Records::over(&self.records).owner(slot);
            let of = &mut self.files[id.0 as usize - 1];
            let evicted = of.cache.evict(storage, (index, slot));
            self.pool.give_back(evicted.as_slice());
        }
    }

    /// SOURCE is changed past the view, and the view notices.
    fn outside(&mut self, file: usize, at: usize, size: usize) {
        self.complete(file, &[4]);
        let other = self.fresh_bytes(10);
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let of = &mut self.files[file];
        put(&mut of.source, at as u64, &other);
        of.source.resize(size, 0);
        let dirty = dirty_bytes(&of.cache, storage, of.model.len());
        let dropped = of.cache.invalidate(storage, ByteRange::ALL, size as u64);
        assert!(dropped.discarded.is_empty());
        // Dirty bytes win; everything else is SOURCE's.
        let mut model = of.source.clone();
        for (at, byte) in dirty {
            put(&mut model, at, &[byte]);
        }
        of.model = model;
        self.pool.give_back(&dropped.freed);
    }

    fn check(&self) {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        let mut owners: HashMap<Slot, FileId> = HashMap::new();
        for of in &self.files {
            of.cache.check_invariants(storage);
            for slot in of.cache.slots() {
                assert_eq!(
                    owners.insert(slot, of.cache.id()),
                    None,
                    "slot {slot} has one file"
                );
            }
            assert_eq!(of.cache.size(), of.model.len() as u64, "size");
            assert_eq!(contents(of, storage), of.model, "contents");
            let Account {
                buffered,
                written,
                overwritten,
                discarded,
            } = of.account;
            let dirty = of.cache.dirty_bytes();
            assert_eq!(
                buffered,
                written + overwritten + discarded + dirty,
                "account"
            );
        }
        self.pool.check_invariants();
        assert_eq!(
            self.pool.free() + owners.len(),
            self.pool.slots(),
            "no slot is lost"
        );
    }

    /// The process is gone: what is dirty is written to SOURCE by whoever finds the memory.
    fn survive(&self) -> Vec<Vec<u8>> {
        let storage = Storage {
            memory: &self.memory,
            records: Records::over(&self.records),
        };
        Undo::over(&self.undo).roll_back(storage);
        let mut sources: Vec<_> = self.files.iter().map(|of| of.source.clone()).collect();
        for left in survey(storage) {
            let file = left.file.0 as usize - 1;
            assert_eq!(left.via, Some(OwnFd(file as u32)));
            for run in left.runs {
                let mut at = run.range.start;
                for piece in run.pieces {
                    let mut bytes = vec![0; piece.len];
                    self.memory.read(piece.slot, piece.at, &mut bytes);
                    put(&mut sources[file], at, &bytes);
                    at += piece.len as u64;
                }
                assert_eq!(at, run.range.end);
            }
        }
        sources
    }

    fn models(&self) -> Vec<Vec<u8>> {
        self.files.iter().map(|of| of.model.clone()).collect()
    }

    fn finish(&mut self) {
        for file in 0..FILES {
            self.complete(file, &[4]);
            self.plan(file, ByteRange::ALL);
            self.complete(file, &[4]);
            let of = &self.files[file];
            assert_eq!(of.cache.dirty_bytes(), 0);
            assert_eq!(of.source, of.model, "what reached SOURCE");
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if !data.is_empty() && bytes.len() < end {
        bytes.resize(end, 0);
    }
    if !data.is_empty() {
        bytes[at as usize..end].copy_from_slice(data);
    }
}

fn run_bytes(memory: &Heap, run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in &run.pieces {
        let mut part = vec![0; piece.len];
        memory.read(piece.slot, piece.at, &mut part);
        bytes.extend(part);
    }
    bytes
}

fn contents(of: &File, storage: Storage<'_, Heap>) -> Vec<u8> {
    let mut out = vec![0xaa; of.cache.size() as usize + 5];
    let range = ByteRange::at(0, out.len() as u64);
    let plan = of.cache.read(storage, range, &mut out);
    for missing in plan.missing {
        let range = missing.start as usize..missing.end as usize;
        for (at, byte) in range.clone().zip(&mut out[range]) {
            *byte = of.source.get(at).copied().unwrap_or(0);
        }
    }
    out.truncate(plan.len);
    out
}

/// Each dirty byte, found by reading one byte at a time.
fn dirty_bytes(cache: &FileCache, storage: Storage<'_, Heap>, len: usize) -> Vec<(u64, u8)> {
    let mut found = Vec::new();
    for at in 0..len as u64 {
        let mut byte = [0];
        if cache.read(storage, ByteRange::at(at, 1), &mut byte).dirty == 1 {
            found.push((at, byte[0]));
        }
    }
    found
}

fn run(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.perform(step);
        world.check();
    }
    world.finish();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_cache_is_an_array_of_bytes_whatever_happens_in_whatever_order(steps in steps()) {
        run(&steps);
    }
}

#[test]
fn a_run_tells_how_many_writes_it_merged() {
    let mut world = World::new();
    for at in [0, 10, 20, 30] {
        world.write(0, at, 10);
    }
    world.write(0, 5, 3);
    world.plan(0, ByteRange::ALL);
    let (batch, _) = world.files[0].batch.clone().unwrap();
    assert_eq!(batch.runs.len(), 1);
    assert_eq!((batch.runs[0].writes, batch.runs[0].blocks), (5, 3));
    world.complete(0, &[4]);
    // A file written a hundred times over is one run of a hundred writes.
    for _ in 0..100 {
        world.write(0, 0, 40);
    }
    world.plan(0, ByteRange::ALL);
    let (batch, _) = world.files[0].batch.clone().unwrap();
    assert_eq!(batch.runs[0].writes, 100);
    world.complete(0, &[4]);
}

#[test]
fn a_byte_far_out_costs_one_block() {
    let mut world = World::new();
    let storage = Storage {
        memory: &world.memory,
        records: Records::over(&world.records),
    };
    let mut stock = Vec::new();
    world.pool.take(1, &mut stock);
    let cache = &mut world.files[0].cache;
    let data = (1 << 40, &b"x"[..]);
    cache.write(storage, &mut stock, data, Stamp::default(), Undo::none());
    assert_eq!((cache.block_count(), cache.dirty_bytes()), (1, 1));
    assert_eq!(cache.size(), (1 << 40) + 1);
}

#[test]
fn bytes_with_gaps_leave_as_one_run_each_and_nothing_between_is_written() {
    let mut world = World::new();
    for at in [1, 5, 9, 14] {
        world.write(1, at, 2);
    }
    world.write(1, 16, 4);
    world.plan(1, ByteRange::ALL);
    let (batch, _) = world.files[1].batch.clone().unwrap();
    let ranges: Vec<_> = batch
        .runs
        .iter()
        .map(|run| (run.range.start, run.range.end))
        .collect();
    assert_eq!(ranges, [(1, 3), (5, 7), (9, 11), (14, 20)]);
    world.complete(1, &[4]);
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// At any moment SOURCE with what is dirty laid over it is what the application was promised, also in
    /// the middle of a write, which then has not happened.
    #[test]
    fn whoever_finds_the_memory_of_a_killed_process_completes_what_was_answered_for(
        steps in steps(),
        file in 0..FILES,
        at in 0u64..90,
        len in 1usize..60,
        changes in 1u32..12,
    ) {
        let mut world = World::new();
        for step in &steps {
            world.perform(step);
            prop_assert_eq!(world.survive(), world.models());
        }
        world.memory.killed_after.set(changes);
        let _ = catch_unwind(AssertUnwindSafe(|| world.write(file, at, len)));
        world.memory.killed_after.set(0);
        // The model learns of a write when it is over.
        prop_assert_eq!(world.survive(), world.models());
    }
}
