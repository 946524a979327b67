//! Whether SOURCE has room for what is buffered: a write that it might have to refuse goes past the buffer, so
//! that the refusal (`ENOSPC`, `EDQUOT`, `EFBIG`) is the answer of write(2) itself.
//!
//! Nothing can be reserved in SOURCE. So what is dirty is counted against what was free when SOURCE was last
//! asked, as if nobody else took anything; the [`reserve`] is for whoever does, and for what SOURCE needs beside
//! the data. All is counted in blocks: any dirty block may need one of SOURCE, however few of its bytes are dirty.
//!
//! ```text
//! asked <= limit                      a write is buffered without asking SOURCE
//! limit  = asked - owed + free - reserve    whenever SOURCE is asked
//! ```
//!
//! 1. `asked` grows with each block that becomes dirty or goes past the buffer, and does not shrink when one is
//!    written back: what it takes has been counted. Rewriting takes nothing, so it makes the count too large,
//!    until SOURCE is asked again.
//! 2. `owed` of these may not have been taken from `free` yet: dirty blocks, and those of writes under way.
//! 3. A change that makes `owed` larger comes before the one of `asked`, one that makes it smaller after; SOURCE is
//!    asked for `free` last. So a limit errs towards too little.
//! 4. A block is counted before it becomes dirty. So of all that is dirty, nothing was beyond the limit.
//! 5. What goes past the buffer and is beyond the limit waits until what is dirty is in SOURCE ([`File::make_way`]):
//!    it would take its room.
//!
//! Not here: what namespace operations take; the reserve has to do for that.

mod limit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{BLOCK_SIZE, Buffers, By, File, Policy};
use crate::backing::Backing;
use crate::error::Errno;
use crate::event::Reason;
use crate::sys::{self, Space, SysResult};
use crate::types::Nanos;
use limit::Limit;

/// The reserve is this part of a filesystem, so that a small one buffers while it is nearly empty,
const RESERVE_PART: u64 = 16;
/// and at most so many bytes: what somebody else writes at 640 MB/s between two questions. What SOURCE needs
/// beside the data is less (an indirect block or extent leaf for some hundred blocks).
const RESERVE_MAX: u64 = 64 << 20;

/// Units of allocation up to this one count as the size of a block. What network filesystems tell is the size of
/// a transfer.
const UNIT_MAX: u64 = 64 << 10;

/// One operation counts as so many blocks at most.
const CLAIM_MAX: u64 = 1 << 32;

/// The size that every file may have, bytes: the smallest limit of a common filesystem is that of minix (256 MiB
/// and a bit).
const SIZE_MIN: u64 = 1 << 28;

/// The size that a file may have where SOURCE does not say: of the common filesystems, ext4 has the smallest
/// limit for files with extents, 16 TiB with blocks of 4 KiB.
const SIZE_UNKNOWN: u64 = 1 << 43;

/// How often to look for what is dirty: who was about to buffer something when it was known that there is no room
/// has done so within microseconds. What SOURCE does not take stays.
const TURNS: usize = 16;

/// Bytes of a filesystem that are not for what is dirty.
fn reserve(total: u64) -> u64 {
    (total / RESERVE_PART).min(RESERVE_MAX)
}

/// Blocks that `space` has room for.
fn blocks_of(space: &Space) -> u64 {
    if space.total == 0 {
        return u64::MAX / 2;
    }
    let block = BLOCK_SIZE as u64;
    let unit = match space.unit {
        unit if unit <= UNIT_MAX => unit.max(block),
        _ => block,
    };
    space.free.saturating_sub(reserve(space.total)) / unit
}

/// Blocks that a write of `len` bytes touches at most, wherever it begins. A hole may be as long as it likes: then it
/// is the limit that is passed, not what can be counted.
fn blocks_touched(len: u64) -> u64 {
    let blocks = len.div_ceil(BLOCK_SIZE as u64) + 1;
    blocks.min(CLAIM_MAX)
}

