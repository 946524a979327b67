//! What the buffer did, and why.

use serde::{Deserialize, Serialize};

/// One thing the buffer did for an operation. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "snake_case")]
pub enum CacheDid {
    /// A write went into the buffer.
    Buffered {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
        /// Of these, bytes that replaced dirty ones.
        overwrote: u64,
    },
    /// A write went to SOURCE at once.
    WriteThrough {
        /// Bytes.
        size: u64,
        /// Why.
        reason: Reason,
    },
    /// Read from the buffer.
    Hit {
        /// Bytes.
        size: u64,
        /// Of these, not yet written back.
        #[serde(default)]
        dirty: u64,
        /// Of these, fetched by read-ahead.
        #[serde(default)]
        readahead: u64,
    },
    /// Read from SOURCE into the buffer.
    Miss {
        /// Bytes.
        size: u64,
    },
    /// Read as zeros from a hole that only the buffer knows.
    Hole {
        /// Bytes.
        size: u64,
    },
    /// Read from SOURCE past the buffer.
    Bypass {
        /// Bytes.
        size: u64,
        /// Why.
        reason: Reason,
    },
    /// Fetched ahead of the reader.
    Readahead {
        /// Bytes.
        size: u64,
    },
    /// Dirty bytes went to SOURCE.
    Writeback {
        /// Bytes.
        size: u64,
        /// Contiguous runs.
        runs: u64,
        /// Why.
        reason: Reason,
    },
    /// Dirty bytes died.
    Discard {
        /// Bytes.
        size: u64,
        /// Why.
        reason: Reason,
    },
    /// Clean bytes were dropped because they were no longer true.
    Invalidate {
        /// Bytes.
        size: u64,
        /// Why.
        reason: Reason,
    },
    /// The writer had to wait.
    Wait {
        /// Nanoseconds.
        ns: u64,
        /// For what.
        reason: Reason,
    },
}

/// Why the buffer did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The policy says so.
    #[default]
    Policy,
    /// The file or the call is O_SYNC or O_DSYNC.
    OSync,
    /// The file is O_DIRECT.
    ODirect,
    /// SOURCE is nearly full.
    NearlyFull,
    /// fsync or fdatasync.
    Fsync,
    /// close.
    Close,
    /// It grew old.
    Age,
    /// Too much was dirty.
    DirtyLimit,
    /// The file was truncated.
    Truncate,
    /// The file was unlinked.
    Unlink,
    /// A rename over an existing file.
    Rename,
    /// fallocate.
    Fallocate,
    /// copy_file_range.
    CopyFileRange,
    /// lseek to data or hole.
    Lseek,
    /// The view is going away.
    Unmount,
    /// Memory was needed.
    Memory,
    /// A sync of everything.
    Sync,
    /// A mapping of the file.
    Mmap,
    /// SOURCE was changed from outside.
    ChangedBelow,
    /// Newer data covered it.
    Superseded,
    /// The kernel has forgotten the file.
    Forget,
    /// The write has to clear set-id bits or capabilities.
    SetId,
    /// The write ends where not every filesystem can have bytes.
    SizeLimit,
    /// A reason of a newer version.
    #[serde(other)]
    Other,
}

impl Reason {
    /// All of them, in the order of the documentation.
    pub const ALL: &'static [Reason] = &[
        Reason::Policy,
        Reason::OSync,
        Reason::ODirect,
        Reason::NearlyFull,
        Reason::Fsync,
        Reason::Close,
        Reason::Age,
        Reason::DirtyLimit,
        Reason::Truncate,
        Reason::Unlink,
        Reason::Rename,
        Reason::Fallocate,
        Reason::CopyFileRange,
        Reason::Lseek,
        Reason::Unmount,
        Reason::Memory,
        Reason::Sync,
        Reason::Mmap,
        Reason::ChangedBelow,
        Reason::Superseded,
        Reason::Forget,
        Reason::SetId,
        Reason::SizeLimit,
        Reason::Other,
    ];

    /// The name in the trace.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Policy => "policy",
            Reason::OSync => "o_sync",
            Reason::ODirect => "o_direct",
            Reason::NearlyFull => "nearly_full",
            Reason::Fsync => "fsync",
            Reason::Close => "close",
            Reason::Age => "age",
            Reason::DirtyLimit => "dirty_limit",
            Reason::Truncate => "truncate",
            Reason::Unlink => "unlink",
            Reason::Rename => "rename",
            Reason::Fallocate => "fallocate",
            Reason::CopyFileRange => "copy_file_range",
            Reason::Lseek => "lseek",
            Reason::Unmount => "unmount",
            Reason::Memory => "memory",
            Reason::Sync => "sync",
            Reason::Mmap => "mmap",
            Reason::ChangedBelow => "changed_below",
            Reason::Superseded => "superseded",
            Reason::Forget => "forget",
            Reason::SetId => "set_id",
            Reason::SizeLimit => "size_limit",
            Reason::Other => "other",
        }
    }
}
