//! fuser's types from ours and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno as WireErrno, FileAttr, FileType, Generation, INodeNo, TimeOrNow};

use crate::error::Errno;
use crate::fs::{Attr, Call, Fs};
use crate::sys::{Stat, TimeSet};
use crate::types::{NodeId, Tid};

/// How long a name and the attributes that come with it are kept: fuser has one lifetime for both.
pub(super) fn entry_lifetime(fs: &Fs, attr: &Attr) -> Duration {
    let lifetimes = fs.lifetimes(attr);
    lifetimes.name.min(lifetimes.attr)
}

pub(super) fn call(request: &fuser::Request) -> Call {
    Call {
        tid: Tid(request.pid()),
        uid: request.uid(),
        gid: request.gid(),
        unique: request.unique().0,
    }
}

pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

pub(super) fn errno(errno: Errno) -> WireErrno {
    WireErrno::from_i32(errno.raw())
}

pub(super) fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation)
}

/// The attributes for an answer that also names the inode: there fuser 0.18 takes the inode number
/// for the node id.
pub(super) fn entry_attr(attr: &Attr) -> FileAttr {
    file_attr(attr.node.0, &attr.stat)
}

/// The attributes for an answer that only tells them.
pub(super) fn plain_attr(attr: &Attr) -> FileAttr {
    file_attr(attr.ino.0, &attr.stat)
}

fn file_attr(ino: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.mode),
        perm: u16::try_from(stat.mode & 0o7777).unwrap_or(0),
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        // The kernel's 32-bit form and makedev(3) agree for all device numbers that exist.
        rdev: u32::try_from(stat.rdev).unwrap_or(0),
        blksize: stat.blksize,
        flags: 0,
    }
}

fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// `DT_*` of a directory entry.
pub(super) fn entry_type(kind: u8) -> FileType {
    file_type(u32::from(kind) << 12)
}

fn system_time((seconds, nanos): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let fraction = Duration::from_nanos(u64::from(nanos));
    let time = if seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    time.and_then(|time| time.checked_add(fraction))
        .unwrap_or(UNIX_EPOCH)
}

pub(super) fn time_set(time: Option<TimeOrNow>) -> TimeSet {
    match time {
        None => TimeSet::Keep,
        Some(TimeOrNow::Now) => TimeSet::Now,
        Some(TimeOrNow::SpecificTime(time)) => specific(time),
    }
}

/// fuser 0.18 decodes (-2 s, +0.5 s) as 2.5 s before 1970 instead of 1.5 s; its parts still are the
/// ones that the kernel sent.
fn specific(time: SystemTime) -> TimeSet {
    let parts = |d: Duration| {
        (
            i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            d.subsec_nanos(),
        )
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            let (seconds, nanos) = parts(after);
            TimeSet::At(seconds, nanos)
        }
        Err(before) => {
            let (seconds, nanos) = parts(before.duration());
            TimeSet::At(-seconds, nanos)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_keeps_its_fraction_both_ways() {
        // What the kernel sends as (-2, 500 ms) is decoded by fuser as 2.5 s before the epoch.
        let decoded = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(specific(decoded), TimeSet::At(-2, 500_000_000));
        // On the way out it is 1.5 s before the epoch.
        let shown = system_time((-2, 500_000_000));
        assert_eq!(
            UNIX_EPOCH.duration_since(shown).unwrap(),
            Duration::new(1, 500_000_000)
        );
    }
}
