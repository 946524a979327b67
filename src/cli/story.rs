//! `iolens story`: the life of a file, or of one open of it, in plain words.

use std::io::{self, Write};
use std::path::PathBuf;

use super::input;
use crate::analysis::story::{About, Teller};
use crate::error::Errno;
use crate::render::story::render;
use crate::trace::reader::{Item, TraceError};
use crate::types::Fh;

const EXAMPLES: &str = "\
Each sentence begins with the number of its event (`iolens log` shows them all). What was done again and again is
one sentence.

Examples:
  iolens story --path first.txt           the file's life, in the newest run
  iolens story --fh 7 t.jsonl             that of one open of it
  iolens story --path data.db --pid 4711  what one process did";

/// Tell the life of a file or of one open of it
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("about").required(true).args(["path", "fh"])))]
pub struct Args {
    /// The trace, `-` for stdin [default: the newest run's]
    pub trace: Option<PathBuf>,
    /// The file, by its path below SOURCE
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// One open file description
    #[arg(long, value_name = "N")]
    pub fh: Option<u64>,
    /// Only what this process did, and what the buffer did
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    run_to(args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn run_to(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let about = match (&args.path, args.fh) {
        (Some(path), _) => About::Path(path.trim_start_matches("./").to_owned()),
        (None, fh) => About::Open(Fh(fh.unwrap_or_default())),
    };
    let input = match input::open(args.trace.as_deref()) {
        Ok(input) => input,
        Err(error) => return super::log::fail(err, &error),
    };
    let mut teller = Teller::new(about, args.pid.clone());
    let mut status = 0;
    for item in input.reader {
        match item {
            Ok(Item::Event(_, event)) => teller.push(event),
            Ok(Item::End(_)) => break,
            Err(error @ TraceError::Line { .. }) => {
                status = super::log::fail(err, &error.to_string())
            }
            Err(error) => return super::log::fail(err, &format!("{}: {error}", input.name)),
        }
    }
    let text = render(&teller.finish());
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            super::log::fail(err, &format!("cannot write: {}", Errno::from(error)))
        }
        _ => status,
    }
}
