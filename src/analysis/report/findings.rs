//! What stands out: rules over opens and operations, each with its evidence, its cost and a remedy. A rule that
//! has no evidence says nothing.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::figures::Flow;
use super::open::Open;
use crate::event::{Op, OpKind};
use crate::types::{Fh, Pid, Seq};

/// Something that stands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// The file, below SOURCE.
    pub path: String,
    /// What was seen.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// The first operation of the evidence and the last.
    pub seq: [Seq; 2],
}

/// So many calls are many: below, even a careless program costs next to nothing.
const MANY_CALLS: u64 = 100;
/// Below so many bytes on average a call costs more than the bytes it moves (a call takes as long as copying some
/// kilobytes).
const TINY_BYTES: u64 = 512;
/// fsync(2) so often is a habit.
const MANY_SYNCS: u64 = 10;
/// Fewer bytes than this between two fsync(2) could have waited for more.
const SMALL_SYNC_BYTES: u64 = 64 << 10;
/// Opened so often by one process, a file could have stayed open.
const MANY_OPENS: u64 = 20;
/// Read again just after it was written, or written again before it left: below it is noise.
const AGAIN_BYTES: u64 = 64 << 10;
/// So much in a few reads takes as much memory.
const LARGE_READ: u64 = 64 << 20;
/// A file read in so few calls is read as a whole: read(2) for all, and one that finds the end.
const FEW_CALLS: u64 = 4;
/// Findings of one rule at most: more say nothing new.
const FOUND_MAX: usize = 20;
/// Names and files that are remembered.
const KNOWN_MAX: usize = 1 << 16;

/// Errors after which a program should not go on writing.
const FATAL: [&str; 5] = ["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EROFS"];

