//! What the trace says of each read.

use std::os::unix::fs::FileExt;

use iolens::event::{CacheDid, Op, OpKind, Reason};

use crate::record::{sources, told};
use crate::view::{KEEP, NEVER, all_of, each_then, on, pattern};

#[test]
fn every_byte_of_every_read_came_from_somewhere() {
    let body = |v: &crate::view::View| {
        v.given("f", &pattern(300_000, 1));
        let f = v.open("f", libc::O_RDWR);
        let mut piece = vec![0; 7_000];
        for i in 0..40_u64 {
            f.write_all_at(&pattern(100, i), i * 6_000).unwrap();
            f.read_at(&mut piece, i * 7_501 % 299_000).unwrap();
        }
        f.write_all_at(b"past a hole", 500_000).unwrap();
        all_of(&f);
        f.read_at(&mut piece, 600_000).unwrap();
    };
    each_then(&[], body, |setting, trace| {
        for op in trace.of(OpKind::Read, "f") {
            let from = sources(op);
            assert_eq!(from.all(), op.ret.unwrap(), "{}", told(op));
            assert!(from.dirty + from.readahead <= from.hit, "{}", told(op));
            if !setting.buffers() {
                assert_eq!(from.dirty, 0, "{}", told(op));
            }
        }
    });
}

#[test]
fn with_policy_off_every_read_bypasses() {
    let trace = on(&["--policy", "off"], |v| {
        v.given("f", &pattern(30_000, 1));
        v.shows("f", &pattern(30_000, 1));
    });
    for op in trace
        .of(OpKind::Read, "f")
        .into_iter()
        .filter(|op| op.ret != Some(0))
    {
        let wanted = CacheDid::Bypass {
            size: op.ret.unwrap(),
            reason: Reason::Policy,
        };
        assert_eq!(op.cache, [wanted]);
    }
}

#[test]
fn dirty_bytes_are_hits_before_and_after_they_are_partly_overwritten() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        f.write_all_at(b"xyz", 5_000).unwrap();
        all_of(&f);
        f.sync_all().unwrap();
        all_of(&f);
    });
    let (before, after): (Vec<&Op>, Vec<&Op>) = {
        let fsync = trace.first(OpKind::Fsync, "f").seq;
        trace
            .of(OpKind::Read, "f")
            .into_iter()
            .partition(|op| op.seq < fsync)
    };
    let first = sources(before[0]);
    assert_eq!(
        (first.hit, first.dirty),
        (10_000, 10_000),
        "{:?}",
        before[0]
    );
    assert!(
        after.iter().all(|op| sources(op).dirty == 0),
        "{}",
        told(&after)
    );
}

#[test]
fn a_hole_that_only_the_buffer_knows_is_read_as_such() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(b"far", 1 << 20).unwrap();
        let mut piece = vec![1; 4_096];
        f.read_exact_at(&mut piece, 8_192).unwrap();
        assert!(piece.iter().all(|&byte| byte == 0));
    });
    let read = trace.first(OpKind::Read, "f");
    assert_eq!(sources(read).hole, 4_096, "{}", told(read));
}

#[test]
fn what_was_read_is_a_hit_when_it_is_read_again() {
    let trace = on(NEVER, |v| {
        v.given("f", &pattern(64 << 10, 1));
        let f = v.open("f", libc::O_RDONLY);
        let mut piece = vec![0; 64 << 10];
        f.read_exact_at(&mut piece, 0).unwrap();
        f.read_exact_at(&mut piece, 0).unwrap();
        drop(f);
        // Closing forgets nothing.
        let f = v.open("f", libc::O_RDONLY);
        f.read_exact_at(&mut piece, 0).unwrap();
    });
    let reads: Vec<_> = trace
        .of(OpKind::Read, "f")
        .into_iter()
        .map(sources)
        .collect();
    assert_eq!((reads[0].miss, reads[0].hit), (64 << 10, 0));
    assert_eq!((reads[1].miss, reads[1].hit), (0, 64 << 10));
    assert_eq!((reads[2].miss, reads[2].hit), (0, 64 << 10));
}

/// The sizes of what was fetched ahead, in order.
fn fetched_ahead(reads: &[&Op]) -> Vec<u64> {
    let all = reads.iter().flat_map(|op| &op.cache);
    all.filter_map(|did| match *did {
        CacheDid::Readahead { size } => Some(size),
        _ => None,
    })
    .collect()
}

#[test]
fn a_sequential_reader_gets_a_read_ahead_that_grows() {
    let trace = on(NEVER, |v| {
        let data = pattern(4 << 20, 1);
        v.given("f", &data);
        let f = v.open("f", libc::O_RDONLY);
        let mut piece = vec![0; 16 << 10];
        for offset in (0..data.len()).step_by(piece.len()) {
            f.read_exact_at(&mut piece, offset as u64).unwrap();
            assert!(piece == data[offset..offset + piece.len()]);
        }
    });
    let reads = trace.of(OpKind::Read, "f");
    let ahead = fetched_ahead(&reads);
    assert!(
        ahead.len() > 1 && ahead.iter().max() > ahead.first(),
        "{ahead:?}"
    );
    assert!(
        ahead.iter().sum::<u64>() <= 4 << 20,
        "past the end: {ahead:?}"
    );
    let came_ahead: u64 = reads.iter().map(|op| sources(op).readahead).sum();
    assert!(
        came_ahead > 2 << 20,
        "{came_ahead} bytes had been fetched ahead"
    );
}

#[test]
fn a_random_reader_gets_none() {
    let trace = on(NEVER, |v| {
        v.given("f", &pattern(16 << 20, 1));
        let f = v.open("f", libc::O_RDONLY);
        let mut piece = vec![0; 4 << 10];
        // 64 KiB apart and never in order: 101 is prime to 251.
        for i in 1..200_u64 {
            f.read_exact_at(&mut piece, (i * 101 % 251) << 16).unwrap();
        }
    });
    let reads = trace.of(OpKind::Read, "f");
    assert_eq!(fetched_ahead(&reads), [0; 0]);
    assert!(reads.iter().all(|op| sources(op).readahead == 0));
}
