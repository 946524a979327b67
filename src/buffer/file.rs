//! One file of the view and what is buffered of it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::gate::Dirt;
use super::looks::facts_of;
use super::prefetch::Coming;
use super::room::{Room, Share};
use super::{Buffers, Subject, lock};
use crate::backing::Backing;
use crate::cache::{Attrs, FileCache, Remembered};
use crate::error::Errno;
use crate::event::{Cause, Reason};
use crate::sys::Stat;
use crate::types::{ByteRange, FileId, Nanos};

/// A file: one for each inode that is open or has something buffered.
#[derive(Debug)]
pub struct File {
    pub(super) id: FileId,
    pub(super) buffers: Arc<Buffers>,
    subject: Mutex<Arc<dyn Subject>>,
    opens: AtomicUsize,
    /// Whether it is among the dirty files; changes under `state`.
    pub(super) dirty: AtomicBool,
    /// What its filesystem has room for, and what it may have of that.
    pub(super) room: Arc<Room>,
    pub(super) share: Share,
    /// Held over everything that changes the file of SOURCE.
    pub(super) io: Mutex<()>,
    pub(super) state: Mutex<State>,
    /// Something is no longer `coming`.
    pub(super) arrived: Condvar,
}

/// What changes about a file.
#[derive(Debug)]
pub(super) struct State {
    pub(super) cache: FileCache,
    pub(super) attrs: Attrs,
    /// Operations of the view that are changing SOURCE just now: what it looks like tells nothing then.
    pub(super) busy: u32,
    /// How many such operations, and writebacks, are over.
    pub(super) changes: u64,
    /// How dirty bytes get to SOURCE: held for as long as there are any, whoever has closed the file.
    pub(super) writer: Option<Arc<dyn Backing>>,
    /// Its place among the dirty files.
    pub(super) ticket: Option<u64>,
    /// When its oldest dirty byte was buffered.
    pub(super) dirty_since: Nanos,
    /// It has lost its last name, or what was open of it without one, by this: what is dirty of it dies
    /// when the kernel forgets it.
    pub(super) nameless: Option<Cause>,
    /// SOURCE was changed from outside while bytes were dirty.
    pub(super) conflict: bool,
    /// What a write may have to clear, if that is known.
    pub(super) privileges: Option<Privileges>,
    /// A read would move SOURCE's access time now (relatime), so one that is served from the buffer has to
    /// let SOURCE know.
    pub(super) access_due: bool,
    /// What is being fetched ahead, or is to be.
    pub(super) coming: Vec<Coming>,
    /// Bytes that the trace says were fetched ahead, and were not: they are not told once more when they are.
    pub(super) told_in_vain: u64,
    pub(super) errors: Errors,
}

/// A moment in a file's life. What SOURCE was found to look like since says nothing if another one has
/// come: then the difference may be the view's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    epoch: u64,
    changes: u64,
}

impl State {
    pub(super) fn moment(&self) -> Moment {
        Moment {
            epoch: self.cache.epoch(),
            changes: self.changes,
        }
    }

    pub(super) fn dirt(&self) -> Dirt {
        Dirt {
            bytes: self.cache.dirty_bytes(),
            blocks: self.cache.dirty_blocks(),
        }
    }
}

/// What a file lends to whoever executes it, and loses when it is written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Set-user-id or set-group-id bits: a write by somebody without `CAP_FSETID` clears them.
    pub set_id: bool,
    /// Capabilities: any write clears them (fs/inode.c file_remove_privs()).
    pub capabilities: bool,
}

impl Privileges {
    /// Those of a file that was just made with this mode: it has no capabilities yet.
    #[must_use]
    pub fn of_new(mode: u32) -> Privileges {
        Privileges {
            set_id: mode & (libc::S_ISUID | libc::S_ISGID) != 0,
            capabilities: false,
        }
    }
}

