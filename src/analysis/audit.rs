//! Proves a trace against its laws (`docs/TRACE.md`, "Laws"), in one pass and bounded memory.
//!
//! Memory: a few words for each description and each dirty range that is open at one time, and the
//! events that cannot be put in order yet, at most [`HELD_MAX`]. A breach that missing lines could
//! explain counts only in a complete trace; any other counts always.

mod data;
mod dirty;
mod findings;
mod handles;

use std::sync::Arc;

use self::data::{Buffered, Bytes, Data, Laws};
pub use self::findings::{EVIDENCE_MAX, Evidence, LAWS, LawReport, Report, Verdict};
use self::findings::{Findings, Weight};
use self::handles::{FhUse, Handles};
use super::seqset::SeqSet;
use super::timeline::{Place, Timeline};
use crate::event::{
    CacheDid, Cause, Discard, Event, Footer, Header, Op, OpKind, Reason, Writeback,
};
use crate::types::{Nanos, Seq};

/// Events held until those before them are answered (64 MiB).
const HELD_MAX: usize = 1 << 18;

/// How far back a cause is looked up exactly: whether that `seq` was an operation.
const CAUSE_WINDOW: usize = 1 << 20;

/// One event, as far as the laws that need order ask.
#[derive(Debug)]
struct Step {
    seq: u64,
    line: u64,
    name: &'static str,
    start: u64,
    end: u64,
    ino: Option<u64>,
    path: Option<Arc<str>>,
    fh: Option<(u64, FhUse)>,
    fh_out: Option<u64>,
    data: Data,
    cause: Option<u64>,
    is_op: bool,
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
}

/// An audit under way.
pub struct Audit {
    laws: [Findings; 8],
    header: Option<Header>,
    footer: Option<(u64, Footer)>,
    seqs: SeqSet,
    timeline: Timeline<Step>,
    handles: Handles,
    bytes: Bytes,
    causes: CauseWindow,
    ops: u64,
    events: u64,
    lost: u64,
    resumed: bool,
}

impl Default for Audit {
    fn default() -> Audit {
        Audit {
            laws: Default::default(),
            header: None,
            footer: None,
            seqs: SeqSet::default(),
            timeline: Timeline::new(HELD_MAX),
            handles: Handles::default(),
            bytes: Bytes::default(),
            causes: CauseWindow::new(),
            ops: 0,
            events: 0,
            lost: 0,
            resumed: false,
        }
    }
}

impl Audit {
    /// Takes the event of one line (from 1), in the order of the lines.
    pub fn push(&mut self, line: u64, event: &Event) {
        match event {
            Event::Header(header) => {
                self.header = Some((**header).clone());
                return;
            }
            Event::Footer(footer) => {
                self.footer = Some((line, (**footer).clone()));
                return;
            }
            _ => self.events += 1,
        }
        if let Some(step) = self.step(line, event) {
            self.order(step);
        }
    }

    fn step(&mut self, line: u64, event: &Event) -> Option<Step> {
        let none = Nanos(0);
        Some(match event {
            Event::Op(op) => {
                self.ops += 1;
                self.reads(line, op);
                self.write_is_buffered(line, op);
                self.op_step(line, op)
            }
            Event::Writeback(done) => writeback_step(line, done),
            Event::Discard(done) => discard_step(line, done),
            Event::Evict(done) => Step::new(done.seq, line, "evict", done.ts_ns, none),
            Event::Lost(lost) => {
                self.lost = self.lost.saturating_add(lost.count);
                Step::new(lost.seq, line, "lost", lost.ts_ns, none)
            }
            Event::Resume(resume) => {
                self.resumed = true;
                Step::new(resume.seq, line, "resume", resume.ts_ns, none)
            }
            Event::Header(_) | Event::Footer(_) => return None,
        })
    }

    fn op_step(&self, line: u64, op: &Op) -> Step {
        let mut step = Step::new(op.seq, line, op.op.name(), op.ts_ns, op.dur_ns);
        step.is_op = true;
        step.ino = op.ino.map(|ino| ino.0);
        step.path.clone_from(&op.path);
        step.fh_out = op.fh_out.map(|fh| fh.0);
        step.fh = op.fh.map(|fh| (fh.0, fh_use(op)));
        let buffered: Vec<Buffered> = op.cache.iter().filter_map(buffered).collect();
        let on_close = self
            .header
            .as_ref()
            .is_some_and(|header| header.on_close == "writeback");
        step.data = match op.op {
            _ if !buffered.is_empty() => Data::Buffered(buffered),
            OpKind::Fsync if op.errno.is_none() => Data::Fsync,
            OpKind::Flush if op.errno.is_none() && on_close && !op.unlinked => Data::Flush,
            _ => Data::None,
        };
        step
    }

    fn order(&mut self, step: Step) {
        let (seq, line) = (step.seq, step.line);
        if seq == 0 || !self.seqs.insert(seq) {
            let what = step.name.to_owned();
            self.laws[0].add(Weight::Certain, || Evidence {
                seq: Some(Seq(seq)),
                line,
                what,
                expected: "a seq from 1 that no other line has".to_owned(),
                found: seq.to_string(),
            });
            return;
        }
        match self.timeline.push(seq, step) {
            Place::InOrder => {}
            Place::Late(step) => self.late(&step),
        }
        while let Some(step) = self.timeline.pop() {
            self.take(&step);
        }
    }