/// The room of one filesystem.
#[derive(Debug)]
pub(super) struct Room {
    asked: AtomicU64,
    owed: AtomicU64,
    /// Of `owed`, what is going past the buffer.
    going: AtomicU64,
    limit: Limit,
    /// Some quotas are on, as far as is known.
    has_quotas: AtomicBool,
}

impl Room {
    fn new() -> Room {
        Room {
            asked: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            going: AtomicU64::new(0),
            // Nothing, before it was looked.
            limit: Limit::new(0),
            has_quotas: AtomicBool::new(true),
        }
    }

    fn claim(&self, blocks: u64) -> Claim<'_> {
        self.owed.fetch_add(blocks, Ordering::SeqCst);
        self.asked.fetch_add(blocks, Ordering::SeqCst);
        Claim {
            room: self,
            blocks,
            going: 0,
        }
    }

    /// Blocks that are dirty, or about to be.
    pub(super) fn dirty(&self) -> u64 {
        let owed = self.owed.load(Ordering::SeqCst);
        owed.saturating_sub(self.going.load(Ordering::SeqCst))
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// So many blocks are not dirty any more.
    pub(super) fn settle(&self, blocks: u64) {
        self.owed.fetch_sub(blocks, Ordering::SeqCst);
    }

    fn give_back(&self, blocks: u64) {
        self.asked.fetch_sub(blocks, Ordering::SeqCst);
        self.settle(blocks);
    }

    /// What the limit is if `ask` finds room for so many blocks now.
    fn limit_now(&self, ask: impl FnOnce() -> u64) -> u64 {
        let asked = self.asked();
        let owed = self.owed.load(Ordering::SeqCst);
        asked.saturating_sub(owed).saturating_add(ask())
    }
}

/// Blocks that were counted for a write; they are given back, but for what the write says became of them.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    room: &'a Room,
    blocks: u64,
    /// As many of them as go past the buffer.
    going: u64,
}

impl Claim<'_> {
    /// They go past the buffer.
    fn past(mut self) -> Self {
        self.going = self.blocks;
        self.room.going.fetch_add(self.going, Ordering::SeqCst);
        self
    }

    /// So many of them are dirty now.
    pub(super) fn dirty(mut self, blocks: u64) {
        let kept = blocks.min(self.blocks);
        self.blocks -= kept;
    }

    /// They are in SOURCE.
    pub(super) fn written(mut self) {
        self.room.settle(std::mem::take(&mut self.blocks));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.going > 0 {
            self.room.going.fetch_sub(self.going, Ordering::SeqCst);
        }
        if self.blocks > 0 {
            self.room.give_back(self.blocks);
        }
    }
}

/// What one file may have of it.
#[derive(Debug)]
pub(super) struct Share {
    /// By the quotas that it counts for. What is dirty of others counts, too.
    quota: Limit,
    /// Its last writeback failed for want of room.
    short: AtomicBool,
    /// The size that it may have, as far as is known.
    size: AtomicU64,
    /// Nothing more is known of that.
    asked_size: AtomicBool,
}

impl Share {
    pub(super) fn new() -> Share {
        Share {
            quota: Limit::new(u64::MAX),
            short: AtomicBool::new(false),
            size: AtomicU64::new(SIZE_MIN.min(sys::own_size_limit())),
            asked_size: AtomicBool::new(false),
        }
    }
}

impl Buffers {
    /// The room of the filesystem with this device number.
    pub(super) fn room(&self, dev: u64) -> Arc<Room> {
        if let Some(room) = self.rooms.get(&dev) {
            return Arc::clone(&room);
        }
        let entry = self.rooms.entry(dev);
        let room = entry.or_insert_with(|| Arc::new(Room::new()));
        Arc::clone(&room)
    }
}

