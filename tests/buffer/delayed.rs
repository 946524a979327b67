//! Answers that are delayed, because too much is dirty: they hold nothing that others need.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use iolens::event::{CacheDid, Op, OpKind, Reason};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::held::Held;
use crate::maps::Map;
use crate::record::Trace;
use crate::support::wait_until;
use crate::view::{View, on, pattern};

/// Two threads and little may be dirty; nothing is written back for another reason.
const FEW: &[&str] = &[
    "--policy",
    "write-back",
    "--dirty-limit",
    "1MiB",
    "--dirty-age",
    "never",
    "--on-close",
    "keep",
    "--threads",
    "2",
];

/// More than all threads of a server with two: these, one that receives, and 64 workers
/// (`fuse/dispatch.rs`).
const WRITERS: usize = 200;
const WRITE: usize = 4096;

/// More than the entries of one CPU's queue, over io_uring (`ENTRIES_OF_ONE` in `uring.rs`): of those who are on this CPU alone
/// the last ones are not delayed.
const MORE_WRITERS: usize = 1100;

/// Rounds of everything that others do.
const ROUNDS: usize = 20;

/// No answer takes so long, however busy the machine; what waits for SOURCE waits for ever.
const RESPONSIVE: Duration = Duration::from_secs(20);

/// What nobody else's writes may hold up: all that reads, and all that changes names.
fn use_others(v: &View, round: usize) {
    v.shows("other", b"not written");
    let names = fs::read_dir(v.path("")).unwrap().count();
    assert!(names > WRITERS, "{names}");
    let dir = format!("d{round}");
    fs::create_dir(v.path(&dir)).unwrap();
    let name = format!("{dir}/new");
    drop(v.create(&name));
    fs::rename(v.path(&name), v.path("moved")).unwrap();
    assert!(v.path("moved").exists() && !v.path(&name).exists());
    fs::remove_file(v.path("moved")).unwrap();
    let large = v.open("large", libc::O_RDONLY);
    let mut piece = [0; WRITE];
    // Not in the buffer yet.
    large
        .read_exact_at(&mut piece, (round << 16) as u64)
        .unwrap();
    large.sync_all().unwrap();
}

/// Files that are open, one for each writer, and one that SOURCE does not take while the result lives.
fn prepare(v: &View, writers: usize) -> (Vec<File>, File, Held) {
    v.given("other", b"not written");
    v.given("large", &pattern(ROUNDS << 16, 1));
    v.given("held", b"");
    let files = (0..writers).map(|i| v.create(&format!("f{i}"))).collect();
    let held = Held::new(&v.below("held"));
    (files, v.open("held", libc::O_RDWR), held)
}

/// Runs `look` in a thread of its own, then `release`. Fails if `look` has not ended in time.
fn responds(look: impl FnOnce() + Send, release: impl FnOnce()) {
    thread::scope(|scope| {
        let (done, told) = channel();
        let looking = scope.spawn(move || {
            look();
            let _ = done.send(());
        });
        let told = told.recv_timeout(RESPONSIVE);
        release();
        let looked = looking.join();
        assert_ne!(told, Err(RecvTimeoutError::Timeout), "others had to wait");
        looked.unwrap();
    });
}

fn waited(op: &Op) -> bool {
    let wait = |did: &CacheDid| {
        matches!(
            did,
            CacheDid::Wait {
                reason: Reason::DirtyLimit,
                ..
            }
        )
    };
    op.cache.iter().any(wait)
}

/// Keeps this thread on the first CPU.
fn stay_on_one_cpu() {
    let mut set = CpuSet::new();
    set.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Has so many writers wait, each thread of whom `begins` so, and others use the view meanwhile. Tells how many answers were delayed,
/// how many were not, and the trace.
fn delay(writers: usize, begins: fn()) -> (usize, usize, Trace) {
    let early = AtomicUsize::new(0);
    let trace = on(FEW, |v| {
        let (files, first, held) = prepare(v, writers);
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            // More than half of the limit: the writeback thread begins with this file, and stays there.
            first.write_all_at(&pattern(600 << 10, 2), 0).unwrap();
            // Beyond the limit: from here on every write has to wait.
            let (first, answered) = (&first, &answered);
            scope.spawn(move || {
                begins();
                first
                    .write_all_at(&pattern(600 << 10, 3), 600 << 10)
                    .unwrap();
                answered.fetch_add(1, Ordering::SeqCst);
            });
            wait_until("the limit to be reached", || {
                v.stat("held").len() == 1200 << 10
            });
            for (i, file) in files.iter().enumerate() {
                scope.spawn(move || {
                    begins();
                    file.write_all_at(&pattern(WRITE, i as u64), 0).unwrap();
                    answered.fetch_add(1, Ordering::SeqCst);
                });
            }
            let look = || {
                begins();
                for i in 0..writers {
                    let name = format!("f{i}");
                    wait_until("a write to be buffered", || {
                        v.stat(&name).len() == WRITE as u64
                    });
                    v.shows(&name, &pattern(WRITE, i as u64));
                }
                (0..ROUNDS).for_each(|round| use_others(v, round));
                early.store(answered.load(Ordering::SeqCst), Ordering::SeqCst);
            };
            responds(look, || drop(held));
        });
    });
    let delayed = trace
        .ops()
        .filter(|op| op.op == OpKind::Write && waited(op));
    let (delayed, early) = (delayed.count(), early.into_inner());
    assert_eq!(
        delayed + early,
        1 + writers,
        "answered early are those that were not delayed"
    );
    assert!(trace.all_writebacks().all(|w| !w.conflict));
    (delayed, early, trace)
}

