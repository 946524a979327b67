//! For each law, a trace that obeys it and traces that break it.

use super::*;
use crate::event::{
    ByteText, CacheDid, Cause, Discard, Lost, Op, OpKind, OwnCause, Reason, Resume, SetAttrs,
    Writeback, open_flag_names,
};
use crate::types::{Fh, Ino, Nanos};

/// A trace in the making: one event per millisecond, each answered after half of one.
struct Trace {
    header: Header,
    events: Vec<Event>,
    footer: Option<Footer>,
    next: u64,
}

impl Trace {
    fn new() -> Trace {
        let header = Header {
            schema: 1,
            policy: "write-back".into(),
            on_close: "writeback".into(),
            ..Header::default()
        };
        Trace {
            header,
            events: Vec::new(),
            footer: Some(Footer::default()),
            next: 1,
        }
    }

    fn seq(&mut self) -> (Seq, Nanos) {
        let seq = self.next;
        self.next += 1;
        (Seq(seq), Nanos(seq * 1_000_000))
    }

    fn op(&mut self, kind: OpKind, set: impl FnOnce(&mut Op)) -> &mut Trace {
        let (seq, at) = self.seq();
        let mut op = Op::new(kind, seq, at);
        op.dur_ns = Nanos(500_000);
        op.ino = Some(Ino(7));
        op.path = Some("f".into());
        op.ret = Some(0);
        set(&mut op);
        self.events.push(Event::Op(Box::new(op)));
        self
    }

    fn open(&mut self, fh: u64) -> &mut Trace {
        self.op(OpKind::Open, |op| {
            op.fh = Some(Fh(fh));
            op.flags = open_flag_names(libc::O_RDWR);
        })
    }

    fn on(&mut self, kind: OpKind, fh: u64) -> &mut Trace {
        self.op(kind, |op| op.fh = Some(Fh(fh)))
    }

    fn write(&mut self, offset: u64, size: u64, overwrote: u64) -> &mut Trace {
        self.op(OpKind::Write, |op| {
            (op.offset, op.size, op.ret) = (Some(offset), Some(size), Some(size));
            op.cache = vec![CacheDid::Buffered {
                offset,
                size,
                overwrote,
            }];
        })
    }

    fn read(&mut self, offset: u64, ret: u64, cache: Vec<CacheDid>) -> &mut Trace {
        self.op(OpKind::Read, |op| {
            (op.offset, op.ret, op.file_size) = (Some(offset), Some(ret), Some(100));
            op.cache = cache;
        })
    }

    /// A writeback of everything buffered up to now.
    fn writeback(&mut self, offset: u64, ret: u64) -> &mut Trace {
        self.writeback_with(offset, ret, |_| {})
    }

    fn writeback_with(
        &mut self,
        offset: u64,
        ret: u64,
        set: impl FnOnce(&mut Writeback),
    ) -> &mut Trace {
        let (seq, ts_ns) = self.seq();
        let mut done = Writeback {
            seq,
            ts_ns,
            dur_ns: Nanos(400_000),
            ino: 7,
            offset,
            size: ret,
            ret: Some(ret),
            last_seq: Seq(seq.0 - 1),
            cause: Cause::Own(OwnCause::Timer),
            ..Writeback::default()
        };
        set(&mut done);
        self.events.push(Event::Writeback(Box::new(done)));
        self
    }

    fn discard(&mut self, offset: u64, size: u64, reason: Reason) -> &mut Trace {
        let (seq, ts_ns) = self.seq();
        let path = ByteText::default();
        let cause = Cause::Op(Seq(1));
        let done = Discard {
            seq,
            ts_ns,
            ino: 7,
            path,
            offset,
            size,
            reason,
            cause,
        };
        self.events.push(Event::Discard(Box::new(done)));
        self
    }

    /// Events before the last `n` move behind them: their answers came later.
    fn answered_first(&mut self, n: usize) -> &mut Trace {
        let at = self.events.len() - n - 1;
        let late = self.events.remove(at);
        if let Event::Op(mut op) = late {
            op.dur_ns = Nanos((n as u64) * 1_000_000 + 900_000);
            self.events.push(Event::Op(op));
        }
        self
    }

