//! One server: a mounted descriptor in, a trace and an exit status out. Used by `iolens mount` and
//! `iolens run`, which differ in how the descriptor comes about and in who says when it is over.
//!
//! Layer: edge; wires the filesystem ([`view`]) to the recorder and puts the end in order. Knows no
//! command line and mounts nothing.
//!
//! The end, in this order: the kernel lets go of the view (or somebody gives up) -> [`Server::finish`]
//! drains -> footer -> status. Nothing in it waits for request threads, which may be blocked for ever
//! in a view that was given up.

pub mod control;
mod kernel;
pub mod record;
pub mod rescue;
pub mod signals;
pub mod supervisor;
pub mod view;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::buffer::Drained;
use crate::event::OwnCause;
use crate::mount::Problem;
use crate::render::escape::printable;
use crate::sys;
use crate::trace::{FooterFacts, Recorder};
use record::Recording;
use view::{View, ViewConfig};

/// Data could not be written back.
pub const EXIT_DIRTY: i32 = 3;

/// Something that a server waits for.
#[derive(Debug)]
pub enum Happening {
    /// The kernel has let go of the view, or serving failed.
    Ended(io::Result<()>),
    /// A signal was sent to this process.
    Signal(Signal),
    /// `run`: the program has ended with this status.
    ProgramEnded(i32),
    /// `run`: the process that the user started is gone.
    MainGone,
    /// `run`: the user no longer waits for who still uses the view.
    EndNow,
}

/// How a server ended, as told to whoever waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// 0, or 3 when data could not be written back.
    pub exit: i32,
    /// What a person should read, possibly several lines or none.
    pub text: String,
}

/// A view that is being served and recorded.
pub struct Server {
    recorder: Arc<Recorder>,
    trace: Option<PathBuf>,
    source: PathBuf,
    tally: record::Tally,
    view: View,
    happenings: Receiver<Happening>,
    sender: Sender<Happening>,
    abandon: Arc<AtomicBool>,
    /// A signal has asked for the end.
    signalled: AtomicBool,
}

impl Server {
    /// Opens the trace, answers the kernel's handshake and serves. Starts threads: signals must have
    /// been blocked before.
    ///
    /// # Errors
    /// One sentence; the mount is still there and is the caller's to take away.
    pub fn start(
        device: std::os::fd::OwnedFd,
        config: ViewConfig,
        recording: Recording,
    ) -> Result<Server, Problem> {
        sys::share_heaps();
        let rings = config.serving.transport.rings()?;
        let started = record::start(recording, &config, rings.is_some())?;
        let hidden = started.id;
        let source = config.source_path.clone();
        let view = View::start(device, config, Arc::clone(&started.recorder), hidden, rings)?;
        let (sender, happenings) = channel();
        let server = Server {
            recorder: started.recorder,
            trace: started.path,
            source,
            tally: started.tally,
            view,
            happenings,
            sender,
            abandon: Arc::new(AtomicBool::new(false)),
            signalled: AtomicBool::new(false),
        };
        server.watch_session()?;
        Ok(server)
    }

    fn watch_session(&self) -> Result<(), Problem> {
        let Some(session) = self.view.take_session() else {
            return Err(Problem::new(
                "the view is already being waited for (a bug in iolens)",
            ));
        };
        let sender = self.sender();
        // The server may be gone when the session ends; then nobody needs to know.
        let watch = move || drop(sender.send(Happening::Ended(session.join())));
        spawn("iolens-session", watch)
    }

    /// Where to send what happens.
    #[must_use]
    pub fn sender(&self) -> Sender<Happening> {
        self.sender.clone()
    }

    /// Set by whoever gives up: the drain stops as soon as it sees it.
    #[must_use]
    pub fn abandon(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.abandon)
    }

    /// The next thing that happens.
    #[must_use]
    pub fn next(&self) -> Happening {
        // A sender is kept in `self`, so the channel never closes.
        let happening = self.happenings.recv().unwrap_or(Happening::EndNow);
        if let Happening::Signal(_) = happening {
            self.signalled.store(true, Ordering::SeqCst);
        }
        happening
    }

    /// Writes back what is dirty, because the view is gone.
    pub fn drain(&self) -> Drained {
        let cause = if self.signalled.load(Ordering::SeqCst) {
            OwnCause::Signal
        } else {
            OwnCause::Unmount
        };
        self.view.drain(cause, &self.abandon)
    }

    /// Writes back what is left, closes the trace and says how it went. The process is expected to end
    /// afterwards: request threads of a view that was given up may never come back.
    #[must_use]
    pub fn finish(self, cmd_exit: Option<i32>) -> Report {
        let drained = self.drain();
        let exit = if drained.dirty_bytes > 0 {
            EXIT_DIRTY
        } else {
            0
        };
        let summary = self.recorder.finish(FooterFacts {
            dirty_bytes: drained.dirty_bytes,
            write_errors: drained.write_errors,
            abandoned: self.abandon.load(Ordering::SeqCst),
            exit,
            cmd_exit,
        });
        let mut text = String::new();
        if drained.dirty_bytes > 0 {
            text = rescue::save_and_tell(&self.source, &self.view.left_over());
        }
        text.push_str(&self.tally.table(&summary, self.trace.as_deref()));
        Report { exit, text }
    }
}

/// Starts a named thread.
///
/// # Errors
/// One sentence with the errno.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    let started = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    started.map(drop).map_err(|error| {
        let errno = crate::error::Errno::from(error);
        Problem::new(format!("cannot start the thread {name}: {errno}"))
    })
}

/// A line of iolens's own on stderr. A reader that has gone away is not worth dying for.
pub fn say(text: &str) {
    let text = printable(text.trim_end());
    let _ = writeln!(io::stderr().lock(), "iolens: {text}");
}

/// Text of several lines, or none, on stderr as it is: it may have colours, and names in it are escaped.
pub fn print(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    if !text.is_empty() && !text.ends_with('\n') {
        let _ = stderr.write_all(b"\n");
    }
}
