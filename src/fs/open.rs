//! Open file descriptions: open and create, and release at their end.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::attrs::Attr;
use super::data::note_dirty;
use super::handle::{Handle, Opened};
use super::inode::Inode;
use super::namespace::{NewEntry, mode_of};
use super::observe::{Note, On};
use super::{Call, Fs, KernelCache, Permissions};
use crate::buffer::{Did, File, OnClose, Privileges};
use crate::error::Errno;
use crate::event::{OpKind, Reason, open_flag_names};
use crate::sys::{self, Access, SysResult};
use crate::types::{ByteRange, Fh, NodeId};

/// `__FMODE_EXEC` of include/linux/fs.h: opened to be executed.
const FMODE_EXEC: i32 = 0x20;

/// Flags that are not for SOURCE's descriptor: the kernel has dealt with them, or they are applied to
/// each write (O_DIRECT would ask for aligned buffers of ours).
const NOT_BELOW: i32 = libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_APPEND
    | libc::O_DIRECT
    | libc::O_SYNC
    | libc::O_NOFOLLOW
    | FMODE_EXEC;

impl Fs {
    /// open(2) of an existing file.
    ///
    /// # Errors
    /// Those of the call.
    pub fn open(&self, call: &Call, node: NodeId, flags: i32) -> SysResult<Fh> {
        let inode = self.inode(node)?;
        self.observer
            .op(OpKind::Open, call, On::Inode(&inode), |note| {
                note.set(|op| op.flags = open_flag_names(flags));
                self.end_way(call)?;
                self.may_execute(&inode, flags)?;
                let file = self.open_existing(call, &inode, flags, note)?;
                let handle = self.opened_file(call, inode.clone(), (file, flags), note)?;
                note.set(|op| op.fh = Some(handle.fh));
                Ok(handle.fh)
            })
    }

    /// Opens the file of SOURCE. With `O_TRUNC`, what is buffered is cut off with it.
    fn open_existing(
        &self,
        call: &Call,
        inode: &Arc<Inode>,
        flags: i32,
        note: &mut Note,
    ) -> SysResult<OwnedFd> {
        let below = flags & !NOT_BELOW;
        let truncated = (flags & libc::O_TRUNC != 0)
            .then(|| self.buffer(inode))
            .flatten();
        let Some(buffer) = truncated else {
            return self.open_file(call, inode, below);
        };
        let fd = self.fd(inode)?;
        let mut did = Did::new();
        let opened = buffer.truncate(
            &note.by(),
            &mut did,
            0,
            || self.open_file(call, inode, below),
            || sys::stat(fd.as_fd()),
        );
        note.did(did);
        opened
    }

    fn open_file(&self, call: &Call, inode: &Arc<Inode>, flags: i32) -> SysResult<OwnedFd> {
        if !inode.is_file() {
            // Fifos and devices are opened by the kernel itself; here they would block or act.
            return Err(if inode.is_dir() {
                Errno::EISDIR
            } else {
                Errno::ENXIO
            });
        }
        let open = |flags: i32| {
            if flags & libc::O_TRUNC == 0 {
                self.reopen(inode, flags)
            } else {
                self.as_unprivileged(call, || self.reopen(inode, flags))
            }
        };
        let flags = match flags & libc::O_ACCMODE {
            // To write back a page of which a part was written, the kernel reads the rest by the same handle.
            libc::O_WRONLY if self.options.kernel_cache == KernelCache::WriteBack => {
                match open(flags & !libc::O_ACCMODE | libc::O_RDWR) {
                    Err(Errno::EACCES) => flags,
                    other => return other,
                }
            }
            _ => flags,
        };
        match open(flags) {
            // Only the owner may ask for it; the kernel has let the caller.
            Err(Errno::EPERM) if flags & libc::O_NOATIME != 0 => open(flags & !libc::O_NOATIME),
            other => other,
        }
    }

    /// What is opened to be executed is opened for reading below: its execute bits are asked for here,
    /// where the kernel has not done so.
    fn may_execute(&self, inode: &Arc<Inode>, flags: i32) -> SysResult<()> {
        if flags & FMODE_EXEC == 0 || self.options.permissions == Permissions::Kernel {
            return Ok(());
        }
        sys::access(self.fd(inode)?.as_fd(), libc::X_OK)
    }

