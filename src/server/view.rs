//! The seam to the filesystem: the only file of the edges that starts one.
//!
//! Layer: edge (`server`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Errno;
use crate::fuse_stub::{Fs, Served, serve};
use crate::mount::Problem;
use crate::mount::options::Access;
use crate::trace::Recorder;
use crate::types::Tid;

/// What the filesystem needs to know of its mount.
#[derive(Debug)]
pub struct ViewConfig {
    /// SOURCE, opened before anything covered it.
    pub source: OwnedFd,
    /// Its absolute path, for the trace's header.
    pub source_path: PathBuf,
    /// Where it is seen.
    pub mountpoint: PathBuf,
    /// Request threads.
    pub threads: usize,
    /// Who may ask; `OwnerAndRoot` is the session's to enforce.
    pub access: Access,
    /// The kernel checks permissions before it asks.
    pub kernel_permissions: bool,
    /// `run` in a user namespace: the only uid and gid that exist there.
    pub only_ids: Option<(u32, u32)>,
    /// Threads of iolens itself, whose requests are not worth a line in the trace.
    pub quiet: Vec<Tid>,
}

/// What was left to write when the view ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drained {
    /// Bytes that never reached SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed.
    pub write_errors: u64,
}

/// A view that is being served.
pub struct View {
    session: Mutex<Option<Served>>,
}

impl View {
    /// Answers the handshake on `device` and starts the request threads. `hidden` is the device and
    /// inode number of the trace.
    pub(super) fn start(
        device: OwnedFd,
        config: ViewConfig,
        recorder: Arc<Recorder>,
        hidden: Option<(u64, u64)>,
    ) -> Result<View, Problem> {
        // SEAM: fs::Fs::new(config.source, Some(recorder), fs::Options { permissions, owners,
        // descriptors, hidden }) and fuse::serve(device, Arc::new(fs), fuse::Options { .. }).
        let _ = (
            hidden,
            &config.quiet,
            config.access,
            config.only_ids,
            config.kernel_permissions,
        );
        let fs = Fs::new(config.source, recorder);
        let served = serve(device, fs, config.threads).map_err(explain)?;
        Ok(View {
            session: Mutex::new(Some(served)),
        })
    }

    pub(super) fn take_session(&self) -> Option<Served> {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Writes back all dirty data, until done or `abandon` is set. SEAM: fs' shutdown, once it buffers.
    pub(super) fn drain(&self, _abandon: &AtomicBool) -> Drained {
        Drained::default()
    }
}

fn explain(error: io::Error) -> Problem {
    Problem::new(format!(
        "the kernel does not talk FUSE to us: {}",
        Errno::from(error)
    ))
}
