//! The undo log of a write: what it is about to change, kept until all of it is there, so that a write in the
//! middle of which the process is killed can be taken back. Then what is found dirty is what writes were
//! answered for, whole writes only.
//!
//! Layer: pure. The log is words of memory that is handed in (a *lane*), one write at a time. A word counts
//! the words in use; it changes after an entry is complete, and before the block is changed.
//!
//! An entry: which bytes of which slot, the state of its record, and, where any of these bytes is dirty
//! already, all of them, with the block's bits where it has some.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::Storage;
use super::marks::Marks;
use super::memory::{BLOCK_MAX, Bits, Memory};
use crate::types::Slot;

/// Words of the longest entry: where, the state, a block, its bits.
const ENTRY_WORDS: usize = 2 + BLOCK_MAX / 8 + BLOCK_MAX / 64;

/// Blocks of one write at most: 1 MiB and a page that begin anywhere, in blocks of 4 KiB. What a larger write changes
/// beyond is not kept.
const BLOCKS: usize = 258;

/// Words of a lane.
pub const LANE_WORDS: usize = 1 + BLOCKS * ENTRY_WORDS;

/// Of the word that says where: bits of an offset.
const OFFSET_BITS: u32 = 13;
/// Of that word: the bytes follow.
const WITH_BYTES: u64 = 1 << 62;
/// Of that word: the bits follow.
const WITH_BITS: u64 = 1 << 63;

/// A lane, for as long as a write lasts.
#[derive(Clone, Copy, Debug)]
pub struct Undo<'a>(&'a [AtomicU64]);

impl<'a> Undo<'a> {
    /// The log in these words, which are zero at first.
    #[must_use]
    pub fn over(words: &'a [AtomicU64]) -> Undo<'a> {
        Undo(words)
    }

    /// For a new write, whatever became of the last one.
    #[must_use]
    pub fn fresh(self) -> Undo<'a> {
        self.done();
        self
    }

    /// Keeps nothing: for memory that dies with the process.
    #[must_use]
    pub fn none() -> Undo<'static> {
        Undo(&[])
    }

    /// `lo..hi` of a slot is about to become dirty.
    pub(super) fn before<M: Memory>(
        self,
        storage: Storage<'_, M>,
        slot: Slot,
        lo: usize,
        hi: usize,
    ) {
        let Some((count, log)) = self.0.split_first() else {
            return;
        };
        let used = usize::try_from(count.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let Some(log) = log.get(used..).filter(|log| log.len() >= ENTRY_WORDS) else {
            return;
        };
        let block = storage.records.load(slot);
        let overwrites = block.dirty.count(lo, hi, storage.memory, slot) > 0;
        let many = block.dirty == Marks::Many;
        let mut entry = Cursor { log, at: 0 };
        let place = u64::from(slot.0) | word(lo) << 32 | word(hi) << (32 + OFFSET_BITS);
        let bytes = if overwrites { WITH_BYTES } else { 0 };
        entry.put(place | bytes | if many { WITH_BITS } else { 0 });
        entry.put(storage.records.state(slot));
        if overwrites {
            let mut kept = [0; BLOCK_MAX];
            let kept = &mut kept[..hi - lo];
            storage.memory.read(slot, lo, kept);
            entry.put_bytes(kept);
        }
        if many {
            let bits = storage.memory.bits(slot);
            bits.0.iter().for_each(|word| entry.put(*word));
        }
        count.store(word(used + entry.at), Ordering::Release);
        // The change comes after.
        fence(Ordering::SeqCst);
    }

    /// All is there.
    pub(super) fn done(self) {
        if let Some(count) = self.0.first() {
            count.store(0, Ordering::Release);
        }
    }

    /// Takes back what a write has changed that did not come to its end.
    pub fn roll_back<M: Memory>(self, storage: Storage<'_, M>) {
        let Some((count, log)) = self.0.split_first() else {
            return;
        };
        let used = usize::try_from(count.load(Ordering::Acquire)).unwrap_or(0);
        let mut entry = Cursor { log, at: 0 };
        while entry.at < used.min(log.len()) {
            let place = entry.get();
            let state = entry.get();
            let slot = Slot(u32::try_from(place & u64::from(u32::MAX)).unwrap_or(0));
            let offset = |from: u32| {
                let offset = place >> from & ((1 << OFFSET_BITS) - 1);
                usize::try_from(offset).unwrap_or(0)
            };
            let (lo, hi) = (offset(32), offset(32 + OFFSET_BITS));
            if place & WITH_BYTES != 0 {
                let mut kept = [0; BLOCK_MAX];
                let kept = &mut kept[..hi - lo];
                entry.get_bytes(kept);
                storage.memory.write(slot, lo, kept);
            }
            if place & WITH_BITS != 0 {
                let mut bits = Bits::default();
                bits.0.iter_mut().for_each(|word| *word = entry.get());
                storage.memory.store_bits(slot, &bits);
            }
            storage.records.restore_state(slot, state);
        }
        self.done();
    }
}

fn word(number: usize) -> u64 {
    u64::try_from(number).expect("64 bits hold a usize")
}

/// Words, one after the other.
struct Cursor<'a> {
    log: &'a [AtomicU64],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, value: u64) {
        self.log[self.at].store(value, Ordering::Relaxed);
        self.at += 1;
    }

    fn get(&mut self) -> u64 {
        self.at += 1;
        self.log[self.at - 1].load(Ordering::Relaxed)
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.put(u64::from_ne_bytes(word));
        }
    }

    fn get_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.get().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
