//! Read-ahead by a thread of its own, while the reader and others go on.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::races::{Hooked, hooked, until};
use super::*;
use crate::backing::{Call, Faulty, When};
use crate::sys::SyncKind;

const MEBIBYTE: usize = 1 << 20;

/// Room for windows of a mebibyte.
fn large() -> Options {
    Options {
        cache_bytes: 32 << 20,
        ..options()
    }
}

/// Contents that differ everywhere.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 4096) as u8).collect()
}

fn fill(memory: &Memory, data: &[u8]) {
    let put = memory.write_at(&[std::io::IoSlice::new(data)], 0, SyncKind::None);
    assert_eq!(put.error, None);
}

/// Over a file that was filled behind the buffer's back.
fn over(backing: Arc<dyn Backing>) -> Bench {
    let bench = Bench::new(large(), backing);
    bench
        .file
        .attributes(&mut Did::new(), || bench.backing.stat())
        .unwrap();
    bench
}

fn sum(did: &[CacheDid], of: fn(&CacheDid) -> u64) -> u64 {
    did.iter().map(of).sum()
}

fn fetched(did: &CacheDid) -> u64 {
    match did {
        CacheDid::Miss { size } | CacheDid::Readahead { size } => *size,
        _ => 0,
    }
}

fn missed(did: &CacheDid) -> u64 {
    match did {
        CacheDid::Miss { size } => *size,
        _ => 0,
    }
}

#[test]
fn a_stream_is_fetched_once_and_after_its_beginning_nothing_of_it_is_missed() {
    let wanted = data(20 * MEBIBYTE + 1234);
    for size in [4096, 10_000, 64 << 10, MEBIBYTE, MEBIBYTE + 4096] {
        let backing = Arc::new(Counted::new(Memory::new()));
        fill(backing.inner(), &wanted);
        let bench = over(backing.clone());
        let flusher = Flusher::start(&bench.buffers).unwrap();
        let mut all = Did::new();
        for at in (0..wanted.len()).step_by(size) {
            let (read, did) = bench.read(at as u64, size);
            let end = (at + size).min(wanted.len());
            assert!(read == wanted[at..end], "at {at} of {size}");
            if at > 4 * MEBIBYTE && end < wanted.len() {
                assert_eq!(sum(&did, missed), 0, "at {at} of {size}");
            }
            all.extend(did);
            // Who is faster than the thread fetches for itself.
            until("what was fetched ahead", || {
                bench.file.lock().coming.is_empty()
            });
        }
        drop(flusher);
        bench.check();
        let read = backing.counts().read.bytes;
        let blocks = wanted.len().next_multiple_of(BLOCK_SIZE) as u64;
        assert!((wanted.len() as u64..=blocks).contains(&read), "{read}");
        // What is told of fetching is what was fetched, but for the rest of blocks that the first reads end within.
        let told = sum(&all, fetched);
        assert!(
            told <= blocks && told >= read - 32_768,
            "{told} of {read} in reads of {size}"
        );
    }
}

/// A stream whose read-ahead is stopped each time it has read. What is dropped first lets it go on, also when a test fails.
struct Held {
    /// Tells that it has read.
    came: Receiver<()>,
    go: Option<Sender<()>>,
    flusher: Option<Flusher>,
    backing: Arc<Hooked>,
    bench: Arc<Bench>,
}

fn held() -> Held {
    let (backing, _) = hooked(large());
    let (told, came) = channel();
    let (go, gone) = channel();
    *lock(&backing.after_read) = Some(Box::new(move || {
        if std::thread::current().name() == Some("iolens-ahead") {
            // Who has heard enough has gone.
            let _ = told.send(());
            let _ = gone.recv();
        }
    }));
    fill(&backing.inner, &data(8 * MEBIBYTE));
    let bench = Arc::new(over(backing.clone()));
    Held {
        came,
        go: Some(go),
        flusher: Some(Flusher::start(&bench.buffers).unwrap()),
        backing,
        bench,
    }
}

