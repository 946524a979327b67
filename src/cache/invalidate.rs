//! Losing blocks: truncated, discarded, no longer true, evicted; and writes that went past the buffer.

use super::file::{FileCache, parts};
use super::marks::Marks;
use super::{Memory, Storage};
use crate::types::{ByteRange, Slot};

/// What was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Dirty bytes that died unwritten, in file order.
    pub discarded: Vec<ByteRange>,
    /// Clean bytes that are no longer true.
    pub clean_bytes: u64,
    /// Blocks dropped that had no dirty bytes.
    pub clean_blocks: u64,
    /// Slots that are free now.
    pub freed: Vec<Slot>,
}

impl Dropped {
    /// Dirty bytes that died.
    #[must_use]
    pub fn discarded_bytes(&self) -> u64 {
        self.discarded.iter().map(|range| range.len()).sum()
    }
}

impl FileCache {
    /// SOURCE was cut or extended to `size`: drops what lies beyond it.
    ///
    /// # Panics
    /// While a batch is under writeback.
    pub fn truncate<M: Memory>(&mut self, storage: Storage<'_, M>, size: u64) -> Dropped {
        assert!(self.batch.is_empty(), "nothing is being written");
        let block_size = storage.memory.block_size() as u64;
        let mut dropped = Dropped::default();
        let cut = usize::try_from(size % block_size).expect("within a block");
        let last = size / block_size;
        if cut > 0
            && let Some(&slot) = self.blocks.get(&last)
        {
            self.cut_block(storage, (last, slot), cut, &mut dropped);
        }
        for (index, slot) in self.blocks.split_off(&size.div_ceil(block_size)) {
            self.drop_block(storage, (index, slot), &mut dropped);
        }
        self.dirty_bytes -= dropped.discarded_bytes();
        self.size = size;
        self.source_size = size;
        self.epoch += 1;
        dropped
    }

