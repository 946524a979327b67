//! Figures: how few writes reach SOURCE.

use std::io::Write;
use std::os::unix::fs::FileExt;

use iolens::event::{OpKind, Reason};

use crate::record::taken;
use crate::view::{NEVER, on, pattern};

#[test]
fn writes_of_100_bytes_reach_source_in_writes_of_a_mebibyte() {
    const WRITES: usize = 200_000;
    const WRITE: usize = 100;
    let trace = on(NEVER, |v| {
        let data = pattern(WRITES * WRITE, 1);
        let mut f = v.create("f");
        for piece in data.chunks(WRITE) {
            f.write_all(piece).unwrap();
        }
        v.still_lacks("f");
        drop(f);
        v.holds("f", &data);
    });
    let written = trace.writebacks("f");
    let most = WRITES * WRITE / (1 << 20) + 8;
    assert!(
        written.len() <= most,
        "{} writes, more than {most}",
        written.len()
    );
    assert_eq!(
        written.iter().map(|w| w.ret.unwrap()).sum::<u64>(),
        (WRITES * WRITE) as u64
    );
    let merged: u64 = written.iter().map(|w| w.writes).sum();
    // A write that lies on both sides of a border counts twice.
    let spread = WRITES as u64..=(WRITES + written.len()) as u64;
    assert!(spread.contains(&merged), "{merged} application writes");
    let mut offsets: Vec<u64> = written.iter().map(|w| w.offset).collect();
    assert!(offsets.is_sorted(), "in file order: {offsets:?}");
    offsets.dedup();
    assert_eq!(offsets.len(), written.len());
}

#[test]
fn a_file_rewritten_100_times_before_its_close_is_written_once() {
    let trace = on(NEVER, |v| {
        let f = v.create("f");
        for round in 0..100 {
            f.write_all_at(&pattern(5_000, round), 0).unwrap();
        }
        v.still_lacks("f");
        drop(f);
        v.holds("f", &pattern(5_000, 99));
    });
    let written = trace.writebacks("f");
    assert_eq!(written.len(), 1, "{written:#?}");
    let (w, writes) = (written[0], trace.of(OpKind::Write, "f"));
    assert_eq!(
        (w.offset, w.ret, w.writes, w.reason),
        (0, Some(5_000), 100, Reason::Close)
    );
    let overwrote: u64 = writes.iter().map(|op| taken(op).1).sum();
    assert_eq!((writes.len(), overwrote), (100, 99 * 5_000));
    assert!(
        w.first_seq <= w.last_seq && w.last_seq == writes[99].seq,
        "{w:?}"
    );
}

#[test]
fn a_file_emptied_and_rewritten_100_times_before_its_close_is_written_once() {
    let trace = on(NEVER, |v| {
        let f = v.create("f");
        for round in 0..100 {
            f.set_len(0).unwrap();
            f.write_all_at(&pattern(5_000, round), 0).unwrap();
        }
        drop(f);
        v.holds("f", &pattern(5_000, 99));
    });
    assert_eq!(
        trace
            .writebacks("f")
            .iter()
            .map(|w| w.ret.unwrap())
            .sum::<u64>(),
        5_000
    );
    let discards = trace.discards("f");
    assert!(
        discards.iter().all(|d| d.reason == Reason::Truncate),
        "{discards:#?}"
    );
    assert_eq!(discards.iter().map(|d| d.size).sum::<u64>(), 99 * 5_000);
}

#[test]
fn scattered_writes_leave_in_file_order_and_neighbours_together() {
    let trace = on(NEVER, |v| {
        let data = pattern(64 << 12, 1);
        let f = v.create("f");
        // A permutation of the 64 blocks but the last of each eight: 37 is odd.
        for block in (0..64_usize).map(|i| i * 37 % 64).filter(|b| b % 8 != 7) {
            let at = block << 12;
            f.write_all_at(&data[at..at + 4_096], at as u64).unwrap();
        }
        f.sync_all().unwrap();
    });
    let written = trace.writebacks("f");
    let runs: Vec<(u64, u64, u64)> = written
        .iter()
        .map(|w| (w.offset, w.ret.unwrap(), w.writes))
        .collect();
    let wanted: Vec<(u64, u64, u64)> = (0..8).map(|i| (i << 15, 7 << 12, 7)).collect();
    assert_eq!(runs, wanted);
}
