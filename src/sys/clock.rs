//! The clock that the kernel stamps files with.

use std::ffi::CStr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::{SysResult, TimeSet, set_times, stat};
use crate::error::Errno;

const NAME: &CStr = c"iolens-clock";

/// `CLOCK_REALTIME_COARSE`: seconds since the epoch and nanoseconds, as of the kernel's last tick. Files get
/// the same (fs/inode.c current_time()), so that a time taken here is never ahead of one taken there.
#[must_use]
pub fn coarse_time() -> (i64, u32) {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the record is valid for one write. The clock exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// That clock between two ticks. Since Linux 6.13 a file that somebody has looked at gets a finer time when it changes, and
/// no file that changes later an earlier one (Documentation/filesystems/multigrain-ts.rst). So a file of our own is looked
/// at and changed: a user's might have to be waited for. On older kernels it is the coarse time, as with all files there.
#[derive(Debug)]
pub struct Clock(OwnedFd);

impl Clock {
    /// A clock.
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn new() -> SysResult<Clock> {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Errno::last());
        }
        // SAFETY: the descriptor is new and ours.
        Ok(Clock(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The time, seconds since the epoch and nanoseconds: later than `seen`, which a file showed, where the kernel has finer
    /// times.
    ///
    /// # Errors
    /// Those of utimensat(2) and statx(2), of which none is to be expected.
    pub fn later_than(&self, seen: (i64, u32)) -> SysResult<(i64, u32)> {
        let now = self.stamp()?;
        // The first stamp in a tick is the tick's.
        if now <= seen { self.stamp() } else { Ok(now) }
    }

    fn stamp(&self) -> SysResult<(i64, u32)> {
        set_times(self.0.as_fd(), TimeSet::Keep, TimeSet::Now)?;
        Ok(stat(self.0.as_fd())?.ctime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_and_the_times_of_files_agree_on_what_came_first() {
        let clock = Clock::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut last = coarse_time();
        for _ in 0..1000 {
            let now = clock.later_than(last).unwrap();
            assert!(now >= last, "{now:?} after {last:?}");
            set_times(file.as_fd(), TimeSet::Keep, TimeSet::Now).unwrap();
            last = stat(file.as_fd()).unwrap().ctime;
            assert!(last >= now, "{last:?} after {now:?}");
        }
    }
}
