//! The filesystem: a passthrough view of SOURCE. Plain arguments in, a value or an [`Errno`] out; it
//! speaks the whole FUSE protocol in its own types and knows no transport.
//!
//! Layer: above `sys`, `caller` and `trace`, below the edges (`fuse`, later `uring`). Each operation
//! is one public method of [`Fs`], by families: `namespace`, `attrs`, `xattr`, `dir`, `open`, `data`,
//! `extents`. File data goes through the buffers of `buffer`, if there are any (`files`). `observe` is the
//! only place where events are made.
//!
//! Invariants: no path is ever joined for an operation; every operation is relative to a descriptor
//! and follows no symbolic link; no lock of the tables is held across a system call.
//! Lock order: a directory handle's cursor (it orders I/O and is held over it) before anything else; those
//! of `buffer`; a handle's append turn (held over I/O as well); the locks of `inode` and `names` are leaves.

mod answer;
mod attrs;
mod data;
mod dir;
mod extents;
mod files;
mod handle;
mod inode;
mod names;
mod namespace;
mod numbers;
mod observe;
mod open;
mod ready;
mod rename;
mod shutdown;
mod way;
mod write;
mod xattr;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub use crate::caller::Told;
pub use answer::{Answer, Promise};
pub use attrs::{Attr, Lifetimes, NewAttrs};
pub use data::{ReadFrom, ReadHow};
pub use dir::{DirSlot, Listing};
pub use namespace::NewEntry;
pub use observe::Attribution;
pub use ready::Ready;
pub use write::{WriteFrom, WriteHow};

use files::Files;
use handle::{Handles, Opened};
use inode::{Inode, Inodes, PathFd};
use observe::Observer;
use way::Way;

use crate::buffer::{self, Buffers, Flusher, Journal, Shared};
use crate::caller::Thread;
use crate::sys::{self, AsCaller, Switch, SysResult};
use crate::trace::Recorder;
use crate::types::{Fh, NodeId, Tid};

/// Who asks, as the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The thread that waits for the answer; 0 where the kernel names nobody.
    pub tid: Tid,
    /// Its filesystem uid.
    pub uid: u32,
    /// Its filesystem gid.
    pub gid: u32,
    /// The request's number (`unique`, include/uapi/linux/fuse.h struct fuse_in_header).
    pub unique: u64,
}

/// Who decides what a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// The kernel, before it asks (`default_permissions`): the server acts with the caller's ids
    /// where something is made, so that it belongs to the caller.
    Kernel,
    /// SOURCE: the server acts as the one user it runs as.
    Source,
}

/// Which owners callers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Those of SOURCE.
    AsTheyAre,
    /// A user namespace knows only this user and group: what others own but this user may write to is
    /// shown as this user's, or the kernel would refuse it before SOURCE is asked (fs/namei.c
    /// inode_permission(), HAS_UNMAPPED_ID).
    Mapped(AsCaller),
}

/// A file that leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Device and inode number.
    pub number: (u64, u64),
    /// The name it has in its directory.
    pub name: OsString,
}

/// What the kernel may keep of file data in its page cache. What it answers from there is not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelCache {
    /// Nothing but the pages of mappings: every call is seen.
    #[default]
    Off,
    /// What was read; each open begins anew (close-to-open). Writes are seen one by one.
    Read,
    /// What was written as well, until the kernel writes it back.
    WriteBack,
}

/// What a view is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who decides.
    pub permissions: Permissions,
    /// Which owners are seen.
    pub owners: Owners,
    /// Descriptors that idle inodes may keep.
    pub descriptors: usize,
    /// A file whose operations are not recorded: the trace itself, which may lie in SOURCE.
    pub hidden: Option<Hidden>,
    /// Threads whose operations are not recorded (iolens itself).
    pub quiet: Vec<Tid>,
    /// What is found out about each caller.
    pub attribution: Attribution,
    /// Callers sleep by the time that they are served: over rings, which serve them on their own CPU.
    pub callers_sleep: bool,
    /// What the kernel tells of them.
    pub told: Option<Arc<Told>>,
    /// How file data is buffered; `None` with policy `off`.
    pub buffer: Option<buffer::Options>,
    /// What the kernel may keep in memory.
    pub kernel_cache: KernelCache,
    /// The buffer's memory, where somebody is to find it when this process is gone; made for `buffer`.
    pub shared: Option<Arc<Shared>>,
}

/// The view.
pub struct Fs {
    inodes: Inodes,
    handles: Handles,
    observer: Arc<Observer>,
    files: Option<Files>,
    flusher: Mutex<Option<Flusher>>,
    proc_fds: OwnedFd,
    way: OnceLock<Way>,
    options: Options,
}

