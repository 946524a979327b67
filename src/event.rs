//! The trace schema, version 1: every line of a trace is one [`Event`]. This is the only place where
//! it is written down as code; `docs/TRACE.md` is the same for people, and a test keeps both equal.
//!
//! Layer: pure. No clock, no I/O: others fill these in, write them and read them.
//!
//! Conventions. Times are nanoseconds (`CLOCK_REALTIME` taken once at start, advanced by
//! `CLOCK_MONOTONIC`, so they never step back). Sizes and offsets are bytes. A field that does not
//! apply is absent. Names that are not UTF-8 are written lossily, with the exact bytes in base64
//! beside them (`*_b64`).

mod cache;
mod flags;
mod line;
mod op;
mod text;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use cache::{CacheDid, Reason};
pub use flags::{open_flag_names, write_flag_names};
pub use op::{Caller, Op, OpKind, SetAttrs};
pub use text::ByteText;

use crate::types::{Nanos, Seq};

/// The version of the schema that this code writes, and the only one it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    /// The first line: what was recorded, and how.
    Header(Box<Header>),
    /// A request that was answered.
    Op(Box<Op>),
    /// A write that iolens issued to SOURCE from its buffer.
    Writeback(Box<Writeback>),
    /// Clean blocks dropped from the buffer.
    Evict(Box<Evict>),
    /// Dirty bytes that died unwritten.
    Discard(Box<Discard>),
    /// Events that could not be recorded.
    Lost(Lost),
    /// A restarted server goes on with the trace.
    Resume(Resume),
    /// The last line of a complete trace.
    Footer(Box<Footer>),
}

impl Event {
    /// Appends the line of the event to a trace: its JSON object, and a newline.
    ///
    /// # Errors
    /// None: every event has a JSON form.
    pub fn put_line(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Event::Op(op) => line::put(op, out),
            event => serde_json::to_writer(&mut *out, event)?,
        }
        out.push(b'\n');
        Ok(())
    }
}

/// The first line of a trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`SCHEMA_VERSION`].
    pub schema: u32,
    /// The version of iolens that wrote the trace.
    pub version: String,
    /// The directory that is viewed, absolute.
    pub source: String,
    /// Where it is viewed, absolute; the same as `source` for `run`.
    pub mountpoint: String,
    /// `uname -r` of the kernel.
    pub kernel: String,
    /// How requests arrive: `dev` or `uring`.
    pub transport: String,
    /// Whether the kernel may cache file data: `off`, `read` or `write-back`.
    pub kernel_cache: String,
    /// The buffer cache's policy: `off`, `write-through` or `write-back`.
    pub policy: String,
    /// Memory for cached blocks, bytes; 0 with policy `off`.
    pub cache_size: u64,
    /// Dirty bytes at which writers wait; 0 with policy `off`.
    pub dirty_limit: u64,
    /// Age at which dirty data is written back; absent for `never` and with policy `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_age_ns: Option<u64>,
    /// What close(2) does: `writeback` or `keep`.
    pub on_close: String,
    /// The size of a cached block, bytes.
    pub block_size: u64,
    /// When recording began.
    pub start_ns: Nanos,
    /// The program and its arguments (`run` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How callers are named: `full`, `pid`, or `off: <why>`.
    pub attribution: String,
    /// What no request tells: each entry one sentence.
    #[serde(default)]
    pub invisible: Vec<String>,
    /// What works differently from a native directory here: each entry one sentence.
    #[serde(default)]
    pub limits: Vec<String>,
    /// The capture filters in force, as typed (`--only-op=write`); absent when everything is recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
}

/// A write issued to SOURCE from the buffer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Writeback {
    /// Order of events; shared numbering with operations.
    pub seq: Seq,
    /// When the write was issued.
    pub ts_ns: Nanos,
    /// How long it took.
    pub dur_ns: Nanos,
    /// The file.
    pub ino: u64,
    /// The file's path below SOURCE.
    #[serde(flatten)]
    pub path: ByteText,
    /// First byte written.
    pub offset: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<Arc<str>>,
    /// Cached blocks touched.
    pub blocks: u64,
    /// Why it was written.
    pub reason: Reason,
    /// Who made it necessary.
    pub cause: Cause,
    /// Application writes merged into this one.
    pub writes: u64,
    /// First operation whose bytes are in it.
    pub first_seq: Seq,
    /// Last operation whose bytes are in it.
    pub last_seq: Seq,
    /// Age of its oldest byte.
    pub age_ns: Nanos,
    /// SOURCE had been changed from outside since the bytes were buffered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
}

/// Clean blocks dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evict {
    /// Order of events.
    pub seq: Seq,
    /// When.
    pub ts_ns: Nanos,
    /// The file.
    pub ino: u64,
    /// The file's path below SOURCE.
    #[serde(flatten)]
    pub path: ByteText,
    /// Blocks dropped.
    pub blocks: u64,
    /// Why.
    pub reason: Reason,
}

/// Dirty bytes that died unwritten.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Discard {
    /// Order of events.
    pub seq: Seq,
    /// When.
    pub ts_ns: Nanos,
    /// The file.
    pub ino: u64,
    /// The file's path below SOURCE.
    #[serde(flatten)]
    pub path: ByteText,
    /// First byte discarded.
    pub offset: u64,
    /// Bytes discarded.
    pub size: u64,
    /// Why.
    pub reason: Reason,
    /// Who made it so.
    pub cause: Cause,
}

/// Who made a writeback or discard necessary: the operation behind it, or iolens itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cause {
    /// The `seq` of the operation.
    Op(Seq),
    /// Not an operation.
    Own(OwnCause),
}

impl Default for Cause {
    fn default() -> Self {
        Cause::Own(OwnCause::Timer)
    }
}

/// Causes that are not operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnCause {
    /// Dirty data grew old.
    Timer,
    /// Memory was needed.
    Memory,
    /// A sync of the whole view was asked for.
    Sync,
    /// The view is being unmounted.
    Unmount,
    /// A signal ends the server.
    Signal,
}

impl OwnCause {
    /// The name in the trace.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OwnCause::Timer => "timer",
            OwnCause::Memory => "memory",
            OwnCause::Sync => "sync",
            OwnCause::Unmount => "unmount",
            OwnCause::Signal => "signal",
        }
    }
}

/// Events that could not be recorded since the last such line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// Order of events.
    pub seq: Seq,
    /// When it was noticed.
    pub ts_ns: Nanos,
    /// How many events (each of which had taken a `seq`).
    pub count: u64,
}

/// A restarted server goes on with the trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Order of events.
    pub seq: Seq,
    /// When.
    pub ts_ns: Nanos,
    /// Why the server was restarted.
    pub reason: String,
}

/// The last line of a complete trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Number of `op` lines.
    pub ops: u64,
    /// Number of lines between header and footer.
    pub events: u64,
    /// Events lost over the whole run.
    pub lost: u64,
    /// Dirty bytes that never reached SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed.
    pub write_errors: u64,
    /// The user gave up before all was written.
    pub abandoned: bool,
    /// When recording ended.
    pub end_ns: Nanos,
    /// iolens's own exit status.
    pub exit: i32,
    /// The program's exit status as a shell would give it (`run` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd_exit: Option<i32>,
}
