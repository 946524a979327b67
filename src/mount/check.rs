//! What must hold before anything is mounted. Looks, opens and refuses; changes nothing.
//!
//! Layer: edge (`mount`). Each refusal is one sentence: what, where, the errno's name, what to do.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Problem, mountinfo};
use crate::error::Errno;

/// The kernel's door to FUSE.
pub const DEVICE: &str = "/dev/fuse";

/// The directory that is viewed, opened before anything covers it.
#[derive(Debug)]
pub struct Source {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    /// The directory itself, for reading; close-on-exec.
    pub dir: File,
    /// Its device and inode number.
    pub id: (u64, u64),
}

/// Opens SOURCE.
///
/// # Errors
/// It is missing, unreadable or no directory.
pub fn source(path: &Path) -> Result<Source, Problem> {
    let explain = |error: io::Error| {
        let advice = match error.raw_os_error() {
            Some(libc::ENOENT) => "; SOURCE must be a directory that exists",
            Some(libc::ENOTDIR) => "; SOURCE must be a directory",
            Some(libc::EACCES) => "; you must be able to read and enter SOURCE",
            _ => "",
        };
        Problem::new(format!(
            "cannot view {}: {}{advice}",
            path.display(),
            Errno::from(error)
        ))
    };
    let absolute = fs::canonicalize(path).map_err(explain)?;
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(&absolute)
        .map_err(explain)?;
    let metadata = dir.metadata().map_err(explain)?;
    Ok(Source {
        path: absolute,
        dir,
        id: id_of(&metadata),
    })
}

fn id_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Checks MOUNTPOINT against SOURCE and returns it absolute, without symbolic links.
///
/// # Errors
/// It is missing, no directory, not empty, already ours, stale, or nested with SOURCE.
pub fn mountpoint(path: &Path, source: &Source, accept_nonempty: bool) -> Result<PathBuf, Problem> {
    let shown = path.display();
    let absolute = fs::canonicalize(path).map_err(|error| explain_mountpoint(path, error))?;
    let metadata = fs::metadata(&absolute).map_err(|error| explain_mountpoint(path, error))?;
    if !metadata.is_dir() {
        return Err(explain_mountpoint(
            path,
            io::Error::from_raw_os_error(libc::ENOTDIR),
        ));
    }
    refuse_nesting(&absolute, &metadata, source)?;
    if let Ok(entries) = mountinfo::read_own()
        && mountinfo::topmost_at(&entries, &absolute).is_some_and(mountinfo::MountEntry::is_ours)
    {
        return Err(Problem::new(format!(
            "{shown} is already a mount of iolens (EBUSY): unmount it first with `iolens unmount {shown}`"
        )));
    }
    let mut entries = fs::read_dir(&absolute).map_err(|error| explain_mountpoint(path, error))?;
    if !accept_nonempty && entries.next().is_some() {
        return Err(Problem::new(format!(
            "the mountpoint {shown} is not empty (ENOTEMPTY), and what is in it would be hidden: use \
             an empty directory, or -o nonempty"
        )));
    }
    Ok(absolute)
}

fn explain_mountpoint(path: &Path, error: io::Error) -> Problem {
    let shown = path.display();
    let errno = Errno::from(error);
    let advice = match errno {
        Errno::ENOENT => format!("make the directory first: mkdir {shown}"),
        Errno::ENOTDIR => "MOUNTPOINT must be a directory".to_owned(),
        Errno::EACCES => "you must be able to read and enter MOUNTPOINT".to_owned(),
        // The second one: its connection is just being torn down.
        Errno::ENOTCONN | Errno::ECONNABORTED => return stale(path),
        _ => return Problem::at("cannot mount on", path, errno),
    };
    Problem::new(format!("cannot mount on {shown}: {errno}; {advice}"))
}

/// The mountpoint of a server that was killed.
fn stale(path: &Path) -> Problem {
    let root = nix::unistd::geteuid().is_root();
    let command = if root { "umount -l" } else { "fusermount3 -u" };
    let shown = path.display();
    Problem::new(format!(
        "{shown} is a stale mountpoint (ENOTCONN): the server that was mounted there has been killed; \
         clear it with: {command} {shown}"
    ))
}

