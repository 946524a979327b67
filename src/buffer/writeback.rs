//! Writing back: a file's dirty runs to SOURCE, in file order.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::State;
use super::looks::{LOOKS_MAX, facts_of};
use super::{By, Did, File, lock};
use crate::backing::Backing;
use crate::cache::{Batch, Facts, Run};
use crate::error::Errno;
use crate::event::{CacheDid, Cause, Reason};
use crate::sys::{SyncKind, SysResult, TimeSet};
use crate::types::{ByteRange, Nanos};

use super::journal::WroteBack;

/// The flusher's first pause after a failed writeback; it doubles with each further one.
const PAUSE: Nanos = Nanos(100_000_000);
/// Its longest pause.
const PAUSE_MAX: Nanos = Nanos(5_000_000_000);

/// Why something is written back, and for whom.
#[derive(Clone, Copy)]
struct Why {
    reason: Reason,
    cause: Cause,
    conflict: bool,
}

/// What a writeback did, over all its batches.
#[derive(Default)]
struct Sum {
    bytes: u64,
    runs: u64,
    superseded: u64,
    error: Option<Errno>,
}

impl File {
    /// Writes back what is dirty in `range` now. Returns when SOURCE has it; that is not to say that it is
    /// durable.
    ///
    /// # Errors
    /// The first one. What could not be written is dirty still.
    pub fn write_back(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        range: ByteRange,
        reason: Reason,
    ) -> SysResult<()> {
        self.write_back_for(range, reason, by.cause(), did)
    }

    pub(super) fn write_back_for(
        self: &Arc<Self>,
        range: ByteRange,
        reason: Reason,
        cause: Cause,
        did: &mut Did,
    ) -> SysResult<()> {
        // What is being written is dirty until it is there.
        if !self.is_dirty() {
            return Ok(());
        }
        let _io = lock(&self.io);
        self.write_back_in(range, reason, cause, did)
    }

    /// The same for who holds `io`. One pass up to the last byte that is dirty now: what becomes dirty
    /// behind it, or beyond, is not written, so that a file that grows as fast as it is written has an end.
    pub(super) fn write_back_in(
        self: &Arc<Self>,
        range: ByteRange,
        reason: Reason,
        cause: Cause,
        did: &mut Did,
    ) -> SysResult<()> {
        let storage = self.buffers.storage();
        let mut state = self.lock();
        let Some(writer) = state.writer.clone() else {
            return Ok(());
        };
        let pass = range.intersect(state.cache.dirty_span(storage));
        let Some(first) = state.cache.plan_writeback(storage, pass, 0) else {
            return Ok(());
        };
        drop(state);
        let conflict = self.begin(&*writer, did);
        let why = Why {
            reason,
            cause,
            conflict,
        };
        let mut sum = Sum::default();
        // Whatever happens to the thread, the file's writeback comes to its end.
        let wrote = catch_unwind(AssertUnwindSafe(|| {
            self.write_batches(first, pass, &*writer, why, &mut sum);
        }));
        if wrote.is_err() {
            sum.error = sum.error.or(Some(Errno::EIO));
        }
        self.end(&*writer, range, sum.error);
        if let Err(panic) = wrote {
            resume_unwind(panic);
        }
        if sum.bytes > 0 {
            did.push(CacheDid::Writeback {
                size: sum.bytes,
                runs: sum.runs,
                reason,
            });
        }
        if sum.superseded > 0 {
            did.push(CacheDid::Discard {
                size: sum.superseded,
                reason: Reason::Superseded,
            });
        }
        sum.error.map_or(Ok(()), Err)
    }

    /// Before the first byte: from here on SOURCE's times are not shown. Tells whether somebody has
    /// changed SOURCE since the bytes were buffered.
    fn begin(self: &Arc<Self>, writer: &dyn Backing, did: &mut Did) -> bool {
        for look in 1..=LOOKS_MAX {
            let before = self.lock().moment();
            let facts = writer.stat().map(|stat| facts_of(&stat));
            let mut state = self.lock();
            let unclear = state.busy > 0 || state.moment() != before;
            if facts.is_ok() && unclear && look < LOOKS_MAX {
                // A chmod(2), say: it takes no time.
                drop(state);
                std::thread::yield_now();
                continue;
            }
            let mut dropped = None;
            if let Ok(facts) = facts {
                dropped = self.look(&mut state, &facts, before);
                state.attrs.begin_writeback(&facts);
            }
            let conflict = state.conflict;
            drop(state);
            self.tell_invalidated(did, dropped);
            return conflict;
        }
        false
    }

    fn write_batches(
        &self,
        first: Batch,
        pass: ByteRange,
        writer: &dyn Backing,
        why: Why,
        sum: &mut Sum,
    ) {
        let storage = self.buffers.storage();
        let mut batch = Some(first);
        while let Some(now) = batch {
            self.write_batch(&now, writer, why, sum);
            batch = self.lock().cache.plan_writeback(storage, pass, now.next);
            if self.buffers.is_abandoned()
                && let Some(left) = batch.take()
            {
                // Not tried.
                self.commit(&left, &vec![0; left.runs.len()], why, sum);
                sum.error = sum.error.or(Some(Errno::EIO));
            }
        }
    }

