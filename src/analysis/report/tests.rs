//! Figures against small traces that were counted by hand, and each rule with a program that provokes it and
//! one that must not.

use super::*;
use crate::event::CacheDid;
use crate::types::{Ino, Nanos};

struct Trace {
    reporter: Reporter,
    seq: u64,
}

impl Trace {
    fn new() -> Trace {
        Trace {
            reporter: Reporter::default(),
            seq: 0,
        }
    }

    fn op(&mut self, kind: OpKind, path: &str, set: impl FnOnce(&mut Op)) -> &mut Trace {
        self.seq += 1;
        let mut op = Op::new(kind, Seq(self.seq), Nanos(self.seq * 1000));
        op.dur_ns = Nanos(100);
        op.path = Some(path.into());
        op.pid = Some(Pid(7));
        op.comm = Some("prog".into());
        op.ino = Some(Ino(path.len() as u64));
        op.ret = Some(0);
        set(&mut op);
        self.reporter.push(&Event::Op(Box::new(op)));
        self
    }

    fn open(&mut self, path: &str, fh: u64, flag: &'static str) -> &mut Trace {
        self.op(OpKind::Open, path, |op| {
            op.fh = Some(Fh(fh));
            op.flags = vec![flag.into()];
        })
    }

    fn data(
        &mut self,
        kind: OpKind,
        path: &str,
        fh: u64,
        (offset, size): (u64, u64),
    ) -> &mut Trace {
        self.op(kind, path, |op| {
            op.fh = Some(Fh(fh));
            op.fd = Some(3);
            op.syscall = Some(
                if kind == OpKind::Read {
                    "read"
                } else {
                    "write"
                }
                .into(),
            );
            (op.offset, op.size, op.ret) = (Some(offset), Some(size), Some(size));
        })
    }

    fn on(&mut self, kind: OpKind, path: &str, fh: u64) -> &mut Trace {
        self.op(kind, path, |op| op.fh = Some(Fh(fh)))
    }

    fn close(&mut self, path: &str, fh: u64, by: &'static str) -> &mut Trace {
        self.op(OpKind::Flush, path, |op| {
            op.fh = Some(Fh(fh));
            op.syscall = Some(by.into());
        });
        self.on(OpKind::Release, path, fh)
    }

    fn report(&mut self) -> Report {
        std::mem::take(&mut self.reporter).finish()
    }

    fn rules(&mut self) -> Vec<&'static str> {
        rules(&self.report())
    }
}

fn rules(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn calls_are_counted_once_however_many_requests_they_took() {
    let mut trace = Trace::new();
    trace.open("f", 1, "O_RDWR");
    for part in 0..3u64 {
        trace.op(OpKind::Write, "f", |op| {
            op.fh = Some(Fh(1));
            op.call = Some(2);
            op.call_size = (part == 0).then_some(3 << 20);
            (op.offset, op.size, op.ret) = (Some(part << 20), Some(1 << 20), Some(1 << 20));
        });
    }
    let figures = trace.report().summary.figures;
    assert_eq!((figures.writes.calls, figures.writes.bytes), (1, 3 << 20));
    assert_eq!(figures.writes.sizes.0, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn figures_are_those_of_the_file_the_open_and_the_process() {
    let mut trace = Trace::new();
    trace.open("f", 1, "O_RDWR").open("gg", 2, "O_RDONLY");
    trace
        .data(OpKind::Write, "f", 1, (0, 10))
        .data(OpKind::Write, "f", 1, (10, 10));
    trace
        .data(OpKind::Write, "f", 1, (100, 10))
        .data(OpKind::Write, "f", 1, (0, 10));
    trace.data(OpKind::Read, "gg", 2, (0, 5));
    trace.op(OpKind::Write, "f", |op| {
        op.fh = Some(Fh(1));
        op.ret = None;
        op.errno = Some("EIO".into());
        op.seek_from = Some(3);
    });
    trace.on(OpKind::Fsync, "f", 1).close("f", 1, "close");
    let report = trace.report();
    let paths: Vec<_> = report.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["f", "gg"]);
    let f = &report.files[0].figures;
    assert_eq!(
        (
            f.writes.bytes,
            f.writes.consecutive,
            f.writes.sequential,
            f.writes.aligned
        ),
        (40, 1, 2, 3)
    );
    assert_eq!((f.opens, f.fsyncs, f.seeks, f.errors["EIO"]), (1, 1, 1, 1));
    assert_eq!(report.opens[0].fds, [3]);
    assert_eq!(report.opens[0].closed_by.as_deref(), Some("close"));
    assert_eq!(report.opens[0].unsynced_bytes, 0);
    let process = &report.processes[0];
    assert_eq!(
        (process.pid, process.comm.as_str(), process.figures.opens),
        (7, "prog", 2)
    );
    let sums: u64 = report.files.iter().map(|file| file.figures.ops).sum();
    assert_eq!(sums, report.summary.figures.ops, "totals are sums");
}

/// One open that makes `count` calls of `size` bytes, `step` apart.
fn calls(kind: OpKind, (count, size, step): (u64, u64, u64)) -> Trace {
    let mut trace = Trace::new();
    trace.open("f", 1, "O_RDWR");
    for n in 0..count {
        trace.data(kind, "f", 1, (n * step, size));
    }
    trace.close("f", 1, "close");
    trace
}

#[test]
fn many_tiny_calls_in_a_row_stand_out_and_few_large_or_scattered_ones_do_not() {
    for (kind, rule) in [(OpKind::Write, "tiny_writes"), (OpKind::Read, "tiny_reads")] {
        let report = calls(kind, (1000, 9, 9)).report();
        assert_eq!(rules(&report), [rule]);
        assert!(report.findings[0].what.starts_with("1000 "), "{report:?}");
        assert_eq!(report.findings[0].seq, [Seq(1), Seq(1003)]);
        for harmless in [(99, 9, 9), (1000, 8192, 8192), (1000, 9, 5000)] {
            assert_eq!(calls(kind, harmless).rules(), [""; 0], "{harmless:?}");
        }
    }
}

#[test]
fn a_sync_after_each_small_write_stands_out() {
    let synced = |size: u64, every: u64| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_WRONLY");
        for n in 0..50 {
            trace.data(OpKind::Write, "f", 1, (n * size, size));
            if n % every == 0 {
                trace.on(OpKind::Fsync, "f", 1);
            }
        }
        trace.close("f", 1, "close").rules()
    };
    assert_eq!(synced(4096, 1), ["sync_after_little"]);
    assert_eq!(synced(4096, 25), [""; 0]);
    assert_eq!(synced(1 << 20, 1), [""; 0]);
}

#[test]
fn a_rename_over_a_file_without_a_sync_stands_out() {
    let renamed = |synced: bool, replaces: bool| {
        let mut trace = Trace::new();
        if replaces {
            trace.op(OpKind::Lookup, "f", |_| {});
        }
        trace
            .open("tmp", 1, "O_WRONLY")
            .data(OpKind::Write, "tmp", 1, (0, 100));
        if synced {
            trace.on(OpKind::Fsync, "tmp", 1);
        }
        trace.close("tmp", 1, "close");
        trace.op(OpKind::Rename, "tmp", |op| op.to = Some("f".into()));
        trace.rules()
    };
    assert_eq!(renamed(false, true), ["renamed_without_sync"]);
    assert_eq!(renamed(true, true), [""; 0]);
    assert_eq!(renamed(false, false), [""; 0]);
}

#[test]
fn going_on_after_an_error_stands_out() {
    let wrote_on = |errno: &'static str| {
        let mut trace = calls(OpKind::Write, (1, 10, 10));
        trace.open("f", 2, "O_WRONLY").op(OpKind::Write, "f", |op| {
            op.fh = Some(Fh(2));
            (op.ret, op.errno) = (None, Some(errno.into()));
        });
        trace
            .data(OpKind::Write, "f", 2, (0, 10))
            .close("f", 2, "close")
            .rules()
    };
    assert_eq!(wrote_on("ENOSPC"), ["error_ignored"]);
    assert_eq!(wrote_on("EINTR"), [""; 0]);
}