    fn report(&self) -> Report {
        let mut audit = Audit::default();
        audit.push(1, &Event::Header(Box::new(self.header.clone())));
        for (index, event) in self.events.iter().enumerate() {
            audit.push(index as u64 + 2, event);
        }
        if let Some(mut footer) = self.footer.clone() {
            footer.ops += self
                .events
                .iter()
                .filter(|e| matches!(e, Event::Op(_)))
                .count() as u64;
            footer.events += self.events.len() as u64;
            audit.push(
                self.events.len() as u64 + 2,
                &Event::Footer(Box::new(footer)),
            );
        }
        audit.finish(0)
    }

    #[track_caller]
    fn holds(&self) {
        let report = self.report();
        assert_eq!(report.incomplete, None);
        for law in report.laws {
            assert_eq!(law.verdict, Verdict::Holds, "law {}", law.number);
        }
    }

    /// Just this law is broken; returns the first evidence.
    #[track_caller]
    fn breaks(&self, number: usize) -> Evidence {
        let mut first = None;
        for law in self.report().laws {
            match law.verdict {
                Verdict::Broken { evidence, .. } if law.number == number => {
                    first = evidence.into_iter().next();
                }
                other => assert_eq!(other, Verdict::Holds, "law {}", law.number),
            }
        }
        first.expect("the law holds")
    }

    /// This law cannot be proven, and none is broken.
    #[track_caller]
    fn unproven(&self, numbers: &[usize]) {
        let report = self.report();
        assert!(!report.is_broken(), "{report:?}");
        let open = |law: &&LawReport| matches!(law.verdict, Verdict::NotProvable(_));
        let found: Vec<usize> = report
            .laws
            .iter()
            .filter(open)
            .map(|law| law.number)
            .collect();
        assert_eq!(found, numbers);
    }
}

#[test]
fn an_empty_trace_obeys_every_law() {
    Trace::new().holds();
}

#[test]
fn an_ordinary_life_of_a_file_obeys_every_law() {
    let mut trace = Trace::new();
    trace.open(1).write(0, 10, 0).write(5, 10, 5);
    trace.read(
        0,
        15,
        vec![CacheDid::Hit {
            size: 15,
            dirty: 15,
            readahead: 0,
        }],
    );
    trace
        .op(OpKind::Fsync, |op| op.fh = Some(Fh(1)))
        .writeback(0, 15)
        .answered_first(1);
    trace.write(0, 4, 0).op(OpKind::Setattr, |op| {
        op.set = Some(Box::new(SetAttrs {
            size: Some(0),
            ..SetAttrs::default()
        }));
    });
    trace.discard(0, 4, Reason::Truncate);
    trace.on(OpKind::Flush, 1).on(OpKind::Release, 1).holds();
}

#[test]
fn law_1_finds_gaps_and_numbers_that_come_twice() {
    let mut gap = Trace::new();
    gap.open(1).seq();
    gap.on(OpKind::Release, 1);
    let evidence = gap.breaks(1);
    assert_eq!(evidence.seq, Some(Seq(2)));

    let mut twice = Trace::new();
    twice
        .op(OpKind::Statfs, |_| {})
        .op(OpKind::Statfs, |op| op.seq = Seq(1));
    twice.next = 3;
    assert_eq!(twice.breaks(1).line, 3);

    let mut zero = Trace::new();
    zero.op(OpKind::Statfs, |op| op.seq = Seq(0));
    zero.breaks(1);
}

#[test]
fn law_1_holds_the_footer_to_its_counts() {
    for set in [(|f: &mut Footer| f.ops = 1) as fn(&mut Footer), |f| {
        f.events = 1
    }] {
        let mut trace = Trace::new();
        trace.op(OpKind::Statfs, |_| {});
        set(trace.footer.as_mut().unwrap());
        assert_eq!(trace.breaks(1).seq, None);
    }
}

#[test]
fn law_1_accepts_gaps_that_lost_counts_and_no_more() {
    let mut trace = Trace::new();
    trace.open(1).seq();
    trace.seq();
    let (seq, ts_ns) = trace.seq();
    trace.events.push(Event::Lost(Lost {
        seq,
        ts_ns,
        count: 2,
    }));
    trace.footer.as_mut().unwrap().lost = 2;
    trace.unproven(&[2, 3, 4, 5, 7]);

    trace.seq();
    trace.op(OpKind::Statfs, |_| {});
    let report = trace.report();
    assert!(matches!(report.laws[0].verdict, Verdict::Broken { .. }));
}

