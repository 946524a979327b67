//! The seam to the filesystem: the only file of the edges that starts one.
//!
//! Layer: edge (`server`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::{self, Drained, Lost, Shared};
use crate::error::Errno;
use crate::event::OwnCause;
use crate::fs::{self, Attribution, Fs, Hidden, KernelCache, Owners, Permissions, Told};
use crate::fuse::{self, Allowed, Served};
use crate::mount::Problem;
use crate::mount::detached::Session;
use crate::mount::mountinfo::DevNo;
use crate::mount::options::Access;
use crate::sys::{self, AsCaller};
use crate::trace::Recorder;
use crate::types::Tid;
use crate::uring::{self, Admitted, Rings};

/// How requests are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Threads that receive them from /dev/fuse.
    pub threads: usize,
    /// The way that they come.
    pub transport: Transport,
    /// What the kernel may keep in memory, so that no request comes.
    pub kernel_cache: KernelCache,
}

/// The way that requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By io_uring where the kernel has it enabled, else from /dev/fuse.
    Auto,
    /// From /dev/fuse.
    Dev,
    /// By io_uring.
    Uring,
}

impl Transport {
    /// The session that serves it fast.
    #[must_use]
    pub fn session(self) -> Session {
        match self {
            Transport::Auto | Transport::Uring if uring::enabled().is_ok() => Session::Starters,
            Transport::Auto | Transport::Uring | Transport::Dev => Session::Own,
        }
    }

    /// The rings to serve on; `None` for /dev/fuse.
    pub(super) fn rings(self) -> Result<Option<Rings>, Problem> {
        if self == Transport::Dev {
            return Ok(None);
        }
        let opened = uring::enabled().and_then(|()| {
            Rings::open(fuse::REQUEST_BYTES)
                .map_err(|error| format!("cannot open a ring: {}", Errno::from(error)))
        });
        match opened {
            Ok(rings) => Ok(Some(rings)),
            Err(why) if self == Transport::Auto => {
                log::debug!("requests come from /dev/fuse: {why}");
                Ok(None)
            }
            Err(why) => Err(Problem::new(format!(
                "--transport uring: {why}; or use --transport dev"
            ))),
        }
    }
}

/// What the filesystem needs to know of its mount.
#[derive(Debug)]
pub struct ViewConfig {
    /// SOURCE, opened before anything covered it.
    pub source: OwnedFd,
    /// Its absolute path, for the trace's header.
    pub source_path: PathBuf,
    /// Where it is seen.
    pub mountpoint: PathBuf,
    /// How requests are received.
    pub serving: Serving,
    /// Who may ask; `OwnerAndRoot` is the session's to enforce.
    pub access: Access,
    /// The kernel checks permissions before it asks.
    pub kernel_permissions: bool,
    /// `run` in a user namespace: the only uid and gid that exist there.
    pub only_ids: Option<(u32, u32)>,
    /// Threads of iolens itself, whose requests are not worth a line in the trace.
    pub quiet: Vec<Tid>,
    /// What is to be found out about each caller.
    pub attribution: Attribution,
    /// What the kernel tells of callers.
    pub told: Option<Arc<Told>>,
    /// How file data is buffered; `None` with policy `off`.
    pub buffer: Option<buffer::Options>,
    /// The buffer's memory.
    pub shared: Option<Arc<Shared>>,
}

/// A view that is being served.
pub struct View {
    fs: Arc<Fs>,
    session: Mutex<Option<Served>>,
}

