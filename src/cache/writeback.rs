//! Writing back: which runs go next, and what becomes of them.

use super::file::FileCache;
use super::marks::Marks;
use super::record::Block;
use super::{Memory, Storage};
use crate::types::{ByteRange, Nanos, Seq, Slot};

/// Blocks of one batch: with blocks of 4 KiB, runs of up to 1 MiB. Larger ones gain nothing on the disks
/// measured and keep more slots from being changed in place.
pub const BATCH_BLOCKS: usize = 256;

/// Runs of one batch at most, but for those of its last block: bounds the plan of blocks full of gaps.
const BATCH_RUNS: usize = 1024;

/// A part of a run that lies in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is.
    pub slot: Slot,
    /// First byte within the block.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// Contiguous dirty bytes that leave as one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The bytes of the file.
    pub range: ByteRange,
    /// Where they are, in order.
    pub pieces: Vec<Piece>,
    /// Blocks that it touches.
    pub blocks: u64,
    /// Application writes merged into it: those that began in its blocks, and the one that its first byte
    /// continues. Where a block has several runs, its writes are told with the first of them.
    pub writes: u64,
    /// The lowest number of an operation whose bytes are in it.
    pub first: Seq,
    /// The highest.
    pub last: Seq,
    /// When its oldest byte was buffered.
    pub since: Nanos,
}

/// Runs that are under writeback together, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The runs.
    pub runs: Vec<Run>,
    /// The block behind the last one: where to go on.
    pub next: u64,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Bytes that are no longer dirty because SOURCE has them.
    pub written: u64,
    /// Bytes that were not written and that newer ones have covered meanwhile.
    pub superseded: Vec<ByteRange>,
    /// Slots that are free now.
    pub freed: Vec<Slot>,
    /// Blocks that are clean now.
    pub clean: Vec<Slot>,
}

