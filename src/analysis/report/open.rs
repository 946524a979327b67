//! One open file description.

use serde::Serialize;

use super::buffers::SizeTally;
use super::figures::Figures;
use crate::analysis::add;
use crate::event::{Op, OpKind};
use crate::types::{Fh, Ino, Nanos, Seq};

/// One open file description, from its open to its release.
#[derive(Clone, Debug, Serialize)]
pub struct Open {
    /// Its number in the trace.
    pub fh: Fh,
    /// The path it was opened by, below SOURCE.
    pub path: String,
    /// Who opened it; absent where unknown.
    pub pid: Option<u32>,
    /// The name of the thread that opened it.
    pub comm: Option<String>,
    /// The descriptors that were used on it, in order of their first use; the first few.
    pub fds: Vec<i32>,
    /// The flags of the open.
    pub flags: Vec<String>,
    /// The first operation and the last.
    pub seq: [Seq; 2],
    /// How it was closed: the system call of the last close; absent where unknown or not closed.
    pub closed_by: Option<String>,
    /// Bytes written since the last fsync(2), or all.
    pub unsynced_bytes: u64,
    /// Its figures.
    pub figures: Figures,
    /// What only findings need.
    #[serde(skip)]
    pub(super) traits: Traits,
}

/// What findings are made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Traits {
    pub(super) ino: Option<Ino>,
    /// Where the last read, and the last write, ended.
    ends: [Option<u64>; 2],
    last: Option<OpKind>,
    /// Largest size of the file that a read has seen.
    pub(super) file_size: u64,
    /// Sizes of calls: reads, writes.
    pub(super) sizes: [SizeTally; 2],
    /// Where the last read left the position.
    read_to: Option<u64>,
    /// Appends that went elsewhere than where a read had left the position, or than their offset says.
    pub(super) append_jumps: u64,
    /// What is left of a call that is under way.
    left: u64,
    short: [Option<Short>; 2],
    /// Short transfers that the program did not go on with: reads, writes.
    pub(super) ignored: [u64; 2],
    /// How far its process was at the last transfer, and at the last close.
    pub(super) used: Moment,
    pub(super) closed: Moment,
    opened: Nanos,
}

/// A call that did less than it was asked for.
#[derive(Clone, Copy, Debug)]
struct Short {
    next: u64,
    left: u64,
}

/// How far a process was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    pub(super) at: Nanos,
    /// Files that it had opened until then.
    pub(super) opens: u64,
    /// Operations that it had made.
    pub(super) ops: u64,
}

/// Descriptors that are remembered of one open.
const FDS_MAX: usize = 8;

impl Open {
    pub(super) fn new(fh: Fh, op: &Op) -> Open {
        Open {
            fh,
            path: op.path.as_deref().unwrap_or("?").to_owned(),
            pid: op.pid.map(|pid| pid.0),
            comm: op.comm.as_deref().map(str::to_owned),
            fds: Vec::new(),
            flags: op.flags.iter().map(ToString::to_string).collect(),
            seq: [op.seq; 2],
            closed_by: None,
            unsynced_bytes: 0,
            figures: Figures::default(),
            traits: Traits {
                ino: op.ino,
                opened: op.ts_ns,
                ..Traits::default()
            },
        }
    }

    /// Whether it was opened with this flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// Whether the end of its process closed it.
    #[must_use]
    pub fn is_left(&self) -> bool {
        matches!(self.closed_by.as_deref(), Some("exit_group" | "exit"))
    }

    /// For how long it had not been used when it was closed, and for how long it had been.
    pub(super) fn idle_and_busy(&self) -> (Nanos, Nanos) {
        let traits = &self.traits;
        (
            traits.closed.at.since(traits.used.at),
            traits.used.at.since(traits.opened),
        )
    }

    /// Where the last read, or the last write, ended.
    pub(super) fn end_of_last(&self, kind: OpKind) -> Option<u64> {
        self.traits.ends[direction(kind)]
    }

    /// Takes an operation on it in, made when its process was at `moment`.
    pub(super) fn op(&mut self, op: &Op, first_size: Option<u64>, moment: Moment) {
        self.seq[1] = self.seq[1].max(op.seq);
        if let Some(fd) = op.fd.filter(|fd| !self.fds.contains(fd))
            && self.fds.len() < FDS_MAX
        {
            self.fds.push(fd);
        }
        match (op.op, op.ret) {
            (OpKind::Read | OpKind::Write, done) if !op.mapped && !op.page_cache => {
                self.moved(op, done, first_size);
                self.traits.used = moment;
            }
            (OpKind::Flush, _) => {
                self.closed_by = op.syscall.as_deref().map(str::to_owned);
                self.traits.closed = moment;
            }
            _ => {}
        }
        match (op.op, op.ret) {
            (OpKind::Write, Some(done)) => add(&mut self.unsynced_bytes, done),
            (OpKind::Fsync, Some(_)) => self.unsynced_bytes = 0,
            _ => {}
        }
    }

    fn moved(&mut self, op: &Op, done: Option<u64>, first_size: Option<u64>) {
        let appends = op.op == OpKind::Write && self.has("O_APPEND");
        let traits = &mut self.traits;
        let way = direction(op.op);
        let offset = op.offset.unwrap_or(0);
        if let Some(size) = first_size {
            // What a read finds at the end of a file says nothing of its buffer.
            if op.op == OpKind::Write || done == Some(size) {
                traits.sizes[way].add(size);
            }
            traits.left = size;
        }
        if traits.last.is_some_and(|last| last != op.op) {
            self.figures.rw_switches += 1;
        }
        traits.last = Some(op.op);
        if let Some(short) = traits.short[way].take() {
            let goes_on = appends || short.next == offset;
            let rest = first_size.unwrap_or(short.left);
            let ignored = !goes_on || op.op == OpKind::Write && rest != short.left;
            traits.ignored[way] += u64::from(ignored);
        }
        let Some(done) = done else { return };
        let end = offset.saturating_add(done);
        traits.ends[way] = Some(end);
        traits.left = traits.left.saturating_sub(done);
        if op.op == OpKind::Read {
            traits.file_size = traits.file_size.max(op.file_size.unwrap_or(0));
        }
        let at_end = op.op == OpKind::Read && op.file_size.is_none_or(|size| end >= size);
        if done < op.size.unwrap_or(0) && !at_end {
            let (next, left) = (end, traits.left);
            traits.short[way] = Some(Short { next, left });
        }
        if appends {
            let indirect = op.syscall.as_deref().is_some_and(|name| name == "pwrite64");
            let elsewhere = traits.read_to.is_some_and(|at| at != offset);
            traits.append_jumps += u64::from(indirect || elsewhere);
            traits.read_to = None;
        } else if op.op == OpKind::Read {
            traits.read_to = op.pos.or(traits.read_to);
        }
    }

    /// It is over: what was short and not gone on with by now never was.
    pub(super) fn end(&mut self) {
        for way in [0, 1] {
            let short = self.traits.short[way].take();
            self.traits.ignored[way] += u64::from(short.is_some());
        }
    }
}

fn direction(kind: OpKind) -> usize {
    usize::from(kind == OpKind::Write)
}
