//! A SOURCE that has little room left.

use super::*;
use crate::backing::{Call, Disk, Faulty, When};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks of the disks of these tests; a sixteenth is not for what is dirty.
const TOTAL: u64 = 320;
const RESERVE: u64 = 20;

type Source = Arc<Counted<Faulty<Memory>>>;

fn on(disk: &Disk) -> (Source, Bench) {
    let backing = Arc::new(Counted::new(Faulty::new(Memory::on(disk))));
    let bench = Bench::new(options(), backing.clone());
    (backing, bench)
}

/// A write as `fs` does it; why it went past the buffer, if it did.
fn write(bench: &Bench, at: u64, data: &[u8]) -> SysResult<Option<Reason>> {
    // SOURCE may be asked again.
    bench.memo.clock.fetch_add(2_000_000, Ordering::SeqCst);
    let (by, mut did) = (bench.by(), Did::new());
    let put = bench
        .file
        .buffer(&by, &mut did, &bench.backing, Place::At(at), data)?;
    let Err(reason) = put else { return Ok(None) };
    let (put, _) = bench.try_through(Place::At(at), data, reason)?;
    assert_eq!(put.count, data.len(), "of a block, all or nothing");
    Ok(Some(reason))
}

/// Another file of the same view and filesystem.
fn beside(bench: &Bench, disk: &Disk) -> Bench {
    let backing: Arc<dyn Backing> = Arc::new(Memory::on(disk));
    let stat = backing.stat().unwrap();
    Bench {
        memo: bench.memo.clone(),
        buffers: bench.buffers.clone(),
        file: File::new(&bench.buffers, Arc::new(Nameless), &stat),
        backing,
        stream: Mutex::default(),
    }
}

/// Writes block after block until SOURCE refuses one: how many were buffered, went through, and the errno.
fn fill(bench: &Bench, first: u64) -> (u64, u64, Errno) {
    let (mut buffered, mut through) = (0, 0);
    for n in first.. {
        match write(bench, n * BLOCK, &[n as u8; BLOCK_SIZE]) {
            Ok(None) => buffered += 1,
            Ok(Some(reason)) => {
                assert_eq!(reason, Reason::NearlyFull);
                through += 1;
            }
            Err(errno) => return (buffered, through, errno),
        }
    }
    unreachable!("a disk without an end")
}

#[test]
fn the_write_that_does_not_fit_is_told_and_all_others_are_in_source() {
    let disk = Disk::new(TOTAL, BLOCK);
    let (backing, bench) = on(&disk);
    let (buffered, through, errno) = fill(&bench, 0);
    assert_eq!(errno, Errno::ENOSPC);
    assert_eq!(buffered + through, TOTAL, "as many as natively");
    assert!(through <= RESERVE + 2, "{through} went past the buffer");
    assert_eq!(bench.buffers.dirty_bytes(), 0, "nothing can fail later");
    assert_eq!(bench.write_back(ByteRange::ALL), Ok(()));
    let expected: Vec<u8> = (0..TOTAL).flat_map(|n| [n as u8; BLOCK_SIZE]).collect();
    assert_eq!(backing.inner().inner().contents(), expected);
    bench.check();
}

#[test]
fn writes_are_buffered_again_when_there_is_room_again() {
    let disk = Disk::new(TOTAL, BLOCK);
    let (_, bench) = on(&disk);
    fill(&bench, 0);
    // Bytes that have their blocks already are taken all the same.
    assert_eq!(write(&bench, 0, b"over"), Ok(Some(Reason::NearlyFull)));
    disk.give(100);
    assert_eq!(write(&bench, 0, b"over"), Ok(None));
    assert_eq!(write(&bench, TOTAL * BLOCK, b"more"), Ok(None));
    assert_eq!(bench.write_back(ByteRange::ALL), Ok(()));
    bench.check();
}

#[test]
fn what_is_dirty_of_other_files_keeps_its_room() {
    let disk = Disk::new(TOTAL, BLOCK);
    let (_, bench) = on(&disk);
    let other = beside(&bench, &disk);
    // 200 of 300 blocks, each for one byte.
    for n in 0..200 {
        assert_eq!(write(&other, n * BLOCK, b"x"), Ok(None));
    }
    let (buffered, through, errno) = fill(&bench, 0);
    assert_eq!((buffered + through, errno), (TOTAL - 200, Errno::ENOSPC));
    assert_eq!(other.write_back(ByteRange::ALL), Ok(()));
    assert_eq!(bench.write_back(ByteRange::ALL), Ok(()));
}

#[test]
fn whatever_goes_past_the_buffer_leaves_what_is_dirty_its_room() {
    type Act = fn(&Bench, &Disk) -> SysResult<()>;
    let acts: [(&str, Act); 2] = [
        ("a synchronous write", |bench, _| {
            let data = vec![7; 250 * BLOCK_SIZE];
            let put = bench.try_through(Place::At(0), &data, Reason::OSync)?.0;
            assert_eq!(put.count, 120 * BLOCK_SIZE);
            Ok(())
        }),
        ("fallocate", |bench, disk| {
            let range = ByteRange::at(0, 250 * BLOCK);
            let change = || (0..250).try_for_each(|_| disk.take());
            let (by, mut did) = (bench.by(), Did::new());
            let about = (range, Reason::Fallocate);
            let stat = || bench.backing.stat();
            bench.file.rewriting(&by, &mut did, about, change, stat)
        }),
    ];
    for (name, act) in acts {
        let disk = Disk::new(TOTAL, BLOCK);
        let (_, bench) = on(&disk);
        let other = beside(&bench, &disk);
        for n in 0..200 {
            assert_eq!(write(&other, n * BLOCK, b"x"), Ok(None));
        }
        let done = act(&bench, &disk);
        assert!(done.is_ok() || done == Err(Errno::ENOSPC), "{done:?}");
        assert_eq!(other.file.dirty_bytes(), 0, "{name}");
        assert_eq!(other.write_back(ByteRange::ALL), Ok(()), "{name}");
    }
}

