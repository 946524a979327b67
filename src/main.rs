//! The `iolens` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(iolens::cli::Cli::parse().dispatch())
}
