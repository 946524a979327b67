//! Figures against small traces that were counted by hand, and each rule with a program that provokes it and
//! one that must not.

use super::*;
use crate::event::CacheDid;
use crate::types::{Ino, Nanos, Seq};

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
        self.reporter.push(Event::Op(Box::new(op)));
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
            f.writes.consec,
            f.writes.seq,
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
        assert_eq!(report.findings[0].evidence.seq, [Seq(1), Seq(1003)]);
        assert_eq!(
            (
                report.findings[0].evidence.calls,
                &report.findings[0].evidence.fds[..]
            ),
            (1000, &[3][..])
        );
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
            if n % every == every - 1 {
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
    let renamed = |synced: bool, replaces: bool, directory: Option<&str>| {
        let mut trace = Trace::new();
        if replaces {
            trace.op(OpKind::Lookup, "d/f", |_| {});
        }
        trace
            .open("d/tmp", 1, "O_WRONLY")
            .data(OpKind::Write, "d/tmp", 1, (0, 100));
        if synced {
            trace.on(OpKind::Fsync, "d/tmp", 1);
        }
        trace.close("d/tmp", 1, "close");
        trace.op(OpKind::Rename, "d/tmp", |op| op.to = Some("d/f".into()));
        if let Some(directory) = directory {
            trace.op(OpKind::Fsyncdir, directory, |_| {});
        }
        trace.rules()
    };
    assert_eq!(renamed(false, true, None), ["renamed_without_sync"]);
    assert_eq!(renamed(false, true, Some("d")), ["renamed_without_sync"]);
    assert_eq!(renamed(true, true, None), ["directory_not_synced"]);
    assert_eq!(renamed(true, true, Some("other")), ["directory_not_synced"]);
    assert_eq!(renamed(true, true, Some("d")), [""; 0]);
    assert_eq!(renamed(false, false, None), [""; 0]);
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
fn a_file_read_three_times_by_one_process_stands_out() {
    let read = |times: u64, size: u64| {
        let mut trace = Trace::new();
        for fh in 1..=times {
            trace.open("f", fh, "O_RDONLY");
            trace.op(OpKind::Read, "f", |op| {
                (op.fh, op.offset, op.size) = (Some(Fh(fh)), Some(0), Some(size));
                (op.ret, op.file_size) = (Some(size), Some(size));
            });
            trace.close("f", fh, "close");
        }
        trace.rules()
    };
    assert_eq!(read(3, 64 << 10), ["read_again_and_again"]);
    assert_eq!(read(2, 64 << 10), [""; 0]);
    assert_eq!(read(3, 4096), [""; 0]);
}

#[test]
fn a_file_emptied_and_written_anew_by_who_read_it_stands_out() {
    let rewritten = |reads: bool, flag: &'static str, syncs: bool| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_RDWR");
        if reads {
            trace.data(OpKind::Read, "f", 1, (0, 10));
        }
        if syncs {
            trace
                .data(OpKind::Write, "f", 1, (0, 10))
                .on(OpKind::Fsync, "f", 1);
        }
        trace.close("f", 1, "close").open("f", 2, flag);
        trace
            .data(OpKind::Write, "f", 2, (0, 10))
            .close("f", 2, "close");
        trace.rules()
    };
    assert_eq!(rewritten(true, "O_TRUNC", false), ["overwritten_in_place"]);
    assert_eq!(rewritten(true, "O_WRONLY", false), [""; 0]);
    assert_eq!(rewritten(false, "O_TRUNC", false), [""; 0]);
    // Who syncs it knows what may be lost when.
    assert_eq!(rewritten(true, "O_TRUNC", true), [""; 0]);
}

