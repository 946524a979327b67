//! Extended attributes.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::inode::Inode;
use super::observe::{Note, On};
use super::{Call, Fs, Permissions};
use crate::buffer::Did;
use crate::cache::SetMtime;
use crate::error::Errno;
use crate::event::OpKind;
use crate::sys::{self, SysResult};
use crate::types::NodeId;

/// The longest list that Linux gives: `XATTR_LIST_MAX` of include/uapi/linux/limits.h.
const XATTR_LIST_MAX: usize = 65536;

impl Fs {
    /// getxattr(2). With `size` 0 only the length of the result means something.
    ///
    /// # Errors
    /// `ENODATA`, `ERANGE`, `EOPNOTSUPP` as SOURCE says.
    pub fn getxattr(
        &self,
        call: &Call,
        node: NodeId,
        name: &OsStr,
        size: usize,
    ) -> SysResult<Vec<u8>> {
        self.xattr(OpKind::Getxattr, call, node, Some(name), |inode, note| {
            let value = sys::get_xattr(self.fd(inode)?.as_fd(), name, size)?;
            note.set(|op| {
                op.size = Some(size as u64);
                op.ret = Some(value.len() as u64);
            });
            Ok(value)
        })
    }

    /// listxattr(2). With `size` 0 only the length of the result means something.
    ///
    /// # Errors
    /// `ERANGE` as SOURCE says.
    pub fn listxattr(&self, call: &Call, node: NodeId, size: usize) -> SysResult<Vec<u8>> {
        self.xattr(OpKind::Listxattr, call, node, None, |inode, note| {
            let names = self.visible_xattrs(call, inode, size)?;
            note.set(|op| {
                op.size = Some(size as u64);
                op.ret = Some(names.len() as u64);
            });
            Ok(names)
        })
    }

    /// The names that the caller may know of: `trusted.*` is for `CAP_SYS_ADMIN` only, which uid 0
    /// stands for here (man 7 xattr).
    fn visible_xattrs(&self, call: &Call, inode: &Arc<Inode>, size: usize) -> SysResult<Vec<u8>> {
        let fd = self.fd(inode)?;
        if self.options.permissions == Permissions::Source || call.uid == 0 {
            return sys::list_xattr(fd.as_fd(), size);
        }
        let all = sys::list_xattr(fd.as_fd(), XATTR_LIST_MAX)?;
        let seen = all.split_inclusive(|&byte| byte == 0);
        let seen: Vec<u8> = seen
            .filter(|name| !name.starts_with(b"trusted."))
            .flatten()
            .copied()
            .collect();
        if size != 0 && seen.len() > size {
            Err(Errno::ERANGE)
        } else {
            Ok(seen)
        }
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP` as SOURCE says.
    pub fn setxattr(
        &self,
        call: &Call,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> SysResult<()> {
        self.xattr(OpKind::Setxattr, call, node, Some(name), |inode, note| {
            note.set(|op| op.size = Some(value.len() as u64));
            let fd = self.fd(inode)?;
            // Setting an access ACL clears set-gid for who is not in the group (fs/posix_acl.c
            // posix_acl_update_mode()): SOURCE decides that by the caller's group.
            let clears = name == "system.posix_acl_access"
                && self.options.permissions == Permissions::Kernel
                && call.uid != 0
                && sys::stat(fd.as_fd())?.gid != call.gid;
            let set = || sys::set_xattr(fd.as_fd(), name, value, flags);
            let mut did = Did::new();
            let done = self.changing(inode, SetMtime::Left, &mut did, || {
                if clears {
                    self.as_unprivileged(call, set)
                } else {
                    set()
                }
            });
            note.did(did);
            done
        })
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP` as SOURCE says.
    pub fn removexattr(&self, call: &Call, node: NodeId, name: &OsStr) -> SysResult<()> {
        self.xattr(
            OpKind::Removexattr,
            call,
            node,
            Some(name),
            |inode, note| {
                let fd = self.fd(inode)?;
                let mut did = Did::new();
                let remove = || sys::remove_xattr(fd.as_fd(), name);
                let done = self.changing(inode, SetMtime::Left, &mut did, remove);
                note.did(did);
                done
            },
        )
    }

    fn xattr<T>(
        &self,
        kind: OpKind,
        call: &Call,
        node: NodeId,
        name: Option<&OsStr>,
        work: impl FnOnce(&Arc<Inode>, &mut Note) -> SysResult<T>,
    ) -> SysResult<T> {
        let inode = self.inode(node)?;
        self.observer.op(kind, call, On::Inode(&inode), |note| {
            note.set(|op| op.name = name.map(|name| name.to_string_lossy().into()));
            self.check_way_for_xattr(call, &inode)?;
            work(&inode, note)
        })
    }
}
