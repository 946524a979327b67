//! The end: everything that is dirty goes to SOURCE.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Buffers, Did};
use crate::error::Errno;
use crate::event::{ByteText, Cause, OwnCause, Reason};
use crate::types::ByteRange;

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
    pub fn drain(&self, cause: OwnCause, abandon: &AtomicBool) -> Drained {
        let cause = Cause::Own(cause);
        for file in self.budget.round() {
            if abandon.load(Ordering::SeqCst) {
                break;
            }
            let mut did = Did::new();
            if file.is_nameless() {
                file.discard(cause, &mut did, Reason::Unlink);
                continue;
            }
            let wrote = file.write_back_for(ByteRange::ALL, Reason::Unmount, cause, &mut did);
            if let Err(errno) = wrote {
                log::info!(
                    "cannot write back {:?}: {errno}",
                    file.subject().path().path
                );
            }
        }
        Drained {
            dirty_bytes: self.dirty_bytes(),
            write_errors: self.failures.load(Ordering::Relaxed),
            left: self.left(),
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