impl File {
    /// Counts a write of `len` bytes that is to be buffered; `None` where SOURCE may not have the room.
    pub(super) fn admit(&self, now: Nanos, source: &dyn Backing, len: u64) -> Option<Claim<'_>> {
        if self.is_short() {
            return None;
        }
        let claim = self.room.claim(blocks_touched(len));
        self.look_for_room(now, source);
        self.is_within(self.room.asked()).then_some(claim)
    }

    /// Counts `len` bytes that go past the buffer. Where that is more than there may be room for, what is dirty
    /// goes to SOURCE first: it was answered for.
    pub(super) fn make_way(&self, by: &By, len: u64) -> Option<Claim<'_>> {
        if self.buffers.options().policy != Policy::WriteBack {
            return None;
        }
        let claim = self.room.claim(blocks_touched(len)).past();
        let is_tight = || !self.is_within(self.room.asked());
        if self.is_short() || self.room.dirty() > 0 && is_tight() {
            self.write_back_neighbours(by);
        }
        Some(claim)
    }

    /// All that is dirty on its filesystem, and what was about to be: nobody begins to buffer beyond the limit.
    fn write_back_neighbours(&self, by: &By) {
        for _ in 0..TURNS {
            for file in self.buffers.budget.round() {
                let here = Arc::ptr_eq(&file.room, &self.room);
                if here && !file.is_to_rest(self.buffers.journal.now()) {
                    file.flush(Reason::NearlyFull, by.cause());
                }
            }
            if self.room.dirty() == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn is_within(&self, asked: u64) -> bool {
        self.room.limit.allows(asked) && self.share.quota.allows(asked)
    }

    /// Whether SOURCE has refused what is dirty of it.
    fn is_short(&self) -> bool {
        self.share.short.load(Ordering::Relaxed) && self.dirty.load(Ordering::Acquire)
    }

    fn look_for_room(&self, now: Nanos, source: &dyn Backing) {
        let room = &*self.room;
        if room.limit.is_due(room.asked(), now) {
            let blocks = room.limit_now(|| match source.space() {
                Ok(space) => blocks_of(&space),
                Err(errno) => {
                    log::debug!("SOURCE does not say how much room it has: {errno}");
                    u64::MAX / 2
                }
            });
            room.limit.set(blocks, now, room.asked());
        }
        if room.has_quotas.load(Ordering::Relaxed) {
            self.look_for_quota(now, source);
        }
    }

    fn look_for_quota(&self, now: Nanos, source: &dyn Backing) {
        let (room, quota) = (&*self.room, &self.share.quota);
        if !quota.is_due(room.asked(), now) {
            return;
        }
        let mut off = false;
        let blocks = room.limit_now(|| match source.quota_left() {
            Ok(Some(bytes)) => bytes / BLOCK_SIZE as u64,
            Ok(None) => u64::MAX / 2,
            Err(errno) => {
                off = errno == Errno::ESRCH;
                u64::MAX / 2
            }
        });
        if off {
            room.has_quotas.store(false, Ordering::Relaxed);
        }
        quota.set(blocks, now, room.asked());
    }

    /// How its last writeback ended.
    pub(super) fn note_room(&self, error: Option<Errno>) {
        let short = matches!(error, Some(Errno::ENOSPC | Errno::EDQUOT));
        self.share.short.store(short, Ordering::Relaxed);
        if short {
            self.room.limit.distrust();
        }
    }

    /// Whether it may be so large, as far as is known. `limit` asks SOURCE, once, for the largest size.
    pub fn may_reach(&self, size: u64, limit: impl FnOnce() -> SysResult<u64>) -> bool {
        let share = &self.share;
        if size <= share.size.load(Ordering::Relaxed) {
            return true;
        }
        if !share.asked_size.load(Ordering::Acquire) {
            let found = limit().unwrap_or_else(|errno| {
                log::debug!("SOURCE does not say how large a file may be: {errno}");
                SIZE_UNKNOWN
            });
            let found = found.min(sys::own_size_limit());
            share.size.store(found, Ordering::Relaxed);
            share.asked_size.store(true, Ordering::Release);
        }
        size <= share.size.load(Ordering::Relaxed)
    }
}
