//! The writer thread: fetches, orders, formats, hands on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::buffer::Buffer;
use super::output::{LineKind, Output};
use super::recorder::{Config, Pace, STALL, Shared, Summary};
use super::{Formatter, Sink};
use crate::event::{Event, Footer, Lost};
use crate::types::Nanos;

/// Bytes that a trace with a limit keeps free for its last `lost` line and its footer.
const LIMIT_RESERVE: u64 = 2048;

pub(super) struct Writer {
    shared: Arc<Shared>,
    output: Output,
    format: Formatter,
    live: Option<Live>,
    pace: Pace,
    limit: Option<u64>,
    batch: Vec<Event>,
    spare: Vec<Event>,
    /// Of `Shared::lost`, how many a `lost` line in the trace (or on its way) tells of.
    told: u64,
    line: Vec<u8>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, config: Config) -> Writer {
        let mut format = config.format;
        let mut header = Vec::new();
        format(&Event::Header(Box::new(config.header)), &mut header);
        Writer {
            output: Output::new(config.sink, header, Arc::clone(&shared)),
            shared,
            format,
            live: config.live.map(Live::new),
            pace: config.pace,
            limit: config.limit,
            batch: Vec::new(),
            spare: Vec::new(),
            told: 0,
            line: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Summary {
        self.output.flush();
        loop {
            // Read before fetching: what was recorded before finish() is then in this batch.
            let closing = self.shared.closing.load(Ordering::Acquire);
            let busy = self.fetch();
            self.write_batch();
            if closing {
                return self.close();
            }
            self.pause(busy);
        }
    }

    /// Fetches every thread's events, in the order of their answers; says whether there were any.
    fn fetch(&mut self) -> bool {
        self.shared.touch();
        let mut buffers = self
            .shared
            .buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for buffer in buffers.iter() {
            buffer.fetch(&mut self.batch, &mut self.spare);
        }
        // Threads come and go; a buffer that only this list knows belonged to one that is gone.
        buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !Buffer::is_empty(buffer));
        drop(buffers);
        self.batch.sort_by_key(answered);
        !self.batch.is_empty()
    }

    fn write_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.tell_lost();
        }
        for event in batch.drain(..) {
            if let (Some(live), Event::Op(_)) = (&mut self.live, &event) {
                live.add(&event);
            }
            self.add(&event);
        }
        self.batch = batch;
        self.output.flush();
        if let Some(live) = &mut self.live {
            live.flush();
        }
    }

    fn add(&mut self, event: &Event) {
        if self.shared.stopped.load(Ordering::Relaxed) {
            self.output.lose(1);
            return;
        }
        self.line.clear();
        (self.format)(event, &mut self.line);
        let length = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        let end = self.output.bytes().saturating_add(length);
        if self
            .limit
            .is_some_and(|limit| end > limit.saturating_sub(LIMIT_RESERVE))
        {
            self.shared.stopped.store(true, Ordering::Relaxed);
            self.output.lose(1);
            log::error!(
                "the trace has reached --trace-limit: what follows is counted, not recorded"
            );
            return;
        }
        let kind = match event {
            Event::Op(_) => LineKind::Op,
            _ => LineKind::Other,
        };
        self.output.add(&self.line, kind);
    }

    /// Puts a `lost` line before what comes next, if anything was lost since the last one.
    fn tell_lost(&mut self) {
        self.told -= self.output.take_untold();
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let count = lost.saturating_sub(self.told);
        let stopped = self.shared.stopped.load(Ordering::Relaxed);
        let closing = self.shared.closing.load(Ordering::Relaxed);
        if count == 0 || !self.output.may_write() || (stopped && !closing) {
            return;
        }
        self.told = lost;
        let event = Event::Lost(Lost {
            seq: self.shared.next_seq(),
            ts_ns: self.shared.now(),
            count,
        });
        self.line.clear();
        (self.format)(&event, &mut self.line);
        self.output.add(&self.line, LineKind::Lost(count));
    }

    fn pause(&self, busy: bool) {
        if !busy {
            self.shared.asleep.store(true, Ordering::Relaxed);
            // Looked at after `asleep` was set: each buffer's lock orders this look and the next push,
            // so that an event is either seen here or sees `asleep`.
            while self.shared.asleep.load(Ordering::Relaxed)
                && !self.shared.closing.load(Ordering::Acquire)
                && self.shared.all_empty()
            {
                thread::park();
            }
            self.shared.asleep.store(false, Ordering::Relaxed);
        }
        if !self.shared.closing.load(Ordering::Acquire) {
            thread::park_timeout(self.pace.interval());
        }
    }

    fn close(mut self) -> Summary {
        self.output.last_chance();
        self.tell_lost();
        self.output.flush();
        let facts = *self
            .shared
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.shared.stopped.store(true, Ordering::Relaxed);
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let (ops, events) = self.output.counts();
        let mut summary = Summary {
            ops,
            events,
            lost,
            bytes: 0,
            footer: false,
        };
        if let Some(facts) = facts {
            let footer = Event::Footer(Box::new(Footer {
                ops,
                events,
                lost,
                dirty_bytes: facts.dirty_bytes,
                write_errors: facts.write_errors,
                abandoned: facts.abandoned,
                end_ns: self.shared.now(),
                exit: facts.exit,
                cmd_exit: facts.cmd_exit,
            }));
            self.line.clear();
            (self.format)(&footer, &mut self.line);
            self.output.add(&self.line, LineKind::Footer);
            self.output.flush();
            summary.footer = self.output.all_written();
        }
        summary.bytes = self.output.bytes();
        summary
    }
}

/// When the event was over.
fn answered(event: &Event) -> Nanos {
    let end = |start: Nanos, span: Nanos| Nanos(start.0.saturating_add(span.0));
    match event {
        Event::Header(_) => Nanos(0),
        Event::Op(op) => end(op.ts_ns, op.dur_ns),
        Event::Writeback(done) => end(done.ts_ns, done.dur_ns),
        Event::Evict(done) => done.ts_ns,
        Event::Discard(done) => done.ts_ns,
        Event::Lost(lost) => lost.ts_ns,
        Event::Resume(resume) => resume.ts_ns,
        Event::Footer(_) => Nanos(u64::MAX),
    }
}

/// Lines for somebody who watches: best effort.
struct Live {
    sink: Box<dyn Sink>,
    format: Formatter,
    text: Vec<u8>,
    /// Nobody read for [`STALL`]: lines are dropped until somebody does.
    stalled: bool,
}

impl Live {
    fn new((sink, format): (Box<dyn Sink>, Formatter)) -> Live {
        Live {
            sink,
            format,
            text: Vec::new(),
            stalled: false,
        }
    }

    fn add(&mut self, event: &Event) {
        (self.format)(event, &mut self.text);
        if self.text.len() >= super::TEXT_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut rest = self.text.as_slice();
        while !rest.is_empty() {
            let patience = if self.stalled { Duration::ZERO } else { STALL };
            match self.sink.write(rest, patience) {
                Ok(0) => {
                    self.stalled = true;
                    break;
                }
                Ok(n) => {
                    self.stalled = false;
                    rest = &rest[n..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.text.clear();
    }
}
