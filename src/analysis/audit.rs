//! Proves a trace against its laws (`docs/TRACE.md`, "Laws"), in one pass and bounded memory.
//!
//! Memory: a few words for each description and each dirty range that is open at one time, and the
//! events that cannot be put in order yet, at most [`HELD_MAX`]. A breach that missing lines could
//! explain counts only in a complete trace; any other counts always.

mod causes;
mod data;
mod dirty;
mod findings;
mod handles;
mod single;
mod step;

use self::causes::CauseWindow;
use self::data::{Bytes, Data, Laws};
pub use self::findings::{EVIDENCE_MAX, Evidence, LAWS, LawReport, Report, Verdict};
use self::findings::{Findings, Weight};
use self::handles::Handles;
use self::single::Policy;
use self::step::{OnClose, Step};
use super::seqset::SeqSet;
use super::timeline::{Place, Timeline};
use crate::event::{Event, Footer, Header};
use crate::types::Seq;

/// Events held until those before them are answered (64 MiB).
const HELD_MAX: usize = 1 << 18;

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
            Event::Header(header) => self.header = Some((**header).clone()),
            Event::Footer(footer) => self.footer = Some((line, (**footer).clone())),
            Event::Op(op) => {
                self.ops += 1;
                let [_, _, account, _, _, read, ..] = &mut self.laws;
                single::writes(line, op, account);
                let off = self
                    .header
                    .as_ref()
                    .is_some_and(|header| header.policy == "off");
                let policy = if off { Policy::Off } else { Policy::Buffered };
                single::reads(line, op, policy, read);
            }
            Event::Lost(lost) => self.lost = self.lost.saturating_add(lost.count),
            Event::Resume(_) => self.resumed = true,
            Event::Writeback(_) | Event::Evict(_) | Event::Discard(_) => {}
        }
        let keeps = self
            .header
            .as_ref()
            .is_none_or(|header| header.on_close != "writeback");
        let on_close = if keeps {
            OnClose::Keep
        } else {
            OnClose::Writeback
        };
        if let Some(step) = Step::of(line, event, on_close) {
            self.events += 1;
            self.order(step);
        }
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

#[cfg(test)]
mod tests;
