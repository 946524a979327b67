//! File data: open to release.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::attrs::Attr;
use super::handle::Handle;
use super::inode::{Inode, lock};
use super::namespace::{NewEntry, mode_of};
use super::observe::{Note, On};
use super::{Call, Fs, Permissions};
use crate::error::Errno;
use crate::event::{CacheDid, OpKind, Reason, open_flag_names, write_flag_names};
use crate::sys::{self, Access, SyncKind, SysResult};
use crate::types::{Fh, NodeId};

/// Where a read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The application's own call.
    Call,
    /// The kernel's page cache wants to be filled: a page fault, sendfile, splice or execve.
    PageCache,
}

/// Where a write comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFrom {
    /// A caller who keeps set-id bits (`CAP_FSETID`).
    Call,
    /// A caller whose write clears set-id bits (FUSE_WRITE_KILL_SUIDGID).
    CallClearingSetId,
    /// The kernel writes a page back that a mapping had changed (FUSE_WRITE_CACHE).
    Mapping,
}

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
                self.may_execute(&inode, flags)?;
                let file = self.open_file(call, &inode, flags & !NOT_BELOW)?;
                note_size(note, &file);
                let handle = self.opened(inode.clone(), file, (*call, note.thread()))?;
                note.set(|op| op.fh = Some(handle.fh));
                Ok(handle.fh)
            })
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
        let open = |flags| {
            if flags & libc::O_TRUNC == 0 {
                self.reopen(inode, flags)
            } else {
                self.as_unprivileged(call, || self.reopen(inode, flags))
            }
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
                let (inode, attr, file) = match self.create_new(call, &dir, name, flags, new) {
                    Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => {
                        let (inode, attr) = self.find(&dir, name)?;
                        let opened = self.open_file(call, &inode, flags & !NOT_BELOW);
                        let file = opened.inspect_err(|_| self.inodes.forget(inode.node, 1))?;
                        (inode, attr, file)
                    }
                    other => other?,
                };
                note_size(note, &file);
                let handle = self.opened(inode, file, (*call, note.thread()))?;
                note.set(|op| {
                    op.fh = Some(handle.fh);
                    op.ino = Some(attr.ino);
                });
                Ok((attr, handle.fh))
            })
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
        let (inode, attr) = self.enter(dir, name, path_fd)?;
        Ok((inode, attr, file))
    }

    /// Reads into `buf`; short only at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(
        &self,
        call: &Call,
        fh: Fh,
        offset: u64,
        buf: &mut [u8],
        from: ReadFrom,
    ) -> SysResult<usize> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Read, call, On::Handle(&handle), |note| {
                note.set(|op| {
                    op.offset = Some(offset);
                    op.size = Some(buf.len() as u64);
                });
                if note.recording() && from == ReadFrom::PageCache {
                    let fault = self
                        .observer
                        .callers()
                        .in_page_fault(call.tid)
                        .unwrap_or(false);
                    note.set(|op| {
                        op.mapped = fault;
                        op.page_cache = !fault;
                    });
                }
                let count = sys::read_at(handle.as_fd(), buf, offset)?;
                note_size(note, &*handle);
                note.set(|op| {
                    op.ret = Some(count as u64);
                    // The file may have shrunk since: what was read was within it.
                    op.file_size = op.file_size.map(|size| size.max(offset + count as u64));
                    if count > 0 {
                        let size = count as u64;
                        op.cache.push(CacheDid::Bypass {
                            size,
                            reason: Reason::Policy,
                        });
                    }
                });
                Ok(count)
            })
    }

    /// Writes `data`: at `offset`, or with `O_APPEND` among the flags wherever the file ends now.
    /// `flags` are the open file's, with those of the call (`RWF_DSYNC`, `RWF_SYNC`) added.
    ///
    /// # Errors
    /// Those of pwritev2(2).
    pub fn write(
        &self,
        call: &Call,
        fh: Fh,
        offset: u64,
        data: &[u8],
        flags: i32,
        from: WriteFrom,
    ) -> SysResult<usize> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Write, call, On::Handle(&handle), |note| {
                note.set(|op| {
                    op.offset = Some(offset);
                    op.size = Some(data.len() as u64);
                    op.flags = write_flag_names(flags);
                    op.mapped = from == WriteFrom::Mapping;
                });
                // A page goes where it belongs, however its file is open.
                let flags = if from == WriteFrom::Mapping {
                    flags & !libc::O_APPEND
                } else {
                    flags
                };
                let write = || put(&handle, offset, data, flags);
                let (count, at) = match from {
                    WriteFrom::CallClearingSetId => self.as_unprivileged(call, write)?,
                    WriteFrom::Call | WriteFrom::Mapping => write()?,
                };
                note_size(note, &*handle);
                note.set(|op| {
                    op.offset = Some(at);
                    op.ret = Some(count as u64);
                    if count > 0 {
                        let size = count as u64;
                        op.cache.push(CacheDid::WriteThrough {
                            size,
                            reason: Reason::Policy,
                        });
                    }
                });
                Ok(count)
            })
    }

    /// close(2) of one descriptor: tells an error that SOURCE tells only then.
    ///
    /// # Errors
    /// Those of close(2): `EIO`, `ENOSPC`, `EDQUOT` on network filesystems.
    pub fn flush(&self, call: &Call, fh: Fh) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Flush, call, On::Handle(&handle), |_| {
                let copy = handle.as_fd().try_clone_to_owned()?;
                nix::unistd::close(copy).map_err(Errno::from)
            })
    }

    /// fsync(2) and fdatasync(2).
    ///
    /// # Errors
    /// Those of the calls.
    pub fn fsync(&self, call: &Call, fh: Fh, kind: SyncKind) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Fsync, call, On::Handle(&handle), |note| {
                note.set(|op| op.datasync = kind == SyncKind::Data);
                sys::fsync(handle.as_fd(), kind)
            })
    }

    /// The last descriptor of an open file is gone.
    ///
    /// # Errors
    /// `EBADF` for one that is not open.
    pub fn release(&self, call: &Call, fh: Fh) -> SysResult<()> {
        let handle = self.handles.remove(fh)?;
        self.observer
            .op(OpKind::Release, call, On::Handle(&handle), |_| Ok(()))
    }
}

/// Writes, and tells how much and where.
fn put(handle: &Handle, offset: u64, data: &[u8], flags: i32) -> SysResult<(usize, u64)> {
    let sync = match flags & libc::O_SYNC {
        libc::O_SYNC => SyncKind::All,
        0 => SyncKind::None,
        _ => SyncKind::Data,
    };
    if flags & libc::O_APPEND == 0 {
        let count = sys::write_at(handle.as_fd(), data, offset, sync)?;
        return Ok((count, offset));
    }
    let _turn = lock(&handle.append_turn);
    let (count, end) = sys::append(handle.as_fd(), data, sync)?;
    Ok((count, end.saturating_sub(count as u64)))
}

fn note_size(note: &mut Note<'_>, file: &impl AsFd) {
    if note.recording() {
        let size = sys::stat(file.as_fd()).ok().map(|stat| stat.size);
        note.set(|op| op.file_size = size);
    }
}
