//! Terminals: what they show, and letting go of one.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};

use terminal_size::{Width, terminal_size_of};

/// Where nobody says how wide it is: a file, a pipe.
const COLUMNS: usize = 80;

/// Columns of `stream`: what `COLUMNS` says, or its terminal.
pub fn columns(stream: impl AsFd) -> usize {
    let told = std::env::var("COLUMNS").ok();
    let told = told.and_then(|text| text.parse().ok());
    told.or_else(|| terminal_size_of(stream).map(|(Width(columns), _)| columns.into()))
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS)
}

/// Whether `stream` shows colours, and nobody minds (no-color.org: `NO_COLOR` set and not empty).
pub fn shows_colours(stream: &impl IsTerminal) -> bool {
    let minds = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !minds
}

/// Has no controlling terminal from here on (man 4 tty, `TIOCNOTTY`), if it is not the leader of its session.
pub fn let_go() {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        // There is none.
        return;
    };
    // SAFETY: takes no argument and changes nothing but what this process has for a terminal.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) } != 0 {
        log::info!("the terminal stays: {}", crate::error::Errno::last());
    }
}