    fn write_batch(&self, batch: &Batch, writer: &dyn Backing, why: Why, sum: &mut Sum) {
        // Of a run that was not tried, nothing was written.
        let mut written = vec![0; batch.runs.len()];
        let tried = catch_unwind(AssertUnwindSafe(|| {
            for (run, written) in batch.runs.iter().zip(&mut written) {
                let (bytes, error) = self.write_run(run, writer, why);
                *written = bytes;
                sum.bytes += bytes;
                sum.runs += u64::from(bytes > 0);
                sum.error = sum.error.or(error);
            }
        }));
        self.commit(batch, &written, why, sum);
        if let Err(panic) = tried {
            resume_unwind(panic);
        }
    }

    fn commit(&self, batch: &Batch, written: &[u64], why: Why, sum: &mut Sum) {
        let storage = self.buffers.storage();
        let mut state = self.lock();
        let before = state.dirt();
        let committed = state.cache.commit_writeback(storage, batch, written);
        let after = state.dirt();
        drop(state);
        self.buffers.give_back(&committed.freed);
        self.buffers.admit(&committed.clean);
        let subject = self.subject();
        for range in &committed.superseded {
            sum.superseded += range.len();
            let journal = &self.buffers.journal;
            journal.discarded(&*subject, *range, Reason::Superseded, why.cause);
        }
        self.note_less_dirty(before, after);
    }

    fn write_run(&self, run: &Run, writer: &dyn Backing, why: Why) -> (u64, Option<Errno>) {
        let subject = self.subject();
        let journal = &self.buffers.journal;
        let issued = journal.issue(&*subject);
        let memory = self.buffers.memory();
        let views: Vec<_> = run
            .pieces
            .iter()
            .map(|piece| memory.view(piece.slot))
            .collect();
        let slices: Vec<_> = run
            .pieces
            .iter()
            .zip(&views)
            .map(|(piece, view)| IoSlice::new(&view[piece.at..piece.at + piece.len]))
            .collect();
        let done = writer.write_at(&slices, run.range.start, SyncKind::None);
        drop(slices);
        drop(views);
        if done.error.is_some() {
            self.buffers.failures.fetch_add(1, Ordering::Relaxed);
        }
        let (reached, rest) = run.range.split_at(done.bytes);
        let told = |range, error| WroteBack {
            run,
            range,
            error,
            reason: why.reason,
            cause: why.cause,
            conflict: why.conflict,
        };
        let mut issued = issued;
        if !reached.is_empty()
            && let Some(first) = issued.take()
        {
            journal.wrote_back(&*subject, first, &told(reached, None));
            // What failed has a line of its own.
            issued = done.error.and_then(|_| journal.issue(&*subject));
        }
        if let Some(issued) = issued {
            journal.wrote_back(&*subject, issued, &told(rest, done.error));
        }
        (done.bytes, done.error)
    }

    /// After the last byte: the modification time is set back to what it was, and SOURCE is looked at.
    fn end(self: &Arc<Self>, writer: &dyn Backing, range: ByteRange, error: Option<Errno>) {
        let mtime = self.lock().attrs.mtime_to_restore();
        if let Some((sec, nsec)) = mtime
            && let Err(errno) = writer.set_mtime(TimeSet::At(sec, nsec))
        {
            // Only the owner may. The view shows the right time for as long as it knows the file.
            log::debug!("a modification time stays that of the writeback: {errno}");
        }
        let facts = writer.stat().map(|stat| facts_of(&stat));
        let mut state = self.lock();
        self.settle_attrs(&mut state, facts);
        state.changes += 1;
        // Its modification time has moved past its access time.
        state.access_due = true;
        let now = self.buffers.journal.now();
        state.errors.note(error, now);
        self.note_room(error);
        let left = self.settle_ticket(&mut state);
        let clean = state.cache.dirty_bytes() == 0;
        let old_writer = state.writer.take_if(|_| clean);
        // Bytes that were not written meet the changed file still.
        let older_left = error.is_some() || range != ByteRange::ALL;
        state.conflict = state.conflict && older_left && !clean;
        drop(state);
        // Closing files is for when no lock is held.
        drop((left, old_writer));
    }

    fn settle_attrs(&self, state: &mut State, facts: SysResult<Facts>) {
        match facts {
            Ok(facts) => state.attrs.end_writeback(&facts),
            Err(errno) => {
                log::debug!("SOURCE does not say what it looks like: {errno}");
                state.attrs.end_writeback_blind();
            }
        }
    }

    /// A clean file leaves the dirty ones; one that is dirty again goes to their end.
    pub(super) fn settle_ticket(self: &Arc<Self>, state: &mut State) -> Option<Arc<File>> {
        let left = state
            .ticket
            .take()
            .and_then(|ticket| self.buffers.budget.leave(ticket));
        let dirty = state.cache.dirty_bytes() > 0;
        self.dirty.store(dirty, Ordering::Release);
        if dirty {
            let since = state.cache.dirty_since(self.buffers.storage());
            self.enter(state, since.unwrap_or(state.dirty_since));
        }
        left
    }

    /// It is among the dirty files from now on, its oldest dirty byte being as old as that.
    pub(super) fn enter(self: &Arc<Self>, state: &mut State, since: Nanos) {
        state.dirty_since = since;
        self.dirty.store(true, Ordering::Release);
        state.ticket = Some(self.buffers.enter(self, state));
    }
}

impl super::file::Errors {
    fn note(&mut self, error: Option<Errno>, now: Nanos) {
        let Some(errno) = error else {
            self.in_a_row = 0;
            self.not_before = Nanos(0);
            return;
        };
        self.count += 1;
        self.last = Some(errno);
        self.told = false;
        let pause = PAUSE.0 << self.in_a_row.min(10);
        self.not_before = Nanos(now.0 + pause.min(PAUSE_MAX.0));
        self.in_a_row += 1;
    }
}
