//! Where writers wait while too much is dirty. What waits is the answer, not a thread: a writer's bytes
//! are buffered already, and whoever brings what is dirty below the limit sends the answers.

use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::lock;
use crate::event::Reason;
use crate::types::Tid;

/// What is called when the wait is over.
type Wake = Box<dyn FnOnce() + Send>;

/// How much is dirty. Bytes that are scattered take more memory than their number says: whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dirt {
    pub(super) bytes: u64,
    pub(super) blocks: u64,
}

/// How much is dirty in all files, and who waits for it to become less.
pub struct Gate {
    bytes: AtomicU64,
    blocks: AtomicU64,
    limit: Dirt,
    /// Nothing can be written back: waiting would help nobody.
    stuck: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// The answers that are held back, and the threads that they are for.
#[derive(Default)]
struct Waiting {
    wakes: Vec<Wake>,
    threads: HashSet<Tid>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("dirty", &self.dirt())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate that closes when more than `limit` is dirty, of bytes or of blocks.
    pub(super) fn new(limit: Dirt) -> Gate {
        Gate {
            bytes: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            limit,
            stuck: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Dirty bytes of all files.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    fn dirt(&self) -> Dirt {
        Dirt {
            bytes: self.dirty_bytes(),
            blocks: self.blocks.load(Ordering::SeqCst),
        }
    }

    /// Whether a writer has to wait now, and what for.
    #[must_use]
    pub fn closed(&self) -> Option<Reason> {
        let closed = self.is_over() && !self.stuck.load(Ordering::SeqCst);
        closed.then(|| self.why())
    }

    /// What there is too much of: dirty bytes, else memory that their blocks take.
    pub(super) fn why(&self) -> Reason {
        let dirt = self.dirt();
        // In parts of what is allowed.
        let bytes = dirt.bytes.saturating_mul(self.limit.blocks);
        if bytes >= dirt.blocks.saturating_mul(self.limit.bytes) {
            Reason::DirtyLimit
        } else {
            Reason::Memory
        }
    }

    /// Whether more is dirty than should be.
    pub(super) fn is_over(&self) -> bool {
        self.is_beyond(1)
    }

    /// Whether more than half of it is.
    pub(super) fn is_half_full(&self) -> bool {
        self.is_beyond(2)
    }

    /// Whether not even a quarter of it is.
    pub(super) fn is_low(&self) -> bool {
        !self.is_beyond(4)
    }

    fn is_beyond(&self, part: u64) -> bool {
        let dirt = self.dirt();
        dirt.bytes > self.limit.bytes / part || dirt.blocks > self.limit.blocks / part
    }

    /// Whether nothing more is buffered: above the limit, while nothing can be written back.
    pub(super) fn is_full(&self) -> bool {
        self.is_over() && self.stuck.load(Ordering::SeqCst)
    }

    /// Whether an answer for this thread is held back. If it asks for more all the same, it does not wait for its
    /// answers (io_submit), and would fill the buffer.
    #[must_use]
    pub fn holds(&self, thread: Tid) -> bool {
        self.is_over() && lock(&self.waiting).threads.contains(&thread)
    }

    /// What is dirty of a file has changed. Where it has become less, this may send answers: then the
    /// caller holds no file's state.
    pub(super) fn change(&self, before: Dirt, after: Dirt) {
        let change = |count: &AtomicU64, before: u64, after: u64| {
            if after > before {
                count.fetch_add(after - before, Ordering::SeqCst);
            } else if before > after {
                count.fetch_sub(before - after, Ordering::SeqCst);
            }
        };
        change(&self.bytes, before.bytes, after.bytes);
        change(&self.blocks, before.blocks, after.blocks);
        if before.bytes > after.bytes || before.blocks > after.blocks {
            self.open_if_due();
        }
    }

    /// Whether nothing can be written back.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::SeqCst);
        self.open_if_due();
    }

    /// Calls `wake`, which answers `thread`, when the gate is open: at once, or later from the thread that opens
    /// it.
    pub fn wait(&self, thread: Tid, wake: Wake) {
        let mut waiting = lock(&self.waiting);
        waiting.wakes.push(wake);
        waiting.threads.insert(thread);
        drop(waiting);
        // It may have opened since the caller looked.
        self.open_if_due();
    }

    fn open_if_due(&self) {
        if self.closed().is_some() {
            return;
        }
        let due = std::mem::take(&mut *lock(&self.waiting));
        for wake in due.wakes {
            // One answer that cannot be given is not to keep back the others.
            if catch_unwind(AssertUnwindSafe(wake)).is_err() {
                log::error!("a bug in iolens: an answer that had waited panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn writers_wait_for_the_limit_and_not_for_what_will_never_come() {
        let gate = Gate::new(Dirt {
            bytes: 100,
            blocks: 10,
        });
        let dirt = |bytes, blocks| Dirt { bytes, blocks };
        let woken = Arc::new(AtomicUsize::new(0));
        let wake = |woken: &Arc<AtomicUsize>| {
            let woken = woken.clone();
            Box::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        };
        gate.change(dirt(0, 0), dirt(100, 1));
        gate.wait(Tid(7), wake(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 1, "at the limit nobody waits");
        assert!(!gate.holds(Tid(7)));
        gate.change(dirt(0, 0), dirt(1, 0));
        gate.wait(Tid(7), wake(&woken));
        gate.wait(Tid(7), wake(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        assert!(gate.holds(Tid(7)) && !gate.holds(Tid(8)));
        gate.change(dirt(1, 0), dirt(0, 0));
        assert!(!gate.holds(Tid(7)));
        assert_eq!(woken.load(Ordering::SeqCst), 3);
        gate.change(dirt(0, 0), dirt(50, 0));
        gate.wait(Tid(7), wake(&woken));
        gate.set_stuck(true);
        assert_eq!(woken.load(Ordering::SeqCst), 4);
        assert!(gate.is_full() && gate.closed().is_none());
    }

    #[test]
    fn scattered_bytes_count_for_the_blocks_that_they_keep() {
        let dirt = |bytes, blocks| Dirt { bytes, blocks };
        let gate = Gate::new(dirt(100_000, 10));
        gate.change(dirt(0, 0), dirt(10, 10));
        assert!(gate.closed().is_none() && gate.is_half_full());
        gate.change(dirt(0, 0), dirt(1, 1));
        assert_eq!(gate.closed(), Some(Reason::Memory));
        gate.change(dirt(0, 0), dirt(200_000, 0));
        assert_eq!(gate.closed(), Some(Reason::DirtyLimit));
        gate.change(dirt(200_011, 11), dirt(1, 1));
        assert!(gate.is_low());
    }

    #[test]
    fn an_answer_that_panics_does_not_keep_back_the_others() {
        let gate = Gate::new(Dirt::default());
        let woken = Arc::new(AtomicUsize::new(0));
        let more = Dirt {
            bytes: 1,
            blocks: 1,
        };
        gate.change(Dirt::default(), more);
        gate.wait(Tid(7), Box::new(|| panic!("of this test")));
        let count = woken.clone();
        gate.wait(
            Tid(7),
            Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        );
        gate.change(more, Dirt::default());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
    }
}
