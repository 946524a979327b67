//! Looking up blocks one behind the other without a search for each.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;

use crate::types::Slot;

/// Finds the slots of blocks that are asked for in ascending order. A single block costs one search.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    blocks: &'a BTreeMap<u64, Slot>,
    /// From the second block on.
    rest: Option<Peekable<Range<'a, u64, Slot>>>,
    begun: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn over(blocks: &'a BTreeMap<u64, Slot>) -> Walk<'a> {
        Walk {
            blocks,
            rest: None,
            begun: false,
        }
    }

    /// The slot of a block, which comes after those that were asked for before.
    pub(super) fn find(&mut self, index: u64) -> Option<Slot> {
        if !self.begun {
            self.begun = true;
            return self.blocks.get(&index).copied();
        }
        let blocks = self.blocks;
        let rest = self
            .rest
            .get_or_insert_with(|| blocks.range(index..).peekable());
        while rest.next_if(|(at, _)| **at < index).is_some() {}
        rest.next_if(|(at, _)| **at == index).map(|(_, slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        let blocks: BTreeMap<u64, Slot> =
            [(2, Slot(12)), (3, Slot(13)), (5, Slot(15)), (9, Slot(19))].into();
        for first in 0..11 {
            let mut walk = Walk::over(&blocks);
            for index in first..11 {
                assert_eq!(walk.find(index), blocks.get(&index).copied(), "{index}");
            }
        }
        let mut walk = Walk::over(&blocks);
        let found = [3, 9].map(|index| walk.find(index));
        assert_eq!(found, [Some(Slot(13)), Some(Slot(19))]);
    }
}