#[test]
fn what_is_written_after_the_last_sync_stands_out_unless_somebody_syncs_it_later() {
    let closed = |synced: bool, more: bool, later: bool| {
        let mut trace = Trace::new();
        trace
            .open("f", 1, "O_WRONLY")
            .data(OpKind::Write, "f", 1, (0, 10));
        if synced {
            trace.on(OpKind::Fsync, "f", 1);
        }
        if more {
            trace.data(OpKind::Write, "f", 1, (10, 10));
        }
        trace.close("f", 1, "close");
        if later {
            trace.on(OpKind::Fsync, "f", 2);
        }
        let report = trace.report();
        (rules(&report), report.summary.figures.unsynced_bytes)
    };
    assert_eq!(closed(true, true, false), (vec!["closed_unsynced"], 10));
    assert_eq!(closed(true, true, true), (vec![], 0));
    assert_eq!(closed(true, false, false), (vec![], 0));
    // Most programs never sync: that is told, and not found fault with.
    assert_eq!(closed(false, true, false), (vec![], 20));
}

#[test]
fn what_loses_its_name_or_is_written_through_need_not_be_synced() {
    let unsynced = |end: OpKind, flag: &'static str| {
        let mut trace = Trace::new();
        trace
            .open("f", 1, "O_WRONLY")
            .data(OpKind::Write, "f", 1, (0, 10));
        trace.op(OpKind::Write, "gg", |op| {
            (op.offset, op.size, op.ret) = (Some(0), Some(7), Some(7));
            op.flags = vec![flag.into()];
        });
        trace.op(end, "f", |op| op.to = Some("gg".into()));
        let report = trace.report();
        let file = |path: &str| {
            let file = report.files.iter().find(|file| file.path == path);
            file.map_or(0, |file| file.figures.unsynced_bytes)
        };
        (file("f"), file("gg"), report.summary.figures.unsynced_bytes)
    };
    assert_eq!(unsynced(OpKind::Getattr, "O_APPEND"), (10, 7, 17));
    assert_eq!(unsynced(OpKind::Getattr, "O_DSYNC"), (10, 0, 10));
    assert_eq!(unsynced(OpKind::Unlink, "O_APPEND"), (0, 7, 7));
    // It has the other's name now, and that one none.
    assert_eq!(unsynced(OpKind::Rename, "O_APPEND"), (0, 10, 10));
}

#[test]
fn appends_that_were_meant_for_elsewhere_stand_out() {
    let appended = |read_to: Option<u64>, syscall: &'static str, flag: &'static str| {
        let mut trace = Trace::new();
        trace.open("f", 1, flag);
        if let Some(to) = read_to {
            trace.op(OpKind::Read, "f", |op| {
                (op.fh, op.offset, op.size) = (Some(Fh(1)), Some(0), Some(to));
                (op.ret, op.pos) = (Some(to), Some(to));
            });
        }
        trace.op(OpKind::Write, "f", |op| {
            (op.fh, op.syscall) = (Some(Fh(1)), Some(syscall.into()));
            (op.offset, op.size, op.ret) = (Some(100), Some(10), Some(10));
        });
        trace.close("f", 1, "close").rules()
    };
    assert_eq!(appended(Some(50), "write", "O_APPEND"), ["append_and_seek"]);
    assert_eq!(appended(None, "pwrite64", "O_APPEND"), ["append_and_seek"]);
    assert_eq!(appended(Some(100), "write", "O_APPEND"), [""; 0]);
    assert_eq!(appended(None, "write", "O_APPEND"), [""; 0]);
    assert_eq!(appended(Some(50), "write", "O_RDWR"), [""; 0]);
}

