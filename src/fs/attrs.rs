//! Attributes: getattr, setattr, access, statfs.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::handle::Handle;
use super::inode::Inode;
use super::observe::{Note, On, Watch};
use super::{Call, Fs, KernelCache, Owners};
use crate::buffer::Did;
use crate::cache::SetMtime;
use crate::error::Errno;
use crate::event::{OpKind, SetAttrs};
use crate::sys::{self, Stat, SysResult, TimeSet};
use crate::types::{Fh, Ino, NodeId};

/// The attributes of a file as the view shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// How the kernel names it.
    pub node: NodeId,
    /// Distinguishes files that had the same number.
    pub generation: u64,
    /// The inode number that applications see.
    pub ino: Ino,
    /// Everything else. `ino` and `dev` in it are SOURCE's own.
    pub stat: Stat,
    /// The kernel may keep its name for a moment.
    pub is_kept: bool,
}

/// How long the kernel may keep what an answer says, without asking again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// That the name is the file's.
    pub name: Duration,
    /// The attributes.
    pub attr: Duration,
}

/// What setattr is to change; `None` and `Keep` leave things.
#[derive(Clone, Copy, Debug)]
pub struct NewAttrs {
    /// Permission and set-id bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: TimeSet,
    /// Time of last modification.
    pub mtime: TimeSet,
}

