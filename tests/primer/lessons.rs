//! The thirteen lessons but errors: each claim, from the trace.

use std::collections::BTreeSet;

use iolens::event::{Caller, Op, OpKind, Reason};

use crate::lesson::{Lesson, Trace};

use OpKind::{Create, Flush, Fsync, Open, Read, Write};

/// What `TextIOWrapper` asks for and keeps (Modules/_io/textio.c, `chunk_size`).
const TEXT_CHUNK: u64 = 8192;
/// Each file of the lesson on buffering: 1000 lines of 9 bytes.
const LINES: u64 = 1000;
const LINE: u64 = 9;

/// The writes that pass on `total` bytes, as many whole lines at a time as fit into `buffer`.
pub(crate) fn whole_lines(buffer: u64, total: u64) -> Vec<u64> {
    pieces(buffer / LINE * LINE, total)
}

/// `total` in pieces of `size`, and the rest.
pub(crate) fn pieces(size: u64, total: u64) -> Vec<u64> {
    let starts = (0..total).step_by(usize::try_from(size).unwrap());
    starts.map(|start| size.min(total - start)).collect()
}

/// Written whole, in one piece, and nothing else but closed.
fn assert_written_at_close(trace: &Trace, path: &str, size: u64) {
    assert_eq!(trace.acts(path), [Create, Write, Flush], "{path}");
    assert_eq!(trace.sizes(path, Write), [size]);
}

/// Whether a lookup of the file told its size, in order.
fn sizes_seen(trace: &Trace, path: &str) -> Vec<u64> {
    let lookups = trace.of(path, OpKind::Lookup);
    lookups.iter().filter_map(|op| op.file_size).collect()
}

fn has(op: &Op, flag: &str) -> bool {
    op.flags.iter().any(|found| found == flag)
}

#[test]
fn lesson_01_a_mode_is_flags_and_close_writes() {
    let lesson = Lesson::follow("1. The basics");
    let trace = lesson.trace();
    let (file, basics) = ("basics.txt", trace.on("basics.txt"));
    let acts = [
        Create, Write, Flush, Open, Write, Flush, Open, Read, Read, Flush,
    ];
    assert_eq!(trace.acts(file), acts);
    assert!(has(trace.of(file, Create)[0], "O_TRUNC"));
    let opens = trace.of(file, Open);
    assert!(has(opens[0], "O_APPEND") && has(opens[1], "O_RDONLY"));
    let writes = trace.of(file, Write);
    let placed: Vec<_> = writes.iter().map(|op| (op.offset, op.ret)).collect();
    assert_eq!(placed, [(Some(0), Some(11)), (Some(11), Some(12))]);
    assert!(
        writes
            .iter()
            .all(|op| op.syscall.as_deref() == Some("write"))
    );
    assert_eq!(trace.sizes(file, Read), [23, 0]);
    // Mode x: the name is looked up and found, and that is all.
    let asked = basics.iter().rfind(|op| op.op == OpKind::Lookup).unwrap();
    let last_close = *trace.of(file, Flush).last().unwrap();
    assert!(asked.seq > last_close.seq && asked.errno.is_none());
}

#[test]
fn lesson_02_layers_overtake_and_copies_share() {
    let lesson = Lesson::follow("2. File objects");
    let trace = lesson.trace();
    assert_eq!(trace.sizes("layers.txt", Write), [4, 8]);
    assert!(lesson.printed[0].contains("['six', 'two', 'one']"));
    let writes = trace.of("shared.txt", Write);
    let [first, copy, second] = writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!((first.fh, first.offset), (copy.fh, Some(0)));
    assert_ne!(first.fd, copy.fd);
    assert_eq!(copy.offset, first.ret, "one position");
    assert_ne!(second.fh, first.fh);
    assert_eq!(second.offset, Some(0), "a position of its own");
    assert_eq!(trace.of("shared.txt", Read)[0].seek_from, Some(38));
    // The borrowed descriptor is closed once, with the two others.
    assert_eq!(trace.of("shared.txt", Flush).len(), 3);
}