#[test]
fn rewriting_takes_no_room_and_is_buffered_still() {
    let disk = Disk::new(TOTAL, BLOCK);
    let (backing, bench) = on(&disk);
    let mut through = 0;
    for round in 0..100 {
        for n in 0..40 {
            let past = write(&bench, n * BLOCK, &[round; BLOCK_SIZE]).unwrap();
            through += u64::from(past.is_some());
        }
        bench.write_back(ByteRange::ALL).unwrap();
    }
    assert_eq!(through, 0, "of 4000");
    assert_eq!(backing.inner().inner().contents(), [99; 40 * BLOCK_SIZE]);
}

#[test]
fn source_is_asked_rarely_where_there_is_room() {
    let disk = Disk::new(1 << 30, BLOCK);
    let (backing, bench) = on(&disk);
    for n in 0..20_000 {
        bench.write(Place::At(n * 10), &[1; 10]);
    }
    let counts = backing.counts();
    assert_eq!((counts.space.calls, counts.quota_left.calls), (1, 1));
    bench.memo.clock.fetch_add(100_000_000, Ordering::SeqCst);
    bench.write(Place::At(0), b"x");
    let counts = backing.counts();
    assert_eq!((counts.space.calls, counts.quota_left.calls), (2, 1));
}

#[test]
fn who_says_nothing_has_room() {
    for (total, fails) in [(0, false), (TOTAL, true)] {
        let disk = Disk::new(total, BLOCK);
        let (backing, bench) = on(&disk);
        if fails {
            backing
                .inner()
                .fail(Call::Space, When::Always, Errno::ENOSYS);
        }
        assert_eq!(write(&bench, 0, b"x"), Ok(None));
    }
}

#[test]
fn a_quota_counts_as_the_disk_does() {
    let disk = Disk::new(TOTAL, BLOCK);
    disk.set_quota(60);
    let (_, bench) = on(&disk);
    let (buffered, through, errno) = fill(&bench, 0);
    assert_eq!((buffered + through, errno), (60, Errno::EDQUOT));
    assert_eq!(bench.buffers.dirty_bytes(), 0);
    disk.set_quota(100);
    assert_eq!(write(&bench, 0, b"x"), Ok(None));
    assert_eq!(bench.write_back(ByteRange::ALL), Ok(()));
}

#[test]
fn a_file_whose_writeback_found_no_room_is_written_through_until_one_does() {
    for errno in [Errno::ENOSPC, Errno::EDQUOT] {
        // Nothing of it can be seen beforehand.
        let disk = Disk::new(TOTAL, BLOCK);
        let (backing, bench) = on(&disk);
        write(&bench, 0, b"dirty").unwrap();
        backing.inner().fail(Call::Write, When::Always, errno);
        assert_eq!(bench.write_back(ByteRange::ALL), Err(errno));
        assert_eq!(write(&bench, 0, b"next"), Err(errno));
        assert_eq!(write(&bench, 9 * BLOCK, b"next"), Err(errno));
        backing.inner().heal();
        assert_eq!(
            write(&bench, 9 * BLOCK, b"next"),
            Ok(Some(Reason::NearlyFull))
        );
        bench.memo.clock.fetch_add(10_000_000_000, Ordering::SeqCst);
        // What is dirty is tried first.
        assert_eq!(
            write(&bench, 9 * BLOCK, b"next"),
            Ok(Some(Reason::NearlyFull))
        );
        assert_eq!(bench.buffers.dirty_bytes(), 0);
        assert_eq!(write(&bench, 0, b"last"), Ok(None));
        bench.check();
    }
}

#[test]
fn many_writers_are_told_at_the_write_and_what_was_taken_is_there() {
    let disk = Disk::new(TOTAL, BLOCK);
    let (_, bench) = on(&disk);
    let benches: Vec<Bench> = (0..8).map(|_| beside(&bench, &disk)).collect();
    let taken: Vec<(u64, u64, Errno)> = std::thread::scope(|scope| {
        let fill = |bench| scope.spawn(move || fill(bench, 0));
        let threads: Vec<_> = benches.iter().map(fill).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let blocks: u64 = taken.iter().map(|(b, t, _)| b + t).sum();
    assert_eq!(blocks, TOTAL, "{taken:?}");
    assert_eq!(bench.buffers.dirty_bytes(), 0);
    for (bench, (buffered, through, _)) in benches.iter().zip(&taken) {
        assert_eq!(bench.write_back(ByteRange::ALL), Ok(()));
        assert_eq!(bench.file.size(), (buffered + through) * BLOCK);
    }
    assert!(taken.iter().all(|(.., errno)| *errno == Errno::ENOSPC));
}

#[test]
fn a_size_that_every_file_may_have_is_not_asked_for_and_any_other_once() {
    let (_, bench) = on(&Disk::new(TOTAL, BLOCK));
    let file = &bench.file;
    assert!(file.may_reach(1 << 28, || panic!("asked")));
    let asked = AtomicU64::new(0);
    let limit = || {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(1 << 34)
    };
    assert!(file.may_reach((1 << 28) + 1, limit));
    assert!(file.may_reach(1 << 34, limit));
    assert!(!file.may_reach((1 << 34) + 1, limit));
    assert!(!file.may_reach(u64::MAX, limit));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
