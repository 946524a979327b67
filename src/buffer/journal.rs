//! What the buffers tell others: who a file is, and what happened.

use std::fmt::Debug;

use crate::cache::Run;
use crate::error::Errno;
use crate::event::{ByteText, CacheDid, Cause, OwnCause, Reason};
use crate::types::{ByteRange, Ino, Nanos, Seq};

/// Who a file is, for whoever reads the journal.
pub trait Subject: Send + Sync + Debug {
    /// The inode number that applications see.
    fn ino(&self) -> Ino;
    /// Its path below SOURCE.
    fn path(&self) -> ByteText;
}

/// Where everything is recorded that no application asked for in so many words.
pub trait Journal: Send + Sync + Debug {
    /// The journal's clock.
    fn now(&self) -> Nanos;
    /// A writeback is about to be issued: its number and time, if it is recorded.
    fn issue(&self, subject: &dyn Subject) -> Option<Issued>;
    /// It is over.
    fn wrote_back(&self, subject: &dyn Subject, issued: Issued, done: &WroteBack<'_>);
    /// Dirty bytes died unwritten.
    fn discarded(&self, subject: &dyn Subject, range: ByteRange, reason: Reason, cause: Cause);
    /// Clean blocks were dropped.
    fn evicted(&self, subject: &dyn Subject, blocks: u64, reason: Reason);
}

/// A writeback's place in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its number.
    pub seq: Seq,
    /// When it was issued.
    pub at: Nanos,
}

/// How a writeback went.
#[derive(Clone, Copy, Debug)]
pub struct WroteBack<'a> {
    /// What was to be written.
    pub run: &'a Run,
    /// The bytes of it that this is about, which all met the same fate.
    pub range: ByteRange,
    /// Why they did not reach SOURCE, if they did not.
    pub error: Option<Errno>,
    /// Why it was written.
    pub reason: Reason,
    /// Who made it necessary.
    pub cause: Cause,
    /// SOURCE had been changed from outside since its bytes were buffered.
    pub conflict: bool,
}

/// What the buffer did for one operation, in order.
pub type Did = Vec<CacheDid>;

/// On whose behalf the buffer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// The operation, where it is recorded.
    pub seq: Option<Seq>,
    /// When it arrived.
    pub now: Nanos,
}

impl By {
    /// As the cause of something. An operation that is not recorded cannot be named.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.seq.map_or(Cause::Own(OwnCause::Sync), Cause::Op)
    }
}
