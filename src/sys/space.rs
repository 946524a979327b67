//! What a filesystem has room for: free space, quotas, and how large a file may be.
//!
//! Layer: vocabulary (`sys`). Says what the kernel says; what follows from it is for `buffer`.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

use super::{SysResult, check, ioctl_in_place, stat, statfs};
use crate::error::Errno;

/// The space of a filesystem, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it; 0 where the filesystem does not say.
    pub total: u64,
    /// What somebody without privileges may still take.
    pub free: u64,
    /// The unit that it is given out in.
    pub unit: u64,
}

/// The space of the filesystem behind a descriptor.
///
/// # Errors
/// Those of fstatfs(2).
pub fn space(fd: BorrowedFd<'_>) -> SysResult<Space> {
    let found = statfs(fd)?;
    let unit = found.fragment_size();
    Ok(Space {
        total: found.blocks().saturating_mul(unit),
        free: found.blocks_available().saturating_mul(unit),
        unit,
    })
}

/// include/uapi/linux/quota.h: for users, groups and projects.
const KINDS: [libc::c_int; 3] = [0, 1, 2];
/// `SUBCMDSHIFT` of the same.
const SUBCMDSHIFT: u32 = 8;
/// The unit of limits (`QIF_DQBLKSIZE`).
const QUOTA_UNIT: u64 = 1024;
/// `FS_IOC_FSGETXATTR` (include/uapi/linux/fs.h), the size of its record, and where the project is in it.
const FSGETXATTR: u32 = 0x801c_581f;
const FSXATTR_BYTES: usize = 28;
const PROJECT_AT: usize = 12;

/// What is left of the quotas that count the bytes of a file, those of its owner, group and project: the least,
/// in bytes; `None` where none of them has a limit, or where it may not be known.
///
/// # Errors
/// `ESRCH` where the filesystem has no quotas, or none are on (man 2 quotactl); those of statx(2).
pub fn quota_left(fd: BorrowedFd<'_>) -> SysResult<Option<u64>> {
    let owner = stat(fd)?;
    let project = || {
        let mut record = [0; FSXATTR_BYTES];
        ioctl_in_place(fd, FSGETXATTR, &mut record).ok()?;
        let number = record[PROJECT_AT..PROJECT_AT + 4].try_into().ok()?;
        Some(u32::from_ne_bytes(number))
    };
    let ids = [Some(owner.uid), Some(owner.gid), project()];
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let (mut any, mut least) = (false, None);
    for (kind, id) in KINDS.into_iter().zip(ids) {
        let Some(id) = id else { continue };
        match quota(fd, kind, id) {
            Ok(found) => {
                any = true;
                let left = found.left(now);
                least = least.into_iter().chain(left).min();
            }
            // Counted, but there is nothing about this id (XFS), or it is not for us to know.
            Err(Errno::ENOENT | Errno::EPERM | Errno::EACCES) => any = true,
            // ENOSYS, ENOTBLK, ENODEV, EINVAL, ...: as different as filesystems and kernels are.
            Err(_) => {}
        }
    }
    if any { Ok(least) } else { Err(Errno::ESRCH) }
}

/// A quota, of space.
#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    /// Limits in units of [`QUOTA_UNIT`]; 0 is none.
    hard: u64,
    soft: u64,
    /// Bytes.
    used: u64,
    /// When the soft limit becomes a hard one, in seconds since the epoch; 0 while it is kept.
    grace_end: u64,
}

impl Quota {
    /// Bytes until a write is refused (fs/quota/dquot.c dquot_add_space()).
    fn left(self, now: u64) -> Option<u64> {
        let left = |limit: u64| {
            let bytes = limit.saturating_mul(QUOTA_UNIT);
            (limit > 0).then(|| bytes.saturating_sub(self.used))
        };
        let over = self.grace_end != 0 && now >= self.grace_end;
        let soft = left(self.soft).filter(|_| over);
        left(self.hard).into_iter().chain(soft).min()
    }
}