#[test]
fn law_2_finds_every_wrong_life_of_a_description() {
    let mut trace = Trace::new();
    trace
        .open(1)
        .on(OpKind::Read, 1)
        .on(OpKind::Release, 1)
        .open(2)
        .holds();

    let mut twice = Trace::new();
    twice.open(1).open(1);
    assert!(twice.breaks(2).found.contains("second"));

    let mut after = Trace::new();
    after.open(1).on(OpKind::Release, 1).on(OpKind::Getattr, 1);
    assert_eq!(after.breaks(2).seq, Some(Seq(3)));

    let mut again = Trace::new();
    again.op(OpKind::Opendir, |op| op.fh = Some(Fh(1)));
    again.on(OpKind::Releasedir, 1).on(OpKind::Releasedir, 1);
    again.breaks(2);

    let mut never = Trace::new();
    never.on(OpKind::Getattr, 9);
    assert!(never.breaks(2).expected.contains("an open"));

    let mut out = Trace::new();
    out.open(1).op(OpKind::CopyFileRange, |op| {
        op.fh = Some(Fh(1));
        op.fh_out = Some(Fh(5));
    });
    out.breaks(2);
}

#[test]
fn law_2_goes_by_arrival_and_not_by_the_order_of_lines() {
    let mut trace = Trace::new();
    trace.open(1).on(OpKind::Getattr, 1).on(OpKind::Release, 1);
    trace.events.reverse();
    trace.holds();
}

#[test]
fn law_3_accounts_for_every_byte() {
    let mut trace = Trace::new();
    trace
        .open(1)
        .write(0, 10, 0)
        .write(0, 4, 4)
        .writeback(0, 6)
        .discard(6, 4, Reason::Truncate);
    trace.holds();

    let mut unwritten = Trace::new();
    unwritten.write(0, 10, 0);
    assert!(unwritten.breaks(3).found.contains("leaving 10"));

    let mut too_much = Trace::new();
    too_much.write(0, 10, 0).writeback(0, 11);
    assert!(too_much.breaks(3).found.contains("leaving -1"));

    let mut other_file = Trace::new();
    other_file
        .write(0, 10, 0)
        .writeback_with(0, 10, |done| done.ino = 8);
    other_file.breaks(3);
}

#[test]
fn law_3_counts_a_failed_writeback_as_still_dirty() {
    let mut trace = Trace::new();
    trace.write(0, 10, 0).writeback_with(0, 10, |done| {
        done.ret = None;
        done.errno = Some("EIO".into());
    });
    let footer = trace.footer.as_mut().unwrap();
    (footer.dirty_bytes, footer.write_errors, footer.exit) = (10, 1, 3);
    trace.holds();
    trace.footer.as_mut().unwrap().dirty_bytes = 11;
    trace.breaks(3);
}

#[test]
fn law_3_wants_ret_to_be_what_was_buffered() {
    let mut trace = Trace::new();
    trace.write(0, 10, 0).writeback(0, 10);
    if let Event::Op(op) = &mut trace.events[0] {
        op.ret = Some(9);
    }
    assert_eq!(trace.breaks(3).expected, "ret 9");
}

#[test]
fn law_3_books_what_copy_file_range_buffers_on_the_file_it_writes() {
    let mut trace = Trace::new();
    trace.open(1).op(OpKind::Open, |op| {
        op.fh = Some(Fh(2));
        op.ino = Some(Ino(8));
    });
    trace.op(OpKind::CopyFileRange, |op| {
        (op.fh, op.fh_out, op.ret) = (Some(Fh(1)), Some(Fh(2)), Some(5));
        op.cache = vec![CacheDid::Buffered {
            offset: 0,
            size: 5,
            overwrote: 0,
        }];
    });
    trace.writeback_with(0, 5, |done| done.ino = 8).holds();
}

/// write, fsync, and within the fsync a writeback of `size` bytes.
fn synced(kind: OpKind, size: u64, set: impl FnOnce(&mut Writeback)) -> Trace {
    let mut trace = Trace::new();
    trace
        .open(1)
        .write(0, 10, 0)
        .on(kind, 1)
        .writeback_with(0, size, set)
        .answered_first(1);
    trace.writeback(size, 10 - size);
    trace
}

#[test]
fn law_4_wants_an_fsync_to_have_written_what_was_there() {
    synced(OpKind::Fsync, 10, |_| {}).holds();
    let evidence = synced(OpKind::Fsync, 6, |_| {}).breaks(4);
    assert_eq!(evidence.seq, Some(Seq(3)));
    assert!(
        evidence.found.starts_with("4 dirty bytes from offset 6"),
        "{evidence}"
    );
}

