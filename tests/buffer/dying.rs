//! Dirty data that nobody wants any more: case 13, and what of it reaches SOURCE.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use iolens::event::{Cause, OpKind, Reason};

use crate::record::{Trace, told};
use crate::view::{KEEP, NEVER, Setting, View, all_of, each_then, on, pattern, same};

#[test]
fn case_13_an_unlinked_open_file_lives_on_in_the_buffer_and_dies_there() {
    let body = |v: &View| {
        let mut wanted = pattern(30_000, 1);
        let f = v.create("f");
        let reader = v.open("f", libc::O_RDONLY);
        f.write_all_at(&wanted[..20_000], 0).unwrap();
        fs::remove_file(v.path("f")).unwrap();
        assert!(!v.below("f").exists());
        f.write_all_at(&wanted[20_000..], 20_000).unwrap();
        assert_eq!(f.metadata().unwrap().nlink(), 0);
        assert_eq!(f.metadata().unwrap().size(), 30_000);
        same("after unlink", &all_of(&reader), &wanted);
        f.set_len(5_000).unwrap();
        f.set_len(25_000).unwrap();
        wanted[5_000..].fill(0);
        wanted.truncate(25_000);
        same("after ftruncate", &all_of(&reader), &wanted);
        // A name that comes again is another file.
        drop(v.create("f"));
        v.shows("f", b"");
        drop(f);
        same("after a close", &all_of(&reader), &wanted);
        drop(reader);
        v.shows("f", b"");
    };
    each_then(&[], body, |setting, trace| {
        // The number of the first file, not of the one that took its name.
        let create = trace.first(OpKind::Create, "f");
        let ino = create.ino.unwrap().0;
        let unlink = trace.first(OpKind::Unlink, "f");
        let late: Vec<_> = trace
            .all_writebacks()
            .filter(|w| w.ino == ino && w.last_seq > unlink.seq)
            .collect();
        assert!(late.is_empty(), "{late:#?}");
        let early = trace.all_writebacks().filter(|w| w.ino == ino).count();
        assert!(early == 0 || !setting.never_ages(), "{early} writes");
    });
}

#[test]
fn case_13_an_unlinked_file_is_written_for_an_fsync_and_for_nothing_else() {
    let trace = on(NEVER, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        fs::remove_file(v.path("f")).unwrap();
        f.sync_all().unwrap();
        f.write_all_at(&pattern(10_000, 2), 5_000).unwrap();
        same("after fsync", &all_of(&f)[5_000..], &pattern(10_000, 2));
    });
    let fsync = trace.first(OpKind::Fsync, "f");
    assert_eq!(trace.written_for("f", Reason::Fsync, fsync), 10_000);
    let discarded: u64 = trace.discards("f").iter().map(|d| d.size).sum();
    assert_eq!(discarded, 10_000);
}

#[test]
fn a_file_unlinked_before_its_close_never_touches_sources_data() {
    for args in [NEVER, KEEP, &["--policy", "write-back"]] {
        let trace = on(args, |v| {
            let f = v.create("f");
            f.write_all_at(&pattern(100_000, 1), 0).unwrap();
            fs::remove_file(v.path("f")).unwrap();
        });
        died_unwritten(&trace, 100_000);
    }
}

#[test]
fn a_file_that_close_keeps_and_unlink_removes_never_touches_sources_data() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(100_000, 1), 0).unwrap();
        drop(f);
        v.shows("f", &pattern(100_000, 1));
        v.still_lacks("f");
        fs::remove_file(v.path("f")).unwrap();
    });
    died_unwritten(&trace, 100_000);
}

/// Who has looked a file up may open it after its last name is gone: its data is still there then.
#[test]
fn case_13_a_file_that_somebody_can_still_open_keeps_its_data_without_a_name() {
    let trace = on(KEEP, |v| {
        let f = v.create("f");
        f.write_all_at(&pattern(100_000, 1), 0).unwrap();
        drop(f);
        let found = v.open("f", libc::O_PATH);
        fs::remove_file(v.path("f")).unwrap();
        let way = format!("/proc/self/fd/{}", found.as_raw_fd());
        let again = fs::File::open(&way).unwrap();
        same(
            "opened without a name",
            &all_of(&again),
            &pattern(100_000, 1),
        );
        drop(again);
        let again = fs::File::open(&way).unwrap();
        same("opened once more", &all_of(&again), &pattern(100_000, 1));
    });
    died_unwritten(&trace, 100_000);
}

/// No writeback, and one account of `size` bytes that were unlinked.
fn died_unwritten(trace: &Trace, size: u64) {
    let written = trace.writebacks("f");
    assert!(written.is_empty(), "{written:#?}");
    let discards = trace.discards("f");
    assert_eq!(discards.iter().map(|d| d.size).sum::<u64>(), size);
    for d in discards {
        assert_eq!(d.reason, Reason::Unlink);
        let Cause::Op(behind) = d.cause else {
            panic!("{d:?}")
        };
        let op = trace.ops().find(|op| op.seq == behind).unwrap();
        let kinds = [OpKind::Unlink, OpKind::Release, OpKind::Flush];
        assert!(kinds.contains(&op.op), "{d:?} behind {}", told(op));
    }
}

#[test]
fn a_file_that_a_rename_replaces_while_dirty_dies_unwritten() {
    let trace = on(KEEP, |v| {
        let old = v.create("old");
        old.write_all_at(&pattern(50_000, 1), 0).unwrap();
        let new = v.create("new");
        new.write_all_at(&pattern(10_000, 2), 0).unwrap();
        drop(new);
        fs::rename(v.path("new"), v.path("old")).unwrap();
        v.holds("old", &pattern(10_000, 2));
        same("still open", &all_of(&old), &pattern(50_000, 1));
    });
    let ino = trace.first(OpKind::Create, "old").ino.unwrap().0;
    let written: Vec<_> = trace.all_writebacks().filter(|w| w.ino == ino).collect();
    assert!(written.is_empty(), "{written:#?}");
}

#[test]
fn a_name_that_is_left_keeps_the_data_alive() {
    let check = |setting: Setting, trace: &Trace| {
        if setting.never_ages() {
            assert_eq!(trace.discards("f").len(), 0);
        }
    };
    let body = |v: &View| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        fs::hard_link(v.path("f"), v.path("g")).unwrap();
        fs::remove_file(v.path("f")).unwrap();
        drop(f);
        v.shows("g", &pattern(10_000, 1));
        v.holds_as_closed("g", &pattern(10_000, 1));
    };
    each_then(&[], body, check);
}

#[test]
fn nameless_data_is_not_written_by_the_timer_or_at_close() {
    let args = &["--policy", "write-back", "--dirty-age", "1ms"];
    let trace = on(args, |v| {
        let f = v.create("f");
        fs::remove_file(v.path("f")).unwrap();
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        // The timer has been there when it has written what is younger.
        let witness = v.create("witness");
        witness.write_all_at(b"x", 0).unwrap();
        v.comes_to_hold("witness", b"x");
    });
    died_unwritten(&trace, 10_000);
}