    /// The handle of a file that was just opened, with its buffer.
    fn opened_file(
        &self,
        call: &Call,
        inode: Arc<Inode>,
        (file, flags): (OwnedFd, i32),
        note: &mut Note,
    ) -> SysResult<Arc<Handle>> {
        let mut did = Did::new();
        let buffer = self.open_buffer(&inode, file.as_fd(), &mut did)?;
        note.did(did);
        let size = match &buffer {
            Some(buffer) => Some(buffer.size()),
            None if note.recording() => sys::stat(file.as_fd()).ok().map(|stat| stat.size),
            None => None,
        };
        note.set(|op| op.file_size = size);
        let opener = (*call, note.thread());
        let opened = Opened {
            file,
            buffer: buffer.clone(),
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
        };
        let handle = self.opened(inode.clone(), opened, opener);
        if let (Err(_), Some(buffer), Some(files)) = (&handle, buffer, &self.files) {
            files.released(&inode, &buffer);
        }
        handle
    }

    /// open(2) with `O_CREAT`: makes the file, or opens it where it exists already.
    ///
    /// # Errors
    /// Those of the call; `EEXIST` with `O_EXCL`.
    pub fn create(
        &self,
        call: &Call,
        parent: NodeId,
        name: &OsStr,
        flags: i32,
        new: NewEntry,
    ) -> SysResult<(Attr, Fh)> {
        let dir = self.inode(parent)?;
        self.observer
            .op(OpKind::Create, call, On::Name(&dir, name), |note| {
                note.set(|op| {
                    op.flags = open_flag_names(flags);
                    op.mode = Some(new.mode & 0o7777);
                });
                self.end_way(call)?;
                let made = self.create_new(call, &dir, name, flags, new);
                let is_new = made.is_ok();
                let (inode, attr, file) = match made {
                    Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => {
                        self.find_and_open(call, &dir, name, flags, note)?
                    }
                    other => other?,
                };
                let handle = self.opened_file(call, inode, (file, flags), note)?;
                if let Some(buffer) = handle.buffer.as_ref().filter(|_| is_new) {
                    // Capabilities are never inherited: the first write need not look for them.
                    buffer.privileges(|| Ok(Privileges::of_new(attr.stat.mode)))?;
                }
                note.set(|op| {
                    op.fh = Some(handle.fh);
                    op.ino = Some(attr.ino);
                });
                Ok((attr, handle.fh))
            })
    }

    fn find_and_open(
        &self,
        call: &Call,
        dir: &Arc<Inode>,
        name: &OsStr,
        flags: i32,
        note: &mut Note,
    ) -> SysResult<(Arc<Inode>, Attr, OwnedFd)> {
        let mut did = Did::new();
        let (inode, attr) = self.find(dir, name, &mut did)?;
        let opened = self
            .open_existing(call, &inode, flags, note)
            .and_then(|file| {
                // With O_TRUNC it is another file now than the one that was found.
                let attr = if flags & libc::O_TRUNC == 0 {
                    attr
                } else {
                    self.attr(&inode, &mut did)?
                };
                Ok((inode.clone(), attr, file))
            });
        note.did(did);
        opened.inspect_err(|_| self.forget(inode.node, 1))
    }

    fn create_new(
        &self,
        call: &Call,
        dir: &Arc<Inode>,
        name: &OsStr,
        flags: i32,
        new: NewEntry,
    ) -> SysResult<(Arc<Inode>, Attr, OwnedFd)> {
        let dir_fd = self.fd(dir)?;
        let mode = mode_of(dir_fd.as_fd(), new) & 0o7777;
        // O_CREAT is passed with O_EXCL only: fs.protected_regular would refuse the server a file
        // that exists in a sticky directory (Documentation/admin-guide/sysctl/fs.rst).
        let caller = self.act_as(call)?;
        let below = flags & !NOT_BELOW & !libc::O_TRUNC;
        let file = sys::open_below(dir_fd.as_fd(), name, below, Access::New(mode))?;
        drop(caller);
        let path_fd = sys::reopen(self.proc_fds.as_fd(), file.as_fd(), libc::O_PATH)?;
        let (inode, attr) = self.enter(dir, name, path_fd, &mut Did::new())?;
        Ok((inode, attr, file))
    }

