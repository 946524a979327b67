//! Open file descriptions and directory streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Call;
use super::inode::{Inode, PathFd};
use super::names::{Link, PathCache, Shown};
use crate::backing::{Backing, Real};
use crate::buffer::File;
use crate::cache::Stream;
use crate::caller::Thread;
use crate::error::Errno;
use crate::sys::{self, SysResult};
use crate::types::{ByNumber, Fh};

/// One open of a file or directory.
#[derive(Debug)]
pub struct Handle {
    /// Its number; never used again.
    pub fh: Fh,
    /// What is open.
    pub inode: Arc<Inode>,
    /// Who opened it.
    pub opener: (Call, Option<Thread>),
    /// Held while appending: the position that tells where an append landed belongs to `file`.
    pub append_turn: Mutex<()>,
    /// For a directory, the cursor that `file` stands at; held while listing.
    pub cursor: Mutex<u64>,
    link: Option<Arc<Link>>,
    path: PathCache,
    /// Keeps the inode's descriptor, and with it its number, for as long as the file is open.
    _pinned: Arc<PathFd>,
    /// What is buffered of the file; directories have no buffer, nor has any file with policy `off`.
    pub buffer: Option<Arc<File>>,
    /// How the buffer gets at SOURCE.
    pub backing: Arc<dyn Backing>,
    /// Its reader's read-ahead.
    pub stream: Mutex<Stream>,
    /// The count of failed writebacks that it has been told of.
    pub told: AtomicU64,
    /// Whether it was opened for writing.
    pub writable: bool,
    /// The file position, as far as it could be followed.
    pub position: AtomicU64,
    file: Arc<OwnedFd>,
}

/// The position of a file whose calls could not all be told apart.
pub const POSITION_UNKNOWN: u64 = u64::MAX;

/// What was opened.
#[derive(Debug)]
pub struct Opened {
    /// The file or directory of SOURCE.
    pub file: OwnedFd,
    /// Its buffer.
    pub buffer: Option<Arc<File>>,
    /// Whether it was opened for writing.
    pub writable: bool,
}

impl Opened {
    /// A directory.
    #[must_use]
    pub fn dir(file: OwnedFd) -> Opened {
        Opened {
            file,
            buffer: None,
            writable: false,
        }
    }
}

impl Handle {
    /// The largest size that SOURCE lets the file have, bytes.
    ///
    /// # Errors
    /// Those of lseek(2).
    pub fn size_limit(&self) -> SysResult<u64> {
        let _turn = super::inode::lock(&self.append_turn);
        sys::size_limit(self.as_fd())
    }

    /// The path it was opened by, followed through renames.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.path.shown(&self.inode, self.link.as_ref())
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// All open handles.
#[derive(Debug, Default)]
pub struct Handles {
    open: ByNumber<Fh, Arc<Handle>>,
    last: AtomicU64,
}

impl Handles {
    /// A handle for an open file of SOURCE.
    pub fn add(
        &self,
        inode: Arc<Inode>,
        pinned: Arc<PathFd>,
        opened: Opened,
        opener: (Call, Option<Thread>),
    ) -> Arc<Handle> {
        let fh = Fh(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let file = Arc::new(opened.file);
        let told = opened.buffer.as_ref().map_or(0, |file| file.errors_told());
        let handle = Arc::new(Handle {
            fh,
            opener,
            append_turn: Mutex::default(),
            cursor: Mutex::default(),
            link: inode.names.latest(),
            path: PathCache::default(),
            _pinned: pinned,
            inode,
            buffer: opened.buffer,
            backing: Arc::new(Real::new(Arc::clone(&file))),
            stream: Mutex::default(),
            told: AtomicU64::new(told),
            writable: opened.writable,
            position: AtomicU64::new(0),
            file,
        });
        self.open.insert(fh, handle.clone());
        handle
    }

    /// The handle of that number.
    ///
    /// # Errors
    /// `EBADF` for one that was never given out or is released.
    pub fn get(&self, fh: Fh) -> SysResult<Arc<Handle>> {
        self.open
            .get(&fh)
            .map(|handle| handle.clone())
            .ok_or(Errno::EBADF)
    }

    /// Takes the handle out: the last reference closes the file.
    ///
    /// # Errors
    /// `EBADF` as for [`Handles::get`].
    pub fn remove(&self, fh: Fh) -> SysResult<Arc<Handle>> {
        self.open
            .remove(&fh)
            .map(|(_, handle)| handle)
            .ok_or(Errno::EBADF)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }
}
