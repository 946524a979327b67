//! Limits of this process.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Raises the soft limit of open descriptors to the hard one and returns what then holds.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Heaps that threads share, at most (glibc: as many as eight for each CPU, each of which keeps what was
/// freed in it).
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// Keeps the server's memory together: a thread that frees what another one allocated leaves it with the
/// other's heap (man 3 mallopt, M_ARENA_MAX). To be called before there are threads.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator, under its own lock.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) } == 0 {
        log::info!("the allocator keeps one heap for each thread");
    }
}

/// Lifts the file-size limit of this process, a server or what completes its work: the kernel applies the
/// caller's (`RLIMIT_FSIZE`), and the server must not die of SIGXFSZ. What is left of the limit says
/// [`own_size_limit`](super::own_size_limit).
pub fn lift_file_size_limit() {
    // An append of a caller without a limit may pass ours: EFBIG for that request, not our end.
    // SAFETY: ignoring a signal installs no handler.
    if let Err(errno) = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) } {
        log::warn!("SIGXFSZ cannot be ignored: {errno}");
    }
    let limit = Resource::RLIMIT_FSIZE;
    if let Ok((_, hard)) = getrlimit(limit)
        && setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY).is_err()
    {
        // Only root may raise the hard limit. Where it is finite it stays: the application has the same one.
        let _ = setrlimit(limit, hard, hard);
    }
}