    /// open(2) with `O_TMPFILE`: makes a file without a name in the directory `parent`. With `O_EXCL` it gets none later.
    ///
    /// # Errors
    /// Those of the call; `EOPNOTSUPP` where SOURCE's filesystem has no such files.
    pub fn tmpfile(
        &self,
        call: &Call,
        parent: NodeId,
        flags: i32,
        new: NewEntry,
    ) -> SysResult<(Attr, Fh)> {
        let dir = self.inode(parent)?;
        self.observer
            .op(OpKind::Tmpfile, call, On::Inode(&dir), |note| {
                note.set(|op| {
                    op.flags = open_flag_names(flags);
                    op.mode = Some(new.mode & 0o7777);
                });
                self.check_way(call, &dir)?;
                let dir_fd = self.fd(&dir)?;
                let mode = mode_of(dir_fd.as_fd(), new) & 0o7777;
                let caller = self.act_as(call)?;
                let below = flags & !NOT_BELOW | flags & libc::O_EXCL;
                let access = Access::Nameless(mode);
                let file = sys::open_below(dir_fd.as_fd(), OsStr::new("."), below, access)?;
                drop(caller);
                let fd = sys::reopen(self.proc_fds.as_fd(), file.as_fd(), libc::O_PATH)?;
                let stat = sys::stat(fd.as_fd())?;
                let inode = self.inodes.remember(fd, &stat);
                let fd = self.fd(&inode)?;
                let attr = self.shown_attr(&inode, fd.as_fd(), stat);
                let opened = self.opened_file(call, Arc::clone(&inode), (file, flags), note);
                let handle = opened.inspect_err(|_| self.forget(inode.node, 1))?;
                note.set(|op| {
                    op.fh = Some(handle.fh);
                    op.ino = Some(attr.ino);
                });
                Ok((attr, handle.fh))
            })
    }

    /// The last descriptor of an open file is gone.
    ///
    /// # Errors
    /// `EBADF` for one that is not open.
    pub fn release(&self, call: &Call, fh: Fh) -> SysResult<()> {
        let handle = self.handles.remove(fh)?;
        self.observer
            .op(OpKind::Release, call, On::Handle(&handle), |note| {
                if let Some(buffer) = handle.buffer.clone() {
                    self.release_buffer(&handle, &buffer, note);
                }
                Ok(())
            })
    }

    /// An open of the file is over. What is dirty of a file without a name waits until the kernel has
    /// forgotten it: somebody may be opening it just now. Of another, what a mapping wrote after the last
    /// close(2) follows.
    fn release_buffer(&self, handle: &Arc<Handle>, buffer: &Arc<File>, note: &mut Note) {
        let Some(files) = &self.files else { return };
        let by = note.by();
        let mut did = Did::new();
        let dirty = buffer.dirty_bytes() > 0;
        let nameless = dirty && self.is_nameless(handle, buffer);
        if nameless {
            buffer.lost_name(by.cause());
        } else if dirty && let Some(reason) = self.why_at_release(handle) {
            // The application is told of a failure by whoever has the file open, or the exit status.
            let range = ByteRange::ALL;
            if let Err(errno) = buffer.write_back(&by, &mut did, range, reason) {
                log::info!("what was written at release failed: {errno}");
            }
        }
        let left = files.released(&handle.inode, buffer);
        if left == 0 && nameless && !self.inodes.holds(&handle.inode) {
            // The kernel was faster to forget it.
            files.forget(handle.inode.node);
        }
        note.did(did);
        note_dirty(note, buffer);
    }

    /// Why the end of an open writes back what is dirty, if it does.
    fn why_at_release(&self, handle: &Handle) -> Option<Reason> {
        if handle.writable && self.on_close() == OnClose::Writeback {
            return Some(Reason::Close);
        }
        let files = self.files.as_ref();
        let many = files.is_some_and(|files| files.buffers().has_many_dirty_files());
        many.then_some(Reason::Memory)
    }

    /// Whether a file has no name any more, also where it lost the last one past the view.
    fn is_nameless(&self, handle: &Arc<Handle>, buffer: &File) -> bool {
        let gone = || sys::stat(handle.as_fd()).is_ok_and(|stat| stat.nlink == 0);
        buffer.is_nameless() || gone()
    }
}