    /// Takes a step in the order of arrival.
    fn take(&mut self, step: &Step) {
        self.causes.note(step.seq, step.is_op);
        self.cause(step);
        let (ino, judged) = self.file_of(step);
        self.handles.take(step, &mut self.laws[1]);
        if let Some(ino) = ino.filter(|_| judged) {
            let [_, _, account, fsync, flush, ..] = &mut self.laws;
            self.bytes.take(
                step,
                ino,
                &mut Laws {
                    account,
                    fsync,
                    flush,
                },
            );
        }
    }

    fn late(&mut self, step: &Step) {
        self.causes.note_late(step.seq, step.is_op);
        let (ino, judged) = self.file_of(step);
        self.handles.take_late(step);
        if let Some(ino) = ino.filter(|_| judged) {
            let [_, _, account, fsync, flush, ..] = &mut self.laws;
            self.bytes.take_late(
                step,
                ino,
                &mut Laws {
                    account,
                    fsync,
                    flush,
                },
            );
        }
    }

    /// Whose bytes a step is about, and whether laws 3 to 5 ask for it: what copy_file_range buffered
    /// belongs to the file that `fh_out` is open on, and a flush counts where the file was open for writing.
    fn file_of(&self, step: &Step) -> (Option<u64>, bool) {
        let handle = |fh: u64| self.handles.get(fh);
        let out = step.fh_out.and_then(handle).and_then(|handle| handle.ino);
        let through = step.fh.and_then(|(fh, _)| handle(fh));
        let ino = out.or(step.ino).or(through.and_then(|handle| handle.ino));
        let judged = step.data != Data::Flush || through.is_some_and(|handle| handle.writable);
        (ino, judged)
    }

    /// Law 7.
    fn cause(&mut self, step: &Step) {
        let Some(cause) = step.cause else { return };
        if cause < step.seq && self.causes.is_op(cause, step.seq) {
            return;
        }
        self.laws[6].add(Weight::IfComplete, || Evidence {
            seq: Some(Seq(step.seq)),
            line: step.line,
            what: format!("cause of a {}", step.name),
            expected: "the seq of an earlier operation".to_owned(),
            found: format!("{cause}, which is none"),
        });
    }

    /// Law 6.
    fn reads(&mut self, line: u64, op: &Op) {
        let (OpKind::Read, Some(ret)) = (op.op, op.ret) else {
            return;
        };
        let breach = |what: &str, expected: String, found: String| Evidence {
            seq: Some(op.seq),
            line,
            what: what.to_owned(),
            expected,
            found,
        };
        let end = op.offset.map(|offset| offset.saturating_add(ret));
        if let (Some(end), Some(size)) = (end, op.file_size)
            && ret > 0
            && end > size
        {
            self.laws[5].add(Weight::Certain, || {
                breach(
                    "the end of a read",
                    format!("at most file_size {size}"),
                    end.to_string(),
                )
            });
        }
        let uncached = self
            .header
            .as_ref()
            .is_some_and(|header| header.policy == "off");
        let sum = op.cache.iter().map(read_bytes).fold(0, u64::saturating_add);
        if sum != ret && !(uncached && op.cache.is_empty()) {
            self.laws[5].add(Weight::Certain, || {
                breach(
                    "hit + miss + hole + bypass of a read",
                    format!("ret {ret}"),
                    sum.to_string(),
                )
            });
        }
    }

    /// Of law 3: what a write says it buffered is what it told the application it took.
    fn write_is_buffered(&mut self, line: u64, op: &Op) {
        let (OpKind::Write, Some(ret)) = (op.op, op.ret) else {
            return;
        };
        let taken: Vec<u64> = op.cache.iter().filter_map(taken_bytes).collect();
        let sum = taken.iter().copied().fold(0, u64::saturating_add);
        if !taken.is_empty() && sum != ret {
            self.laws[2].add(Weight::Certain, || Evidence {
                seq: Some(op.seq),
                line,
                what: "buffered + write_through of a write".to_owned(),
                expected: format!("ret {ret}"),
                found: sum.to_string(),
            });
        }
    }

