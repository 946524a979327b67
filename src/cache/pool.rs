//! The slots of all files: which are free, and which clean block goes when one is needed.
//!
//! The policy is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). A
//! new block enters a small queue; only if it is read again there does it go on to the main queue, so
//! that a scan passes through the small queue and leaves the main one alone. A ghost queue remembers
//! which blocks left the small queue: one that comes back enters the main queue at once. LRU is not
//! scan-resistant; 2Q and ARC are, with more lists and a move at each hit, where here a hit only counts.
//!
//! Dirty blocks are in no queue: they cannot go. A block enters when it becomes clean.

use crate::types::{FileId, Slot};

/// The small queue's share of all slots, percent: the paper's 10.
const SMALL_PERCENT: usize = 10;
/// Reads that are counted for one block at most: two bits in the paper.
const READS_MAX: u8 = 3;

/// The slots, free and taken, and the queues of those that may be evicted.
#[derive(Debug)]
pub struct Pool {
    places: Vec<Place>,
    free: Vec<Slot>,
    small: Queue,
    main: Queue,
    ghost: Ghost,
    small_max: usize,
}

/// What the pool knows of a slot. `prev` and `next` link it into its queue.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: At,
    reads: u8,
    prev: u32,
    next: u32,
    key: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Free,
    /// Some file's, and not to be evicted.
    Taken,
    Small,
    Main,
}

const NOBODY: u32 = u32::MAX;

/// A doubly linked list through [`Place`]: in at the head, out at the tail.
#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            head: NOBODY,
            tail: NOBODY,
            len: 0,
        }
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("a slot is an index")
}

impl Queue {
    fn push(&mut self, places: &mut [Place], slot: u32) {
        places[index(slot)].prev = NOBODY;
        places[index(slot)].next = self.head;
        match self.head {
            NOBODY => self.tail = slot,
            head => places[index(head)].prev = slot,
        }
        self.head = slot;
        self.len += 1;
    }

    fn unlink(&mut self, places: &mut [Place], slot: u32) {
        let Place { prev, next, .. } = places[index(slot)];
        match prev {
            NOBODY => self.head = next,
            prev => places[index(prev)].next = next,
        }
        match next {
            NOBODY => self.tail = prev,
            next => places[index(next)].prev = prev,
        }
        self.len -= 1;
    }
}

/// The last blocks that left the small queue, by the hash of what they were: a table of small sets, each in one line of
/// the processor's cache. A false one among 2^32 only costs a better place than deserved; where more than four fall into
/// one set, the oldest is forgotten early.
#[derive(Debug)]
struct Ghost {
    /// The upper half of the hash, and when it left.
    sets: Vec<[(u32, u32); 4]>,
    /// Blocks that have left. Time, for a ghost.
    now: u32,
    /// How long one is remembered.
    span: u32,
}

impl Ghost {
    /// One that remembers the last `span` blocks.
    fn new(span: usize) -> Ghost {
        let sets = (span / 2).next_power_of_two();
        let span = u32::try_from(span).unwrap_or(u32::MAX / 2);
        Ghost {
            sets: vec![[(0, 0); 4]; sets],
            // The empty places are of long ago.
            now: span + 1,
            span,
        }
    }

    fn note(&mut self, key: u64) {
        self.now = self.now.wrapping_add(1);
        let (now, mark) = (self.now, mark(key));
        let set = self.set(key);
        let age = |place: &(u32, u32)| now.wrapping_sub(place.1);
        let same = set.iter().position(|place| place.0 == mark);
        let oldest = (0..set.len()).max_by_key(|at| age(&set[*at]));
        if let Some(at) = same.or(oldest) {
            set[at] = (mark, now);
        }
    }

    fn recalls(&mut self, key: u64) -> bool {
        let (now, span, mark) = (self.now, self.span, mark(key));
        let mut set = self.set(key).iter();
        set.any(|place| place.0 == mark && now.wrapping_sub(place.1) < span)
    }

    fn set(&mut self, key: u64) -> &mut [(u32, u32); 4] {
        let sets = self.sets.len();
        let at = usize::try_from(key).unwrap_or(usize::MAX) & (sets - 1);
        &mut self.sets[at]
    }
}

