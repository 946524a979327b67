//! Reading a file through its buffer.

use std::io::IoSliceMut;
use std::sync::{Arc, Mutex, PoisonError};

use super::looks::facts_of;
use super::prefetch::Coming;
use super::{BLOCK_SIZE, Did, File, lock};
use crate::backing::Backing;
use crate::cache::{Filled, ReadPlan, Stream};
use crate::event::{CacheDid, Reason};
use crate::sys::SysResult;
use crate::types::{ByteRange, Slot};

/// A read that found SOURCE shorter than it was known to be looks again, this often.
const TRIES: usize = 3;

/// What is to be fetched in one piece: whole blocks.
struct Fetch {
    /// What the read itself needs of it.
    missing: ByteRange,
    /// The first block, and one past the last.
    blocks: (u64, u64),
}

/// How a try to read went, and how many bytes it got.
enum Tried {
    Read(usize),
    /// SOURCE ended earlier than it was known to.
    Short(usize),
}

impl File {
    /// Reads at `offset`; short only at the end of the file. `stream` is the reader's read-ahead.
    ///
    /// # Errors
    /// Those of preadv(2) on SOURCE.
    pub fn read(
        self: &Arc<Self>,
        did: &mut Did,
        source: &Arc<dyn Backing>,
        stream: &Mutex<Stream>,
        offset: u64,
        out: &mut [u8],
    ) -> SysResult<usize> {
        let range = ByteRange::at(offset, out.len() as u64);
        let size = self.fetch_following(source, stream, range);
        let read = self.read_until_it_fits(did, &**source, stream, range, out);
        self.tell_ahead(did, size);
        read
    }

    fn read_until_it_fits(
        self: &Arc<Self>,
        did: &mut Did,
        source: &dyn Backing,
        stream: &Mutex<Stream>,
        range: ByteRange,
        out: &mut [u8],
    ) -> SysResult<usize> {
        for _ in 1..TRIES {
            if let Tried::Read(count) = self.try_read(did, source, stream, range, out)? {
                return Ok(count);
            }
        }
        // The last time without a truncation by the view. If SOURCE shrinks even so, somebody else is at
        // it, and what was there before the new end will do.
        let _io = lock(&self.io);
        match self.try_read(did, source, stream, range, out)? {
            Tried::Read(count) | Tried::Short(count) => Ok(count),
        }
    }

    fn try_read(
        self: &Arc<Self>,
        did: &mut Did,
        source: &dyn Backing,
        stream: &Mutex<Stream>,
        range: ByteRange,
        out: &mut [u8],
    ) -> SysResult<Tried> {
        let mut plan = self.plan(range, out);
        if plan.len < out.len() {
            // The end of the file: is it still there?
            self.look_below(did, source)?;
            plan = self.plan(range, out);
        }
        self.buffers.touch(&plan.touched);
        let read = ByteRange::at(range.start, plan.len as u64);
        let ahead = lock(stream).advance(read, !plan.missing.is_empty());
        let mut done = Did::new();
        for fetch in self.fetches(&plan, read, ahead) {
            let out = part(out, range.start, fetch.missing);
            let had = self.fetch(&fetch, plan.epoch, source, out, &mut done)?;
            if had < fetch.missing.len() {
                self.look_below(did, source)?;
                let before = fetch.missing.start - range.start + had;
                return Ok(Tried::Short(usize::try_from(before).unwrap_or(plan.len)));
            }
        }
        tell(did, &plan, done);
        Ok(Tried::Read(plan.len))
    }

    /// Reads what is here; what is under way already comes first.
    fn plan(&self, range: ByteRange, out: &mut [u8]) -> ReadPlan {
        let mut ahead = 0;
        loop {
            let state = self.lock();
            let mut plan = state.cache.read(self.buffers.storage(), range, out);
            // What was found to come from read-ahead is not found so again.
            ahead = plan.ahead.max(ahead);
            plan.ahead = ahead.min(plan.hit);
            match state.awaited(&plan.missing) {
                None => return plan,
                Some(Coming { begun: true, .. }) => {
                    let waited = self.arrived.wait(state);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
                // The thread may be stuck with another file: the reader sees to it.
                Some(Coming { blocks, .. }) => {
                    drop(state);
                    self.call_off(blocks);
                }
            }
        }
    }

    /// Asks SOURCE what it looks like.
    pub(super) fn look_below(
        self: &Arc<Self>,
        did: &mut Did,
        source: &dyn Backing,
    ) -> SysResult<()> {
        let before = self.lock().moment();
        let facts = facts_of(&source.stat()?);
        let mut state = self.lock();
        let dropped = self.look(&mut state, &facts, before);
        drop(state);
        self.tell_invalidated(did, dropped);
        Ok(())
    }

    /// What is missing, in whole blocks; the last one with `ahead` bytes more, if the read ends with it.
    fn fetches(&self, plan: &ReadPlan, read: ByteRange, ahead: u64) -> Vec<Fetch> {
        let size = BLOCK_SIZE as u64;
        let source_end = self.lock().cache.source_size();
        let ahead = ahead.min(self.buffers.ahead_max());
        let mut fetches: Vec<Fetch> = Vec::with_capacity(plan.missing.len());
        for missing in &plan.missing {
            let mut end = missing.end;
            if missing.end == read.end {
                end = end.saturating_add(ahead).min(source_end).max(missing.end);
            }
            fetches.push(Fetch {
                missing: *missing,
                blocks: (missing.start / size, end.div_ceil(size)),
            });
        }
        fetches
    }

    /// Fetches blocks from SOURCE, hands the read its part, and puts them in. Returns how much of its part
    /// there was.
    fn fetch(
        &self,
        fetch: &Fetch,
        epoch: u64,
        source: &dyn Backing,
        out: &mut [u8],
        did: &mut Did,
    ) -> SysResult<u64> {
        let size = BLOCK_SIZE as u64;
        let (first, end) = fetch.blocks;
        let needed_end = fetch.missing.end.div_ceil(size);
        let count = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX);
        if count(needed_end - first) > self.buffers.request_max() {
            return pass_by(fetch.missing, source, out, did);
        }
        let mut slots = self.buffers.take(count(end - first));
        if slots.len() < count(end - first) {
            // No room: then nothing is fetched ahead.
            let spare = slots.split_off(slots.len().min(count(needed_end - first)));
            self.buffers.give_back(&spare);
        }
        if slots.len() < count(needed_end - first) {
            self.buffers.give_back(&slots);
            return pass_by(fetch.missing, source, out, did);
        }
        let got = match self.load(&slots, first * size, source, fetch.missing, out) {
            Ok(got) => got,
            Err(errno) => {
                self.buffers.give_back(&slots);
                return Err(errno);
            }
        };
        let miss = out.len() as u64;
        did.push(CacheDid::Miss { size: miss });
        let ahead = (first * size + got).saturating_sub(needed_end * size);
        self.tell_ahead(did, ahead);
        self.put_in(&slots, (first, needed_end), got, epoch);
        let end = (first * size + got).min(fetch.missing.end);
        Ok(end.saturating_sub(fetch.missing.start))
    }

