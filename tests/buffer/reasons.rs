//! Why dirty data was written back, and on whose account.

use std::fs;
use std::os::unix::fs::FileExt;

use iolens::event::{Cause, OpKind, OwnCause, Reason};

use crate::call::{copy_range, fallocate, lseek};
use crate::record::{Trace, told, wrote_back};
use crate::view::{KEEP, NEVER, View, on, pattern};

/// What is dirty when the call comes.
const SIZE: usize = 20_000;

/// A dirty file of [`SIZE`] bytes, and a call on it; the trace of both, on a view that does nothing by
/// itself.
fn with_dirty(call: impl FnOnce(&View, &fs::File) + Send) -> Trace {
    on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        v.still_lacks("f");
        call(v, &f);
        v.holds("f", &pattern(SIZE, 1));
    })
}

/// All was written in one go by this operation, which says so itself.
fn written_by(trace: &Trace, kind: OpKind, reason: Reason) {
    let behind = trace.first(kind, "f");
    assert_eq!(trace.written_for("f", reason, behind), SIZE as u64);
    assert_eq!(
        wrote_back(behind),
        [(SIZE as u64, 1, reason)],
        "{}",
        told(behind)
    );
    let w = trace.writebacks("f")[0];
    let write = trace.first(OpKind::Write, "f");
    assert_eq!(
        (w.writes, w.first_seq, w.last_seq),
        (1, write.seq, write.seq),
        "{w:?}"
    );
    assert_eq!(
        w.blocks,
        (SIZE as u64).div_ceil(trace.block_size()),
        "{w:?}"
    );
    assert!(w.age_ns.0 > 0 && !w.conflict, "{w:?}");
}

#[test]
fn fsync_and_fdatasync_are_reasons() {
    let trace = with_dirty(|_, f| f.sync_all().unwrap());
    written_by(&trace, OpKind::Fsync, Reason::Fsync);
    let trace = with_dirty(|_, f| f.sync_data().unwrap());
    written_by(&trace, OpKind::Fsync, Reason::Fsync);
}

#[test]
fn looking_for_data_or_holes_is_a_reason() {
    let trace = with_dirty(|_, f| {
        assert_eq!(lseek(f, 0, libc::SEEK_DATA), Ok(0));
    });
    written_by(&trace, OpKind::Lseek, Reason::Lseek);
}

#[test]
fn copy_file_range_is_a_reason_for_the_file_it_reads() {
    let trace = with_dirty(|v, f| {
        let to = v.create("to");
        assert_eq!(copy_range(f, 0, &to, 0, SIZE), SIZE);
        v.shows("to", &pattern(SIZE, 1));
    });
    written_by(&trace, OpKind::CopyFileRange, Reason::CopyFileRange);
}

#[test]
fn fallocate_is_a_reason_at_most_for_what_it_touches() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        fallocate(&f, punch, 4_096, 8_192).unwrap();
        let mut wanted = pattern(SIZE, 1);
        wanted[4_096..12_288].fill(0);
        v.shows("f", &wanted);
        f.sync_all().unwrap();
        v.holds("f", &wanted);
    });
    let (punch, fsync) = (
        trace.first(OpKind::Fallocate, "f"),
        trace.first(OpKind::Fsync, "f"),
    );
    for w in trace.writebacks("f") {
        let fine = (w.reason == Reason::Fallocate && w.cause == Cause::Op(punch.seq))
            || (w.reason == Reason::Fsync && w.cause == Cause::Op(fsync.seq));
        assert!(fine, "{w:?}");
    }
}

#[test]
fn a_rename_over_a_file_is_a_reason_and_a_rename_to_nothing_is_not() {
    let trace = on(KEEP, |v| {
        v.given("old", b"old");
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        drop(f);
        fs::rename(v.path("f"), v.path("g")).unwrap();
        v.still_lacks("g");
        fs::rename(v.path("g"), v.path("old")).unwrap();
        v.holds("old", &pattern(SIZE, 1));
    });
    let behind = trace.first(OpKind::Rename, "g");
    assert_eq!(trace.written_for("f", Reason::Rename, behind), SIZE as u64);
    assert_eq!(wrote_back(behind), [(SIZE as u64, 1, Reason::Rename)]);
}

