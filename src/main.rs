//! The `iolens` command.

use std::process::ExitCode;

use clap::Parser;
use iolens::cli;

/// Shows what file I/O really does.
#[derive(Parser)]
#[command(name = "iolens", version)]
enum Command {
    Log(Box<cli::log::Args>),
    Audit(cli::audit::Args),
}

fn main() -> ExitCode {
    ExitCode::from(match Command::parse() {
        Command::Log(args) => cli::log::run(&args),
        Command::Audit(args) => cli::audit::run(&args),
    })
}
