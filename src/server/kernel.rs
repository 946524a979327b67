//! What depends on the kernel: the oldest one that will do, what is missing below newer ones, and what
//! no request of any kernel tells.
//!
//! Layer: edge (`server`).

use crate::fs::KernelCache;
use crate::mount::Problem;

/// The oldest kernel: faccessat2(2) and utimensat(2) with `AT_EMPTY_PATH` came with Linux 5.8.
const OLDEST: Release = Release(5, 8);

/// What is missing below a version, newest first.
const DEGRADES: &[(Release, &str)] = &[
    (
        Release(6, 14),
        "requests arrive over /dev/fuse only: FUSE over io_uring needs Linux 6.14",
    ),
    (
        Release(6, 9),
        "a shared mapping and direct writes of the same file at once are not kept apart by the kernel \
         before Linux 6.9",
    ),
    (
        Release(6, 6),
        "shared memory mappings of files in the view fail with ENODEV before Linux 6.6",
    ),
];

/// What no request tells, with any kernel.
const ALWAYS_INVISIBLE: &[&str] = &[
    "errors that the kernel finds before it asks: EBADF, EFAULT, EFBIG, EISDIR, ELOOP, a file name that \
     is too long",
    "repeated sendfile and splice from the kernel's page cache: the read that fills it is marked page_cache",
    "loads and stores through a memory mapping: page faults and page write-back are marked mapped",
    "dup, fcntl, lseek with SEEK_SET, SEEK_CUR and SEEK_END, sync, syncfs and sync_file_range",
    "flock, fcntl and OFD locks: the kernel keeps them itself, among the programs in the view",
];

/// What no request tells where the kernel checks permissions.
const DENIALS: &str =
    "denials of permission: the kernel decides them before it asks (default_permissions)";

/// What no request tells with `--kernel-cache read` and `write-back`.
const READS: &str = "reads that the kernel answers from its page cache, read(2) itself, and how much it asked for: the reads that \
                     fill the cache are marked page_cache";
/// The same, of attributes and names.
const KEPT: &str = "stat(2) and fstat(2) of what was asked for within the last second, and directories on the way to a file: \
                    the kernel keeps the attributes of files, and the names and attributes of directories, for so long";
/// What no request tells with `--kernel-cache write-back`.
const WRITES: &str = "write(2) itself, by whom, how much at a time and when: the kernel's writes of what has changed are marked \
                      page_cache; file sizes and times are the kernel's until then";

/// Major and minor number of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32);

impl Release {
    /// Of what `uname -r` says: `6.18.44-generic` is 6.18.
    fn parse(text: &str) -> Option<Release> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Release(
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
        ))
    }
}

/// The running kernel's release, as `uname -r` gives it.
pub(super) fn release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

/// Refuses a kernel that is too old. One whose number cannot be read is given a try.
///
/// # Errors
/// One sentence.
pub(super) fn check(release: &str) -> Result<(), Problem> {
    match Release::parse(release) {
        Some(found) if found < OLDEST => Err(Problem::new(format!(
            "Linux {release} is too old: iolens needs {}.{} (ENOSYS)",
            OLDEST.0, OLDEST.1
        ))),
        _ => Ok(()),
    }
}

/// What works differently with this kernel, each one sentence.
pub(super) fn limits(release: &str) -> Vec<String> {
    let Some(found) = Release::parse(release) else {
        return Vec::new();
    };
    let missing = DEGRADES.iter().filter(|(since, _)| found < *since);
    missing.map(|(_, what)| (*what).to_owned()).collect()
}

/// What no request tells, each one sentence.
pub(super) fn invisible(kernel_permissions: bool, cache: KernelCache) -> Vec<String> {
    let mut all: Vec<String> = ALWAYS_INVISIBLE
        .iter()
        .map(|&what| what.to_owned())
        .collect();
    if kernel_permissions {
        all.push(DENIALS.to_owned());
    }
    if cache != KernelCache::Off {
        all.extend([READS, KEPT].map(str::to_owned));
    }
    if cache == KernelCache::WriteBack {
        all.push(WRITES.to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_whatever_follows_the_numbers() {
        assert_eq!(Release::parse("6.18.44-fc"), Some(Release(6, 18)));
        assert_eq!(Release::parse("5.8-rc1"), Some(Release(5, 8)));
        assert_eq!(Release::parse("unknown"), None);
    }

    #[test]
    fn older_kernels_miss_more_and_too_old_ones_are_refused() {
        assert!(limits("6.18.0").is_empty());
        assert_eq!(limits("6.13.1").len(), 1);
        assert_eq!(limits("6.8.0").len(), 2);
        assert_eq!(limits("6.1.0").len(), 3);
        assert!(check("5.7.19").is_err());
        assert!(check("5.10.0").is_ok());
    }
}
