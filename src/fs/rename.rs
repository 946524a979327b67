//! Moving a name, over what may be there.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::inode::Inode;
use super::names::path_below;
use super::observe::{Note, On};
use super::{Call, Fs};
use crate::buffer::Did;
use crate::cache::SetMtime;
use crate::event::{ByteText, OpKind, Reason};
use crate::sys::{self, Access, SysResult};
use crate::types::{ByteRange, NodeId};

impl Fs {
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
                // The other name was asked for, unless both take part.
                let ends = [
                    (&old_dir, from.1, moved.as_ref()),
                    (&new_dir, to.1, other.as_ref()),
                ];
                self.check_way_to(call, &ends[..1 + usize::from(exchange)])?;
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
                let dirs = [&moved, &other].map(|inode| inode.as_ref().is_some_and(|i| i.is_dir()));
                let _moving = self.moves_a_directory(dirs.contains(&true));
                self.changing_both([&moved, &other], note, rename)?;
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
        note: &mut Note,
        change: impl FnOnce() -> SysResult<()>,
    ) -> SysResult<()> {
        let (mut first, mut second) = (Did::new(), Did::new());
        let left = SetMtime::Left;
        let done = match inodes {
            [Some(one), Some(two)] => self.changing(one, left, &mut first, || {
                self.changing(two, left, &mut second, change)
            }),
            [Some(one), None] | [None, Some(one)] => self.changing(one, left, &mut first, change),
            [None, None] => change(),
        };
        note.did(first);
        note.did(second);
        done
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