#[test]
fn law_4_wants_the_writeback_to_be_over_when_the_fsync_is() {
    synced(OpKind::Fsync, 10, |done| done.dur_ns = Nanos(50_000_000)).breaks(4);
}

#[test]
fn law_4_asks_nothing_of_an_fsync_that_failed() {
    let mut trace = Trace::new();
    trace.open(1).write(0, 10, 0).op(OpKind::Fsync, |op| {
        (op.ret, op.errno) = (None, Some("EIO".into()));
    });
    trace.writeback(0, 10).holds();
}

#[test]
fn law_4_asks_nothing_for_writes_that_the_fsync_overlapped() {
    let mut trace = Trace::new();
    // The write arrives before the fsync and is answered after it.
    trace
        .open(1)
        .write(0, 10, 0)
        .on(OpKind::Fsync, 1)
        .answered_first(1)
        .writeback(0, 10)
        .holds();
    // And one that arrives while the fsync is under way.
    let mut trace = Trace::new();
    trace
        .open(1)
        .on(OpKind::Fsync, 1)
        .write(0, 10, 0)
        .answered_first(1)
        .writeback(0, 10)
        .holds();
}

#[test]
fn law_4_counts_truncated_and_overwritten_bytes_as_gone() {
    let mut trace = Trace::new();
    trace
        .open(1)
        .write(0, 10, 0)
        .discard(0, 10, Reason::Truncate)
        .on(OpKind::Fsync, 1)
        .holds();
    // A failed writeback whose bytes newer ones replaced: the newer ones are still dirty.
    let mut trace = Trace::new();
    trace
        .open(1)
        .write(0, 10, 0)
        .write(0, 10, 0)
        .discard(0, 10, Reason::Superseded);
    trace.on(OpKind::Fsync, 1).writeback(0, 10).breaks(4);
}

#[test]
fn law_4_lets_a_writeback_clean_only_what_it_took() {
    let mut trace = Trace::new();
    // Rewritten while the writeback of the first write was under way: dirty again.
    trace.open(1).write(0, 10, 0).write(0, 10, 0);
    trace
        .writeback_with(0, 10, |done| done.last_seq = Seq(2))
        .on(OpKind::Fsync, 1);
    trace.writeback(0, 10).breaks(4);
}

#[test]
fn law_4_lets_another_thread_write_back_before_the_write_is_answered() {
    let mut trace = Trace::new();
    trace
        .open(1)
        .write(0, 10, 0)
        .writeback_with(0, 10, |done| done.last_seq = Seq(2));
    trace.answered_first(1).on(OpKind::Fsync, 1).holds();
}

#[test]
fn law_5_is_law_4_for_flush() {
    synced(OpKind::Flush, 10, |_| {}).holds();
    let broken = synced(OpKind::Flush, 6, |_| {});
    assert_eq!(broken.breaks(5).seq, Some(Seq(3)));

    let mut keep = synced(OpKind::Flush, 6, |_| {});
    keep.header.on_close = "keep".into();
    keep.holds();

    let mut unlinked = synced(OpKind::Flush, 6, |_| {});
    let Some(Event::Op(flush)) = unlinked.events.get_mut(3) else {
        panic!()
    };
    assert_eq!(flush.op, OpKind::Flush);
    flush.unlinked = true;
    unlinked.holds();

    let mut reader = synced(OpKind::Flush, 6, |_| {});
    let Some(Event::Op(open)) = reader.events.first_mut() else {
        panic!()
    };
    open.flags = open_flag_names(libc::O_RDONLY);
    reader.holds();
}

#[test]
fn law_6_keeps_reads_within_the_file_and_accounted_for() {
    let mut trace = Trace::new();
    let hit = |size| CacheDid::Hit {
        size,
        dirty: 0,
        readahead: 0,
    };
    let parts = vec![
        hit(1),
        CacheDid::Miss { size: 2 },
        CacheDid::Hole { size: 3 },
    ];
    trace.read(90, 6, parts).read(200, 0, vec![]).holds();

    let mut beyond = Trace::new();
    beyond.read(99, 2, vec![hit(2)]);
    assert_eq!(beyond.breaks(6).found, "101");

    let mut short = Trace::new();
    short.read(0, 6, vec![hit(5)]);
    assert_eq!(short.breaks(6).found, "5");

    let mut off = Trace::new();
    off.header.policy = "off".into();
    off.read(0, 6, vec![]).holds();
}

