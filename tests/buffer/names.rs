//! Renames, links and names that are used again, while data is dirty: cases 14 and 23.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use iolens::event::{OpKind, Reason};
use nix::errno::Errno;

use crate::view::{View, all_of, each, each_killed, each_then, pattern, same};

fn rename_flags(from: &Path, to: &Path, flags: u32) {
    let [from, to] = [from, to].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let cwd = libc::AT_FDCWD;
    // SAFETY: both strings live.
    let renamed = unsafe { libc::renameat2(cwd, from.as_ptr(), cwd, to.as_ptr(), flags) };
    Errno::result(renamed).unwrap();
}

#[test]
fn case_14_a_renamed_dirty_file_keeps_its_data_and_lands_under_its_new_name() {
    each(|v| {
        let data = pattern(20_000, 1);
        fs::create_dir(v.path("d")).unwrap();
        let f = v.create("f");
        f.write_all_at(&data[..10_000], 0).unwrap();
        fs::rename(v.path("f"), v.path("d/g")).unwrap();
        v.shows("d/g", &data[..10_000]);
        f.write_all_at(&data[10_000..], 10_000).unwrap();
        fs::rename(v.path("d"), v.path("e")).unwrap();
        v.shows("e/g", &data);
        f.sync_all().unwrap();
        v.holds("e/g", &data);
        f.write_all_at(b"again", 0).unwrap();
        drop(f);
        let data = [b"again", &data[5..]].concat();
        v.shows("e/g", &data);
        v.holds_as_closed("e/g", &data);
    });
}

#[test]
fn case_14_a_rename_over_an_existing_file_writes_the_new_data_first() {
    let body = |v: &View| {
        let (old, new) = (pattern(30_000, 1), pattern(20_000, 2));
        v.given("target", &old);
        let held = v.open("target", libc::O_RDWR);
        held.write_all_at(b"dirty", 0).unwrap();
        let f = v.create("tmp");
        f.write_all_at(&new, 0).unwrap();
        // Half of it while the file is open, as a program does that renames first and closes later.
        fs::rename(v.path("tmp"), v.path("target")).unwrap();
        v.holds("target", &new);
        v.shows("target", &new);
        same(
            "the replaced file",
            &all_of(&held)[..10],
            &[b"dirty", &old[5..10]].concat(),
        );
        drop(f);
        let f = v.create("tmp2");
        f.write_all_at(&old, 0).unwrap();
        drop(f);
        fs::rename(v.path("tmp2"), v.path("target")).unwrap();
        v.holds("target", &old);
        v.shows("target", &old);
    };
    each_then(&[], body, |setting, trace| {
        if setting.never_ages() {
            let (ino, rename) = (
                trace.first(OpKind::Create, "tmp").ino.unwrap().0,
                trace.first(OpKind::Rename, "tmp"),
            );
            let written: Vec<_> = trace.all_writebacks().filter(|w| w.ino == ino).collect();
            assert!(!written.is_empty());
            for w in written {
                assert_eq!(w.reason, Reason::Rename, "{w:?}");
                assert_eq!(w.cause, iolens::event::Cause::Op(rename.seq), "{w:?}");
            }
        }
    });
}

#[test]
fn case_14_replace_by_rename_has_the_new_data_also_when_the_server_is_killed() {
    let replace = |v: &View| {
        fs::write(v.path("target"), "old").unwrap();
        fs::write(v.path("tmp"), "new data").unwrap();
        fs::rename(v.path("tmp"), v.path("target")).unwrap();
    };
    each_killed(replace, |v| v.holds("target", b"new data"));
}

#[test]
fn case_14_two_dirty_files_change_places() {
    each(|v| {
        let (a, b) = (v.create("a"), v.create("b"));
        a.write_all_at(&pattern(10_000, 1), 0).unwrap();
        b.write_all_at(&pattern(5_000, 2), 0).unwrap();
        rename_flags(&v.path("a"), &v.path("b"), libc::RENAME_EXCHANGE);
        v.shows("b", &pattern(10_000, 1));
        v.shows("a", &pattern(5_000, 2));
        a.write_all_at(b"one", 0).unwrap();
        b.write_all_at(b"two", 0).unwrap();
        drop((a, b));
        let (one, two) = (v.read("b"), v.read("a"));
        same("first", &one, &[b"one", &pattern(10_000, 1)[3..]].concat());
        same("second", &two, &[b"two", &pattern(5_000, 2)[3..]].concat());
        v.holds_as_closed("b", &one);
        v.holds_as_closed("a", &two);
    });
}

#[test]
fn case_23_two_names_are_one_dirty_file() {
    each(|v| {
        let mut data = pattern(10_000, 1);
        let f = v.create("f");
        f.write_all_at(&data, 0).unwrap();
        fs::hard_link(v.path("f"), v.path("g")).unwrap();
        v.shows("g", &data);
        assert_eq!(
            (v.stat("f").nlink(), v.stat("g").ino()),
            (2, v.stat("f").ino())
        );
        let g = v.open("g", libc::O_RDWR);
        g.write_all_at(b"by the other name", 5_000).unwrap();
        data[5_000..5_017].copy_from_slice(b"by the other name");
        v.shows("f", &data);
        same("through the first handle", &all_of(&f), &data);
        g.set_len(6_000).unwrap();
        data.truncate(6_000);
        fs::remove_file(v.path("f")).unwrap();
        v.shows("g", &data);
        f.sync_all().unwrap();
        v.holds("g", &data);
    });
}

#[test]
fn case_23_an_inode_number_that_is_used_again_brings_nothing_of_the_old_file() {
    each(|v| {
        for round in 0..50_u64 {
            let (kept, data) = (pattern(100, round), pattern(9_000, round));
            let f = v.create("f");
            v.shows("f", b"");
            f.write_all_at(&data, (round % 3) * 1_000).unwrap();
            if round % 2 == 0 {
                drop(f);
                fs::remove_file(v.path("f")).unwrap();
            } else {
                fs::remove_file(v.path("f")).unwrap();
                drop(f);
            }
            fs::write(v.path("short"), &kept).unwrap();
            v.shows("short", &kept);
            fs::remove_file(v.path("short")).unwrap();
            // Another type under the same name and perhaps the same number.
            fs::create_dir(v.path("f")).unwrap();
            assert!(v.stat("f").is_dir());
            fs::remove_dir(v.path("f")).unwrap();
        }
    });
}
