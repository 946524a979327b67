//! What a program did with its files: figures for all, for each file, open and process, and findings.
//!
//! One pass, bounded memory: so many files, opens and processes are told apart; what comes beyond counts only
//! in the totals, and how much that was is told.

mod buffers;
mod call;
mod durable;
mod figures;
mod findings;
mod latency;
mod open;
mod order;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

use serde::Serialize;

pub use figures::{Cache, Figures, Flow, SIZE_CLASSES, Sizes};
pub use findings::{Evidence, Finding};
pub use latency::Latency;
pub use open::Open;
pub use order::Order;

use super::add;
use super::timeline::{Place, Timeline};
use crate::event::{Event, Footer, Header, Op, OpKind};
use crate::types::{Fh, Pid};
use call::Call;
use durable::Durability;
use findings::Findings;
use open::Moment;

/// Files, and as many processes and opens, that are told apart at most: up to 3 KiB each.
const GROUPS_MAX: usize = 8192;

/// Events that are held until those before them have come (some 10 MiB).
const HELD_MAX: usize = 8192;

/// What a trace says of its program.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// All operations together, and how the trace ended.
    pub summary: Summary,
    /// What stands out, with its evidence; empty for a program that does nothing unwise.
    pub findings: Vec<Finding>,
    /// What is worth to know although nothing is wrong with it.
    pub notes: Vec<Finding>,
    /// Files, most bytes first.
    pub files: Vec<File>,
    /// Opens, most bytes first.
    pub opens: Vec<Open>,
    /// Processes, most bytes first.
    pub processes: Vec<Process>,
}

/// All operations together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The program and its arguments, of a trace of `run`.
    pub cmd: Option<Vec<String>>,
    /// Time from the first to the last operation, nanoseconds.
    pub elapsed_ns: u64,
    /// Whether the trace has its end.
    pub complete: bool,
    /// Events that could not be recorded.
    pub lost: u64,
    /// Bytes that never reached SOURCE.
    pub dirty_bytes: u64,
    /// Files, opens and processes beyond those that are told apart.
    pub beyond: u64,
    /// The figures.
    pub figures: Figures,
}

/// One file, by its path.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Below SOURCE.
    pub path: String,
    /// The figures.
    pub figures: Figures,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as last seen.
    pub comm: String,
    /// The figures.
    pub figures: Figures,
}

/// A report in the making.
#[derive(Debug)]
pub struct Reporter {
    timeline: Timeline<Event>,
    header: Option<Header>,
    footer: Option<Footer>,
    span: Option<(u64, u64)>,
    lost: u64,
    beyond: u64,
    total: Figures,
    files: HashMap<String, Figures>,
    processes: HashMap<Pid, (String, Figures)>,
    open: HashMap<Fh, Open>,
    closed: Vec<Open>,
    durable: Durability,
    findings: Findings,
}

impl Default for Reporter {
    fn default() -> Self {
        Reporter {
            timeline: Timeline::new(HELD_MAX),
            header: None,
            footer: None,
            span: None,
            lost: 0,
            beyond: 0,
            total: Figures::default(),
            files: HashMap::new(),
            processes: HashMap::new(),
            open: HashMap::new(),
            closed: Vec::new(),
            durable: Durability::default(),
            findings: Findings::default(),
        }
    }
}

/// The entry of `key`, unless there are too many.
fn group<K: Eq + Hash, V: Default>(groups: &mut HashMap<K, V>, key: K) -> Option<&mut V> {
    if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
        return None;
    }
    Some(groups.entry(key).or_default())
}

impl Reporter {
    /// Takes one event in, in the order of the lines.
    pub fn push(&mut self, event: Event) {
        let seq = match &event {
            Event::Op(op) => op.seq,
            Event::Writeback(done) => done.seq,
            Event::Discard(gone) => gone.seq,
            Event::Evict(gone) => gone.seq,
            Event::Lost(lost) => lost.seq,
            Event::Resume(resume) => resume.seq,
            Event::Header(_) | Event::Footer(_) => return self.fold(&event),
        };
        if let Place::Late(late) = self.timeline.push(seq.0, event) {
            self.fold(&late);
        }
        while let Some(next) = self.timeline.pop() {
            self.fold(&next);
        }
    }

    /// Takes one event in, in the order in which they began.
    fn fold(&mut self, event: &Event) {
        match event {
            Event::Header(header) => self.header = Some((**header).clone()),
            Event::Footer(footer) => self.footer = Some((**footer).clone()),
            Event::Lost(lost) => add(&mut self.lost, lost.count),
            Event::Op(op) => self.op(op),
            Event::Writeback(done) => {
                self.durable.wrote_back(done);
                self.total.cache.wrote_back(done);
                if let Some(figures) = self.file(done.path.path.as_deref()) {
                    figures.cache.wrote_back(done);
                }
            }
            Event::Discard(gone) => {
                add(&mut self.total.cache.discarded, gone.size);
                if let Some(figures) = self.file(gone.path.path.as_deref()) {
                    add(&mut figures.cache.discarded, gone.size);
                }
            }
            Event::Evict(_) | Event::Resume(_) => {}
        }
    }

    fn file(&mut self, path: Option<&str>) -> Option<&mut Figures> {
        self.files.get_mut(path.unwrap_or_default())
    }

