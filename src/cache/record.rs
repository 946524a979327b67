//! What is known of each block, one record for each slot: plain words of a fixed layout that refer to
//! other things by number, so that they mean the same wherever they lie. They are atomics only because
//! the table is shared by all files: a record is read and changed under its file's lock.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::marks::Marks;
use crate::types::{FileId, Nanos, OwnFd, Seq, Slot};

/// Words of a record: one cache line.
pub const RECORD_WORDS: usize = 8;

/// The records of all slots, in memory that is handed in: [`RECORD_WORDS`] words for each.
///
/// What is dirty of a block, and whether it is under writeback, is one word, stored after all others. So
/// whoever finds the records of a process that was killed between any two instructions finds each block as
/// it was before or after a change, and a free slot never looks dirty (see [`survey`](super::survey)).
#[derive(Clone, Copy, Debug)]
pub struct Records<'a>(&'a [AtomicU64]);

/// A record, unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Whose it is.
    pub(super) owner: FileId,
    /// Which block of that file.
    pub(super) index: u64,
    /// The known bytes, from and up to; equal where there are none.
    pub(super) known: (u16, u16),
    /// The dirty bytes.
    pub(super) dirty: Marks,
    /// They are under writeback.
    pub(super) writing: bool,
    /// Fetched by read-ahead, and nobody has read it yet.
    pub(super) ahead: bool,
    /// The write that its first byte belongs to began in the block before.
    pub(super) continues: bool,
    /// Writes that began in it since it became dirty.
    pub(super) writes: u32,
    /// When its oldest dirty byte was buffered.
    pub(super) since: Nanos,
    /// The lowest number of an operation that made it dirty.
    pub(super) first: Seq,
    /// The highest.
    pub(super) last: Seq,
    /// How its dirty bytes reach SOURCE.
    pub(super) via: Option<OwnFd>,
}

/// The word that says what is dirty: four offsets within the block, then the flags.
const STATE: usize = 6;
/// Bits of an offset, which is 4096 at most.
const OFFSET_BITS: u32 = 13;
const OFFSET: u64 = (1 << OFFSET_BITS) - 1;
const MANY: u64 = 1 << 52;
const WRITING: u64 = 1 << 53;
const AHEAD: u64 = 1 << 54;
const CONTINUES: u64 = 1 << 55;

impl<'a> Records<'a> {
    /// The records in `words`, which are zero at first.
    #[must_use]
    pub fn over(words: &'a [AtomicU64]) -> Records<'a> {
        Records(words)
    }

    /// How many there are.
    #[must_use]
    pub fn slots(self) -> usize {
        self.0.len() / RECORD_WORDS
    }

    /// Whose block a slot holds, and which: what it last held, where it is free.
    #[must_use]
    pub fn owner(self, slot: Slot) -> (FileId, u64) {
        let block = self.load(slot);
        (block.owner, block.index)
    }

    /// Nothing in the slot is dirty any more.
    pub(super) fn clear(self, slot: Slot) {
        self.words(slot)[STATE].store(0, Ordering::Release);
    }

    /// Whether anything in the slot is dirty.
    #[must_use]
    pub fn is_dirty(self, slot: Slot) -> bool {
        !state_marks(self.state(slot)).is_empty()
    }

    pub(super) fn state(self, slot: Slot) -> u64 {
        self.words(slot)[STATE].load(Ordering::Relaxed)
    }

    pub(super) fn restore_state(self, slot: Slot, state: u64) {
        self.words(slot)[STATE].store(state, Ordering::Release);
    }

    fn words(self, slot: Slot) -> &'a [AtomicU64] {
        let first = usize::try_from(slot.0).expect("a slot is an index") * RECORD_WORDS;
        &self.0[first..first + RECORD_WORDS]
    }

