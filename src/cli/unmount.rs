//! `iolens unmount`: unmounts and waits until all is in SOURCE.
//!
//! Layer: edge (`cli`).

use std::path::{Path, PathBuf};

use super::EXIT_FAILED;
use crate::mount::mountinfo::MountEntry;
use crate::mount::unmount::{Outcome, find_ours, unmount, unmount_idle};
use crate::mount::{Detach, Problem, holders};
use crate::server::control::Waiting;
use crate::server::say;

const EXAMPLES: &str = "\
Examples:
  iolens unmount /mnt/view

Exit status: 0 when all is in SOURCE; 3 when data could not be written back; 1 when the view is in use
(nothing is changed then) or its server died.";

/// Write back, unmount, and return when all is in SOURCE
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the view is mounted
    mountpoint: PathBuf,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    match try_run(args) {
        Ok(exit) => exit,
        Err(problem) => {
            say(&problem.to_string());
            EXIT_FAILED
        }
    }
}

fn try_run(args: &Args) -> Result<u8, Problem> {
    let mount = find_ours(&args.mountpoint)?;
    // Our own directory may be in the view, and would be what keeps it busy.
    std::env::set_current_dir("/")
        .map_err(|error| Problem::at("cannot go to", Path::new("/"), error))?;
    // Connected first: afterwards the server may end at any moment.
    let waiting = Waiting::connect(mount.dev, mount.owner().unwrap_or(0))?;
    let outcome = if waiting.is_some() {
        unmount_idle(&mount.point, mount.dev)?
    } else {
        unmount(&mount.point, mount.dev, Detach::Lazily)?
    };
    match outcome {
        Outcome::Gone => {}
        Outcome::Busy => return Err(busy(&mount)),
    }
    let shown = mount.point.display();
    let Some(waiting) = waiting else {
        return Err(Problem::new(format!(
            "unmounted {shown}, but no server answered for it: it was killed (or is in another network \
             namespace), so whether everything was written back is not known"
        )));
    };
    let Some(report) = waiting.report() else {
        return Err(Problem::new(format!(
            "the server of {shown} died while it was writing back: what was not written is lost, and \
             its trace has no end"
        )));
    };
    if report.exit != 0 {
        crate::server::print(&report.text);
    }
    Ok(u8::try_from(report.exit).unwrap_or(EXIT_FAILED))
}

fn busy(mount: &MountEntry) -> Problem {
    let shown = mount.point.display();
    let holders = holders::find(mount.dev);
    let who = if holders.is_empty() {
        "a process that you may not look into; try as root".to_owned()
    } else {
        holders::list(&holders)
    };
    Problem::new(format!(
        "{shown} is in use (EBUSY) by {who}; close these and try again, nothing was changed"
    ))
}
