//! What goes on in SOURCE beside the view: descriptors that CMD inherits, and locks of others.
//!
//! Layer: edge (`run`). Looks before anything is mounted.

use std::fs;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::mount::detached;

/// One sentence for each thing that the trace will not tell or the view does not share.
pub(super) fn outside_the_view(source: &Path) -> Vec<String> {
    let mut sentences: Vec<String> = inherited(source)
        .into_iter()
        .map(|(number, path)| {
            format!(
                "descriptor {number} ({}) was opened before the view was there: what goes through it \
                 is not recorded",
                path.display()
            )
        })
        .collect();
    sentences.extend(locked(source));
    sentences
}

/// Descriptors that survive exec and lead into SOURCE.
fn inherited(source: &Path) -> Vec<(RawFd, PathBuf)> {
    let leads = |number: RawFd| Some((number, below(source, &format!("/proc/self/fd/{number}"))?));
    detached::inherited()
        .into_iter()
        .filter_map(leads)
        .collect()
}

/// The target of a link of `/proc/PID/fd`, if it lies below SOURCE.
fn below(source: &Path, link: &str) -> Option<PathBuf> {
    fs::read_link(link)
        .ok()
        .filter(|target| target.starts_with(source))
}

/// Locks on files of SOURCE that other programs hold: the view has its own.
fn locked(source: &Path) -> Vec<String> {
    // Usually nobody on the machine holds any lock, and nothing need be searched.
    if fs::read_to_string("/proc/locks").is_ok_and(|text| text.trim().is_empty()) {
        return Vec::new();
    }
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| *pid != own)
        .flat_map(|pid| locks_of(pid, source))
        .collect()
}

fn locks_of(pid: u32, source: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut paths: Vec<PathBuf> = numbers
        .filter_map(|number| {
            let path = below(source, &format!("/proc/{pid}/fd/{number}"))?;
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
            holds_lock(&info).then_some(path)
        })
        .collect();
    paths.dedup();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let sentence = |path: PathBuf| {
        format!(
            "{} (pid {pid}) holds a lock on {}: locks are not shared between the view and programs \
             outside it",
            comm.trim_end(),
            path.display()
        )
    };
    paths.into_iter().map(sentence).collect()
}

/// `lock:` lines of `/proc/PID/fdinfo/N` (fs/locks.c show_fd_locks()); leases are none of ours.
fn holds_lock(info: &str) -> bool {
    let mut lines = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    lines.any(|line| {
        ["POSIX", "FLOCK", "OFDLCK"]
            .iter()
            .any(|kind| line.contains(kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_ours_is_found_below_its_directory_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        let file = fs::File::create(dir.join("db")).unwrap();
        assert_eq!(locks_of(std::process::id(), &dir), Vec::<String>::new());
        file.lock().unwrap();
        let found = locks_of(std::process::id(), &dir);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("/db"), "{found:?}");
        assert!(locks_of(std::process::id(), Path::new("/nowhere")).is_empty());
        assert!(inherited(&dir).is_empty(), "std opens close-on-exec");
    }
}
