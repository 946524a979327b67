//! Rules over files and processes, as operations go by.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Evidence, Finding};
use crate::analysis::add;
use crate::analysis::report::durable::Durability;
use crate::analysis::report::open::Moment;
use crate::event::{Op, OpKind};
use crate::types::{Fh, Pid};

/// Opened so often by one process, a file could have stayed open.
const MANY_OPENS: u64 = 20;
/// Read from its beginning so often by one process, a file could have stayed in memory.
const MANY_TIMES: u64 = 3;
/// Smaller files cost nothing to read again.
const NOTABLE_BYTES: u64 = 64 << 10;
/// Names and files that are remembered.
const KNOWN_MAX: usize = 1 << 16;

/// Errors after which a program should not go on writing.
const FATAL: [&str; 5] = ["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EROFS"];

/// What one process does with one file.
#[derive(Debug)]
struct Use {
    opens: Evidence,
    reads: Option<Evidence>,
    read_bytes: u64,
    /// Reads that began at the beginning.
    starts: u64,
    size: u64,
    /// It emptied the file after it had read it.
    emptied: Option<Evidence>,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    /// Names that led to a file.
    existing: HashSet<Arc<str>>,
    uses: HashMap<Arc<str>, Vec<(Pid, Use)>>,
    use_count: usize,
    processes: HashMap<Pid, Moment>,
    failed: HashMap<Fh, (String, Evidence)>,
    /// Renames whose directory was not synced yet, by that directory.
    renamed: HashMap<String, Evidence>,
}

impl Files {
    pub(super) fn op(&mut self, op: &Op, durable: &Durability, tell: &mut dyn FnMut(Finding)) {
        self.count(op);
        let Some(path) = &op.path else { return };
        match (op.op, op.ret) {
            (OpKind::Lookup | OpKind::Create | OpKind::Open, Some(_)) => {
                self.exists(path);
                if op.op != OpKind::Lookup {
                    self.opened(op, path);
                }
            }
            (OpKind::Unlink, Some(_)) => self.is_new(path),
            (OpKind::Rename, Some(_)) => self.renamed(op, path, durable, tell),
            (OpKind::Read, Some(done)) if !op.mapped && !op.page_cache => self.read(op, path, done),
            (OpKind::Write, Some(_)) => {
                // Who syncs it knows what may be lost when: a database's log, say.
                let cares = op.ino.is_some_and(|ino| durable.was_synced(ino.0));
                self.wrote(op, path, cares, tell);
            }
            (OpKind::Setattr, Some(_))
                if op.set.as_ref().is_some_and(|set| set.size == Some(0)) =>
            {
                self.emptied(op, path);
            }
            (OpKind::Fsyncdir, Some(_)) => drop(self.renamed.remove(&**path)),
            (OpKind::Write | OpKind::Fsync | OpKind::Flush, None) => self.failed(op),
            _ => {}
        }
    }

    fn count(&mut self, op: &Op) {
        let Some(pid) = op.pid else { return };
        if self.processes.len() >= KNOWN_MAX && !self.processes.contains_key(&pid) {
            return;
        }
        let moment = self.processes.entry(pid).or_default();
        moment.ops += 1;
        moment.opens += u64::from(matches!(op.op, OpKind::Open | OpKind::Create));
        moment.at = moment.at.max(op.ts_ns);
    }

    pub(super) fn moment(&self, op: &Op) -> Moment {
        let moment = op.pid.and_then(|pid| self.processes.get(&pid));
        moment.copied().unwrap_or_default()
    }

    pub(super) fn closed(&mut self, fh: Fh) {
        self.failed.remove(&fh);
    }

    fn exists(&mut self, path: &Arc<str>) {
        if self.existing.len() < KNOWN_MAX && !self.existing.contains(path) {
            self.existing.insert(Arc::clone(path));
        }
    }

    /// Whatever has this name next is another file.
    fn is_new(&mut self, path: &Arc<str>) {
        self.existing.remove(path);
        for (_, used) in self.uses.get_mut(path).into_iter().flatten() {
            (used.read_bytes, used.starts, used.emptied) = (0, 0, None);
        }
    }

    fn used(&mut self, op: &Op, path: &Arc<str>) -> Option<&mut Use> {
        let pid = op.pid?;
        if !self.uses.contains_key(path) {
            self.uses.insert(Arc::clone(path), Vec::new());
        }
        let uses = self.uses.get_mut(path)?;
        let place = uses.iter().position(|(own, _)| *own == pid);
        if place.is_none() {
            if self.use_count >= KNOWN_MAX {
                return None;
            }
            self.use_count += 1;
            uses.push((pid, Use::new(op)));
        }
        let place = place.unwrap_or(uses.len() - 1);
        uses.get_mut(place).map(|(_, used)| used)
    }

    fn opened(&mut self, op: &Op, path: &Arc<str>) {
        let Some(used) = self.used(op, path) else {
            return;
        };
        used.opens.and(op);
        if op.flags.iter().any(|flag| flag == "O_TRUNC") {
            self.emptied(op, path);
        }
    }

    fn emptied(&mut self, op: &Op, path: &Arc<str>) {
        if let Some(used) = self.used(op, path)
            && used.read_bytes > 0
        {
            used.emptied = Some(Evidence::op(op));
        }
    }