#[test]
fn law_7_wants_the_cause_to_be_an_earlier_operation() {
    let caused = |cause: u64| {
        let mut trace = Trace::new();
        trace.open(1).write(0, 10, 0).writeback(0, 5);
        trace.writeback_with(5, 5, |done| done.cause = Cause::Op(Seq(cause)));
        trace
    };
    caused(1).holds();
    caused(3).breaks(7);
    caused(4).breaks(7);
    caused(99).breaks(7);
    caused(0).breaks(7);
}

#[test]
fn law_8_wants_unwritten_bytes_explained() {
    let ended = |errors: u64, abandoned: bool, exit: i32| {
        let mut trace = Trace::new();
        trace.write(0, 10, 0);
        let footer = trace.footer.as_mut().unwrap();
        (footer.dirty_bytes, footer.write_errors) = (10, errors);
        (footer.abandoned, footer.exit) = (abandoned, exit);
        trace
    };
    ended(1, false, 3).holds();
    ended(0, true, 3).holds();
    ended(0, false, 3).breaks(8);
    ended(1, false, 0).breaks(8);
}

#[test]
fn a_cut_trace_proves_little_and_breaks_nothing() {
    let mut trace = Trace::new();
    trace.footer = None;
    trace
        .on(OpKind::Read, 9)
        .write(0, 10, 0)
        .op(OpKind::Fsync, |_| {})
        .seq();
    trace.op(OpKind::Statfs, |_| {});
    trace.writeback_with(0, 5, |done| done.cause = Cause::Op(Seq(4)));
    trace
        .events
        .retain(|event| !matches!(event, Event::Op(op) if op.op == OpKind::Read));
    trace.unproven(&[1, 2, 3, 4, 5, 7, 8]);
}

#[test]
fn a_cut_trace_still_breaks_what_no_missing_line_explains() {
    let mut trace = Trace::new();
    trace.footer = None;
    trace.open(1).on(OpKind::Release, 1).on(OpKind::Read, 1);
    let report = trace.report();
    assert!(matches!(report.laws[1].verdict, Verdict::Broken { .. }));
}

#[test]
fn a_filtered_trace_proves_only_what_filters_leave() {
    let mut trace = Trace::new();
    trace.header.filters = vec!["--only-op=read".into()];
    trace.on(OpKind::Getattr, 1);
    trace.unproven(&[2, 3, 4, 5, 7]);
}

#[test]
fn a_restart_explains_gaps() {
    let mut trace = Trace::new();
    trace.open(1).seq();
    let (seq, ts_ns) = trace.seq();
    trace.events.push(Event::Resume(Resume {
        seq,
        ts_ns,
        reason: "killed".into(),
    }));
    trace.unproven(&[1]);
}

#[test]
fn an_operation_that_takes_for_ever_does_not_hold_the_audit_back() {
    let mut trace = Trace::new();
    // A lock that is waited for, answered last, with more events between than are held.
    trace.open(1).on(OpKind::Setlk, 1);
    for _ in 0..HELD_MAX + 100 {
        trace.on(OpKind::Getattr, 1);
    }
    trace.answered_first(HELD_MAX + 100).holds();
}

#[test]
fn evidence_is_bounded_and_counted() {
    let mut trace = Trace::new();
    for _ in 0..50 {
        trace.read(0, 1, vec![]);
    }
    let Verdict::Broken { count, evidence } = trace.report().laws.swap_remove(5).verdict else {
        panic!("holds")
    };
    assert_eq!((count, evidence.len()), (50, EVIDENCE_MAX));
}

proptest::proptest! {
    #[test]
    fn no_numbers_make_the_audit_panic(
        events in proptest::collection::vec(
            (0u8..6, proptest::prelude::any::<(u64, u64, u64, u64)>(), 0u64..4), 0..40)
    ) {
        let mut trace = Trace::new();
        for (kind, (a, b, c, d), small) in events {
            match kind {
                0 => trace.write(a, b, c),
                1 => trace.op(OpKind::Fsync, |op| {
                    op.seq = Seq(a);
                    (op.ts_ns, op.dur_ns) = (Nanos(b), Nanos(c));
                }),
                2 => trace.writeback_with(a, b, |done| {
                    done.last_seq = Seq(c);
                    (done.ts_ns, done.dur_ns) = (Nanos(d), Nanos(a));
                }),
                3 => trace.discard(a, b, Reason::Truncate),
                4 => trace.open(small),
                _ => trace.read(a, b, vec![CacheDid::Miss { size: c }, CacheDid::Hole { size: d }]),
            };
        }
        trace.report();
    }
}
