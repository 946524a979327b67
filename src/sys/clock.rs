//! The clock that the kernel stamps files with.

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
