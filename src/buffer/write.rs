//! Writing into the buffer, and past it.

use std::sync::Arc;

use super::file::{Privileges, State};
use super::looks::facts_of;
use super::room::Claim;
use super::{By, Did, File, lock};
use crate::backing::Backing;
use crate::cache::{Stamp, Time};
use crate::error::Errno;
use crate::event::{CacheDid, Reason};
use crate::sys::{self, Stat, SysResult};
use crate::types::{ByteRange, Slot};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To this offset.
    At(u64),
    /// To the end of the file, wherever that is then.
    End,
    /// To this offset, but never beyond the end: pages of a mapping come whole.
    Within(u64),
}

/// What became of a write that could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Bytes taken.
    pub count: usize,
    /// Where they went.
    pub at: u64,
}

impl File {
    /// Buffers `data`. `writer` is how it gets to SOURCE later. Where that must not be or there is no room, tells
    /// why the write has to go past the buffer.
    ///
    /// # Errors
    /// Those of statx(2) on SOURCE, for an append; `EFBIG` past the largest offset.
    pub fn buffer(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        writer: &Arc<dyn Backing>,
        place: Place,
        data: &[u8],
    ) -> SysResult<Result<Put, Reason>> {
        if self.buffers.gate.is_full() {
            self.buffers.bell.ring();
            return Ok(Err(Reason::Memory));
        }
        self.refuse_if_abandoned()?;
        let Some(claim) = self.admit(by.now, &**writer, data.len() as u64) else {
            return Ok(Err(Reason::NearlyFull));
        };
        if place == Place::End {
            // SOURCE may have grown from outside.
            self.look_below(did, &**writer)?;
        }
        let time = match data {
            [] => Time::default(),
            _ => self.time_of_write(),
        };
        let mut stock: Vec<Slot> = Vec::new();
        loop {
            let missing = {
                let mut state = self.lock();
                // Known under the lock: who closes takes it once.
                if self.buffers.is_closed() {
                    drop(state);
                    return self.past(&stock, Reason::Unmount);
                }
                let (at, data) = placed(&state, place, data)?;
                let range = ByteRange::at(at, data.len() as u64);
                let need = state.cache.slots_needed(self.buffers.storage(), range);
                if need <= stock.len() {
                    if !data.is_empty() {
                        state.writer.get_or_insert_with(|| Arc::clone(writer));
                        state.attrs.wrote(time);
                    }
                    let put = self.put(&mut state, &mut stock, by, did, (at, data), claim);
                    drop(state);
                    self.buffers.give_back(&stock);
                    return Ok(Ok(put));
                }
                need - stock.len()
            };
            if stock.len() + missing > self.buffers.request_max() {
                return self.past(&stock, Reason::Memory);
            }
            let more = self.buffers.take(missing);
            let enough = more.len() == missing;
            stock.extend(more);
            if !enough {
                self.buffers.bell.ring();
                return self.past(&stock, Reason::Memory);
            }
        }
    }

    /// It has to go past the buffer, and needs no slots for that.
    fn past(&self, stock: &[Slot], reason: Reason) -> SysResult<Result<Put, Reason>> {
        self.buffers.give_back(stock);
        Ok(Err(reason))
    }

