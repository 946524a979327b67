//! What is known of each block, one record for each slot: plain words of a fixed layout that refer to
//! other things by number, so that they mean the same wherever they lie. They are atomics only because
//! the table is shared by all files: a record is read and changed under its file's lock.

use std::sync::atomic::{AtomicU64, Ordering};

use super::marks::Marks;
use crate::types::{FileId, Nanos, Seq, Slot};

/// Words of a record: one cache line.
const WORDS: usize = 8;

/// The records of all slots.
#[derive(Debug)]
pub struct Records(Box<[[AtomicU64; WORDS]]>);

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
}

const MANY: u64 = 1;
const WRITING: u64 = 1 << 1;
const AHEAD: u64 = 1 << 2;
const CONTINUES: u64 = 1 << 3;

impl Records {
    /// For slots `0..slots`.
    #[must_use]
    pub fn new(slots: usize) -> Records {
        Records((0..slots).map(|_| Default::default()).collect())
    }

    /// Whose block a slot holds, and which: what it last held, where it is free.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> (FileId, u64) {
        let block = self.load(slot);
        (block.owner, block.index)
    }

    fn words(&self, slot: Slot) -> &[AtomicU64; WORDS] {
        &self.0[usize::try_from(slot.0).expect("a slot is an index")]
    }

    pub(super) fn load(&self, slot: Slot) -> Block {
        let words = self.words(slot);
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let (flags, ranges) = (word(6), word(7));
        let short = |at: u32| u16::try_from(ranges >> at & 0xffff).unwrap_or(0);
        let (lo, hi) = (short(32), short(48));
        let dirty = match flags & MANY {
            0 if lo == hi => Marks::None,
            0 => Marks::One(lo, hi),
            _ => Marks::Many,
        };
        Block {
            owner: FileId(word(0)),
            index: word(1),
            since: Nanos(word(2)),
            first: Seq(word(3)),
            last: Seq(word(4)),
            writes: u32::try_from(word(5)).unwrap_or(u32::MAX),
            writing: flags & WRITING != 0,
            ahead: flags & AHEAD != 0,
            continues: flags & CONTINUES != 0,
            known: (short(0), short(16)),
            dirty,
        }
    }

    pub(super) fn store(&self, slot: Slot, block: &Block) {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let (lo, hi) = match block.dirty {
            Marks::One(lo, hi) => (lo, hi),
            Marks::None | Marks::Many => (0, 0),
        };
        let flags = flag(block.dirty == Marks::Many, MANY)
            | flag(block.writing, WRITING)
            | flag(block.ahead, AHEAD)
            | flag(block.continues, CONTINUES);
        let ranges = u64::from(block.known.0)
            | u64::from(block.known.1) << 16
            | u64::from(lo) << 32
            | u64::from(hi) << 48;
        let values = [
            block.owner.0,
            block.index,
            block.since.0,
            block.first.0,
            block.last.0,
            block.writes.into(),
            flags,
            ranges,
        ];
        for (word, value) in self.words(slot).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
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
        let records = Records::new(3);
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
