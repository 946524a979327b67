//! fsync, O_SYNC, O_DIRECT, and descriptors that are copied: cases 7 to 10.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use iolens::event::{OpKind, Reason};
use libc::{O_DIRECT, O_DSYNC, O_RDONLY, O_RDWR, O_SYNC, O_WRONLY};

use crate::call::{fork, pwrite_flags};
use crate::record::{sources, taken, told};
use crate::view::{View, all_of, each_then, pattern, same};

/// SOURCE has these bytes there, whatever else it has.
fn holds_at(v: &View, name: &str, data: &[u8], offset: usize) {
    let below = fs::read(v.below(name)).unwrap();
    let end = offset + data.len();
    assert!(
        below.len() >= end,
        "{name} in SOURCE ends at {}",
        below.len()
    );
    same(
        &format!("{name} in SOURCE from {offset}"),
        &below[offset..end],
        data,
    );
}

#[test]
fn case_07_a_synchronous_write_is_in_source_when_it_returns() {
    let kinds = [
        ("o_sync", O_SYNC, 0),
        ("o_dsync", O_DSYNC, 0),
        ("rwf_sync", 0, libc::RWF_SYNC),
        ("rwf_dsync", 0, libc::RWF_DSYNC),
    ];
    let body = |v: &View| {
        for (name, open_flags, call_flags) in kinds {
            let plain = v.create(name);
            let synced = v.open(name, O_RDWR | open_flags);
            let mut wanted = pattern(20_000, 1);
            plain.write_all_at(&wanted, 0).unwrap();
            let middle = pattern(1_000, 2);
            pwrite_flags(&synced, &middle, 5_500, call_flags);
            holds_at(v, name, &middle, 5_500);
            wanted[5_500..6_500].copy_from_slice(&middle);
            v.shows(name, &wanted);
            // Newer data over a part of it, older data beside it: the order stays.
            plain.write_all_at(b"newer", 6_000).unwrap();
            wanted[6_000..6_005].copy_from_slice(b"newer");
            let end = pattern(100, 3);
            pwrite_flags(&synced, &end, 30_000, call_flags);
            holds_at(v, name, &end, 30_000);
            wanted.resize(30_000, 0);
            wanted.extend(&end);
            v.shows(name, &wanted);
            plain.sync_all().unwrap();
            v.holds(name, &wanted);
        }
    };
    each_then(&[], body, |setting, trace| {
        for (name, ..) in kinds {
            let writes = trace.of(OpKind::Write, name);
            let synced = writes.iter().filter(|op| !op.flags.is_empty());
            assert_eq!(synced.clone().count(), 2, "{}", told(&writes));
            for op in synced.filter(|_| setting.buffers()) {
                let (buffered, _, through) = taken(op);
                assert_eq!(
                    (buffered, through),
                    (0, vec![(op.ret.unwrap(), Reason::OSync)])
                );
            }
        }
    });
}

#[repr(align(4096))]
struct Aligned([u8; 16_384]);

#[test]
fn case_08_direct_and_buffered_calls_see_each_other() {
    let body = |v: &View| {
        let mut wanted = pattern(16_384, 1);
        let f = v.create("f");
        let direct = v.open("f", O_RDWR | O_DIRECT);
        let mut memory = Box::new(Aligned([0; 16_384]));
        f.write_all_at(&wanted, 0).unwrap();
        assert_eq!(direct.read_at(&mut memory.0, 0).unwrap(), 16_384);
        same("read directly", &memory.0, &wanted);
        memory.0[..4_096].fill(b'd');
        assert_eq!(direct.write_at(&memory.0[..4_096], 4_096).unwrap(), 4_096);
        wanted[4_096..8_192].fill(b'd');
        holds_at(v, "f", &wanted[4_096..8_192], 4_096);
        same("after a direct write", &all_of(&f), &wanted);
        f.write_all_at(b"buffered over direct", 8_180).unwrap();
        wanted[8_180..8_200].copy_from_slice(b"buffered over direct");
        assert_eq!(direct.read_at(&mut memory.0, 0).unwrap(), 16_384);
        same("read directly again", &memory.0, &wanted);
        f.sync_all().unwrap();
        v.holds("f", &wanted);
    };
    each_then(&[], body, |setting, trace| {
        let direct_fh = trace.of(OpKind::Open, "f")[0].fh;
        let of_direct = |kind| {
            let ops = trace.of(kind, "f").into_iter();
            ops.filter(move |op| op.fh == direct_fh && op.ret != Some(0))
        };
        for op in of_direct(OpKind::Write).filter(|_| setting.buffers()) {
            assert_eq!(taken(op).2, [(4_096, Reason::ODirect)], "{}", told(op));
        }
        for op in of_direct(OpKind::Read) {
            assert_eq!(sources(op).all(), op.ret.unwrap(), "{}", told(op));
            assert_eq!(sources(op).miss, 0, "{}", told(op));
        }
        assert_eq!(of_direct(OpKind::Read).count(), 2);
    });
}

