//! A report for eyes: what stands out, then tables.

use super::escape::{escape_text, push};
use super::table::{Style, bytes, count, time};
use crate::analysis::report::{Figures, Finding, Flow, Report, Sizes};

/// How a report is shown.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns.
    pub width: usize,
    /// Colours.
    pub style: Style,
    /// Lines of each table.
    pub top: usize,
}

/// Names of the classes of sizes, as Darshan has them.
const SIZE_NAMES: [&str; 10] = [
    "0-100", "101-1K", "1K-10K", "10K-100K", "100K-1M", "1M-4M", "4M-10M", "10M-100M", "100M-1G",
    "1G+",
];

/// The report as text.
#[must_use]
pub fn render(report: &Report, layout: Layout) -> String {
    let mut out = String::new();
    head(report, &mut out);
    findings(&report.findings, layout, &mut out);
    let all = &report.summary.figures;
    if all.ops == 0 {
        out.push_str("no file operation reached the view\n");
        return out;
    }
    flows(all, &mut out);
    cache(all, &mut out);
    let files: Vec<_> = report
        .files
        .iter()
        .map(|file| (file.path.clone(), &file.figures))
        .collect();
    table("file", &files, layout, &mut out);
    let opens = report.opens.iter().map(|open| {
        let fds: Vec<String> = open.fds.iter().map(ToString::to_string).collect();
        let fd = if fds.is_empty() {
            String::new()
        } else {
            format!(" fd {}", fds.join(","))
        };
        (format!("{} fh={}{fd}", open.path, open.fh), &open.figures)
    });
    table("open", &opens.collect::<Vec<_>>(), layout, &mut out);
    let processes = report.processes.iter();
    let processes: Vec<_> = processes
        .map(|process| {
            (
                format!("{}[{}]", process.comm, process.pid),
                &process.figures,
            )
        })
        .collect();
    if processes.len() > 1 {
        table("process", &processes, layout, &mut out);
    }
    out
}

fn head(report: &Report, out: &mut String) {
    let summary = &report.summary;
    if let Some(cmd) = &summary.cmd {
        let words: Vec<String> = cmd.iter().map(|word| escaped(word)).collect();
        push(out, format_args!("{}\n", words.join(" ")));
    }
    let all = &summary.figures;
    push(
        out,
        format_args!(
            "{} operations on {} in {}: {} read in {} calls, {} written in {} calls\n",
            all.ops,
            many(report.files.len() as u64, "file"),
            time(summary.elapsed_ns),
            bytes(all.reads.bytes),
            all.reads.calls,
            bytes(all.writes.bytes),
            all.writes.calls,
        ),
    );
    if summary.lost > 0 {
        push(
            out,
            format_args!(
                "{} events could not be recorded: the numbers are too low\n",
                summary.lost
            ),
        );
    }
    if !summary.complete {
        out.push_str("the trace has no end yet: its server still runs, or was killed\n");
    }
    if summary.dirty_bytes > 0 {
        push(
            out,
            format_args!(
                "{} bytes never reached the directory\n",
                summary.dirty_bytes
            ),
        );
    }
    if summary.beyond > 0 {
        out.push_str("there were too many files, opens or processes to tell all apart: the totals are complete, the tables are not\n");
    }
}

