//! Slots for whoever needs some: free ones, else those of blocks that are evicted for it.

use std::sync::Weak;

use super::{Buffers, File, lock};
use crate::event::Reason;
use crate::types::Slot;

/// How often to look for victims: those found may have become dirty meanwhile.
const ROUNDS: usize = 8;

impl Buffers {
    /// Takes up to `count` slots. Fewer where all others hold dirty blocks. Nobody who calls this holds a
    /// file's state.
    pub(super) fn take(&self, count: usize) -> Vec<Slot> {
        let mut stock = Vec::with_capacity(count);
        if count == 0 {
            return stock;
        }
        for _ in 0..ROUNDS {
            let missing = count - stock.len();
            let victims = {
                let mut pool = lock(&self.pool);
                pool.take(missing, &mut stock);
                pool.victims(count - stock.len())
            };
            if stock.len() == count || victims.is_empty() {
                break;
            }
            self.evict(&victims);
        }
        self.ahead.taken(&stock, self.shared.slots());
        stock
    }

    pub(super) fn give_back(&self, slots: &[Slot]) {
        if slots.is_empty() {
            return;
        }
        let dirty = |slot: &Slot| self.records().is_dirty(*slot);
        debug_assert!(!slots.iter().any(dirty), "a free slot has nothing dirty");
        lock(&self.pool).give_back(slots);
    }

    /// Blocks of these slots are clean now.
    pub(super) fn admit(&self, slots: &[Slot]) {
        if slots.is_empty() {
            return;
        }
        let mut pool = lock(&self.pool);
        for slot in slots {
            let (file, block) = self.records().owner(*slot);
            pool.admit(*slot, file, block);
        }
    }

    pub(super) fn touch(&self, slots: &[Slot]) {
        if !slots.is_empty() {
            lock(&self.pool).touch(slots);
        }
    }

    /// Evicts up to `count` blocks, those that would go first if there was no room for others.
    pub fn evict_some(&self, count: usize) {
        let victims = lock(&self.pool).victims(count);
        self.evict(&victims);
    }

    fn evict(&self, victims: &[Slot]) {
        let mut at = 0;
        while let Some(first) = victims.get(at) {
            let (id, _) = self.records().owner(*first);
            let same = |slot: &&Slot| self.records().owner(**slot).0 == id;
            let count = victims[at..].iter().take_while(same).count();
            let file = self.files.get(&id).map(|file| Weak::clone(&file));
            if let Some(file) = file.and_then(|file| file.upgrade()) {
                self.evict_of(&file, &victims[at..at + count]);
            }
            at += count.max(1);
        }
    }

    fn evict_of(&self, file: &File, victims: &[Slot]) {
        let mut freed = Vec::with_capacity(victims.len());
        let mut state = file.lock();
        for slot in victims {
            let (_, index) = self.records().owner(*slot);
            freed.extend(state.cache.evict(self.storage(), (index, *slot)));
        }
        drop(state);
        self.give_back(&freed);
        if !freed.is_empty() {
            let subject = file.subject();
            self.journal
                .evicted(&*subject, freed.len() as u64, Reason::Memory);
        }
    }
}
