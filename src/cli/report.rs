//! `iolens report`: what a program did with its files.

use std::io::{self, Write};
use std::path::PathBuf;

use super::input;
use crate::analysis::report::{Order, Report, Reporter};
use crate::error::Errno;
use crate::render::report::render;
use crate::render::table::{Layout, Style};
use crate::sys::terminal;
use crate::trace::reader::{Ending, Item, TraceError};

const EXAMPLES: &str = "\
First what stands out, with the operations that show it (`iolens log` shows them), then figures and tables,
largest first. A call is what the application made, however many requests it was split into.

Examples:
  iolens report                    the newest run
  iolens report --top 50 --sort time t.jsonl
  iolens report --json | jq '.findings[].rule'";

/// Show what a program did, per file, open and process, and what stands out
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trace, `-` for stdin [default: the newest run's]
    pub trace: Option<PathBuf>,
    /// All of it as one JSON object (docs/REPORT.md)
    #[arg(long)]
    pub json: bool,
    /// Lines of each table, and findings
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// What the largest of each table are largest by
    #[arg(long, value_name = "BY", value_enum, default_value_t = By::Bytes)]
    pub sort: By,
}

/// What tables are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Bytes read and written
    Bytes,
    /// Calls that read and write
    Calls,
    /// Time in operations
    Time,
    /// Failed operations
    Errors,
    /// Opens
    Opens,
    /// Bytes written and never synced
    Unsynced,
}

impl From<By> for Order {
    fn from(by: By) -> Order {
        match by {
            By::Bytes => Order::Bytes,
            By::Calls => Order::Calls,
            By::Time => Order::Time,
            By::Errors => Order::Errors,
            By::Opens => Order::Opens,
            By::Unsynced => Order::Unsynced,
        }
    }
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    let stdout = io::stdout();
    let layout = Layout {
        width: terminal::columns(&stdout),
        style: Style::of(terminal::shows_colours(&stdout)),
    };
    run_to(
        args,
        layout,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    )
}

fn run_to(args: &Args, layout: Layout, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let input = match input::open(args.trace.as_deref()) {
        Ok(input) => input,
        Err(error) => return super::log::fail(err, &error),
    };
    let mut reporter = Reporter::default();
    let mut status = 0;
    for item in input.reader {
        match item {
            Ok(Item::Event(_, event)) => reporter.push(event),
            Ok(Item::End(Ending::Cut(line))) => {
                let text = format!("{} is cut off within line {line}", input.name);
                super::log::fail(err, &text);
            }
            Ok(Item::End(_)) => break,
            Err(error @ TraceError::Line { .. }) => {
                status = super::log::fail(err, &error.to_string())
            }
            Err(error) => return super::log::fail(err, &format!("{}: {error}", input.name)),
        }
    }
    let mut report = reporter.finish();
    report.sort(args.sort.into());
    match print(&report, args, layout, out) {
        // `iolens report | head`: the reader has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            super::log::fail(err, &format!("cannot write: {}", Errno::from(error)))
        }
        _ => status,
    }
}

fn print(report: &Report, args: &Args, layout: Layout, out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
    } else {
        out.write_all(render(report, layout, args.top).as_bytes())?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, json: bool) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        let args = Args {
            trace: Some(path),
            json,
            top: 10,
            sort: By::Bytes,
        };
        let layout = Layout {
            width: 80,
            style: Style::Plain,
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run_to(&args, layout, &mut out, &mut err);
        (
            status,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn trace() -> String {
        let header = crate::event::Header {
            schema: 1,
            ..Default::default()
        };
        let header = serde_json::to_string(&crate::event::Event::Header(Box::new(header))).unwrap();
        let write = r#"{"kind":"op","seq":1,"ts_ns":1,"dur_ns":1,"op":"write","path":"a","offset":0,"size":5,"ret":5,"caller":"request"}"#;
        format!("{header}\n{write}\n")
    }

    #[test]
    fn the_object_has_its_documented_keys() {
        let (status, out, err) = report(&trace(), true);
        assert_eq!((status, err.as_str()), (0, ""));
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        for key in [
            "summary",
            "findings",
            "notes",
            "files",
            "opens",
            "processes",
        ] {
            assert!(object.get(key).is_some(), "{key}");
        }
        let figures = &object["files"][0]["figures"];
        assert_eq!(figures["writes"]["bytes"], 5);
        let documented = include_str!("../../docs/REPORT.md");
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut all = keys(figures);
        for part in ["reads", "time", "cache"] {
            all.extend(keys(&figures[part]));
        }
        all.extend(keys(&figures["reads"]["sizes"]));
        all.extend(keys(&object["summary"]));
        for key in all {
            assert!(
                documented.contains(&key),
                "docs/REPORT.md does not say {key}"
            );
        }
    }

    #[test]
    fn a_trace_that_is_cut_or_none_is_told() {
        let cut = format!("{}{{\"kind\":\"op\",\"se", trace());
        let (status, out, err) = report(&cut, false);
        assert_eq!(status, 0);
        assert!(out.contains("1 call"), "{out}");
        assert!(err.contains("cut off within line 3"), "{err}");
        let (status, out, err) = report("hello\n", false);
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(err.contains("not an iolens trace"), "{err}");
    }
}
