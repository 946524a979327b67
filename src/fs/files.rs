//! The files that have a buffer: those that are open, and those of which something is buffered.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::Fs;
use super::inode::{Inode, PathFd};
use super::observe::Known;
use crate::buffer::{Buffers, Did, File, OnClose, Policy};
use crate::cache::{Attrs, SetMtime};
use crate::sys::{self, Stat, SysResult};
use crate::types::NodeId;

/// Files without anything buffered that are kept nevertheless, between two cleanings.
const IDLE_MAX: usize = 4096;

/// All of them.
#[derive(Debug)]
pub struct Files {
    buffers: Arc<Buffers>,
    open: DashMap<NodeId, Kept>,
    /// What files without a buffer show that SOURCE does not say.
    remembered: DashMap<NodeId, Attrs>,
    since_cleaning: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Kept {
    inode: Arc<Inode>,
    file: Arc<File>,
}

impl Files {
    pub(super) fn new(buffers: Arc<Buffers>) -> Files {
        Files {
            buffers,
            open: DashMap::new(),
            remembered: DashMap::new(),
            since_cleaning: AtomicUsize::new(0),
        }
    }

    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The buffer of a file, if it has one.
    pub(super) fn get(&self, inode: &Inode) -> Option<Arc<File>> {
        let kept = self.open.get(&inode.node)?;
        kept.inode.is_same(inode).then(|| Arc::clone(&kept.file))
    }

    /// Counts an open of a file, which SOURCE shows like `stat`, making its buffer where there is none.
    fn open(&self, inode: &Arc<Inode>, stat: &Stat) -> Arc<File> {
        // Made before the table is locked, and dropped after, where it is not needed.
        let fresh = match self.get(inode) {
            Some(_) => None,
            None => Some(self.fresh(inode, stat)),
        };
        // Counted before the shard's lock is let go of, so that nobody lets go of the file in between.
        let counted = |file: &Arc<File>| {
            file.count_open();
            Kept {
                inode: Arc::clone(inode),
                file: Arc::clone(file),
            }
        };
        let (file, old) = match (self.open.entry(inode.node), &fresh) {
            // Its number was used again. What is dirty of the old file is written all the same.
            (Entry::Occupied(mut entry), Some(fresh)) if !entry.get().inode.is_same(inode) => {
                (Arc::clone(fresh), Some(entry.insert(counted(fresh))))
            }
            // It may have been forgotten and found again: then this is the inode that has its names.
            (Entry::Occupied(mut entry), _) => {
                let file = Arc::clone(&entry.get().file);
                (Arc::clone(&file), Some(entry.insert(counted(&file))))
            }
            (Entry::Vacant(entry), Some(fresh)) => {
                entry.insert(counted(fresh));
                (Arc::clone(fresh), None)
            }
            (Entry::Vacant(entry), None) => {
                // Let go of since it was looked for: rare, and then made under the lock.
                let file = self.fresh(inode, stat);
                entry.insert(counted(&file));
                (file, None)
            }
        };
        file.set_subject(Arc::new(Known(Arc::clone(inode))));
        // Dropped where no lock is held.
        drop((old, fresh));
        file
    }

    fn fresh(&self, inode: &Arc<Inode>, stat: &Stat) -> Arc<File> {
        let attrs = self.remembered.remove(&inode.node).map(|(_, attrs)| attrs);
        let subject = Arc::new(Known(Arc::clone(inode)));
        File::new(&self.buffers, subject, stat, attrs.unwrap_or_default())
    }

    /// A file may have become idle: without blocks its buffer is let go of.
    pub(super) fn settle(&self, inode: &Inode, file: &File) {
        if !file.has_blocks() {
            self.let_go(inode.node);
        }
        if self.since_cleaning.fetch_add(1, Ordering::Relaxed) > IDLE_MAX {
            self.since_cleaning.store(0, Ordering::Relaxed);
            self.clean();
        }
    }

