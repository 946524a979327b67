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
use crate::event::{ByteText, OpKind, Reason};
use crate::sys::{self, Access, SysResult};
use crate::types::{ByteRange, NodeId};

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
                let (inode, attr) = self.find(&dir, name, &mut did)?;
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
        note_name(&inode, dir, name);
        let fd = self.fd(&inode)?;
        let stat = match self.shows_otherwise(&inode) {
            true => self.stat_of(&inode, &fd, did)?,
            false => found,
        };
        let attr = self.shown_attr(&inode, fd.as_fd(), stat);
        Ok((inode, attr))
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
            let dir_fd = self.fd(&dir)?;
            let caller = self.act_as(call)?;
            work(dir_fd.as_fd(), note)?;
            drop(caller);
            let (_, attr) = self.find(&dir, name, &mut Did::new())?;
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
                let (fd, dir_fd) = (self.fd(&inode)?, self.fd(&dir)?);
                let link = || sys::link_fd(self.proc_fds.as_fd(), fd.as_fd(), dir_fd.as_fd(), name);
                self.changing(&inode, SetMtime::Left, link)?;
                if let Some(buffer) = self.buffer(&inode) {
                    buffer.set_nameless(false);
                }
                // Answered like a lookup, and counted as one.
                let found = self.find(&dir, name, &mut Did::new());
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
            note.set(|op| op.ino = victim.as_ref().map(|inode| inode.ino()));
            let unlink = || sys::unlink(dir_fd.as_fd(), name, flags);
            match victim {
                None => unlink(),
                Some(victim) => {
                    self.changing(&victim, SetMtime::Left, unlink)?;
                    victim.names.remove(&dir, name);
                    self.lost_a_name(&victim, note);
                    Ok(())
                }
            }
        })
    }

    /// renameat2(2) with its flags as they are.
    ///
    /// # Errors
    /// Those of the call.
    pub fn rename(
        &self,
        call: &Call,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        flags: u32,
    ) -> SysResult<()> {
        let (old_dir, new_dir) = (self.inode(from.0)?, self.inode(to.0)?);
        self.observer
            .op(OpKind::Rename, call, On::Name(&old_dir, from.1), |note| {
                let (old_fd, new_fd) = (self.fd(&old_dir)?, self.fd(&new_dir)?);
                let moved = self.peek(old_fd.as_fd(), from.1);
                let other = self.peek(new_fd.as_fd(), to.1);
                note.set(|op| {
                    op.ino = moved.as_ref().map(|inode| inode.ino());
                    op.set_to(ByteText::new(&path_below(&new_dir, to.1)));
                    op.flags = rename_flag_names(flags);
                });
                let exchange = flags & libc::RENAME_EXCHANGE != 0;
                let replaces = |name| sys::open_below(name, to.1, libc::O_PATH, Access::Existing);
                if exchange || replaces(new_fd.as_fd()).is_ok() {
                    self.write_before_rename([&moved, &other], exchange, note)?;
                }
                let rename = || {
                    // A whiteout is made by the caller.
                    let caller = if flags & libc::RENAME_WHITEOUT == 0 {
                        None
                    } else {
                        self.act_as(call)?
                    };
                    sys::rename((old_fd.as_fd(), from.1), (new_fd.as_fd(), to.1), flags)?;
                    drop(caller);
                    Ok(())
                };
                self.changing_both([&moved, &other], rename)?;
                let (old, new) = ((&old_dir, from.1), (&new_dir, to.1));
                if exchange {
                    if let (Some(moved), Some(other)) = (&moved, &other) {
                        moved.names.rename(old, new);
                        other.names.rename(new, old);
                    }
                } else {
                    self.renamed((moved, old), (other, new), note);
                }
                Ok(())
            })
    }

    /// A file has moved from one name to another, over what may have been there.
    fn renamed(
        &self,
        (moved, old): (Option<Arc<Inode>>, (&Arc<Inode>, &OsStr)),
        (other, new): (Option<Arc<Inode>>, (&Arc<Inode>, &OsStr)),
        note: &mut Note,
    ) {
        let same = moved.as_ref().zip(other.as_ref());
        if same.is_some_and(|(a, b)| Arc::ptr_eq(a, b)) {
            // Two names of one file: rename(2) does nothing.
            return;
        }
        if let Some(other) = other {
            other.names.remove(new.0, new.1);
            self.lost_a_name(&other, note);
        }
        if let Some(moved) = moved {
            moved.names.rename(old, new);
        }
    }

    /// Runs an operation that changes attributes of one or two files.
    fn changing_both(
        &self,
        inodes: [&Option<Arc<Inode>>; 2],
        change: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<()> {
        match inodes {
            [Some(one), Some(two)] => self.changing(one, SetMtime::Left, || {
                self.changing(two, SetMtime::Left, change)
            }),
            [Some(one), None] | [None, Some(one)] => self.changing(one, SetMtime::Left, change),
            [None, None] => change(),
        }
    }

    /// A name that leads to old data must not lead to a file without data, should the machine stop: what
    /// takes its place is written first, as ext4 does it (Documentation/admin-guide/ext4.rst,
    /// auto_da_alloc).
    fn write_before_rename(
        &self,
        [moved, other]: [&Option<Arc<Inode>>; 2],
        exchange: bool,
        note: &mut Note,
    ) -> SysResult<()> {
        let other = other.as_ref().filter(|_| exchange);
        for inode in moved.iter().chain(other) {
            let Some(buffer) = self.buffer(inode) else {
                continue;
            };
            let mut did = Did::new();
            let range = ByteRange::ALL;
            let written = buffer.write_back(&note.by(), &mut did, range, Reason::Rename);
            note.did(did);
            written?;
        }
        Ok(())
    }

    /// A file has lost a name. Without any, and with nobody who has it open, its dirty bytes die.
    fn lost_a_name(&self, inode: &Arc<Inode>, note: &mut Note) {
        let Some(buffer) = self.buffer(inode) else {
            return;
        };
        let stat = self.fd(inode).and_then(|fd| sys::stat(fd.as_fd()));
        if !stat.is_ok_and(|stat| stat.nlink == 0) {
            return;
        }
        buffer.set_nameless(true);
        if buffer.open_count() == 0 {
            let mut did = Did::new();
            buffer.discard(note.by().cause(), &mut did, Reason::Unlink);
            note.did(did);
        }
    }

    /// The known inode that a name leads to at this moment, for display only.
    fn peek(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Option<Arc<Inode>> {
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

fn rename_flag_names(flags: u32) -> Vec<std::borrow::Cow<'static, str>> {
    [
        (libc::RENAME_NOREPLACE, "RENAME_NOREPLACE"),
        (libc::RENAME_EXCHANGE, "RENAME_EXCHANGE"),
        (libc::RENAME_WHITEOUT, "RENAME_WHITEOUT"),
    ]
    .into_iter()
    .filter(|(bit, _)| flags & bit != 0)
    .map(|(_, name)| name.into())
    .collect()
}
