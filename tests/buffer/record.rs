//! A trace, and what tests ask of it.

use std::fs;
use std::path::Path;

use iolens::event::{CacheDid, Cause, Discard, Event, Evict, Op, OpKind, Reason, Writeback};
use serde::Serialize;

pub(crate) struct Trace {
    events: Vec<Event>,
}

impl Trace {
    pub(crate) fn read(path: &Path) -> Trace {
        let text = fs::read_to_string(path).unwrap();
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<Event>(line).unwrap())
            .collect();
        Trace { events }
    }

    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.events.iter().filter_map(|event| match event {
            Event::Op(op) => Some(&**op),
            _ => None,
        })
    }

    /// Operations of a kind on a path, in order of arrival.
    pub(crate) fn of(&self, kind: OpKind, path: &str) -> Vec<&Op> {
        let mut found: Vec<&Op> = self
            .ops()
            .filter(|op| op.op == kind && op.path.as_deref() == Some(path))
            .collect();
        found.sort_by_key(|op| op.seq);
        found
    }

    /// The first operation of a kind on a path that worked.
    pub(crate) fn first(&self, kind: OpKind, path: &str) -> &Op {
        let found = self.of(kind, path).into_iter().find(|op| op.ret.is_some());
        found.unwrap_or_else(|| panic!("no {} of {path} in the trace", kind.name()))
    }

    /// The inode number of the only file that was opened by this path.
    pub(crate) fn ino(&self, path: &str) -> u64 {
        let mut inos: Vec<u64> = self
            .ops()
            .filter(|op| matches!(op.op, OpKind::Open | OpKind::Create))
            .filter(|op| op.path.as_deref() == Some(path))
            .filter_map(|op| op.ino.map(|ino| ino.0))
            .collect();
        inos.dedup();
        assert_eq!(inos.len(), 1, "inodes opened as {path}: {inos:?}");
        inos[0]
    }

    /// Writes to SOURCE, of any file.
    pub(crate) fn all_writebacks(&self) -> impl Iterator<Item = &Writeback> {
        self.events.iter().filter_map(|event| match event {
            Event::Writeback(written) => Some(&**written),
            _ => None,
        })
    }

    /// Whether requests came by io_uring.
    pub(crate) fn is_over_rings(&self) -> bool {
        matches!(self.events.first(), Some(Event::Header(header)) if header.transport == "uring")
    }

    /// Writes to SOURCE of the file that was opened by this path.
    pub(crate) fn writebacks(&self, path: &str) -> Vec<&Writeback> {
        let ino = self.ino(path);
        let mut found: Vec<_> = self.all_writebacks().filter(|w| w.ino == ino).collect();
        found.sort_by_key(|w| w.seq);
        found
    }

    pub(crate) fn discards(&self, path: &str) -> Vec<&Discard> {
        let ino = self.ino(path);
        let found = self.events.iter().filter_map(|event| match event {
            Event::Discard(d) if d.ino == ino => Some(&**d),
            _ => None,
        });
        found.collect()
    }

    pub(crate) fn evictions(&self) -> Vec<&Evict> {
        let found = self.events.iter().filter_map(|event| match event {
            Event::Evict(evict) => Some(&**evict),
            _ => None,
        });
        found.collect()
    }

    pub(crate) fn block_size(&self) -> u64 {
        let Some(Event::Header(header)) = self.events.first() else {
            panic!("no header");
        };
        header.block_size
    }

    /// System calls are attributed, and so are the requests that one was split into.
    pub(crate) fn knows_calls(&self) -> bool {
        matches!(self.events.first(), Some(Event::Header(header)) if header.attribution == "full")
    }

    /// All bytes of a file went to SOURCE for this reason, behind this operation; how many.
    pub(crate) fn written_for(&self, path: &str, reason: Reason, behind: &Op) -> u64 {
        let mut bytes = 0;
        for w in self.writebacks(path) {
            assert_eq!(w.reason, reason, "{w:?}");
            assert_eq!(
                w.cause,
                Cause::Op(behind.seq),
                "{w:?} behind {}",
                told(behind)
            );
            assert_eq!(w.errno, None, "{w:?}");
            bytes += w.ret.unwrap();
        }
        bytes
    }
}

/// An event as its line, for messages.
pub(crate) fn told<T: Serialize>(event: &T) -> String {
    serde_json::to_string(event).unwrap()
}

/// What a read was made of, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) hit: u64,
    pub(crate) dirty: u64,
    pub(crate) readahead: u64,
    pub(crate) miss: u64,
    pub(crate) hole: u64,
    pub(crate) bypass: u64,
}

impl Sources {
    pub(crate) fn all(self) -> u64 {
        self.hit + self.miss + self.hole + self.bypass
    }
}

pub(crate) fn sources(op: &Op) -> Sources {
    let mut sums = Sources::default();
    for did in &op.cache {
        match *did {
            CacheDid::Hit {
                size,
                dirty,
                readahead,
            } => {
                sums.hit += size;
                sums.dirty += dirty;
                sums.readahead += readahead;
            }
            CacheDid::Miss { size } => sums.miss += size,
            CacheDid::Hole { size } => sums.hole += size,
            CacheDid::Bypass { size, .. } => sums.bypass += size,
            _ => {}
        }
    }
    sums
}

/// Bytes of a write that went into the buffer, of these those that replaced dirty ones, and bytes that
/// went through, with the reasons.
pub(crate) fn taken(op: &Op) -> (u64, u64, Vec<(u64, Reason)>) {
    let (mut buffered, mut overwrote, mut through) = (0, 0, Vec::new());
    for did in &op.cache {
        match *did {
            CacheDid::Buffered {
                size,
                overwrote: over,
                ..
            } => {
                buffered += size;
                overwrote += over;
            }
            CacheDid::WriteThrough { size, reason } => through.push((size, reason)),
            _ => {}
        }
    }
    (buffered, overwrote, through)
}

/// What an operation wrote back: bytes, runs and the reason, one for each reason.
pub(crate) fn wrote_back(op: &Op) -> Vec<(u64, u64, Reason)> {
    let entries = op.cache.iter().filter_map(|did| match *did {
        CacheDid::Writeback { size, runs, reason } => Some((size, runs, reason)),
        _ => None,
    });
    entries.collect()
}
