//! Writebacks that fail.

use super::*;
use crate::backing::{Call, Faulty, When};

type Broken = Arc<Faulty<Memory>>;

fn broken() -> (Broken, Bench) {
    let backing = Arc::new(Faulty::new(Memory::new()));
    let bench = Bench::new(options(), backing.clone());
    (backing, bench)
}

#[test]
fn data_that_could_not_be_written_stays_readable_and_is_written_when_it_can_be() {
    let (backing, bench) = broken();
    bench.write(Place::At(0), &[1; 9_000]);
    backing.fail(Call::Write, When::Always, Errno::ENOSPC);
    assert_eq!(bench.write_back(ByteRange::ALL), Err(Errno::ENOSPC));
    assert_eq!(bench.contents(), [1; 9_000]);
    assert_eq!(bench.buffers.dirty_bytes(), 9_000);
    backing.heal();
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(backing.inner().contents(), [1; 9_000]);
    bench.check();
}

#[test]
fn each_open_file_is_told_once_of_a_failure_and_so_is_who_opens_it_before_anybody_was() {
    let (backing, bench) = broken();
    let early = AtomicU64::new(bench.file.errors_told());
    bench.write(Place::At(0), &[1; 10]);
    backing.fail(Call::Write, When::Nth(1), Errno::EIO);
    assert_eq!(bench.write_back(ByteRange::ALL), Err(Errno::EIO));
    let late = AtomicU64::new(bench.file.errors_told());
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(bench.file.news(&early), Some(Errno::EIO));
    assert_eq!(bench.file.news(&early), None);
    assert_eq!(bench.file.news(&late), Some(Errno::EIO));
    assert_eq!(bench.file.news(&late), None);
    let later = AtomicU64::new(bench.file.errors_told());
    assert_eq!(bench.file.news(&later), None, "others were told");
}

#[test]
fn a_write_cut_short_is_told_as_what_was_written_and_what_was_not() {
    let (backing, bench) = broken();
    bench.write(Place::At(0), &[1; 10_000]);
    backing.cut_writes(When::Nth(1), 6_000, Errno::EDQUOT);
    assert_eq!(bench.write_back(ByteRange::ALL), Err(Errno::EDQUOT));
    let told: Vec<_> = bench
        .memo
        .take()
        .into_iter()
        .map(|told| match told {
            Told::Wrote { range, error, .. } => (range.start, range.end, error),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [(0, 6_000, None), (6_000, 10_000, Some(Errno::EDQUOT))]
    );
    assert_eq!(bench.buffers.dirty_bytes(), 4_000);
    assert_eq!(bench.contents(), [1; 10_000]);
    bench.check();
}

#[test]
fn nobody_waits_for_a_disk_that_takes_nothing() {
    let (backing, bench) = broken();
    backing.fail(Call::Write, When::Always, Errno::ENOSPC);
    let piece = vec![3; 1 << 20];
    for n in 0..3 {
        bench.write(Place::At(n << 20), &piece);
    }
    assert!(bench.buffers.gate().closed().is_some());
    let woken = Arc::new(AtomicU64::new(0));
    let counter = woken.clone();
    bench.buffers.gate().wait(
        crate::types::Tid(7),
        Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }),
    );
    assert_eq!(woken.load(Ordering::SeqCst), 0);
    bench.buffers.flush();
    assert_eq!(
        woken.load(Ordering::SeqCst),
        1,
        "let go, for it cannot be helped"
    );
    // The next write is not buffered, so that its own answer can be the error.
    let (by, mut did) = (bench.by(), Did::new());
    let wrote = bench
        .file
        .write(&by, &mut did, &bench.backing, Place::At(0), b"x");
    assert_eq!(wrote, Ok(None));
    backing.heal();
    // The pause after the failure is over.
    bench.memo.clock.fetch_add(10_000_000_000, Ordering::SeqCst);
    bench.buffers.flush();
    assert!(bench.buffers.gate().closed().is_none());
    bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(backing.inner().contents(), vec![3; 3 << 20]);
    bench.check();
}

#[test]
fn a_failing_read_is_the_readers_and_leaves_nothing_behind() {
    let (backing, bench) = broken();
    bench.write(Place::At(0), &[1; 5_000]);
    bench.write_back(ByteRange::ALL).unwrap();
    bench.file.forget_clean();
    backing.fail(Call::Read, When::Nth(1), Errno::EIO);
    let mut out = [0; 100];
    let read = bench
        .file
        .read(&mut Did::new(), &bench.backing, &bench.stream, 0, &mut out);
    assert_eq!(read, Err(Errno::EIO));
    bench.check();
    assert_eq!(bench.contents(), [1; 5_000]);
}

#[test]
fn a_truncation_that_fails_discards_nothing() {
    let (backing, bench) = broken();
    bench.write(Place::At(0), &[1; 5_000]);
    backing.fail(Call::SetSize, When::Always, Errno::EIO);
    let done = bench.file.truncate(
        &bench.by(),
        &mut Did::new(),
        10,
        || bench.backing.set_size(10),
        || bench.backing.stat(),
    );
    assert_eq!(done, Err(Errno::EIO));
    assert_eq!(bench.contents(), [1; 5_000]);
    assert_eq!(bench.buffers.dirty_bytes(), 5_000);
}

#[test]
fn the_drain_tells_what_it_could_not_write() {
    let (backing, bench) = broken();
    bench.write(Place::At(0), &[1; 5_000]);
    backing.fail(Call::Write, When::Always, Errno::EIO);
    let abandon = std::sync::atomic::AtomicBool::new(false);
    let cause = crate::event::OwnCause::Unmount;
    let drained = bench.buffers.drain(cause, &abandon, &|_| ());
    assert_eq!(drained.dirty_bytes, 5_000);
    assert!(drained.write_errors > 0);
}