#[test]
fn a_close_of_a_writable_descriptor_is_a_reason_and_a_read_only_one_is_not() {
    let trace = on(NEVER, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        drop(v.open("f", libc::O_RDONLY));
        v.still_lacks("f");
        drop(v.open("f", libc::O_RDWR));
        v.holds("f", &pattern(SIZE, 1));
        drop(f);
    });
    let flushes = trace.of(OpKind::Flush, "f");
    assert_eq!(flushes.len(), 3);
    assert_eq!(
        trace.written_for("f", Reason::Close, flushes[1]),
        SIZE as u64
    );
    let told: Vec<_> = flushes.iter().map(|op| wrote_back(op)).collect();
    assert_eq!(
        told,
        [vec![], vec![(SIZE as u64, 1, Reason::Close)], vec![]]
    );
    assert_eq!(flushes[0].dirty, Some(SIZE as u64));
    assert_eq!(flushes[1].dirty, Some(0));
}

#[test]
fn age_is_a_reason_while_the_file_stays_open() {
    let args = &["--policy", "write-back", "--dirty-age", "20ms"];
    let trace = on(args, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        v.comes_to_hold("f", &pattern(SIZE, 1));
    });
    let written = trace.writebacks("f");
    assert_eq!(
        written.iter().map(|w| w.ret.unwrap()).sum::<u64>(),
        SIZE as u64
    );
    for w in written {
        assert_eq!(
            (w.reason, w.cause),
            (Reason::Age, Cause::Own(OwnCause::Timer)),
            "{w:?}"
        );
        assert!(w.age_ns.0 >= 20_000_000, "{w:?}");
    }
}

#[test]
fn the_end_of_the_view_is_a_reason() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        drop(f);
        v.still_lacks("f");
    });
    let written = trace.writebacks("f");
    assert_eq!(
        written.iter().map(|w| w.ret.unwrap()).sum::<u64>(),
        SIZE as u64
    );
    for w in written {
        assert_eq!(
            (w.reason, w.cause),
            (Reason::Unmount, Cause::Own(OwnCause::Unmount)),
            "{w:?}"
        );
    }
}

#[test]
fn a_synchronous_write_over_dirty_data_leaves_the_rest_on_record() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
        let synced = v.open("f", libc::O_WRONLY | libc::O_SYNC);
        synced.write_all_at(&pattern(1_000, 2), 5_000).unwrap();
        let mut wanted = pattern(SIZE, 1);
        wanted[5_000..6_000].copy_from_slice(&pattern(1_000, 2));
        v.shows("f", &wanted);
        f.sync_all().unwrap();
        v.holds("f", &wanted);
    });
    let synced = trace.of(OpKind::Write, "f")[1];
    let fsync = trace.first(OpKind::Fsync, "f");
    for w in trace.writebacks("f") {
        let fine = (w.reason == Reason::OSync && w.cause == Cause::Op(synced.seq))
            || (w.reason == Reason::Fsync && w.cause == Cause::Op(fsync.seq));
        assert!(fine, "{w:?}");
    }
}

#[test]
fn write_through_and_off_have_nothing_to_write_back() {
    for policy in ["off", "write-through"] {
        let trace = on(&["--policy", policy], |v| {
            let f = v.create("f");
            f.write_all_at(&pattern(SIZE, 1), 0).unwrap();
            v.holds("f", &pattern(SIZE, 1));
            f.sync_all().unwrap();
            drop(f);
        });
        assert_eq!(trace.all_writebacks().count(), 0, "with {policy}");
        assert!(
            trace.ops().all(|op| op.dirty.unwrap_or(0) == 0),
            "with {policy}"
        );
    }
}
