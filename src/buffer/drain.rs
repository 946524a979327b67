//! The end: everything that is dirty goes to SOURCE.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::Buffers;
use super::flusher::GLANCE;
use crate::error::Errno;
use crate::event::{ByteText, Cause, OwnCause, Reason};

/// Files that are named where not all could be written; the others are only counted.
const NAMED_MAX: usize = 20;

/// What was left when all was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Bytes that did not reach SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed since the start.
    pub write_errors: u64,
    /// The files whose bytes they are, the first few.
    pub left: Vec<Left>,
}

/// A file that could not be written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its path below SOURCE.
    pub path: ByteText,
    /// Its dirty bytes.
    pub bytes: u64,
    /// Why; absent where nobody tried.
    pub error: Option<Errno>,
}

impl Buffers {
    /// Writes back everything, until done or `abandon` is set. The view is gone, so that nobody can read
    /// files without a name: what is dirty of them dies.
    pub fn drain(self: &Arc<Self>, cause: OwnCause, abandon: &AtomicBool) -> Drained {
        // In a thread of its own, because SOURCE may not answer: who gives up does not wait for it.
        let mine = Arc::clone(self);
        let thread = std::thread::Builder::new().name("iolens-drain".to_owned());
        match thread.spawn(move || mine.write_back_all(Cause::Own(cause))) {
            Ok(thread) => self.wait_for(&thread, abandon),
            Err(error) => {
                log::warn!("no thread for the drain ({error}): giving up will have to wait");
                self.write_back_all(Cause::Own(cause));
            }
        }
        Drained {
            dirty_bytes: self.dirty_bytes(),
            write_errors: self.failures.load(Ordering::Relaxed),
            left: self.left(),
        }
    }

    fn wait_for(&self, thread: &JoinHandle<()>, abandon: &AtomicBool) {
        while !thread.is_finished() {
            if abandon.load(Ordering::SeqCst) {
                // It ends with what it is writing just now, or with the process.
                self.abandoned.store(true, Ordering::SeqCst);
                return;
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

    fn left(&self) -> Vec<Left> {
        let files = self.budget.round().take(NAMED_MAX);
        files
            .map(|file| {
                let state = file.lock();
                let (bytes, error) = (state.cache.dirty_bytes(), state.errors.last);
                drop(state);
                Left {
                    path: file.subject().path(),
                    bytes,
                    error,
                }
            })
            .collect()
    }
}