impl Fs {
    /// stat(2) and fstat(2).
    ///
    /// # Errors
    /// `ESTALE`; those of statx(2).
    pub fn getattr(&self, call: &Call, node: NodeId) -> SysResult<Attr> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Getattr, call, On::Inode(&inode), |note| {
                self.check_way_on(call, &inode)?;
                let mut did = Did::new();
                let attr = self.attr(&inode, &mut did)?;
                note.did(did);
                note.set(|op| op.file_size = inode.is_file().then_some(attr.stat.size));
                Ok(attr)
            })
    }

    /// chmod, chown, truncate, utimensat and their kin.
    ///
    /// # Errors
    /// Those of the calls; what was changed before the failing one stays changed, as the kernel asks
    /// for one of them at a time.
    pub fn setattr(
        &self,
        call: &Call,
        node: NodeId,
        fh: Option<Fh>,
        new: NewAttrs,
    ) -> SysResult<Attr> {
        let inode = self.inode(node)?;
        let handle = fh.map(|fh| self.handle(fh)).transpose()?;
        let on = handle.as_ref().map_or(On::Inode(&inode), On::Handle);
        // With its own write-back cache the kernel sends the time of the last write when a file is closed, which may be in
        // execve(2), of a descriptor that it closes (fs/fuse/inode.c fuse_write_inode()).
        let watch = match self.options.kernel_cache {
            KernelCache::WriteBack => Watch::Aside,
            KernelCache::Off | KernelCache::Read => Watch::Here,
        };
        let kind = OpKind::Setattr;
        self.observer.op_watched(kind, call, on, watch, |note| {
            note_set(note, &new, None);
            self.check_way(call, &inode)?;
            let mut did = Did::new();
            self.set_metadata(&inode, &new, &mut did)?;
            if let Some(size) = new.size {
                self.truncate(call, &inode, handle.as_deref(), size, note)?;
            }
            // After the size, which moves the modification time.
            self.set_times(&inode, &new, &mut did)?;
            let attr = self.attr(&inode, &mut did)?;
            note.did(did);
            note_set(note, &new, Some(&attr.stat));
            note.set(|op| op.file_size = inode.is_file().then_some(attr.stat.size));
            if let (Some(buffer), true) = (self.buffer(&inode), note.recording()) {
                note.set(|op| op.dirty = Some(buffer.dirty_bytes()));
            }
            Ok(attr)
        })
    }

    fn set_metadata(&self, inode: &Arc<Inode>, new: &NewAttrs, did: &mut Did) -> SysResult<()> {
        if new.mode.is_none() && new.uid.is_none() && new.gid.is_none() {
            return Ok(());
        }
        let fd = self.fd(inode)?;
        self.changing(inode, SetMtime::Left, did, || {
            if let Some(mode) = new.mode {
                sys::chmod(fd.as_fd(), mode & 0o7777)?;
            }
            if new.uid.is_some() || new.gid.is_some() {
                sys::chown(fd.as_fd(), new.uid, new.gid)?;
            }
            Ok(())
        })
    }

    fn set_times(&self, inode: &Arc<Inode>, new: &NewAttrs, did: &mut Did) -> SysResult<()> {
        if new.atime == TimeSet::Keep && new.mtime == TimeSet::Keep {
            return Ok(());
        }
        let fd = self.fd(inode)?;
        let set = || sys::set_times(fd.as_fd(), new.atime, new.mtime);
        let mtime = if new.mtime == TimeSet::Keep {
            SetMtime::Left
        } else {
            SetMtime::Set
        };
        match self.buffer(inode) {
            // A writeback would set the time back to what it was.
            Some(buffer) => buffer.changing_alone(did, mtime, set, || sys::stat(fd.as_fd())),
            None => self.changing(inode, mtime, did, set),
        }
    }

    /// Runs an operation that changes attributes of a file of SOURCE, so that its buffer does not take
    /// the change for one from outside.
    pub(super) fn changing<T>(
        &self,
        inode: &Arc<Inode>,
        mtime: SetMtime,
        did: &mut Did,
        change: impl FnOnce() -> SysResult<T>,
    ) -> SysResult<T> {
        let Some(files) = self.files.as_ref().filter(|_| inode.is_file()) else {
            return change();
        };
        let fd = self.fd(inode)?;
        match files.get(inode) {
            Some(buffer) => buffer.changing(did, mtime, change, || sys::stat(fd.as_fd())),
            None => {
                let done = change()?;
                files.set_times_unbuffered(inode.node, mtime);
                Ok(done)
            }
        }
    }

    fn truncate(
        &self,
        call: &Call,
        inode: &Arc<Inode>,
        open: Option<&Handle>,
        size: u64,
        note: &mut Note,
    ) -> SysResult<()> {
        if !inode.is_file() {
            return Err(if inode.is_dir() {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            });
        }
        let cut = || {
            self.as_unprivileged(call, || match open {
                Some(handle) => sys::set_size(handle.as_fd(), size),
                None => {
                    let file = self.reopen(inode, libc::O_WRONLY | libc::O_NONBLOCK)?;
                    sys::set_size(file.as_fd(), size)
                }
            })
        };
        let mut did = Did::new();
        let Some(buffer) = self.buffer(inode) else {
            return self.changing(inode, SetMtime::Set, &mut did, cut);
        };
        let fd = self.fd(inode)?;
        let done = buffer.truncate(&note.by(), &mut did, size, cut, || sys::stat(fd.as_fd()));
        note.did(did);
        done
    }

    /// access(2); only asked for where SOURCE decides.
    ///
    /// # Errors
    /// `EACCES`, `EROFS` as SOURCE says.
    pub fn access(&self, call: &Call, node: NodeId, mask: i32) -> SysResult<()> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Access, call, On::Inode(&inode), |note| {
                note.set(|op| op.mode = u32::try_from(mask).ok());
                self.check_way(call, &inode)?;
                sys::access(self.fd(&inode)?.as_fd(), mask)
            })
    }

    /// statfs(2) of the filesystem that a file of SOURCE lies on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn statfs(&self, call: &Call, node: NodeId) -> SysResult<nix::sys::statvfs::Statvfs> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Statfs, call, On::Inode(&inode), |_| {
                self.check_way(call, &inode)?;
                sys::statfs(self.fd(&inode)?.as_fd())
            })
    }

    /// The attributes of an inode, as the view shows them.
    /// What they show to have changed past the view is dropped from the buffer, which `did` is told.
    pub(super) fn attr(&self, inode: &Arc<Inode>, did: &mut Did) -> SysResult<Attr> {
        let fd = self.fd(inode)?;
        let stat = self.stat_of(inode, &fd, did)?;
        Ok(self.shown_attr(inode, fd.as_fd(), stat))
    }

    /// The same where the attributes are known already.
    pub(super) fn shown_attr(&self, inode: &Inode, fd: BorrowedFd<'_>, stat: Stat) -> Attr {
        let stat = match self.options.owners {
            Owners::AsTheyAre => stat,
            Owners::Mapped(own) if (stat.uid, stat.gid) == (own.uid, own.gid) => stat,
            Owners::Mapped(own) => {
                let mine = stat.uid == own.uid
                    || sys::access(fd, libc::W_OK).is_ok()
                    || self.may_remove(inode);
                if mine {
                    Stat {
                        uid: own.uid,
                        gid: own.gid,
                        ..stat
                    }
                } else {
                    stat
                }
            }
        };
        Attr {
            node: inode.node,
            generation: inode.generation,
            ino: inode.ino(),
            stat,
            is_kept: false,
        }
    }
}

impl Fs {
    /// Whether the user may write to the directory that a file was found in, and so may ask SOURCE to
    /// rename or remove it: the kernel would not even ask for a file whose owner it does not know.
    fn may_remove(&self, inode: &Inode) -> bool {
        let place = inode.names.latest().and_then(|link| link.place());
        place.is_some_and(|(dir, _)| {
            let fd = self.fd(&dir);
            fd.is_ok_and(|fd| sys::access(fd.as_fd(), libc::W_OK | libc::X_OK).is_ok())
        })
    }
}

/// Notes what was asked for; "now" becomes known when it is done.
fn note_set(note: &mut Note, new: &NewAttrs, done: Option<&Stat>) {
    note.set(|op| {
        op.set = Some(Box::new(SetAttrs {
            size: new.size,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            atime: time_ns(new.atime, done.map(|stat| stat.atime)),
            mtime: time_ns(new.mtime, done.map(|stat| stat.mtime)),
        }));
    });
}

fn time_ns(asked: TimeSet, became: Option<(i64, u32)>) -> Option<i64> {
    let (seconds, nanos) = match asked {
        TimeSet::Keep => return None,
        TimeSet::Now => became?,
        TimeSet::At(seconds, nanos) => (seconds, nanos),
    };
    Some(
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(nanos)),
    )
}
