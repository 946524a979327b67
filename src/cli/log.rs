//! `iolens log`: a trace as readable lines.

mod filter;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use self::filter::Filter;
use super::input::{self, Input};
use super::units::parse_duration;
use crate::error::Errno;
use crate::render::escape::printable_line;
use crate::render::text::Text;
use crate::trace::reader::{Ending, Item, TraceError};

const EXAMPLES: &str = "\
Filters of one kind are alternatives (--op read --op write); filters of different kinds must all
match. With a filter, only what it is about is shown: --pid 7 shows no writeback, which is of no
process.

A GLOB without `/` is matched against the last component of a path, one with `/` against the whole
path below SOURCE; `**` crosses directories. A TIME is of the day (23:35:56), a point in time
(2026-11-23T23:35:56Z), or counted from the start of the trace (+5s).

Examples:
  iolens log                              the newest run, everything
  iolens log --path '*.db' --op write     who writes the databases
  iolens log --failed                     what did not work
  iolens log --min-dur 10ms               what was slow
  iolens log -f --op fsync                while it runs
  iolens log t.jsonl | grep 'fh=7 '       the life of one open file";

/// Show a trace as readable lines, one operation a line
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The trace, `-` for stdin [default: the newest run's]
    pub trace: Option<PathBuf>,
    /// Only these operations (read, write, open, ..; also writeback, evict, discard, lost)
    #[arg(long, value_name = "OP", value_delimiter = ',')]
    pub op: Vec<String>,
    /// Only files whose path matches
    #[arg(long, value_name = "GLOB")]
    pub path: Vec<String>,
    /// Only this process or thread
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Only threads of this name
    #[arg(long, value_name = "NAME")]
    pub comm: Vec<String>,
    /// Only this descriptor of the application, and the open that it came from
    #[arg(long, value_name = "N")]
    pub fd: Vec<i32>,
    /// Only this open file description
    #[arg(long, value_name = "N")]
    pub fh: Vec<u64>,
    /// Only what failed with this error (ENOSPC)
    #[arg(long, value_name = "NAME")]
    pub errno: Vec<String>,
    /// Only what took at least this long (10ms)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub min_dur: Option<Duration>,
    /// Only from this time on
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only where the buffer did this (buffered, hit, miss, writeback, wait, ..)
    #[arg(long, value_name = "DECISION")]
    pub cache: Vec<String>,
    /// Only what failed
    #[arg(long)]
    pub failed: bool,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Go on as the trace grows, until it ends
    #[arg(short = 'f', long)]
    pub follow: bool,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    run_to(args, Text::local(), out, &mut io::stderr().lock())
}

/// One sentence on stderr, as of every command; exit status 1.
pub(super) fn fail(err: &mut dyn Write, text: &str) -> u8 {
    say(err, text);
    1
}

/// A sentence on stderr. Where even that fails there is nobody to tell.
fn say(err: &mut dyn Write, text: &str) {
    writeln!(err, "iolens: {}", printable_line(text)).unwrap_or_default();
}

fn run_to(args: &Args, text: Text, mut out: impl Write, err: &mut dyn Write) -> u8 {
    let filter = match Filter::new(args) {
        Ok(filter) => filter,
        Err(error) => {
            say(err, &error);
            return 2;
        }
    };
    let input = match input::open(args.trace.as_deref()) {
        Ok(input) => input,
        Err(error) => return fail(err, &error),
    };
    let status = show(args, filter, text, input, &mut out, err);
    let flushed = status.and_then(|status| out.flush().map(|()| status));
    match flushed {
        Ok(status) => status,
        // `iolens log | head`: the reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => fail(err, &format!("cannot write: {}", Errno::from(error))),
    }
}

