//! A report for eyes: what stands out, then tables.

mod figures;

use super::escape::{escaped, push};
use super::grid::{Row, grid};
use super::table::{Layout, Style, bytes, count, time};
use crate::analysis::report::{Figures, Finding, Flow, Report};
use figures::{cache, flows, left_the_buffer};

/// The report as text, with so many lines of each table.
#[must_use]
pub fn render(report: &Report, layout: Layout, top: usize) -> String {
    let mut out = String::new();
    let all = &report.summary.figures;
    head(report, layout, &mut out);
    if all.ops == 0 {
        out.push_str("no file operation reached the view\n");
        return out;
    }
    findings(report, layout, top, &mut out);
    flows(all, layout, &mut out);
    cache(&all.cache, layout, &mut out);
    let files = report.files.iter();
    let files = files.map(|file| row(&file.path, &file.figures));
    table("file", files.collect(), (layout, top), &mut out);
    let opens = report.opens.iter().map(|open| {
        let fds: Vec<String> = open.fds.iter().map(ToString::to_string).collect();
        let fd = match fds.is_empty() {
            true => String::new(),
            false => format!(" fd {}", fds.join(",")),
        };
        row(&format!("{} fh={}{fd}", open.path, open.fh), &open.figures)
    });
    table("open", opens.collect(), (layout, top), &mut out);
    let processes = report.processes.iter();
    let processes = processes.map(|process| {
        row(
            &format!("{}[{}]", process.comm, process.pid),
            &process.figures,
        )
    });
    if report.processes.len() > 1 {
        table("process", processes.collect(), (layout, top), &mut out);
    }
    out
}

/// What is worth to know at once: what stands out, and what the buffer did, in few lines.
#[must_use]
pub fn brief(report: &Report, layout: Layout, top: usize) -> String {
    let mut out = String::new();
    findings(report, layout, top, &mut out);
    let written = report.summary.figures.writes.calls > 0;
    if written || !out.is_empty() {
        out.push('\n');
    }
    if written {
        left_the_buffer(&report.summary.figures, layout, &mut out);
    }
    out
}

fn head(report: &Report, layout: Layout, out: &mut String) {
    let summary = &report.summary;
    if let Some(cmd) = &summary.cmd {
        let words: Vec<String> = cmd.iter().map(|word| escaped(word)).collect();
        push(out, format_args!("{}\n", words.join(" ")));
    }
    let all = &summary.figures;
    let moved = |flow: &Flow, verb: &str| match flow.calls {
        0 => format!("nothing {verb}"),
        calls => format!("{} {verb} in {}", bytes(flow.bytes), many(calls, "call")),
    };
    let text = format!(
        "{} on {} in {}: {}, {}",
        many(all.ops, "operation"),
        many(report.files.len() as u64, "file"),
        time(summary.elapsed_ns),
        moved(&all.reads, "read"),
        moved(&all.writes, "written"),
    );
    wrap(&text, layout.width, out);
    if summary.lost > 0 {
        let text = format!(
            "{} events could not be recorded: the numbers are too low",
            summary.lost
        );
        wrap(&text, layout.width, out);
    }
    if !summary.complete {
        let text = "the trace has no end yet: its server still runs, or was killed";
        wrap(text, layout.width, out);
    }
    if summary.dirty_bytes > 0 {
        let text = format!("{} bytes never reached the directory", summary.dirty_bytes);
        wrap(&text, layout.width, out);
    }
    if summary.beyond > 0 {
        let text = "there were too many files, opens or processes to tell all apart: the totals are complete, the tables \
                    are not";
        wrap(text, layout.width, out);
    }
}

/// What stands out, a paragraph each, and then notes, a line each.
fn findings(report: &Report, layout: Layout, top: usize, out: &mut String) {
    let (bold, off) = match layout.style {
        Style::Plain => ("", ""),
        Style::Colour => ("\x1b[1m", "\x1b[0m"),
    };
    for finding in report.findings.iter().take(top) {
        let texts = [
            format!("{bold}{}{off}{}", head_of(finding), evidence(finding)),
            format!("  {}.", finding.why),
            format!("  Better: {}.", finding.remedy),
        ];
        out.push('\n');
        for text in texts {
            wrap(&text, layout.width, out);
        }
    }
    let more = report.findings.len().saturating_sub(top);
    if more > 0 {
        let more = many(more as u64, "more finding");
        push(out, format_args!("\nand {more} (iolens report --top N)\n"));
    }
    if !report.notes.is_empty() {
        out.push('\n');
    }
    for note in report.notes.iter().take(top) {
        let text = format!("{}; {}{}", head_of(note), note.why, evidence(note));
        wrap(&text, layout.width, out);
    }
}

/// `out.txt: 1000 writes of 9 bytes`
fn head_of(finding: &Finding) -> String {
    format!("{}: {}", escaped(&finding.evidence.path), finding.what)
}