/// Findings in the making.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// Bytes written and not synced, by inode, and the operations that wrote them.
    unsynced: HashMap<u64, (u64, [Seq; 2])>,
    /// Names that led to a file.
    existing: HashSet<String>,
    opened: HashMap<(Pid, String), (u64, [Seq; 2])>,
    failed: HashMap<Fh, (String, Seq)>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        let same = self.found.iter().filter(|other| other.rule == finding.rule);
        if same.count() < FOUND_MAX {
            self.found.push(finding);
        }
    }

    pub(super) fn op(&mut self, op: &Op) {
        let path = op.path.as_deref().unwrap_or_default();
        match (op.op, op.ret) {
            (OpKind::Lookup | OpKind::Create | OpKind::Open, Some(_)) => {
                if self.existing.len() < KNOWN_MAX && !self.existing.contains(path) {
                    self.existing.insert(path.to_owned());
                }
                if op.op != OpKind::Lookup {
                    self.opened(op, path);
                }
            }
            (OpKind::Unlink, Some(_)) => drop(self.existing.remove(path)),
            (OpKind::Rename, Some(_)) => self.renamed(op, path),
            (OpKind::Write, Some(done)) => self.wrote(op, done),
            (OpKind::Fsync, Some(_)) => {
                if let Some(ino) = op.ino {
                    self.unsynced.remove(&ino.0);
                }
            }
            (OpKind::Write | OpKind::Fsync | OpKind::Flush, None) => self.failed(op),
            _ => {}
        }
    }

    fn opened(&mut self, op: &Op, path: &str) {
        let Some(pid) = op.pid else { return };
        if self.opened.len() >= KNOWN_MAX {
            return;
        }
        let key = (pid, path.to_owned());
        let (count, seq) = self.opened.entry(key).or_insert((0, [op.seq; 2]));
        *count += 1;
        seq[1] = op.seq;
    }

    fn wrote(&mut self, op: &Op, done: u64) {
        let path = op.path.as_deref().unwrap_or_default();
        if let Some(ino) = op.ino.filter(|_| self.unsynced.len() < KNOWN_MAX) {
            let (bytes, seq) = self.unsynced.entry(ino.0).or_insert((0, [op.seq; 2]));
            *bytes += done;
            seq[1] = op.seq;
        }
        let before = op.fh.and_then(|fh| self.failed.remove(&fh));
        if let Some((errno, seq)) = before {
            self.add(Finding {
                rule: "error_ignored",
                path: path.to_owned(),
                what: format!("a write failed with {errno}, and the program went on writing"),
                why: "what failed is missing in the file, and what follows stands behind a gap or not at all".to_owned(),
                remedy: "check the result of each write, flush and close, and stop at the first error".to_owned(),
                seq: [seq, op.seq],
            });
        }
    }

    fn failed(&mut self, op: &Op) {
        let errno = op.errno.as_deref().unwrap_or_default();
        if let Some(fh) = op
            .fh
            .filter(|_| FATAL.contains(&errno) && self.failed.len() < KNOWN_MAX)
        {
            self.failed.insert(fh, (errno.to_owned(), op.seq));
        }
    }

    fn renamed(&mut self, op: &Op, path: &str) {
        let to = op.to.as_deref().unwrap_or_default();
        let unsynced = op.ino.and_then(|ino| self.unsynced.get(&ino.0).copied());
        if let Some((bytes, [first, _])) = unsynced.filter(|_| self.existing.contains(to)) {
            self.add(Finding {
                rule: "renamed_without_sync",
                path: to.to_owned(),
                what: format!("{path} was written ({bytes} bytes) and renamed over it without an fsync"),
                why: "after a power cut the new name may lead to an empty or incomplete file, and the old one is gone".to_owned(),
                remedy: "fsync the new file before the rename, and its directory after it".to_owned(),
                seq: [first, op.seq],
            });
        }
        self.existing.remove(path);
        self.existing.insert(to.to_owned());
    }

    /// An open is over.
    pub(super) fn closed(&mut self, open: &Open) {
        self.failed.remove(&open.fh);
        for rule in RULES {
            if let Some(finding) = rule(open) {
                self.add(finding);
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<Finding> {
        let mut often: Vec<_> = std::mem::take(&mut self.opened)
            .into_iter()
            .filter(|(_, (count, _))| *count >= MANY_OPENS)
            .collect();
        often.sort_by_key(|(_, (_, seq))| *seq);
        for ((pid, path), (count, seq)) in often {
            self.add(Finding {
                rule: "opened_again_and_again",
                path,
                what: format!("process {pid} opened it {count} times"),
                why: "each open looks the path up, checks permissions and makes a new open file description".to_owned(),
                remedy: "open it once and keep it open".to_owned(),
                seq,
            });
        }
        self.found.sort_by_key(|finding| finding.seq);
        self.found
    }
}

/// A rule about one open.
type Rule = fn(&Open) -> Option<Finding>;

const RULES: [Rule; 7] = [
    tiny_writes,
    tiny_reads,
    sync_after_little,
    read_what_it_wrote,
    overwritten_at_once,
    read_at_once,
    left_open,
];

fn tiny_writes(open: &Open) -> Option<Finding> {
    let remedy = "collect them in a buffer and write some kilobytes at a time (open() without buffering=0, stdio, \
                  BufWriter)";
    tiny(
        open,
        "tiny_writes",
        (&open.figures.writes, "writes"),
        remedy,
    )
}

fn tiny_reads(open: &Open) -> Option<Finding> {
    let remedy = "read some kilobytes at a time through a buffer";
    tiny(open, "tiny_reads", (&open.figures.reads, "reads"), remedy)
}

fn tiny(
    open: &Open,
    rule: &'static str,
    (flow, name): (&Flow, &str),
    remedy: &str,
) -> Option<Finding> {
    let in_a_row = flow.consecutive * 10 >= flow.calls * 9;
    if flow.calls < MANY_CALLS || flow.mean() >= TINY_BYTES || !in_a_row {
        return None;
    }
    let (calls, mean) = (flow.calls, flow.mean());
    let ms = open.figures.time.sum().0 / 1_000_000;
    let why = format!(
        "each is a system call, which costs more than the bytes it moves; this open took {ms} ms in all"
    );
    let what = format!("{calls} {name} of {mean} bytes on average, one behind the other");
    Some(of(open, rule, what, &why, remedy))
}

fn sync_after_little(open: &Open) -> Option<Finding> {
    let figures = &open.figures;
    let mean = figures.writes.bytes.checked_div(figures.fsyncs)?;
    if figures.fsyncs < MANY_SYNCS || mean >= SMALL_SYNC_BYTES {
        return None;
    }
    let what = format!(
        "{} fsyncs, one for each {mean} bytes written",
        figures.fsyncs
    );
    let why = "each waits until the disk has the bytes";
    let remedy = "sync once for a group of changes";
    Some(of(open, "sync_after_little", what, why, remedy))
}

fn read_what_it_wrote(open: &Open) -> Option<Finding> {
    let (again, written) = (open.figures.cache.hit_dirty, open.figures.writes.bytes);
    if again < AGAIN_BYTES || written == 0 || again * 2 < written {
        return None;
    }
    let what = format!("{again} of the bytes it read it had just written itself");
    let why = "the program has them already";
    let remedy = "keep what was written, or read it only when somebody else may have changed it";
    Some(of(open, "read_what_it_wrote", what, why, remedy))
}

fn overwritten_at_once(open: &Open) -> Option<Finding> {
    let cache = &open.figures.cache;
    if cache.overwrote < AGAIN_BYTES || cache.overwrote * 2 < cache.buffered {
        return None;
    }
    let (again, all) = (cache.overwrote, cache.buffered);
    let what = format!("{again} of {all} bytes were written again before they left the buffer");
    let why = "only the last version of them matters";
    let remedy = "write each part once, when it is complete";
    Some(of(open, "overwritten_at_once", what, why, remedy))
}

fn read_at_once(open: &Open) -> Option<Finding> {
    let reads = &open.figures.reads;
    if reads.bytes < LARGE_READ || reads.calls > FEW_CALLS {
        return None;
    }
    let what = format!("{} bytes were read in {} calls", reads.bytes, reads.calls);
    let why = "all of it is in the program's memory at one time";
    let remedy =
        "read and work in chunks, or iterate over lines, where the whole is not needed at once";
    Some(of(open, "read_at_once", what, why, remedy))
}

fn left_open(open: &Open) -> Option<Finding> {
    let left = matches!(open.closed_by.as_deref(), Some("exit_group" | "exit"));
    if !left || open.figures.writes.bytes == 0 {
        return None;
    }
    let what = "it was written to and never closed: the end of the process closed it".to_owned();
    let why = "an error that only close(2) tells is lost, and what a buffer of the program still held was never written";
    let remedy = "close it (with, RAII, fclose), and check the result";
    Some(of(open, "left_open", what, why, remedy))
}

fn of(open: &Open, rule: &'static str, what: String, why: &str, remedy: &str) -> Finding {
    Finding {
        rule,
        path: open.path.clone(),
        what,
        why: why.to_owned(),
        remedy: remedy.to_owned(),
        seq: open.seq,
    }
}
