//! The short table at the end of a run.

use std::path::Path;

use super::escape::{escape_bytes, push};
use super::grid::{Row, grid};
use crate::analysis::summary::{Summary, Tally};

/// Files that are shown; the rest is one line.
const ROWS: usize = 10;

/// Whether escape sequences may be used: a terminal, and `NO_COLOR` unset (no-color.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// None.
    Plain,
    /// A bold head and red errors.
    Colour,
}

impl Style {
    /// That of a stream which shows colours, or does not.
    #[must_use]
    pub fn of(colours: bool) -> Style {
        match colours {
            true => Style::Colour,
            false => Style::Plain,
        }
    }
}

/// Where the table goes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns of the terminal; 80 where there is none.
    pub width: usize,
    /// Colours.
    pub style: Style,
}

const HEAD: [&str; 8] = [
    "opens", "reads", "read", "writes", "written", "fsync", "errors", "time",
];

/// The summary as lines: a table of the largest files and totals.
#[must_use]
pub fn render(summary: &Summary, layout: Layout) -> String {
    let files = summary.files();
    let mut rows: Vec<Row<8>> = Vec::new();
    for (path, tally) in files.iter().take(ROWS) {
        let mut name = String::new();
        escape_bytes(&path.bytes().unwrap_or_default(), &mut name);
        rows.push(row(name, tally));
    }
    let total = match files.len() {
        _ if summary.crowded => "all files".to_owned(),
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    let more = match files.len().saturating_sub(ROWS) {
        _ if summary.crowded => "and very many more files\n".to_owned(),
        0 => String::new(),
        1 => "and 1 more file\n".to_owned(),
        n => format!("and {n} more files\n"),
    };
    rows.push(row(total, &summary.total));
    let mut out = String::new();
    if summary.total.ops == 0 {
        out.push_str("iolens: no file operation reached the view\n");
    } else {
        grid(&mut out, "file", &HEAD, rows.iter(), layout);
        // Before the last line, which is that of all.
        let last = out.trim_end().rfind('\n').map_or(0, |at| at + 1);
        out.insert_str(last, &more);
    }
    out
}

/// What is to be known of the table, where the trace is, and where to look next.
#[must_use]
pub fn notes(summary: &Summary, trace: Option<&Path>) -> String {
    let mut out = String::new();
    if summary.lost > 0 {
        push(
            &mut out,
            format_args!(
                "{} events could not be recorded: the numbers are too low\n",
                summary.lost
            ),
        );
    }
    if let Some(trace) = trace {
        let mut path = String::new();
        escape_bytes(trace.as_os_str().as_encoded_bytes(), &mut path);
        push(&mut out, format_args!("trace: {path}\n"));
        out.push_str("next:  iolens report         what the program did, per file and open, and what stands out\n");
        out.push_str("       iolens log            every operation, one a line (--path GLOB, --op write, --failed)\n");
        out.push_str("       iolens audit          proves that the trace is whole\n");
    }
    out
}

fn row(name: String, tally: &Tally) -> Row<8> {
    Row {
        name,
        cells: [
            count(tally.opens),
            count(tally.reads),
            bytes(tally.read_bytes),
            count(tally.writes),
            bytes(tally.write_bytes),
            count(tally.fsyncs),
            count(tally.errors),
            time(tally.time.0),
        ],
        failed: tally.errors > 0,
    }
}

pub(super) fn count(number: u64) -> String {
    if number == 0 {
        "-".to_owned()
    } else {
        number.to_string()
    }
}

/// `8188 B`, `1.5 MiB`
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    if number == 0 {
        return "-".to_owned();
    }
    for (shift, unit) in UNITS {
        if number >> shift > 0 {
            let tenths = (u128::from(number) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{number} B")
}

/// `12 us`, `3.4 ms`, `1.2 s`
pub(super) fn time(nanos: u64) -> String {
    match nanos {
        0 => "-".to_owned(),
        1..1_000_000 => format!("{} us", nanos.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{}.{} ms", nanos / 1_000_000, nanos / 100_000 % 10),
        _ => format!("{}.{} s", nanos / 1_000_000_000, nanos / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Op, OpKind};
    use crate::types::{Nanos, Seq};

    fn summary(files: usize) -> Summary {
        let mut summary = Summary::default();
        for index in 0..files {
            let mut op = Op::new(OpKind::Write, Seq(1), Nanos(0));
            op.path = Some(format!("dir/with/a/long/name/file-{index:02}").into());
            op.ret = Some(1000 * (index as u64 + 1));
            op.dur_ns = Nanos(1_500_000);
            summary.push(&Event::Op(Box::new(op)));
        }
        summary
    }

    const PLAIN: Layout = Layout {
        width: 80,
        style: Style::Plain,
    };

    #[test]
    fn the_largest_files_come_first_and_the_rest_is_counted() {
        let summary = summary(13);
        let text = render(&summary, PLAIN) + &notes(&summary, Some(Path::new("/t.jsonl")));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("file"));
        assert!(
            lines[1].contains("file-12") && lines[1].contains("12.6 KiB"),
            "{text}"
        );
        assert_eq!(lines[11], "and 3 more files");
        assert!(lines[12].starts_with("13 files"));
        assert_eq!(lines[13], "trace: /t.jsonl");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn the_table_keeps_to_the_width_as_far_as_it_can() {
        for width in [30, 40, 60, 80, 100, 200] {
            let text = render(&summary(3), Layout { width, ..PLAIN });
            let widest = text.lines().map(str::len).max().unwrap();
            assert!(widest <= width, "{width}: {text}");
        }
    }

    #[test]
    fn errors_are_red_only_where_colours_are_wanted() {
        let mut failed = Op::new(OpKind::Write, Seq(1), Nanos(0));
        failed.path = Some("a".into());
        failed.errno = Some("EIO".into());
        let mut summary = Summary::default();
        summary.push(&Event::Op(Box::new(failed)));
        let layout = Layout {
            width: 80,
            style: Style::Colour,
        };
        assert!(render(&summary, layout).contains("\x1b[31m"));
        assert!(!render(&summary, PLAIN).contains('\x1b'));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!(time(999), "1 us");
        assert_eq!(time(1_250_000_000), "1.2 s");
    }
}
