//! The command line: one module a subcommand. Arguments as typed become validated configuration here,
//! and outcomes become exit statuses.
//!
//! Layer: edge, the top. Wiring only.

pub mod audit;
pub mod input;
pub mod log;
pub mod mount;
pub mod recording;
pub mod report;
pub mod restore;
pub mod run;
pub mod story;
pub mod units;
pub mod unmount;

use clap::{Parser, Subcommand};

/// It failed.
pub const EXIT_FAILED: u8 = 1;
/// The command line is wrong; clap's own choice too.
pub const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  iolens run -- python3 script.py      record one program's file I/O in the current directory
  iolens report                        what it did, per file, and what stands out
  iolens log                           read what it did, one operation a line
  iolens mount ./data /mnt/view        a recorded view for any number of programs
  iolens unmount /mnt/view             write back, unmount, wait for the end

The environment variable IOLENS_LOG takes an env_logger filter (IOLENS_LOG=debug).";

/// Shows what file I/O really does: a passthrough view of a directory that records every request
#[derive(Debug, Parser)]
#[command(name = "iolens", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(Box<mount::Args>),
    Unmount(unmount::Args),
    Run(Box<run::Args>),
    Log(Box<log::Args>),
    Report(report::Args),
    Story(story::Args),
    Audit(audit::Args),
    Restore(restore::Args),
}

impl Cli {
    /// Does what was asked; returns the exit status.
    #[must_use]
    pub fn dispatch(self) -> u8 {
        start_logging(match &self.command {
            Command::Mount(args) => args.record.verbose,
            Command::Run(args) => args.record.verbose,
            _ => 0,
        });
        match self.command {
            Command::Mount(args) => mount::run(*args),
            Command::Unmount(args) => unmount::run(&args),
            Command::Run(args) => run::run(*args),
            Command::Log(args) => log::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Story(args) => story::run(&args),
            Command::Audit(args) => audit::run(&args),
            Command::Restore(args) => restore::run(&args),
        }
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "iolens=info,warn",
        _ => "debug",
    };
    let environment = env_logger::Env::new().filter_or("IOLENS_LOG", level);
    env_logger::Builder::from_env(environment)
        .format_timestamp(None)
        .init();
}

/// Says what is wrong with the command line.
pub(crate) fn usage(sentence: &str) -> u8 {
    crate::server::say(sentence);
    EXIT_USAGE
}