#[test]
fn delayed_answers_hold_no_thread_that_others_need() {
    let (_, early, _) = delay(WRITERS, || {});
    assert_eq!(early, 0, "writes were not delayed");
}

#[test]
fn more_delayed_answers_than_a_cpu_has_entries_leave_one_for_others() {
    let (delayed, early, trace) = delay(MORE_WRITERS, stay_on_one_cpu);
    if trace.is_over_rings() {
        assert!(
            delayed >= 255 && early > 0,
            "{delayed} delayed, {early} not"
        );
    } else {
        assert_eq!(early, 0, "writes were not delayed");
    }
}

/// Pages that a mapping has changed, no two of them neighbours: so many requests, in the background. The kernel
/// has 64 of these under way (`BACKGROUND_MAX` in `fuse.rs`), and a page fault is one too.
const PAGES: usize = 200;

/// Where the kernel tells of its connections to servers (Documentation/filesystems/fuse.rst), in a bare
/// directory.
fn connections(v: &View) -> PathBuf {
    let dir = v.bare("connections");
    fs::create_dir(&dir).unwrap();
    let none = None::<&str>;
    mount(none, &dir, Some("fusectl"), MsFlags::empty(), none).unwrap();
    dir.join(libc::minor(v.stat("").dev()).to_string())
}

#[test]
fn delayed_pages_of_a_mapping_do_not_keep_page_faults_of_other_files_waiting() {
    const SIZE: usize = PAGES * 2 * WRITE;
    on(FEW, |v| {
        v.given("mapped", &[b'm'; SIZE]);
        v.given("faults", &pattern(SIZE, 9));
        let map = Map::new(&v.open("mapped", libc::O_RDWR), SIZE);
        let other = Map::new(&v.open("faults", libc::O_RDWR), SIZE);
        for page in 0..PAGES {
            map.set(page * 2 * WRITE, b"x");
        }
        let (_files, first, held) = prepare(v, WRITERS);
        let waiting = connections(v).join("waiting");
        let requests = || -> usize {
            let count = fs::read_to_string(&waiting).unwrap();
            count.trim().parse().unwrap()
        };
        thread::scope(|scope| {
            first.write_all_at(&pattern(600 << 10, 2), 0).unwrap();
            let first = &first;
            scope.spawn(move || {
                first
                    .write_all_at(&pattern(600 << 10, 3), 600 << 10)
                    .unwrap();
            });
            wait_until("the limit to be reached", || {
                v.stat("held").len() == 1200 << 10
            });
            let syncing = scope.spawn(|| map.sync());
            let look = || {
                // All are there, or all are answered.
                wait_until("pages to be written", || {
                    syncing.is_finished() || requests() > PAGES
                });
                let page = SIZE / 2..SIZE / 2 + 10;
                assert_eq!(other.get(page.clone()), pattern(SIZE, 9)[page]);
                use_others(v, 0);
            };
            responds(look, || drop(held));
        });
    });
}

#[test]
fn writes_that_are_too_much_even_to_be_buffered_hold_no_thread_that_others_need() {
    const LARGE: usize = 1 << 20;
    on(FEW, |v| {
        v.given("other", b"not written");
        v.given("large", &pattern(ROUNDS << 16, 1));
        for i in 0..WRITERS {
            v.given(&format!("f{i}"), b"");
        }
        fs::write(v.below("held"), vec![b'h'; WRITERS * LARGE]).unwrap();
        let held = Held::new(&v.below("held"));
        let file = v.open("held", libc::O_RDWR);
        let started = AtomicUsize::new(0);
        thread::scope(|scope| {
            for i in 0..WRITERS {
                let (file, started) = (&file, &started);
                scope.spawn(move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    file.write_all_at(&[b'w'; LARGE], (i * LARGE) as u64)
                        .unwrap();
                });
            }
            let look = || {
                wait_until("all writers", || started.load(Ordering::SeqCst) == WRITERS);
                // Several times what it takes until nobody is served any more.
                for round in 0..10 * ROUNDS {
                    use_others(v, round % ROUNDS);
                    fs::remove_dir(v.path(&format!("d{}", round % ROUNDS))).unwrap();
                }
            };
            responds(look, || drop(held));
        });
    });
}

#[test]
fn writes_to_a_file_that_somebody_looks_at_hold_no_thread_that_others_need() {
    on(FEW, |v| {
        v.given("other", b"not written");
        v.given("large", &pattern(ROUNDS << 16, 1));
        for i in 0..WRITERS {
            v.given(&format!("f{i}"), b"");
        }
        fs::write(v.below("held"), vec![b'h'; WRITERS * WRITE]).unwrap();
        let held = Held::new(&v.below("held"));
        let file = v.open("held", libc::O_RDWR);
        thread::scope(|scope| {
            let look = || {
                for i in 0..WRITERS {
                    // The write has to show a later time than this one that somebody has seen.
                    let seen = v.stat("held");
                    let (file, at) = (&file, (i * WRITE) as u64);
                    scope.spawn(move || file.write_all_at(&[b'w'; WRITE], at).unwrap());
                    let mut piece = [0; WRITE];
                    wait_until("a write to be buffered", || {
                        file.read_exact_at(&mut piece, at).unwrap();
                        piece == [b'w'; WRITE]
                    });
                    assert!(!is_before(&v.stat("held"), &seen));
                }
                (0..ROUNDS).for_each(|round| use_others(v, round));
            };
            responds(look, || drop(held));
        });
    });
}

fn is_before(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    let time = |of: &fs::Metadata| (of.ctime(), of.ctime_nsec());
    time(one) < time(other)
}
