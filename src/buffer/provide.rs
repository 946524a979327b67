//! Memory ahead of its first use. The kernel provides a page of shared memory when it is first written to, which takes
//! 2 us each (measured; most of it is accounting, so asking for many at once is no faster), far longer than the copy. So
//! a thread of its own has it provided, as much ahead of what is in use as there is in use, within bounds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{Buffers, lock};
use crate::sys;
use crate::types::Slot;

/// Blocks that are provided at least, and at most, ahead of the last one in use: 1 MiB, 32 MiB.
const AHEAD: std::ops::RangeInclusive<u32> = 256..=8192;
/// Blocks that are provided at a time: 256 KiB.
const STEP: u32 = 64;

/// How much is provided, and how much is to be. Slots are given out from the lowest on, so it is one number.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Slots below have their memory.
    provided: AtomicU32,
    wanted: Mutex<Wanted>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    /// Slots below are to have theirs.
    below: u32,
    stop: bool,
}

/// What is to be provided while `used` slots are in use.
fn wanted_for(used: u32, slots: u32) -> u32 {
    let ahead = used.clamp(*AHEAD.start(), *AHEAD.end());
    used.saturating_add(ahead).min(slots)
}

impl Ahead {
    /// These slots are taken: half of what was provided ahead of them is to be there still.
    pub(super) fn taken(&self, taken: &[Slot], slots: u32) {
        let Some(highest) = taken.iter().map(|slot| slot.0).max() else {
            return;
        };
        let used = highest.saturating_add(1);
        let below = wanted_for(used, slots);
        let low = used + (below - used) / 2;
        if self.provided.load(Ordering::Relaxed) >= low.min(slots) {
            return;
        }
        let mut wanted = lock(&self.wanted);
        if wanted.below < below {
            wanted.below = below;
            drop(wanted);
            self.woken.notify_one();
        }
    }

    /// Waits until there is more to do; up to where. `None` when it is to stop.
    fn next(&self) -> Option<u32> {
        let mut wanted = lock(&self.wanted);
        loop {
            if wanted.stop {
                return None;
            }
            if wanted.below > self.provided.load(Ordering::Relaxed) {
                return Some(wanted.below);
            }
            let waited = self.woken.wait(wanted);
            wanted = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Provider {
    buffers: Arc<Buffers>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts the thread.
    pub(super) fn start(buffers: &Arc<Buffers>) -> std::io::Result<Provider> {
        let mine = Arc::clone(buffers);
        let thread = std::thread::Builder::new().name("iolens-memory".to_owned());
        let thread = thread.spawn(move || {
            sys::work_in_background();
            mine.provide_until_stopped();
        })?;
        Ok(Provider {
            buffers: Arc::clone(buffers),
            thread: Some(thread),
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let ahead = &self.buffers.ahead;
        lock(&ahead.wanted).stop = true;
        ahead.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has nothing to lose.
            let _ = thread.join();
        }
    }
}

impl Buffers {
    fn provide_until_stopped(&self) {
        while self.ahead.next().is_some() {
            let first = self.ahead.provided.load(Ordering::Relaxed);
            let count = STEP.min(self.shared.slots() - first);
            if let Err(errno) = self.memory().provide(Slot(first), count) {
                // Linux 5.14 can. Then it comes as it is used, and nobody asks again.
                log::debug!("memory is not provided ahead: {errno}");
                self.ahead.provided.store(u32::MAX, Ordering::Relaxed);
                return;
            }
            self.ahead.provided.store(first + count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_grows_with_what_is_used_and_ends_with_the_cache() {
        assert_eq!(wanted_for(1, 100_000), 257);
        assert_eq!(wanted_for(1000, 100_000), 2000);
        assert_eq!(wanted_for(50_000, 100_000), 58_192);
        assert_eq!(wanted_for(99_000, 100_000), 100_000);
    }

    #[test]
    fn nothing_is_wanted_while_half_of_it_is_left() {
        let ahead = Ahead::default();
        ahead.taken(&[Slot(9), Slot(3)], 100_000);
        assert_eq!(ahead.next(), Some(266));
        ahead.provided.store(266, Ordering::Relaxed);
        ahead.taken(&[Slot(100)], 100_000);
        assert_eq!(lock(&ahead.wanted).below, 266);
        ahead.taken(&[Slot(200)], 100_000);
        assert_eq!(ahead.next(), Some(457));
        ahead.provided.store(100_000, Ordering::Relaxed);
        ahead.taken(&[Slot(99_999)], 100_000);
        assert_eq!(lock(&ahead.wanted).below, 457);
    }
}
