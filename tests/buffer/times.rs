//! What stat(2) shows does not jump when dirty data is written back: case 17.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::call::{shell, times};
use crate::support::wait_until;
use crate::view::{View, all_of, each, pattern};

/// Size, mtime and ctime, by descriptor and by name.
fn seen(v: &View, f: &File, name: &str) -> [(u64, (i64, i64)); 2] {
    [f.metadata().unwrap(), v.stat(name)].map(|st| {
        assert!(st.blocks() > 0, "st_blocks of a file with data");
        (st.size(), times(&st))
    })
}

fn long_ago() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)
}

/// The clock that stamps files has moved on since `st`.
fn wait_for_a_later_time(v: &View, st: &fs::Metadata) {
    let probe = v.bare("probe");
    wait_until("the clock to move on", || {
        fs::write(&probe, "x").unwrap();
        times(&fs::metadata(&probe).unwrap()).0 > times(st).1
    });
}

#[test]
fn case_17_size_mtime_and_ctime_do_not_move_when_data_is_written_back() {
    each(|v| {
        let data = pattern(50_000, 1);
        let f = v.create("f");
        let before = times(&v.stat("f"));
        wait_for_a_later_time(v, &v.stat("f"));
        f.write_all_at(&data, 0).unwrap();
        let dirty = seen(v, &f, "f");
        assert_eq!(dirty[0], dirty[1], "by descriptor and by name");
        let (size, (mtime, ctime)) = dirty[0];
        assert!(
            size == 50_000 && mtime > before.0 && ctime > before.1,
            "{dirty:?} {before:?}"
        );
        wait_for_a_later_time(v, &v.stat("f"));
        if v.setting.ages_at_once() {
            v.comes_to_hold("f", &data);
            assert_eq!(seen(v, &f, "f"), dirty, "after the timer");
        }
        f.sync_all().unwrap();
        assert_eq!(seen(v, &f, "f"), dirty, "after fsync");
        f.write_all_at(b"more", 50_000).unwrap();
        let dirty = v.stat("f");
        assert!(times(&dirty).0 > mtime, "a write moves mtime");
        wait_for_a_later_time(v, &dirty);
        drop(f);
        let closed = v.stat("f");
        assert_eq!(
            (closed.size(), times(&closed)),
            (50_004, times(&dirty)),
            "after close"
        );
        let f = v.open("f", libc::O_RDONLY);
        f.sync_all().unwrap();
        assert_eq!(all_of(&f)[..50_000], data);
        assert_eq!(times(&v.stat("f")), times(&dirty), "after all");
        assert_eq!(
            times(&fs::metadata(v.below("f")).unwrap()).0,
            times(&dirty).0,
            "in SOURCE"
        );
    });
}

#[test]
fn case_17_a_time_that_was_set_survives_the_writeback() {
    each(|v| {
        let wanted = times_of(long_ago());
        let f = v.create("f");
        f.write_all_at(&pattern(20_000, 1), 0).unwrap();
        f.set_times(FileTimes::new().set_modified(long_ago()))
            .unwrap();
        assert_eq!(times(&f.metadata().unwrap()).0, wanted);
        f.sync_all().unwrap();
        assert_eq!(times(&f.metadata().unwrap()).0, wanted, "after fsync");
        f.write_all_at(b"x", 0).unwrap();
        assert!(times(&v.stat("f")).0 > wanted, "a later write moves it");
        f.set_times(FileTimes::new().set_modified(long_ago()))
            .unwrap();
        drop(f);
        assert_eq!(times(&v.stat("f")).0, wanted, "after close");
        v.open("f", libc::O_RDONLY).sync_all().unwrap();
        assert_eq!(times(&v.stat("f")).0, wanted, "when all is written");
        assert_eq!(
            times(&fs::metadata(v.below("f")).unwrap()).0,
            wanted,
            "in SOURCE"
        );
    });
}

