//! The end: everything that is dirty goes to SOURCE.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Buffers, Did};
use crate::event::{Cause, OwnCause, Reason};
use crate::types::ByteRange;

/// What was left when all was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Bytes that did not reach SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed since the start.
    pub write_errors: u64,
}

/// What failed is tried so often: the first failure may have been another's.
const TRIES: usize = 2;

impl Buffers {
    /// Writes back everything, until done or `abandon` is set. The view is gone, so that nobody can read
    /// files without a name: what is dirty of them dies.
    pub fn drain(&self, cause: OwnCause, abandon: &AtomicBool) -> Drained {
        let cause = Cause::Own(cause);
        for _ in 0..TRIES {
            for file in self.budget.round() {
                if abandon.load(Ordering::SeqCst) {
                    return self.drained();
                }
                let mut did = Did::new();
                if file.is_nameless() {
                    file.discard(cause, &mut did, Reason::Unlink);
                    continue;
                }
                let wrote = file.write_back_for(ByteRange::ALL, Reason::Unmount, cause, &mut did);
                if let Err(errno) = wrote {
                    let path = file.subject().path().path;
                    log::warn!("cannot write back {}: {errno}", path.unwrap_or_default());
                }
            }
        }
        self.drained()
    }

    fn drained(&self) -> Drained {
        Drained {
            dirty_bytes: self.dirty_bytes(),
            write_errors: self.failures.load(Ordering::Relaxed),
        }
    }
}
