//! Where events are made: every operation runs inside [`Observer::op`], which takes the number and
//! the time when the request arrives and hands the event over when the answer is known. What the buffers
//! do beside that arrives as the calls of a [`Journal`].

mod journal;
mod who;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::answer::{Answer, Promise, Wait};
use super::handle::Handle;
use super::inode::Inode;
use super::names::{path_below, path_of};
use super::{Call, Hidden};
use crate::buffer::{By, Did, Gate, Subject};
use crate::caller::{Asked, Callers, Thread, Told};
use crate::event::{ByteText, CacheDid, Caller, Event, Op, OpKind, Reason};
use crate::sys::SysResult;
use crate::trace::{Clock, Recorder};
use crate::types::{Ino, Nanos, Tid};

use who::Who;
pub use who::{Attribution, Watch};

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// A file known by its inode.
    Inode(&'a Arc<Inode>),
    /// A name in a directory.
    Name(&'a Arc<Inode>, &'a OsStr),
    /// An open file or directory.
    Handle(&'a Arc<Handle>),
}

/// An inode, as the buffers know it.
#[derive(Debug)]
pub struct Known(pub Arc<Inode>);

impl Subject for Known {
    fn ino(&self) -> Ino {
        self.0.ino()
    }

    fn path(&self) -> ByteText {
        ByteText::new(&path_of(&self.0).0)
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// How callers are attributed.
#[derive(Clone, Debug)]
pub(super) struct Attributed {
    /// What is found out.
    pub attribution: Attribution,
    /// Descriptors that may be kept for it.
    pub descriptors: usize,
    /// Callers sleep by the time that they are served.
    pub asleep: bool,
    /// What the kernel tells of them.
    pub told: Option<Arc<Told>>,
}

/// Makes events of operations, if anybody records.
pub struct Observer {
    recorder: Option<Arc<Recorder>>,
    /// Where nobody records.
    clock: Clock,
    callers: OnceLock<Callers>,
    attributed: Attributed,
    hidden: Option<Hidden>,
    quiet: Vec<Tid>,
}

/// The event of the running operation, for the operation to fill in. If the operation panics, its
/// number is given up as lost.
pub struct Note {
    op: Option<Box<Op>>,
    arrived: Nanos,
    who: Who,
    recorder: Option<Arc<Recorder>>,
}

impl Note {
    /// Fills in the event, if there is one.
    pub fn set(&mut self, fill: impl FnOnce(&mut Op)) {
        if let Some(op) = self.op.as_mut() {
            fill(op);
        }
    }

    /// Whether there is an event to fill in, so that what only it needs can be left out otherwise.
    #[must_use]
    pub fn recording(&self) -> bool {
        self.op.is_some()
    }

    /// What the buffers did for the operation.
    pub fn did(&mut self, did: Did) {
        if let Some(op) = self.op.as_mut() {
            op.cache.extend(did);
        }
    }

    /// On whose behalf the buffers work.
    #[must_use]
    pub fn by(&self) -> By {
        By {
            seq: self.op.as_ref().map(|op| op.seq),
            now: self.arrived,
        }
    }

    /// The answer was put off for `reason`, since the work was done at `since`.
    pub(super) fn waited(&mut self, since: Nanos, reason: Reason) {
        if let (Some(op), Some(recorder)) = (self.op.as_mut(), &self.recorder) {
            let ns = recorder.now().since(since).0;
            op.cache.push(CacheDid::Wait { ns, reason });
        }
    }

    /// The operation is over: its event is recorded.
    pub(super) fn finish<T>(mut self, result: &SysResult<T>) {
        let (Some(mut op), Some(recorder)) = (self.op.take(), &self.recorder) else {
            return;
        };
        match result {
            Ok(_) => op.ret = op.ret.or(Some(0)),
            Err(errno) => {
                op.ret = None;
                op.errno = Some(Cow::Borrowed(errno.name()));
            }
        }
        self.who.tell(&mut op, || recorder.now());
        op.dur_ns = recorder.now().since(op.ts_ns);
        recorder.record(Event::Op(op));
    }

    /// The thread behind the request, where it is known.
    #[must_use]
    pub fn thread(&self) -> Option<Thread> {
        self.who.thread.clone()
    }

    /// What the request asked, for its system call to be compared with.
    pub fn asks(&mut self, asked: Asked) {
        self.who.asks(asked);
    }

    /// It copies to this open file, whose position the call may move too.
    pub(super) fn copies_to(&mut self, target: &Arc<Handle>) {
        self.who.copies_to(target);
    }

    /// Whether a read for the page cache serves a page fault, as far as that can be told in time.
    pub fn is_page_fault(&mut self) -> bool {
        self.who.is_in_page_fault(self.arrived)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let (Some(op), Some(recorder)) = (self.op.take(), &self.recorder) {
            recorder.forfeit(op.seq);
        }
    }
}

impl Observer {
    /// An observer that hands events to `recorder`, but none of the file `hidden` or of the threads
    /// `quiet`.
    pub(super) fn new(
        recorder: Option<Arc<Recorder>>,
        hidden: Option<Hidden>,
        quiet: Vec<Tid>,
        attributed: Attributed,
    ) -> Observer {
        Observer {
            recorder,
            clock: Clock::start(),
            callers: OnceLock::new(),
            attributed,
            hidden,
            quiet,
        }
    }

    /// What is known of threads; made at the first use, because a server that forks must not start
    /// threads before.
    pub fn callers(&self) -> &Callers {
        let descriptors = self.attributed.descriptors;
        self.callers.get_or_init(|| Callers::new(descriptors))
    }

    /// Runs one operation and records it.
    pub fn op<T>(
        &self,
        kind: OpKind,
        call: &Call,
        on: On<'_>,
        work: impl FnOnce(&mut Note) -> SysResult<T>,
    ) -> SysResult<T> {
        self.op_watched(kind, call, on, Watch::of(kind), work)
    }

    /// The same where it is known how the caller's system call can be looked at.
    pub fn op_watched<T>(
        &self,
        kind: OpKind,
        call: &Call,
        on: On<'_>,
        watch: Watch,
        work: impl FnOnce(&mut Note) -> SysResult<T>,
    ) -> SysResult<T> {
        let mut note = self.begin(kind, call, on, watch);
        let result = work(&mut note);
        note.finish(&result);
        result
    }

    /// The same for an operation whose answer may have to wait, as `waits` says after the work.
    pub fn op_that_may_wait<T>(
        &self,
        kind: OpKind,
        call: &Call,
        on: On<'_>,
        watch: Watch,
        work: impl FnOnce(&mut Note) -> SysResult<T>,
        waits: impl FnOnce() -> Option<(Arc<Gate>, Reason)>,
    ) -> Answer<T> {
        let mut note = self.begin(kind, call, on, watch);
        let result = work(&mut note);
        match waits() {
            Some((gate, reason)) if result.is_ok() => {
                let wait = Wait {
                    note,
                    thread: call.tid,
                    since: self.now(),
                    reason,
                };
                Answer::Later(Promise::new(result, wait, gate))
            }
            _ => {
                note.finish(&result);
                Answer::Now(result)
            }
        }
    }

    fn now(&self) -> Nanos {
        self.recorder
            .as_ref()
            .map_or_else(|| self.clock.now(), |recorder| recorder.now())
    }

    fn begin(&self, kind: OpKind, call: &Call, on: On<'_>, watch: Watch) -> Note {
        let now = self.now();
        let unrecorded = |who| Note {
            op: None,
            arrived: now,
            who,
            recorder: None,
        };
        let Some(recorder) = self.recorder.as_ref().filter(|_| !self.is_hidden(call, on)) else {
            return unrecorded(Who::unknown());
        };
        let mut who = match self.attributed.attribution {
            Attribution::Nothing => Who::unknown(),
            Attribution::Full | Attribution::Process => {
                Who::look_up(self.callers(), call.tid, now, kind)
            }
        };
        let pid = who.thread.as_ref().map(|thread| thread.pid);
        if !recorder.wants(kind, pid, call.tid, || full_path(on)) {
            return unrecorded(who);
        }
        let mut op = Box::new(Op::new(kind, recorder.next_seq(), now));
        who.watch((&self.attributed, watch), (kind, on), (call, now));
        describe_object(&mut op, on);
        describe_caller(&mut op, call, who.thread.as_ref(), on);
        Note {
            op: Some(op),
            arrived: now,
            who,
            recorder: Some(Arc::clone(recorder)),
        }
    }

    /// Whether a name may be that of the hidden file, so that it is worth to look.
    pub fn may_be_hidden(&self, name: &OsStr) -> bool {
        self.hidden
            .as_ref()
            .is_some_and(|hidden| hidden.name == name)
    }

    /// Whether it is the hidden file.
    pub fn hides(&self, inode: &Inode) -> bool {
        let hidden = self.hidden.as_ref();
        hidden.is_some_and(|hidden| inode.is_number(hidden.number))
    }

    /// Operations on the trace itself are not recorded, or watching it would make it grow.
    fn is_hidden(&self, call: &Call, on: On<'_>) -> bool {
        if self.quiet.contains(&call.tid) {
            return true;
        }
        let Some(hidden) = &self.hidden else {
            return false;
        };
        match on {
            On::Inode(inode) => inode.is_number(hidden.number),
            On::Handle(handle) => handle.inode.is_number(hidden.number),
            On::Name(..) => false,
        }
    }
}

fn full_path(on: On<'_>) -> Option<OsString> {
    match on {
        On::Inode(inode) => Some(path_of(inode).0),
        On::Handle(handle) => {
            use std::os::unix::ffi::OsStringExt;
            handle.shown().path.bytes().map(OsString::from_vec)
        }
        On::Name(parent, name) => Some(path_below(parent, name)),
    }
}

fn describe_object(op: &mut Op, on: On<'_>) {
    match on {
        On::Inode(inode) => {
            op.ino = Some(inode.ino());
            let (path, unlinked) = path_of(inode);
            op.set_path(ByteText::new(&path));
            op.unlinked = unlinked;
        }
        On::Handle(handle) => {
            op.ino = Some(handle.inode.ino());
            op.fh = Some(handle.fh);
            let shown = handle.shown();
            op.set_path(shown.path);
            op.unlinked = shown.unlinked;
        }
        On::Name(parent, name) => op.set_path(ByteText::new(&path_below(parent, name))),
    }
}

fn describe_caller(op: &mut Op, call: &Call, thread: Option<&Thread>, on: On<'_>) {
    if call.tid.0 != 0 {
        op.caller = Caller::Request;
        set_caller(op, call, thread);
    } else if let On::Handle(handle) = on {
        op.caller = Caller::Opener;
        set_caller(op, &handle.opener.0, handle.opener.1.as_ref());
    }
}

fn set_caller(op: &mut Op, call: &Call, thread: Option<&Thread>) {
    op.tid = Some(call.tid);
    op.uid = Some(call.uid);
    op.gid = Some(call.gid);
    op.pid = thread.map(|thread| thread.pid);
    op.comm = thread.map(|thread| thread.comm.clone());
}
