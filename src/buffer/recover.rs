//! Completing what a dead process has answered for: its dirty bytes go to SOURCE, from the memory that it
//! shared and through the descriptors that it shared. Nobody else may use either.
//!
//! The order: writes in the middle of which it died are taken back; of each file what was under writeback is
//! written (again), then what is newer; then truncations that had begun are completed. Each step may be
//! repeated.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Weak;

use super::{Buffers, Shared};
use crate::cache::{Run, survey};
use crate::error::Errno;
use crate::sys::{SyncKind, Written};
use crate::types::{ByteRange, OwnFd};

/// What became of the dirty bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes that are in SOURCE now.
    pub bytes: u64,
    /// Files that had dirty bytes.
    pub files: u64,
}

/// Bytes that could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The descriptor that leads to their file; none where there is none.
    pub via: Option<OwnFd>,
    /// Where they belong.
    pub range: ByteRange,
    /// Themselves.
    pub data: Vec<u8>,
    /// Why; absent where nobody tried, or waited for it.
    pub error: Option<Errno>,
}

/// What is needed of SOURCE.
pub trait Target {
    /// Writes until all is written or it fails.
    fn write(&self, via: OwnFd, bufs: &[IoSlice<'_>], at: u64) -> Written;
    /// Cuts or extends.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    fn set_size(&self, via: OwnFd, size: u64) -> Result<(), Errno>;
}

/// Writes everything that is dirty in `shared`, whose process is dead, to SOURCE. What cannot be written is
/// handed to `lost`.
pub fn recover(shared: &Shared, target: &dyn Target, lost: &mut dyn FnMut(Lost)) -> Recovered {
    let storage = shared.storage();
    for undo in shared.undo_logs() {
        undo.roll_back(storage);
    }
    let mut recovered = Recovered::default();
    for left in survey(storage) {
        recovered.files += 1;
        for run in &left.runs {
            recovered.bytes += write(shared, target, left.via, run, lost);
        }
    }
    for cut in shared.cuts() {
        // Where it fails, it would have failed for who asked for it, and nobody was told otherwise.
        let done = cut.via.map(|via| target.set_size(via, cut.size));
        if let Some(Err(errno)) = done {
            log::warn!("a truncation under way could not be completed: {errno}");
        }
    }
    recovered
}

/// Writes a run; returns how many bytes of it are in SOURCE.
fn write(
    shared: &Shared,
    target: &dyn Target,
    via: Option<OwnFd>,
    run: &Run,
    lost: &mut dyn FnMut(Lost),
) -> u64 {
    let done = {
        let pieces = run.pieces.iter();
        let views: Vec<_> = pieces.map(|piece| shared.memory.view(piece.slot)).collect();
        let pieces = run.pieces.iter().zip(&views);
        let slices: Vec<_> = pieces
            .map(|(piece, view)| IoSlice::new(&view[piece.at..piece.at + piece.len]))
            .collect();
        match via {
            Some(via) => target.write(via, &slices, run.range.start),
            None => Written {
                bytes: 0,
                error: Some(Errno::EBADF),
            },
        }
    };
    if done.error.is_some() {
        lost(take(shared, via, run, done));
    }
    done.bytes
}

/// The bytes of a run that were not written.
fn take(shared: &Shared, via: Option<OwnFd>, run: &Run, done: Written) -> Lost {
    let written = usize::try_from(done.bytes).unwrap_or(usize::MAX);
    let mut data = Vec::new();
    for piece in &run.pieces {
        let view = shared.memory.view(piece.slot);
        data.extend_from_slice(&view[piece.at..piece.at + piece.len]);
    }
    data.drain(..written.min(data.len()));
    let (_, range) = run.range.split_at(done.bytes);
    Lost {
        via,
        range,
        data,
        error: done.error,
    }
}

impl Buffers {
    /// What is still dirty after the drain.
    pub fn left_over(&self, lost: &mut dyn FnMut(Lost)) {
        let files: Vec<_> = self.files.iter().map(|file| Weak::clone(&file)).collect();
        let mut errors = HashMap::new();
        for file in files.iter().filter_map(Weak::upgrade) {
            errors.insert(file.id, file.lock().errors.last);
        }
        let nothing = Written {
            bytes: 0,
            error: None,
        };
        for left in survey(self.storage()) {
            let error = errors.get(&left.file).copied().flatten();
            for run in &left.runs {
                let found = take(&self.shared, left.via, run, nothing);
                lost(Lost { error, ..found });
            }
        }
    }
}

/// SOURCE through descriptors of this process.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors;

impl Target for Descriptors {
    fn write(&self, via: OwnFd, bufs: &[IoSlice<'_>], at: u64) -> Written {
        crate::sys::process::with_own_fd(via, |fd| {
            crate::sys::write_vectored_at(fd, bufs, at, SyncKind::None)
        })
        .unwrap_or_else(|errno| Written {
            bytes: 0,
            error: Some(errno),
        })
    }

    fn set_size(&self, via: OwnFd, size: u64) -> Result<(), Errno> {
        crate::sys::process::with_own_fd(via, |fd| crate::sys::set_size(fd, size))?
    }
}