/// Shows what passes; an error is one of writing.
fn show(
    args: &Args,
    mut filter: Filter,
    mut text: Text,
    input: Input,
    out: &mut impl Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let reader = if args.follow {
        input.reader.follow()
    } else {
        input.reader
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut status = 0;
    let mut line = Vec::new();
    for item in reader {
        match item {
            Ok(Item::Event(_, event)) => {
                let open = filter.joined(&event);
                let passes = filter.passes(&event);
                if !passes && matches!(event, crate::event::Event::Header(_)) {
                    // Rendered even if not shown: it tells the block size.
                    text.write(&event, &mut line);
                }
                for event in open.into_iter().chain(passes.then_some(event)) {
                    if left == 0 {
                        return Ok(status);
                    }
                    line.clear();
                    text.write(&event, &mut line);
                    out.write_all(&line)?;
                    left -= 1;
                }
                if args.follow {
                    out.flush()?;
                }
                if left == 0 {
                    return Ok(status);
                }
            }
            Ok(Item::End(ending)) => {
                out.flush()?;
                say_ending(ending, &input.name, err);
            }
            Err(error @ TraceError::Line { .. }) => status = fail(err, &error.to_string()),
            Err(error) => status = fail(err, &format!("{}: {error}", input.name)),
        }
    }
    Ok(status)
}

fn say_ending(ending: Ending, name: &str, err: &mut dyn Write) {
    match ending {
        Ending::Footer => {}
        Ending::NoFooter => say(
            err,
            &format!(
                "{name} has no footer: its server still runs (follow it with -f) or was killed"
            ),
        ),
        Ending::Cut(line) => {
            say(
                err,
                &format!("{name} is cut off within line {line}, and has no footer"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CacheDid, Event, Header, Op, OpKind, Reason, SCHEMA_VERSION, Writeback};
    use crate::trace::jsonl;
    use crate::types::{Fh, Nanos, Pid, Seq, Tid};

    const SECOND: u64 = 1_000_000_000;

    fn op(seq: u64, kind: OpKind, path: &str, set: impl FnOnce(&mut Op)) -> Event {
        let mut op = Op::new(kind, Seq(seq), Nanos(seq * SECOND));
        op.path = Some(path.into());
        op.pid = Some(Pid(7));
        op.tid = Some(Tid(7));
        op.comm = Some("py".into());
        op.ret = Some(0);
        set(&mut op);
        Event::Op(Box::new(op))
    }

    fn trace() -> Vec<u8> {
        let header = Header {
            schema: SCHEMA_VERSION,
            start_ns: Nanos(SECOND),
            ..Header::default()
        };
        let buffered = CacheDid::Buffered {
            offset: 0,
            size: 1,
            overwrote: 0,
        };
        let done = Writeback {
            seq: Seq(5),
            ts_ns: Nanos(5 * SECOND),
            path: crate::event::ByteText::new("a.txt".as_ref()),
            reason: Reason::Age,
            ..Writeback::default()
        };
        let events = [
            Event::Header(Box::new(header)),
            op(1, OpKind::Open, "a.txt", |op| op.fh = Some(Fh(1))),
            op(2, OpKind::Write, "a.txt", |op| {
                op.fh = Some(Fh(1));
                op.fd = Some(3);
                op.dur_ns = Nanos(20_000_000);
                op.cache = vec![buffered];
            }),
            op(3, OpKind::Open, "d/b.rs", |op| {
                op.ret = None;
                op.errno = Some("EACCES".into());
                op.comm = Some("cc".into());
                op.tid = Some(Tid(8));
            }),
            op(4, OpKind::Rename, "x", |op| op.to = Some("d/y.rs".into())),
            Event::Writeback(Box::new(done)),
            Event::Footer(Box::default()),
        ];
        let mut bytes = Vec::new();
        let mut format = jsonl();
        events.iter().for_each(|event| format(event, &mut bytes));
        bytes
    }

    fn log_of(bytes: &[u8], set: impl FnOnce(&mut Args)) -> (u8, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let mut args = Args {
            trace: Some(path),
            ..Args::default()
        };
        set(&mut args);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run_to(&args, Text::utc(), &mut out, &mut err);
        (
            status,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    /// The seconds of the lines that are shown: each event's is its number.
    fn shown(set: impl FnOnce(&mut Args)) -> Vec<u64> {
        let (status, out, err) = log_of(&trace(), set);
        assert_eq!((status, err.as_str()), (0, ""));
        out.lines()
            .map(|line| line[6..8].parse().unwrap())
            .collect()
    }

    #[test]
    fn a_descriptor_is_followed_from_its_open() {
        // 1 opened fh 1, and 2 wrote to it through descriptor 3.
        assert_eq!(shown(|args| args.fd = vec![3]), [1, 2]);
        assert_eq!(shown(|args| args.fd = vec![4]), [0; 0]);
        let only_writes = |args: &mut Args| {
            args.fd = vec![3];
            args.op = vec!["write".to_owned()];
        };
        assert_eq!(shown(only_writes), [2]);
        let first = |args: &mut Args| {
            args.fd = vec![3];
            args.limit = Some(1);
        };
        assert_eq!(shown(first), [1]);
    }

    #[test]
    fn without_filters_everything_is_shown() {
        let (status, out, err) = log_of(&trace(), |_| {});
        assert_eq!((status, err.as_str(), out.lines().count()), (0, "", 7));
    }

    #[test]
    fn each_filter_keeps_what_it_names() {
        let strings = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(|args| args.op = strings(&["open", "rename"])),
            [1, 3, 4]
        );
        assert_eq!(shown(|args| args.op = strings(&["writeback"])), [5]);
        assert_eq!(shown(|args| args.path = strings(&["*.rs"])), [3, 4]);
        assert_eq!(shown(|args| args.path = strings(&["a.*"])), [1, 2, 5]);
        assert_eq!(shown(|args| args.pid = vec![8]), [3]);
        assert_eq!(shown(|args| args.comm = strings(&["cc"])), [3]);
        assert_eq!(shown(|args| args.fh = vec![1]), [1, 2]);
        assert_eq!(shown(|args| args.errno = strings(&["eacces"])), [3]);
        assert_eq!(
            shown(|args| args.min_dur = Some(Duration::from_millis(20))),
            [2]
        );
        assert_eq!(shown(|args| args.cache = strings(&["buffered"])), [2]);
        assert_eq!(shown(|args| args.failed = true), [3]);
        assert_eq!(shown(|args| args.since = Some("+3s".into())), [4, 5]);
        assert_eq!(
            shown(|args| args.until = Some("1970-01-01T00:00:02Z".into())),
            [1, 2]
        );
        assert_eq!(
            shown(|args| {
                args.op = strings(&["open"]);
                args.limit = Some(1);
            }),
            [1]
        );
    }

    #[test]
    fn a_filter_that_is_none_is_a_usage_error() {
        for set in [
            (|args: &mut Args| args.op = vec!["wriet".into()]) as fn(&mut Args),
            |args| args.errno = vec!["EWHAT".into()],
            |args| args.cache = vec!["magic".into()],
            |args| args.since = Some("yesterday".into()),
            |args| args.path = vec!["a[".into()],
        ] {
            let (status, out, err) = log_of(&trace(), set);
            assert_eq!((status, out.as_str()), (2, ""));
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    }

    #[test]
    fn a_cut_trace_is_shown_and_the_cut_told_on_stderr() {
        let bytes = trace();
        let (status, out, err) = log_of(&bytes[..bytes.len() - 10], |_| {});
        assert_eq!((status, out.lines().count()), (0, 6));
        assert!(err.contains("cut off within line 7"), "{err}");
        let end = bytes.len() - bytes.rsplit(|&b| b == b'\n').nth(1).unwrap().len() - 1;
        let (_, _, err) = log_of(&bytes[..end], |_| {});
        assert!(err.contains("no footer"), "{err}");
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        std::fs::write(&path, trace()).unwrap();
        let args = Args {
            trace: Some(path),
            ..Args::default()
        };
        let mut err = Vec::new();
        assert_eq!(run_to(&args, Text::utc(), Gone, &mut err), 0);
        assert!(err.is_empty());
    }
}