#[test]
fn a_short_transfer_that_nobody_goes_on_with_stands_out() {
    let short = |kind, next: Option<(u64, u64)>| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_RDWR").op(kind, "f", |op| {
            (op.fh, op.offset, op.size) = (Some(Fh(1)), Some(0), Some(100));
            (op.ret, op.file_size) = (Some(40), Some(1000));
        });
        if let Some(next) = next {
            trace.data(kind, "f", 1, next);
        }
        trace.close("f", 1, "close").rules()
    };
    for kind in [OpKind::Write, OpKind::Read] {
        assert_eq!(short(kind, None), ["short_ignored"], "{kind:?}");
        assert_eq!(short(kind, Some((40, 60))), [""; 0], "{kind:?}");
        assert_eq!(short(kind, Some((100, 60))), ["short_ignored"], "{kind:?}");
    }
    assert_eq!(short(OpKind::Write, Some((40, 100))), ["short_ignored"]);
    assert_eq!(short(OpKind::Read, Some((40, 100))), [""; 0]);
    // The end of the file is no short read.
    let mut trace = Trace::new();
    trace.open("f", 1, "O_RDONLY").op(OpKind::Read, "f", |op| {
        (op.fh, op.offset, op.size) = (Some(Fh(1)), Some(0), Some(100));
        (op.ret, op.file_size) = (Some(40), Some(40));
    });
    assert_eq!(trace.close("f", 1, "close").rules(), [""; 0]);
}

#[test]
fn a_file_closed_long_after_its_last_use_stands_out_if_it_was_written() {
    let closed_after = |others: u64, kind| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_RDWR").data(kind, "f", 1, (0, 10));
        for fh in 2..2 + others {
            let path = format!("other{fh}");
            trace.open(&path, fh, "O_RDONLY");
            for n in 0..4 {
                trace.data(OpKind::Read, &path, fh, (n * 4096, 4096));
            }
            trace.close(&path, fh, "close");
        }
        trace.close("f", 1, "close").rules()
    };
    assert_eq!(closed_after(20, OpKind::Write), ["closed_late"]);
    assert_eq!(closed_after(19, OpKind::Write), [""; 0]);
    assert_eq!(closed_after(20, OpKind::Read), [""; 0]);
}

#[test]
fn many_descriptors_that_only_the_end_of_the_process_closes_stand_out() {
    let left = |count: u64, by| {
        let mut trace = Trace::new();
        for fh in 1..=count {
            trace.open(&format!("f{fh}"), fh, "O_RDONLY");
        }
        for fh in 1..=count {
            trace.close(&format!("f{fh}"), fh, by);
        }
        trace.rules()
    };
    assert_eq!(left(16, "exit_group"), ["descriptors_left"]);
    assert_eq!(left(15, "exit_group"), [""; 0]);
    assert_eq!(left(16, "close"), [""; 0]);
}

#[test]
fn the_programs_own_buffer_and_how_a_file_is_read_are_noted() {
    let notes = |trace: &mut Trace| -> Vec<&'static str> {
        let report = trace.report();
        assert_eq!(rules(&report), [""; 0]);
        report.notes.iter().map(|note| note.rule).collect()
    };
    assert_eq!(
        notes(&mut calls(OpKind::Write, (5, 8192, 8192))),
        ["own_buffer"]
    );
    assert_eq!(
        notes(&mut calls(OpKind::Read, (5, 4096, 4096))),
        ["own_buffer"]
    );
    assert_eq!(notes(&mut calls(OpKind::Write, (5, 5000, 5000))), [""; 0]);
    let read = |count: u64, size: u64| {
        let mut trace = Trace::new();
        trace.open("f", 1, "O_RDONLY");
        for n in 0..count {
            trace.data(OpKind::Read, "f", 1, (n * size, size));
            trace.op(OpKind::Read, "f", |op| {
                (op.fh, op.mapped) = (Some(Fh(1)), true);
            });
        }
        trace.op(OpKind::Read, "f", |op| {
            (op.fh, op.offset, op.size) = (Some(Fh(1)), Some(count * size), Some(size));
            op.file_size = Some(count * size);
        });
        let report = trace.close("f", 1, "close").report();
        report
            .notes
            .into_iter()
            .map(|note| note.what)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        read(1, 100_000),
        ["read as a whole: 100000 bytes in 2 calls"]
    );
    assert!(read(10, 10_000)[0].starts_with("read in chunks: 100000 bytes in 11 calls"));
    assert_eq!(read(1, 1000), [""; 0]);
}