#[test]
fn who_needs_what_is_under_way_waits_for_it_and_finds_what_was_written_meanwhile() {
    let mut held = held();
    let bench = Arc::clone(&held.bench);
    let mut wanted = data(8 * MEBIBYTE);
    bench.read(0, MEBIBYTE);
    // This one begins the third mebibyte.
    bench.read(MEBIBYTE as u64, MEBIBYTE);
    held.came.recv().unwrap();
    bench.write(Place::At(2 * MEBIBYTE as u64 + 5000), b"newer");
    wanted[2 * MEBIBYTE + 5000..][..5].copy_from_slice(b"newer");
    // What is here needs no waiting, wherever it is.
    let (newer, _) = bench.read(2 * MEBIBYTE as u64 + 5000, 5);
    assert_eq!(newer, b"newer");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| bench.read(2 * MEBIBYTE as u64, MEBIBYTE));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reader.is_finished(), "it was not there");
        held.go = None;
        let (read, did) = reader.join().unwrap();
        assert!(read == wanted[2 * MEBIBYTE..3 * MEBIBYTE]);
        assert_eq!(sum(&did, missed), 0);
    });
    held.flusher = None;
    bench.write_back(ByteRange::ALL).unwrap();
    bench.check();
}

#[test]
fn what_was_cut_off_meanwhile_does_not_come_back() {
    let mut held = held();
    let (bench, backing) = (Arc::clone(&held.bench), Arc::clone(&held.backing));
    bench.read(0, MEBIBYTE);
    bench.read(MEBIBYTE as u64, MEBIBYTE);
    held.came.recv().unwrap();
    bench.truncate(2 * MEBIBYTE as u64 + 10);
    bench.truncate(4 * MEBIBYTE as u64);
    held.go = None;
    held.flusher = None;
    let mut wanted = data(8 * MEBIBYTE);
    wanted.truncate(2 * MEBIBYTE + 10);
    wanted.resize(4 * MEBIBYTE, 0);
    assert!(bench.contents() == wanted);
    assert!(backing.inner.contents() == wanted);
    bench.check();
}

#[test]
fn nobody_waits_for_what_is_not_fetched_any_more() {
    let mut held = held();
    let bench = Arc::clone(&held.bench);
    // One is under way, and one waits its turn.
    let other = Mutex::new(Stream::default());
    let read = |stream: &Mutex<Stream>, at: usize| {
        let mut out = vec![0; MEBIBYTE];
        let at = at as u64;
        let (file, source) = (&bench.file, &bench.backing);
        file.read(&mut Did::new(), source, stream, at, &mut out)
            .unwrap();
        out
    };
    read(&bench.stream, 0);
    read(&bench.stream, MEBIBYTE);
    held.came.recv().unwrap();
    // The second reader jumps to where the first has not been, and goes on there.
    read(&other, 0);
    read(&other, MEBIBYTE);
    read(&other, 4 * MEBIBYTE);
    read(&other, 5 * MEBIBYTE);
    std::thread::scope(|scope| {
        let flusher = held.flusher.take();
        let stopped = scope.spawn(move || drop(flusher));
        until("the end of read-ahead", || !bench.buffers.prefetches());
        held.go = None;
        stopped.join().unwrap();
        let wanted = data(8 * MEBIBYTE);
        assert!(read(&other, 6 * MEBIBYTE) == wanted[6 * MEBIBYTE..7 * MEBIBYTE]);
        assert!(read(&bench.stream, 2 * MEBIBYTE) == wanted[2 * MEBIBYTE..3 * MEBIBYTE]);
    });
    assert_eq!(bench.file.lock().coming, []);
    bench.check();
}

#[test]
fn nobody_waits_for_what_nobody_has_begun_to_fetch() {
    let mut held = held();
    let bench = Arc::clone(&held.bench);
    bench.read(0, MEBIBYTE);
    bench.read(MEBIBYTE as u64, MEBIBYTE);
    // The thread is stuck with the third mebibyte, and the eighth waits its turn.
    held.came.recv().unwrap();
    let other = Mutex::new(Stream::default());
    let read = |at: usize| {
        let mut out = vec![0; MEBIBYTE];
        let (file, source, mut did) = (&bench.file, &bench.backing, Did::new());
        let at = at as u64;
        file.read(&mut did, source, &other, at, &mut out).unwrap();
        (out, did)
    };
    for at in [4, 5, 6].map(|at| at * MEBIBYTE) {
        read(at);
    }
    assert_eq!(bench.file.lock().coming.len(), 2);
    let (out, did) = read(7 * MEBIBYTE);
    assert!(out == data(8 * MEBIBYTE)[7 * MEBIBYTE..]);
    assert_eq!(sum(&did, missed), MEBIBYTE as u64);
    held.go = None;
    held.flusher = None;
    bench.check();
}