#[test]
fn lesson_03_a_thousand_lines_with_each_kind_of_buffer() {
    let lesson = Lesson::follow("3. Buffering");
    let (trace, buffer) = (lesson.trace(), lesson.python.buffer);
    let total = LINES * LINE;
    for file in ["text-default.txt", "text-1024.txt"] {
        let small = file == "text-1024.txt" || buffer < total;
        let sizes = trace.sizes(file, Write);
        assert_eq!(sizes.len(), if small { 2 } else { 1 }, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<u64>(), total);
        // With or without the line that no longer fits.
        assert!(!small || sizes[0].abs_diff(TEXT_CHUNK) < LINE, "{sizes:?}");
        assert_eq!(sizes[0] % LINE, 0);
    }
    for (file, sizes) in [
        ("text-line.txt", pieces(LINE, total)),
        ("binary-default.bin", whole_lines(buffer, total)),
        ("binary-1024.bin", whole_lines(1024, total)),
        ("binary-none.bin", pieces(LINE, total)),
        ("binary-line.bin", whole_lines(buffer, total)),
    ] {
        assert_eq!(trace.sizes(file, Write), sizes, "{file}");
    }
    for file in ["text-default.txt", "text-line.txt", "binary-1024.bin"] {
        assert!(trace.of(file, Write).iter().all(|op| op.fd == Some(3)));
        assert_eq!(trace.acts(file).last(), Some(&Flush));
        assert_eq!(trace.written_back(file), total);
    }
    assert_eq!(trace.acts("text-none.txt"), [Create, Flush]);
}

#[test]
fn lesson_04_whole_in_chunks_by_lines_and_into_one_buffer() {
    let lesson = Lesson::follow("4. Memory");
    let reads = lesson.trace().of("memory.txt", Read);
    let mut by_open: Vec<Vec<&Op>> = Vec::new();
    for read in reads {
        match by_open.last_mut() {
            Some(open) if open[0].fh == read.fh => open.push(read),
            _ => by_open.push(vec![read]),
        }
    }
    let sizes: Vec<Vec<u64>> = by_open
        .iter()
        .map(|open| open.iter().map(|op| op.ret.unwrap()).collect())
        .collect();
    let (file, chunk) = (512 << 10, 64 << 10);
    assert_eq!(sizes[0], [file, 0]);
    assert_eq!(by_open[0][0].size, Some(file + 1));
    if lesson.python.buffer < chunk {
        assert_eq!(sizes[1][..8], pieces(chunk, file));
    }
    assert_eq!(sizes[2][..64], pieces(TEXT_CHUNK, file));
    assert_eq!(sizes[3], [pieces(chunk, file), vec![0]].concat());
    let peaks = peaks(&lesson.printed[0]);
    let [whole, chunks, lines, into] = peaks[..] else {
        panic!("{peaks:?}")
    };
    assert!(whole >= 512 && chunks < whole && into < chunks, "{peaks:?}");
    assert!(lines < chunks || lesson.python.buffer > chunk, "{peaks:?}");
}

