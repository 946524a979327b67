//! The files that have a buffer: those that are open, and those of which something is buffered. Of others
//! there is at most what they show that SOURCE does not say.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::mapref::entry::Entry;

use super::Fs;
use super::inode::{Inode, PathFd};
use super::observe::Known;
use crate::buffer::{Buffers, Did, File, OnClose, Policy};
use crate::cache::{Remembered, SetMtime};
use crate::sys::{self, Stat, SysResult};
use crate::types::{ByNumber, NodeId};

/// Releases between two cleanings, at most: so many files may be kept of which nothing is buffered any more.
const IDLE_MAX: usize = 4096;

/// Blocks for each file that is kept, at least: what is kept of a file beside its blocks takes about a
/// seventh of one.
const BLOCKS_FOR_FILE: usize = 8;

/// All of them.
#[derive(Debug)]
pub struct Files {
    buffers: Arc<Buffers>,
    known: ByNumber<NodeId, Kept>,
    /// How many have a buffer.
    buffered: AtomicUsize,
    /// How many should, at most.
    most: usize,
    since_cleaning: AtomicUsize,
}

#[derive(Clone, Debug)]
enum Kept {
    Buffered(Arc<Inode>, Arc<File>),
    Times(Remembered),
}

impl Kept {
    /// The file, if nobody needs it.
    fn idle(&self) -> Option<&Arc<File>> {
        match self {
            Kept::Buffered(_, file) if file.is_idle() => Some(file),
            Kept::Buffered(..) | Kept::Times(_) => None,
        }
    }
}

impl Files {
    pub(super) fn new(buffers: Arc<Buffers>) -> Files {
        Files {
            most: buffers.block_count() / BLOCKS_FOR_FILE,
            buffers,
            known: ByNumber::default(),
            buffered: AtomicUsize::new(0),
            since_cleaning: AtomicUsize::new(0),
        }
    }

    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The buffer of a file, if it has one.
    pub(super) fn get(&self, inode: &Inode) -> Option<Arc<File>> {
        match &*self.known.get(&inode.node)? {
            Kept::Buffered(its, file) if its.is_same(inode) => Some(Arc::clone(file)),
            Kept::Buffered(..) | Kept::Times(_) => None,
        }
    }

    /// Counts an open of a file, which SOURCE shows like `stat`, making its buffer where there is none. Says whether it
    /// is new.
    fn open(&self, inode: &Arc<Inode>, stat: &Stat) -> (Arc<File>, bool) {
        let make = || {
            let subject = Arc::new(Known(Arc::clone(inode)));
            File::new(&self.buffers, subject, stat)
        };
        // Made before the table is locked, and dropped after, where it is not needed.
        let mut fresh = self.get(inode).is_none().then(make);
        let mut take = || fresh.take().unwrap_or_else(make);
        // Counted before the shard's lock is let go of, so that nobody lets go of the file in between.
        let counted = |file: &Arc<File>| {
            file.count_open();
            Kept::Buffered(Arc::clone(inode), Arc::clone(file))
        };
        let (file, old) = match self.known.entry(inode.node) {
            Entry::Occupied(mut entry) => {
                let file = match entry.get() {
                    // It may have been forgotten and found again: then this is the inode that has its names.
                    Kept::Buffered(its, file) if its.is_same(inode) => Arc::clone(file),
                    // Its number was used again. What is dirty of the old file is written all the same.
                    Kept::Buffered(..) => take(),
                    Kept::Times(times) => {
                        let file = take();
                        file.recall(*times, stat);
                        self.buffered.fetch_add(1, Ordering::Relaxed);
                        file
                    }
                };
                let old = entry.insert(counted(&file));
                (file, Some(old))
            }
            Entry::Vacant(entry) => {
                let file = take();
                entry.insert(counted(&file));
                self.buffered.fetch_add(1, Ordering::Relaxed);
                (file, None)
            }
        };
        file.set_subject(Arc::new(Known(Arc::clone(inode))));
        let new = old.is_none();
        // Dropped where no lock is held.
        drop((old, fresh));
        (file, new)
    }

