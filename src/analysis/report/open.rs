//! One open file description.

use serde::Serialize;

use super::figures::Figures;
use crate::event::{Op, OpKind};
use crate::types::{Fh, Seq};

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
    #[serde(skip)]
    ends: [Option<u64>; 2],
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
            ends: [None; 2],
        }
    }

    /// Whether it may write.
    #[must_use]
    pub fn writable(&self) -> bool {
        let writes = |flag: &String| flag == "O_WRONLY" || flag == "O_RDWR";
        self.flags.iter().any(writes)
    }

    /// Where the last read, or the last write, ended.
    pub(super) fn end_of_last(&self, kind: OpKind) -> Option<u64> {
        self.ends[usize::from(kind == OpKind::Write)]
    }

    pub(super) fn op(&mut self, op: &Op) {
        self.seq[1] = self.seq[1].max(op.seq);
        if let Some(fd) = op.fd.filter(|fd| !self.fds.contains(fd))
            && self.fds.len() < FDS_MAX
        {
            self.fds.push(fd);
        }
        let data = !op.mapped && !op.page_cache;
        match (op.op, op.ret) {
            (OpKind::Read | OpKind::Write, Some(done)) if data => {
                let end = op.offset.unwrap_or(0).saturating_add(done);
                self.ends[usize::from(op.op == OpKind::Write)] = Some(end);
            }
            _ => {}
        }
        match (op.op, op.ret) {
            (OpKind::Write, Some(done)) => self.unsynced_bytes += done,
            (OpKind::Fsync, Some(_)) => self.unsynced_bytes = 0,
            (OpKind::Flush, _) => self.closed_by = op.syscall.as_deref().map(str::to_owned),
            _ => {}
        }
    }
}
