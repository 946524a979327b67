//! The memory of the blocks, as the cache sees it.

use crate::types::Slot;

/// The largest block: its offsets fit into 16 bits, its dirty bits into [`Bits`].
pub const BLOCK_MAX: usize = 4096;

const WORDS: usize = BLOCK_MAX / 64;

/// Memory for blocks of one size, by slot. A slot's contents mean nothing until they are written.
pub trait Memory {
    /// Bytes of a block: a power of two, at most [`BLOCK_MAX`].
    fn block_size(&self) -> usize;
    /// Reads `out.len()` bytes from `at` within the block.
    fn read(&self, slot: Slot, at: usize, out: &mut [u8]);
    /// Writes at `at` within the block.
    fn write(&self, slot: Slot, at: usize, data: &[u8]);
    /// Copies a whole block.
    fn copy(&self, from: Slot, to: Slot);
    /// The bits kept beside a block, as last stored.
    fn bits(&self, slot: Slot) -> Bits;
    /// Keeps bits beside a block.
    fn store_bits(&self, slot: Slot, bits: &Bits);
}

/// One bit for each byte of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub [u64; WORDS]);

impl Default for Bits {
    fn default() -> Bits {
        Bits([0; WORDS])
    }
}

impl Bits {
    /// Calls `change` with each word that has bits of the range, and those bits.
    fn each_word(lo: usize, hi: usize, mut change: impl FnMut(usize, u64)) {
        let mut at = lo;
        while at < hi {
            let (word, bit) = (at / 64, at % 64);
            let len = (hi - at).min(64 - bit);
            change(word, (u64::MAX >> (64 - len)) << bit);
            at += len;
        }
    }

    /// Sets the bits of `lo..hi`.
    pub fn set(&mut self, lo: usize, hi: usize) {
        Bits::each_word(lo, hi, |word, mask| self.0[word] |= mask);
    }

    /// Clears the bits of `lo..hi`.
    pub fn clear(&mut self, lo: usize, hi: usize) {
        Bits::each_word(lo, hi, |word, mask| self.0[word] &= !mask);
    }

    /// How many bits of `lo..hi` are set.
    #[must_use]
    pub fn count(&self, lo: usize, hi: usize) -> usize {
        let mut count = 0;
        Bits::each_word(lo, hi, |word, mask| {
            count += (self.0[word] & mask).count_ones() as usize;
        });
        count
    }

    /// Sets all bits that `other` has.
    pub fn unite(&mut self, other: &Bits) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// The ranges of set bits within `lo..hi`, in order.
    pub fn ranges(&self, lo: usize, hi: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut at = lo;
        std::iter::from_fn(move || {
            let start = self.next(at, hi, 0)?;
            let end = self.next(start, hi, u64::MAX).unwrap_or(hi);
            at = end;
            Some((start, end))
        })
    }

    /// The first bit in `from..hi` that is set (`flip` 0) or clear (`flip` all ones).
    fn next(&self, from: usize, hi: usize, flip: u64) -> Option<usize> {
        let mut at = from;
        while at < hi {
            let (word, bit) = (at / 64, at % 64);
            let left = (self.0[word] ^ flip) >> bit;
            if left != 0 {
                let found = at + left.trailing_zeros() as usize;
                return (found < hi).then_some(found);
            }
            at += 64 - bit;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_an_array_of_booleans(
            steps in proptest::collection::vec((any::<bool>(), 0usize..=BLOCK_MAX, 0usize..=BLOCK_MAX), 1..20),
            probe in (0usize..=BLOCK_MAX, 0usize..=BLOCK_MAX),
        ) {
            let mut bits = Bits::default();
            let mut model = vec![false; BLOCK_MAX];
            for (set, a, b) in steps {
                let (lo, hi) = (a.min(b), a.max(b));
                if set { bits.set(lo, hi) } else { bits.clear(lo, hi) }
                model[lo..hi].fill(set);
            }
            let (lo, hi) = (probe.0.min(probe.1), probe.0.max(probe.1));
            prop_assert_eq!(bits.count(lo, hi), model[lo..hi].iter().filter(|bit| **bit).count());
            let mut painted = vec![false; BLOCK_MAX];
            let mut before = None;
            for (start, end) in bits.ranges(lo, hi) {
                prop_assert!(start < end && before.is_none_or(|before| before < start));
                painted[start..end].fill(true);
                before = Some(end);
            }
            prop_assert_eq!(&painted[lo..hi], &model[lo..hi]);
        }
    }
}
