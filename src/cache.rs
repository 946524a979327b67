//! The buffer cache, without I/O: what is buffered of each file, what a read finds, what is to be written
//! back, what may be evicted. No clock, no lock, no system call: each call takes the facts and returns
//! what it did or what is to be done, so that a test can perform or fail the steps in any order.
//!
//! Layer: pure; imports `types` alone. `buffer` performs what is planned here.
//!
//! # Definitions
//!
//! - *SOURCE*: the file as it lies below. *Logical*: the file as the application sees it.
//! - *Block*: a stretch of a file, aligned to the block size (4 KiB; tests use smaller ones), and the
//!   *slot* of memory that holds it. A slot is an index into memory that is handed in, never an address.
//! - *Dirty byte*: one that SOURCE does not have yet. Dirty bytes are exact: a write of 10 bytes makes 10
//!   dirty bytes, and nothing is read to fill up its block.
//! - *Known bytes* of a block: one range whose bytes are true. Beside them the dirty bytes are true, and
//!   those under writeback; nothing else in a slot means anything.
//! - *Run*: contiguous dirty bytes. A *batch* of runs is under writeback while it is being written.
//! - *Epoch* of a file: changes whenever SOURCE may have other bytes than a read that is under way found.
//!
//! # A block's states
//!
//! ```text
//!            fill                  write                 plan_writeback
//!  absent ---------> clean -----------------> dirty ------------------------> writing
//!    |  ^              |  ^                   ^ | ^ ^                          |  |
//!    |  +--- evict ----+  |                   | | | +-- failed ----------------+  | write: the new bytes
//!    |       invalidate   |                   | | |                            |  | go to a copy in
//!    |                    |                   | | |                            |  v another slot
//!    +------------------- | ---- write -------+ | +---- done or failed ---- rewritten
//!    ^                    +------ done ---------|------------------------------+
//!    +----- truncate, discard ------------------+
//! ```
//!
//! A slot that is being written never changes: who wrote it out needs no lock to read it.
//!
//! # Invariants ([`FileCache::check_invariants`] is this list as code)
//!
//! 1. Each block of a file has one slot, and the slot's record names that file and block. No slot belongs
//!    to two blocks, or to a block and a batch, except the slot of a block in state *writing*.
//! 2. A block has dirty bytes, or known bytes, or is under writeback; else it is absent.
//! 3. The index of dirty blocks holds just the blocks in the states *dirty* and *rewritten*.
//! 4. `dirty_bytes` is the sum of all dirty bytes, those under writeback included.
//! 5. No dirty byte lies at or beyond the logical size; no known byte does either.
//! 6. Where a block's dirty bytes are one range they are kept as such, else as one bit for each byte, and
//!    then there are at least two ranges.
//! 7. A batch lists its blocks in file order, each once; there is at most one batch at a time.
//! 8. The logical size is at least SOURCE's, as far as that is known.

mod attrs;
mod check;
mod file;
mod invalidate;
mod marks;
mod memory;
mod pool;
mod read;
mod readahead;
mod record;
mod survey;
mod undo;
mod walk;
mod writeback;

pub use attrs::{Attrs, Facts, Outside, Remembered, SetMtime, Time, blocks_shown};
pub use file::{FileCache, Stamp, Wrote};
pub use invalidate::Dropped;
pub use memory::{BLOCK_MAX, Bits, Memory};
pub use pool::Pool;
pub use read::{Filled, ReadPlan};
pub use readahead::{READAHEAD_MAX, Stream};
pub use record::{RECORD_WORDS, Records};
pub use survey::{Survivors, survey};
pub use undo::{LANE_WORDS, Undo};
pub use writeback::{BATCH_BLOCKS, Batch, Committed, Piece, Run};

/// What the calls of a [`FileCache`] work with: the memory of the blocks and their records, both of which
/// are shared by all files and handed in.
#[derive(Debug)]
pub struct Storage<'a, M> {
    /// The blocks' bytes.
    pub memory: &'a M,
    /// The blocks' records.
    pub records: Records<'a>,
}

// Not derived: that would ask M to be Copy.
impl<M> Clone for Storage<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Storage<'_, M> {}

#[cfg(test)]
mod tests;
