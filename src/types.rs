//! The vocabulary: identifiers and quantities as newtypes, and their arithmetic. Nothing else.
//!
//! Layer: the bottom; imports nothing of iolens.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

/// What many threads look up by numbers that iolens or the kernel gives out: nobody chooses them to collide, so that a fast
/// hash will do.
pub type ByNumber<K, V> = DashMap<K, V, FxBuildHasher>;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The number by which the kernel names an inode to us (`fuse_in_header.nodeid`). Over fuser it
    /// doubles as the `st_ino` that applications see.
    NodeId(u64)
);
id!(
    /// An inode number as `stat(2)` shows it through the view.
    Ino(u64)
);
id!(
    /// An open file description (or directory stream) of the view: one per open, shared by dup and fork.
    /// Never reused within a run.
    Fh(u64)
);
id!(
    /// A thread id in the server's pid namespace; 0 where the kernel names nobody.
    Tid(u32)
);
id!(
    /// A process id (thread group id) in the server's pid namespace.
    Pid(u32)
);
id!(
    /// The order in which recorded requests arrived; unique in a trace, from 1.
    Seq(u64)
);
id!(
    /// A point in time or a span, in nanoseconds. Points count from the Unix epoch.
    Nanos(u64)
);

id!(
    /// A file's place in the buffer cache; never reused within a run.
    FileId(u64)
);
id!(
    /// A place for one block in the memory of the buffer cache: an index, not an address.
    Slot(u32)
);

/// Bytes of a file from `start` up to, not including, `end`. Never reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// All bytes that a file can have.
    pub const ALL: ByteRange = ByteRange {
        start: 0,
        end: u64::MAX,
    };

    /// From `start`, `len` bytes long; cut at the largest offset there is.
    #[must_use]
    pub fn at(start: u64, len: u64) -> ByteRange {
        ByteRange {
            start,
            end: start.saturating_add(len),
        }
    }

    /// From `start` to the largest offset.
    #[must_use]
    pub fn from(start: u64) -> ByteRange {
        ByteRange {
            start,
            end: u64::MAX,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The bytes of both; empty, at the place where they would meet, where they have none in common.
    #[must_use]
    pub fn intersect(self, other: ByteRange) -> ByteRange {
        let start = self.start.max(other.start);
        ByteRange {
            start,
            end: self.end.min(other.end).max(start),
        }
    }

    /// Its first `len` bytes, and the others.
    #[must_use]
    pub fn split_at(self, len: u64) -> (ByteRange, ByteRange) {
        let middle = self.start.saturating_add(len).min(self.end);
        let first = ByteRange {
            end: middle,
            ..self
        };
        (
            first,
            ByteRange {
                start: middle,
                ..self
            },
        )
    }

    /// Whether they have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: ByteRange) -> bool {
        !self.intersect(other).is_empty()
    }
}

/// A descriptor of the server's own, by its number: how the dirty bytes of a block reach SOURCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnFd(pub u32);

impl OwnFd {
    /// As a word in which 0 stands for none.
    #[must_use]
    pub fn to_word(fd: Option<OwnFd>) -> u64 {
        fd.map_or(0, |fd| u64::from(fd.0) + 1)
    }

    /// The descriptor of such a word.
    #[must_use]
    pub fn from_word(word: u64) -> Option<OwnFd> {
        let number = word.checked_sub(1)?;
        u32::try_from(number).ok().map(OwnFd)
    }
}

impl NodeId {
    /// The root of the view: `FUSE_ROOT_ID` in include/uapi/linux/fuse.h.
    pub const ROOT: NodeId = NodeId(1);
}

impl Nanos {
    /// The wall clock as nanoseconds since the Unix epoch (0 for a clock set before it).
    #[must_use]
    pub fn of(time: SystemTime) -> Nanos {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The span from `earlier` to `self`, 0 where the order is the other one.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}