/// Compares by device and inode number upwards, so that a bind mount does not hide the nesting.
fn refuse_nesting(mountpoint: &Path, metadata: &Metadata, source: &Source) -> Result<(), Problem> {
    let (view, below) = (mountpoint.display(), source.path.display());
    if id_of(metadata) == source.id {
        return Err(Problem::new(format!(
            "SOURCE and MOUNTPOINT are the same directory {view} (EBUSY), which would hide SOURCE from \
             everybody: mount elsewhere, or use `iolens run -C {view} -- CMD`, which does this \
             privately for one program"
        )));
    }
    if has_ancestor(mountpoint, source.id) {
        return Err(Problem::new(format!(
            "the mountpoint {view} lies inside SOURCE {below} (ELOOP), so the view would contain \
             itself: choose a directory outside SOURCE, for example under /mnt or /tmp"
        )));
    }
    if has_ancestor(&source.path, id_of(metadata)) {
        return Err(Problem::new(format!(
            "SOURCE {below} lies inside the mountpoint {view} (ELOOP), which would hide it: choose an \
             empty directory as mountpoint"
        )));
    }
    Ok(())
}

fn has_ancestor(path: &Path, id: (u64, u64)) -> bool {
    let mut above = path.ancestors().skip(1);
    above.any(|ancestor| fs::metadata(ancestor).is_ok_and(|metadata| id_of(&metadata) == id))
}

/// Refuses a trace FILE that the view would cover: recording it would record itself.
///
/// # Errors
/// One sentence; also when the directory of FILE does not exist.
pub fn trace_outside(trace: &Path, mountpoint: &Path) -> Result<(), Problem> {
    let dir = match trace.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = fs::canonicalize(dir)
        .map_err(|error| Problem::at("cannot write the trace", trace, Errno::from(error)))?;
    // A link at the end leads elsewhere; a missing file has no such end.
    let resolved = fs::canonicalize(trace).unwrap_or(dir);
    if resolved.starts_with(mountpoint) {
        return Err(Problem::new(format!(
            "the trace {} would lie under the mountpoint {} (EINVAL), where it would record itself: \
             choose a file outside",
            trace.display(),
            mountpoint.display()
        )));
    }
    Ok(())
}

/// Checks that FUSE is there, and with `openable` that this process may open the device itself.
///
/// # Errors
/// A sentence that says how to get it.
pub fn device(openable: bool) -> Result<(), Problem> {
    if openable {
        return super::direct::open_device().map(drop);
    }
    fs::metadata(DEVICE)
        .map(drop)
        .map_err(|error| explain_device(error.into()))
}

pub(super) fn explain_device(errno: Errno) -> Problem {
    let advice = match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
            "; load the kernel module: modprobe fuse (in a container: give it the device, docker run \
             --device /dev/fuse)"
        }
        Errno::EACCES | Errno::EPERM => {
            "; the device must be open to you: chmod 666 /dev/fuse as root, which is the usual mode"
        }
        _ => "",
    };
    Problem::new(format!("cannot open {DEVICE}: {errno}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (tempfile::TempDir, Source, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (below, view) = (root.path().join("source"), root.path().join("view"));
        fs::create_dir(&below).unwrap();
        fs::create_dir(&view).unwrap();
        let source = source(&below).unwrap();
        (root, source, view)
    }

    #[test]
    fn nesting_is_refused_in_every_form() {
        let (root, source, view) = two();
        assert_eq!(
            mountpoint(&view, &source, false),
            Ok(fs::canonicalize(&view).unwrap())
        );
        let inner = source.path.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        for (path, word) in [
            (source.path.as_path(), "same directory"),
            (inner.as_path(), "inside SOURCE"),
            (root.path(), "inside the mountpoint"),
        ] {
            let error = mountpoint(path, &source, true).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_trace_under_the_mountpoint_is_refused_also_through_a_link() {
        let (root, _, view) = two();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&view, &link).unwrap();
        let view = fs::canonicalize(view).unwrap();
        assert!(trace_outside(&link.join("t"), &view).is_err());
        assert!(trace_outside(&view.join("t"), &view).is_err());
        assert!(trace_outside(&root.path().join("t"), &view).is_ok());
    }

    #[test]
    fn a_full_mountpoint_is_refused_unless_asked_for() {
        let (_root, source, view) = two();
        fs::write(view.join("x"), "").unwrap();
        let error = mountpoint(&view, &source, false).unwrap_err().to_string();
        assert!(error.contains("ENOTEMPTY"), "{error}");
        assert!(mountpoint(&view, &source, true).is_ok());
    }
}
