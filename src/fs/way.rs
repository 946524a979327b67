//! The way to a directory. A kernel that asks for every name every time asks for each directory on a path, before it asks for
//! what the path is about. So it may keep the names of directories for a moment, and the names that it did not ask for are
//! looked at here instead, which takes a tenth of the time of a request: does each of them still lead where it led?
//!
//! Where one does not, because SOURCE was changed behind the view, the kernel is told to forget all of them, and answered
//! `ESTALE`: then it walks the path again and asks for each name (fs/namei.c, include/linux/namei.h retry_estale()). So
//! nobody is led through a directory that has moved on.
//!
//! What the kernel decides without asking, it may decide by a name that is as old as that moment: an open with O_PATH, which asks
//! nothing, and errors like `EISDIR`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::inode::{DEPTH_MAX, Inode, lock};
use super::{Call, Fs, KernelCache};
use crate::caller::{Doing, SystemCall, Told};
use crate::error::Errno;
use crate::sys::{self, SysResult};
use crate::types::{NodeId, Tid};

/// How long the kernel keeps a name: the shortest time there is, which it rounds up to its next tick but one (1 to 20 ms). A
/// burst of calls comes within that, and no more is to be won.
const MOMENT: Duration = Duration::from_nanos(1);

/// Threads that are remembered to walk again.
const WALKERS_MAX: usize = 1024;

/// Has the kernel forget all names that it keeps.
pub type Forget = Box<dyn Fn() -> SysResult<()> + Send + Sync>;

/// The names that the kernel keeps.
pub(super) struct Way {
    told: Arc<Told>,
    forget: Forget,
    /// Numbers the times that it was to forget; one more has begun.
    begun: AtomicU64,
    /// What was kept before the time of this number is forgotten.
    over: AtomicU64,
    sent_back: Mutex<HashMap<Tid, SentBack>>,
    /// How many they are.
    walkers: AtomicUsize,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// How far a thread is with walking again.
#[derive(Clone, Debug)]
enum SentBack {
    /// It will ask for the same name again first, and is to be sent back then: the kernel looks a name up afresh when it
    /// hears that the one it has is no good (fs/namei.c lookup_fast()).
    Twice(NodeId, OsString),
    /// It will be when it makes something. Until then there is nothing of that name: from there on the kernel does not walk
    /// again (fs/namei.c filename_create()).
    AtTheEnd,
    /// It walks again, and has to be content with what it finds.
    Once,
}

/// How a request came to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// By a path, to do something with a name in it, or to open it.
    ByPath,
    /// By a path or a descriptor: the system call says which.
    Somehow,
}

impl Way {
    fn is_kept(&self, dir: &Inode) -> bool {
        dir.kept() >= self.over.load(Ordering::SeqCst)
    }

    /// What is kept from now on has the next number; the kernel has forgotten what has an older one when this returns.
    fn forget_all(&self) {
        let next = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        match (self.forget)() {
            Ok(()) => {
                self.over.fetch_max(next, Ordering::SeqCst);
            }
            Err(errno) => log::warn!("the kernel does not forget names: {errno}"),
        }
    }

    fn doing(&self, call: &Call) -> Option<SystemCall> {
        match self.told.seen(call.unique, call.tid)?.doing {
            Doing::Call(call) => Some(call),
            Doing::Fault => None,
        }
    }

    fn sent_back(&self, tid: Tid) -> Option<SentBack> {
        match self.walkers.load(Ordering::SeqCst) {
            0 => None,
            _ => lock(&self.sent_back).get(&tid).cloned(),
        }
    }

    /// The thread has come through.
    fn arrived(&self, tid: Tid) {
        let mut all = lock(&self.sent_back);
        all.remove(&tid);
        self.walkers.store(all.len(), Ordering::SeqCst);
    }

    fn send_back(&self, tid: Tid, how: SentBack) {
        let mut all = lock(&self.sent_back);
        // Those that were not heard of again.
        if all.len() == WALKERS_MAX {
            all.clear();
        }
        all.insert(tid, how);
        self.walkers.store(all.len(), Ordering::SeqCst);
    }
}

impl Fs {
    /// From now on the kernel may keep names of directories, if it can `forget` them and it is known who asks.
    pub fn let_names_be_kept(&self, forget: Forget) {
        let Some(told) = &self.options.told else {
            return;
        };
        if self.options.kernel_cache != KernelCache::Off {
            return;
        }
        if let Err(errno) = forget() {
            log::info!("the kernel keeps no names, for it cannot forget them: {errno}");
            return;
        }
        let way = Way {
            told: Arc::clone(told),
            forget,
            begun: AtomicU64::new(1),
            over: AtomicU64::new(1),
            sent_back: Mutex::default(),
            walkers: AtomicUsize::new(0),
        };
        // Nobody does this twice.
        let _ = self.way.set(way);
    }

    /// How long the name of a directory may be kept.
    pub(super) fn moment(&self) -> Duration {
        self.way.get().map_or(Duration::ZERO, |_| MOMENT)
    }