    pub(super) fn load(self, slot: Slot) -> Block {
        let words = self.words(slot);
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let state = word(STATE);
        Block {
            owner: FileId(word(0)),
            index: word(1),
            since: Nanos(word(2)),
            first: Seq(word(3)),
            last: Seq(word(4)),
            writes: u32::try_from(word(5)).unwrap_or(u32::MAX),
            writing: state & WRITING != 0,
            ahead: state & AHEAD != 0,
            continues: state & CONTINUES != 0,
            known: (offset(state, 0), offset(state, 1)),
            dirty: state_marks(state),
            via: OwnFd::from_word(word(7)),
        }
    }

    pub(super) fn store(self, slot: Slot, block: &Block) {
        let words = self.words(slot);
        let put = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        let same = |at: usize, value: u64| words[at].load(Ordering::Relaxed) == value;
        if !same(0, block.owner.0) || !same(1, block.index) {
            // Never may what is dirty of one block be taken for another's.
            self.clear(slot);
            fence(Ordering::Release);
            put(0, block.owner.0);
            put(1, block.index);
        }
        put(2, block.since.0);
        put(3, block.first.0);
        put(4, block.last.0);
        put(5, block.writes.into());
        put(7, OwnFd::to_word(block.via));
        self.restore_state(slot, packed(block));
    }
}

fn offset(state: u64, which: u32) -> u16 {
    u16::try_from(state >> (which * OFFSET_BITS) & OFFSET).unwrap_or(0)
}

fn state_marks(state: u64) -> Marks {
    let (lo, hi) = (offset(state, 2), offset(state, 3));
    match state & MANY {
        0 if lo == hi => Marks::None,
        0 => Marks::One(lo, hi),
        _ => Marks::Many,
    }
}

fn packed(block: &Block) -> u64 {
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    let (lo, hi) = match block.dirty {
        Marks::One(lo, hi) => (lo, hi),
        Marks::None | Marks::Many => (0, 0),
    };
    let offsets = [block.known.0, block.known.1, lo, hi];
    let mut state = flag(block.dirty == Marks::Many, MANY)
        | flag(block.writing, WRITING)
        | flag(block.ahead, AHEAD)
        | flag(block.continues, CONTINUES);
    for (which, offset) in (0..).zip(offsets) {
        state |= u64::from(offset) << (which * OFFSET_BITS);
    }
    state
}

impl Block {
    /// Adds `lo..hi`, whose bytes have become true, to the known ones if they touch.
    pub(super) fn learn(&mut self, lo: usize, hi: usize) {
        let (from, to) = (usize::from(self.known.0), usize::from(self.known.1));
        if from == to {
            self.know(lo, hi);
        } else if lo <= to && hi >= from {
            self.know(lo.min(from), hi.max(to));
        }
    }

    pub(super) fn know(&mut self, lo: usize, hi: usize) {
        self.known = (super::marks::short(lo), super::marks::short(hi));
    }

    /// Its known bytes end at `end` at the latest.
    pub(super) fn know_until(&mut self, end: usize) {
        let (lo, hi) = (usize::from(self.known.0), usize::from(self.known.1));
        if hi > end {
            self.know(lo.min(end), end);
        }
    }

    pub(super) fn knows_nothing(&self) -> bool {
        self.known.0 >= self.known.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_stored() {
        let words: Vec<AtomicU64> = (0..3 * RECORD_WORDS).map(|_| AtomicU64::new(0)).collect();
        let records = Records::over(&words);
        let block = Block {
            owner: FileId(7),
            index: 1 << 50,
            known: (0, 4096),
            dirty: Marks::One(17, 4096),
            writing: true,
            ahead: false,
            continues: true,
            writes: 12,
            since: Nanos(5),
            first: Seq(1),
            last: Seq(u64::MAX),
            via: Some(OwnFd(0)),
        };
        records.store(Slot(1), &block);
        assert_eq!(records.load(Slot(1)), block);
        let other = Block {
            dirty: Marks::Many,
            known: (3, 3),
            writing: false,
            ahead: true,
            ..block
        };
        records.store(Slot(2), &other);
        assert_eq!(records.load(Slot(2)), other);
        assert_eq!(records.load(Slot(1)), block);
        assert_eq!(records.owner(Slot(0)), (FileId(0), 0));
    }
}
