//! Where traces live when nobody says where, and which one is the newest.
//!
//! A directory of the user's own (mode 0700) with one file a run, named by time and process so that
//! names sort by age, and a symbolic link `latest` to the newest run's trace, wherever that is.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::sink;

/// Traces kept; the contract's number.
pub const KEEP_COUNT: usize = 20;

/// Bytes kept in all; the contract's number.
pub const KEEP_BYTES: u64 = 2 << 30;

const LATEST: &str = "latest";

/// Why there is no trace to write or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Neither variable names a directory.
    #[error(
        "no place for the trace: neither XDG_STATE_HOME nor HOME is set to an absolute path; say where with -t FILE"
    )]
    NoHome,
    /// The directory does not work.
    #[error("cannot keep traces in {dir:?}: {source}; say where with -t FILE", dir = .dir.display().to_string())]
    Dir {
        /// The store.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing was recorded yet.
    #[error("there is no trace yet in {dir:?}: record one with `iolens run -- CMD`, or name a trace", dir = .0.display().to_string())]
    None(PathBuf),
    /// The newest trace was deleted.
    #[error("the newest trace, {path:?}, is gone: name another one", path = .0.display().to_string())]
    Gone(PathBuf),
}

/// The directory of kept traces.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The user's store: `$XDG_STATE_HOME/iolens`, else `~/.local/state/iolens`. Makes nothing.
    ///
    /// # Errors
    /// [`StoreError::NoHome`].
    pub fn locate() -> Result<Store, StoreError> {
        let var = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state =
            var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
        match state {
            Some(state) => Ok(Store::at(state.join("iolens"))),
            None => Err(StoreError::NoHome),
        }
    }

    /// A store in this directory.
    #[must_use]
    pub fn at(dir: PathBuf) -> Store {
        Store { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the file for a new run's trace, `latest` from now on, and removes what is too old or too
    /// much. `extension` is `jsonl` or `txt`.
    ///
    /// # Errors
    /// [`StoreError::Dir`].
    pub fn create(&self, extension: &str) -> Result<(PathBuf, File), StoreError> {
        let made = || -> io::Result<(PathBuf, File)> {
            self.make_dir()?;
            let path = self.dir.join(file_name(SystemTime::now(), extension));
            let file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
                .open(&path)?;
            // Ours alone so far; the lock keeps other runs from tidying it away.
            sink::lock(&file)?;
            self.point(&path)?;
            Ok((path, file))
        };
        let made = made().map_err(|source| self.error(source))?;
        self.prune();
        Ok(made)
    }

    /// Makes a trace elsewhere (`-t FILE`, absolute) the newest one.
    ///
    /// # Errors
    /// [`StoreError::Dir`].
    pub fn note_latest(&self, path: &Path) -> Result<(), StoreError> {
        self.make_dir()
            .and_then(|()| self.point(path))
            .map_err(|source| self.error(source))
    }

    /// The newest run's trace.
    ///
    /// # Errors
    /// [`StoreError::None`], [`StoreError::Gone`] or [`StoreError::Dir`].
    pub fn latest(&self) -> Result<PathBuf, StoreError> {
        let link = self.dir.join(LATEST);
        match fs::read_link(&link) {
            Ok(target) => {
                let path = self.dir.join(target);
                if path.exists() {
                    Ok(path)
                } else {
                    Err(StoreError::Gone(path))
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::None(self.dir.clone()))
            }
            Err(source) => Err(self.error(source)),
        }
    }

    /// Removes traces beyond [`KEEP_COUNT`] and [`KEEP_BYTES`], oldest first; never the newest, and
    /// never one that is being written. Failures are logged: tidying must not keep a run from starting.
    pub fn prune(&self) {
        self.prune_to(KEEP_COUNT, KEEP_BYTES);
    }

    fn prune_to(&self, count: usize, bytes: u64) {
        let mut traces = self.traces().unwrap_or_else(|error| {
            log::warn!("cannot list old traces in {}: {error}", self.dir.display());
            Vec::new()
        });
        traces.sort_unstable_by(|a, b| b.cmp(a));
        let mut total = 0u64;
        for (index, name) in traces.iter().enumerate() {
            let path = self.dir.join(name);
            let size = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            total = total.saturating_add(size);
            if index == 0 || (index < count && total <= bytes) || is_written(&path) {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => total -= size,
                Err(error) => log::warn!("cannot remove the old trace {}: {error}", path.display()),
            }
        }
    }

    /// The names of the traces here. Other files are left alone.
    fn traces(&self) -> io::Result<Vec<OsString>> {
        let names =
            fs::read_dir(&self.dir)?.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
        Ok(names.filter(|name| is_trace_name(name)).collect())
    }

    fn make_dir(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
    }

    /// Replaces `latest` in one step, so that it always points somewhere.
    fn point(&self, target: &Path) -> io::Result<()> {
        let target = target.strip_prefix(&self.dir).unwrap_or(target);
        let new = self.dir.join(format!(".{LATEST}-{}", std::process::id()));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &new)?;
        fs::rename(&new, self.dir.join(LATEST))
    }

    fn error(&self, source: io::Error) -> StoreError {
        StoreError::Dir {
            dir: self.dir.clone(),
            source,
        }
    }
}