fn quota(fd: BorrowedFd<'_>, kind: libc::c_int, id: u32) -> SysResult<Quota> {
    let command = (libc::Q_GETQUOTA.cast_unsigned() << SUBCMDSHIFT) | kind.cast_unsigned();
    // SAFETY: the record is made of numbers alone.
    let mut found: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is the record of the command, valid for writes.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd.as_raw_fd(),
            command,
            id,
            &raw mut found,
        )
    };
    check(libc::c_int::try_from(ret).unwrap_or(-1))?;
    Ok(Quota {
        hard: found.dqb_bhardlimit,
        soft: found.dqb_bsoftlimit,
        used: found.dqb_curspace,
        grace_end: found.dqb_btime,
    })
}

/// The largest size that the file behind a descriptor may have, bytes, whoever writes to it: its filesystem's
/// limit. The position of the descriptor is moved: callers of the same descriptor must take turns.
///
/// Every lseek(2) beyond it is refused, and all others work (fs/read_write.c vfs_setpos()).
///
/// # Errors
/// Those of lseek(2), for a position that every file may have.
pub fn size_limit(fd: BorrowedFd<'_>) -> SysResult<u64> {
    let is_good = |end: i64| {
        // SAFETY: plain numbers.
        let at = unsafe { libc::lseek(fd.as_raw_fd(), end, libc::SEEK_SET) };
        if at == end {
            Ok(())
        } else {
            Err(Errno::last())
        }
    };
    is_good(0)?;
    if is_good(i64::MAX).is_ok() {
        return Ok(i64::MAX.unsigned_abs());
    }
    let (mut good, mut bad) = (0, i64::MAX);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match is_good(middle) {
            Ok(()) => good = middle,
            Err(_) => bad = middle,
        }
    }
    Ok(good.unsigned_abs())
}

/// The largest size that this process may give a file (`RLIMIT_FSIZE`), bytes.
#[must_use]
pub fn own_size_limit() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_quota_leaves_what_its_hard_limit_does_and_its_soft_one_when_the_time_is_over() {
        let quota = |hard, soft, used, grace_end| Quota {
            hard,
            soft,
            used,
            grace_end,
        };
        for (quota, left) in [
            (quota(0, 0, 5_000, 0), None),
            (quota(10, 0, 5_000, 0), Some(5_240)),
            (quota(10, 0, 20_000, 0), Some(0)),
            (quota(0, 4, 5_000, 0), None),
            (quota(0, 4, 5_000, 101), None),
            (quota(0, 4, 5_000, 100), Some(0)),
            (quota(10, 4, 5_000, 100), Some(0)),
            (quota(10, 4, 5_000, 101), Some(5_240)),
            (quota(u64::MAX, 0, 5_000, 0), Some(u64::MAX - 5_000)),
        ] {
            assert_eq!(quota.left(100), left, "{quota:?}");
        }
    }

    #[test]
    fn where_no_quotas_are_on_that_is_said() {
        // A filesystem in memory, of this process alone.
        let memfd = nix::sys::memfd::memfd_create(c"q", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        assert_eq!(quota_left(memfd.unwrap().as_fd()), Err(Errno::ESRCH));
    }

    #[test]
    fn the_space_of_a_filesystem_is_what_statvfs_says() {
        let file = tempfile::tempfile().unwrap();
        let found = space(file.as_fd()).unwrap();
        assert!(found.unit > 0 && found.free <= found.total && found.total > 0);
    }

    #[test]
    fn a_file_may_be_as_large_as_lseek_says() {
        let file = tempfile::tempfile().unwrap();
        let limit = size_limit(file.as_fd()).unwrap();
        assert!(limit >= 1 << 31, "{limit}");
        if let Ok(behind) = i64::try_from(limit + 1) {
            let refused = super::super::write_at(
                file.as_fd(),
                b"x",
                behind.unsigned_abs() - 1,
                super::super::SyncKind::None,
            );
            assert_eq!(refused, Err(Errno::EFBIG));
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
