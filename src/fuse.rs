//! The edge to the kernel over /dev/fuse: each request becomes a call of [`Fs`], each result an
//! answer. The only place that names `fuser`.
//!
//! Layer: edge. Decides nothing about files. What it adds is who works on a request ([`dispatch`])
//! and that a panic is answered with `EIO`.

mod answer;
mod convert;
mod dispatch;
mod operations;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Config, InitFlags, Session, SessionACL};

use crate::fs::{Fs, KernelCache};
use dispatch::Dispatcher;

/// How to serve a view.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests that are worked on at once by the threads that receive them.
    pub threads: usize,
    /// The kernel checks permissions (`default_permissions`), POSIX ACLs included.
    pub kernel_permissions: bool,
    /// Whose requests are answered.
    pub allowed: Allowed,
    /// Most requests come by rings, which are registered after the handshake.
    pub over_rings: bool,
}

/// Whose requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Those that the kernel lets through (`allow_other` or not).
    AsMounted,
    /// Those of the server's user and of root (`allow_root`): the kernel has no such option, so the
    /// mount has `allow_other` and the others are refused here.
    OwnerAndRoot,
}

/// The most that one request carries: a call of 1 MiB wherever its memory begins, so in up to 257 pages. The kernel's
/// default limit is 256 (`fs.fuse.max_pages_limit`, which [`mount`](crate::mount) raises if it may); then such a call comes in
/// two requests. More gains nothing (docs/PERFORMANCE.md).
pub const REQUEST_BYTES: usize = (1 << 20) + 4096;
/// Asynchronous requests that the kernel lets wait for us; the default of 12 holds up libaio and
/// read-ahead.
const BACKGROUND_MAX: u16 = 64;

/// What is asked of the kernel; each is used where the kernel has it.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
];

/// A view that is being served.
#[derive(Debug)]
pub struct Served {
    session: JoinHandle<io::Result<()>>,
}

impl Served {
    /// Waits until the kernel has let go of the view: unmounted everywhere, or aborted.
    ///
    /// # Errors
    /// What ended the serving, if it was not the unmount.
    pub fn join(self) -> io::Result<()> {
        match self.session.join() {
            // `ECONNABORTED`, `ENODEV`: the connection was aborted or is gone, which is an end too.
            Ok(Err(error)) if is_gone(&error) => Ok(()),
            Ok(result) => result,
            Err(_) => Err(io::Error::other("a request thread panicked")),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::ENODEV | libc::ENOTCONN)
    )
}

/// Answers the kernel's greeting on the descriptor of a mount and serves it from then on. Starts
/// threads: signals that must not reach them are to be blocked before.
///
/// # Errors
/// The errno of the handshake or of a thread that cannot be started.
pub fn serve(device: OwnedFd, fs: Arc<Fs>, options: Options) -> io::Result<Served> {
    let mut config = Config::default();
    // One more than work at once, so that there is always one to receive.
    config.n_threads = Some(options.threads + 1);
    let edge = Edge {
        dispatcher: Dispatcher::new(fs, options.threads),
        options,
    };
    let acl = match options.allowed {
        // Not `Owner`: fuser would refuse the flush of a set-id program's inherited descriptor.
        Allowed::AsMounted => SessionACL::All,
        Allowed::OwnerAndRoot => SessionACL::RootAndOwner,
    };
    let session = Session::from_fd(edge, device, acl, config)?;
    let thread = std::thread::Builder::new().name("iolens-fuse".to_owned());
    let session = thread.spawn(move || session.run())?;
    Ok(Served { session })
}

/// The view as fuser sees it.
#[derive(Debug)]
struct Edge {
    dispatcher: Dispatcher,
    options: Options,
}

impl Edge {
    fn negotiate(&self, config: &mut fuser::KernelConfig) {
        // One by one: fuser refuses a set that holds one unknown bit.
        let mut wanted = WANTED.to_vec();
        if self.options.kernel_permissions {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        let kernel_cache = self.dispatcher.fs().kernel_cache();
        if kernel_cache != KernelCache::Off {
            // Otherwise the kernel asks for `security.capability` before each write, and writes page by page.
            wanted.extend([
                InitFlags::FUSE_HANDLE_KILLPRIV_V2,
                InitFlags::FUSE_BIG_WRITES,
            ]);
        }
        if kernel_cache == KernelCache::WriteBack {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        if self.options.over_rings {
            wanted.push(InitFlags::FUSE_OVER_IO_URING);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::info!("this kernel has no {flag:?}");
            }
        }
        // Both only fail for values out of range, and then keep what was there.
        let request_bytes = u32::try_from(REQUEST_BYTES).unwrap_or(u32::MAX);
        if config.set_max_write(request_bytes).is_err()
            || config.set_max_background(BACKGROUND_MAX).is_err()
        {
            log::warn!("the kernel does not take the request size or queue length asked for");
        }
    }
}
