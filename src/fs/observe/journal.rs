//! The buffers' journal: their writebacks, discards and evictions as events of the trace.

use std::sync::Arc;

use super::Observer;
use crate::buffer::{Issued, Journal, Subject, WroteBack};
use crate::event::{Cause, Discard, Event, Evict, Reason, Writeback};
use crate::trace::Recorder;
use crate::types::{ByteRange, Nanos};

impl Observer {
    /// Who records what the buffers do to this file, if anybody does.
    fn recorder_of(&self, subject: &dyn Subject) -> Option<&Arc<Recorder>> {
        let recorder = self.recorder.as_ref()?;
        let wanted = recorder.wants_unasked(|| subject.path().bytes());
        wanted.then_some(recorder)
    }
}

impl Journal for Observer {
    fn now(&self) -> Nanos {
        Observer::now(self)
    }

    fn issue(&self, subject: &dyn Subject) -> Option<Issued> {
        let recorder = self.recorder_of(subject)?;
        Some(Issued {
            at: recorder.now(),
            seq: recorder.next_seq(),
        })
    }

    fn wrote_back(&self, subject: &dyn Subject, issued: Issued, done: &WroteBack<'_>) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let run = done.run;
        recorder.record(Event::Writeback(Box::new(Writeback {
            seq: issued.seq,
            ts_ns: issued.at,
            dur_ns: recorder.now().since(issued.at),
            ino: subject.ino().0,
            path: subject.path(),
            offset: done.range.start,
            size: done.range.len(),
            ret: done.error.is_none().then_some(done.range.len()),
            errno: done.error.map(|errno| errno.name().into()),
            blocks: run.blocks,
            reason: done.reason,
            cause: done.cause,
            writes: run.writes,
            first_seq: run.first,
            last_seq: run.last,
            age_ns: issued.at.since(run.since),
            conflict: done.conflict,
        })));
    }

    fn discarded(&self, subject: &dyn Subject, range: ByteRange, reason: Reason, cause: Cause) {
        let Some(recorder) = self.recorder_of(subject) else {
            return;
        };
        recorder.record(Event::Discard(Box::new(Discard {
            ts_ns: recorder.now(),
            seq: recorder.next_seq(),
            ino: subject.ino().0,
            path: subject.path(),
            offset: range.start,
            size: range.len(),
            reason,
            cause,
        })));
    }

    fn evicted(&self, subject: &dyn Subject, blocks: u64, reason: Reason) {
        let Some(recorder) = self.recorder_of(subject) else {
            return;
        };
        recorder.record(Event::Evict(Box::new(Evict {
            ts_ns: recorder.now(),
            seq: recorder.next_seq(),
            ino: subject.ino().0,
            path: subject.path(),
            blocks,
            reason,
        })));
    }
}
