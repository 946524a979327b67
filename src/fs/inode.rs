//! The inode table: what the kernel knows, as O_PATH descriptors keyed by (st_dev, st_ino).
//!
//! An [`Inode`] lives from its first lookup until the kernel has forgotten every one, or the last
//! open file lets go. Invariants:
//!
//! 1. One (st_dev, st_ino) has one entry, however many names lead to it.
//! 2. `lookups` is what the kernel holds; the entry goes in the same step that makes it 0.
//! 3. An inode with an open handle keeps its descriptor, so its number cannot be used again below us.
//! 4. Paths are for display and for finding an idle inode again, never for an operation.
//!
//! Descriptors are bounded: past the budget, idle inodes give theirs up (second chance, as in the
//! clock algorithm) and are found again by their name, with device, inode number and birth time
//! compared. What is no longer to be found that way is `ESTALE`, on which the kernel looks up afresh.

mod kept;
mod reopen;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dashmap::mapref::entry::Entry;

use super::names::{Link, Names};
use super::numbers::Numbers;
use crate::error::Errno;
use crate::sys::{self, Stat, SysResult};
use crate::types::{ByNumber, Ino, NodeId};

/// Names deeper than this are not walked again: a path that long cannot be opened by the kernel
/// either (PATH_MAX is 4096 bytes, two for each component).
pub(super) const DEPTH_MAX: usize = 2048;

/// Idle inodes looked at for each new one: where all are in use, looking at more finds nothing.
const TURNS_MAX: usize = 64;

/// What makes a file the same one after its descriptor was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    /// Birth time, nanoseconds in two's complement; 0 where there is none.
    btime: u64,
}