#[test]
fn a_file_that_only_the_end_of_its_process_closes_stands_out_if_it_was_written() {
    let ended = |kind, by| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_RDWR").data(kind, "f", 1, (0, 10));
        trace.close("f", 1, by).rules()
    };
    assert_eq!(ended(OpKind::Write, "exit_group"), ["left_open"]);
    assert_eq!(ended(OpKind::Write, "close"), [""; 0]);
    assert_eq!(ended(OpKind::Read, "exit_group"), [""; 0]);
}

#[test]
fn a_file_opened_again_and_again_by_one_process_stands_out() {
    let opened = |times: u64| {
        let mut trace = Trace::new();
        for n in 0..times {
            trace
                .open("f", n + 1, "O_RDONLY")
                .close("f", n + 1, "close");
        }
        trace.rules()
    };
    assert_eq!(opened(20), ["opened_again_and_again"]);
    assert_eq!(opened(19), [""; 0]);
}

#[test]
fn what_is_read_or_written_again_at_once_and_a_huge_read_stand_out() {
    let did = |cache: CacheDid, size: u64| {
        let mut trace = calls(OpKind::Write, (1, size, size));
        trace
            .open("f", 2, "O_RDWR")
            .data(OpKind::Write, "f", 2, (0, size));
        trace.op(OpKind::Read, "f", |op| {
            op.fh = Some(Fh(2));
            (op.offset, op.size, op.ret) = (Some(0), Some(size), Some(size));
            op.cache = vec![cache];
        });
        trace.close("f", 2, "close").rules()
    };
    let hit = |dirty| CacheDid::Hit {
        size: 1 << 20,
        dirty,
        readahead: 0,
    };
    assert_eq!(did(hit(1 << 20), 1 << 20), ["read_what_it_wrote"]);
    assert_eq!(did(hit(0), 1 << 20), [""; 0]);
    let again = |overwrote| CacheDid::Buffered {
        offset: 0,
        size: 1 << 20,
        overwrote,
    };
    assert_eq!(did(again(1 << 20), 1 << 20), ["overwritten_at_once"]);
    assert_eq!(did(again(100), 1 << 20), [""; 0]);
    assert_eq!(did(hit(0), 100 << 20), ["read_at_once"]);
}

#[test]
fn more_than_can_be_told_apart_is_said() {
    let mut trace = Trace::new();
    for n in 0..GROUPS_MAX as u64 + 10 {
        trace.op(OpKind::Unlink, &format!("f{n}"), |_| {});
    }
    let report = trace.report();
    assert_eq!(report.summary.beyond, 10);
    assert_eq!(report.summary.figures.ops, GROUPS_MAX as u64 + 10);
}

#[test]
fn of_very_many_opens_the_largest_are_kept() {
    let mut trace = Trace::new();
    let count = 4 * GROUPS_MAX as u64;
    for fh in 1..=count {
        trace
            .open("f", fh, "O_WRONLY")
            .data(OpKind::Write, "f", fh, (0, fh % 1000));
        trace.close("f", fh, "close");
    }
    let report = trace.report();
    assert_eq!(report.opens.len(), GROUPS_MAX);
    assert_eq!(report.summary.beyond, count - GROUPS_MAX as u64);
    assert!(
        report
            .opens
            .iter()
            .all(|open| open.figures.writes.bytes > 700)
    );
}