impl View {
    /// Answers the handshake on `device` and starts the request threads. `hidden` is the trace.
    pub(super) fn start(
        device: OwnedFd,
        config: ViewConfig,
        recorder: Arc<Recorder>,
        hidden: Option<Hidden>,
        rings: Option<Rings>,
    ) -> Result<View, Problem> {
        let permissions = permissions(config.kernel_permissions);
        // Modes arrive as the application gave them, with its umask beside them.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        sys::lift_file_size_limit();
        let only = config.only_ids.map(|(uid, gid)| AsCaller { uid, gid });
        let descriptors = sys::raise_descriptor_limit();
        let options = fs::Options {
            permissions,
            owners: only.map_or(Owners::AsTheyAre, Owners::Mapped),
            descriptors: descriptor_budget(descriptors),
            hidden,
            quiet: config.quiet,
            attribution: config.attribution.possible().0,
            callers_sleep: rings.is_some(),
            told: config.told,
            buffer: config.buffer.map(|options| buffer::Options {
                dirty_files: dirty_files(descriptors),
                ..options
            }),
            kernel_cache: config.serving.kernel_cache,
            shared: config.shared,
        };
        let fs = Fs::new(config.source, Some(recorder), options)
            .and_then(|fs| fs.start_flusher().map(|()| Arc::new(fs)))
            .map_err(|errno| Problem::new(format!("cannot serve SOURCE: {errno}")))?;
        let options = fuse::Options {
            threads: config.serving.threads,
            over_rings: rings.is_some(),
            kernel_permissions: config.kernel_permissions,
            allowed: match config.access {
                Access::OwnerAndRoot => Allowed::OwnerAndRoot,
                Access::Owner | Access::Everybody => Allowed::AsMounted,
            },
        };
        let admitted = match config.access {
            Access::OwnerAndRoot => Admitted::UserAndRoot(nix::unistd::geteuid().as_raw()),
            Access::Owner | Access::Everybody => Admitted::All,
        };
        let for_rings = device.try_clone().map_err(explain)?;
        let served = fuse::serve(device, Arc::clone(&fs), options).map_err(explain)?;
        if let Some(rings) = rings {
            rings
                .serve(for_rings, Arc::clone(&fs), admitted)
                .map_err(explain)?;
        }
        Ok(View {
            fs,
            session: Mutex::new(Some(served)),
        })
    }

    pub(super) fn take_session(&self) -> Option<Served> {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Writes back all dirty data, until done or `abandon` is set. Says how far it is where that takes long.
    pub(super) fn drain(&self, cause: OwnCause, abandon: &AtomicBool) -> Drained {
        self.fs.drain(cause, abandon, &|left| {
            super::say(&format!("writing back to SOURCE: {left} bytes are left"));
        })
    }

    /// What the drain has left dirty.
    pub(super) fn left_over(&self) -> Vec<Lost> {
        self.fs.left_over()
    }
}

/// Has the kernel tell who sends requests of the view with this device number, if that is to be found out and can be had:
/// by root, before it gives up capabilities.
#[must_use]
pub fn told(attribution: Attribution, dev: DevNo) -> Option<Arc<Told>> {
    if attribution.possible().0 != Attribution::Full || !nix::unistd::geteuid().is_root() {
        return None;
    }
    match Told::start(dev.major, dev.minor) {
        Ok(told) => Some(Arc::new(told)),
        Err(why) => {
            log::debug!(
                "callers are looked up in /proc: the kernel does not tell who they are: {why}"
            );
            None
        }
    }
}

/// Who decides what a caller may do.
fn permissions(by_kernel: bool) -> Permissions {
    // A plain user's server cannot act as anybody else, whoever the kernel lets through.
    if !by_kernel || !nix::unistd::geteuid().is_root() {
        return Permissions::Source;
    }
    // Its memberships are not the callers'. Only root can serve everybody.
    if let Err(errno) = sys::leave_groups() {
        log::info!("the server keeps its supplementary groups: {errno}");
    }
    Permissions::Kernel
}

/// How many descriptors idle inodes may keep: half, so that open files have the other half. However
/// many are allowed, more than this many of them serve nothing.
fn descriptor_budget(limit: u64) -> usize {
    usize::try_from(limit / 2)
        .unwrap_or(usize::MAX)
        .min(DESCRIPTORS_MAX)
}

/// How many closed files may be dirty, each of which keeps a descriptor: a quarter.
fn dirty_files(limit: u64) -> usize {
    usize::try_from(limit / 4)
        .unwrap_or(usize::MAX)
        .min(buffer::DIRTY_FILES_MAX)
}

/// Descriptors of idle inodes at most: a tree of that size is walked without opening anything twice.
/// Each costs the kernel about 1 KiB (struct file, dentry, inode).
const DESCRIPTORS_MAX: usize = 64 * 1024;

fn explain(error: io::Error) -> Problem {
    Problem::new(format!(
        "the kernel does not talk FUSE to us: {}",
        Errno::from(error)
    ))
}
