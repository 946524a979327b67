//! More data than the buffer may hold: case 24, waits and evictions.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use iolens::event::{CacheDid, Cause, OpKind, OwnCause, Reason};

use crate::process;
use crate::record::{sources, told};
use crate::view::{View, alone, on, pattern, same};

const TINY: &[&str] = &[
    "--policy",
    "write-back",
    "--cache-size",
    "1MiB",
    "--dirty-limit",
    "64KiB",
    "--dirty-age",
    "never",
    "--on-close",
    "keep",
    "--threads",
    "2",
];

const WRITERS: usize = 8;
const WRITE: usize = 32 << 10;
const WRITES: usize = 40;

/// No answer may take so long, however busy the machine: what hangs takes for ever.
const RESPONSIVE: Duration = Duration::from_secs(5);

/// Looks at files that nobody writes, until the writers are done; the longest look.
fn look_at_others(v: &View, mut busy: impl FnMut() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    while busy() {
        let start = Instant::now();
        v.shows("other", b"not written");
        let f = v.open("other", libc::O_RDWR);
        drop(f);
        longest = longest.max(start.elapsed());
    }
    longest
}

fn write_all(file: &File, seed: usize) {
    let data = pattern(WRITE * WRITES, seed as u64);
    for (i, piece) in data.chunks(WRITE).enumerate() {
        file.write_all_at(piece, (i * WRITE) as u64).unwrap();
    }
}

#[test]
fn case_24_many_writers_wait_for_each_other_and_nobody_else_does() {
    let trace = on(TINY, |v| {
        v.given("other", b"not written");
        let files: Vec<File> = (0..WRITERS).map(|i| v.create(&format!("f{i}"))).collect();
        let longest = thread::scope(|scope| {
            let writers: Vec<_> = files
                .iter()
                .enumerate()
                .map(|(i, file)| scope.spawn(move || write_all(file, i)))
                .collect();
            look_at_others(v, || writers.iter().any(|w| !w.is_finished()))
        });
        assert!(longest < RESPONSIVE, "another file took {longest:?}");
        for i in 0..WRITERS {
            v.shows(&format!("f{i}"), &pattern(WRITE * WRITES, i as u64));
        }
    });
    // The limit, and one request for each thread.
    let most = (64 << 10) + 2 * WRITE as u64;
    let dirtiest = trace.ops().filter_map(|op| op.dirty).max();
    assert!(
        dirtiest.unwrap() <= most,
        "{dirtiest:?} dirty bytes of one file"
    );
    for op in trace.ops().filter(|op| waited(op).is_some()) {
        assert_eq!(op.op, OpKind::Write, "{}", told(op));
        assert!(waited(op).unwrap() <= op.dur_ns.0, "{}", told(op));
    }
}

fn waited(op: &iolens::event::Op) -> Option<u64> {
    op.cache.iter().find_map(|did| match *did {
        CacheDid::Wait {
            ns,
            reason: Reason::DirtyLimit,
        } => Some(ns),
        _ => None,
    })
}

#[test]
fn a_writer_beyond_the_limit_waits_and_its_data_is_written_for_that() {
    let trace = on(TINY, |v| {
        let f = v.create("f");
        let data = pattern(256 << 10, 1);
        (0..64_u64).for_each(|i| f.write_all_at(&data, i << 18).unwrap());
    });
    let writes = trace.of(OpKind::Write, "f");
    let waits: Vec<u64> = writes.iter().filter_map(|op| waited(op)).collect();
    assert!(
        !waits.is_empty() && waits.iter().all(|&ns| ns > 0),
        "{waits:?}"
    );
    let written = trace.writebacks("f");
    let for_limit = |reason| matches!(reason, Reason::DirtyLimit | Reason::Memory);
    let early: u64 = written
        .iter()
        .filter(|w| for_limit(w.reason))
        .map(|w| {
            let fine = matches!(w.cause, Cause::Op(_) | Cause::Own(OwnCause::Memory));
            assert!(fine, "{w:?}");
            w.ret.unwrap()
        })
        .sum();
    assert!(
        early >= 15 << 20,
        "{early} bytes were written for the limit"
    );
    let all: u64 = written.iter().map(|w| w.ret.unwrap()).sum();
    assert_eq!(all, 16 << 20);
}

