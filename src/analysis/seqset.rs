//! A set of numbers that nearly form one run: kept as intervals, so that a long trace takes no memory.

use std::collections::BTreeMap;

/// Intervals kept. A trace has as many as it has gaps at one time; beyond this the set gives up
/// counting rather than grow (24 MiB).
const INTERVALS_MAX: usize = 1 << 19;

#[derive(Clone, Debug, Default)]
pub(super) struct SeqSet {
    /// First to last number of each interval, inclusive; disjoint and not adjacent.
    intervals: BTreeMap<u64, u64>,
    count: u64,
    /// Too fragmented: numbers were turned away.
    overflowed: bool,
}

impl SeqSet {
    /// Adds a number; false when it was there already.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let below = self
            .intervals
            .range(..=number)
            .next_back()
            .map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let joins_below = below.filter(|(_, last)| last.checked_add(1) == Some(number));
        let joins_above = number
            .checked_add(1)
            .and_then(|next| self.intervals.remove_entry(&next));
        if joins_below.is_none() && joins_above.is_none() && self.intervals.len() >= INTERVALS_MAX {
            self.overflowed = true;
            return true;
        }
        let first = joins_below.map_or(number, |(first, _)| first);
        let last = joins_above.map_or(number, |(_, last)| last);
        self.intervals.insert(first, last);
        self.count += 1;
        true
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.intervals
            .range(..=number)
            .next_back()
            .is_some_and(|(_, &last)| number <= last)
    }

    /// How many numbers from 1 to the largest one are not in the set; `None` when it gave up.
    pub(super) fn missing(&self) -> Option<u64> {
        let top = self.intervals.last_key_value().map_or(0, |(_, &last)| last);
        let zero = u64::from(self.contains(0));
        (!self.overflowed).then(|| top - (self.count - zero))
    }

    /// The first gap from 1 on, first to last number.
    pub(super) fn first_gap(&self) -> Option<(u64, u64)> {
        let mut next = 1;
        for (&first, &last) in &self.intervals {
            if first > next {
                return Some((next, first - 1));
            }
            next = last.saturating_add(1).max(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_counts_like_an_ordinary_set(numbers in proptest::collection::vec(0u64..60, 0..80)) {
            let mut set = SeqSet::default();
            let mut model = BTreeSet::new();
            for &number in &numbers {
                prop_assert_eq!(set.insert(number), model.insert(number));
            }
            let top = model.last().copied().unwrap_or(0);
            let missing: Vec<u64> = (1..=top).filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(set.missing(), Some(missing.len() as u64));
            prop_assert_eq!(set.first_gap().map(|gap| gap.0), missing.first().copied());
            (0..60).for_each(|n| assert_eq!(set.contains(n), model.contains(&n)));
        }
    }

    #[test]
    fn the_ends_of_the_number_range_are_numbers_too() {
        let mut set = SeqSet::default();
        assert!(set.insert(u64::MAX) && set.insert(0) && set.insert(u64::MAX - 1));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.missing(), Some(u64::MAX - 2));
        assert_eq!(set.first_gap(), Some((1, u64::MAX - 2)));
    }

    #[test]
    fn too_many_gaps_are_given_up_and_not_held() {
        let mut set = SeqSet::default();
        (0..2 * INTERVALS_MAX as u64).for_each(|n| assert!(set.insert(2 * n + 1)));
        assert_eq!(set.intervals.len(), INTERVALS_MAX);
        assert_eq!(set.missing(), None);
    }
}