/// An open `O_PATH` descriptor that is counted while it lives.
#[derive(Debug)]
pub struct PathFd {
    fd: OwnedFd,
    open: Arc<AtomicUsize>,
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for PathFd {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file of SOURCE that the kernel, or an open handle, knows.
#[derive(Debug)]
pub struct Inode {
    /// How the kernel names it.
    pub node: NodeId,
    /// Distinguishes files that had the same number one after the other.
    pub generation: u64,
    /// The names that lead to it.
    pub names: Names,
    identity: Identity,
    file_type: u32,
    fd: Mutex<Option<Arc<PathFd>>>,
    lookups: AtomicU64,
    used: AtomicBool,
    /// When the kernel was last given its name to keep, if it is a directory ([`way`](super::way)).
    kept: AtomicU64,
}

impl Inode {
    /// The inode number that applications see.
    #[must_use]
    pub fn ino(&self) -> Ino {
        // Over fuser 0.18 a lookup's node id is also the inode number; only the root differs.
        if self.node == NodeId::ROOT {
            Ino(self.identity.ino)
        } else {
            Ino(self.node.0)
        }
    }

    /// Whether both are the same file, also where one entry was forgotten and made anew.
    #[must_use]
    pub fn is_same(&self, other: &Inode) -> bool {
        self.node == other.node && self.identity == other.identity
    }

    /// Whether it is the file of SOURCE with this device and inode number.
    #[must_use]
    pub fn is_number(&self, (dev, ino): (u64, u64)) -> bool {
        self.identity.dev == dev && self.identity.ino == ino
    }

    /// The descriptor, where it has not been given up.
    fn pinned(&self) -> Option<Arc<PathFd>> {
        self.used.store(true, Ordering::Relaxed);
        lock(&self.fd).clone()
    }

    /// Whether a file with the same number is this one. While this one is held open, its number cannot
    /// have been used again.
    fn is_still(&self, other: Identity) -> bool {
        let same_number = (self.identity.dev, self.identity.ino) == (other.dev, other.ino);
        same_number && (self.identity.btime == other.btime || lock(&self.fd).is_some())
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type == libc::S_IFREG
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type == libc::S_IFDIR
    }
}

/// All inodes.
#[derive(Debug)]
pub struct Inodes {
    by_node: ByNumber<NodeId, Arc<Inode>>,
    numbers: Numbers,
    open: Arc<AtomicUsize>,
    budget: usize,
    /// Birth times stay as they are: not on overlayfs, where copying a file up gives it a new one.
    births_last: bool,
    clock: Mutex<VecDeque<Weak<Inode>>>,
}

impl Inodes {
    /// A table whose root is the directory behind `root`, holding at most about `budget` descriptors.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn new(root: OwnedFd, budget: usize) -> SysResult<Inodes> {
        let stat = sys::stat(root.as_fd())?;
        let births_last = !sys::is_overlay(root.as_fd());
        let open = Arc::new(AtomicUsize::new(1));
        let root = Arc::new(Inode {
            node: NodeId::ROOT,
            generation: 0,
            names: Names::default(),
            identity: Identity {
                dev: stat.dev,
                ino: stat.ino,
                btime: 0,
            },
            file_type: libc::S_IFDIR,
            fd: Mutex::new(Some(Arc::new(PathFd {
                fd: root,
                open: open.clone(),
            }))),
            lookups: AtomicU64::new(1),
            used: AtomicBool::new(true),
            kept: AtomicU64::new(0),
        });
        let by_node = ByNumber::default();
        by_node.insert(NodeId::ROOT, root);
        let numbers = Numbers::new(stat.dev, stat.ino);
        Ok(Inodes {
            by_node,
            numbers,
            open,
            budget,
            births_last,
            clock: Mutex::default(),
        })
    }

    /// The inode of that number.
    ///
    /// # Errors
    /// `ESTALE` for a number the kernel should no longer use.
    pub fn get(&self, node: NodeId) -> SysResult<Arc<Inode>> {
        self.by_node
            .get(&node)
            .map(|found| found.clone())
            .ok_or(Errno::ESTALE)
    }

    /// The inode that `stat` describes, if it is known.
    #[must_use]
    pub fn find(&self, stat: &Stat) -> Option<Arc<Inode>> {
        let node = self.numbers.node(stat.dev, stat.ino);
        let found = self.by_node.get(&node)?.clone();
        found.is_still(self.identity(stat)).then_some(found)
    }

    /// Counts one lookup of the file that `stat` describes, if it is known and has its descriptor.
    pub fn remember_again(&self, stat: &Stat) -> Option<Arc<Inode>> {
        let node = self.numbers.node(stat.dev, stat.ino);
        // The count changes while the shard is locked.
        let known = self.by_node.get(&node)?;
        let same = known.identity == self.identity(stat) && known.pinned().is_some();
        same.then(|| {
            known.lookups.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&known)
        })
    }

    /// Counts one lookup of the file behind `fd`, making its entry where it is new.
    pub fn remember(&self, fd: OwnedFd, stat: &Stat) -> Arc<Inode> {
        self.open.fetch_add(1, Ordering::Relaxed);
        let fd = Arc::new(PathFd {
            fd,
            open: self.open.clone(),
        });
        let identity = self.identity(stat);
        let node = self.numbers.node(stat.dev, stat.ino);
        let (inode, unneeded) = match self.by_node.entry(node) {
            Entry::Occupied(mut entry) if !entry.get().is_still(identity) => {
                // The old file is gone and its number was used again: the kernel still owes us the
                // old lookups under the same number (fs/fuse/inode.c fuse_iget()).
                let old = entry.get().clone();
                let fresh = Arc::new(Inode {
                    generation: old.generation + 1,
                    lookups: AtomicU64::new(old.lookups.load(Ordering::Relaxed) + 1),
                    ..new_inode(node, identity, stat, fd)
                });
                entry.insert(fresh.clone());
                (fresh, None)
            }
            Entry::Occupied(entry) => {
                let inode = entry.get().clone();
                inode.lookups.fetch_add(1, Ordering::Relaxed);
                inode.used.store(true, Ordering::Relaxed);
                let unneeded = pin(&inode, fd);
                (inode, unneeded)
            }
            Entry::Vacant(entry) => {
                let fresh = Arc::new(new_inode(node, identity, stat, fd));
                entry.insert(fresh.clone());
                (fresh, None)
            }
        };
        if unneeded.is_none() {
            self.track(&inode);
        }
        inode
    }

