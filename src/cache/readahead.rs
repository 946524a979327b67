//! How much to fetch ahead of a reader, and when: one window for each open file description.
//!
//! A reader that goes on where it stopped gets a window that doubles each time it has read what was
//! fetched ahead; one that jumps has its window halved until nothing is fetched ahead at all. Small windows are
//! fetched with what the reader misses. A large one is followed by the next as soon as the reader comes to it, which
//! another thread fetches meanwhile. The idea is that of Linux's own read-ahead (mm/readahead.c), on the
//! buffer's blocks.

use crate::types::ByteRange;

/// The largest window, bytes: 1 MiB and a page, as much as one request of the kernel. A smaller one would be overtaken.
pub const READAHEAD_MAX: u64 = (1 << 20) + 4096;
/// The first window, bytes: four blocks.
const FIRST: u64 = 16 << 10;
/// The smallest window that is followed by the next before it is used up, bytes: to fetch less takes no longer
/// than to wake another thread.
const LARGE: u64 = 128 << 10;

/// Where a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    next: u64,
    window: u64,
    /// Where what is fetched ahead ends, or will.
    ahead: u64,
}

impl Stream {
    /// The reader asks for `range`, of which something is to be fetched (`misses`) or nothing. Returns how
    /// many bytes to fetch behind it; 0 where nothing is.
    pub fn advance(&mut self, range: ByteRange, misses: bool) -> u64 {
        if misses || range.start != self.next {
            self.window = self.would_fetch(range);
        }
        self.next = range.end;
        if !misses {
            return 0;
        }
        self.ahead = range.end.saturating_add(self.window);
        self.window
    }

    /// How many bytes would be fetched behind `range`, if something of it had to be.
    #[must_use]
    pub fn would_fetch(&self, range: ByteRange) -> u64 {
        let half = self.window / 2;
        if range.start != self.next {
            return if half < FIRST { 0 } else { half };
        }
        (self.window * 2)
            .max(FIRST)
            .max(range.len().min(READAHEAD_MAX))
            .min(READAHEAD_MAX)
    }

    /// What another thread is to fetch while the reader is served `range`: the next window, if the reader goes on and
    /// comes to the last one that was fetched.
    #[must_use]
    pub fn following(&self, range: ByteRange) -> Option<ByteRange> {
        let goes_on = range.start == self.next && range.end <= self.ahead;
        let comes_to_it = range.end.saturating_add(self.window) > self.ahead;
        (self.window >= LARGE && goes_on && comes_to_it)
            .then(|| ByteRange::at(self.ahead, (self.window * 2).min(READAHEAD_MAX)))
    }

    /// That is being fetched.
    pub fn follow(&mut self, range: ByteRange) {
        self.window = range.len();
        self.ahead = range.end;
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

    /// What is fetched by another thread as reads of `size` go on from 0, of which those miss that nobody has fetched.
    fn followed(size: u64, reads: u64) -> Vec<ByteRange> {
        let mut stream = Stream::default();
        let (mut fetched, mut all) = (0, Vec::new());
        for range in (0..reads).map(|n| ByteRange::at(n * size, size)) {
            if let Some(next) = stream.following(range) {
                stream.follow(next);
                assert_eq!(next.start, fetched, "of {range:?}");
                fetched = next.end;
                all.push(next);
            }
            let misses = range.end > fetched;
            let ahead = stream.advance(range, misses);
            if misses {
                fetched = range.end + ahead;
            }
        }
        all
    }

    #[test]
    fn a_large_window_is_followed_by_the_next_before_it_is_used_up() {
        let small = followed(4096, 1000);
        assert!(small[0].len() >= LARGE, "{small:?}");
        assert!(small.iter().all(|range| range.len() <= READAHEAD_MAX));
        assert!(small.windows(2).all(|two| two[0].end == two[1].start));
        // Once it has begun, no read misses.
        for size in [1 << 20, READAHEAD_MAX] {
            let large = followed(size, 10);
            assert_eq!((large.len(), large[0].start), (9, 2 * size));
        }
    }

    #[test]
    fn nothing_follows_a_small_window_or_a_jump() {
        assert_eq!(followed(4096, 8), []);
        let mut stream = Stream::default();
        stream.advance(ByteRange::at(0, 1 << 20), true);
        assert_eq!(stream.following(ByteRange::at(5 << 20, 4096)), None);
        stream.advance(ByteRange::at(5 << 20, 4096), true);
        assert_eq!(stream.following(ByteRange::at(0, 4096)), None);
    }
}