    fn op(&mut self, op: &Op) {
        let end = op.ts_ns.0.saturating_add(op.dur_ns.0);
        let (first, last) = self.span.unwrap_or((op.ts_ns.0, end));
        self.span = Some((first.min(op.ts_ns.0), last.max(end)));
        if let (OpKind::Open | OpKind::Create, Some(fh)) = (op.op, op.fh) {
            match self.open.len() < GROUPS_MAX {
                true => drop(self.open.insert(fh, Open::new(fh, op))),
                false => self.beyond += 1,
            }
        }
        let call = Call::of(op, op.fh.and_then(|fh| self.open.get(&fh)));
        self.count(op, call);
        self.findings.op(op, &self.durable);
        if let Some(age) = self.durable.op(op) {
            self.total.cache.to_sync.add(age);
            if let Some(figures) = self.file(op.path.as_deref()) {
                figures.cache.to_sync.add(age);
            }
        }
        let moment = self.findings.moment(op);
        self.count_open(op, call, moment);
    }

    fn count_open(&mut self, op: &Op, call: Option<Call>, moment: Moment) {
        let Some(fh) = op.fh else { return };
        if let Some(open) = self.open.get_mut(&fh) {
            count(&mut open.figures, op, call);
            open.op(op, call.map(|call| call.size), moment);
        }
        if op.op == OpKind::Release
            && let Some(open) = self.open.remove(&fh)
        {
            self.close(open);
        }
    }

    fn count(&mut self, op: &Op, call: Option<Call>) {
        count(&mut self.total, op, call);
        if let Some(path) = op.path.as_deref().filter(|_| is_about_a_file(op.op)) {
            match self.files.get_mut(path) {
                Some(figures) => count(figures, op, call),
                None => match group(&mut self.files, path.to_owned()) {
                    Some(figures) => count(figures, op, call),
                    None => self.beyond += 1,
                },
            }
        }
        if let Some(pid) = op.pid {
            match group(&mut self.processes, pid) {
                Some((comm, figures)) => {
                    if let Some(now) = op.comm.as_deref().filter(|now| *now != comm) {
                        now.clone_into(comm);
                    }
                    count(figures, op, call);
                }
                None => self.beyond += 1,
            }
        }
    }

    fn close(&mut self, mut open: Open) {
        open.end();
        self.total.rw_switches += open.figures.rw_switches;
        if let Some(figures) = self.files.get_mut(&open.path) {
            figures.rw_switches += open.figures.rw_switches;
        }
        if let Some((_, figures)) = open.pid.and_then(|pid| self.processes.get_mut(&Pid(pid))) {
            figures.rw_switches += open.figures.rw_switches;
        }
        self.findings.closed(&open);
        self.closed.push(open);
        if self.closed.len() > 2 * GROUPS_MAX {
            self.keep_largest();
        }
    }

    /// Of the opens that are over, the largest stay.
    fn keep_largest(&mut self) {
        self.closed
            .sort_by_key(|open| (Reverse(open.figures.bytes()), open.fh));
        let most = self.closed.len().min(GROUPS_MAX);
        self.beyond += (self.closed.len() - most) as u64;
        self.closed.truncate(most);
    }

    /// What follows from all events together.
    fn conclude(&mut self) {
        for (path, bytes) in self.durable.never_synced() {
            add(&mut self.total.unsynced_bytes, bytes);
            if let Some(figures) = self.files.get_mut(path) {
                add(&mut figures.unsynced_bytes, bytes);
            }
        }
        self.total.conclude();
        self.files.values_mut().for_each(Figures::conclude);
        self.total.cache.peak_dirty = self.durable.peak_dirty;
    }

    /// The report.
    #[must_use]
    pub fn finish(mut self) -> Report {
        while let Some(next) = self.timeline.drain() {
            self.fold(&next);
        }
        let mut left: Vec<Open> = std::mem::take(&mut self.open).into_values().collect();
        left.sort_by_key(|open| open.fh);
        left.into_iter().for_each(|open| self.close(open));
        self.keep_largest();
        self.conclude();
        let (findings, notes) = self.findings.finish(&self.durable);
        let used = |figures: &Figures| {
            figures.opens > 0 || figures.bytes() > 0 || !figures.errors.is_empty()
        };
        let files = self.files.into_iter().filter(|(_, figures)| used(figures));
        let mut files: Vec<File> = files
            .map(|(path, figures)| File { path, figures })
            .collect();
        files.sort_by(|a, b| {
            let size = b.figures.bytes().cmp(&a.figures.bytes());
            size.then_with(|| a.path.cmp(&b.path))
        });
        let processes = self
            .processes
            .into_iter()
            .filter(|(_, (_, figures))| used(figures));
        let mut processes: Vec<Process> = processes
            .map(|(pid, (comm, figures))| Process {
                pid: pid.0,
                comm,
                figures,
            })
            .collect();
        processes.sort_by_key(|process| (Reverse(process.figures.bytes()), process.pid));
        let (first, last) = self.span.unwrap_or_default();
        Report {
            summary: Summary {
                cmd: self.header.and_then(|header| header.cmd),
                elapsed_ns: last.saturating_sub(first),
                complete: self.footer.is_some(),
                lost: self
                    .footer
                    .as_ref()
                    .map_or(self.lost, |footer| footer.lost.max(self.lost)),
                dirty_bytes: self.footer.map_or(0, |footer| footer.dirty_bytes),
                beyond: self.beyond,
                figures: self.total,
            },
            findings,
            notes,
            files,
            opens: self.closed,
            processes,
        }
    }
}

fn count(figures: &mut Figures, op: &Op, call: Option<Call>) {
    figures.op(op);
    if let Some(call) = call {
        figures.flow(op.op).call(op, call.size, call.before);
    }
}

fn is_about_a_file(kind: OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Opendir | OpKind::Readdir | OpKind::Releasedir | OpKind::Fsyncdir | OpKind::Statfs
    )
}

#[cfg(test)]
mod tests;
