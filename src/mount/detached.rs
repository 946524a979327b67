//! A server cuts itself loose from the terminal and directory of whoever started it.
//!
//! Layer: edge (`mount`).

use std::fs::OpenOptions;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::Problem;
use crate::error::Errno;

fn failed(what: &str) -> impl Fn(nix::errno::Errno) -> Problem {
    move |errno| Problem::new(format!("cannot {what}: {}", Errno::from(errno)))
}

/// A session of its own, out of reach of the terminal's signals, with `/` as current directory: a
/// server in its own mount could never be unmounted.
///
/// # Errors
/// One sentence with the errno.
pub fn own_session() -> Result<(), Problem> {
    setsid().map_err(failed("start a session"))?;
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
