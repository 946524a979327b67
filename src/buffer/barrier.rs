//! Operations that change SOURCE's data themselves, or must see it as it is: they do not meet a writeback.

use std::sync::Arc;

use super::file::State;
use super::looks::facts_of;
use super::room::Claim;
use super::{By, Did, File, lock};
use crate::cache::{Dropped, Facts};
use crate::event::{CacheDid, Cause, Reason};
use crate::sys::{Stat, SysResult};
use crate::types::ByteRange;

impl File {
    /// Cuts the file, or extends it, to `size` bytes: `change` does so in SOURCE. Dirty bytes beyond the new end
    /// are discarded, all others stay.
    ///
    /// # Errors
    /// Those of `change`; then nothing is discarded.
    pub fn truncate<T>(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        size: u64,
        change: impl FnOnce() -> SysResult<T>,
        stat: impl Fn() -> SysResult<Stat>,
    ) -> SysResult<T> {
        let _io = lock(&self.io);
        let busy = self.begin_change(did, &stat);
        let writer = self.lock().writer.clone();
        let cut = writer.map(|writer| {
            let shared = &self.buffers.shared;
            shared.begin_cut(self.id, size, writer.own_fd())
        });
        let done = change()?;
        let facts = looked(stat());
        let mut state = self.lock();
        let before = state.dirt();
        let end = facts.map_or(size, |facts| facts.size);
        let dropped = state.cache.truncate(self.buffers.storage(), end);
        let after = state.dirt();
        let dirty = state.cache.dirty_bytes() > 0;
        if let Some(facts) = facts {
            state.attrs.changed_data(&facts, dirty);
        }
        let left = self.settle_ticket_if_clean(&mut state);
        // From here on bytes beyond the new end are newer ones.
        drop(cut);
        drop(state);
        drop((busy, left));
        self.tell_discarded(&dropped, Reason::Truncate, by.cause(), did);
        self.note_less_dirty(before, after);
        Ok(done)
    }

    /// An operation that changes the data of `range` in SOURCE itself: all that is dirty goes first, and
    /// what was buffered of the range is dropped. It may take as much room as the range is long.
    ///
    /// # Errors
    /// Those of `change`, and of writing back.
    pub fn rewriting<T>(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        (range, reason): (ByteRange, Reason),
        change: impl FnOnce() -> SysResult<T>,
        stat: impl Fn() -> SysResult<Stat>,
    ) -> SysResult<T> {
        let claim = self.make_way(by, range.len());
        let _io = lock(&self.io);
        self.write_back_in(ByteRange::ALL, reason, by.cause(), did)?;
        let busy = self.begin_change(did, &stat);
        let done = change();
        let facts = looked(stat());
        let mut state = self.lock();
        let storage = self.buffers.storage();
        let source_size = facts.map_or(state.cache.source_size(), |facts| facts.size);
        let dropped = state.cache.invalidate(storage, range, source_size);
        if let Some(facts) = facts.filter(|_| done.is_ok()) {
            let dirty = state.cache.dirty_bytes() > 0;
            state.attrs.changed_data(&facts, dirty);
        }
        state.privileges = None;
        drop(state);
        drop(busy);
        if done.is_ok() {
            claim.into_iter().for_each(Claim::written);
        }
        self.buffers.give_back(&dropped.freed);
        if dropped.clean_bytes > 0 {
            did.push(CacheDid::Invalidate {
                size: dropped.clean_bytes,
                reason,
            });
        }
        self.tell_evicted(dropped.clean_blocks, reason);
        done
    }

    /// Runs `work` on SOURCE after what is dirty in `range` was written there, and before anything else is.
    ///
    /// # Errors
    /// Those of `work`, and of writing back.
    pub fn settled<T>(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        (range, reason): (ByteRange, Reason),
        work: impl FnOnce() -> SysResult<T>,
    ) -> SysResult<T> {
        let _io = lock(&self.io);
        self.write_back_in(range, reason, by.cause(), did)?;
        work()
    }

    /// Nobody can read a file without a name any more: its dirty bytes die of what took the name, or the
    /// last open after it. Nothing happens to a file that has one.
    pub fn bury(self: &Arc<Self>) {
        let _io = lock(&self.io);
        let mut state = self.lock();
        let Some(cause) = state.nameless else { return };
        let before = state.dirt();
        let dropped = state.cache.discard(self.buffers.storage());
        let after = state.dirt();
        let left = self.settle_ticket_if_clean(&mut state);
        drop(state);
        drop(left);
        self.tell_discarded(&dropped, Reason::Unlink, cause, &mut Did::new());
        self.note_less_dirty(before, after);
    }

    /// Where nothing is dirty any more, the file leaves the dirty ones and its writer is let go of.
    fn settle_ticket_if_clean(
        self: &Arc<Self>,
        state: &mut State,
    ) -> (Option<Arc<File>>, Option<Arc<dyn crate::backing::Backing>>) {
        if state.cache.dirty_bytes() > 0 {
            return (None, None);
        }
        // It was about bytes that are gone.
        state.conflict = false;
        (self.settle_ticket(state), state.writer.take())
    }

    fn tell_discarded(&self, dropped: &Dropped, reason: Reason, cause: Cause, did: &mut Did) {
        self.buffers.give_back(&dropped.freed);
        let subject = self.subject();
        for range in &dropped.discarded {
            let journal = &self.buffers.journal;
            journal.discarded(&*subject, *range, reason, cause);
        }
        let bytes = dropped.discarded_bytes();
        if bytes > 0 {
            did.push(CacheDid::Discard {
                size: bytes,
                reason,
            });
        }
        self.tell_evicted(dropped.clean_blocks, reason);
    }
}

/// What SOURCE looks like after it was changed. Where it does not say, the change has happened all the same.
fn looked(stat: SysResult<Stat>) -> Option<Facts> {
    match stat {
        Ok(stat) => Some(facts_of(&stat)),
        Err(errno) => {
            log::debug!("SOURCE does not say what it looks like: {errno}");
            None
        }
    }
}
