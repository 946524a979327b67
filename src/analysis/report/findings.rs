//! What stands out: rules over opens, files and processes, each with its evidence, its cost and a remedy. A rule that
//! has no evidence says nothing.

mod files;
mod opens;

use serde::Serialize;

use super::durable::Durability;
use super::open::{Moment, Open};
use crate::event::Op;
use crate::types::{Fh, Nanos, Pid, Seq};
use files::Files;

/// Something that stands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// Where it was seen.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// Where something was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The file, below SOURCE.
    pub path: String,
    /// The process, and the name of its thread, where known.
    pub pid: Option<Pid>,
    /// Its name.
    pub comm: Option<String>,
    /// The open file description, if it is about one.
    pub fh: Option<Fh>,
    /// The descriptors used on that.
    pub fds: Vec<i32>,
    /// Calls that show it.
    pub calls: u64,
    /// Time spent in them, nanoseconds.
    pub cost_ns: u64,
    /// The first operation of the evidence and the last.
    pub seq: [Seq; 2],
}

impl Evidence {
    fn op(op: &Op) -> Evidence {
        Evidence {
            path: op.path.as_deref().unwrap_or("?").to_owned(),
            pid: op.pid,
            comm: op.comm.as_deref().map(str::to_owned),
            fh: op.fh,
            fds: op.fd.into_iter().collect(),
            calls: 1,
            cost_ns: op.dur_ns.0,
            seq: [op.seq; 2],
        }
    }

    fn open(open: &Open, calls: u64, cost: Nanos) -> Evidence {
        Evidence {
            path: open.path.clone(),
            pid: open.pid.map(Pid),
            comm: open.comm.clone(),
            fh: Some(open.fh),
            fds: open.fds.clone(),
            calls,
            cost_ns: cost.0,
            seq: open.seq,
        }
    }

    /// One more operation that shows the same.
    fn and(&mut self, op: &Op) {
        self.calls += 1;
        self.cost_ns = self.cost_ns.saturating_add(op.dur_ns.0);
        self.seq = [self.seq[0].min(op.seq), self.seq[1].max(op.seq)];
    }

    fn finding(self, rule: &'static str, what: String, why: &str, remedy: &str) -> Finding {
        Finding {
            rule,
            what,
            why: why.to_owned(),
            remedy: remedy.to_owned(),
            evidence: self,
        }
    }
}

/// Findings of one rule at most: more say nothing new.
const FOUND_MAX: usize = 20;

/// Findings, and what is worth a note although nothing is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    notes: Vec<Finding>,
    files: Files,
    /// Closed with bytes that were not synced, after others were: only so if nobody syncs them later.
    tails: Vec<(u64, Finding)>,
    leaks: opens::Leaks,
}

fn add(list: &mut Vec<Finding>, finding: Finding) {
    let same = list.iter().filter(|other| other.rule == finding.rule);
    if same.count() < FOUND_MAX {
        list.push(finding);
    }
}

impl Findings {
    /// Takes an operation in, before `durable` does.
    pub(super) fn op(&mut self, op: &Op, durable: &Durability) {
        let found = &mut self.found;
        self.files
            .op(op, durable, &mut |finding| add(found, finding));
    }

    /// How far the process behind an operation is.
    pub(super) fn moment(&self, op: &Op) -> Moment {
        self.files.moment(op)
    }

    /// An open is over.
    pub(super) fn closed(&mut self, open: &Open) {
        self.files.closed(open.fh);
        for finding in opens::findings(open) {
            add(&mut self.found, finding);
        }
        for note in opens::notes(open) {
            add(&mut self.notes, note);
        }
        if let Some(tail) = opens::unsynced_tail(open)
            && self.tails.len() < FOUND_MAX
        {
            self.tails.push(tail);
        }
        self.leaks.closed(open);
    }

    /// Findings and notes, in the order of their evidence.
    pub(super) fn finish(mut self, durable: &Durability) -> (Vec<Finding>, Vec<Finding>) {
        let late = self.tails.into_iter().filter_map(|(ino, finding)| {
            durable.unsynced(ino)?;
            Some(finding)
        });
        for finding in late.chain(self.files.finish()).chain(self.leaks.finish()) {
            add(&mut self.found, finding);
        }
        self.found.sort_by_key(|finding| finding.evidence.seq);
        self.notes.sort_by_key(|note| note.evidence.seq);
        (self.found, self.notes)
    }
}
