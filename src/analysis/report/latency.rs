//! Times, counted in classes so that percentiles of any number of them take little memory.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::types::Nanos;

/// Classes in each power of two: a percentile is at most an eighth too high.
const PARTS: u64 = 8;
const CLASSES: usize = 64 * 8;

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

fn class_of(ns: u64) -> usize {
    let class = match ns.checked_ilog2() {
        None | Some(0..3) => ns,
        Some(power) => {
            let part = (ns >> (power - 3)) & (PARTS - 1);
            u64::from(power) * PARTS + part
        }
    };
    usize::try_from(class).unwrap_or(CLASSES - 1)
}

/// The largest time of a class.
fn top_of(class: usize) -> u64 {
    let class = class as u64;
    let (power, part) = (class / PARTS, class % PARTS);
    if power < 3 {
        return class;
    }
    let low = (PARTS + part) << (power - 3);
    low + ((1 << (power - 3)) - 1)
}

impl Latency {
    pub(super) fn add(&mut self, time: Nanos) {
        let class = class_of(time.0);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(time.0);
        self.max = self.max.max(time.0);
    }

    /// All times together.
    #[must_use]
    pub fn sum(&self) -> Nanos {
        Nanos(self.sum)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that so many of a hundred do not exceed, at most an eighth too high.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Nanos {
        let rank = (self.count * percent).div_ceil(100);
        let mut below = 0;
        for (class, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank && below > 0 {
                return Nanos(top_of(class).min(self.max));
            }
        }
        Nanos(0)
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("time", 5)?;
        fields.serialize_field("total_ns", &self.sum)?;
        fields.serialize_field("p50_ns", &self.percentile(50).0)?;
        fields.serialize_field("p95_ns", &self.percentile(95).0)?;
        fields.serialize_field("p99_ns", &self.percentile(99).0)?;
        fields.serialize_field("max_ns", &self.max)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_time() {
        assert_eq!(Latency::default().percentile(99), Nanos(0));
    }

    proptest! {
        #[test]
        fn a_percentile_is_what_sorting_says_or_an_eighth_more(
            mut times in proptest::collection::vec(0u64..1 << 40, 1..200),
            percent in 1u64..=100,
        ) {
            let mut latency = Latency::default();
            times.iter().for_each(|ns| latency.add(Nanos(*ns)));
            times.sort_unstable();
            let rank = (times.len() * usize::try_from(percent).unwrap()).div_ceil(100);
            let exact = times[rank - 1];
            let found = latency.percentile(percent).0;
            prop_assert!(exact <= found && found <= exact + exact / 8, "{exact} {found}");
        }
    }
}
