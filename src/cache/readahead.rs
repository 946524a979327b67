//! How much to fetch ahead of a reader: one window for each open file description.
//!
//! A reader that goes on where it stopped gets a window that doubles each time it has read what was
//! fetched ahead; one that jumps has its window halved until nothing is fetched ahead at all. The idea is
//! that of Linux's own read-ahead (mm/readahead.c), on the buffer's blocks.

use crate::types::ByteRange;

/// The largest window, bytes: 1 MiB, as much as one request of the kernel.
pub const READAHEAD_MAX: u64 = 1 << 20;
/// The first window, bytes: four blocks.
const FIRST: u64 = 16 << 10;

/// Where a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    next: u64,
    window: u64,
}

impl Stream {
    /// The reader asks for `range`, of which something is to be fetched (`misses`) or nothing. Returns how
    /// many bytes to fetch behind it; 0 where nothing is.
    pub fn advance(&mut self, range: ByteRange, misses: bool) -> u64 {
        let follows = range.start == self.next;
        self.next = range.end;
        if !follows {
            self.window = if self.window / 2 < FIRST {
                0
            } else {
                self.window / 2
            };
            return if misses { self.window } else { 0 };
        }
        if !misses {
            return 0;
        }
        self.window = (self.window * 2)
            .max(FIRST)
            .max(range.len().min(READAHEAD_MAX))
            .min(READAHEAD_MAX);
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads of `size` at these offsets, all of which miss: the windows.
    fn windows(size: u64, offsets: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut stream = Stream::default();
        offsets
            .into_iter()
            .map(|at| stream.advance(ByteRange::at(at, size), true))
            .collect()
    }

    #[test]
    fn a_sequential_reader_gets_a_window_that_grows_up_to_its_limit() {
        let seen = windows(4096, (0..12).map(|n| n * 4096));
        assert!(seen.windows(2).all(|two| two[0] <= two[1]), "{seen:?}");
        assert_eq!(seen[0], FIRST);
        assert_eq!(seen[11], READAHEAD_MAX);
    }

    #[test]
    fn what_was_fetched_ahead_lets_it_grow_only_when_it_is_used_up() {
        let mut stream = Stream::default();
        let first = stream.advance(ByteRange::at(0, 4096), true);
        assert_eq!(stream.advance(ByteRange::at(4096, 4096), false), 0);
        assert_eq!(stream.advance(ByteRange::at(8192, 4096), true), 2 * first);
    }

    #[test]
    fn a_random_reader_gets_none_soon() {
        let seen = windows(4096, [0, 4096, 8192, 900_000, 40_000, 700_000, 100_000, 5]);
        assert_eq!(&seen[6..], [0, 0], "{seen:?}");
        assert_eq!(windows(4096, [70_000, 9_000, 800_000]), [0, 0, 0]);
    }
}