    fn drop_block<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, slot): (u64, Slot),
        dropped: &mut Dropped,
    ) {
        let memory = storage.memory;
        let block = storage.records.load(slot);
        let start = index * memory.block_size() as u64;
        if block.dirty.is_empty() {
            dropped.clean_blocks += 1;
        }
        self.unlist(index);
        block
            .dirty
            .each((0, memory.block_size()), memory, slot, |lo, hi| {
                dropped.discard(start + lo as u64, start + hi as u64);
            });
        storage.records.clear(slot);
        dropped.freed.push(slot);
    }

    /// Cuts the block that the new end lies in.
    fn cut_block<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, slot): (u64, Slot),
        cut: usize,
        dropped: &mut Dropped,
    ) {
        let memory = storage.memory;
        let size = memory.block_size();
        let start = index * size as u64;
        let mut block = storage.records.load(slot);
        let was_dirty = !block.dirty.is_empty();
        block.dirty.each((cut, size), memory, slot, |lo, hi| {
            dropped.discard(start + lo as u64, start + hi as u64);
        });
        block.dirty = block.dirty.remove(cut, size, memory, slot);
        block.know_until(cut);
        storage.records.store(slot, &block);
        if block.dirty.is_empty() {
            self.unlist(index);
            // A block that is clean only now was never let into the queues of those to be evicted.
            if was_dirty || block.knows_nothing() {
                self.blocks.remove(&index);
                dropped.freed.push(slot);
            }
        }
    }

    /// Drops all dirty bytes: nobody can read them any more. Clean ones stay.
    ///
    /// # Panics
    /// While a batch is under writeback.
    pub fn discard<M: Memory>(&mut self, storage: Storage<'_, M>) -> Dropped {
        assert!(self.batch.is_empty(), "nothing is being written");
        let mut dropped = Dropped::default();
        for index in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.blocks.remove(&index) {
                self.drop_block(storage, (index, slot), &mut dropped);
            }
        }
        self.dirty_bytes -= dropped.discarded_bytes();
        self.size = self.source_size;
        self.epoch += 1;
        dropped
    }

    /// SOURCE's bytes in `range` are no longer those that are clean here, and SOURCE has `source_size`
    /// bytes now. Whole blocks are dropped; dirty bytes stay, and are the only ones known of their blocks.
    pub fn invalidate<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        range: ByteRange,
        source_size: u64,
    ) -> Dropped {
        let size = storage.memory.block_size() as u64;
        let (first, end) = (range.start / size, range.end.div_ceil(size));
        let blocks: Vec<(u64, Slot)> = self
            .blocks
            .range(first..end.max(first))
            .map(|(index, slot)| (*index, *slot))
            .collect();
        let mut dropped = Dropped::default();
        for (index, slot) in blocks {
            let mut block = storage.records.load(slot);
            let known = u64::from(block.known.1 - block.known.0);
            if block.dirty.is_empty() {
                dropped.clean_bytes += known;
                dropped.clean_blocks += 1;
                dropped.freed.push(slot);
                self.blocks.remove(&index);
                continue;
            }
            let (lo, hi) = (usize::from(block.known.0), usize::from(block.known.1));
            let dirty = block.dirty.count(lo, hi, storage.memory, slot);
            dropped.clean_bytes += known - dirty as u64;
            block.known = match block.dirty {
                Marks::One(lo, hi) => (lo, hi),
                Marks::None | Marks::Many => (0, 0),
            };
            storage.records.store(slot, &block);
        }
        self.source_size = source_size;
        self.size = source_size.max(self.dirty_end(storage));
        self.trim_known(storage);
        self.epoch += 1;
        dropped
    }

    /// SOURCE has `source_size` bytes now, and all that is clean here is still true.
    pub fn resized<M: Memory>(&mut self, storage: Storage<'_, M>, source_size: u64) {
        self.source_size = source_size;
        self.size = source_size.max(self.dirty_end(storage));
    }

    /// One past the last dirty byte, those under writeback included.
    fn dirty_end<M: Memory>(&self, storage: Storage<'_, M>) -> u64 {
        let size = storage.memory.block_size() as u64;
        let dirty = self.dirty.last().map(|index| (*index, self.blocks[index]));
        let ends = [dirty, self.batch.last().copied()].map(|last| {
            last.map_or(0, |(index, slot)| {
                let marks = storage.records.load(slot).dirty;
                index * size + marks.end(storage.memory, slot) as u64
            })
        });
        ends[0].max(ends[1])
    }

    /// What is known ends with the file.
    fn trim_known<M: Memory>(&self, storage: Storage<'_, M>) {
        let block_size = storage.memory.block_size() as u64;
        let inside = usize::try_from(self.size % block_size).expect("within a block");
        if let Some(&slot) = self.blocks.get(&(self.size / block_size)) {
            let mut block = storage.records.load(slot);
            block.know_until(inside);
            storage.records.store(slot, &block);
        }
    }

    /// Gives up a clean block. Refused (`None`) where `slot` does not hold the block `index`, or has
    /// anything dirty in it.
    pub fn evict<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, slot): (u64, Slot),
    ) -> Option<Slot> {
        if self.blocks.get(&index) != Some(&slot) || !storage.records.load(slot).dirty.is_empty() {
            return None;
        }
        if self.written_out(storage, index).is_some() {
            return None;
        }
        self.blocks.remove(&index);
        Some(slot)
    }

    /// Drops all blocks without dirty bytes.
    pub fn evict_all<M: Memory>(&mut self, storage: Storage<'_, M>) -> Vec<Slot> {
        let blocks: Vec<_> = self.blocks.iter().map(|(i, slot)| (*i, *slot)).collect();
        blocks
            .into_iter()
            .filter_map(|block| self.evict(storage, block))
            .collect()
    }

    /// `data` was written to SOURCE at `offset`, past the buffer: what is clean here becomes the same.
    /// Dirty bytes were buffered since and stay.
    ///
    /// # Panics
    /// While a batch is under writeback.
    pub fn overlay<M: Memory>(&mut self, storage: Storage<'_, M>, offset: u64, data: &[u8]) {
        assert!(self.batch.is_empty(), "nothing is being written");
        if data.is_empty() {
            // No file grows by it, wherever it was.
            return;
        }
        let range = ByteRange::at(offset, data.len() as u64);
        self.source_size = self.source_size.max(range.end);
        self.size = self.size.max(range.end);
        let memory = storage.memory;
        for part in parts(range, memory.block_size()) {
            let Some(&slot) = self.blocks.get(&part.index) else {
                continue;
            };
            let mut block = storage.records.load(slot);
            let at = part.index * memory.block_size() as u64;
            let newer = block.dirty.bits(memory, slot);
            let mut free = super::Bits::default();
            free.set(part.lo, part.hi);
            for (lo, hi) in newer.ranges(part.lo, part.hi) {
                free.clear(lo, hi);
            }
            for (lo, hi) in free.ranges(part.lo, part.hi) {
                let from = usize::try_from(at + lo as u64 - offset).expect("within the data");
                memory.write(slot, lo, &data[from..from + (hi - lo)]);
            }
            block.learn(part.lo, part.hi);
            storage.records.store(slot, &block);
        }
        self.epoch += 1;
    }
}

impl Dropped {
    /// Notes dirty bytes that died, joined to the last ones where they touch.
    fn discard(&mut self, start: u64, end: u64) {
        match self.discarded.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.discarded.push(ByteRange { start, end }),
        }
    }
}
