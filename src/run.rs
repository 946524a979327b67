//! `iolens run`: one program on a private view of SOURCE, mounted over SOURCE itself.
//!
//! Layer: edge. Three processes:
//!
//! ```text
//! M  the one the user started --- fork ---> S  the server: own session, original namespaces, all rights
//! |  enters private namespaces, mounts,        of the user; ends when the kernel lets go of the view
//! |  hands S the descriptor, waits
//! +-- fork, exec --> CMD  in M's namespaces, process group and terminal
//! ```
//!
//! M keeps one thread, so that it may fork and unshare; it waits for signals and S with poll(2).
//! Invariants: nothing but CMD writes to stdout; every descriptor of ours is close-on-exec; CMD starts
//! with the signal mask and dispositions that we were started with; what S says last is the truth
//! about the data, also when M is gone.

mod inherited;
mod link;
mod program;
mod serving;
mod view;
mod waiting;

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::mount::check::{self, Source};
use crate::mount::{Problem, userns};
use crate::server::record::Recording;
use crate::server::view::Serving;
use crate::server::{EXIT_DIRTY, print, say};
use crate::sys::process::{Forked, fork};
use link::{Link, ToMain};
use program::{Ended, StartError, Terminal};
use waiting::Waiting;

/// iolens itself failed.
const EXIT_FAILED: u8 = 125;
/// CMD was found, but cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// CMD was not found.
const EXIT_NOT_FOUND: u8 = 127;

/// What to run, and how.
#[derive(Debug)]
pub struct Plan {
    /// The directory that is recorded.
    pub source: PathBuf,
    /// The program and its arguments; not empty.
    pub cmd: Vec<OsString>,
    /// What is recorded, and where to.
    pub recording: Recording,
    /// How requests are received.
    pub serving: Serving,
    /// How file data is buffered; `None` with policy `off`.
    pub buffer: Option<crate::buffer::Options>,
    /// Mount options of the user's.
    pub options: crate::mount::options::MountOptions,
}

/// Runs it all; returns the exit status.
#[must_use]
pub fn run(plan: Plan) -> u8 {
    match prepare_and_run(plan) {
        Ok(status) => status,
        Err(problem) => {
            say(&problem.to_string());
            EXIT_FAILED
        }
    }
}

fn prepare_and_run(mut plan: Plan) -> Result<u8, Problem> {
    let source = check::source(&plan.source)?;
    if source.path.parent().is_none() {
        return Err(Problem::new(
            "SOURCE is the root directory, over which nothing can be mounted for a program that is \
             already in it (EINVAL): choose a directory below it with -C",
        ));
    }
    let warnings = inherited::outside_the_view(&source.path);
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }
    plan.recording.invisible.extend(warnings);
    plan.recording.limits.extend(limits());
    let terminal = Terminal::take()?;
    let (ours, theirs) = Link::pair()?;
    let main = nix::unistd::getpid();
    match fork().map_err(|error| Problem::new(format!("cannot fork: {error}")))? {
        Forked::Child => {
            drop(ours);
            serving::serve(theirs, plan, source, main)
        }
        Forked::Parent(server) => {
            drop(theirs);
            Ok(drive(&Waiting::new(ours, terminal, server), &plan, &source))
        }
    }
}

/// What differs from a native directory for a plain user.
fn limits() -> Vec<String> {
    match userns::privilege() {
        userns::Privilege::Root => Vec::new(),
        userns::Privilege::User => vec![
            "owners other than the user are shown as nobody, or as the user where that user may write"
                .to_owned(),
            "chgrp to another group fails, because only the user's own group exists in the namespace"
                .to_owned(),
            "set-user-id and set-group-id programs gain nothing".to_owned(),
            "in a rootless container, users that the container does not know count as foreign owners"
                .to_owned(),
        ],
    }
}

fn drive(waiting: &Waiting, plan: &Plan, source: &Source) -> u8 {
    let mounted = match view::open(source, &plan.options) {
        Ok(view) => view,
        Err(problem) => {
            say(&problem.to_string());
            return EXIT_FAILED;
        }
    };
    if let Err(problem) = waiting.hand_over(&mounted) {
        say(&problem.to_string());
        mounted.detach();
        return EXIT_FAILED;
    }
    let started = mounted
        .enter()
        .map_err(StartError::Iolens)
        .and_then(|()| program::start(&plan.cmd, waiting.terminal()));
    let status = match started {
        Ok(pid) => follow(waiting, pid),
        Err(error) => {
            say(&error.to_string());
            error.exit()
        }
    };
    end(waiting, mounted, status)
}

/// Stays with the program until it ends; returns its status as a shell gives it.
fn follow(waiting: &Waiting, pid: Pid) -> u8 {
    match waiting.program(pid) {
        Ended::Exit(code) => u8::try_from(code & 0xff).unwrap_or(EXIT_FAILED),
        Ended::Signal(number) => u8::try_from(128 + number).unwrap_or(EXIT_FAILED),
    }
}

/// Takes the view away, lets the server finish, and decides the exit status.
fn end(waiting: &Waiting, mounted: view::Mounted, status: u8) -> u8 {
    waiting.program_ended(status);
    mounted.leave();
    match waiting.finish(&mounted) {
        Some(report) => {
            print(&report.text);
            if status == 0 {
                u8::try_from(report.exit).unwrap_or(EXIT_FAILED)
            } else {
                status
            }
        }
        None => {
            mounted.detach();
            match waiting.died() {
                // What became of the data was said by who completed it.
                Some(report) if report.exit == EXIT_DIRTY => {
                    u8::try_from(report.exit).unwrap_or(EXIT_FAILED)
                }
                Some(_) => EXIT_FAILED,
                None => {
                    say(
                        "the server of the view died, and its supervisor too: what was not written back is \
                         lost, and the trace has no end",
                    );
                    EXIT_FAILED
                }
            }
        }
    }
}

impl StartError {
    fn exit(&self) -> u8 {
        match self {
            StartError::NotFound(_) => EXIT_NOT_FOUND,
            StartError::NotExecutable(..) => EXIT_NOT_EXECUTABLE,
            StartError::Iolens(_) => EXIT_FAILED,
        }
    }
}

/// What a message that should not come now is called in an error.
fn out_of_turn(message: Option<ToMain>) -> Problem {
    Problem::new(match message {
        Some(ToMain::Failed(text)) => text,
        Some(_) => "the server answers out of turn (a bug in iolens)".to_owned(),
        None => "the server died before the view was ready".to_owned(),
    })
}