    /// The kernel gives back `count` lookups. Says whether these were the last.
    pub fn forget(&self, node: NodeId, count: u64) -> bool {
        if node == NodeId::ROOT {
            return false;
        }
        let gone = self.by_node.remove_if(&node, |_, inode| {
            let before = inode.lookups.load(Ordering::Relaxed);
            let left = before.saturating_sub(count);
            // Exact under the shard's lock, which every change of the count holds.
            inode.lookups.store(left, Ordering::Relaxed);
            left == 0
        });
        gone.is_some()
    }

    /// Whether the kernel knows this inode still.
    #[must_use]
    pub fn holds(&self, inode: &Arc<Inode>) -> bool {
        let known = self.by_node.get(&inode.node);
        known.is_some_and(|known| Arc::ptr_eq(&known, inode))
    }

    /// How many inodes the kernel knows, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    fn identity(&self, stat: &Stat) -> Identity {
        let btime = stat.btime.filter(|_| self.births_last);
        Identity {
            dev: stat.dev,
            ino: stat.ino,
            btime: btime.map_or(0, |(sec, nsec)| {
                let nanos = sec
                    .wrapping_mul(1_000_000_000)
                    .wrapping_add(i64::from(nsec));
                nanos.cast_unsigned()
            }),
        }
    }

    /// Puts a newly pinned inode on the clock and, past the budget, lets idle ones go.
    fn track(&self, inode: &Arc<Inode>) {
        let mut clock = lock(&self.clock);
        clock.push_back(Arc::downgrade(inode));
        // Inodes that the kernel has forgotten leave their places behind.
        if clock.len() > TURNS_MAX && clock.len() / 2 > self.open.load(Ordering::Relaxed) {
            clock.retain(|weak| weak.strong_count() > 0);
        }
        let mut freed = Vec::new();
        let mut turns = (2 * clock.len()).min(TURNS_MAX);
        while turns > 0 && self.open.load(Ordering::Relaxed) - freed.len() > self.budget {
            turns -= 1;
            let Some(weak) = clock.pop_front() else { break };
            let Some(candidate) = weak.upgrade() else {
                continue;
            };
            match candidate.give_up_fd() {
                Some(fd) => freed.push(fd),
                None => clock.push_back(weak),
            }
        }
        drop(clock);
        // Closing happens here, without the lock.
        drop(freed);
    }
}

impl Inode {
    /// The descriptor, if it can be spared: not used since the last turn, nobody holding it, and a
    /// name there to find the file again.
    fn give_up_fd(&self) -> Option<Arc<PathFd>> {
        if self.used.swap(false, Ordering::Relaxed) || self.names.alive().next().is_none() {
            return None;
        }
        let mut slot = lock(&self.fd);
        match slot.as_ref() {
            Some(fd) if Arc::strong_count(fd) == 1 => slot.take(),
            _ => None,
        }
    }
}

fn new_inode(node: NodeId, identity: Identity, stat: &Stat, fd: Arc<PathFd>) -> Inode {
    Inode {
        node,
        generation: 0,
        names: Names::default(),
        identity,
        file_type: stat.mode & libc::S_IFMT,
        fd: Mutex::new(Some(fd)),
        lookups: AtomicU64::new(1),
        used: AtomicBool::new(true),
        kept: AtomicU64::new(0),
    }
}

/// Gives `inode` this descriptor unless it has one; what it did not need comes back, to be closed by
/// the caller when it holds no lock.
fn pin(inode: &Inode, fd: Arc<PathFd>) -> Option<Arc<PathFd>> {
    let mut slot = lock(&inode.fd);
    if slot.is_some() {
        return Some(fd);
    }
    *slot = Some(fd);
    None
}

/// A poisoned lock is taken all the same: what it guards is whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that `name` in `parent` leads to `inode`.
pub(super) fn note_name(inode: &Arc<Inode>, parent: &Arc<Inode>, name: &OsStr) -> Arc<Link> {
    if inode.is_dir() {
        inode.names.note_only(parent, name)
    } else {
        inode.names.note(parent, name)
    }
}