    /// An open of a file is over; how many are left. Its buffer is let go of where nothing needs it.
    pub(super) fn released(&self, inode: &Inode, file: &File) -> usize {
        let left = file.released();
        if left > 0 {
            return left;
        }
        if !file.has_blocks() {
            self.let_go(inode.node);
        }
        let pause = (self.most / 4).clamp(64, IDLE_MAX);
        if self.since_cleaning.fetch_add(1, Ordering::Relaxed) > pause {
            self.since_cleaning.store(0, Ordering::Relaxed);
            self.clean();
        }
        left
    }

    /// Lets go of idle files of which nothing is buffered. Where there are too many others, blocks are
    /// evicted until there are not.
    fn clean(&self) {
        self.let_go_of_empty();
        let kept = self.buffered.load(Ordering::Relaxed);
        let excess = kept.saturating_sub(self.most);
        if excess > 0 {
            self.buffers.evict_some(excess);
            self.let_go_of_empty();
        }
    }

    fn let_go_of_empty(&self) {
        let empty = |kept: &Kept| kept.idle().is_some_and(|file| !file.has_blocks());
        let nodes: Vec<NodeId> = self
            .known
            .iter()
            .filter(|entry| empty(entry.value()))
            .map(|entry| *entry.key())
            .collect();
        nodes.into_iter().for_each(|node| self.let_go(node));
    }

    /// Lets go of a file's buffer, unless somebody needs it. What it shows is remembered.
    fn let_go(&self, node: NodeId) {
        let old = match self.known.entry(node) {
            Entry::Occupied(mut entry) => {
                let Some(file) = entry.get().idle() else {
                    return;
                };
                self.buffered.fetch_sub(1, Ordering::Relaxed);
                match file.remembered() {
                    Some(times) => entry.insert(Kept::Times(times)),
                    None => entry.remove(),
                }
            }
            Entry::Vacant(_) => return,
        };
        // Where the table is not locked.
        drop(old);
    }

    /// The kernel has forgotten a file: what is clean of it is dropped, and what is dirty of one without a
    /// name.
    pub(super) fn forget(&self, node: NodeId) {
        let kept = self.known.get(&node).map(|kept| kept.clone());
        if let Some(Kept::Buffered(_, file)) = &kept
            && file.open_count() == 0
        {
            if file.is_nameless() {
                file.bury();
            }
            if file.is_idle() {
                file.forget_clean();
            }
        }
        let gone = self.known.remove_if(&node, |_, kept| match kept {
            Kept::Times(_) => true,
            Kept::Buffered(_, file) => file.is_idle(),
        });
        if let Some((_, Kept::Buffered(..))) = gone {
            self.buffered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a file may show what SOURCE does not say.
    fn shows_otherwise(&self, inode: &Inode) -> bool {
        self.known.contains_key(&inode.node)
    }

    /// An operation of the view has set the times of a file without a buffer: they are SOURCE's own again.
    pub(super) fn set_times_unbuffered(&self, node: NodeId, mtime: SetMtime) {
        if mtime == SetMtime::Set {
            let times = |_: &NodeId, kept: &Kept| matches!(kept, Kept::Times(_));
            self.known.remove_if(&node, times);
        }
    }

    /// What SOURCE shows, as the view shows it, for a file without a buffer.
    fn recall(&self, node: NodeId, found: Stat) -> Stat {
        match self.known.get(&node).as_deref() {
            Some(Kept::Times(times)) => crate::buffer::recalled(*times, found),
            Some(Kept::Buffered(..)) | None => found,
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
        let (file, new) = files.open(inode, &stat);
        // A file that was buffered before may have changed.
        if !new && let Err(errno) = file.attributes(did, || sys::stat(source)) {
            files.released(inode, &file);
            return Err(errno);
        }
        Ok(Some(file))
    }

    /// Whether a file may show what SOURCE does not say.
    pub(super) fn shows_otherwise(&self, inode: &Inode) -> bool {
        let files = self.files.as_ref().filter(|_| inode.is_file());
        files.is_some_and(|files| files.shows_otherwise(inode))
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