fn is_written(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| sink::is_locked(&file))
}

/// `20261123T094654.123456789Z-4711.jsonl`: sorts by time.
fn file_name(now: SystemTime, extension: &str) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = jiff::Timestamp::try_from(now).unwrap_or_default();
    let day = time.strftime("%Y%m%dT%H%M%S");
    format!(
        "{day}.{:09}Z-{}.{extension}",
        since.subsec_nanos(),
        std::process::id()
    )
}

fn is_trace_name(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let shaped = name.len() > 25
        && name.bytes().take(8).all(|byte| byte.is_ascii_digit())
        && name.as_bytes()[8] == b'T';
    shaped && (name.ends_with(".jsonl") || name.ends_with(".txt"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state/iolens"));
        (dir, store)
    }

    fn old(store: &Store, second: u64, size: usize) -> PathBuf {
        let path = store
            .dir
            .join(file_name(UNIX_EPOCH + Duration::from_secs(second), "jsonl"));
        fs::write(&path, vec![b'x'; size]).unwrap();
        path
    }

    #[test]
    fn a_new_trace_is_private_and_the_latest() {
        let (_dir, store) = store();
        assert!(matches!(store.latest(), Err(StoreError::None(_))));
        let (path, file) = store.create("jsonl").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(store.dir()), 0o700);
        assert_eq!(store.latest().unwrap(), path);
        assert!(sink::is_locked(&File::open(&path).unwrap()));
        drop(file);
    }

    #[test]
    fn a_trace_elsewhere_becomes_the_latest_and_its_loss_is_told() {
        let (dir, store) = store();
        let elsewhere = dir.path().join("mine.jsonl");
        fs::write(&elsewhere, "x").unwrap();
        store.note_latest(&elsewhere).unwrap();
        assert_eq!(store.latest().unwrap(), elsewhere);
        fs::remove_file(&elsewhere).unwrap();
        assert!(matches!(store.latest(), Err(StoreError::Gone(path)) if path == elsewhere));
    }

    #[test]
    fn the_newest_twenty_are_kept() {
        let (_dir, store) = store();
        store.make_dir().unwrap();
        let traces: Vec<PathBuf> = (0..30).map(|n| old(&store, n, 1)).collect();
        fs::write(store.dir.join("notes.jsonl"), "mine").unwrap();
        let (newest, _file) = store.create("jsonl").unwrap();
        assert!(newest.exists());
        assert!(traces[..11].iter().all(|path| !path.exists()));
        assert!(traces[11..].iter().all(|path| path.exists()));
        assert!(store.dir.join("notes.jsonl").exists());
    }

    #[test]
    fn too_many_bytes_go_but_never_the_newest_nor_one_being_written() {
        let (_dir, store) = store();
        store.make_dir().unwrap();
        let [a, b, c] = [1, 2, 3].map(|n| old(&store, n, 100));
        let writing = File::options().write(true).open(&a).unwrap();
        assert!(sink::lock(&writing).unwrap());
        store.prune_to(20, 50);
        assert!(a.exists() && !b.exists() && c.exists());
        drop(writing);
        store.prune_to(20, 150);
        assert!(!a.exists() && c.exists());
    }

    #[test]
    fn names_sort_by_time() {
        let at = |nanos| file_name(UNIX_EPOCH + Duration::from_nanos(nanos), "jsonl");
        assert!(at(999_999_999) < at(1_000_000_000));
        assert!(at(1_000_000_000) < at(1_000_000_001));
        assert!(is_trace_name(OsStr::new(&at(5))));
        assert!(!is_trace_name(OsStr::new("latest")));
    }
}