/// ` (python3[7], fd 3, 1.2 ms, #4..#1007)`
fn evidence(finding: &Finding) -> String {
    let evidence = &finding.evidence;
    let mut parts = Vec::new();
    match (&evidence.comm, evidence.pid) {
        (Some(comm), Some(pid)) => parts.push(format!("{}[{pid}]", escaped(comm))),
        (None, Some(pid)) => parts.push(format!("process {pid}")),
        (_, None) => {}
    }
    if let Some(fd) = evidence.fds.first() {
        parts.push(format!("fd {fd}"));
    }
    if evidence.cost_ns > 0 {
        parts.push(time(evidence.cost_ns));
    }
    let [first, last] = evidence.seq;
    parts.push(match first == last {
        true => format!("#{first}"),
        false => format!("#{first}..#{last}"),
    });
    format!(" ({})", parts.join(", "))
}

/// Breaks between words; lines after the first are indented as the first one is, and two columns more.
fn wrap(text: &str, width: usize, out: &mut String) {
    let indent = text.len() - text.trim_start().len();
    let mut column = 0;
    for word in text.trim_start().split(' ') {
        let length = word.chars().count();
        if column == 0 {
            push(out, format_args!("{:indent$}{word}", ""));
            column = indent + length;
        } else if column + 1 + length > width.max(20) {
            let deeper = indent + 2;
            push(out, format_args!("\n{:deeper$}{word}", ""));
            column = deeper + length;
        } else {
            push(out, format_args!(" {word}"));
            column += 1 + length;
        }
    }
    out.push('\n');
}

const HEAD: [&str; 7] = [
    "opens", "reads", "read", "writes", "written", "errors", "time",
];

fn table(title: &str, rows: Vec<Row<7>>, (layout, top): (Layout, usize), out: &mut String) {
    if rows.is_empty() {
        return;
    }
    out.push('\n');
    grid(out, title, &HEAD, rows.iter().take(top), layout);
    let more = rows.len().saturating_sub(top);
    if more > 0 {
        push(out, format_args!("and {more} more\n"));
    }
}

fn row(name: &str, figures: &Figures) -> Row<7> {
    let errors: u64 = figures.errors.values().sum();
    let flow = |flow: &Flow| (count(flow.calls), bytes(flow.bytes));
    let ((reads, read), (writes, written)) = (flow(&figures.reads), flow(&figures.writes));
    Row {
        name: escaped(name),
        cells: [
            count(figures.opens),
            reads,
            read,
            writes,
            written,
            count(errors),
            time(figures.time.sum().0),
        ],
        failed: errors > 0,
    }
}