#[test]
fn when_bytes_left_the_buffer_and_were_synced_is_measured() {
    let mut trace = Trace::new();
    trace.open("f", 1, "O_RDWR");
    for n in 0..2 {
        trace.data(OpKind::Write, "f", 1, (n * 10, 10));
    }
    trace.op(OpKind::Write, "gg", |op| op.dirty = Some(300));
    trace.op(OpKind::Write, "f", |op| {
        (op.fh, op.dirty) = (Some(Fh(1)), Some(20));
    });
    trace.seq += 1;
    trace
        .reporter
        .push(Event::Writeback(Box::new(crate::event::Writeback {
            seq: Seq(trace.seq),
            ino: 1,
            path: crate::event::ByteText::new("f".as_ref()),
            ret: Some(30),
            writes: 2,
            age_ns: Nanos(5),
            ..Default::default()
        })));
    trace.on(OpKind::Fsync, "f", 1);
    trace.op(OpKind::Read, "f", |op| {
        op.cache = vec![
            CacheDid::Miss { size: 1 },
            CacheDid::Readahead { size: 100 },
            CacheDid::Hit {
                size: 50,
                dirty: 0,
                readahead: 30,
            },
        ];
    });
    let report = trace.report();
    let all = &report.summary.figures.cache;
    assert_eq!(all.write_amplification, Some(1.5));
    assert_eq!(all.to_writeback.sum(), Nanos(5));
    // The first write came with the second event, at 2000; the sync with the seventh, and took 100.
    assert_eq!(all.to_sync.sum(), Nanos(7000 + 100 - 2000));
    assert_eq!((all.readahead_wasted, all.peak_dirty), (70, 320));
    let f = &report
        .files
        .iter()
        .find(|file| file.path == "f")
        .unwrap()
        .figures
        .cache;
    assert_eq!((f.peak_dirty, f.write_amplification), (20, Some(1.5)));
    assert_eq!(f.to_sync.count(), 1);
}

#[test]
fn events_are_taken_in_the_order_in_which_they_began() {
    let mut events = Vec::new();
    for seq in 1..=100u64 {
        let mut op = Op::new(OpKind::Write, Seq(seq), Nanos(seq));
        (op.fh, op.path) = (Some(Fh(1)), Some("f".into()));
        (op.offset, op.size, op.ret) = (Some(seq * 10), Some(10), Some(10));
        if seq == 1 {
            op.op = OpKind::Open;
        }
        events.push(Event::Op(Box::new(op)));
    }
    // Answered in another order.
    events.reverse();
    let mut reporter = Reporter::default();
    events.into_iter().for_each(|event| reporter.push(event));
    let report = reporter.finish();
    assert_eq!(report.opens[0].figures.writes.consec, 98);
}

#[test]
fn tables_are_ordered_by_what_is_asked_for() {
    let mut trace = Trace::new();
    trace
        .open("large", 1, "O_RDWR")
        .data(OpKind::Write, "large", 1, (0, 1000));
    trace.open("many", 2, "O_RDWR");
    for n in 0..3 {
        trace.data(OpKind::Write, "many", 2, (n, 1));
    }
    trace.op(OpKind::Write, "bad", |op| {
        (op.ret, op.errno) = (None, Some("EIO".into()));
        op.dur_ns = Nanos(1_000_000);
    });
    let mut report = trace.report();
    let mut first = |order| {
        report.sort(order);
        report.files[0].path.clone()
    };
    assert_eq!(first(Order::Calls), "many");
    assert_eq!(first(Order::Bytes), "large");
    assert_eq!(first(Order::Errors), "bad");
    assert_eq!(first(Order::Opens), "large");
    assert_eq!(first(Order::Time), "bad");
    assert_eq!(first(Order::Unsynced), "large");
}

