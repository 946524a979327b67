//! The buffer cache at work: performs on SOURCE what [`cache`](crate::cache) plans, for all files of a view.
//!
//! Layer: effect; above `cache` and `backing`, below `fs`. It knows files by their data alone: who they
//! are, and where what happens is recorded, is told through [`Subject`] and [`Journal`].
//!
//! ```text
//! read  --> File::read   plan | fetch from SOURCE | put in
//! write --> File::buffer take slots | buffer; or File::write_through: write back what overlaps | write | overlay
//! fsync, close, rename, ... --> File::write_back   plan | pwritev(2) | commit, batch by batch
//! write  --> room   is there so much room in SOURCE? else past the buffer, after what is dirty
//! flusher (a thread of its own): what grew old, and what is too much; provide (another): memory ahead of its use;
//! prefetch (a third): what a sequential reader will ask for next
//! ```
//!
//! # Locks, in this order
//!
//! 1. `File::io` orders everything that changes the file of SOURCE: writeback, writes past the buffer,
//!    truncation. Held over system calls.
//! 2. `File::state`, the file's part of the cache. Never over a system call, nor over another file's.
//! 3. The pool of slots, the list of dirty files, the gate of waiting writers, the queue of read-ahead: leaves.
//!
//! Evicting a block takes the lock of that block's file, so slots are taken while no `state` is held.

mod barrier;
mod budget;
mod drain;
mod file;
mod flusher;
mod gate;
mod journal;
mod looks;
mod prefetch;
mod provide;
mod read;
mod recover;
mod room;
mod shared;
mod slots;
mod storage;
mod write;
mod writeback;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dashmap::DashMap;

pub use drain::Drained;
pub use file::{File, Privileges};
pub use flusher::Flusher;
pub use gate::Gate;
pub use journal::{By, Did, Issued, Journal, Subject, WroteBack};
pub use looks::recalled;
pub use recover::{Descriptors, Lost, Recovered, Target, recover};
pub use shared::Shared;
pub use write::{Place, Put};

use crate::cache::{Pool, Records};
use crate::sys::{Clock, SysResult};
use crate::types::{FileId, Nanos};
use budget::Budget;
use flusher::Bell;
use gate::Dirt;
use prefetch::Prefetch;
use provide::Ahead;
use room::Room;
use storage::ArenaMemory;

/// The size of a block, bytes: a page of most machines, and the unit in which filesystems allocate.
pub const BLOCK_SIZE: usize = 4096;

/// What is kept of a block beside its bytes and their bits: its record (64), its places in the pool (28), in
/// its file's indexes (about 36) and in the ghost queue (about 24), its leases (8).
const SLOT_OVERHEAD: usize = 160;

/// Memory for one block, bytes, all of which [`Options::cache_bytes`] has to hold.
const SLOT_BYTES: u64 = (BLOCK_SIZE + BLOCK_SIZE / 8 + SLOT_OVERHEAD) as u64;

/// Dirty files at most, however many descriptors there are: beyond, the oldest are written back.
pub const DIRTY_FILES_MAX: usize = 4096;

/// What writes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They go into the buffer, and to SOURCE later.
    WriteBack,
    /// They go to SOURCE at once; only reads are buffered.
    WriteThrough,
}

/// What close(2) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// It writes the file's dirty bytes back.
    Writeback,
    /// They stay.
    Keep,
}

/// How to buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What writes do.
    pub policy: Policy,
    /// Memory for blocks and what is kept beside them, bytes.
    pub cache_bytes: u64,
    /// Dirty bytes at which writers wait.
    pub dirty_limit: u64,
    /// Age at which dirty bytes are written back; `None` is never.
    pub dirty_age: Option<Nanos>,
    /// Dirty files at most: each keeps a descriptor open.
    pub dirty_files: usize,
    /// What close(2) does.
    pub on_close: OnClose,
}

/// The buffers of all files of a view.
#[derive(Debug)]
pub struct Buffers {
    options: Options,
    shared: Arc<Shared>,
    pool: Mutex<Pool>,
    ahead: Ahead,
    prefetch: Prefetch,
    files: DashMap<FileId, Weak<File>>,
    /// By device number.
    rooms: DashMap<u64, Arc<Room>>,
    budget: Budget,
    gate: Arc<Gate>,
    bell: Bell,
    clock: Clock,
    /// Writebacks that failed.
    failures: AtomicU64,
    /// The view has come to its end: writes go past the buffer.
    closed: AtomicBool,
    /// Nobody waits for the rest of the drain.
    abandoned: AtomicBool,
    journal: Arc<dyn Journal>,
}

/// A poisoned lock is taken all the same: a panic is answered with EIO, and the view goes on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffers {
    /// Buffers in the memory `shared`, made for the same options and used by nobody yet; they tell `journal` what
    /// they do.
    ///
    /// # Errors
    /// Where there is no clock to be had: those of memfd_create(2).
    pub fn new(
        options: Options,
        shared: Arc<Shared>,
        journal: Arc<dyn Journal>,
    ) -> SysResult<Arc<Buffers>> {
        let slots = shared.slots();
        // Reads need some blocks, too.
        let limit = Dirt {
            bytes: options.dirty_limit,
            blocks: u64::from(slots) * 3 / 4,
        };
        Ok(Arc::new(Buffers {
            options,
            shared,
            pool: Mutex::new(Pool::new(slots)),
            ahead: Ahead::default(),
            prefetch: Prefetch::default(),
            files: DashMap::new(),
            rooms: DashMap::new(),
            budget: Budget::default(),
            gate: Arc::new(Gate::new(limit)),
            bell: Bell::default(),
            clock: Clock::new()?,
            failures: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            journal,
        }))
    }

    /// How to buffer.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where writers wait while too much is dirty.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Dirty bytes of all files.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.gate.dirty_bytes()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    fn storage(&self) -> crate::cache::Storage<'_, ArenaMemory> {
        self.shared.storage()
    }

    fn memory(&self) -> &ArenaMemory {
        &self.shared.memory
    }

    fn records(&self) -> Records<'_> {
        self.shared.records()
    }

    /// Blocks that there is room for.
    #[must_use]
    pub fn block_count(&self) -> usize {
        lock(&self.pool).slots()
    }

    /// Whether so many files are dirty that no more should become so: each keeps a descriptor.
    #[must_use]
    pub fn has_many_dirty_files(&self) -> bool {
        self.budget.len() > self.options.dirty_files
    }

    /// The most blocks that one request may take: what is larger does not drive out everything else.
    fn request_max(&self) -> usize {
        (self.block_count() / 2).max(1)
    }

    /// The most blocks that one request may fetch ahead: a small cache is not for one reader alone.
    fn ahead_max(&self) -> u64 {
        let blocks = self.block_count() as u64 / 8;
        blocks * BLOCK_SIZE as u64
    }
}

#[cfg(test)]
mod tests;
