//! `iolens audit`: proves a trace against its laws.

use std::io::{self, Write};
use std::path::PathBuf;

use super::input;
use crate::analysis::audit::{Audit, LawReport, Report, Verdict};
use crate::error::Errno;
use crate::trace::reader::{Item, TraceError};

/// Exit status of a broken law.
const BROKEN: u8 = 4;

const EXAMPLES: &str = "\
Exit status: 0 no law is broken (of a cut, lossy or filtered trace some may not be provable),
4 a law is broken, 1 the trace cannot be read.

Examples:
  iolens audit                  the newest run's trace
  iolens audit t.jsonl && echo whole
  zcat t.jsonl.gz | iolens audit -";

/// Prove a trace against its laws
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trace, `-` for stdin [default: the newest run's]
    pub trace: Option<PathBuf>,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    run_to(args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn run_to(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let input = match input::open(args.trace.as_deref()) {
        Ok(input) => input,
        Err(error) => return super::log::fail(err, &error),
    };
    let mut audit = Audit::default();
    let mut damaged = 0;
    for item in input.reader {
        match item {
            Ok(Item::Event(line, event)) => audit.push(line, &event),
            Ok(Item::End(_)) => break,
            Err(error @ TraceError::Line { .. }) => {
                damaged += 1;
                super::log::fail(err, &error.to_string());
            }
            Err(error) => return super::log::fail(err, &format!("{}: {error}", input.name)),
        }
    }
    let report = audit.finish(damaged);
    match print(&report, &input.name, out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return super::log::fail(err, &format!("cannot write: {}", Errno::from(error)));
        }
        _ => {}
    }
    match (report.is_broken(), damaged) {
        (true, _) => BROKEN,
        (false, 0) => 0,
        (false, _) => 1,
    }
}

fn print(report: &Report, name: &str, out: &mut dyn Write) -> io::Result<()> {
    report.laws.iter().try_for_each(|law| print_law(law, out))?;
    let broken = report
        .laws
        .iter()
        .filter(|law| matches!(law.verdict, Verdict::Broken { .. }));
    let verdict = match (broken.count(), &report.incomplete) {
        (0, None) => "every law holds".to_owned(),
        (0, Some(why)) => format!("no law is broken; not all can be proven: {why}"),
        (1, _) => "1 law is broken".to_owned(),
        (n, _) => format!("{n} laws are broken"),
    };
    let (ops, events) = (report.ops, report.events);
    writeln!(out, "{name}: {verdict} ({ops} operations, {events} events)")?;
    out.flush()
}

fn print_law(law: &LawReport, out: &mut dyn Write) -> io::Result<()> {
    let (number, text) = (law.number, law.text);
    match &law.verdict {
        Verdict::Holds => writeln!(out, "law {number}  holds         {text}"),
        Verdict::NotProvable(why) => writeln!(out, "law {number}  not provable  {text}: {why}"),
        Verdict::Broken { count, evidence } => {
            writeln!(out, "law {number}  BROKEN        {text}")?;
            for one in evidence {
                writeln!(out, "         {one}")?;
            }
            let more = count.saturating_sub(u64::try_from(evidence.len()).unwrap_or(u64::MAX));
            if more > 0 {
                writeln!(out, "         and {more} more")?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(text: &str) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run_to(&Args { trace: Some(path) }, &mut out, &mut err);
        (
            status,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn header() -> String {
        let header = crate::event::Header {
            schema: 1,
            policy: "off".into(),
            on_close: "writeback".into(),
            ..Default::default()
        };
        serde_json::to_string(&crate::event::Event::Header(Box::new(header))).unwrap() + "\n"
    }

    const FOOTER: &str = r#"{"kind":"footer","ops":1,"events":1,"lost":0,"dirty_bytes":0,"write_errors":0,"abandoned":false,"end_ns":9,"exit":0}"#;
    const READ: &str = r#"{"kind":"op","seq":1,"ts_ns":1,"dur_ns":1,"op":"getattr","path":"a","ret":0,"caller":"request"}"#;

    #[test]
    fn a_good_trace_gets_a_line_a_law_and_status_0() {
        let (status, out, err) = audit(&format!("{}{READ}\n{FOOTER}\n", header()));
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        assert_eq!(
            out.lines()
                .filter(|line| line.contains("  holds  "))
                .count(),
            8
        );
        assert!(
            out.lines()
                .last()
                .unwrap()
                .contains("every law holds (1 operations, 1 events)")
        );
    }

    #[test]
    fn a_broken_law_is_shown_with_status_4() {
        let (status, out, _) = audit(&format!("{}{READ}\n{READ}\n{FOOTER}\n", header()));
        assert_eq!(status, 4);
        assert!(
            out.contains("law 1  BROKEN") && out.contains("line 3, seq 1"),
            "{out}"
        );
    }

    #[test]
    fn a_cut_trace_is_status_0_and_says_what_is_not_provable() {
        let (status, out, _) = audit(&format!("{}{READ}\n", header()));
        assert_eq!(status, 0);
        assert!(
            out.contains("law 2  not provable") && out.contains("no footer"),
            "{out}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_status_1() {
        assert_eq!(audit("hello\n").0, 1);
        let (status, _, err) = audit(&format!("{}garbage\n{READ}\n{FOOTER}\n", header()));
        assert_eq!(status, 1);
        assert!(err.contains("line 2"), "{err}");
        let missing = Args {
            trace: Some("/nonexistent/t".into()),
        };
        assert_eq!(run_to(&missing, &mut Vec::new(), &mut Vec::new()), 1);
    }
}
