//! Taking a mount away, and only ours.
//!
//! Layer: edge (`mount`). Before each attempt the mount on top at the path is compared with the one that
//! is meant: between two attempts somebody else may have mounted there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno as NixErrno;
use nix::mount::{MntFlags, umount2};

use super::mountinfo::{self, DevNo, MountEntry};
use super::{Detach, Problem, fusermount};
use crate::error::Errno;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is no longer mounted, by this call or before.
    Gone,
    /// Something uses it (`EBUSY`); nothing was changed.
    Busy,
}

/// Finds the mount of iolens at a path that a user typed, without asking the mount anything.
///
/// # Errors
/// No mount there, or one that is not ours.
pub fn find_ours(typed: &Path) -> Result<MountEntry, Problem> {
    let shown = typed.display();
    let entries = mountinfo::read_own()
        .map_err(|error| Problem::at("cannot read", Path::new("/proc/self/mountinfo"), error))?;
    let candidates = [without_touching(typed), fs::canonicalize(typed).ok()];
    for path in candidates.into_iter().flatten() {
        match mountinfo::topmost_at(&entries, &path) {
            Some(entry) if entry.is_ours() => return Ok(entry.clone()),
            Some(entry) => {
                return Err(Problem::new(format!(
                    "{shown} is not a mount of iolens but of type {} (EINVAL): use umount {shown}",
                    entry.fs_type
                )));
            }
            None => {}
        }
    }
    if fs::symlink_metadata(typed).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        let errno = Errno::ENOENT;
        return Err(Problem::new(format!(
            "{shown}: {errno}; name the mountpoint"
        )));
    }
    Err(Problem::new(format!(
        "{shown} is not a mountpoint (EINVAL): the mounts of iolens are listed by `findmnt -t {}`",
        mountinfo::FS_TYPE
    )))
}

/// The path with everything resolved but its last component, which may be a mount whose server hangs.
fn without_touching(typed: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(typed).ok()?;
    // `absolute` drops a trailing slash; a trailing `..` has no name and needs the whole resolution.
    let name: OsString = absolute.file_name()?.to_owned();
    Some(fs::canonicalize(absolute.parent()?).ok()?.join(name))
}

/// Whether the mount `dev` is on top at `point` in this namespace.
#[must_use]
pub fn is_mounted(point: &Path, dev: DevNo) -> bool {
    let entries = mountinfo::read_own().unwrap_or_default();
    mountinfo::topmost_at(&entries, point).is_some_and(|entry| entry.is_ours() && entry.dev == dev)
}

/// How long a busy mount is tried again. Whoever reads the links in `/proc/PID/fd` (lsof, fuser, we
/// ourselves) keeps what they lead to busy for microseconds; who really uses it does so for longer.
const RETRY_FOR: Duration = Duration::from_millis(250);
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Unmounts `dev` from `point` if nothing uses it, also after a moment.
///
/// # Errors
/// Those of [`unmount`].
pub fn unmount_idle(point: &Path, dev: DevNo) -> Result<Outcome, Problem> {
    let deadline = Instant::now() + RETRY_FOR;
    loop {
        match unmount(point, dev, Detach::WhenIdle)? {
            Outcome::Busy if Instant::now() < deadline => std::thread::sleep(RETRY_PAUSE),
            outcome => return Ok(outcome),
        }
    }
}

/// Unmounts `dev` from `point`, in one attempt.
///
/// # Errors
/// One sentence; also when something else lies on top of our mount.
pub fn unmount(point: &Path, dev: DevNo, how: Detach) -> Result<Outcome, Problem> {
    let entries = mountinfo::read_own()
        .map_err(|error| Problem::at("cannot read", Path::new("/proc/self/mountinfo"), error))?;
    match mountinfo::topmost_at(&entries, point) {
        Some(entry) if entry.is_ours() && entry.dev == dev => {}
        Some(entry)
            if entries
                .iter()
                .any(|ours| ours.point == point && ours.dev == dev) =>
        {
            return Err(Problem::new(format!(
                "another mount ({}) covers ours on {} (EBUSY): unmount that one first",
                entry.fs_type,
                point.display()
            )));
        }
        _ => return Ok(Outcome::Gone),
    }
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if how == Detach::Lazily {
        flags |= MntFlags::MNT_DETACH;
    }
    match umount2(point, flags) {
        Ok(()) => Ok(Outcome::Gone),
        Err(NixErrno::EBUSY) => Ok(Outcome::Busy),
        Err(NixErrno::EINVAL | NixErrno::ENOENT) if !is_mounted(point, dev) => Ok(Outcome::Gone),
        Err(NixErrno::EPERM) if !nix::unistd::geteuid().is_root() => {
            fusermount::unmount(point, how)
                .map(|gone| if gone { Outcome::Gone } else { Outcome::Busy })
        }
        Err(errno) => Err(Problem::new(format!(
            "cannot unmount {}: {}",
            point.display(),
            Errno::from(errno)
        ))),
    }
}