    /// The number of what will be kept from now on.
    pub(super) fn keeping(&self) -> Option<u64> {
        let way = self.way.get()?;
        Some(way.begun.load(Ordering::SeqCst))
    }

    /// The kernel may keep a name of `inode`, which SOURCE was asked for after [`keeping`](Self::keeping).
    pub(super) fn keep(&self, inode: &Inode, keeping: Option<u64>) {
        if let Some(number) = keeping.filter(|_| inode.is_dir()) {
            inode.keep(number);
        }
    }

    /// Looks at the names by which a request came to a directory.
    ///
    /// # Errors
    /// `ESTALE` where one of them does not lead there any more.
    pub(super) fn check_way(&self, call: &Call, dir: &Arc<Inode>, came: Came) -> SysResult<()> {
        let Some(way) = self.way.get() else {
            return Ok(());
        };
        let sent_back = way.sent_back(call.tid);
        let leads = self.leads_there(way, dir);
        match sent_back {
            // It will be looked at later.
            Some(SentBack::AtTheEnd | SentBack::Twice(..)) => return Ok(()),
            Some(SentBack::Once) if leads => way.arrived(call.tid),
            Some(SentBack::Once) | None => {}
        }
        if leads {
            return Ok(());
        }
        way.forget_all();
        let walks = match way.doing(call) {
            Some(syscall) if came == Came::Somehow => syscall.takes_path(),
            _ => came == Came::ByPath,
        };
        if !walks || sent_back.is_some() {
            return Ok(());
        }
        way.send_back(call.tid, SentBack::Once);
        Err(Errno::ESTALE)
    }

    /// The same before a name in the directory is looked for.
    ///
    /// # Errors
    /// As above, and `ENOENT` where something is to be made: then making it fails ([`check_making`](Self::check_making)).
    pub(super) fn check_way_to(
        &self,
        call: &Call,
        dir: &Arc<Inode>,
        name: &OsStr,
    ) -> SysResult<()> {
        let Some(way) = self.way.get() else {
            return Ok(());
        };
        let sent_back = way.sent_back(call.tid);
        match &sent_back {
            Some(SentBack::Twice(node, again)) if *node == dir.node && again == name => {
                way.send_back(call.tid, SentBack::Once);
                return Err(Errno::ESTALE);
            }
            Some(SentBack::AtTheEnd) if way.doing(call).is_some_and(|call| call.makes()) => {
                return Err(Errno::ENOENT);
            }
            // The way is longer than that.
            Some(SentBack::Once) if dir.node == NodeId::ROOT => return Ok(()),
            Some(_) => way.arrived(call.tid),
            None => {}
        }
        if self.leads_there(way, dir) {
            return Ok(());
        }
        way.forget_all();
        if matches!(sent_back, Some(SentBack::Once)) {
            return Ok(());
        }
        let exists = self.has_entry(dir, name);
        let (how, errno) = match way.doing(call) {
            // The old name of a link is there.
            Some(syscall) if syscall.makes() && !(syscall.links() && exists) => {
                (SentBack::AtTheEnd, Errno::ENOENT)
            }
            // The path of a socket is walked once (net/unix/af_unix.c).
            Some(syscall) if syscall.name() == "bind" => return Ok(()),
            _ if exists => (SentBack::Twice(dir.node, name.to_owned()), Errno::ESTALE),
            _ => (SentBack::Once, Errno::ESTALE),
        };
        way.send_back(call.tid, how);
        Err(errno)
    }

    /// Whether a thread makes something that came by names which led elsewhere.
    ///
    /// # Errors
    /// `ESTALE` then.
    pub(super) fn check_making(&self, call: &Call) -> SysResult<()> {
        let sent_back = self.way.get().map(|way| (way, way.sent_back(call.tid)));
        match sent_back {
            Some((way, Some(SentBack::AtTheEnd))) => {
                way.send_back(call.tid, SentBack::Once);
                Err(Errno::ESTALE)
            }
            _ => Ok(()),
        }
    }

    /// Whether the kernel has a file of this name in the directory, as far as is known.
    fn has_entry(&self, dir: &Arc<Inode>, name: &OsStr) -> bool {
        let found = self
            .fd(dir)
            .and_then(|fd| sys::stat_below(fd.as_fd(), name));
        let inode = found.ok().and_then(|found| self.inodes.find(&found));
        inode.is_some_and(|inode| inode.names.has(dir, name))
    }

    /// Whether each name that the kernel may have kept still leads to its directory, from this one up to one that it was not
    /// led to by a name.
    fn leads_there(&self, way: &Way, dir: &Arc<Inode>) -> bool {
        let mut at = Arc::clone(dir);
        for _ in 0..DEPTH_MAX {
            if !way.is_kept(&at) {
                return true;
            }
            // Removed in the view: the kernel knows.
            let Some((parent, name)) = at.names.only_place() else {
                return true;
            };
            let fd = self.fd(&parent);
            let found = fd.and_then(|fd| sys::stat_below(fd.as_fd(), &name));
            if !found.is_ok_and(|found| self.inodes.is(&at, &found)) {
                return false;
            }
            at = parent;
        }
        false
    }
}
