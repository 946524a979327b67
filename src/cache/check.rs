//! The invariants of `cache`, as code.

use std::collections::HashSet;

use super::file::FileCache;
use super::marks::Marks;
use super::{Memory, Storage};

impl FileCache {
    /// Fails unless what the head of `cache` says holds. For tests and debug builds: looks at every block.
    ///
    /// # Panics
    /// With the invariant that does not hold.
    pub fn check_invariants<M: Memory>(&self, storage: Storage<'_, M>) {
        let memory = storage.memory;
        let size = memory.block_size();
        let mut slots = HashSet::new();
        let mut dirty_bytes = 0;
        for (&index, &slot) in &self.blocks {
            let block = storage.records.load(slot);
            assert!(slots.insert(slot), "1: slot {slot} belongs to one block");
            assert_eq!(
                (block.owner, block.index),
                (self.id, index),
                "1: the record"
            );
            let out = self.written_out(storage, index);
            let writing = out.is_some_and(|(out, _)| out == slot);
            assert_eq!(block.writing, writing, "1: block {index} is being written");
            let dirty = block.dirty.count(0, size, memory, slot);
            let there = dirty > 0 || !block.knows_nothing() || out.is_some();
            assert!(there, "2: block {index} has something");
            let listed = self.dirty.contains(&index);
            assert_eq!(listed, dirty > 0 && !writing, "3: block {index} is listed");
            let start = index * size as u64;
            let end = start + block.dirty.end(memory, slot) as u64;
            assert!(
                dirty == 0 || end <= self.size,
                "5: dirty up to {end}, size {}",
                self.size
            );
            let known = start + u64::from(block.known.1);
            assert!(
                block.knows_nothing() || known <= self.size,
                "5: known up to {known}"
            );
            if block.dirty == Marks::Many {
                let ranges = memory.bits(slot).ranges(0, size).count();
                assert!(ranges > 1, "6: block {index} has {ranges} ranges");
            }
            dirty_bytes += dirty as u64;
        }
        for (index, slot) in &self.batch {
            let marks = storage.records.load(*slot).dirty;
            if self.blocks.get(index) != Some(slot) {
                assert!(slots.insert(*slot), "1: slot {slot} is the batch's alone");
                dirty_bytes += marks.count(0, size, memory, *slot) as u64;
            }
        }
        for index in &self.dirty {
            assert!(self.blocks.contains_key(index), "3: block {index} is there");
        }
        assert_eq!(self.dirty_bytes, dirty_bytes, "4: dirty bytes");
        let ordered = self.batch.windows(2).all(|two| two[0].0 < two[1].0);
        assert!(ordered, "7: the batch is in file order");
        assert!(self.size >= self.source_size, "8: the size");
    }
}
