//! Where writers wait while too much is dirty. What waits is the answer, not a thread: a writer's bytes
//! are buffered already, and whoever brings the dirty bytes below the limit sends the answers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::lock;

/// What is called when the wait is over.
type Wake = Box<dyn FnOnce() + Send>;

/// The count of dirty bytes, and who waits for it to fall.
pub struct Gate {
    dirty: AtomicU64,
    limit: u64,
    /// Nothing can be written back: waiting would help nobody.
    stuck: AtomicBool,
    waiting: Mutex<VecDeque<Wake>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("dirty", &self.dirty)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate that closes when more than `limit` bytes are dirty.
    #[must_use]
    pub fn new(limit: u64) -> Gate {
        Gate {
            dirty: AtomicU64::new(0),
            limit,
            stuck: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Dirty bytes of all files.
    #[must_use]
    pub fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Whether a writer has to wait now.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.dirty() > self.limit && !self.stuck.load(Ordering::SeqCst)
    }

    /// Whether so much is dirty that a further request is not even buffered: as much again as the limit,
    /// by writers that did not wait for their answers, or above the limit and nothing can be written back.
    pub(super) fn is_full(&self) -> bool {
        let dirty = self.dirty();
        dirty > self.limit.saturating_mul(2)
            || (dirty > self.limit && self.stuck.load(Ordering::SeqCst))
    }

    /// Bytes have become dirty.
    pub(super) fn add(&self, bytes: u64) {
        self.dirty.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Bytes are dirty no more.
    pub(super) fn sub(&self, bytes: u64) {
        if bytes > 0 {
            self.dirty.fetch_sub(bytes, Ordering::SeqCst);
            self.open_if_due();
        }
    }

    /// Whether nothing can be written back.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::SeqCst);
        self.open_if_due();
    }

    /// Calls `wake` when the gate is open: at once, or later from the thread that opens it.
    pub fn wait(&self, wake: Wake) {
        lock(&self.waiting).push_back(wake);
        // It may have opened since the caller looked.
        self.open_if_due();
    }

    fn open_if_due(&self) {
        if self.is_closed() {
            return;
        }
        let due = std::mem::take(&mut *lock(&self.waiting));
        for wake in due {
            wake();
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
        let gate = Gate::new(100);
        let woken = Arc::new(AtomicUsize::new(0));
        let wake = |woken: &Arc<AtomicUsize>| {
            let woken = woken.clone();
            Box::new(move || {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        };
        gate.add(100);
        gate.wait(wake(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 1, "at the limit nobody waits");
        gate.add(1);
        gate.wait(wake(&woken));
        gate.wait(wake(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        gate.sub(1);
        assert_eq!(woken.load(Ordering::SeqCst), 3);
        gate.add(50);
        gate.wait(wake(&woken));
        gate.set_stuck(true);
        assert_eq!(woken.load(Ordering::SeqCst), 4);
        assert!(gate.is_full() && !gate.is_closed());
    }
}
