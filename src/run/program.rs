//! CMD: how it starts and what becomes of signals and terminal meanwhile.
//!
//! Layer: edge (`run`).

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, execvp, pipe2};

use crate::error::Errno;
use crate::mount::Problem;
use crate::sys::process::{Disposition, Forked, exit_now, fork, set_disposition};

/// How CMD ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code.
    Exit(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// Why CMD did not start.
#[derive(Debug)]
pub(super) enum StartError {
    NotFound(OsString),
    NotExecutable(OsString, Errno),
    Iolens(Problem),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NotFound(name) => write!(
                f,
                "cannot run {}: {}; give a path or a program in PATH",
                name.display(),
                Errno::ENOENT
            ),
            StartError::NotExecutable(name, errno) => {
                write!(
                    f,
                    "cannot run {}: {errno}; it must be an executable file",
                    name.display()
                )
            }
            StartError::Iolens(problem) => problem.fmt(f),
        }
    }
}

/// The signals that M takes over, and what they were before, for CMD.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) signals: SignalFd,
    mask: SigSet,
    children: Disposition,
}

impl Terminal {
    /// Blocks what M must not die of and reads it from a descriptor instead.
    pub(super) fn take() -> Result<Terminal, Problem> {
        let failed = |errno: nix::errno::Errno| {
            Problem::new(format!("cannot take over signals: {}", Errno::from(errno)))
        };
        // A parent that ignores SIGCHLD would make our children vanish unwaited (wait(2)).
        let children = set_disposition(Signal::SIGCHLD, Disposition::Default)
            .map_err(|error| Problem::new(format!("cannot take over signals: {error}")))?;
        let ours: SigSet = [
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGTSTP,
            Signal::SIGCHLD,
        ]
        .into_iter()
        .collect();
        let mask = ours
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&ours, flags).map_err(failed)?;
        Ok(Terminal {
            signals,
            mask,
            children,
        })
    }

    /// Gives the program what we were given. SIGPIPE is set to its default: Rust's start-up code
    /// ignores it without remembering what it was.
    fn give_back(&self) -> std::io::Result<()> {
        set_disposition(Signal::SIGPIPE, Disposition::Default)?;
        set_disposition(Signal::SIGCHLD, self.children)?;
        self.mask.thread_set_mask()?;
        Ok(())
    }
}

/// Starts CMD in this process's directory, namespaces and process group.
pub(super) fn start(cmd: &[OsString], terminal: &Terminal) -> Result<Pid, StartError> {
    let iolens = |text: String| StartError::Iolens(Problem::new(text));
    let name = cmd.first().cloned().unwrap_or_default();
    let words: Result<Vec<CString>, _> = cmd
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect();
    let words = words.map_err(|_| StartError::NotFound(name.clone()))?;
    let (told, tell) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| iolens(format!("cannot make a pipe: {}", Errno::from(errno))))?;
    let forked = fork().map_err(|error| iolens(format!("cannot fork: {error}")))?;
    let Forked::Parent(pid) = forked else {
        drop(told);
        become_program(&words, terminal, &mut File::from(tell));
    };
    drop(tell);
    // Ends without a byte when exec succeeds, because the other end is close-on-exec.
    let mut raw = [0; 4];
    if File::from(told).read_exact(&mut raw).is_err() {
        return Ok(pid);
    }
    // It has ended itself; waiting only takes the status away.
    let _ = nix::sys::wait::waitpid(pid, None);
    match Errno::from_raw(i32::from_ne_bytes(raw)) {
        Errno::ENOENT => Err(StartError::NotFound(name)),
        errno => Err(StartError::NotExecutable(name, errno)),
    }
}

/// Never comes back: either the program runs, or its errno has been told. execvp(3) searches PATH and
/// gives a file that is no binary and has no `#!` to /bin/sh, as a shell does.
fn become_program(words: &[CString], terminal: &Terminal, tell: &mut File) -> ! {
    let errno = match (terminal.give_back(), words.first()) {
        (Err(error), _) => Errno::from(error),
        (Ok(()), None) => Errno::ENOENT,
        (Ok(()), Some(name)) => match execvp(name, words) {
            Err(errno) => Errno::from(errno),
            Ok(never) => match never {},
        },
    };
    let _ = tell.write_all(&errno.raw().to_ne_bytes());
    exit_now(127)
}
