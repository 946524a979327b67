//! The supervisor: a process beside the server that completes what the server has answered for when it dies
//! before its end (kill -9, no memory left, a bug), and cleans the view up.
//!
//! Layer: edge (`server`). Forked before the first thread is started, it shares the memory of the buffers
//! ([`Shared`]) and the table of descriptors (`CLONE_FILES`), and so has at any moment what it takes to write
//! what is dirty: the kernel closes nothing when the server is gone. It sleeps until then.
//!
//! When the server has died, with all its threads and their system calls: dirty bytes go to SOURCE; then the
//! connection is aborted, so that who waits for an answer gets `ECONNABORTED`, and who asks from then on
//! `ENOTCONN`; then the mount is taken away. What could not be written goes to a rescue file.
//!
//! The view is not served on. That would take the tables of inodes and handles in shared memory as well, and
//! a way to answer twice-sent requests that are not to be done twice.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{EXIT_DIRTY, Report, rescue};
use crate::buffer::{self, Descriptors, Recovered, Shared, recover};
use crate::error::Errno;
use crate::mount::Problem;
use crate::mount::detached::{self, Session};
use crate::sys::process::{Forked, exit_now, fork_sharing_descriptors, own_pidfd};

/// Its name, as ps(1) shows it.
const NAME: &std::ffi::CStr = c"iolens-super";

/// The server was found dead.
const EXIT_DIED: i32 = 1;

/// The running process. It ends when this is dropped.
#[derive(Debug)]
pub struct Supervisor(Pid);

/// What it has to know.
pub struct Charge {
    /// The memory of the buffers; none with policy `off`.
    pub shared: Option<Arc<Shared>>,
    /// SOURCE, for the rescue file.
    pub source: PathBuf,
    /// What else has to be cleaned up, and who is to be told, when all is done.
    pub last: Box<dyn FnOnce(&Report)>,
}

/// The memory of a view's buffers; none with policy `off`.
///
/// # Errors
/// One sentence, `ENOMEM`.
pub fn memory(options: Option<&buffer::Options>) -> Result<Option<Arc<Shared>>, Problem> {
    let made = options.map(Shared::new).transpose();
    let made = made.map_err(|errno| {
        Problem::new(format!(
            "no room for the buffer cache: {errno}; a smaller --cache-size needs less"
        ))
    });
    Ok(made?.map(Arc::new))
}

impl Supervisor {
    /// Starts it. The process must have one thread, and signals must have been blocked. Both processes have only the
    /// capabilities that they need from then on.
    ///
    /// # Errors
    /// One sentence with the errno.
    pub fn start(charge: Charge) -> Result<Supervisor, Problem> {
        let failed = |error: std::io::Error| {
            let errno = Errno::from(error);
            Problem::new(format!(
                "cannot start the supervisor of the server: {errno}"
            ))
        };
        // It is no reason to serve nobody.
        if let Err(errno) = crate::sys::keep_needed_capabilities() {
            log::warn!("the server keeps capabilities that it does not need: {errno}");
        }
        let server = own_pidfd().map_err(failed)?;
        match fork_sharing_descriptors().map_err(failed)? {
            Forked::Child => watch(&server, charge),
            Forked::Parent(pid) => {
                // It is the child's, in the one table that both have.
                std::mem::forget(server);
                Ok(Supervisor(pid))
            }
        }
    }
}

impl Drop for Supervisor {
    /// The server has come to its end: there is nothing left to do.
    fn drop(&mut self) {
        if kill(self.0, Signal::SIGKILL).is_ok() {
            let _ = waitpid(self.0, None);
        }
    }
}

/// Waits for the server's death.
fn watch(server: &impl AsFd, charge: Charge) -> ! {
    // Out of reach of what is sent to the server's process group.
    if let Err(problem) = detached::from_terminal(Session::Own) {
        log::info!("{problem}");
    }
    let _ = nix::sys::prctl::set_name(NAME);
    // Forked before the server did so: what it completes must not end it either, and descriptors are those of both.
    crate::sys::lift_file_size_limit();
    let _ = crate::sys::raise_descriptor_limit();
    // Only root may ask to be spared when memory runs out.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        log::debug!("the supervisor may be killed when memory runs out: {error}");
    }
    let mut polled = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
    while !matches!(poll(&mut polled, PollTimeout::NONE), Ok(1..)) {}
    let report = complete(&charge);
    super::print(&report.text);
    (charge.last)(&report);
    exit_now(report.exit)
}

fn complete(charge: &Charge) -> Report {
    let mut lost = Vec::new();
    let recovered = match &charge.shared {
        Some(shared) => recover(shared, &Descriptors, &mut |bytes| lost.push(bytes)),
        None => Recovered::default(),
    };
    let mut text = format!(
        "iolens: the server of the view died; {} that only it had in memory {} written to SOURCE. The view is \
         gone (ENOTCONN), and the trace has no end\n",
        counted(recovered),
        if recovered.bytes == 1 { "was" } else { "were" },
    );
    // Whoever waits for the view is let go of before anything is opened that may lie in it.
    close_connection();
    text.push_str(&rescue::save_and_tell(&charge.source, &lost));
    let exit = if lost.is_empty() {
        EXIT_DIED
    } else {
        EXIT_DIRTY
    };
    Report { exit, text }
}

fn counted(recovered: Recovered) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let Recovered { bytes, files } = recovered;
    format!(
        "{bytes} byte{} of {files} file{}",
        plural(bytes),
        plural(files)
    )
}

/// Closes the last descriptors of the connection, which aborts it.
fn close_connection() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse::<i32>().ok());
        let target = std::fs::read_link(entry.path());
        if let Some(number) = number
            && target.is_ok_and(|target| target.as_os_str() == "/dev/fuse")
        {
            let _ = nix::unistd::close(number);
        }
    }
}
