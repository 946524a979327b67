//! Names: lookup, and everything that makes, moves or removes one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::attrs::Attr;
use super::inode::{Inode, note_name};
use super::names::path_below;
use super::observe::{Note, On};
use super::{Call, Fs};
use crate::buffer::Did;
use crate::cache::SetMtime;
use crate::event::{ByteText, OpKind};
use crate::sys::{self, Access, Stat, SysResult};
use crate::types::NodeId;

/// Mode and umask of something that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Mode as the application gave it, with the file type for mknod.
    pub mode: u32,
    /// The application's umask.
    pub umask: u32,
}

impl Fs {
    /// Finds a name. Each success is one lookup that the kernel will give back by `forget`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`, `ENOTDIR`, `ENAMETOOLONG` as SOURCE says.
    pub fn lookup(&self, call: &Call, parent: NodeId, name: &OsStr) -> SysResult<Attr> {
        let dir = self.inode(parent)?;
        if self.observer.may_be_hidden(name)
            && let Ok((inode, attr)) = self.find(&dir, name, &mut Did::new())
        {
            if self.observer.hides(&inode) {
                return Ok(attr);
            }
            self.forget(attr.node, 1);
        }
        self.observer
            .op(OpKind::Lookup, call, On::Name(&dir, name), |note| {
                let mut did = Did::new();
                let find = || self.find(&dir, name, &mut did);
                let (inode, attr) = self.find_on_way(call, (&dir, name), find)?;
                note.did(did);
                note.set(|op| {
                    op.ino = Some(attr.ino);
                    op.file_size = inode.is_file().then_some(attr.stat.size);
                });
                Ok(attr)
            })
    }

    /// The inode behind a name, with one lookup counted.
    pub(super) fn find(
        &self,
        dir: &Arc<Inode>,
        name: &OsStr,
        did: &mut Did,
    ) -> SysResult<(Arc<Inode>, Attr)> {
        let dir_fd = self.fd(dir)?;
        let found = sys::stat_below(dir_fd.as_fd(), name)?;
        if let Some(inode) = self.inodes.remember_again(&found) {
            return self.entered(dir, name, (inode, found), did);
        }
        let fd = sys::open_below(dir_fd.as_fd(), name, libc::O_PATH, Access::Existing)?;
        self.enter(dir, name, fd, did)
    }

    /// Takes the file behind an `O_PATH` descriptor into the table, under this name.
    pub(super) fn enter(
        &self,
        dir: &Arc<Inode>,
        name: &OsStr,
        fd: OwnedFd,
        did: &mut Did,
    ) -> SysResult<(Arc<Inode>, Attr)> {
        let found = sys::stat(fd.as_fd())?;
        let inode = self.inodes.remember(fd, &found);
        self.entered(dir, name, (inode, found), did)
    }

    fn entered(
        &self,
        dir: &Arc<Inode>,
        name: &OsStr,
        (inode, found): (Arc<Inode>, Stat),
        did: &mut Did,
    ) -> SysResult<(Arc<Inode>, Attr)> {
        note_name(&inode, dir, name);
        let attr = self.fd(&inode).and_then(|fd| {
            let stat = match self.shows_otherwise(&inode) {
                true => self.stat_of(&inode, &fd, did)?,
                false => found,
            };
            Ok(self.shown_attr(&inode, fd.as_fd(), stat))
        });
        match attr {
            Ok(attr) => Ok((inode, attr)),
            Err(errno) => {
                // The kernel does not count what it is told an error for.
                self.forget(inode.node, 1);
                Err(errno)
            }
        }
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// Those of the call.
    pub fn mkdir(
        &self,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        new: NewEntry,
    ) -> SysResult<Attr> {
        self.make(OpKind::Mkdir, call, parent, name, |dir, note| {
            note.set(|op| op.mode = Some(new.mode & 0o7777));
            sys::make_dir(dir, name, mode_of(dir, new))
        })
    }

    /// mknod(2): fifo, socket, device or regular file. `rdev` as stat(2) shows it.
    ///
    /// # Errors
    /// Those of the call.
    pub fn mknod(
        &self,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        new: NewEntry,
        rdev: u64,
    ) -> SysResult<Attr> {
        self.make(OpKind::Mknod, call, parent, name, |dir, note| {
            note.set(|op| op.mode = Some(new.mode));
            sys::make_node(dir, name, mode_of(dir, new), rdev)
        })
    }

    /// symlink(2).
    ///
    /// # Errors
    /// Those of the call.
    pub fn symlink(
        &self,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> SysResult<Attr> {
        self.make(OpKind::Symlink, call, parent, name, |dir, note| {
            note.set(|op| op.set_target(target));
            sys::make_symlink(target, dir, name)
        })
    }

    fn make(
        &self,
        kind: OpKind,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        work: impl FnOnce(BorrowedFd<'_>, &mut Note) -> SysResult<()>,
    ) -> SysResult<Attr> {
        let dir = self.inode(parent)?;
        self.observer.op(kind, call, On::Name(&dir, name), |note| {
            self.end_way(call)?;
            let dir_fd = self.fd(&dir)?;
            let caller = self.act_as(call)?;
            work(dir_fd.as_fd(), note)?;
            drop(caller);
            let mut did = Did::new();
            let keeping = self.keeping(call);
            let found = self.find(&dir, name, &mut did)?;
            let (_, attr) = Self::keep(found, keeping);
            note.did(did);
            note.set(|op| op.ino = Some(attr.ino));
            Ok(attr)
        })
    }

    /// readlink(2).
    ///
    /// # Errors
    /// `EINVAL` for what is not a link.
    pub fn readlink(&self, call: &Call, node: NodeId) -> SysResult<OsString> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Readlink, call, On::Inode(&inode), |note| {
                self.go_on_way(call)?;
                let target = sys::read_link(self.fd(&inode)?.as_fd())?;
                note.set(|op| {
                    op.set_target(&target);
                    op.ret = Some(target.len() as u64);
                });
                Ok(target)
            })
    }

    /// link(2): a further name for a file.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, call: &Call, node: NodeId, parent: NodeId, name: &OsStr) -> SysResult<Attr> {
        let (inode, dir) = (self.inode(node)?, self.inode(parent)?);
        self.observer
            .op(OpKind::Link, call, On::Inode(&inode), |note| {
                note.set(|op| op.set_to(ByteText::new(&path_below(&dir, name))));
                self.end_way(call)?;
                let (fd, dir_fd) = (self.fd(&inode)?, self.fd(&dir)?);
                let link = || sys::link_fd(self.proc_fds.as_fd(), fd.as_fd(), dir_fd.as_fd(), name);
                let mut did = Did::new();
                self.changing(&inode, SetMtime::Left, &mut did, link)?;
                if let Some(buffer) = self.buffer(&inode) {
                    buffer.got_name();
                }
                // Answered like a lookup, and counted as one.
                let found = self.find(&dir, name, &mut did);
                inode.names.linked();
                note.did(did);
                found.map(|(_, attr)| attr)
            })
    }

