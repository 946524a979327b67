//! What the trace says of each write.

use std::os::unix::fs::FileExt;

use iolens::event::{CacheDid, OpKind, Reason};

use crate::record::{taken, told, wrote_back};
use crate::view::{KEEP, NEVER, each_then, on, pattern};

#[test]
fn every_byte_of_every_write_is_buffered_or_written_through_with_a_reason() {
    let body = |v: &crate::view::View| {
        let f = v.create("f");
        for i in 0..50_u64 {
            f.write_all_at(&pattern(3_000, i), i * 2_000).unwrap();
        }
        f.write_all_at(&pattern(3 << 20, 1), 1 << 20).unwrap();
    };
    each_then(&[], body, |setting, trace| {
        let writes = trace.of(OpKind::Write, "f");
        assert!(writes.len() >= 51);
        for op in writes {
            let (buffered, _, through) = taken(op);
            let passed: u64 = through.iter().map(|(size, _)| size).sum();
            assert_eq!(buffered + passed, op.ret.unwrap(), "{}", told(op));
            if !setting.buffers() {
                assert_eq!(through, [(op.ret.unwrap(), Reason::Policy)], "{}", told(op));
            } else {
                assert!(
                    through
                        .iter()
                        .all(|(_, reason)| matches!(reason, Reason::NearlyFull | Reason::Memory)),
                    "{}",
                    told(op)
                );
            }
        }
    });
}

#[test]
fn a_write_says_what_it_overwrote_in_the_buffer_and_how_much_of_the_file_is_dirty() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        f.write_all_at(&pattern(5_000, 2), 8_000).unwrap();
        f.write_all_at(&pattern(100, 3), 50_000).unwrap();
        f.write_all_at(&pattern(60_000, 4), 0).unwrap();
        f.sync_all().unwrap();
        f.write_all_at(&pattern(7, 5), 9).unwrap();
    });
    let writes = trace.of(OpKind::Write, "f");
    let told: Vec<(u64, u64, u64)> = writes
        .iter()
        .map(|op| (taken(op).0, taken(op).1, op.dirty.unwrap()))
        .collect();
    let wanted = [
        (10_000, 0, 10_000),
        (5_000, 2_000, 13_000),
        (100, 0, 13_100),
        (60_000, 13_100, 60_000),
        (7, 0, 7),
    ];
    assert_eq!(told, wanted);
    let fsync = trace.first(OpKind::Fsync, "f");
    assert_eq!(fsync.dirty, Some(0));
    assert_eq!(wrote_back(fsync), [(60_000, 1, Reason::Fsync)]);
}

#[test]
fn a_truncation_discards_the_dirty_bytes_it_cuts_off_and_no_others() {
    let trace = on(NEVER, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        f.set_len(4_000).unwrap();
        drop(f);
        v.holds("f", &pattern(10_000, 1)[..4_000]);
    });
    let truncate = trace.first(OpKind::Setattr, "f");
    let discards = trace.discards("f");
    assert_eq!(discards.len(), 1, "{discards:#?}");
    let d = discards[0];
    assert_eq!(
        (d.offset, d.size, d.reason),
        (4_000, 6_000, Reason::Truncate)
    );
    assert_eq!(d.cause, iolens::event::Cause::Op(truncate.seq));
    let said = CacheDid::Discard {
        size: 6_000,
        reason: Reason::Truncate,
    };
    assert!(truncate.cache.contains(&said), "{}", told(truncate));
    let written: u64 = trace.writebacks("f").iter().map(|w| w.ret.unwrap()).sum();
    assert_eq!(written, 4_000);
}

#[test]
fn an_open_that_truncates_discards_what_is_dirty() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        drop(f);
        drop(v.open("f", libc::O_WRONLY | libc::O_TRUNC));
        v.shows("f", b"");
    });
    assert_eq!(trace.writebacks("f").len(), 0);
    let discards = trace.discards("f");
    assert_eq!(discards.iter().map(|d| d.size).sum::<u64>(), 10_000);
    assert!(
        discards.iter().all(|d| d.reason == Reason::Truncate),
        "{discards:#?}"
    );
}
