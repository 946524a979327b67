//! The end: everything that is dirty goes to SOURCE.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Buffers;
use super::flusher::GLANCE;
use crate::event::{Cause, OwnCause, Reason};

/// How often it is told how much is left.
const TELL: Duration = Duration::from_secs(2);

/// What was left when all was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Bytes that did not reach SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed since the start.
    pub write_errors: u64,
}

impl Buffers {
    /// Writes back everything, until done or `abandon` is set; where it takes long, `tell` hears every few
    /// seconds how many bytes are left. The view is gone, so that nobody can read files without a name: what
    /// is dirty of them dies. Whoever has detached files open still writes past the buffer from here on, and
    /// gets `EIO` when it was given up.
    pub fn drain(
        self: &Arc<Self>,
        cause: OwnCause,
        abandon: &AtomicBool,
        tell: &dyn Fn(u64),
    ) -> Drained {
        self.closed.store(true, Ordering::SeqCst);
        self.let_writers_finish();
        // In a thread of its own, because SOURCE may not answer: who gives up does not wait for it.
        let mine = Arc::clone(self);
        let thread = std::thread::Builder::new().name("iolens-drain".to_owned());
        match thread.spawn(move || mine.write_back_all(Cause::Own(cause))) {
            Ok(thread) => self.wait_for(&thread, abandon, tell),
            Err(error) => {
                log::warn!("no thread for the drain ({error}): giving up will have to wait");
                self.write_back_all(Cause::Own(cause));
            }
        }
        Drained {
            dirty_bytes: self.dirty_bytes(),
            write_errors: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Whoever was putting something in when it became known that nothing more is to be, has done so
    /// afterwards.
    fn let_writers_finish(&self) {
        let files: Vec<_> = self.files.iter().map(|file| Weak::clone(&file)).collect();
        for file in files.iter().filter_map(Weak::upgrade) {
            drop(file.lock());
        }
    }

    fn wait_for(&self, thread: &JoinHandle<()>, abandon: &AtomicBool, tell: &dyn Fn(u64)) {
        let mut told = Instant::now();
        while !thread.is_finished() {
            if abandon.load(Ordering::SeqCst) {
                // It ends with what it is writing just now, or with the process.
                self.abandoned.store(true, Ordering::SeqCst);
                self.let_writers_finish();
                return;
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                tell(self.dirty_bytes());
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn write_back_all(&self, cause: Cause) {
        for file in self.budget.round() {
            if self.is_abandoned() {
                return;
            }
            if file.is_nameless() {
                file.bury();
            } else {
                file.flush(Reason::Unmount, cause);
            }
        }
    }
}