    fn tell_ahead(&self, did: &mut Did, ahead: u64) {
        if ahead == 0 {
            return;
        }
        let size = self.lock().not_yet_told(ahead);
        if size > 0 {
            did.push(CacheDid::Readahead { size });
        }
    }

    /// Reads SOURCE from `at` into the slots, and the part that the read needs from there into `out`.
    pub(super) fn load(
        &self,
        slots: &[Slot],
        at: u64,
        source: &dyn Backing,
        missing: ByteRange,
        out: &mut [u8],
    ) -> SysResult<u64> {
        let memory = self.buffers.memory();
        let mut blocks: Vec<_> = slots.iter().map(|slot| memory.edit(*slot)).collect();
        let mut vectors: Vec<_> = blocks.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let got = source.read_at(&mut vectors, at)?;
        drop(vectors);
        let skip = usize::try_from(missing.start - at).unwrap_or(usize::MAX);
        let have = got.saturating_sub(skip).min(out.len());
        let (found, rest) = out.split_at_mut(have);
        let mut from = skip;
        for to in chunks_at(found, skip) {
            let block = &blocks[from / BLOCK_SIZE];
            let within = from % BLOCK_SIZE;
            to.copy_from_slice(&block[within..within + to.len()]);
            from += to.len();
        }
        rest.fill(0);
        Ok(got as u64)
    }

    /// Puts fetched blocks in: `first` is the first one, those from `needed_end` on were fetched ahead.
    pub(super) fn put_in(
        &self,
        slots: &[Slot],
        (first, needed_end): (u64, u64),
        got: u64,
        epoch: u64,
    ) {
        let (mut kept, mut returned) = (Vec::with_capacity(slots.len()), Vec::new());
        let mut state = self.lock();
        for (index, slot) in (first..).zip(slots) {
            let start = (index - first) * BLOCK_SIZE as u64;
            let inside = got.saturating_sub(start).min(BLOCK_SIZE as u64);
            let inside = usize::try_from(inside).unwrap_or(BLOCK_SIZE);
            let block = (index, *slot, inside);
            let ahead = index >= needed_end;
            match state
                .cache
                .fill(self.buffers.storage(), block, epoch, ahead)
            {
                Filled::Kept => kept.push(*slot),
                Filled::Returned => returned.push(*slot),
            }
        }
        drop(state);
        self.buffers.admit(&kept);
        self.buffers.give_back(&returned);
    }
}

/// Reads past the buffer, which has no room.
fn pass_by(
    missing: ByteRange,
    source: &dyn Backing,
    out: &mut [u8],
    did: &mut Did,
) -> SysResult<u64> {
    let got = source.read_at(&mut [IoSliceMut::new(out)], missing.start)?;
    did.push(CacheDid::Bypass {
        size: out.len() as u64,
        reason: Reason::Memory,
    });
    Ok(got as u64)
}

/// The part of the output that a range of the file goes to.
fn part(out: &mut [u8], start: u64, range: ByteRange) -> &mut [u8] {
    let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
    &mut out[at(range.start)..at(range.end)]
}

/// Cuts `out` where blocks end, if its first byte stands at `at` of a row of blocks.
fn chunks_at(out: &mut [u8], at: usize) -> impl Iterator<Item = &mut [u8]> {
    let first = (BLOCK_SIZE - at % BLOCK_SIZE).min(out.len());
    let (head, tail) = out.split_at_mut(first);
    let head = (!head.is_empty()).then_some(head);
    head.into_iter().chain(tail.chunks_mut(BLOCK_SIZE))
}

fn tell(did: &mut Did, plan: &ReadPlan, fetched: Did) {
    if plan.hit > 0 {
        did.push(CacheDid::Hit {
            size: plan.hit,
            dirty: plan.dirty,
            readahead: plan.ahead,
        });
    }
    if plan.hole > 0 {
        did.push(CacheDid::Hole { size: plan.hole });
    }
    did.extend(fetched);
}
