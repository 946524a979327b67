//! `iolens run`.
//!
//! Layer: edge (`cli`).

use std::ffi::OsString;
use std::path::PathBuf;

use super::recording::{RecordArgs, Table};
use super::usage;
use crate::run::Plan;
use crate::server::record::Target;

const EXAMPLES: &str = "\
Examples:
  iolens run -- python3 script.py            the current directory, and what is below it
  iolens run -C /srv/data -- ./import.sh     only what happens in /srv/data
  iolens run -t run.jsonl --live -- make     watch it, and keep the trace in a file

Exit status: CMD's own (128+N when signal N killed it); 125 iolens failed, 126 CMD is not executable,
127 CMD was not found; 3 when data could not be written back and CMD succeeded; 2 wrong usage.";

/// Record one program, then report
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `mount` and `run` share.
    #[command(flatten)]
    pub record: RecordArgs,
    /// The directory that is recorded [default: the current one]; CMD keeps its own
    #[arg(
        short = 'C',
        value_name = "SOURCE",
        default_value = ".",
        hide_default_value = true
    )]
    source: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    cmd: Vec<OsString>,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: Args) -> u8 {
    let meant = match args.record.meant(Table::Printed) {
        Ok(meant) => meant,
        Err(sentence) => return usage(&sentence),
    };
    let mut recording = meant.recording;
    if recording.target == Target::Stdout {
        return usage(
            "-t - cannot be used with run, because stdout is CMD's alone: name a file, or use --live",
        );
    }
    let words = args
        .cmd
        .iter()
        .map(|word| word.to_string_lossy().into_owned());
    recording.cmd = Some(words.collect());
    crate::run::run(Plan {
        source: args.source,
        cmd: args.cmd,
        recording,
        serving: meant.serving,
        buffer: meant.buffer,
        options: meant.options,
    })
}
