//! Sizes and contents while data is dirty: cases 1 to 4 and 6.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use libc::{O_RDWR, O_TRUNC};

use crate::call::{Waiting, lseek, segments};
use crate::view::{View, all_of, each, open_at, pattern, same};

#[test]
fn case_01_what_is_written_is_seen_at_once_by_everyone_at_each_phase_of_its_flush() {
    each(|v| {
        let script = "stat -c %s f; cat f";
        let others: Vec<Waiting> = (0..3)
            .map(|_| Waiting::start(&v.path(""), script))
            .collect();
        let mut others = others.into_iter();
        let mut look = |data: &[u8]| {
            let printed = others.next().unwrap().go();
            let wanted = [format!("{}\n", data.len()).as_bytes(), data].concat();
            same("what another process sees", &printed, &wanted);
            v.shows("f", data);
        };
        let data = pattern(30_000, 1);
        let f = v.create("f");
        f.write_all_at(&data[..10_000], 0).unwrap();
        v.still_lacks("f");
        look(&data[..10_000]);
        v.still_lacks("f");
        f.sync_all().unwrap();
        v.holds("f", &data[..10_000]);
        f.write_all_at(&data[9_000..20_001], 9_000).unwrap();
        look(&data[..20_001]);
        assert_eq!(f.metadata().unwrap().len(), 20_001);
        f.write_all_at(&data[20_001..], 20_001).unwrap();
        v.holds_unless_buffered("f", &data);
        drop(f);
        v.holds_as_closed("f", &data);
        look(&data);
    });
}

#[test]
fn case_02_o_trunc_of_another_handle_empties_what_is_dirty() {
    each(|v| {
        let (old, new) = (pattern(50_000, 1), pattern(10_000, 2));
        let a = v.create("f");
        a.write_all_at(&old, 0).unwrap();
        let b = v.open("f", O_RDWR | O_TRUNC);
        assert_eq!(fs::metadata(v.below("f")).unwrap().len(), 0, "in SOURCE");
        assert_eq!(a.metadata().unwrap().len(), 0);
        assert_eq!(all_of(&a), b"");
        v.shows("f", b"");
        b.write_all_at(&new, 0).unwrap();
        same("through the older handle", &all_of(&a), &new);
        drop(b);
        v.holds_as_closed("f", &new);
        a.write_all_at(b"!", 4).unwrap();
        a.sync_all().unwrap();
        let new = [&new[..4], b"!", &new[5..]].concat();
        v.holds("f", &new);
        v.shows("f", &new);
    });
}

#[test]
fn case_03_bytes_that_were_cut_off_come_back_as_zeros() {
    each(|v| {
        let data = pattern(10_000, 3);
        let f = v.create("f");
        f.write_all_at(&data, 0).unwrap();
        f.set_len(3_000).unwrap();
        v.shows("f", &data[..3_000]);
        f.set_len(9_000).unwrap();
        let mut wanted = data[..3_000].to_vec();
        wanted.resize(9_000, 0);
        v.shows("f", &wanted);
        // Also where what was cut off had reached SOURCE, and newer data lies over the cut.
        f.sync_all().unwrap();
        v.holds("f", &wanted);
        f.write_all_at(&data[..4_000], 2_000).unwrap();
        f.set_len(2_500).unwrap();
        f.set_len(12_000).unwrap();
        wanted[2_000..2_500].copy_from_slice(&data[..500]);
        wanted.truncate(2_500);
        wanted.resize(12_000, 0);
        v.shows("f", &wanted);
        drop(f);
        v.shows("f", &wanted);
        v.holds_as_closed("f", &wanted);
    });
}

#[test]
fn case_03_bytes_that_were_cut_off_stay_away_also_while_a_flush_is_under_way() {
    const ROUNDS: usize = 40;
    each(|v| {
        let f = v.create("f");
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    f.sync_data().unwrap();
                }
            });
            let rounds = || {
                for round in 0..ROUNDS {
                    cut_and_extend(v, &f, round);
                }
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rounds));
            ended.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    });
}

fn cut_and_extend(v: &View, f: &fs::File, round: usize) {
    let (size, kept) = (100_000, round * 2_477);
    let mut wanted = pattern(size, round as u64);
    f.write_all_at(&wanted, 0).unwrap();
    f.set_len(kept as u64).unwrap();
    f.set_len(size as u64).unwrap();
    wanted[kept..].fill(0);
    v.shows("f", &wanted);
}