/// What tells the keys of a set from each other.
fn mark(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

/// SplitMix64's finisher over both numbers.
fn key_of(file: FileId, block: u64) -> u64 {
    let mut x = file.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Pool {
    /// A pool of `slots` free slots.
    #[must_use]
    pub fn new(slots: u32) -> Pool {
        let place = Place {
            at: At::Free,
            reads: 0,
            prev: NOBODY,
            next: NOBODY,
            key: 0,
        };
        let small_max = (index(slots) * SMALL_PERCENT / 100).max(1);
        Pool {
            places: vec![place; index(slots)],
            // The lowest first, so that a small load touches little memory.
            free: (0..slots).rev().map(Slot).collect(),
            small: Queue::default(),
            main: Queue::default(),
            ghost: Ghost::new(index(slots) - small_max),
            small_max,
        }
    }

    /// All slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.places.len()
    }

    /// Free slots.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes up to `count` free slots, into `into`.
    pub fn take(&mut self, count: usize, into: &mut Vec<Slot>) {
        let rest = self.free.len().saturating_sub(count);
        for slot in self.free.drain(rest..).rev() {
            self.places[index(slot.0)].at = At::Taken;
            into.push(slot);
        }
    }

    /// Takes slots back, wherever they are.
    pub fn give_back(&mut self, slots: &[Slot]) {
        for slot in slots {
            self.unqueue(*slot);
            let place = &mut self.places[index(slot.0)];
            debug_assert_ne!(place.at, At::Free, "a slot is given back once");
            if place.at != At::Free {
                place.at = At::Free;
                self.free.push(*slot);
            }
        }
    }

    /// The block in this slot is clean and may be evicted.
    pub fn admit(&mut self, slot: Slot, file: FileId, block: u64) {
        let place = &mut self.places[index(slot.0)];
        if place.at != At::Taken {
            return;
        }
        place.key = key_of(file, block);
        place.reads = 0;
        let known = self.ghost.recalls(place.key);
        self.enqueue(slot, if known { At::Main } else { At::Small });
    }

    /// The blocks in these slots were read.
    pub fn touch(&mut self, slots: &[Slot]) {
        for slot in slots {
            let reads = &mut self.places[index(slot.0)].reads;
            *reads = (*reads + 1).min(READS_MAX);
        }
    }

    /// Up to `count` blocks to be evicted next. They are in no queue any more: who cannot evict one has
    /// to see that it is admitted again when it is clean.
    pub fn victims(&mut self, count: usize) -> Vec<Slot> {
        let mut victims = Vec::new();
        while victims.len() < count {
            let from_small = self.small.len >= self.small_max || self.main.len == 0;
            let victim = if from_small && self.small.len > 0 {
                self.pass_small()
            } else if self.main.len > 0 {
                self.pass_main()
            } else {
                break;
            };
            victims.extend(victim);
        }
        victims
    }

    /// The oldest of the small queue: on to the main one if it was read again, else out.
    fn pass_small(&mut self) -> Option<Slot> {
        let slot = Slot(self.small.tail);
        self.unqueue(slot);
        let place = &mut self.places[index(slot.0)];
        if place.reads > 1 {
            place.reads = 0;
            self.enqueue(slot, At::Main);
            return None;
        }
        let key = place.key;
        self.ghost.note(key);
        Some(slot)
    }

    /// The oldest of the main queue: once more around if it was read since, else out.
    fn pass_main(&mut self) -> Option<Slot> {
        let slot = Slot(self.main.tail);
        self.unqueue(slot);
        let place = &mut self.places[index(slot.0)];
        if place.reads > 0 {
            place.reads -= 1;
            self.enqueue(slot, At::Main);
            return None;
        }
        Some(slot)
    }

    fn enqueue(&mut self, slot: Slot, at: At) {
        self.places[index(slot.0)].at = at;
        let queue = if at == At::Main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push(&mut self.places, slot.0);
    }

    fn unqueue(&mut self, slot: Slot) {
        match self.places[index(slot.0)].at {
            At::Small => self.small.unlink(&mut self.places, slot.0),
            At::Main => self.main.unlink(&mut self.places, slot.0),
            At::Free | At::Taken => return,
        }
        self.places[index(slot.0)].at = At::Taken;
    }

    /// Fails unless each slot is in just one place and each queue's links are whole.
    pub fn check_invariants(&self) {
        for (queue, at) in [(&self.small, At::Small), (&self.main, At::Main)] {
            let (mut slot, mut before, mut count) = (queue.head, NOBODY, 0);
            while slot != NOBODY {
                let place = &self.places[index(slot)];
                assert_eq!(place.at, at, "slot {slot} is where its queue is");
                assert_eq!(place.prev, before, "slot {slot} knows the one before");
                (before, slot) = (slot, place.next);
                count += 1;
            }
            assert_eq!((before, count), (queue.tail, queue.len), "{at:?}");
        }
        let free = self.places.iter().filter(|place| place.at == At::Free);
        assert_eq!(free.count(), self.free.len(), "free slots");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: FileId = FileId(1);

    /// A cache of blocks of one file that reads through the pool; returns whether the block was there.
    struct Reader {
        pool: Pool,
        there: std::collections::HashMap<u64, Slot>,
        blocks: std::collections::HashMap<Slot, u64>,
    }

    impl Reader {
        fn new(slots: u32) -> Reader {
            Reader {
                pool: Pool::new(slots),
                there: Default::default(),
                blocks: Default::default(),
            }
        }

        fn read(&mut self, block: u64) -> bool {
            if let Some(slot) = self.there.get(&block) {
                self.pool.touch(&[*slot]);
                return true;
            }
            if self.pool.free() == 0 {
                for victim in self.pool.victims(1) {
                    let old = self.blocks.remove(&victim).unwrap();
                    self.there.remove(&old);
                    self.pool.give_back(&[victim]);
                }
            }
            let mut got = Vec::new();
            self.pool.take(1, &mut got);
            self.pool.admit(got[0], FILE, block);
            self.there.insert(block, got[0]);
            self.blocks.insert(got[0], block);
            false
        }
    }

    impl Reader {
        fn scan(&mut self, blocks: std::ops::Range<u64>) {
            for block in blocks {
                self.read(block);
            }
        }
    }

    #[test]
    fn a_scan_does_not_drive_out_what_is_read_again_and_again() {
        let mut cache = Reader::new(100);
        for _ in 0..4 {
            cache.scan(0..50);
        }
        cache.scan(1000..3000);
        let kept = (0..50).filter(|block| cache.read(*block)).count();
        assert!(kept >= 45, "{kept} of 50 blocks survived the scan");
        cache.pool.check_invariants();
    }

    #[test]
    fn a_block_that_comes_back_soon_stays() {
        let mut cache = Reader::new(100);
        cache.scan(0..150);
        assert!(!cache.read(3), "the first ones have left");
        cache.scan(200..400);
        assert!(cache.read(3), "remembered, it went to the main queue");
    }

    #[test]
    fn a_ghost_is_remembered_for_its_span_and_no_longer() {
        let mut ghost = Ghost::new(1000);
        let key = |block| key_of(FILE, block);
        assert!((0..10_000).all(|block| !ghost.recalls(key(block))), "empty");
        (0..5000).for_each(|block| ghost.note(key(block)));
        let known = |ghost: &mut Ghost, blocks: std::ops::Range<u64>| {
            blocks.filter(|block| ghost.recalls(key(*block))).count()
        };
        assert_eq!(known(&mut ghost, 0..4000), 0);
        let of_last = known(&mut ghost, 4000..5000);
        assert!(of_last >= 950, "{of_last} of 1000");
        // Noted again, it is a young one.
        ghost.note(key(4001));
        (6000..6998).for_each(|block| ghost.note(key(block)));
        assert!(ghost.recalls(key(4001)) && !ghost.recalls(key(4002)));
    }

    #[test]
    fn what_is_dirty_is_no_victim() {
        let mut pool = Pool::new(4);
        let mut got = Vec::new();
        pool.take(9, &mut got);
        assert_eq!(got, [Slot(0), Slot(1), Slot(2), Slot(3)]);
        pool.admit(Slot(2), FILE, 2);
        assert_eq!(pool.victims(4), [Slot(2)]);
        assert_eq!(pool.victims(4), []);
        pool.check_invariants();
    }

    proptest! {
        #[test]
        fn every_slot_is_always_in_one_place(
            steps in proptest::collection::vec((0u8..5, 0u32..12, 0u64..20), 1..200)
        ) {
            let mut pool = Pool::new(12);
            let mut taken: Vec<Slot> = Vec::new();
            for (step, slot, block) in steps {
                let mine = taken.iter().position(|held| held.0 == slot);
                match (step, mine) {
                    (0, _) => pool.take(2, &mut taken),
                    (1, Some(at)) => pool.give_back(&[taken.remove(at)]),
                    (2, Some(_)) => pool.admit(Slot(slot), FILE, block),
                    (3, Some(_)) => pool.touch(&[Slot(slot)]),
                    (4, _) => {
                        for victim in pool.victims(2) {
                            prop_assert!(taken.contains(&victim));
                        }
                    }
                    _ => {}
                }
                pool.check_invariants();
                prop_assert_eq!(pool.free() + taken.len(), pool.slots());
            }
        }
    }
}