    fn clean(&self) {
        let idle = |kept: &Kept| kept.file.is_idle() && !kept.file.has_blocks();
        let nodes: Vec<NodeId> = self
            .open
            .iter()
            .filter(|entry| idle(entry.value()))
            .map(|entry| *entry.key())
            .collect();
        nodes.into_iter().for_each(|node| self.let_go(node));
    }

    fn let_go(&self, node: NodeId) {
        let gone = self.open.remove_if(&node, |_, kept| kept.file.is_idle());
        if let Some((_, kept)) = gone
            && let Some(attrs) = kept.file.remembered()
        {
            self.remembered.insert(node, attrs);
        }
    }

    /// The kernel has forgotten a file: what is clean of it is dropped.
    pub(super) fn forget(&self, node: NodeId) {
        self.remembered.remove(&node);
        let kept = self.open.get(&node).map(|kept| kept.clone());
        let Some(kept) = kept else { return };
        if kept.file.is_idle() {
            kept.file.forget_clean();
        }
        self.open.remove_if(&node, |_, kept| kept.file.is_idle());
        self.remembered.remove(&node);
    }

    /// An operation of the view has changed attributes of a file without a buffer.
    pub(super) fn changed_unbuffered(
        &self,
        node: NodeId,
        mtime: SetMtime,
        stat: impl FnOnce() -> SysResult<Stat>,
    ) {
        if mtime == SetMtime::Set {
            // Both of its times are SOURCE's own again.
            self.remembered.remove(&node);
            return;
        }
        if self.remembered.contains_key(&node)
            && let (Ok(found), Some(mut attrs)) = (stat(), self.remembered.get_mut(&node))
        {
            crate::buffer::times_changed(&mut attrs, &found);
        }
    }

    /// What SOURCE shows, as the view shows it, for a file without a buffer.
    fn recall(&self, node: NodeId, found: Stat) -> Stat {
        match self.remembered.get(&node) {
            Some(attrs) => crate::buffer::times_shown(&attrs, found),
            None => found,
        }
    }
}

impl Fs {
    /// The buffer of a file, if it has one.
    pub(super) fn buffer(&self, inode: &Inode) -> Option<Arc<File>> {
        self.files.as_ref()?.get(inode)
    }

    /// The buffer of a file that is being opened, counted as one of its opens.
    pub(super) fn open_buffer(
        &self,
        inode: &Arc<Inode>,
        source: BorrowedFd<'_>,
        did: &mut Did,
    ) -> SysResult<Option<Arc<File>>> {
        let Some(files) = self.files.as_ref() else {
            return Ok(None);
        };
        if !inode.is_file() || self.observer.hides(inode) {
            return Ok(None);
        }
        let stat = sys::stat(source)?;
        let file = files.open(inode, &stat);
        // A file that was buffered before may have changed.
        file.attributes(did, || sys::stat(source))?;
        Ok(Some(file))
    }

    /// Whether a file may show what SOURCE does not say.
    pub(super) fn shows_otherwise(&self, inode: &Inode) -> bool {
        let files = self.files.as_ref().filter(|_| inode.is_file());
        files.is_some_and(|files| {
            files.get(inode).is_some() || files.remembered.contains_key(&inode.node)
        })
    }

    /// The attributes of SOURCE's file, as the view shows them before owners are mapped.
    pub(super) fn stat_of(&self, inode: &Inode, fd: &PathFd, did: &mut Did) -> SysResult<Stat> {
        let Some(files) = self.files.as_ref().filter(|_| inode.is_file()) else {
            return sys::stat(fd.as_fd());
        };
        match files.get(inode) {
            Some(file) => file.attributes(did, || sys::stat(fd.as_fd())),
            None => Ok(files.recall(inode.node, sys::stat(fd.as_fd())?)),
        }
    }

    /// Whether writes go to SOURCE at once.
    pub(super) fn writes_through(&self) -> bool {
        let options = self.files.as_ref().map(|files| *files.buffers.options());
        options.is_some_and(|options| options.policy == Policy::WriteThrough)
    }

    /// What close(2) does.
    pub(super) fn on_close(&self) -> OnClose {
        let files = self.files.as_ref();
        files.map_or(OnClose::Writeback, |files| files.buffers.options().on_close)
    }
}
