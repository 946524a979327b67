//! What of each file would not survive a power cut: dirty in the buffer, or not synced since it was written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::analysis::add;
use crate::event::{Op, OpKind, Writeback};
use crate::types::{Nanos, Seq};

/// Files that are followed at most.
const FILES_MAX: usize = 1 << 16;

/// Bytes of a file that nobody has synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsynced {
    pub(super) bytes: u64,
    /// When the first of them was written.
    pub(super) since: Nanos,
    /// The first operation that wrote them, and the last.
    pub(super) seq: [Seq; 2],
}

#[derive(Debug, Default)]
struct File {
    path: Option<Arc<str>>,
    unsynced: Option<Unsynced>,
    dirty: u64,
    /// It was synced before.
    synced: bool,
}

/// Files by the inode number that the application sees.
#[derive(Debug, Default)]
pub(super) struct Durability {
    files: HashMap<u64, File>,
    names: HashMap<Arc<str>, u64>,
    dirty: u64,
    /// Most dirty bytes of all files at one time.
    pub(super) peak_dirty: u64,
}

impl Durability {
    /// Takes one operation in; gives the age of what it has synced.
    pub(super) fn op(&mut self, op: &Op) -> Option<Nanos> {
        let ino = op.ino?.0;
        match (op.op, op.ret) {
            (OpKind::Write, Some(done)) if done > 0 => self.wrote(ino, op, done),
            (OpKind::Unlink, Some(_)) => self.lost_name(op.path.as_ref()),
            (OpKind::Rename, Some(_)) => self.renamed(ino, op),
            _ => {}
        }
        if let Some(dirty) = op.dirty {
            self.set_dirty(ino, dirty);
        }
        if op.op != OpKind::Fsync || op.ret.is_none() {
            return None;
        }
        let file = self.files.get_mut(&ino)?;
        let unsynced = file.unsynced.take()?;
        file.synced = true;
        let end = Nanos(op.ts_ns.0.saturating_add(op.dur_ns.0));
        Some(end.since(unsynced.since))
    }

    fn wrote(&mut self, ino: u64, op: &Op, done: u64) {
        // The call itself waits until they are there.
        if op
            .flags
            .iter()
            .any(|flag| flag == "O_SYNC" || flag == "O_DSYNC")
        {
            return;
        }
        let Some(file) = self.file(ino) else { return };
        let new = Unsynced {
            bytes: 0,
            since: op.ts_ns,
            seq: [op.seq; 2],
        };
        let unsynced = file.unsynced.get_or_insert(new);
        add(&mut unsynced.bytes, done);
        unsynced.seq[1] = unsynced.seq[1].max(op.seq);
        if file.path != op.path
            && let Some(path) = op.path.clone().filter(|_| !op.unlinked)
        {
            file.path = Some(Arc::clone(&path));
            self.names.insert(path, ino);
        }
    }

    fn file(&mut self, ino: u64) -> Option<&mut File> {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&ino) {
            return None;
        }
        Some(self.files.entry(ino).or_default())
    }

    fn set_dirty(&mut self, ino: u64, dirty: u64) {
        if dirty == 0 && !self.files.contains_key(&ino) {
            return;
        }
        let Some(file) = self.file(ino) else { return };
        let before = std::mem::replace(&mut file.dirty, dirty);
        self.dirty = self.dirty.saturating_sub(before).saturating_add(dirty);
        self.peak_dirty = self.peak_dirty.max(self.dirty);
    }

    pub(super) fn wrote_back(&mut self, done: &Writeback) {
        let dirty = self.files.get(&done.ino).map_or(0, |file| file.dirty);
        self.set_dirty(done.ino, dirty.saturating_sub(done.ret.unwrap_or(0)));
    }

    /// What has no name need not survive.
    fn lost_name(&mut self, path: Option<&Arc<str>>) {
        let ino = path.and_then(|path| self.names.remove(path));
        if let Some(file) = ino.and_then(|ino| self.files.get_mut(&ino)) {
            (file.path, file.unsynced) = (None, None);
        }
    }

    fn renamed(&mut self, ino: u64, op: &Op) {
        self.lost_name(op.to.as_ref());
        let Some(path) = op.path.as_ref() else { return };
        if self.names.remove(path).is_some()
            && let (Some(file), Some(to)) = (self.files.get_mut(&ino), op.to.clone())
        {
            file.path = Some(Arc::clone(&to));
            self.names.insert(to, ino);
        }
    }

    /// What of the file was not synced.
    pub(super) fn unsynced(&self, ino: u64) -> Option<Unsynced> {
        self.files.get(&ino).and_then(|file| file.unsynced)
    }

    /// Whether everything that was written of the file was synced.
    pub(super) fn is_synced(&self, ino: u64) -> bool {
        let file = self.files.get(&ino);
        file.is_some_and(|file| file.synced && file.unsynced.is_none())
    }

    /// Whether it was ever synced.
    pub(super) fn was_synced(&self, ino: u64) -> bool {
        self.files.get(&ino).is_some_and(|file| file.synced)
    }

    /// Files that still have a name, with bytes that were never synced.
    pub(super) fn never_synced(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files
            .values()
            .filter_map(|file| Some((file.path.as_deref()?, file.unsynced?.bytes)))
    }
}
