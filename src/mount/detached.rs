//! A server cuts itself loose from the terminal and directory of whoever started it.
//!
//! Layer: edge (`mount`).

use std::fs::{self, OpenOptions};
use std::os::fd::RawFd;

use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setpgid, setsid};

use super::Problem;
use crate::error::Errno;
use crate::sys;

fn failed(what: &str) -> impl Fn(nix::errno::Errno) -> Problem {
    move |errno| Problem::new(format!("cannot {what}: {}", Errno::from(errno)))
}

/// The session that a server is in. The scheduler shares the processors among sessions, not threads (man 7 sched,
/// autogroup), and that decides where it wakes whoever is answered: a program of the server's own session stays, as a
/// rule, on the CPU where it waits; any other goes to an idle CPU if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// One of its own: right for a server that any CPU may wake (/dev/fuse, 24 us a small write, else 38).
    Own,
    /// That of whoever started it: right for one that works on the caller's CPU (rings, 15 us a small write, else 26).
    Starters,
}

/// Out of reach of the terminal's signals, without a terminal, and with `/` as current directory: a server in its
/// own mount could never be unmounted.
///
/// # Errors
/// One sentence with the errno.
pub fn from_terminal(session: Session) -> Result<(), Problem> {
    match session {
        Session::Own => setsid().map(drop).map_err(failed("start a session"))?,
        Session::Starters => {
            let itself = Pid::from_raw(0);
            setpgid(itself, itself).map_err(failed("start a process group"))?;
            sys::terminal::let_go();
        }
    }
    nix::unistd::chdir("/").map_err(failed("go to /"))
}

fn null() -> Result<std::fs::File, Problem> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/null");
    opened.map_err(|error| Problem::new(format!("cannot open /dev/null: {}", Errno::from(error))))
}

/// Both lead to `/dev/null` from here on.
///
/// # Errors
/// One sentence with the errno.
pub fn silence_stdin_and_stdout() -> Result<(), Problem> {
    let null = null()?;
    dup2_stdin(&null).map_err(failed("let go of stdin"))?;
    dup2_stdout(&null).map_err(failed("let go of stdout"))
}

/// stderr too.
///
/// # Errors
/// One sentence with the errno.
pub fn silence_stderr() -> Result<(), Problem> {
    dup2_stderr(null()?).map_err(failed("let go of stderr"))
}

/// Descriptors of whoever started us: those that survive exec. All of our own are close-on-exec.
#[must_use]
pub fn inherited() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<RawFd> = numbers.filter(|number| survives_exec(*number)).collect();
    found.sort_unstable();
    found
}

/// By `/proc/self/fdinfo`, where `flags:` has O_CLOEXEC in octal; false for one that is gone.
fn survives_exec(number: RawFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
}

/// Closes what the starter left open beyond the standard streams: a server that kept a pipe or a lock
/// of a script would hold the script up for as long as it serves. Call it when the trace is open, whose
/// name may be such a descriptor (`-t >(jq .)` of bash).
pub fn let_go_of_inherited() {
    for number in inherited().into_iter().filter(|number| *number > 2) {
        if let Err(errno) = nix::unistd::close(number) {
            log::debug!("descriptor {number} was closed already: {errno}");
        }
    }
}