/// A dirty file keeps a descriptor of the server.
#[test]
fn more_dirty_files_than_descriptors_lose_nothing() {
    const SCRIPT: &str = r#"
        set -e
        ulimit -n 100
        "$IOLENS" run --dirty-age never --on-close keep -- sh -ec '
            for n in $(seq 500); do echo "this is $n" > f$n; done
            for n in $(seq 500); do echo "this is $n" | cmp - f$n; done'
        "$IOLENS" audit > /dev/null
        for n in $(seq 500); do echo "this is $n" | cmp - f$n; done
    "#;
    let _alone = alone();
    let scratch = process::Scratch::new();
    let outcome = scratch.as_user(&["--reuid=0"], SCRIPT);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn scattered_bytes_wait_for_memory_and_are_never_written_past_the_buffer() {
    let args: Vec<&str> = TINY
        .iter()
        .map(|arg| if *arg == "64KiB" { "512KiB" } else { arg })
        .collect();
    let trace = on(&args, |v| {
        let f = v.create("f");
        for n in 0..2000 {
            f.write_all_at(b"x", n * 4096).unwrap();
        }
        assert_eq!(f.metadata().unwrap().len(), 1999 * 4096 + 1);
    });
    let writes = trace.ops().filter(|op| op.op == OpKind::Write);
    for op in writes {
        let into = |did: &CacheDid| matches!(did, CacheDid::Buffered { size: 1, .. });
        assert!(op.cache.iter().any(into), "{}", told(op));
    }
    let memory = trace
        .writebacks("f")
        .into_iter()
        .filter(|w| w.reason == Reason::Memory);
    assert!(memory.count() > 0);
}

#[test]
fn a_file_larger_than_the_cache_pushes_blocks_out_and_says_so() {
    let args = &["--policy", "write-back", "--cache-size", "1MiB"];
    let trace = on(args, |v| {
        let data = pattern(4 << 20, 1);
        v.given("f", &data);
        let f = v.open("f", libc::O_RDONLY);
        (0..2).for_each(|_| scan(&f, &data));
    });
    let reads = trace.of(OpKind::Read, "f");
    let filled: u64 = reads.iter().map(|op| filled(op)).sum();
    assert!(reads.iter().all(|op| sources(op).all() == op.ret.unwrap()));
    let evicted: u64 = trace.evictions().iter().map(|e| e.blocks).sum();
    let dropped = evicted * trace.block_size();
    // What came in and did not stay within 1 MiB must have gone out.
    assert!(
        filled > 0 && dropped + (1 << 20) >= filled,
        "{filled} in, {dropped} out"
    );
    let wrong: Vec<_> = trace
        .evictions()
        .into_iter()
        .filter(|e| e.blocks == 0 || e.ino != trace.ino("f"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(trace.evictions().iter().any(|e| e.reason == Reason::Memory));
}

/// Reads a file from its beginning to its end as programs do.
fn scan(file: &File, data: &[u8]) {
    let mut piece = vec![0; 64 << 10];
    for (i, wanted) in data.chunks(piece.len()).enumerate() {
        file.read_exact_at(&mut piece, (i << 16) as u64).unwrap();
        same("a scanned piece", &piece, wanted);
    }
}

/// Bytes that an operation brought into the buffer.
fn filled(op: &iolens::event::Op) -> u64 {
    let ahead = op.cache.iter().map(|did| match *did {
        CacheDid::Readahead { size } => size,
        _ => 0,
    });
    sources(op).miss + ahead.sum::<u64>()
}

#[test]
fn a_scan_larger_than_the_cache_leaves_what_is_read_again_and_again() {
    let args = &["--policy", "write-back", "--cache-size", "1MiB"];
    let trace = on(args, |v| {
        v.given("hot", &pattern(64 << 10, 1));
        v.given("scan", &pattern(8 << 20, 2));
        let hot = v.open("hot", libc::O_RDONLY);
        let mut piece = vec![0; 64 << 10];
        for _ in 0..8 {
            hot.read_exact_at(&mut piece, 0).unwrap();
        }
        scan(&v.open("scan", libc::O_RDONLY), &pattern(8 << 20, 2));
        hot.read_exact_at(&mut piece, 0).unwrap();
    });
    let last = *trace.of(OpKind::Read, "hot").last().unwrap();
    assert_eq!(sources(last).hit, last.ret.unwrap(), "{}", told(last));
}