    fn read(&mut self, op: &Op, path: &Arc<str>, done: u64) {
        let Some(used) = self.used(op, path) else {
            return;
        };
        add(&mut used.read_bytes, done);
        used.starts += u64::from(op.offset == Some(0) && done > 0);
        used.size = used.size.max(op.file_size.unwrap_or(0));
        match &mut used.reads {
            Some(reads) => reads.and(op),
            None => used.reads = Some(Evidence::op(op)),
        }
    }

    fn wrote(&mut self, op: &Op, path: &Arc<str>, cares: bool, tell: &mut dyn FnMut(Finding)) {
        let before = op.fh.and_then(|fh| self.failed.remove(&fh));
        if let Some((errno, mut evidence)) = before {
            evidence.and(op);
            let what = format!("a write failed with {errno}, and the program went on writing");
            let why = "what failed is missing in the file, and what follows stands behind a gap or not at all";
            let remedy =
                "check the result of each write, flush and close, and stop at the first error";
            tell(evidence.finding("error_ignored", what, why, remedy));
        }
        let emptied = self.used(op, path).and_then(|used| used.emptied.take());
        if let Some(mut evidence) = emptied.filter(|_| !cares) {
            evidence.and(op);
            let what = "the process read it, emptied it and wrote it anew in place".to_owned();
            let why = "from the emptying to the last write neither the old content nor the new is there: a crash or a full disk in \
                       between loses both";
            let remedy = "write a new file beside it, fsync that, and rename it over this one";
            tell(evidence.finding("overwritten_in_place", what, why, remedy));
        }
    }

    fn failed(&mut self, op: &Op) {
        let errno = op.errno.as_deref().unwrap_or_default();
        if let Some(fh) = op
            .fh
            .filter(|_| FATAL.contains(&errno) && self.failed.len() < KNOWN_MAX)
        {
            self.failed.insert(fh, (errno.to_owned(), Evidence::op(op)));
        }
    }

    fn renamed(
        &mut self,
        op: &Op,
        path: &Arc<str>,
        durable: &Durability,
        tell: &mut dyn FnMut(Finding),
    ) {
        let Some(to) = &op.to else { return };
        let ino = op.ino.map_or(0, |ino| ino.0);
        if self.existing.contains(to) {
            if let Some(unsynced) = durable.unsynced(ino) {
                let mut evidence = Evidence::op(op);
                evidence.seq[0] = evidence.seq[0].min(unsynced.seq[0]);
                evidence.path = to.to_string();
                let what = format!(
                    "{path} was written ({} bytes) and renamed over it without an fsync",
                    unsynced.bytes
                );
                let why = "after a power cut the new name may lead to an empty or incomplete file, and the old one is gone";
                let remedy = "fsync the new file before the rename, and its directory after it";
                tell(evidence.finding("renamed_without_sync", what, why, remedy));
            } else if durable.is_synced(ino) && self.renamed.len() < KNOWN_MAX {
                let mut evidence = Evidence::op(op);
                evidence.path = to.to_string();
                self.renamed
                    .entry(directory_of(to).to_owned())
                    .or_insert(evidence);
            }
        }
        self.is_new(path);
        self.is_new(to);
        self.exists(to);
    }

    pub(super) fn finish(self) -> impl Iterator<Item = Finding> {
        let renamed = self.renamed.into_values().map(|evidence| {
            let what = "a synced file was renamed over it, and its directory was never synced".to_owned();
            let why = "the rename itself may be lost in a power cut: then the old content is back, which the program holds for \
                       replaced";
            let remedy = "open the directory and fsync it after the rename";
            evidence.finding("directory_not_synced", what, why, remedy)
        });
        let uses = self.uses.into_values().flatten();
        renamed.chain(uses.flat_map(|(_, used)| {
            let read_again = used.is_read_again();
            let opens = (used.opens.calls >= MANY_OPENS).then(|| {
                let what = format!("one process opened it {} times", used.opens.calls);
                let why = "each open looks the path up, checks permissions and makes a new open file description";
                let remedy = "open it once and keep it open";
                used.opens.finding("opened_again_and_again", what, why, remedy)
            });
            opens.into_iter().chain(used.reads.filter(|_| read_again).map(|evidence| {
                let what = format!("one process read it {} times from its beginning, {} bytes in all", used.starts, used.read_bytes);
                let why = "the same bytes are moved again each time";
                let remedy = "read it once and keep what is needed, or map it";
                evidence.finding("read_again_and_again", what, why, remedy)
            }))
        }))
    }
}

impl Use {
    fn new(op: &Op) -> Use {
        Use {
            opens: Evidence {
                calls: 0,
                cost_ns: 0,
                fh: None,
                ..Evidence::op(op)
            },
            reads: None,
            read_bytes: 0,
            starts: 0,
            size: 0,
            emptied: None,
        }
    }

    fn is_read_again(&self) -> bool {
        self.starts >= MANY_TIMES
            && self.size >= NOTABLE_BYTES
            && self.read_bytes >= self.size.saturating_mul(MANY_TIMES)
    }
}

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/')
        .map_or(".", |(directory, _)| directory)
}
