//! Which bytes of a block are dirty: one range, or one bit for each byte where there are gaps.

use super::memory::{Bits, Memory};
use crate::types::Slot;

/// A set of bytes of one block. `Many` lies beside the block, in its slot's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Marks {
    #[default]
    None,
    /// From, up to.
    One(u16, u16),
    /// Two ranges or more.
    Many,
}

/// An offset within a block, which has at most 4096 bytes.
pub(super) fn short(at: usize) -> u16 {
    u16::try_from(at).expect("a block is at most 4096 bytes")
}

impl Marks {
    pub(super) fn of_range(lo: usize, hi: usize) -> Marks {
        if lo < hi {
            Marks::One(short(lo), short(hi))
        } else {
            Marks::None
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Marks::None
    }

    /// As bits, whatever the form.
    pub(super) fn bits(self, memory: &impl Memory, slot: Slot) -> Bits {
        let mut bits = Bits::default();
        match self {
            Marks::None => {}
            Marks::One(lo, hi) => bits.set(lo.into(), hi.into()),
            Marks::Many => bits = memory.bits(slot),
        }
        bits
    }

    /// The smallest form of `bits`, which are stored where they are needed.
    pub(super) fn of_bits(bits: &Bits, memory: &impl Memory, slot: Slot) -> Marks {
        let mut ranges = bits.ranges(0, memory.block_size());
        match (ranges.next(), ranges.next()) {
            (None, _) => Marks::None,
            (Some((lo, hi)), None) => Marks::of_range(lo, hi),
            (Some(_), Some(_)) => {
                memory.store_bits(slot, bits);
                Marks::Many
            }
        }
    }

    /// Adds `lo..hi`; returns the new set and how many bytes were in it already.
    pub(super) fn add(
        self,
        lo: usize,
        hi: usize,
        memory: &impl Memory,
        slot: Slot,
    ) -> (Marks, usize) {
        match self {
            Marks::None => (Marks::of_range(lo, hi), 0),
            Marks::One(a, b) if lo <= b.into() && hi >= a.into() => {
                let (a, b) = (usize::from(a), usize::from(b));
                let both = hi.min(b).saturating_sub(lo.max(a));
                (Marks::of_range(lo.min(a), hi.max(b)), both)
            }
            Marks::One(..) | Marks::Many => {
                let mut bits = self.bits(memory, slot);
                let both = bits.count(lo, hi);
                bits.set(lo, hi);
                (Marks::of_bits(&bits, memory, slot), both)
            }
        }
    }

    /// Takes `lo..hi` out.
    pub(super) fn remove(self, lo: usize, hi: usize, memory: &impl Memory, slot: Slot) -> Marks {
        match self {
            Marks::None => Marks::None,
            Marks::One(a, b) if hi >= b.into() => {
                Marks::of_range(a.into(), usize::from(b).min(lo.max(a.into())))
            }
            Marks::One(..) | Marks::Many => {
                let mut bits = self.bits(memory, slot);
                bits.clear(lo, hi);
                Marks::of_bits(&bits, memory, slot)
            }
        }
    }

    /// How many bytes of `lo..hi` are in it.
    pub(super) fn count(self, lo: usize, hi: usize, memory: &impl Memory, slot: Slot) -> usize {
        match self {
            Marks::None => 0,
            Marks::One(a, b) => hi.min(b.into()).saturating_sub(lo.max(a.into())),
            Marks::Many => memory.bits(slot).count(lo, hi),
        }
    }

    /// Its ranges within `lo..hi`, in order.
    pub(super) fn each(
        self,
        (lo, hi): (usize, usize),
        memory: &impl Memory,
        slot: Slot,
        mut take: impl FnMut(usize, usize),
    ) {
        match self {
            Marks::None => {}
            Marks::One(a, b) => {
                let (from, to) = (lo.max(a.into()), hi.min(b.into()));
                if from < to {
                    take(from, to);
                }
            }
            Marks::Many => {
                let bits = memory.bits(slot);
                bits.ranges(lo, hi).for_each(|(from, to)| take(from, to));
            }
        }
    }

    /// One past its last byte; 0 where it is empty.
    pub(super) fn end(self, memory: &impl Memory, slot: Slot) -> usize {
        let mut end = 0;
        self.each((0, memory.block_size()), memory, slot, |_, hi| end = hi);
        end
    }
}
