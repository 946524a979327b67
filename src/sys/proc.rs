//! Limits of this process.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Raises the limit of open descriptors as far as it goes, and returns what then holds: a server opens the files of many
/// programs, each of which has a limit of its own. Only `CAP_SYS_RESOURCE` goes beyond the hard one, up to
/// `/proc/sys/fs/nr_open` (man 5 proc).
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = Resource::RLIMIT_NOFILE;
    let Ok((soft, hard)) = getrlimit(limit) else {
        return 1024;
    };
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let most = most.ok().and_then(|text| text.trim().parse().ok());
    let wanted = [most.unwrap_or(hard).max(hard), hard];
    let raised = wanted
        .into_iter()
        .find(|&limited| setrlimit(limit, limited, limited).is_ok());
    raised.unwrap_or(soft)
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
