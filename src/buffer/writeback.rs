//! Writing back: a file's dirty runs to SOURCE, in file order.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::file::State;
use super::looks::facts_of;
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
        let _io = lock(&self.io);
        self.write_back_in(range, reason, cause, did)
    }

    /// The same for who holds `io`. One pass: what becomes dirty behind it is not written.
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
        let Some(mut batch) = state.cache.plan_writeback(storage, range, 0) else {
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
        loop {
            self.write_batch(&batch, &*writer, why, &mut sum);
            let mut state = self.lock();
            match state.cache.plan_writeback(storage, range, batch.next) {
                Some(next) => batch = next,
                None => break,
            }
        }
        self.end(&*writer, sum.error);
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
        let epoch = self.lock().cache.epoch();
        let facts = writer.stat().map(|stat| facts_of(&stat));
        let mut state = self.lock();
        let mut dropped = None;
        if let Ok(facts) = facts {
            dropped = self.look(&mut state, &facts, epoch);
            state.attrs.begin_writeback(&facts);
        }
        let conflict = state.conflict;
        drop(state);
        self.tell_invalidated(did, dropped);
        conflict
    }

    fn write_batch(&self, batch: &Batch, writer: &dyn Backing, why: Why, sum: &mut Sum) {
        let written: Vec<u64> = batch
            .runs
            .iter()
            .map(|run| {
                let (written, error) = self.write_run(run, writer, why);
                sum.bytes += written;
                sum.runs += u64::from(written > 0);
                sum.error = sum.error.or(error);
                written
            })
            .collect();
        let storage = self.buffers.storage();
        let committed = self.lock().cache.commit_writeback(storage, batch, &written);
        self.buffers.give_back(&committed.freed);
        self.buffers.admit(&committed.clean);
        let subject = self.subject();
        for range in &committed.superseded {
            sum.superseded += range.len();
            let journal = &self.buffers.journal;
            journal.discarded(&*subject, *range, Reason::Superseded, why.cause);
        }
        let superseded: u64 = committed.superseded.iter().map(|range| range.len()).sum();
        self.buffers.gate.sub(committed.written + superseded);
    }

    fn write_run(&self, run: &Run, writer: &dyn Backing, why: Why) -> (u64, Option<Errno>) {
        let subject = self.subject();
        let journal = &self.buffers.journal;
        let issued = journal.issue(&*subject);
        let memory = &self.buffers.memory;
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
    fn end(self: &Arc<Self>, writer: &dyn Backing, error: Option<Errno>) {
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
        // Its modification time has moved past its access time.
        state.access_due = true;
        let now = self.buffers.journal.now();
        state.errors.note(error, now);
        let left = self.settle_ticket(&mut state);
        let old_writer = match state.cache.dirty_bytes() {
            0 => state.writer.take(),
            _ => None,
        };
        state.conflict = state.conflict && error.is_some();
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
        self.dirty.store(false, Ordering::Release);
        if state.cache.dirty_bytes() > 0 {
            let since = state.cache.dirty_since(self.buffers.storage());
            state.dirty_since = since.unwrap_or(state.dirty_since);
            state.ticket = Some(self.buffers.enter(self));
        }
        left
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