mod sums {
    //! Whatever the trace, the report's totals are the sums over it.

    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let kinds = prop::sample::select(vec![
            OpKind::Open,
            OpKind::Read,
            OpKind::Write,
            OpKind::Flush,
            OpKind::Fsync,
            OpKind::Release,
            OpKind::Unlink,
            OpKind::Rename,
            OpKind::Setattr,
        ]);
        let errno = prop::sample::select(vec![None, None, None, Some("EIO"), Some("ENOSPC")]);
        let names = prop::sample::select(vec!["a", "b", "c", "d"]);
        (
            kinds,
            names,
            1..6u64,
            1..4u32,
            (0..9000u64, 0..9000u64),
            errno,
            any::<bool>(),
        )
            .prop_map(|(kind, path, fh, pid, (offset, size), errno, mapped)| {
                let mut op = Op::new(kind, Seq(0), Nanos(0));
                (op.path, op.fh, op.pid) = (Some(path.into()), Some(Fh(fh)), Some(Pid(pid)));
                op.ino = Some(Ino(u64::from(path.as_bytes()[0])));
                (op.offset, op.size) = (Some(offset), Some(size));
                op.ret = errno.is_none().then_some(size / 2);
                op.errno = errno.map(Into::into);
                op.mapped = mapped;
                op.dur_ns = Nanos(size);
                op.cache = vec![CacheDid::Buffered {
                    offset,
                    size,
                    overwrote: size / 3,
                }];
                op
            })
    }

    proptest! {
        #[test]
        fn totals_are_the_sums_over_the_trace(ops in prop::collection::vec(op(), 1..200)) {
            let mut reporter = Reporter::default();
            for (n, op) in ops.iter().enumerate() {
                let mut op = op.clone();
                (op.seq, op.ts_ns) = (Seq(n as u64 + 1), Nanos(n as u64 * 10));
                reporter.push(Event::Op(Box::new(op)));
            }
            let report = reporter.finish();
            let all = &report.summary.figures;
            let sum = |of: &dyn Fn(&Op) -> u64| ops.iter().map(of).sum::<u64>();
            let moved = |kind: OpKind| sum(&|op: &Op| match op.op == kind && !op.mapped {
                true => op.ret.unwrap_or(0),
                false => 0,
            });
            let count = |kind: OpKind| sum(&|op: &Op| u64::from(op.op == kind && !op.mapped));
            prop_assert_eq!(all.ops, ops.len() as u64);
            prop_assert_eq!((all.reads.bytes, all.reads.calls), (moved(OpKind::Read), count(OpKind::Read)));
            prop_assert_eq!((all.writes.bytes, all.writes.calls), (moved(OpKind::Write), count(OpKind::Write)));
            prop_assert_eq!(all.errors.values().sum::<u64>(), sum(&|op| u64::from(op.errno.is_some())));
            prop_assert_eq!(all.time.sum().0, sum(&|op| op.dur_ns.0));
            prop_assert_eq!(all.cache.buffered, sum(&|op| op.size.unwrap()));
            prop_assert_eq!(all.reads.sizes.0.iter().sum::<u64>(), all.reads.calls);
            prop_assert_eq!(all.writes.by_syscall.values().sum::<u64>(), all.writes.calls);
            for groups in [
                report.files.iter().map(|file| &file.figures).collect::<Vec<_>>(),
                report.processes.iter().map(|process| &process.figures).collect(),
            ] {
                let of = |of: &dyn Fn(&Figures) -> u64| groups.iter().map(|figures| of(figures)).sum::<u64>();
                prop_assert_eq!(of(&|f| f.bytes()), all.bytes());
                prop_assert_eq!(of(&|f| f.opens), all.opens);
                prop_assert_eq!(of(&|f| f.errors.values().sum()), all.errors.values().sum::<u64>());
                prop_assert_eq!(of(&|f| f.reads.calls + f.writes.calls), all.reads.calls + all.writes.calls);
            }
            let unsynced: u64 = report.files.iter().map(|file| file.figures.unsynced_bytes).sum();
            prop_assert!(unsynced <= all.unsynced_bytes);
        }
    }
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
