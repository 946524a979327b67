//! SOURCE is changed from outside: the part of case 25 that is about data.

use std::fs::{self, FileTimes};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, UNIX_EPOCH};

use iolens::event::{CacheDid, OpKind, Reason};
use libc::{O_RDONLY, O_RDWR};

use crate::record::{sources, told};
use crate::view::{KEEP, NEVER, View, all_of, each, each_then, on, open_at, pattern, same};

/// Writes a file of SOURCE anew behind the view's back. Its time differs from all others, also where the
/// clock that stamps files has not moved.
fn change(v: &View, name: &str, data: &[u8]) {
    let below = open_at(&v.below(name), O_RDWR | libc::O_TRUNC);
    below.write_all_at(data, 0).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(1_100_000_000 + data.len() as u64);
    below
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
}

#[test]
fn case_25_a_change_from_outside_is_seen_by_the_next_open_and_after_the_next_stat() {
    each(|v| {
        v.given("f", &pattern(50_000, 1));
        v.shows("f", &pattern(50_000, 1));
        v.shows("f", &pattern(50_000, 1));
        change(v, "f", &pattern(40_000, 2));
        v.shows("f", &pattern(40_000, 2));
        let f = v.open("f", O_RDONLY);
        same("before", &all_of(&f), &pattern(40_000, 2));
        change(v, "f", &pattern(45_000, 3));
        assert_eq!(f.metadata().unwrap().len(), 45_000);
        same("after fstat", &all_of(&f), &pattern(45_000, 3));
        // The same size.
        change(v, "f", &pattern(45_001, 4));
        v.shows("f", &pattern(45_001, 4));
    });
}

#[test]
fn case_25_what_is_clean_and_no_longer_true_is_invalidated_on_record() {
    let trace = on(NEVER, |v| {
        v.given("f", &pattern(50_000, 1));
        v.shows("f", &pattern(50_000, 1));
        change(v, "f", &pattern(50_001, 2));
        v.shows("f", &pattern(50_001, 2));
    });
    // The flush, not the release: the kernel sends the release when it likes.
    let first_close = trace.first(OpKind::Flush, "f").seq;
    let dropped: Vec<_> = trace
        .ops()
        .filter(|op| op.seq > first_close)
        .flat_map(|op| &op.cache)
        .filter_map(|did| match *did {
            CacheDid::Invalidate { size, reason } => Some((size, reason)),
            _ => None,
        })
        .collect();
    assert!(!dropped.is_empty(), "nothing was invalidated");
    for (size, reason) in dropped {
        assert!(size > 0 && reason == Reason::ChangedBelow);
    }
    for read in trace.of(OpKind::Read, "f") {
        assert_eq!(sources(read).all(), read.ret.unwrap(), "{}", told(read));
    }
}

#[test]
fn case_25_dirty_data_over_a_changed_file_wins_and_is_marked_as_a_conflict() {
    for args in [NEVER, KEEP] {
        let trace = on(args, |v| {
            v.given("f", &pattern(20_000, 1));
            let f = v.open("f", O_RDWR);
            f.write_all_at(b"dirty", 5_000).unwrap();
            change(v, "f", &pattern(30_000, 2));
            f.sync_all().unwrap();
            let mut wanted = pattern(30_000, 2);
            wanted[5_000..5_005].copy_from_slice(b"dirty");
            v.holds("f", &wanted);
            v.shows("f", &wanted);
            // Once told, it is over.
            f.write_all_at(b"more", 6_000).unwrap();
            f.sync_all().unwrap();
            wanted[6_000..6_004].copy_from_slice(b"more");
            v.holds("f", &wanted);
        });
        let conflicts: Vec<bool> = trace.writebacks("f").iter().map(|w| w.conflict).collect();
        assert_eq!(conflicts, [true, false]);
    }
}

#[test]
fn case_25_a_truncation_from_outside_does_not_lose_what_is_dirty() {
    each(|v| {
        v.given("f", &pattern(20_000, 1));
        let f = v.open("f", O_RDWR);
        f.write_all_at(b"dirty", 15_000).unwrap();
        change(v, "f", b"");
        f.write_all_at(b"later", 1_000).unwrap();
        f.sync_all().unwrap();
        let below = fs::read(v.below("f")).unwrap();
        same("later", &below[1_000..1_005], b"later");
        if v.setting.never_ages() {
            same("dirty", &below[15_000..15_005], b"dirty");
        }
        v.shows("f", &below);
    });
}

#[test]
fn case_25_without_a_change_from_outside_nothing_is_a_conflict() {
    each_then(&[], change_from_inside, |_, trace| {
        let conflicts: Vec<_> = trace.all_writebacks().filter(|w| w.conflict).collect();
        assert!(conflicts.is_empty(), "{conflicts:#?}");
    });
}

/// All that moves the times of the file of SOURCE, between writes.
fn change_from_inside(v: &View) {
    let f = v.create("f");
    for round in 0..20_u64 {
        f.write_all_at(&pattern(5_000, round), round * 1_000)
            .unwrap();
        if round % 3 == 0 {
            f.sync_all().unwrap();
        }
        if round % 5 == 0 {
            f.set_len(round * 900).unwrap();
            fs::hard_link(v.path("f"), v.path(&format!("f{round}"))).unwrap();
            fs::set_permissions(v.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(round);
            f.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
    }
}
