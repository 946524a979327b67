//! Which files are dirty, the one first that has been so for longest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{File, lock};

/// The dirty files, by ticket: numbers in the order in which files became dirty.
#[derive(Debug, Default)]
pub(super) struct Budget {
    dirty: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    last: u64,
    files: BTreeMap<u64, Arc<File>>,
}

impl Budget {
    /// Takes a file in; its ticket.
    pub(super) fn enter(&self, file: &Arc<File>) -> u64 {
        let mut dirty = lock(&self.dirty);
        dirty.last += 1;
        let ticket = dirty.last;
        dirty.files.insert(ticket, Arc::clone(file));
        ticket
    }

    /// Takes a file out; the file, for the caller to let go of where it holds no lock.
    pub(super) fn leave(&self, ticket: u64) -> Option<Arc<File>> {
        lock(&self.dirty).files.remove(&ticket)
    }

    /// The files that are dirty now, the one first that has been so for longest. A file that is dirty again
    /// after its turn does not get another.
    pub(super) fn round(&self) -> impl Iterator<Item = Arc<File>> + '_ {
        let (mut after, last) = (0, lock(&self.dirty).last);
        std::iter::from_fn(move || {
            let dirty = lock(&self.dirty);
            let (ticket, file) = dirty.files.range(after + 1..=last.max(after + 1)).next()?;
            after = *ticket;
            (after <= last).then(|| Arc::clone(file))
        })
    }

    /// How many files are dirty.
    pub(super) fn len(&self) -> usize {
        lock(&self.dirty).files.len()
    }
}