    /// unlink(2).
    ///
    /// # Errors
    /// Those of the call.
    pub fn unlink(&self, call: &Call, parent: NodeId, name: &OsStr) -> SysResult<()> {
        self.remove(OpKind::Unlink, call, parent, name, 0)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// Those of the call.
    pub fn rmdir(&self, call: &Call, parent: NodeId, name: &OsStr) -> SysResult<()> {
        self.remove(OpKind::Rmdir, call, parent, name, libc::AT_REMOVEDIR)
    }

    fn remove(
        &self,
        kind: OpKind,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        flags: i32,
    ) -> SysResult<()> {
        let dir = self.inode(parent)?;
        self.observer.op(kind, call, On::Name(&dir, name), |note| {
            let dir_fd = self.fd(&dir)?;
            let victim = self.peek(dir_fd.as_fd(), name);
            match kind {
                OpKind::Rmdir => self.check_way_to(call, &[(&dir, name, victim.as_ref())])?,
                _ => self.end_way(call)?,
            }
            note.set(|op| op.ino = victim.as_ref().map(|inode| inode.ino()));
            let unlink = || sys::unlink(dir_fd.as_fd(), name, flags);
            let _moving = self.moves_a_directory(kind == OpKind::Rmdir);
            match victim {
                None => unlink(),
                Some(victim) => {
                    let mut did = Did::new();
                    self.changing(&victim, SetMtime::Left, &mut did, unlink)?;
                    note.did(did);
                    victim.names.remove(&dir, name);
                    self.lost_a_name(&victim, note);
                    Ok(())
                }
            }
        })
    }

    /// A file has lost a name. Without any, its dirty bytes die as soon as the kernel forgets it.
    pub(super) fn lost_a_name(&self, inode: &Arc<Inode>, note: &Note) {
        let Some(buffer) = self.buffer(inode) else {
            return;
        };
        let stat = self.fd(inode).and_then(|fd| sys::stat(fd.as_fd()));
        if !stat.is_ok_and(|stat| stat.nlink == 0) {
            return;
        }
        buffer.lost_name(note.by().cause());
    }

    /// The known inode that a name leads to at this moment, for display only.
    pub(super) fn peek(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Option<Arc<Inode>> {
        let fd = sys::open_below(dir, name, libc::O_PATH, Access::Existing).ok()?;
        self.inodes.find(&sys::stat(fd.as_fd()).ok()?)
    }
}

/// The mode to make something with: the umask does not apply where the directory has a default ACL
/// (man 5 acl, "OBJECT CREATION AND DEFAULT ACLs"); the kernel leaves both to us (FUSE_DONT_MASK).
pub(super) fn mode_of(dir: BorrowedFd<'_>, new: NewEntry) -> u32 {
    let default_acl = OsStr::new("system.posix_acl_default");
    if new.mode & new.umask & 0o777 == 0 || sys::get_xattr(dir, default_acl, 0).is_ok() {
        new.mode
    } else {
        new.mode & !new.umask
    }
}
