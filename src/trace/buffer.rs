//! Where a thread leaves its events until the writer fetches them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::{CacheDid, Event, Op};

/// Events that one thread may leave unfetched. A batch interval of 20 ms at 100 000 operations a
/// second is 2 000; larger only helps a trace disk that stutters.
pub const BUFFER_EVENTS: usize = 8192;

/// Bytes that one thread may leave unfetched, as estimated by [`weight`].
pub const BUFFER_BYTES: usize = 8 << 20;

/// One thread's events. Its lock is contended only when the writer fetches, a pointer swap.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    held: Mutex<Held>,
    room: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    events: Vec<Event>,
    bytes: usize,
    waiting: usize,
}

/// How full a buffer is after an event went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Nothing special.
    Low,
    /// Just half full: the writer should not sleep on.
    Half,
}

impl Buffer {
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the writer has fetched, at most `limit`.
    pub(super) fn wait<'a>(
        &self,
        mut held: MutexGuard<'a, Held>,
        limit: Duration,
    ) -> MutexGuard<'a, Held> {
        held.waiting += 1;
        let (mut held, _) = self
            .room
            .wait_timeout(held, limit)
            .unwrap_or_else(PoisonError::into_inner);
        held.waiting -= 1;
        held
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().events.is_empty()
    }

    /// Moves all events to `into`, leaving `spare` (empty, with its capacity) in their place.
    pub(super) fn fetch(&self, into: &mut Vec<Event>, spare: &mut Vec<Event>) {
        let mut held = self.lock();
        if held.events.is_empty() {
            return;
        }
        std::mem::swap(&mut held.events, spare);
        held.bytes = 0;
        if held.waiting > 0 {
            self.room.notify_all();
        }
        drop(held);
        into.append(spare);
    }
}

impl Held {
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= BUFFER_EVENTS || self.bytes >= BUFFER_BYTES
    }

    pub(super) fn push(&mut self, event: Event) -> Level {
        let half =
            |held: &Held| held.events.len() >= BUFFER_EVENTS / 2 || held.bytes >= BUFFER_BYTES / 2;
        let before = half(self);
        self.bytes += weight(&event);
        self.events.push(event);
        if half(self) && !before {
            Level::Half
        } else {
            Level::Low
        }
    }
}

/// About how much memory an event holds: what matters is that no event is far heavier than this says.
fn weight(event: &Event) -> usize {
    /// The rarer kinds: the largest of them, with a short path.
    const OTHER: usize = 512;
    match event {
        Event::Op(op) => op_weight(op),
        _ => OTHER,
    }
}

fn op_weight(op: &Op) -> usize {
    let texts = [
        &op.path,
        &op.path_b64,
        &op.to,
        &op.to_b64,
        &op.target,
        &op.target_b64,
        &op.path_out,
        &op.name,
    ];
    let text: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
    size_of::<Op>() + text + op.cache.len() * size_of::<CacheDid>()
}
