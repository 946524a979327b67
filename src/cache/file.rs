//! What is buffered of one file, and writing into it.

use std::collections::{BTreeMap, BTreeSet};

use super::marks::Marks;
use super::record::Block;
use super::undo::Undo;
use super::walk::Walk;
use super::{Memory, Storage};
use crate::types::{ByteRange, FileId, Nanos, OwnFd, Seq, Slot};

/// One file's part of the cache.
#[derive(Debug)]
pub struct FileCache {
    pub(super) id: FileId,
    /// Each block's slot; of a block in state *rewritten* the one with the new bytes.
    pub(super) blocks: BTreeMap<u64, Slot>,
    /// The blocks with dirty bytes that are not under writeback.
    pub(super) dirty: BTreeSet<u64>,
    /// The blocks under writeback, in file order, with the slots that are being written.
    pub(super) batch: Vec<(u64, Slot)>,
    pub(super) size: u64,
    pub(super) source_size: u64,
    pub(super) dirty_bytes: u64,
    pub(super) epoch: u64,
}

/// When, and by which operation, bytes were buffered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The operation.
    pub seq: Seq,
    /// When it arrived.
    pub now: Nanos,
    /// How the bytes reach SOURCE: the same for all that is dirty of a file at one time.
    pub via: Option<OwnFd>,
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrote {
    /// Bytes that replaced dirty ones (not counting those under writeback: they still reach SOURCE).
    pub overwrote: u64,
    /// Bytes that are dirty now and were not before.
    pub newly_dirty: u64,
}

/// Where a write began, seen from one of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Began {
    Here,
    Before,
}

/// A stretch of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) index: u64,
    /// From, up to, within the block.
    pub(super) lo: usize,
    pub(super) hi: usize,
}

/// The blocks that a range touches, each with the bytes of it.
pub(super) fn parts(range: ByteRange, block_size: usize) -> impl Iterator<Item = Part> {
    let size = block_size as u64;
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let (index, lo) = (at / size, at % size);
        let len = (range.end - at).min(size - lo);
        at += len;
        let within = |at: u64| usize::try_from(at).expect("within a block");
        Some(Part {
            index,
            lo: within(lo),
            hi: within(lo + len),
        })
    })
}

