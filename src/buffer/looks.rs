//! What a file looks like: SOURCE's attributes with what is buffered laid over them, and whether somebody
//! has changed SOURCE past the view.

use std::io::IoSliceMut;
use std::sync::Arc;

use super::{Did, File};
use crate::backing::Backing;
use crate::cache::{Attrs, Dropped, Facts, Outside, Remembered, SetMtime, blocks_shown};
use crate::event::{CacheDid, Reason};
use crate::sys::{Stat, SysResult};
use crate::types::ByteRange;

use super::BLOCK_SIZE;
use super::file::{Moment, State};

/// How often to look again when a writeback ended while SOURCE was being looked at.
pub(super) const LOOKS_MAX: usize = 3;

/// The attributes that matter here.
pub(super) fn facts_of(stat: &Stat) -> Facts {
    Facts {
        size: stat.size,
        blocks: stat.blocks,
        mtime: stat.mtime,
        ctime: stat.ctime,
    }
}

impl File {
    /// The attributes to show, of which `stat` asks SOURCE. What is found to have changed outside is
    /// dropped, and `did` is told.
    ///
    /// # Errors
    /// Those of `stat`.
    pub fn attributes(
        self: &Arc<Self>,
        did: &mut Did,
        mut stat: impl FnMut() -> SysResult<Stat>,
    ) -> SysResult<Stat> {
        let mut looks = 0;
        loop {
            looks += 1;
            let before = self.lock().moment();
            let found = stat()?;
            let mut state = self.lock();
            if state.moment() != before && looks < LOOKS_MAX {
                continue;
            }
            let dropped = self.look(&mut state, &facts_of(&found), before);
            let shown = shown(&state, found);
            state.attrs.note_shown(shown.ctime);
            drop(state);
            self.tell_invalidated(did, dropped);
            return Ok(shown);
        }
    }

    /// SOURCE looks like `facts`, as was found after the moment `before`. What it no longer has is dropped;
    /// the caller tells, where it holds no lock.
    pub(super) fn look(&self, state: &mut State, facts: &Facts, before: Moment) -> Option<Dropped> {
        if state.busy > 0 || state.moment() != before {
            return None;
        }
        match state.attrs.look(facts) {
            Outside::Same => return None,
            Outside::Changed if state.cache.dirty_bytes() > 0 => state.conflict = true,
            Outside::Changed | Outside::Touched => {}
        }
        state.privileges = None;
        let storage = self.buffers.storage();
        Some(state.cache.invalidate(storage, ByteRange::ALL, facts.size))
    }

    /// What was dropped because SOURCE was changed past the view.
    pub(super) fn tell_invalidated(&self, did: &mut Did, dropped: Option<Dropped>) {
        let Some(dropped) = dropped else { return };
        self.buffers.give_back(&dropped.freed);
        if dropped.clean_bytes > 0 {
            did.push(CacheDid::Invalidate {
                size: dropped.clean_bytes,
                reason: Reason::ChangedBelow,
            });
        }
        self.tell_evicted(dropped.clean_blocks, Reason::ChangedBelow);
    }

    pub(super) fn tell_evicted(&self, blocks: u64, reason: Reason) {
        if blocks > 0 {
            let subject = self.subject();
            self.buffers.journal.evicted(&*subject, blocks, reason);
        }
    }

    /// Bytes were read. SOURCE moves its access time by the rules of its own mount (noatime, relatime) when
    /// it is read itself: so it is, a byte of it, if that may move anything.
    pub fn touch_access_time(&self, source: &dyn Backing) {
        let due = std::mem::take(&mut self.lock().access_due);
        if due && let Err(errno) = source.read_at(&mut [IoSliceMut::new(&mut [0])], 0) {
            log::debug!("the access time of SOURCE's file stays: {errno}");
        }
    }

    /// Runs an operation of the view that changes SOURCE's attributes and not its data; then `stat` tells
    /// what SOURCE looks like. Meanwhile nobody takes the change for one from outside.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn changing<T>(
        self: &Arc<Self>,
        did: &mut Did,
        mtime: SetMtime,
        change: impl FnOnce() -> SysResult<T>,
        stat: impl Fn() -> SysResult<Stat>,
    ) -> SysResult<T> {
        let _busy = self.begin_change(did, &stat);
        let done = change()?;
        if let Ok(found) = stat() {
            let mut state = self.lock();
            state.attrs.changed_by_us(&facts_of(&found), mtime);
            state.privileges = None;
        }
        Ok(done)
    }

    /// The same for an operation that must not meet a writeback: one that sets the times that a writeback
    /// would set back.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn changing_alone<T>(
        self: &Arc<Self>,
        did: &mut Did,
        mtime: SetMtime,
        change: impl FnOnce() -> SysResult<T>,
        stat: impl Fn() -> SysResult<Stat>,
    ) -> SysResult<T> {
        let _io = super::lock(&self.io);
        self.changing(did, mtime, change, stat)
    }
}

impl File {
    /// An operation of the view is about to change SOURCE. What somebody else has changed before must not
    /// be taken for its doing: that is looked for now, and from here on not until it is over.
    pub(super) fn begin_change(
        self: &Arc<Self>,
        did: &mut Did,
        stat: impl FnOnce() -> SysResult<Stat>,
    ) -> Busy<'_> {
        let before = self.lock().moment();
        let found = stat();
        let mut state = self.lock();
        let dropped = match &found {
            Ok(found) => self.look(&mut state, &facts_of(found), before),
            Err(_) => None,
        };
        state.busy += 1;
        drop(state);
        self.tell_invalidated(did, dropped);
        Busy(self)
    }
}

/// While it lives, what SOURCE looks like tells nothing.
pub(super) struct Busy<'a>(&'a File);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy -= 1;
        state.changes += 1;
    }
}

/// A file of which nothing is buffered, that SOURCE shows like `found` and whose times were these.
#[must_use]
pub fn recalled(times: Remembered, found: Stat) -> Stat {
    times_shown(&times.into(), found)
}

fn times_shown(attrs: &Attrs, found: Stat) -> Stat {
    let (mtime, ctime) = attrs.times(&facts_of(&found));
    Stat {
        mtime,
        ctime,
        ..found
    }
}

fn shown(state: &State, found: Stat) -> Stat {
    let found = times_shown(&state.attrs, found);
    // What was found may be older than what is known.
    let size = state.cache.size();
    let dirty = state.cache.dirty_blocks();
    let block_size = BLOCK_SIZE as u64;
    Stat {
        size,
        blocks: blocks_shown(size, found.blocks, dirty, block_size),
        ..found
    }
}