    /// When what is dirty was given up, nothing may seem to be written any more.
    fn refuse_if_abandoned(&self) -> SysResult<()> {
        match self.buffers.is_abandoned() {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }

    /// What the kernel would stamp the file with: the time of its last tick, unless somebody has seen the file with
    /// that. Then it is a finer one, and whatever is stamped later has a later time, in all files.
    fn time_of_write(&self) -> Time {
        let now = sys::coarse_time();
        let Some(seen) = self.lock().attrs.seen_later(now) else {
            return now;
        };
        self.buffers.clock.later_than(seen).unwrap_or_else(|errno| {
            log::debug!("no finer time than that of the last tick: {errno}");
            now
        })
    }

    fn put(
        self: &Arc<Self>,
        state: &mut State,
        stock: &mut Vec<Slot>,
        by: &By,
        did: &mut Did,
        (at, data): (u64, &[u8]),
        claim: Claim<'_>,
    ) -> Put {
        let put = Put {
            count: data.len(),
            at,
        };
        if data.is_empty() {
            return put;
        }
        let stamp = Stamp {
            seq: by.seq.unwrap_or_default(),
            now: by.now,
            via: state.writer.as_ref().and_then(|writer| writer.own_fd()),
        };
        let storage = self.buffers.storage();
        let before = state.dirt();
        let (undo, lane) = self.buffers.shared.lane();
        let wrote = state.cache.write(storage, stock, (at, data), stamp, undo);
        drop(lane);
        state.access_due = true;
        if state.ticket.is_none() {
            self.enter(state, by.now);
        }
        let after = state.dirt();
        claim.dirty(after.blocks.saturating_sub(before.blocks));
        self.buffers.gate.change(before, after);
        self.buffers.ring_if_much();
        did.push(CacheDid::Buffered {
            offset: at,
            size: data.len() as u64,
            overwrote: wrote.overwrote,
        });
        put
    }

    /// Writes past the buffer, for `reason`: what is dirty in the same place goes first, then `write` does
    /// its work (and says how much and where), and what is buffered clean becomes the same.
    ///
    /// # Errors
    /// Those of `write`, and of writing back what is dirty there.
    pub fn write_through(
        self: &Arc<Self>,
        by: &By,
        did: &mut Did,
        reason: Reason,
        (place, data): (Place, &[u8]),
        write: impl FnOnce(Place, &[u8]) -> SysResult<Put>,
        stat: impl Fn() -> SysResult<Stat>,
    ) -> SysResult<Put> {
        self.refuse_if_abandoned()?;
        let claim = self.make_way(by, data.len() as u64);
        let _io = lock(&self.io);
        let (place, data) = match place {
            Place::At(_) | Place::End => (place, data),
            Place::Within(_) => {
                let state = self.lock();
                let (at, data) = placed(&state, place, data)?;
                (Place::At(at), data)
            }
        };
        let range = match place {
            Place::At(at) | Place::Within(at) => ByteRange::at(at, data.len() as u64),
            // Where the end is, is known only when all is there.
            Place::End => ByteRange::ALL,
        };
        self.write_back_in(range, reason, by.cause(), did)?;
        let busy = self.begin_change(did, &stat);
        let put = write(place, data)?;
        let facts = stat().map(|stat| facts_of(&stat));
        let mut state = self.lock();
        let storage = self.buffers.storage();
        state.cache.overlay(storage, put.at, &data[..put.count]);
        state.privileges = None;
        state.access_due = true;
        let mut dropped = None;
        match facts {
            Ok(facts) => {
                let dirty = state.cache.dirty_bytes() > 0;
                state.attrs.changed_data(&facts, dirty);
                if facts.size != state.cache.source_size() {
                    // Somebody else was there at the same time.
                    dropped = Some(state.cache.invalidate(storage, ByteRange::ALL, facts.size));
                }
            }
            Err(errno) => log::debug!("SOURCE does not say what it looks like: {errno}"),
        }
        drop(state);
        drop(busy);
        claim.into_iter().for_each(Claim::written);
        self.tell_invalidated(did, dropped);
        if put.count > 0 {
            did.push(CacheDid::WriteThrough {
                size: put.count as u64,
                reason,
            });
        }
        Ok(put)
    }

    /// What a write may have to clear; `look` asks SOURCE, if nobody has since it could have come.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn privileges(
        &self,
        look: impl FnOnce() -> SysResult<Privileges>,
    ) -> SysResult<Privileges> {
        let before = {
            let state = self.lock();
            if let Some(known) = state.privileges {
                return Ok(known);
            }
            state.moment()
        };
        let found = look()?;
        let mut state = self.lock();
        // An operation that gives some may be under way, or over since.
        if state.busy == 0 && state.moment() == before {
            state.privileges = Some(found);
        }
        Ok(found)
    }
}

/// Where a write goes, and what of it.
fn placed<'a>(state: &State, place: Place, data: &'a [u8]) -> SysResult<(u64, &'a [u8])> {
    let size = state.cache.size();
    let (at, data) = match place {
        Place::At(at) => (at, data),
        Place::End => (size, data),
        Place::Within(at) => {
            let inside = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            (at, &data[..data.len().min(inside)])
        }
    };
    let end = at.checked_add(data.len() as u64);
    match end.map(i64::try_from) {
        Some(Ok(_)) => Ok((at, data)),
        _ => Err(Errno::EFBIG),
    }
}