fn many(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::report::Reporter;
    use crate::event::{ByteText, CacheDid, Event, Op, OpKind, Writeback};
    use crate::types::{Fh, Ino, Nanos, Pid, Seq};

    fn report() -> Report {
        let mut reporter = Reporter::default();
        let mut seq = 0;
        let mut op = |kind: OpKind, set: &dyn Fn(&mut Op)| {
            seq += 1;
            let mut op = Op::new(kind, Seq(seq), Nanos(seq * 1_000_000));
            op.dur_ns = Nanos(5000);
            op.path = Some("dir/out\n.txt".into());
            op.fh = Some(Fh(1));
            op.pid = Some(Pid(7));
            op.comm = Some("prog".into());
            op.ret = Some(0);
            set(&mut op);
            reporter.push(Event::Op(Box::new(op)));
        };
        op(OpKind::Open, &|op| op.flags = vec!["O_RDWR".into()]);
        for n in 0..200 {
            op(OpKind::Write, &|op| {
                op.syscall = Some("write".into());
                op.fd = Some(3);
                (op.offset, op.size, op.ret) = (Some(n * 10), Some(10), Some(10));
                op.cache = vec![CacheDid::Buffered {
                    offset: n * 10,
                    size: 10,
                    overwrote: 0,
                }];
            });
        }
        op(OpKind::Release, &|_| {});
        reporter.finish()
    }

    const PLAIN: Layout = Layout {
        width: 80,
        style: Style::Plain,
    };

    #[test]
    fn findings_come_first_then_figures_and_tables() {
        assert_eq!(
            render(&report(), PLAIN, 10),
            r"202 operations on 1 file in 201.0 ms: nothing read, 1.9 KiB written in 200 calls
the trace has no end yet: its server still runs, or was killed

dir/out\n.txt: 200 writes of 10 bytes on average, one behind the other (prog[7],
  fd 3, 1.0 ms, #1..#202)
  each is a system call, which costs more than the bytes it moves.
  Better: collect them in a buffer and write some kilobytes at a time (open()
    without buffering=0, stdio, BufWriter).

writes: 200 write; 10 B on average, 99% one behind the other, 99% forwards, 0%
  at a multiple of 4 KiB
      0-100        200 ##############################
time in operations: 1.0 ms; half took at most 5 us, 95% 5 us, 99% 5 us
written: 1.9 KiB into the buffer

file           opens  reads  read  writes  written  errors    time
dir/out\n.txt      1      -     -     200  1.9 KiB       -  1.0 ms

open                     opens  reads  read  writes  written  errors    time
dir/out\n.txt fh=1 fd 3      1      -     -     200  1.9 KiB       -  1.0 ms
"
        );
    }

    #[test]
    fn what_the_buffer_did_is_told_in_full_and_in_brief() {
        let mut reporter = Reporter::default();
        let mut seq = 0;
        let mut op = |kind: OpKind, set: &dyn Fn(&mut Op)| {
            seq += 1;
            let mut op = Op::new(kind, Seq(seq), Nanos(seq * 1_000_000));
            op.dur_ns = Nanos(5000);
            (op.path, op.fh, op.ino) = (Some("t".into()), Some(Fh(1)), Some(Ino(1)));
            let pid = if kind == OpKind::Read { 8 } else { 7 };
            (op.pid, op.comm) = (Some(Pid(pid)), Some("python3".into()));
            op.ret = Some(0);
            set(&mut op);
            reporter.push(Event::Op(Box::new(op)));
        };
        op(OpKind::Create, &|op| op.flags = vec!["O_RDWR".into()]);
        for (offset, size) in [(0, 8190), (8190, 810)] {
            op(OpKind::Write, &|op| {
                (op.syscall, op.fd) = (Some("write".into()), Some(3));
                (op.offset, op.size, op.ret) = (Some(offset), Some(size), Some(size));
                op.dirty = Some(offset + size);
                op.cache = vec![CacheDid::Buffered {
                    offset,
                    size,
                    overwrote: 0,
                }];
            });
        }
        op(OpKind::Read, &|op| {
            op.syscall = Some("pread64".into());
            (op.offset, op.size, op.ret) = (Some(4096), Some(6000), Some(4904));
            op.cache = vec![CacheDid::Hit {
                size: 4904,
                dirty: 4904,
                readahead: 0,
            }];
        });
        op(OpKind::Write, &|op| {
            (op.ret, op.errno) = (None, Some("ENOSPC".into()));
            (op.offset, op.size) = (Some(9000), Some(10));
        });
        op(OpKind::Release, &|_| {});
        reporter.push(Event::Writeback(Box::new(Writeback {
            seq: Seq(7),
            ino: 1,
            path: ByteText::new("t".as_ref()),
            ret: Some(9000),
            writes: 2,
            age_ns: Nanos(2_000_000),
            ..Writeback::default()
        })));
        let report = reporter.finish();
        assert_eq!(
            render(&report, PLAIN, 10),
            r"6 operations on 1 file in 5.0 ms: 4.7 KiB read in 1 call, 8.7 KiB written in 3
  calls
the trace has no end yet: its server still runs, or was killed

t: written in 3 calls through a buffer of 8192 bytes in the program, emptied
  when it was full and at the end; CPython's text files have buffers of that
  size (python3[7], fd 3, 30 us, #1..#6)

reads: 1 pread64; 4.7 KiB on average, 0% one behind the other, 0% forwards, 100%
  at a multiple of 4 KiB
     1K-10K          1 ##############################

writes: 1 unknown, 2 write; 2.9 KiB on average, 66% one behind the other, 66%
  forwards, 33% at a multiple of 4 KiB
      0-100          1 ##############################
     100-1K          1 ##############################
     1K-10K          1 ##############################
also: 1 x ENOSPC
time in operations: 30 us; half took at most 5 us, 95% 5 us, 99% 5 us
never synced: 8.7 KiB, which a power cut soon after may take
read: 4.7 KiB from the buffer (100%), 4.7 KiB of it not yet written back
written: 8.7 KiB into the buffer, 8.7 KiB dirty at most at one time
left the buffer: 8.7 KiB in 1 write, each of 2 writes of the program's, half
  within 2.0 ms; 1.00 bytes for each that was written

file  opens  reads     read  writes  written  errors   time
t         1      1  4.7 KiB       3  8.7 KiB       1  30 us

open         opens  reads     read  writes  written  errors   time
t fh=1 fd 3      1      1  4.7 KiB       3  8.7 KiB       1  30 us

process     opens  reads     read  writes  written  errors   time
python3[7]      1      -        -       3  8.7 KiB       1  25 us
python3[8]      -      1  4.7 KiB       -        -       -   5 us
"
        );
        assert_eq!(
            brief(&report, PLAIN, 10),
            r"
t: written in 3 calls through a buffer of 8192 bytes in the program, emptied
  when it was full and at the end; CPython's text files have buffers of that
  size (python3[7], fd 3, 30 us, #1..#6)

its 3 writes of 8.7 KiB reached the directory in 1; 8.7 KiB were never synced
"
        );
    }

    #[test]
    fn everything_fits_the_terminal_and_colours_are_asked_for() {
        for width in [40, 60, 80, 200] {
            let text = render(&report(), Layout { width, ..PLAIN }, 10);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}: {text}");
        }
        let colour = Layout {
            style: Style::Colour,
            ..PLAIN
        };
        let plain = render(&report(), PLAIN, 10);
        assert!(!plain.contains('\x1b') && render(&report(), colour, 10).contains("\x1b[1m"));
        let none = render(&Reporter::default().finish(), PLAIN, 10);
        assert!(none.contains("no file operation reached the view"));
    }
}
