//! How a FUSE descriptor is obtained, and how a mount ends: preconditions, mount(2) or fusermount3,
//! private namespaces, who keeps a mount busy, unmounting.
//!
//! Layer: edge; uses `types`, `error` and `sys` alone. Knows nothing of the filesystem behind the
//! descriptor, prints nothing and decides no exit code: a failure is a [`Problem`], one sentence.

pub mod check;
pub mod detached;
pub mod direct;
pub mod fusermount;
pub mod holders;
pub mod mountinfo;
pub mod options;
pub mod unmount;
pub mod userns;

use std::path::Path;

use crate::error::Errno;

/// Why something cannot be done, as one sentence for a person: what, where, the errno's name, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

impl Problem {
    /// From a whole sentence, without a final stop.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Problem {
        Problem(sentence.into())
    }

    /// "`what` `path`: ERRNO (text)".
    #[must_use]
    pub fn at(what: &str, path: &Path, errno: impl Into<Errno>) -> Problem {
        Problem(format!("{what} {}: {}", path.display(), errno.into()))
    }
}

/// How a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Only when nothing uses it (umount2 answers `EBUSY` otherwise).
    WhenIdle,
    /// Out of the tree at once; what is open stays usable (`MNT_DETACH`).
    Lazily,
}