impl FileCache {
    /// An empty cache of a file that has `size` bytes in SOURCE.
    #[must_use]
    pub fn new(id: FileId, size: u64) -> FileCache {
        FileCache {
            id,
            blocks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            batch: Vec::new(),
            size,
            source_size: size,
            dirty_bytes: 0,
            epoch: 0,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The logical size, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that SOURCE has, as far as known.
    #[must_use]
    pub fn source_size(&self) -> u64 {
        self.source_size
    }

    /// Dirty bytes, those under writeback included.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Blocks with dirty bytes.
    #[must_use]
    pub fn dirty_blocks(&self) -> u64 {
        (self.dirty.len() + self.batch.len()) as u64
    }

    /// Blocks in memory.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Whether bytes are under writeback.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Changes whenever a read that is under way may have found bytes that are no longer true.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// From the first dirty block that is not under writeback to the last one; empty where there is none.
    #[must_use]
    pub fn dirty_span<M: Memory>(&self, storage: Storage<'_, M>) -> ByteRange {
        let size = storage.memory.block_size() as u64;
        let (first, last) = (self.dirty.first(), self.dirty.last());
        let end = last.map_or(0, |last| (last + 1).saturating_mul(size));
        ByteRange {
            start: first.map_or(0, |first| first * size),
            end,
        }
    }

    /// When the oldest dirty byte was buffered, of those that are not under writeback.
    #[must_use]
    pub fn dirty_since<M: Memory>(&self, storage: Storage<'_, M>) -> Option<Nanos> {
        let slots = self.dirty.iter().map(|index| self.blocks[index]);
        slots.map(|slot| storage.records.load(slot).since).min()
    }

    /// Whether every byte of `range` that the file has is known here: no read would have to ask SOURCE.
    #[must_use]
    pub fn holds<M: Memory>(&self, storage: Storage<'_, M>, range: ByteRange) -> bool {
        let of_file = ByteRange {
            start: 0,
            end: self.size,
        };
        let range = range.intersect(of_file);
        let block_size = storage.memory.block_size();
        let mut walk = Walk::over(&self.blocks);
        parts(range, block_size).all(|part| {
            let start = part.index * block_size as u64;
            let Some(slot) = walk.find(part.index) else {
                return start >= self.source_size;
            };
            let block = storage.records.load(slot);
            let known = (usize::from(block.known.0), usize::from(block.known.1));
            let (lo, hi) = (part.lo, part.hi);
            (known.0 <= lo && hi <= known.1)
                || block.dirty.count(lo, hi, storage.memory, slot) == hi - lo
        })
    }

    /// Of these blocks, from the first one that is not here to the last; `None` where all are. The end is exclusive.
    #[must_use]
    pub fn absent(&self, (mut first, mut end): (u64, u64)) -> Option<(u64, u64)> {
        if first >= end {
            return None;
        }
        for (index, _) in self.blocks.range(first..end) {
            if *index != first {
                break;
            }
            first += 1;
        }
        for (index, _) in self.blocks.range(first..end).rev() {
            if *index + 1 != end {
                break;
            }
            end -= 1;
        }
        (first < end).then_some((first, end))
    }

    /// How many slots a write of this range takes at most: for blocks that are absent, and for copies of
    /// those under writeback.
    #[must_use]
    pub fn slots_needed<M: Memory>(&self, storage: Storage<'_, M>, range: ByteRange) -> usize {
        let mut walk = Walk::over(&self.blocks);
        let mut held = |part: &Part| {
            let slot = walk.find(part.index);
            slot.is_some_and(|slot| !storage.records.load(slot).writing)
        };
        parts(range, storage.memory.block_size())
            .filter(|part| !held(part))
            .count()
    }

    /// Buffers `data` at `offset`. Takes the slots it needs out of `stock`. What it changes is kept in `undo`
    /// until all is there.
    ///
    /// # Panics
    /// When `stock` has fewer slots than [`slots_needed`](Self::slots_needed) said.
    pub fn write<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        stock: &mut Vec<Slot>,
        (offset, data): (u64, &[u8]),
        stamp: Stamp,
        undo: Undo<'_>,
    ) -> Wrote {
        let range = ByteRange::at(offset, data.len() as u64);
        let mut wrote = Wrote::default();
        let mut left = data;
        // Before any byte is dirty beyond it.
        self.size = self.size.max(range.end);
        for part in parts(range, storage.memory.block_size()) {
            let (now, rest) = left.split_at(part.hi - part.lo);
            let slot = self.slot_to_write(storage, stock, part.index);
            undo.before(storage, slot, part.lo, part.hi);
            storage.memory.write(slot, part.lo, now);
            let began = if left.len() == data.len() {
                Began::Here
            } else {
                Began::Before
            };
            let overwrote = self.mark(storage, slot, part, began, stamp);
            wrote.overwrote += overwrote as u64;
            wrote.newly_dirty += (now.len() - overwrote) as u64;
            left = rest;
        }
        undo.done();
        self.dirty_bytes += wrote.newly_dirty;
        wrote
    }

    /// The slot whose contents may change: one that is being written out is left to its batch.
    fn slot_to_write<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        stock: &mut Vec<Slot>,
        index: u64,
    ) -> Slot {
        let mut take = || stock.pop().expect("as many slots as were asked for");
        match self.blocks.get(&index) {
            None => {
                let slot = take();
                let fresh = Block {
                    owner: self.id,
                    index,
                    ..Block::default()
                };
                storage.records.store(slot, &fresh);
                self.blocks.insert(index, slot);
                slot
            }
            Some(&slot) => {
                let block = storage.records.load(slot);
                if !block.writing {
                    return slot;
                }
                let copy = take();
                storage.memory.copy(slot, copy);
                let rewritten = Block {
                    owner: self.id,
                    index,
                    known: block.known,
                    ..Block::default()
                };
                storage.records.store(copy, &rewritten);
                self.blocks.insert(index, copy);
                copy
            }
        }
    }

    /// Notes that bytes of a block have become dirty; returns how many of them had been before.
    fn mark<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        slot: Slot,
        part: Part,
        began: Began,
        stamp: Stamp,
    ) -> usize {
        let mut block = storage.records.load(slot);
        if block.dirty.is_empty() {
            block.since = stamp.now;
            block.via = stamp.via;
            block.first = stamp.seq;
            block.last = stamp.seq;
            block.writes = 0;
            block.continues = false;
            self.dirty.insert(part.index);
        } else {
            block.since = block.since.min(stamp.now);
            block.first = block.first.min(stamp.seq);
            block.last = block.last.max(stamp.seq);
        }
        match began {
            Began::Here => block.writes = block.writes.saturating_add(1),
            Began::Before => block.continues = true,
        }
        let (dirty, both) = block.dirty.add(part.lo, part.hi, storage.memory, slot);
        block.dirty = dirty;
        block.ahead = false;
        block.learn(part.lo, part.hi);
        storage.records.store(slot, &block);
        both
    }

    /// Takes a block out of the index of those with dirty bytes. A set that has become empty would keep its
    /// node, of 112 bytes, for as long as anything clean of the file stays.
    pub(super) fn unlist(&mut self, index: u64) {
        self.dirty.remove(&index);
        if self.dirty.is_empty() {
            self.dirty = BTreeSet::new();
        }
    }

    /// The record of a block that is under writeback, with the slot that is being written.
    pub(super) fn written_out<M: Memory>(
        &self,
        storage: Storage<'_, M>,
        index: u64,
    ) -> Option<(Slot, Marks)> {
        let at = self
            .batch
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        let (_, slot) = self.batch[at];
        Some((slot, storage.records.load(slot).dirty))
    }

    /// All its slots, those under writeback included, for the end of a file.
    pub fn slots(&self) -> Vec<Slot> {
        let rewritten = self.batch.iter().filter(|(index, slot)| {
            let current = self.blocks.get(index);
            current != Some(slot)
        });
        let old = rewritten.map(|(_, slot)| *slot);
        self.blocks.values().copied().chain(old).collect()
    }
}