#[test]
fn what_was_to_be_fetched_ahead_and_is_not_is_told_once() {
    let mut held = held();
    let bench = Arc::clone(&held.bench);
    bench.read(0, MEBIBYTE);
    bench.read(MEBIBYTE as u64, MEBIBYTE);
    // The thread is stuck with the third mebibyte: who comes to what waits for it calls that off.
    held.came.recv().unwrap();
    let stream = |from: usize, end: usize, piece: usize| {
        let (stream, mut all) = (Mutex::new(Stream::default()), Did::new());
        let mut out = vec![0; piece];
        for at in (from..end).step_by(piece) {
            let (file, source) = (&bench.file, &bench.backing);
            let read = file.read(&mut all, source, &stream, at as u64, &mut out);
            assert_eq!(read, Ok(piece));
        }
        all
    };
    let ahead = |did: &CacheDid| match did {
        CacheDid::Readahead { size } => *size,
        _ => 0,
    };
    let in_vain = || bench.file.lock().told_in_vain;
    let promised = sum(&stream(4 * MEBIBYTE, 8 * MEBIBYTE, MEBIBYTE), ahead);
    let before = in_vain();
    assert!((1..=promised).contains(&before), "{before} of {promised}");
    // The third mebibyte comes with the first block of the fourth.
    let piece = 17 * BLOCK_SIZE;
    let at = 3 * MEBIBYTE + BLOCK_SIZE;
    let told = sum(&stream(at, at + 3 * piece, piece), ahead);
    assert_eq!(told, 0);
    assert!((1..before).contains(&in_vain()), "{before}");
    held.go = None;
    held.flusher = None;
    bench.check();
}

#[test]
fn a_read_ahead_that_fails_is_told_to_who_reads_there() {
    let backing = Arc::new(Faulty::new(Memory::new()));
    fill(backing.inner(), &data(4 * MEBIBYTE));
    let bench = over(backing.clone());
    let flusher = Flusher::start(&bench.buffers).unwrap();
    bench.read(0, MEBIBYTE);
    backing.fail(Call::Read, When::Always, Errno::EIO);
    let (read, did) = bench.read(MEBIBYTE as u64, MEBIBYTE);
    assert_eq!((read.len(), sum(&did, missed)), (MEBIBYTE, 0));
    let mut out = vec![0; MEBIBYTE];
    let at = 2 * MEBIBYTE as u64;
    let (file, source) = (&bench.file, &bench.backing);
    let mut read = || file.read(&mut Did::new(), source, &bench.stream, at, &mut out);
    assert_eq!(read(), Err(Errno::EIO));
    backing.heal();
    assert_eq!(read(), Ok(MEBIBYTE));
    assert!(out == data(4 * MEBIBYTE)[2 * MEBIBYTE..3 * MEBIBYTE]);
    drop(flusher);
    bench.check();
}

#[test]
fn who_gives_up_does_not_wait_for_a_read_ahead() {
    let mut held = held();
    let bench = Arc::clone(&held.bench);
    bench.read(0, MEBIBYTE);
    bench.read(MEBIBYTE as u64, MEBIBYTE);
    held.came.recv().unwrap();
    let abandon = std::sync::atomic::AtomicBool::new(false);
    let flusher = held.flusher.take().unwrap();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| flusher.stop(&abandon));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!stopping.is_finished(), "what is under way may end soon");
        abandon.store(true, Ordering::SeqCst);
        stopping.join().unwrap();
    });
    held.go = None;
    until("the end of what was under way", || {
        bench.file.lock().coming.is_empty()
    });
    bench.check();
}