/// KiB of memory, one for each line of the fourth program.
fn peaks(printed: &str) -> Vec<u64> {
    let lines = printed.lines().filter(|line| line.contains("KiB"));
    lines
        .map(|line| {
            line.split_whitespace()
                .rev()
                .nth(3)
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

#[test]
fn lesson_05_a_seek_shows_in_where_the_next_call_begins() {
    let lesson = Lesson::follow("5. The file position");
    let (trace, buffer) = (lesson.trace(), lesson.python.buffer);
    let file = 20_000;
    let full = buffer.min(file);
    let opens = trace.of("position.bin", Open);
    let of = |fh: usize| -> Vec<(OpKind, Option<u64>, Option<u64>)> {
        let ops = trace.on("position.bin").into_iter();
        ops.filter(|op| op.fh == opens[fh].fh && [Read, Write].contains(&op.op))
            .map(|op| (op.op, op.offset, op.seek_from))
            .collect()
    };
    let first = (Read, Some(0), None);
    if full < 15_000 {
        assert_eq!(of(0), [first, (Read, Some(15_000), Some(full))]);
    } else {
        assert_eq!(of(0), [first]);
    }
    assert_eq!(of(1), [first, (Write, Some(10), Some(full))]);
    assert_eq!(trace.of("position.bin", Write)[1].ret, Some(9));
    let appended = *of(2).last().unwrap();
    assert_eq!((appended.0, appended.1), (Write, Some(file)));
    assert!(has(opens[2], "O_APPEND") && has(opens[2], "O_RDWR"));
    let hole = trace.of("hole.bin", Write)[0];
    assert_eq!((hole.offset, hole.ret), (Some(100_000), Some(1)));
    assert_eq!(hole.seek_from, Some(0));
    assert_eq!(trace.written_back("hole.bin"), 1);
}

#[test]
fn lesson_06_each_step_asks_for_its_own() {
    let lesson = Lesson::follow("6. Program flow");
    let trace = lesson.trace();
    assert_eq!(
        trace.acts("flow.txt"),
        [Create, Write, Flush, Open, Read, Read, Flush]
    );
    assert_eq!(trace.sizes("flow.txt", Read), [1200, 0]);
    let asked: Vec<_> = trace
        .of("flow.txt", OpKind::Lookup)
        .iter()
        .map(|op| op.syscall.as_deref().unwrap_or("?").to_owned())
        .collect();
    assert_eq!(asked[1..], ["chmod", "access", "openat"], "{asked:?}");
    let last = trace.of("flow.txt", Flush)[1];
    let later = trace
        .on("flow.txt")
        .into_iter()
        .filter(|op| op.seq > last.seq);
    assert!(later.map(|op| op.op).all(|kind| kind == OpKind::Release));
}

#[test]
fn lesson_07_what_is_written_flushed_synced_and_closed() {
    let lesson = Lesson::follow("7. RAM and disk");
    let trace = lesson.trace();
    assert_eq!(
        trace.acts("journey.bin"),
        [Create, Write, Fsync, Write, Flush]
    );
    assert_eq!(sizes_seen(trace, "journey.bin"), [0, 4000, 4000, 8000]);
    let flushed = trace.of("journey.bin", Write)[0];
    assert_eq!(flushed.dirty, Some(4000), "in no directory yet");
    assert_eq!(trace.of("journey.bin", Fsync)[0].dirty, Some(0));
    let of = |w: &&iolens::event::Writeback| w.path.path.as_deref() == Some("journey.bin");
    let why: Vec<_> = trace
        .writebacks
        .iter()
        .filter(of)
        .map(|w| w.reason)
        .collect();
    assert_eq!(why, [Reason::Fsync, Reason::Close]);
    assert_eq!(trace.acts("lost.bin"), [Create, Flush]);
    assert_eq!(trace.acts("kept.bin"), [Create, Write, Flush]);
    assert_eq!(sizes_seen(trace, "lost.bin"), [0]);
    assert_eq!(sizes_seen(trace, "kept.bin"), [4000]);
    for file in ["lost.bin", "kept.bin"] {
        let closed = trace.of(file, Flush)[0];
        let call = closed.syscall.as_deref();
        assert!(call.is_none_or(|call| call == "exit_group"), "{closed:?}");
        assert_ne!(closed.pid, flushed.pid, "another process");
    }
}

#[test]
fn lesson_08_with_closes_before_the_handler_and_the_last_one_first() {
    let lesson = Lesson::follow("8. Context managers");
    let trace = lesson.trace();
    for (file, size) in [("plain.txt", 31), ("broken.txt", 25), ("part1.txt", 5)] {
        assert_written_at_close(trace, file, size);
    }
    // The handler sees all of it.
    assert_eq!(sizes_seen(trace, "broken.txt"), [25]);
    let handler = *trace.of("broken.txt", OpKind::Lookup).last().unwrap();
    assert!(handler.seq > trace.of("broken.txt", Flush)[0].seq);
    for order in [
        &["inner.txt", "outer.txt"][..],
        &["part2.txt", "part1.txt", "part0.txt"],
    ] {
        let closed: Vec<_> = order
            .iter()
            .map(|file| trace.of(file, Flush)[0].seq)
            .collect();
        assert!(closed.is_sorted(), "{order:?}");
        let opened: Vec<_> = order
            .iter()
            .map(|file| trace.of(file, Create)[0].seq)
            .collect();
        assert!(opened.iter().rev().is_sorted(), "{order:?}");
    }
}

#[test]
fn lesson_09_threads_wait_in_place_of_the_loop() {
    let lesson = Lesson::follow("9. Asynchronous I/O");
    let trace = lesson.trace();
    let mut threads = BTreeSet::new();
    for number in 0..4 {
        let file = format!("own{number}.txt");
        assert_written_at_close(trace, &file, 25 * 17);
        let write = trace.of(&file, Write)[0];
        assert_ne!(write.tid.unwrap().0, write.pid.unwrap().0, "the loop's");
        threads.insert(write.tid.unwrap().0);
    }
    assert_eq!(threads.len(), 4);
    let shared = trace.of("shared.log", Write);
    assert!(
        shared
            .iter()
            .all(|op| has(op, "O_APPEND") && op.ret == Some(17))
    );
    let mut offsets: Vec<_> = shared.iter().map(|op| op.offset.unwrap()).collect();
    offsets.sort_unstable();
    let wanted: Vec<u64> = (0..100).map(|line| line * 17).collect();
    assert_eq!(offsets, wanted, "each behind the one before");
    let wrote: BTreeSet<_> = shared.iter().map(|op| op.tid.unwrap().0).collect();
    assert_eq!(wrote, threads);
}

#[test]
fn lesson_10_copies_children_and_replacing_a_file() {
    let lesson = Lesson::follow("10. The operating system");
    let trace = lesson.trace();
    let copied = trace.of("copy.txt", Write);
    if let [copied] = copied[..] {
        assert_eq!(copied.syscall.as_deref(), Some("sendfile"));
        assert_eq!(copied.ret, Some(13_000));
    } else {
        assert!(copied.is_empty(), "{copied:?}");
        let copy = |op: &&Op| op.path_out.as_deref() == Some("copy.txt");
        assert!(trace.ops.iter().any(|op| copy(&op)), "copied by the kernel");
    }
    let writes = trace.of("child.txt", Write);
    let [before, child, after] = writes[..] else {
        panic!("{writes:?}")
    };
    assert_eq!((before.fh, child.fh), (child.fh, after.fh), "one open file");
    assert_eq!((before.pid, before.fd), (after.pid, after.fd));
    assert_ne!(before.pid, child.pid);
    assert_eq!(child.fd, Some(1));
    assert_eq!((child.offset, after.offset), (before.ret, child.pos));
    let kinds = [Fsync, OpKind::Rename, OpKind::Fsyncdir];
    let durable: Vec<&Op> = trace
        .ops
        .iter()
        .filter(|op| kinds.contains(&op.op))
        .collect();
    let order: Vec<OpKind> = durable.iter().map(|op| op.op).collect();
    assert_eq!(order, kinds);
    assert_eq!(durable[0].path, durable[1].path);
    assert_eq!(durable[1].to.as_deref(), Some("page.txt"));
}

#[test]
fn lesson_12_pages_move_at_faults_and_at_flush() {
    let lesson = Lesson::follow("12. Memory mapping");
    let trace = lesson.trace();
    let mapped: Vec<&Op> = trace
        .on("mapped.bin")
        .into_iter()
        .filter(|op| op.mapped)
        .collect();
    let (reads, writes): (Vec<&Op>, Vec<&Op>) = mapped.iter().partition(|op| op.op == Read);
    assert_eq!(reads[0].offset, Some(0), "{reads:?}");
    for read in &reads {
        assert_eq!(read.syscall.as_deref(), Some("page_fault"));
        assert_eq!((read.fd, read.pos), (None, None));
    }
    // SAFETY: asks for a constant.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    let written: Vec<_> = writes.iter().map(|op| (op.offset, op.ret)).collect();
    let third = (Some(2 * page), Some(page));
    let fourth = (Some(3 * page), Some(page));
    assert_eq!(written, [third, fourth]);
    assert!(writes.iter().all(|op| op.caller == Caller::Opener));
    let synced = trace.of("mapped.bin", Fsync);
    assert_eq!(synced.len(), 1);
    assert_eq!(synced[0].syscall.as_deref(), Some("msync"));
    assert!(writes[0].seq < synced[0].seq && synced[0].seq < writes[1].seq);
    assert_eq!(trace.written_back("mapped.bin"), 4 * page + 2 * page);
}

#[test]
fn lesson_13_what_nobody_closes() {
    let lesson = Lesson::follow("13. Garbage collection");
    let trace = lesson.trace();
    assert_written_at_close(trace, "dropped.txt", 8);
    assert_eq!(sizes_seen(trace, "dropped.txt"), [8]);
    // Open until it is collected, and nothing written until then.
    let before = trace.of("cycle.txt", OpKind::Lookup)[1];
    let closed = trace.of("cycle.txt", Flush)[0];
    assert_eq!(before.file_size, Some(0));
    assert!(closed.seq > before.seq);
    assert_eq!(trace.acts("cycle.txt"), [Create, Flush], "it is lost");
    assert_written_at_close(trace, "bare.txt", 5);
    let end = trace.of("bare.txt", Flush)[0].syscall.as_deref();
    assert!(end.is_none_or(|call| call == "exit_group"), "{end:?}");
    assert_written_at_close(trace, "left.txt", 5);
    assert_eq!(sizes_seen(trace, "left.txt"), [0], "not before the end");
    assert!(lesson.printed[0].matches("ResourceWarning").count() == 2);
}
