//! Who was led astray, and how far it is with walking again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::caller::{Doing, SystemCall, Told};
use crate::error::Errno;
use crate::fs::Call;
use crate::fs::inode::lock;
use crate::sys::SysResult;
use crate::trace::Clock;
use crate::types::{Nanos, NodeId, Tid};

/// No walk pauses for longer. A thread that makes the same call again may not have come to the end of the one before.
const WALK_MAX: Nanos = Nanos(1_000_000_000);

/// Directories that are remembered of a walk.
const LOOKED_UP_MAX: usize = 64;

/// Threads that are remembered to have been led astray.
const WALKERS_MAX: usize = 1024;

/// What is known of the names that the kernel keeps.
pub struct Way {
    told: Arc<Told>,
    clock: Clock,
    walkers: Mutex<HashMap<Tid, Walker>>,
    /// How many they are.
    walking: AtomicUsize,
    /// Names that are being moved or removed in the view, and how many were.
    moving: AtomicUsize,
    moved: AtomicU64,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way")
            .field("walking", &self.walking)
            .finish_non_exhaustive()
    }
}

/// A thread in a call in which it was led astray.
#[derive(Clone, Debug)]
struct Walker {
    syscall: SystemCall,
    since: Nanos,
    state: Astray,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Astray {
    /// It will be sent back at the end of its walk.
    Walking,
    /// It was, and has to be content with what it finds now: so far, these directories.
    SentBack(Vec<NodeId>),
    /// It was at this name. When it comes for it again, it has not heard.
    SentBackAt(NodeId, OsString),
}

impl Way {
    pub(super) fn new(told: Arc<Told>) -> Way {
        Way {
            told,
            clock: Clock::start(),
            walkers: Mutex::default(),
            walking: AtomicUsize::new(0),
            moving: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
        }
    }

    /// What a thread does of whom that is known. Not of threads of the kernel's own (io_uring), nor of 32-bit programs.
    pub(super) fn syscall(&self, call: &Call) -> Option<SystemCall> {
        match self.told.seen(call.unique, call.tid)?.doing {
            Doing::Call(syscall) => Some(syscall),
            Doing::Fault => None,
        }
    }

    /// Now, by the clock of what is kept.
    pub(super) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// How many names were moved or removed in the view; `None` while one is.
    pub(super) fn moved(&self) -> Option<u64> {
        // In this order: what has ended is counted.
        let still = self.moving.load(Ordering::SeqCst) == 0;
        still.then(|| self.moved.load(Ordering::SeqCst))
    }

    /// Whether the thread was led astray in this call.
    pub(super) fn astray(&self, call: &Call) -> Option<Astray> {
        if self.walking.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let now = self.clock.now();
        let mut all = lock(&self.walkers);
        all.retain(|_, walker| now.since(walker.since) < WALK_MAX);
        let walker = all.get(&call.tid).cloned();
        self.walking.store(all.len(), Ordering::SeqCst);
        drop(all);
        let walker = walker?;
        if self.syscall(call)? == walker.syscall {
            return Some(walker.state);
        }
        self.arrived(call);
        None
    }

    /// Says how far the thread is; false where no more threads can be remembered.
    pub(super) fn set_astray(&self, call: &Call, syscall: SystemCall, state: Astray) -> bool {
        let now = self.clock.now();
        let mut all = lock(&self.walkers);
        let room = all.len() < WALKERS_MAX || all.contains_key(&call.tid);
        if room {
            let since = now;
            let walker = Walker {
                syscall,
                since,
                state,
            };
            all.insert(call.tid, walker);
        }
        self.walking.store(all.len(), Ordering::SeqCst);
        room
    }

    /// The call has come to its end, or the thread makes another one.
    pub(super) fn arrived(&self, call: &Call) {
        let mut all = lock(&self.walkers);
        all.remove(&call.tid);
        self.walking.store(all.len(), Ordering::SeqCst);
    }

    /// A thread that was sent back has looked a directory up.
    pub(super) fn looked_up(
        &self,
        call: &Call,
        syscall: SystemCall,
        before: Vec<NodeId>,
        dir: NodeId,
    ) {
        let mut all = before;
        all.truncate(LOOKED_UP_MAX - 1);
        all.push(dir);
        self.set_astray(call, syscall, Astray::SentBack(all));
    }

    /// The kernel walks again after this, if it can be remembered that it was told to.
    pub(super) fn send_back(
        &self,
        call: &Call,
        syscall: SystemCall,
        state: Astray,
    ) -> SysResult<()> {
        match self.set_astray(call, syscall, state) {
            true => Err(Errno::ESTALE),
            false => Ok(()),
        }
    }
}

/// While it lives, what a name leads to may be elsewhere already, and the name still be known.
#[derive(Debug)]
pub struct Moving<'a>(Option<&'a Way>);

impl<'a> Moving<'a> {
    pub(super) fn begin(way: Option<&'a Way>) -> Moving<'a> {
        if let Some(way) = way {
            way.moving.fetch_add(1, Ordering::SeqCst);
        }
        Moving(way)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if let Some(way) = self.0 {
            way.moved.fetch_add(1, Ordering::SeqCst);
            way.moving.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