/// What stands out, a paragraph each.
pub fn findings(findings: &[Finding], layout: Layout, out: &mut String) {
    let (bold, off) = match layout.style {
        Style::Plain => ("", ""),
        Style::Colour => ("\x1b[1m", "\x1b[0m"),
    };
    for finding in findings.iter().take(layout.top) {
        let [first, last] = finding.seq;
        let texts = [
            format!(
                "{bold}{}: {}{off} (#{first}..#{last})",
                escaped(&finding.path),
                finding.what
            ),
            format!("  {}.", finding.why),
            format!("  Better: {}.", finding.remedy),
        ];
        out.push('\n');
        for text in texts {
            wrap(&text, layout.width, out);
        }
    }
    let more = findings.len().saturating_sub(layout.top);
    if more > 0 {
        let more = many(more as u64, "more finding");
        push(out, format_args!("\nand {more} (iolens report --top N)\n"));
    }
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
        } else if column + 1 + length > width.max(40) {
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

fn flows(all: &Figures, out: &mut String) {
    for (name, flow) in [("reads", &all.reads), ("writes", &all.writes)] {
        if flow.calls == 0 {
            continue;
        }
        let calls: Vec<String> = flow
            .by_syscall
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        push(
            out,
            format_args!(
                "\n{name}: {}; {} on average, ",
                calls.join(", "),
                bytes(flow.mean())
            ),
        );
        push(
            out,
            format_args!(
                "{}% one behind the other, {}% forwards, {}% at a multiple of 4 KiB\n",
                percent(flow.consecutive, flow.calls),
                percent(flow.sequential, flow.calls),
                percent(flow.aligned, flow.calls),
            ),
        );
        sizes(&flow.sizes, out);
    }
    let mut rest = Vec::new();
    let mut some = |count: u64, what: &str| {
        if count > 0 {
            rest.push(many(count, what));
        }
    };
    some(all.seeks, "seek");
    some(all.fsyncs, "fsync");
    some(all.truncations, "truncation");
    some(all.mapped_reads, "read for mappings or the page cache");
    some(all.mapped_writes, "page of mappings written");
    for (errno, count) in &all.errors {
        rest.push(format!("{count} x {errno}"));
    }
    if !rest.is_empty() {
        push(out, format_args!("also: {}\n", rest.join(", ")));
    }
    let times = [50, 95, 99].map(|rank| time(all.time.percentile(rank).0));
    push(
        out,
        format_args!(
            "time in operations: {}; half took at most {}, 95% {}, 99% {}\n",
            time(all.time.sum().0),
            times[0],
            times[1],
            times[2]
        ),
    );
}

fn sizes(sizes: &Sizes, out: &mut String) {
    let most = sizes.0.iter().copied().max().unwrap_or(0);
    for (name, count) in SIZE_NAMES
        .iter()
        .zip(sizes.0)
        .filter(|(_, count)| *count > 0)
    {
        let bar = usize::try_from(count * 30 / most.max(1))
            .unwrap_or(0)
            .max(1);
        push(
            out,
            format_args!("  {name:>9} {count:>10} {}\n", "#".repeat(bar)),
        );
    }
}

fn cache(all: &Figures, out: &mut String) {
    let cache = &all.cache;
    let read = cache.hit + cache.miss + cache.bypass;
    if read > 0 {
        let parts = [
            (cache.hit, "from the buffer"),
            (cache.hit_dirty, "of it not yet written back"),
            (cache.hit_readahead, "of it read ahead"),
            (cache.miss + cache.bypass, "from the directory"),
            (cache.readahead, "fetched ahead"),
        ];
        line("\nread", &parts, out);
    }
    if cache.buffered + cache.write_through > 0 {
        let parts = [
            (cache.buffered, "into the buffer"),
            (cache.overwrote, "of it over bytes that had not left yet"),
            (cache.discarded, "died there"),
            (cache.write_through, "past it"),
        ];
        line("written", &parts, out);
    }
    if cache.writebacks > 0 {
        let each = cache.merged.div_ceil(cache.writebacks);
        push(
            out,
            format_args!(
                "left the buffer: {} in {}, each of {} of the program's\n",
                bytes(cache.written_back),
                many(cache.writebacks, "write"),
                many(each, "write"),
            ),
        );
    }
    if cache.waited_ns > 0 {
        push(
            out,
            format_args!("writers were held back for {}\n", time(cache.waited_ns)),
        );
    }
}

/// `read: 10.1 KiB from the buffer, 4.0 KiB from the directory`
fn line(title: &str, parts: &[(u64, &str)], out: &mut String) {
    let some = parts.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = some
        .map(|(count, what)| format!("{} {what}", bytes(*count)))
        .collect();
    push(out, format_args!("{title}: {}\n", texts.join(", ")));
}

fn table(title: &str, rows: &[(String, &Figures)], layout: Layout, out: &mut String) {
    const HEAD: [&str; 7] = [
        "opens", "reads", "read", "writes", "written", "errors", "time",
    ];
    let cells: Vec<[String; 7]> = rows
        .iter()
        .take(layout.top)
        .map(|(_, figures)| cells(figures))
        .collect();
    if cells.is_empty() {
        return;
    }
    let widths: [usize; 7] = std::array::from_fn(|column| {
        let longest = cells.iter().map(|row| row[column].len()).max();
        longest.unwrap_or(0).max(HEAD[column].len())
    });
    let numbers: usize = widths.iter().map(|width| width + 2).sum();
    let room = layout.width.saturating_sub(numbers).max(16);
    push(out, format_args!("\n{title:<room$}"));
    for (name, width) in HEAD.iter().zip(widths) {
        push(out, format_args!("  {name:>width$}"));
    }
    out.push('\n');
    for ((name, _), cells) in rows.iter().zip(&cells) {
        push(
            out,
            format_args!("{:<room$}", shortened(&escaped(name), room)),
        );
        for (cell, width) in cells.iter().zip(widths) {
            push(out, format_args!("  {cell:>width$}"));
        }
        out.push('\n');
    }
    let more = rows.len().saturating_sub(layout.top);
    if more > 0 {
        push(out, format_args!("and {more} more\n"));
    }
}

fn cells(figures: &Figures) -> [String; 7] {
    let errors: u64 = figures.errors.values().sum();
    let flow = |flow: &Flow| (count(flow.calls), bytes(flow.bytes));
    let ((reads, read), (writes, written)) = (flow(&figures.reads), flow(&figures.writes));
    [
        count(figures.opens),
        reads,
        read,
        writes,
        written,
        count(errors),
        time(figures.time.sum().0),
    ]
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    escape_text(text, &mut out);
    out
}

/// Keeps the end: that is where paths differ.
fn shortened(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length + 3 - width).collect();
    format!("...{tail}")
}

fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .and_then(|p| u64::try_from(p).ok())
        .unwrap_or(0)
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
    use crate::event::{CacheDid, Event, Op, OpKind};
    use crate::types::{Fh, Nanos, Pid, Seq};

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
            reporter.push(&Event::Op(Box::new(op)));
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
        top: 10,
    };

    #[test]
    fn findings_come_first_then_figures_and_tables() {
        assert_eq!(
            render(&report(), PLAIN),
            r"202 operations on 1 file in 201.0 ms: - read in 0 calls, 1.9 KiB written in 200 calls
the trace has no end yet: its server still runs, or was killed

dir/out\n.txt: 200 writes of 10 bytes on average, one behind the other
  (#1..#202)
  each is a system call, which costs more than the bytes it moves; this open
    took 1 ms in all.
  Better: collect them in a buffer and write some kilobytes at a time (open()
    without buffering=0, stdio, BufWriter).

writes: 200 write; 10 B on average, 99% one behind the other, 99% forwards, 0% at a multiple of 4 KiB
      0-100        200 ##############################
time in operations: 1.0 ms; half took at most 5 us, 95% 5 us, 99% 5 us
written: 1.9 KiB into the buffer

file                         opens  reads  read  writes  written  errors    time
dir/out\n.txt                    1      -     -     200  1.9 KiB       -  1.0 ms

open                         opens  reads  read  writes  written  errors    time
dir/out\n.txt fh=1 fd 3          1      -     -     200  1.9 KiB       -  1.0 ms
"
        );
    }

    #[test]
    fn the_tables_fit_the_terminal_and_colours_are_asked_for() {
        let narrow = Layout { width: 60, ..PLAIN };
        let text = render(&report(), narrow);
        let table = text
            .lines()
            .filter(|line| line.starts_with("file") || line.contains("fh="));
        assert!(
            table.into_iter().all(|line| line.chars().count() <= 76),
            "{text}"
        );
        let colour = Layout {
            style: Style::Colour,
            ..PLAIN
        };
        assert!(!text.contains('\x1b') && render(&report(), colour).contains("\x1b[1m"));
        let none = render(&Reporter::default().finish(), PLAIN);
        assert!(none.contains("no file operation reached the view"));
    }
}
