//! What outlives the process that serves: the blocks, their records, the undo log of the writes that are
//! under way, and the cuts. All of it lies in memory that a process forked before serving began shares.
//!
//! That process also shares the descriptors (`CLONE_FILES`), so that a number is all it takes to write what
//! is dirty to SOURCE: see [`recover`](super::recover).
//!
//! Beside blocks only a truncation has to be known: it changes SOURCE first, and the dirty bytes that it
//! cuts off are dropped afterwards. In between, what is dirty is not what the application was promised. A
//! truncation that was begun is completed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::storage::ArenaMemory;
use super::{BLOCK_SIZE, Options, SLOT_BYTES};
use crate::cache::{LANE_WORDS, RECORD_WORDS, Records, Storage, Undo};
use crate::sys::{SysResult, Words};
use crate::types::{FileId, OwnFd};

/// Writes that may be put in at the same time: each needs a lane for a few microseconds, holding no other
/// resource than its file, so a few more than CPUs will do.
const LANES: usize = 32;

/// Truncations under way at most: more than there are threads that work on requests.
const CUTS: usize = 512;
/// Words of a cut: the file, the size, the descriptor.
const CUT_WORDS: usize = 3;

/// The memory of a view's buffers.
#[derive(Debug)]
pub struct Shared {
    slots: u32,
    pub(super) memory: ArenaMemory,
    records: Words,
    undo: Words,
    /// Who has a lane. Private: who finds the memory of a dead process is alone.
    lanes: Box<[Mutex<()>]>,
    cuts: Words,
    cutting: Mutex<Vec<usize>>,
}

/// A truncation that is under way.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    shared: &'a Shared,
    /// Where it is noted; none where there was no room.
    at: Option<usize>,
}

/// A truncation that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) size: u64,
    pub(super) via: Option<OwnFd>,
}

impl Shared {
    /// Memory for what `options` say.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room for its addresses.
    pub fn new(options: &Options) -> SysResult<Shared> {
        let slots = (options.cache_bytes / SLOT_BYTES).max(1);
        // The last number stands for no slot.
        let slots = u32::try_from(slots).unwrap_or(u32::MAX - 1);
        let count = usize::try_from(slots).unwrap_or(usize::MAX);
        Ok(Shared {
            slots,
            memory: ArenaMemory::new(slots)?,
            records: Words::new(count.saturating_mul(RECORD_WORDS))?,
            undo: Words::new(LANES * LANE_WORDS)?,
            lanes: (0..LANES).map(|_| Mutex::default()).collect(),
            cuts: Words::new(CUTS * CUT_WORDS)?,
            cutting: Mutex::new((0..CUTS).collect()),
        })
    }

    /// Blocks that there is room for.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records::over(&self.records)
    }

    pub(super) fn storage(&self) -> Storage<'_, ArenaMemory> {
        Storage {
            memory: &self.memory,
            records: self.records(),
        }
    }

    fn lane_words(&self, lane: usize) -> Undo<'_> {
        Undo::over(&self.undo[lane * LANE_WORDS..][..LANE_WORDS])
    }

    /// A lane for one write, for as long as the guard lives.
    pub(super) fn lane(&self) -> (Undo<'_>, MutexGuard<'_, ()>) {
        loop {
            for (lane, claim) in self.lanes.iter().enumerate() {
                match claim.try_lock() {
                    Ok(guard) => return (self.lane_words(lane).fresh(), guard),
                    // A write that panicked was answered with EIO: what it changed stays.
                    Err(TryLockError::Poisoned(guard)) => {
                        return (self.lane_words(lane).fresh(), guard.into_inner());
                    }
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            std::thread::yield_now();
        }
    }

    /// The undo logs of all lanes, for who is alone.
    pub(super) fn undo_logs(&self) -> impl Iterator<Item = Undo<'_>> {
        (0..LANES).map(|lane| self.lane_words(lane))
    }

    /// A file of which something is dirty is about to be cut or extended.
    pub(super) fn begin_cut(&self, file: FileId, size: u64, via: Option<OwnFd>) -> Cut<'_> {
        let at = lock_free(&self.cutting).pop();
        if let Some(at) = at {
            let words = self.cut_words(at);
            words[1].store(size, Ordering::Relaxed);
            words[2].store(OwnFd::to_word(via), Ordering::Relaxed);
            words[0].store(file.0, Ordering::Release);
        }
        Cut { shared: self, at }
    }

    fn cut_words(&self, at: usize) -> &[AtomicU64] {
        &self.cuts[at * CUT_WORDS..][..CUT_WORDS]
    }

    /// The truncations that were begun, for who is alone.
    pub(super) fn cuts(&self) -> impl Iterator<Item = Begun> + '_ {
        self.cuts.chunks(CUT_WORDS).filter_map(|words| {
            let file = words[0].load(Ordering::Acquire);
            (file != 0).then(|| Begun {
                size: words[1].load(Ordering::Relaxed),
                via: OwnFd::from_word(words[2].load(Ordering::Relaxed)),
            })
        })
    }
}

fn lock_free(cutting: &Mutex<Vec<usize>>) -> MutexGuard<'_, Vec<usize>> {
    cutting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Cut<'_> {
    /// It is over, and what it cut off is dropped; or it has failed.
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.shared.cut_words(at)[0].store(0, Ordering::Release);
            lock_free(&self.shared.cutting).push(at);
        }
    }
}

const _: () = assert!(BLOCK_SIZE <= crate::cache::BLOCK_MAX);