    /// The end of the trace; `damaged` lines could not be read.
    #[must_use]
    pub fn finish(mut self, damaged: u64) -> Report {
        while let Some(step) = self.timeline.drain() {
            self.take(&step);
        }
        let footer = self.footer.take();
        let dirty = footer.as_ref().map(|(_, footer)| footer.dirty_bytes);
        let [_, _, account, fsync, flush, ..] = &mut self.laws;
        std::mem::take(&mut self.bytes).finish(
            dirty,
            &mut Laws {
                account,
                fsync,
                flush,
            },
        );
        self.gaps(footer.as_ref());
        if let Some((line, footer)) = &footer {
            self.footer_law(*line, footer);
        }
        let lost = self
            .lost
            .max(footer.as_ref().map_or(0, |(_, footer)| footer.lost));
        let cut = match damaged {
            0 if footer.is_none() => Some("the trace has no footer".to_owned()),
            0 => None,
            n => Some(format!("{n} lines are damaged")),
        };
        let lossy = (lost > 0).then(|| format!("{lost} events were lost"));
        let filtered = self
            .header
            .as_ref()
            .filter(|header| !header.filters.is_empty());
        let filtered = filtered.map(|header| format!("recorded with {}", header.filters.join(" ")));
        let resumed = self.resumed.then(|| "the server was restarted".to_owned());
        let hidden = cut.clone().or(lossy).or(filtered);
        let laws = self
            .laws
            .into_iter()
            .zip(LAWS)
            .enumerate()
            .map(|(index, (findings, text))| {
                let why = match index + 1 {
                    1 => cut.as_deref().or(resumed.as_deref()),
                    6 => None,
                    8 => footer.is_none().then_some("the trace has no footer"),
                    _ => hidden.as_deref(),
                };
                LawReport {
                    number: index + 1,
                    text,
                    verdict: findings.verdict(why),
                }
            });
        Report {
            events: self.events,
            ops: self.ops,
            laws: laws.collect(),
            incomplete: hidden,
        }
    }

    /// Law 1, but for numbers that come twice.
    fn gaps(&mut self, footer: Option<&(u64, Footer)>) {
        let law = &mut self.laws[0];
        let Some(missing) = self.seqs.missing() else {
            law.doubt("the trace has too many gaps to count");
            return;
        };
        if missing > self.lost {
            let (first, last) = self.seqs.first_gap().unwrap_or_default();
            law.add(Weight::IfComplete, || Evidence {
                seq: Some(Seq(first)),
                line: 0,
                what: "numbers that no line has".to_owned(),
                expected: format!("at most {}, as many as were lost", self.lost),
                found: format!("{missing}, the first from {first} to {last}"),
            });
        }
        let Some((line, footer)) = footer else { return };
        let counts = [
            ("op lines", footer.ops, self.ops),
            (
                "lines between header and footer",
                footer.events,
                self.events,
            ),
            ("events told as lost", footer.lost, self.lost),
        ];
        for (what, said, seen) in counts.into_iter().filter(|(_, said, seen)| said != seen) {
            law.add(Weight::IfComplete, || Evidence {
                seq: None,
                line: *line,
                what: what.to_owned(),
                expected: format!("{said}, as the footer says"),
                found: seen.to_string(),
            });
        }
    }

    /// Law 8.
    fn footer_law(&mut self, line: u64, footer: &Footer) {
        let explained = footer.write_errors > 0 || footer.abandoned;
        if footer.dirty_bytes == 0 || (explained && footer.exit == 3) {
            return;
        }
        self.laws[7].add(Weight::Certain, || Evidence {
            seq: None,
            line,
            what: format!("{} dirty bytes at the end", footer.dirty_bytes),
            expected: "write_errors or abandoned, and exit 3".to_owned(),
            found: format!(
                "{} write errors, abandoned {}, exit {}",
                footer.write_errors, footer.abandoned, footer.exit
            ),
        });
    }
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

/// Of a write: bytes that went somewhere.
fn taken_bytes(did: &CacheDid) -> Option<u64> {
    match did {
        CacheDid::Buffered { size, .. }
        | CacheDid::WriteThrough { size, .. }
        | CacheDid::Bypass { size, .. } => Some(*size),
        _ => None,
    }
}

/// Of a read: bytes that came from somewhere.
fn read_bytes(did: &CacheDid) -> u64 {
    match did {
        CacheDid::Hit { size, .. }
        | CacheDid::Miss { size }
        | CacheDid::Hole { size }
        | CacheDid::Bypass { size, .. } => *size,
        _ => 0,
    }
}

/// Which of the last [`CAUSE_WINDOW`] numbers were operations. One that was passed over counts as an
/// operation: it is one that takes long.
struct CauseWindow {
    other: Vec<bool>,
    next: u64,
}

impl CauseWindow {
    fn new() -> CauseWindow {
        CauseWindow {
            other: vec![false; CAUSE_WINDOW],
            next: 1,
        }
    }

    fn slot(seq: u64) -> usize {
        usize::try_from(seq).unwrap_or(0) % CAUSE_WINDOW
    }

    fn note(&mut self, seq: u64, is_op: bool) {
        let size = u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX);
        if seq.saturating_sub(self.next) >= size {
            self.other.fill(false);
        } else {
            (self.next..seq).for_each(|passed| self.other[Self::slot(passed)] = false);
        }
        self.other[Self::slot(seq)] = !is_op;
        self.next = seq.saturating_add(1);
    }

    fn note_late(&mut self, seq: u64, is_op: bool) {
        if self.next.saturating_sub(seq) < u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX) {
            self.other[Self::slot(seq)] = !is_op;
        }
    }

    /// Whether `cause` was an operation, seen from the later `seq`.
    fn is_op(&self, cause: u64, seq: u64) -> bool {
        let size = u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX);
        cause > 0 && (seq - cause >= size || !self.other[Self::slot(cause)])
    }
}

#[cfg(test)]
mod tests;
