//! An event, as far as the laws ask that need order.

use std::sync::Arc;

use super::data::{Buffered, Data};
use super::handles::FhUse;
use crate::event::{CacheDid, Cause, Discard, Event, Op, OpKind, Reason, Writeback};
use crate::types::{Nanos, Seq};

/// One event, as far as the laws that need order ask.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) seq: u64,
    pub(super) line: u64,
    pub(super) name: &'static str,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) ino: Option<u64>,
    pub(super) path: Option<Arc<str>>,
    pub(super) fh: Option<(u64, FhUse)>,
    pub(super) fh_out: Option<u64>,
    pub(super) data: Data,
    pub(super) cause: Option<u64>,
    pub(super) is_op: bool,
}

impl Step {
    fn new(seq: Seq, line: u64, name: &'static str, ts: Nanos, dur: Nanos) -> Step {
        Step {
            seq: seq.0,
            line,
            name,
            start: ts.0,
            end: ts.0.saturating_add(dur.0),
            ino: None,
            path: None,
            fh: None,
            fh_out: None,
            data: Data::None,
            cause: None,
            is_op: false,
        }
    }

    /// The step of an event; `None` for header and footer. `on_close`: close(2) writes back.
    pub(super) fn of(line: u64, event: &Event, on_close: OnClose) -> Option<Step> {
        let none = Nanos(0);
        Some(match event {
            Event::Op(op) => op_step(line, op, on_close),
            Event::Writeback(done) => writeback_step(line, done),
            Event::Discard(done) => discard_step(line, done),
            Event::Evict(done) => Step::new(done.seq, line, "evict", done.ts_ns, none),
            Event::Lost(lost) => Step::new(lost.seq, line, "lost", lost.ts_ns, none),
            Event::Resume(resume) => Step::new(resume.seq, line, "resume", resume.ts_ns, none),
            Event::Header(_) | Event::Footer(_) => return None,
        })
    }
}

/// What close(2) does, as the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnClose {
    Writeback,
    Keep,
}

fn op_step(line: u64, op: &Op, on_close: OnClose) -> Step {
    let mut step = Step::new(op.seq, line, op.op.name(), op.ts_ns, op.dur_ns);
    step.is_op = true;
    step.ino = op.ino.map(|ino| ino.0);
    step.path.clone_from(&op.path);
    step.fh_out = op.fh_out.map(|fh| fh.0);
    step.fh = op.fh.map(|fh| (fh.0, fh_use(op)));
    let buffered: Vec<Buffered> = op.cache.iter().filter_map(buffered).collect();
    step.data = match (op.op, on_close) {
        _ if !buffered.is_empty() => Data::Buffered(buffered),
        (OpKind::Fsync, _) if op.errno.is_none() => Data::Fsync,
        (OpKind::Flush, OnClose::Writeback) if op.errno.is_none() && !op.unlinked => Data::Flush,
        _ => Data::None,
    };
    step
}

fn fh_use(op: &Op) -> FhUse {
    match op.op {
        OpKind::Open | OpKind::Create | OpKind::Opendir | OpKind::Tmpfile => FhUse::Open {
            writable: op
                .flags
                .iter()
                .any(|flag| flag == "O_WRONLY" || flag == "O_RDWR"),
        },
        OpKind::Release | OpKind::Releasedir => FhUse::Release,
        _ => FhUse::Use,
    }
}

fn writeback_step(line: u64, done: &Writeback) -> Step {
    let mut step = Step::new(done.seq, line, "writeback", done.ts_ns, done.dur_ns);
    step.ino = Some(done.ino);
    step.path.clone_from(&done.path.path);
    step.cause = cause_seq(done.cause);
    if let (Some(size), None) = (done.ret, &done.errno) {
        step.data = Data::Written {
            offset: done.offset,
            size,
            last_seq: done.last_seq.0,
        };
    }
    step
}

fn discard_step(line: u64, done: &Discard) -> Step {
    let mut step = Step::new(done.seq, line, "discard", done.ts_ns, Nanos(0));
    step.ino = Some(done.ino);
    step.path.clone_from(&done.path.path);
    step.cause = cause_seq(done.cause);
    let superseded = done.reason == Reason::Superseded;
    step.data = Data::Dropped {
        offset: done.offset,
        size: done.size,
        superseded,
    };
    step
}

fn cause_seq(cause: Cause) -> Option<u64> {
    match cause {
        Cause::Op(seq) => Some(seq.0),
        Cause::Own(_) => None,
    }
}

fn buffered(did: &CacheDid) -> Option<Buffered> {
    match *did {
        CacheDid::Buffered {
            offset,
            size,
            overwrote,
        } => Some(Buffered {
            offset,
            size,
            overwrote,
        }),
        _ => None,
    }
}