#[test]
fn case_04_a_write_far_past_the_end_leaves_a_hole_as_natively() {
    each(|v| {
        let bare = open_at(&v.bare("f"), O_RDWR | libc::O_CREAT);
        let f = v.create("f");
        for file in [&f, &bare] {
            file.write_all_at(&pattern(5_000, 1), 0).unwrap();
            file.write_all_at(&pattern(10, 2), (1 << 20) + 100).unwrap();
            file.write_all_at(&pattern(4_096, 3), 5 << 20).unwrap();
        }
        assert!(
            f.metadata().unwrap().blocks() > 0,
            "st_blocks of dirty data"
        );
        assert!(v.stat("f").blocks() > 0, "st_blocks of dirty data");
        same("with its holes", &all_of(&f), &all_of(&bare));
        assert_eq!(segments(&f), segments(&bare));
        // The end of the file for SEEK_END, and what is past it.
        assert_eq!(lseek(&f, 0, libc::SEEK_END), Ok((5 << 20) + 4_096));
        let past = lseek(&f, (5 << 20) + 4_096, libc::SEEK_DATA);
        assert_eq!(past, Err(nix::errno::Errno::ENXIO));
        f.sync_all().unwrap();
        v.holds("f", &all_of(&bare));
        assert_eq!(segments(&open_at(&v.below("f"), O_RDWR)), segments(&bare));
    });
}

#[test]
fn case_04_a_sparse_write_at_one_tebibyte_costs_next_to_nothing() {
    each(|v| {
        let f = v.create("f");
        f.write_all_at(b"far", 1 << 40).unwrap();
        assert_eq!(v.stat("f").size(), (1 << 40) + 3);
        let mut end = [1; 6];
        f.read_exact_at(&mut end, (1 << 40) - 3).unwrap();
        assert_eq!(&end, b"\0\0\0far");
        let blocks = f.metadata().unwrap().blocks();
        assert!((1..1_000).contains(&blocks), "{blocks} blocks while dirty");
        f.sync_all().unwrap();
        let below = fs::metadata(v.below("f")).unwrap();
        assert_eq!(below.size(), (1 << 40) + 3);
        assert!((1..1_000).contains(&below.blocks()), "{below:?}");
    });
}

/// One part of a file that one thread writes, version after version. Each byte is a version.
struct Part {
    at: u64,
    begun: AtomicU8,
    done: AtomicU8,
}

/// Not a divisor of any block.
const PART: usize = 1_300;
const PARTS: usize = 8;
const VERSIONS: u8 = 60;

impl Part {
    /// Each version in two writes that overlap.
    fn write_all_versions(&self, file: &fs::File) {
        for version in 1..=VERSIONS {
            self.begun.store(version, Ordering::SeqCst);
            let bytes = [version; PART];
            file.write_all_at(&bytes[..900], self.at).unwrap();
            file.write_all_at(&bytes[400..], self.at + 400).unwrap();
            self.done.store(version, Ordering::SeqCst);
        }
    }
}

/// Reads all parts once; no byte may be older than what was there before, or newer than what was begun.
fn read_all_parts(file: &fs::File, parts: &[Part]) {
    let before: Vec<u8> = parts
        .iter()
        .map(|p| p.done.load(Ordering::SeqCst))
        .collect();
    let mut data = vec![0; PART * PARTS];
    let got = file.read_at(&mut data, 0).unwrap();
    for (i, part) in parts.iter().enumerate() {
        let begun = part.begun.load(Ordering::SeqCst);
        let start = i * PART;
        let bytes = &data[start.min(got)..(start + PART).min(got)];
        assert!(
            before[i] == 0 || bytes.len() == PART,
            "part {i} is cut off at {got}"
        );
        let fine = bytes.iter().all(|&b| (before[i]..=begun).contains(&b));
        assert!(fine, "part {i}: not within {}..={begun}", before[i]);
    }
}

#[test]
fn case_06_reads_never_go_back_in_time_while_eight_threads_write_and_the_flusher_runs() {
    each(|v| {
        let f = v.create("f");
        let at = |i: usize| (i * PART) as u64;
        let parts: Vec<Part> = (0..PARTS)
            .map(|i| Part {
                at: at(i),
                begun: AtomicU8::new(0),
                done: AtomicU8::new(0),
            })
            .collect();
        let finished = || {
            parts
                .iter()
                .all(|p| p.done.load(Ordering::SeqCst) == VERSIONS)
        };
        thread::scope(|scope| {
            let writers: Vec<_> = parts
                .iter()
                .map(|part| scope.spawn(|| part.write_all_versions(&f)))
                .collect();
            let all_ended = || writers.iter().all(|w| w.is_finished());
            scope.spawn(|| {
                while !finished() && f.sync_data().is_ok() {
                    thread::yield_now();
                }
            });
            while !all_ended() {
                read_all_parts(&f, &parts);
            }
        });
        read_all_parts(&f, &parts);
        f.sync_all().unwrap();
        v.holds("f", &[VERSIONS; PART * PARTS]);
    });
}