impl Fs {
    /// A view of the directory behind `source` (`O_PATH` will do).
    ///
    /// # Errors
    /// Those of statx(2) on it, and of opening `/proc/self/fd`; `ENOMEM` for the buffers.
    pub fn new(
        source: OwnedFd,
        recorder: Option<Arc<Recorder>>,
        options: Options,
    ) -> SysResult<Fs> {
        let (hidden, quiet) = (options.hidden.clone(), options.quiet.clone());
        let callers = observe::Attributed {
            attribution: options.attribution,
            // Half of all descriptors are idle inodes'.
            descriptors: options.descriptors / 8,
            asleep: options.callers_sleep,
            told: options.told.clone(),
        };
        let observer = Observer::new(recorder, hidden, quiet, callers);
        let observer = Arc::new(observer);
        let journal = || Arc::clone(&observer) as Arc<dyn Journal>;
        let files = match &options.buffer {
            Some(buffer) => {
                let shared = match &options.shared {
                    Some(shared) => Arc::clone(shared),
                    None => Arc::new(Shared::new(buffer)?),
                };
                Some(Files::new(Buffers::new(*buffer, shared, journal())?))
            }
            None => None,
        };
        Ok(Fs {
            inodes: Inodes::new(source, options.descriptors)?,
            handles: Handles::default(),
            files,
            flusher: Mutex::default(),
            observer,
            proc_fds: sys::open_proc_fds()?,
            way: OnceLock::new(),
            options,
        })
    }

    /// What the kernel may keep in memory.
    #[must_use]
    pub fn kernel_cache(&self) -> KernelCache {
        self.options.kernel_cache
    }

    /// How long the kernel may keep what an answer says of this file. Each open of a file is to find the one that has the name
    /// then; on the way there it goes through directories.
    #[must_use]
    pub fn lifetimes(&self, attr: &Attr) -> Lifetimes {
        match self.options.kernel_cache {
            // SOURCE may change behind the view.
            KernelCache::Off if attr.is_kept => Lifetimes {
                name: way::MOMENT,
                attr: Duration::ZERO,
            },
            KernelCache::Off => Lifetimes::default(),
            // With new attributes the kernel asks for capabilities again, at the next write (fs/fuse/inode.c
            // fuse_change_attributes_common()), and its write-back cache asks for attributes at each write.
            KernelCache::Read | KernelCache::WriteBack => Lifetimes {
                name: match attr.stat.mode & libc::S_IFMT {
                    libc::S_IFDIR => Duration::from_secs(1),
                    _ => Duration::ZERO,
                },
                attr: Duration::from_secs(1),
            },
        }
    }

    /// The kernel gives back `count` lookups of an inode.
    pub fn forget(&self, node: NodeId, count: u64) {
        if self.inodes.forget(node, count)
            && let Some(files) = &self.files
        {
            files.forget(node);
        }
    }

    /// Inodes that the kernel knows, the root included.
    #[must_use]
    pub fn inodes_known(&self) -> usize {
        self.inodes.len()
    }

    /// Files and directories that are open.
    #[must_use]
    pub fn handles_open(&self) -> usize {
        self.handles.len()
    }

    fn inode(&self, node: NodeId) -> SysResult<Arc<Inode>> {
        self.inodes.get(node)
    }

    fn fd(&self, inode: &Arc<Inode>) -> SysResult<Arc<PathFd>> {
        self.inodes.fd(inode)
    }

    /// Opens the file of an inode for real.
    fn reopen(&self, inode: &Arc<Inode>, flags: i32) -> SysResult<OwnedFd> {
        let fd = self.fd(inode)?;
        sys::reopen(self.proc_fds.as_fd(), fd.as_fd(), flags)
    }

    /// A handle for an open file, which keeps the inode's descriptor.
    fn opened(
        &self,
        inode: Arc<Inode>,
        opened: Opened,
        opener: (Call, Option<Thread>),
    ) -> SysResult<Arc<handle::Handle>> {
        let pinned = self.fd(&inode)?;
        Ok(self.handles.add(inode, pinned, opened, opener))
    }

    /// Lets this thread act as the caller for as long as the result lives.
    fn act_as(&self, call: &Call) -> SysResult<Option<Switch>> {
        match self.options.permissions {
            Permissions::Kernel => Switch::to(AsCaller {
                uid: call.uid,
                gid: call.gid,
            })
            .map(Some),
            Permissions::Source => Ok(None),
        }
    }

    /// Runs `work` so that SOURCE clears set-id bits, keeps its reserve and applies quotas as it would for the
    /// caller. One with `CAP_FSETID` and `CAP_SYS_RESOURCE` is exempt; uid 0 stands for that here.
    fn as_unprivileged<T>(&self, call: &Call, work: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
        match self.options.permissions {
            Permissions::Kernel if call.uid != 0 => {
                let (uid, gid) = (call.uid, call.gid);
                Switch::as_ordinary(AsCaller { uid, gid }, work)?
            }
            _ => work(),
        }
    }

    fn handle(&self, fh: Fh) -> SysResult<Arc<handle::Handle>> {
        self.handles.get(fh)
    }
}