fn times_of(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[test]
fn case_17_a_chmod_moves_ctime_alone_and_the_writeback_neither() {
    each(|v| {
        let f = v.create("f");
        f.write_all_at(&pattern(10_000, 1), 0).unwrap();
        let written = v.stat("f");
        wait_for_a_later_time(v, &written);
        fs::set_permissions(v.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
        let changed = v.stat("f");
        assert_eq!(times(&changed).0, times(&written).0);
        assert!(times(&changed).1 > times(&written).1);
        wait_for_a_later_time(v, &changed);
        f.sync_all().unwrap();
        drop(f);
        assert_eq!(times(&v.stat("f")), times(&changed));
    });
}

#[test]
fn case_17_what_was_written_first_stays_older_whenever_it_is_written_back() {
    each(|v| {
        let source = v.create("a.c");
        source.write_all_at(&pattern(5_000, 1), 0).unwrap();
        wait_for_a_later_time(v, &v.stat("a.c"));
        let target = v.create("a.o");
        target.write_all_at(&pattern(5_000, 2), 0).unwrap();
        wait_for_a_later_time(v, &v.stat("a.o"));
        let is_newer = |one: &fs::Metadata, other: &fs::Metadata| times(one).0 > times(other).0;
        assert!(is_newer(&v.stat("a.o"), &v.stat("a.c")));
        // In the wrong order.
        target.sync_all().unwrap();
        wait_for_a_later_time(v, &v.stat("a.o"));
        source.sync_all().unwrap();
        drop((source, target));
        assert!(is_newer(&v.stat("a.o"), &v.stat("a.c")));
        let below = |name: &str| fs::metadata(v.below(name)).unwrap();
        assert!(is_newer(&below("a.o"), &below("a.c")), "in SOURCE");
    });
}

#[test]
fn case_17_a_write_after_a_look_shows_a_later_time_if_it_does_natively() {
    // Writes after which the file shows the time that it showed before.
    let unseen = |file: &fs::File| {
        let shown = || times(&file.metadata().unwrap());
        let unseen = (0..200).filter(|at| {
            let before = shown();
            file.write_all_at(b"x", *at).unwrap();
            let after = shown();
            assert!(after.0 >= before.0 && after.1 >= before.1);
            after == before
        });
        unseen.count()
    };
    each(|v| {
        // Where the kernel stamps with its ticks, some rounds need another tick, here and there.
        let natively = unseen(&fs::File::create(v.bare("native")).unwrap());
        let here = unseen(&v.create("f"));
        assert!(natively > 0 || here == 0, "{here} writes were not seen");
    });
}

#[test]
fn case_17_cp_and_tar_keep_times_and_test_sees_no_newer_source() {
    each(|v| {
        let script = "
            set -e
            touch -d 2001-02-03T04:05:06.789 old
            head -c 70000 /dev/urandom > data; touch -d 2002-02-02 data
            cp -p data copied
            tar cf made.tar data old; mkdir out; tar xpf made.tar -C out
            test ! data -nt copied -a ! copied -nt data
            test ! out/data -nt data -a ! data -nt out/data
            cmp data copied; cmp data out/data
            sync data copied out/data
            test ! data -nt copied -a ! copied -nt data
            test ! out/data -nt data -a ! data -nt out/data
            stat -c '%n %y %s' data copied out/data
        ";
        let lines = shell(&v.path(""), script);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in &lines {
            assert!(
                line.contains(" 2002-02-02 00:00:00.000000000 "),
                "{lines:?}"
            );
        }
        let below = |name: &str| times(&fs::metadata(v.below(name)).unwrap()).0;
        assert_eq!([below("copied"), below("out/data")], [below("data"); 2]);
    });
}

#[test]
fn case_17_git_sees_no_change_after_the_files_it_checked_out_were_written_back() {
    each(|v| {
        let script = "
            set -e
            exec 2>&1
            export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
            git -c init.defaultBranch=m init -q repo; cd repo
            git config user.name n; git config user.email n@n
            for n in 1 2 3 4 5 6 7 8 9; do echo file $n > f$n; done
            git add .; git commit -qm one
            rm f*; git checkout -q .
            # What git remembers of each file, against what stat(2) says now and when all is written.
            git diff-files --name-only
            sync f*
            git diff-files --name-only
            git status --porcelain
            git fsck --no-progress
        ";
        assert_eq!(shell(&v.path(""), script), "");
    });
}