#[test]
fn case_09_any_descriptor_of_the_file_can_sync_what_is_dirty() {
    let body = |v: &View| {
        let mut data = pattern(20_000, 1);
        let writer = v.create("f");
        let (other, reader) = (v.open("f", O_WRONLY), v.open("f", O_RDONLY));
        writer.write_all_at(&data, 0).unwrap();
        other.sync_all().unwrap();
        v.holds("f", &data);
        data[3_000..3_003].fill(b'a');
        writer.write_all_at(b"aaa", 3_000).unwrap();
        other.sync_data().unwrap();
        v.holds("f", &data);
        data[13_000..13_003].fill(b'b');
        writer.write_all_at(b"bbb", 13_000).unwrap();
        reader.sync_all().unwrap();
        v.holds("f", &data);
        data.extend(b"ccc");
        writer.write_all_at(b"ccc", 20_000).unwrap();
        reader.sync_data().unwrap();
        v.holds("f", &data);
    };
    each_then(&[], body, |setting, trace| {
        let syncs = trace.of(OpKind::Fsync, "f");
        assert_eq!(
            syncs.iter().map(|op| op.datasync).collect::<Vec<_>>(),
            [false, true, false, true]
        );
        if setting.buffers() {
            assert!(
                syncs.iter().all(|op| op.dirty == Some(0)),
                "{}",
                told(&syncs)
            );
        }
    });
}

static TO_CLOSE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn close_it(_signal: i32) {
    // SAFETY: close(2) is async-signal-safe.
    unsafe { libc::close(TO_CLOSE.load(Ordering::Relaxed)) };
}

#[test]
fn case_10_each_closed_copy_of_a_descriptor_is_a_flush_and_the_last_one_a_release() {
    let body = |v: &View| {
        let data = pattern(3_000, 1);
        let f = v.create("f");
        // 1: dup and close.
        f.write_all_at(&data[..1_000], 0).unwrap();
        drop(f.try_clone().unwrap());
        v.holds_as_closed("f", &data[..1_000]);
        // 2: a child writes and exits without closing.
        let child = fork(|| f.write_at(&data[1_000..2_000], 1_000).ok() == Some(1_000));
        assert_eq!(child.wait(), 0);
        v.shows("f", &data[..2_000]);
        v.holds_as_closed("f", &data[..2_000]);
        // 3: a child executes a program, which closes.
        assert!(Command::new("true").status().unwrap().success());
        // 4: a child closes in a signal handler.
        let child = fork(|| {
            TO_CLOSE.store(f.as_raw_fd(), Ordering::Relaxed);
            // SAFETY: the handler only closes; the signal is our own.
            unsafe {
                libc::signal(libc::SIGUSR1, close_it as *const () as libc::sighandler_t);
                libc::raise(libc::SIGUSR1) == 0 && libc::fcntl(f.as_raw_fd(), libc::F_GETFD) == -1
            }
        });
        assert_eq!(child.wait(), 0);
        // 5.
        f.write_all_at(&data[2_000..], 2_000).unwrap();
        drop(f);
        v.shows("f", &data);
        v.holds_as_closed("f", &data);
    };
    each_then(&[], body, |setting, trace| {
        let fh = trace.first(OpKind::Create, "f").fh;
        let of_f = |kind| trace.of(kind, "f").into_iter().filter(|op| op.fh == fh);
        assert_eq!(of_f(OpKind::Flush).count(), 5);
        assert_eq!(of_f(OpKind::Release).count(), 1);
        if setting.buffers() && !setting.keeps() {
            assert!(of_f(OpKind::Flush).all(|op| op.dirty == Some(0)));
        }
    });
}
