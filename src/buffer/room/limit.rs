//! How far something may go before SOURCE is asked again, and when that is. Atomics alone: a write that has room
//! reads two of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::types::Nanos;

/// How old the answer of SOURCE may be: others write there, too.
const LOOK_AGE: Nanos = Nanos(100_000_000);

/// The shortest pause between two questions while there is no room. On a network filesystem each is a round trip.
const LOOK_PAUSE: Nanos = Nanos(1_000_000);

/// SOURCE was not asked yet.
const NEVER: u64 = u64::MAX;

/// How far `asked` may go, and when that was found out.
#[derive(Debug)]
pub(super) struct Limit {
    blocks: AtomicU64,
    looked: AtomicU64,
    /// It did not do when SOURCE was asked last.
    short: AtomicBool,
}

impl Limit {
    pub(super) fn new(blocks: u64) -> Limit {
        Limit {
            blocks: AtomicU64::new(blocks),
            looked: AtomicU64::new(NEVER),
            short: AtomicBool::new(false),
        }
    }

    pub(super) fn allows(&self, asked: u64) -> bool {
        asked <= self.blocks.load(Ordering::SeqCst)
    }

    /// Whether SOURCE is to be asked by who finds this out.
    pub(super) fn is_due(&self, asked: u64, now: Nanos) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        if looked == NEVER {
            return true;
        }
        let age = now.since(Nanos(looked));
        if !self.allows(asked) {
            return age >= LOOK_PAUSE || !self.short.load(Ordering::Relaxed);
        }
        let turn = |looked| {
            let (done, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            self.looked.compare_exchange(looked, now.0, done, failed)
        };
        age >= LOOK_AGE && turn(looked).is_ok()
    }

    /// SOURCE was asked, when `asked` blocks had been.
    pub(super) fn set(&self, blocks: u64, now: Nanos, asked: u64) {
        self.blocks.store(blocks, Ordering::SeqCst);
        self.short.store(asked > blocks, Ordering::Relaxed);
        self.looked.store(now.0, Ordering::Relaxed);
    }

    /// It was too large: SOURCE has refused something.
    pub(super) fn distrust(&self) {
        self.blocks.store(0, Ordering::SeqCst);
        self.short.store(false, Ordering::Relaxed);
    }
}
