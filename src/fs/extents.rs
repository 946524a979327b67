//! Space and extents: fallocate, lseek to data and holes, copy_file_range, and the few ioctls that
//! mean something here.

use std::os::fd::AsFd;

use super::data::note_size;
use super::handle::Handle;
use super::observe::{Note, On};
use super::{Call, Fs};
use crate::buffer::Did;
use crate::cache::SetMtime;
use crate::error::Errno;
use crate::event::{OpKind, Reason};
use crate::sys::{self, SysResult};
use crate::types::{ByteRange, Fh};

/// The ioctls that are handed on, with the size of their record (include/uapi/linux/fs.h): they read
/// or change the attributes that chattr(1) and lsattr(1) show.
const IOCTLS: &[(u32, usize, &str)] = &[
    (0x8008_6601, 4, "FS_IOC_GETFLAGS"),
    (0x4008_6602, 4, "FS_IOC_SETFLAGS"),
    (0x801c_581f, 28, "FS_IOC_FSGETXATTR"),
    (0x401c_5820, 28, "FS_IOC_FSSETXATTR"),
];

impl Fs {
    /// fallocate(2), with the modes that the kernel lets through.
    ///
    /// # Errors
    /// Those of the call.
    pub fn fallocate(
        &self,
        call: &Call,
        fh: Fh,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> SysResult<()> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Fallocate, call, On::Handle(&handle), |note| {
                note.set(|op| {
                    op.offset = Some(offset);
                    op.size = Some(len);
                    op.mode = u32::try_from(mode).ok();
                });
                let change = || {
                    self.as_unprivileged(call, || sys::fallocate(handle.as_fd(), mode, offset, len))
                };
                let about = (ByteRange::at(offset, len), Reason::Fallocate);
                rewriting(&handle, note, about, change)?;
                note_size(note, &handle);
                Ok(())
            })
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    ///
    /// # Errors
    /// `ENXIO` past the end; `EINVAL` for another `whence`.
    pub fn lseek(&self, call: &Call, fh: Fh, offset: i64, whence: i32) -> SysResult<i64> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Lseek, call, On::Handle(&handle), |note| {
                let name = match whence {
                    libc::SEEK_DATA => "SEEK_DATA",
                    libc::SEEK_HOLE => "SEEK_HOLE",
                    _ => return Err(Errno::EINVAL),
                };
                note.set(|op| {
                    op.offset = u64::try_from(offset).ok();
                    op.name = Some(name.into());
                });
                let seek = || sys::seek_extent(handle.as_fd(), offset, whence);
                let found = settled(&handle, note, (ByteRange::ALL, Reason::Lseek), seek)?;
                note.set(|op| op.ret = u64::try_from(found).ok());
                Ok(found)
            })
    }

    /// copy_file_range(2) between two files of the view.
    ///
    /// # Errors
    /// Those of the call; the kernel copies by reads and writes after `EXDEV` and `EOPNOTSUPP`.
    pub fn copy_file_range(
        &self,
        call: &Call,
        from: (Fh, u64),
        to: (Fh, u64),
        len: usize,
    ) -> SysResult<usize> {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        self.observer
            .op(OpKind::CopyFileRange, call, On::Handle(&source), |note| {
                note.set(|op| {
                    op.offset = Some(from.1);
                    op.size = Some(len as u64);
                    op.fh_out = Some(to.0);
                    op.offset_out = Some(to.1);
                    op.path_out = target.shown().path.path;
                });
                note.copies_to(&target);
                let reason = Reason::CopyFileRange;
                // What is to be copied has to be there.
                settled(
                    &source,
                    note,
                    (ByteRange::at(from.1, len as u64), reason),
                    || Ok(()),
                )?;
                let copy = || {
                    self.as_unprivileged(call, || {
                        sys::copy_range((source.as_fd(), from.1), (target.as_fd(), to.1), len)
                    })
                };
                let about = (ByteRange::at(to.1, len as u64), reason);
                let count = rewriting(&target, note, about, copy)?;
                note_size(note, &target);
                note.set(|op| op.ret = Some(count as u64));
                Ok(count)
            })
    }

    /// ioctl(2), for the commands that read or set inode flags.
    ///
    /// # Errors
    /// `ENOTTY` for any other command; those of SOURCE.
    pub fn ioctl(&self, call: &Call, fh: Fh, command: u32, input: &[u8]) -> SysResult<Vec<u8>> {
        let handle = self.handle(fh)?;
        self.observer
            .op(OpKind::Ioctl, call, On::Handle(&handle), |note| {
                let known = IOCTLS.iter().find(|(number, ..)| *number == command);
                let name =
                    known.map_or_else(|| format!("{command:#x}"), |(.., name)| (*name).to_owned());
                note.set(|op| op.name = Some(name.into()));
                let &(_, size, _) = known.ok_or(Errno::ENOTTY)?;
                let mut record = vec![0; size];
                let given = input.len().min(size);
                record[..given].copy_from_slice(&input[..given]);
                let mut did = Did::new();
                let ask = || sys::ioctl_in_place(handle.as_fd(), command, &mut record);
                let done = self.changing(&handle.inode, SetMtime::Left, &mut did, ask);
                note.did(did);
                done.map(|_| record)
            })
    }
}

/// Runs what changes the data of a file of SOURCE itself, after what is dirty of it.
fn rewriting<T>(
    handle: &Handle,
    note: &mut Note,
    about: (ByteRange, Reason),
    change: impl FnOnce() -> SysResult<T>,
) -> SysResult<T> {
    let Some(buffer) = &handle.buffer else {
        return change();
    };
    let mut did = Did::new();
    let stat = || sys::stat(handle.as_fd());
    let done = buffer.rewriting(&note.by(), &mut did, about, change, stat);
    note.did(did);
    done
}

/// Runs what has to see the data of a file in SOURCE, after what is dirty of it.
fn settled<T>(
    handle: &Handle,
    note: &mut Note,
    about: (ByteRange, Reason),
    work: impl FnOnce() -> SysResult<T>,
) -> SysResult<T> {
    let Some(buffer) = &handle.buffer else {
        return work();
    };
    let mut did = Did::new();
    let done = buffer.settled(&note.by(), &mut did, about, work);
    note.did(did);
    done
}