/// Failed writebacks, in the manner of Linux's errseq_t (lib/errseq.c): each open file description is told
/// once of the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    pub(super) count: u64,
    pub(super) last: Option<Errno>,
    /// Somebody has been told: who opens the file later need not be.
    pub(super) told: bool,
    /// Failures since the last success.
    pub(super) in_a_row: u32,
    /// Not to be tried again by the flusher before.
    pub(super) not_before: Nanos,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl File {
    /// A file that SOURCE shows like `stat`.
    #[must_use]
    pub fn new(buffers: &Arc<Buffers>, subject: Arc<dyn Subject>, stat: &Stat) -> Arc<File> {
        let id = FileId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let attrs = first_look(Attrs::default(), stat);
        let file = Arc::new(File {
            id,
            buffers: Arc::clone(buffers),
            subject: Mutex::new(subject),
            opens: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
            room: buffers.room(stat.dev),
            share: Share::new(),
            io: Mutex::default(),
            state: Mutex::new(State {
                cache: FileCache::new(id, stat.size),
                attrs,
                busy: 0,
                changes: 0,
                writer: None,
                ticket: None,
                dirty_since: Nanos(0),
                nameless: None,
                conflict: false,
                privileges: None,
                access_due: true,
                coming: Vec::new(),
                told_in_vain: 0,
                errors: Errors::default(),
            }),
            arrived: Condvar::new(),
        });
        buffers.files.insert(id, Arc::downgrade(&file));
        file
    }

    /// Who it is.
    #[must_use]
    pub fn subject(&self) -> Arc<dyn Subject> {
        Arc::clone(&lock(&self.subject))
    }

    /// It is known as somebody else now.
    pub fn set_subject(&self, subject: Arc<dyn Subject>) {
        let old = std::mem::replace(&mut *lock(&self.subject), subject);
        drop(old);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is dirty of it has become less; its state is not locked.
    pub(super) fn note_less_dirty(&self, before: Dirt, after: Dirt) {
        self.room.settle(before.blocks.saturating_sub(after.blocks));
        self.buffers.gate.change(before, after);
    }

    /// It is open once more.
    pub fn count_open(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// The count of errors that who opens it now need not be told of.
    #[must_use]
    pub fn errors_told(&self) -> u64 {
        let state = self.lock();
        // An error that nobody was told of is news to whoever opens the file now.
        let untold = u64::from(state.errors.count > 0 && !state.errors.told);
        state.errors.count - untold
    }

    /// One of its open file descriptions is gone; how many are left.
    pub fn released(&self) -> usize {
        self.opens.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Open file descriptions.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.opens.load(Ordering::SeqCst)
    }

    /// Its dirty bytes.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.lock().cache.dirty_bytes()
    }

    /// Whether anything is dirty. Takes no lock.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Whether somebody is changing SOURCE's file just now, or writing it back: who does so after that has to wait.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.io.try_lock().is_err()
    }

    /// Whether all of `range` that the file has can be read from the buffer.
    #[must_use]
    pub fn holds(&self, range: ByteRange) -> bool {
        self.lock().cache.holds(self.buffers.storage(), range)
    }

    /// Its logical size, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().cache.size()
    }

    /// Size and dirty bytes.
    #[must_use]
    pub fn size_and_dirty(&self) -> (u64, u64) {
        let state = self.lock();
        (state.cache.size(), state.cache.dirty_bytes())
    }

    /// Whether nothing depends on it: nobody has it open, and nothing of it is dirty. Takes no lock.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open_count() == 0 && !self.dirty.load(Ordering::Acquire)
    }

    /// Whether it is worth keeping: something is buffered, or it shows what SOURCE does not say.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        self.lock().cache.block_count() > 0
    }

    /// What it shows that SOURCE does not say, for when its buffer is let go of.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        self.lock().attrs.remembered()
    }

    /// A new file, that SOURCE shows like `stat`, showed these times before.
    pub fn recall(&self, times: Remembered, stat: &Stat) {
        self.lock().attrs = first_look(times.into(), stat);
    }

    /// It has lost its last name, or its last open without one, by `cause`.
    pub fn lost_name(&self, cause: Cause) {
        self.lock().nameless = Some(cause);
    }

    /// It has got a name again.
    pub fn got_name(&self) {
        let lost = self.lock().nameless.take();
        if lost.is_some() {
            // What is dirty of it grows old again.
            self.buffers.bell.ring();
        }
    }

    /// Whether it has lost its last name.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.lock().nameless.is_some()
    }

    /// The error that an open file description has not been told of yet; `told` is its count.
    pub fn news(&self, told: &AtomicU64) -> Option<Errno> {
        let mut state = self.lock();
        let count = state.errors.count;
        if told.swap(count, Ordering::AcqRel) == count {
            return None;
        }
        state.errors.told = true;
        state.errors.last
    }

    /// Drops its clean blocks.
    pub fn forget_clean(&self) {
        let freed = {
            let mut state = self.lock();
            state.cache.evict_all(self.buffers.storage())
        };
        self.buffers.give_back(&freed);
        if !freed.is_empty() {
            let count = freed.len() as u64;
            let subject = self.subject();
            self.buffers
                .journal
                .evicted(&*subject, count, Reason::Forget);
        }
    }
}

/// Nothing is buffered yet that could have changed.
fn first_look(mut attrs: Attrs, stat: &Stat) -> Attrs {
    attrs.look(&facts_of(stat));
    attrs.note_shown(stat.ctime);
    attrs
}

impl Drop for File {
    fn drop(&mut self) {
        self.buffers.files.remove(&self.id);
        let state = self
            .state
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let slots = state.cache.slots();
        self.buffers.give_back(&slots);
    }
}