impl FileCache {
    /// Takes the next dirty blocks of `range`, from the block `from` on, under writeback. `None` where
    /// there are none left.
    ///
    /// # Panics
    /// While another batch of the file is under writeback.
    pub fn plan_writeback<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        range: ByteRange,
        from: u64,
    ) -> Option<Batch> {
        assert!(self.batch.is_empty(), "one batch of a file at a time");
        let size = storage.memory.block_size() as u64;
        let first = from.max(range.start / size);
        let end = range.end.div_ceil(size);
        let mut runs: Vec<Run> = Vec::new();
        let mut taken = Vec::new();
        for &index in self.dirty.range(first..end.max(first)) {
            if taken.len() == BATCH_BLOCKS || runs.len() >= BATCH_RUNS {
                break;
            }
            let slot = self.blocks[&index];
            let mut block = storage.records.load(slot);
            block.writing = true;
            storage.records.store(slot, &block);
            add_runs(&mut runs, storage.memory, slot, &block);
            taken.push((index, slot));
        }
        let (last, _) = taken.last()?;
        let next = last + 1;
        for (index, _) in &taken {
            self.unlist(*index);
        }
        self.batch = taken;
        Some(Batch { runs, next })
    }

    /// Takes what became of the batch under writeback: of each run, in order, how many bytes reached
    /// SOURCE. The others are dirty again, but where newer ones cover them.
    ///
    /// # Panics
    /// When `written` does not have as many entries as the batch had runs.
    pub fn commit_writeback<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        batch: &Batch,
        written: &[u64],
    ) -> Committed {
        assert_eq!(batch.runs.len(), written.len(), "one count for each run");
        let done: Vec<ByteRange> = batch
            .runs
            .iter()
            .zip(written)
            .map(|(run, count)| ByteRange::at(run.range.start, *count).intersect(run.range))
            .collect();
        let mut committed = Committed::default();
        let mut runs = 0;
        for (index, slot) in std::mem::take(&mut self.batch) {
            let left = self.left_of(storage, (index, slot), &done, &mut runs, &mut committed);
            if self.blocks.get(&index) == Some(&slot) {
                self.settle(storage, (index, slot), left, &mut committed);
            } else {
                self.settle_rewritten(storage, (index, slot), left, &mut committed);
                storage.records.clear(slot);
                committed.freed.push(slot);
            }
        }
        let reached = done
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| range.end);
        self.source_size = self.source_size.max(reached.max().unwrap_or(0));
        self.size = self.size.max(self.source_size);
        let superseded: u64 = committed.superseded.iter().map(|range| range.len()).sum();
        self.dirty_bytes -= committed.written + superseded;
        self.epoch += 1;
        committed
    }

    /// What of a block's bytes under writeback did not reach SOURCE. `from` is the first run that may
    /// reach into it.
    fn left_of<M: Memory>(
        &self,
        storage: Storage<'_, M>,
        (index, slot): (u64, Slot),
        done: &[ByteRange],
        from: &mut usize,
        committed: &mut Committed,
    ) -> Marks {
        let size = storage.memory.block_size() as u64;
        let whole = ByteRange::at(index * size, size);
        while done.get(*from).is_some_and(|run| run.end <= whole.start) {
            *from += 1;
        }
        let mut left = storage.records.load(slot).dirty;
        for run in done[*from..].iter().take_while(|run| run.start < whole.end) {
            let part = run.intersect(whole);
            let within = |at: u64| usize::try_from(at - whole.start).expect("within a block");
            if !part.is_empty() {
                committed.written += part.len();
                let (lo, hi) = (within(part.start), within(part.end));
                left = left.remove(lo, hi, storage.memory, slot);
            }
        }
        left
    }

    /// A block that nobody wrote to meanwhile: clean, or dirty as before as far as it was not written.
    fn settle<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, slot): (u64, Slot),
        left: Marks,
        committed: &mut Committed,
    ) {
        let mut block = storage.records.load(slot);
        block.writing = false;
        block.dirty = left;
        storage.records.store(slot, &block);
        if !left.is_empty() {
            self.dirty.insert(index);
        } else if block.knows_nothing() {
            self.blocks.remove(&index);
            committed.freed.push(slot);
        } else {
            committed.clean.push(slot);
        }
    }

    /// A block that was written to meanwhile, in another slot: what failed goes under the newer bytes.
    fn settle_rewritten<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, old): (u64, Slot),
        left: Marks,
        committed: &mut Committed,
    ) {
        if left.is_empty() {
            return;
        }
        let slot = self.blocks[&index];
        let start = index * storage.memory.block_size() as u64;
        let before = storage.records.load(old);
        let mut block = storage.records.load(slot);
        let newer = block.dirty.bits(storage.memory, slot);
        let mut all = newer;
        let whole = (0, storage.memory.block_size());
        left.each(whole, storage.memory, old, |lo, hi| {
            for (lo, hi) in newer.ranges(lo, hi) {
                let (lo, hi) = (start + lo as u64, start + hi as u64);
                committed.superseded.push(ByteRange { start: lo, end: hi });
            }
            all.set(lo, hi);
        });
        block.dirty = Marks::of_bits(&all, storage.memory, slot);
        block.via = block.via.or(before.via);
        block.since = block.since.min(before.since);
        block.first = block.first.min(before.first);
        block.last = block.last.max(before.last);
        block.writes = block.writes.saturating_add(before.writes);
        storage.records.store(slot, &block);
    }
}

/// Adds a block's runs, the first to the last one there is where they touch.
pub(super) fn add_runs<M: Memory>(runs: &mut Vec<Run>, memory: &M, slot: Slot, block: &Block) {
    let start = block.index * memory.block_size() as u64;
    let mut first_here = true;
    block
        .dirty
        .each((0, memory.block_size()), memory, slot, |lo, hi| {
            let range = ByteRange {
                start: start + lo as u64,
                end: start + hi as u64,
            };
            let piece = Piece {
                slot,
                at: lo,
                len: hi - lo,
            };
            let begun = if first_here {
                u64::from(block.writes)
            } else {
                0
            };
            first_here = false;
            match runs.last_mut() {
                Some(run) if run.range.end == range.start && lo == 0 => {
                    run.range.end = range.end;
                    run.pieces.push(piece);
                    run.blocks += 1;
                    run.writes += begun;
                    run.first = run.first.min(block.first);
                    run.last = run.last.max(block.last);
                    run.since = run.since.min(block.since);
                }
                _ => runs.push(Run {
                    range,
                    pieces: vec![piece],
                    blocks: 1,
                    writes: (begun + u64::from(lo == 0 && block.continues)).max(1),
                    first: block.first,
                    last: block.last,
                    since: block.since,
                }),
            }
        });
}
