//! A SOURCE that becomes full, and limits of size: each refusal comes where it comes natively, and when there is
//! room again all is well.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use iolens::event::{OpKind, Reason};
use libc::{O_APPEND, O_CREAT, O_RDWR, O_TRUNC};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::call::{fallocate, fork};
use crate::maps::Map;
use crate::record::{Trace, taken};
use crate::support::{IOLENS, Mounted, scratch, wait_until};
use crate::view::{KEEP, alone, on_prepared, open_at, pattern, same};

/// Of each small filesystem, bytes.
const SIZE: usize = 8 << 20;
const PIECE: usize = 64 << 10;

/// Two empty filesystems of the same size: SOURCE, and the one that shows what happens natively.
fn two_small(top: &Path) {
    for name in ["v.source", "bare"] {
        let at = top.join(name);
        fs::create_dir_all(&at).unwrap();
        let (none, options) = (None::<&str>, Some("size=8m,mode=755"));
        mount(none, &at, Some("tmpfs"), MsFlags::empty(), options).unwrap();
    }
}

/// An answer of a system call.
type Answer = Result<usize, Errno>;

fn answer<T>(result: std::io::Result<T>, count: impl FnOnce(T) -> usize) -> Answer {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap());
    result.map(count).map_err(errno)
}

fn write_at(file: &File, data: &[u8], at: u64) -> Answer {
    answer(file.write_at(data, at), |count| count)
}

fn sync(file: &File) -> Answer {
    answer(file.sync_all(), |()| 0)
}

fn close(file: File) -> Answer {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: the descriptor was ours.
    Errno::result(unsafe { libc::close(fd) }).map(|_| 0)
}

/// Writes in pieces until one is refused: each answer, and how much was taken.
fn fill(file: &File, data: &[u8], piece: usize) -> (Vec<Answer>, usize) {
    let (mut answers, mut taken) = (Vec::new(), 0);
    while taken < data.len() {
        let end = data.len().min(taken + piece);
        let got = write_at(file, &data[taken..end], taken as u64);
        answers.push(got);
        match got {
            Ok(count) => taken += count,
            Err(_) => break,
        }
    }
    (answers, taken)
}

/// Waits until the room of files that are gone is there: the kernel tells the server of them a moment later.
fn settle(dir: &Path) {
    let taken = |entry: fs::DirEntry| entry.metadata().unwrap().len().next_multiple_of(4_096);
    let files = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let wanted = SIZE as u64 - files.map(taken).sum::<u64>();
    wait_until("the room of files that are gone", || {
        let now = nix::sys::statvfs::statvfs(dir).unwrap();
        now.blocks_available() * now.fragment_size() >= wanted
    });
}

/// Runs the same on the bare filesystem and on the view: the answers must be equal. On views that write nothing
/// back by themselves, on one of the defaults, and on one that always does.
fn as_natively(act: impl Fn(&Path) -> Vec<Answer> + Sync, check: impl Fn(&Trace)) {
    let hasty = &["--cache-size", "1MiB", "--dirty-age", "1ms"];
    for args in [KEEP, &[], hasty] {
        let trace = on_prepared(args, two_small, |v| {
            let native = act(v.bare("").as_path());
            let seen = act(v.path("").as_path());
            assert!(native.contains(&Err(Errno::ENOSPC)), "{native:?}");
            assert_eq!(seen, native);
        });
        check(&trace);
    }
}

/// Writes of both kinds are in the trace: those that were buffered, and those that went past, for this reason.
fn has_both(trace: &Trace, reason: Reason) {
    let (mut inside, mut past) = (0, 0);
    for op in trace.ops().filter(|op| op.op == OpKind::Write) {
        let (buffered, _, through) = taken(op);
        inside += buffered;
        for (size, why) in through {
            // Of a small cache every block may be dirty.
            assert!(why == reason || why == Reason::Memory, "{why:?}");
            past += if why == reason { size } else { 0 };
        }
    }
    assert!(
        inside > 0 && past > 0,
        "{inside} bytes buffered, {past} not"
    );
}

/// The last write that worked was buffered.
fn buffers_again(trace: &Trace) {
    let writes = trace.ops().filter(|op| op.op == OpKind::Write);
    let last = writes.filter(|op| op.ret > Some(0)).max_by_key(|op| op.seq);
    let (buffered, _, through) = taken(last.unwrap());
    assert!(buffered > 0 && through.is_empty(), "{last:?}");
}

#[test]
fn a_write_is_refused_where_it_is_natively_and_all_is_well_when_there_is_room() {
    let act = |dir: &Path| {
        let data = pattern(SIZE + PIECE, 1);
        let create = |name| open_at(&dir.join(name), O_RDWR | O_CREAT | O_TRUNC);
        let ballast = create("ballast");
        let mut all = fill(&ballast, &data[..3_000_000], 100_000).0;
        let f = create("f");
        let (answers, taken) = fill(&f, &data, PIECE);
        all.extend(answers);
        // What was taken is safe: nothing is told later.
        all.extend([sync(&f), close(ballast)]);
        same(
            "what was taken",
            &fs::read(dir.join("f")).unwrap(),
            &data[..taken],
        );
        // What has its blocks can be written to.
        all.push(write_at(&f, &data[..PIECE], 0));
        all.push(write_at(&f, b"more", taken as u64));
        fs::remove_file(dir.join("ballast")).unwrap();
        settle(dir);
        all.extend(fill(&f, &data[..5_000_000], 123_456).0);
        all.extend([sync(&f), close(f)]);
        same(
            "afterwards",
            &fs::read(dir.join("f")).unwrap()[..5_000_000],
            &data[..5_000_000],
        );
        all
    };
    as_natively(act, |trace| {
        has_both(trace, Reason::NearlyFull);
        buffers_again(trace);
    });
}

#[test]
fn an_append_is_refused_where_it_is_natively() {
    let act = |dir: &Path| {
        let data = pattern(SIZE + PIECE, 2);
        let ballast = dir.join("ballast");
        fs::write(&ballast, &data[..1 << 20]).unwrap();
        let f = open_at(&dir.join("f"), O_RDWR | O_CREAT | O_APPEND);
        let (mut all, mut taken) = (Vec::new(), 0);
        for _ in 0..2 {
            loop {
                let piece = &data[taken..data.len().min(taken + 10_007)];
                let got = answer(std::io::Write::write(&mut &f, piece), |count| count);
                all.push(got);
                let Ok(count) = got else { break };
                taken += count;
            }
            all.push(sync(&f));
            let _ = fs::remove_file(&ballast);
            settle(dir);
        }
        same(
            "what was taken",
            &fs::read(dir.join("f")).unwrap(),
            &data[..taken],
        );
        all.push(close(f));
        all
    };
    as_natively(act, |trace| has_both(trace, Reason::NearlyFull));
}

#[test]
fn replacing_a_file_by_rename_fails_at_the_write_or_not_at_all() {
    let act = |dir: &Path| {
        let mut all = Vec::new();
        let data = pattern(3 << 20, 3);
        for (n, name) in ["a", "b", "b", "c", "a", "c"].iter().enumerate() {
            let new = dir.join("new");
            let f = open_at(&new, O_RDWR | O_CREAT | O_TRUNC);
            let (answers, taken) = fill(&f, &data, PIECE);
            all.extend(answers);
            all.push(close(f));
            if taken < data.len() {
                all.push(answer(fs::remove_file(&new), |()| 0));
                if n == 3 {
                    all.push(answer(fs::remove_file(dir.join("b")), |()| 0));
                }
                settle(dir);
                continue;
            }
            all.push(answer(fs::rename(&new, dir.join(name)), |()| 0));
            settle(dir);
            same(name, &fs::read(dir.join(name)).unwrap(), &data);
        }
        all
    };
    as_natively(act, |trace| has_both(trace, Reason::NearlyFull));
}

#[test]
fn eight_writers_are_refused_at_the_write_and_every_page_is_used() {
    let trace = on_prepared(KEEP, two_small, |v| {
        for dir in [v.bare(""), v.path("")] {
            let data: Vec<_> = (0..8).map(|n| pattern(SIZE + 1, n)).collect();
            let name = |n: usize| dir.join(format!("f{n}"));
            let taken: Vec<usize> = std::thread::scope(|scope| {
                let writer = |n: usize| {
                    let (data, name) = (&data[n], name(n));
                    scope.spawn(move || {
                        let f = open_at(&name, O_RDWR | O_CREAT | O_TRUNC);
                        let (answers, taken) = fill(&f, data, PIECE);
                        assert_eq!(answers.last(), Some(&Err(Errno::ENOSPC)));
                        assert_eq!((sync(&f), close(f)), (Ok(0), Ok(0)), "told late");
                        taken
                    })
                };
                let threads: Vec<_> = (0..8).map(writer).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().sum::<usize>(), SIZE, "{taken:?}");
            for n in 0..8 {
                let read = fs::read(name(n)).unwrap();
                same(&format!("{n}"), &read, &data[n][..taken[n]]);
            }
            for n in 1..8 {
                fs::remove_file(name(n)).unwrap();
            }
            settle(&dir);
            let (f, data) = (open_at(&name(0), O_RDWR), &data[0][..SIZE]);
            for at in (taken[0]..data.len()).step_by(PIECE) {
                let piece = &data[at..data.len().min(at + PIECE)];
                assert_eq!(write_at(&f, piece, at as u64), Ok(piece.len()));
            }
            assert_eq!((sync(&f), close(f)), (Ok(0), Ok(0)));
            same("at last", &fs::read(name(0)).unwrap(), data);
        }
    });
    has_both(&trace, Reason::NearlyFull);
}

#[test]
fn stores_to_a_mapping_that_find_no_room_are_told_by_msync_and_those_that_need_none_are_kept() {
    let trace = on_prepared(KEEP, two_small, |v| {
        let ready = v.create("ready");
        fallocate(&ready, 0, 0, 1 << 20).unwrap();
        let hole = v.create("hole");
        hole.set_len(1 << 20).unwrap();
        let (ready_map, hole_map) = (Map::new(&ready, 1 << 20), Map::new(&hole, 1 << 20));
        let rest = v.create("rest");
        assert_eq!(
            fill(&rest, &pattern(SIZE, 1), PIECE).0.last(),
            Some(&Err(Errno::ENOSPC))
        );
        ready_map.set(100_000, b"has its block");
        ready_map.sync();
        hole_map.set(100_000, b"needs one");
        assert_eq!(hole_map.try_sync(), Err(Errno::ENOSPC));
        assert_eq!((sync(&ready), sync(&rest)), (Ok(0), Ok(0)));
        drop(rest);
        fs::remove_file(v.path("rest")).unwrap();
        let free = || {
            nix::sys::statvfs::statvfs(&v.below(""))
                .unwrap()
                .blocks_available()
        };
        wait_until("the room of what was removed", || free() > 1_000);
        hole_map.set(100_000, b"has one now");
        // An error of the first store that nobody was told of is told once.
        let _ = hole_map.try_sync();
        hole_map.sync();
        let mut wanted = vec![0; 1 << 20];
        wanted[100_000..100_011].copy_from_slice(b"has one now");
        v.holds("hole", &wanted);
        wanted[100_000..100_013].copy_from_slice(b"has its block");
        v.holds("ready", &wanted);
    });
    has_both(&trace, Reason::NearlyFull);
}

/// Somebody else takes all the room after bytes were buffered that need it.
#[test]
fn what_was_buffered_when_somebody_else_took_the_room_is_told_hangs_nobody_and_is_written_when_there_is_some()
 {
    let args = &[
        "--policy",
        "write-back",
        "--dirty-limit",
        "1MiB",
        "--dirty-age",
        "20ms",
        "--on-close",
        "keep",
    ];
    on_prepared(args, two_small, |v| {
        let data: Vec<_> = (0..4).map(|n| pattern(1 << 20, n)).collect();
        let files: Vec<_> = (0..4).map(|n| v.create(&format!("f{n}"))).collect();
        // Nothing is free any more, of what was a moment ago.
        let take_all = || {
            let other = File::create(v.below("other")).unwrap();
            let size = fill(&other, &pattern(SIZE, 9), 4_096).1;
            assert!(size > 0);
        };
        for (f, data) in files.iter().zip(&data) {
            f.write_all_at(&data[..4_096], 0).unwrap();
        }
        take_all();
        // Writers go on until they are told.
        let taken: Vec<usize> = std::thread::scope(|scope| {
            let writer = |n: usize| {
                let (f, data) = (&files[n], &data[n]);
                scope.spawn(move || {
                    let (answers, taken) = fill(f, data, 5_000);
                    assert_eq!(answers.last(), Some(&Err(Errno::ENOSPC)));
                    taken
                })
            };
            let threads: Vec<_> = (0..4).map(writer).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        fs::remove_file(v.below("other")).unwrap();
        for n in 0..4 {
            // By the retry, without a call that asks for it.
            v.comes_to_hold(&format!("f{n}"), &data[n][..taken[n].max(4_096)]);
            let _ = sync(&files[n]);
            assert_eq!(sync(&files[n]), Ok(0));
            files[n].write_all_at(&data[n], 0).unwrap();
            assert_eq!(sync(&files[n]), Ok(0));
            v.holds(&format!("f{n}"), &data[n]);
        }
    });
}

/// A filesystem of ext4 in a file, as SOURCE. Nothing of it is left when it is unmounted.
fn ext4(top: &Path, size: u64, options: &[&str]) {
    let (image, source) = (top.join("image"), top.join("v.source"));
    File::create(&image).unwrap().set_len(size).unwrap();
    fs::create_dir(&source).unwrap();
    let run = |command: &mut Command| {
        let done = command.output();
        let done =
            done.unwrap_or_else(|e| panic!("{command:?}: {e}: e2fsprogs and mount are needed"));
        assert!(done.status.success(), "{command:?}: {done:?}");
    };
    run(Command::new("mkfs.ext4")
        .arg("-q")
        .args(options)
        .arg(&image));
    // The loop device goes with the last mount.
    run(Command::new("mount")
        .args(["-o", "loop"])
        .args([&image, &source]));
}

#[test]
fn a_write_beyond_the_largest_size_of_a_file_is_refused_where_it_is_natively() {
    let prepare = |top: &Path| {
        ext4(
            top,
            64 << 20,
            &["-b", "1024", "-O", "^extent,^64bit,^has_journal"],
        )
    };
    let trace = on_prepared(KEEP, prepare, |v| {
        // 16 GiB and a bit, by the blocks that a file without extents can have.
        let try_all = |f: &File, limit: u64| {
            let data = pattern(8_192, 1);
            let mut all = vec![
                write_at(f, &data, (1 << 28) - 4_096),
                write_at(f, &data, 1 << 33),
                write_at(f, &data[..100], limit - 100),
                write_at(f, &data, limit - 4_096),
                write_at(f, b"x", limit),
                write_at(f, &data, limit + (1 << 40)),
            ];
            all.push(sync(f));
            all
        };
        let native = File::create(v.below("native")).unwrap();
        let limit = iolens::sys::size_limit(std::os::fd::AsFd::as_fd(&native)).unwrap();
        assert!(limit > 1 << 33 && limit < 1 << 35, "{limit}");
        let expected = try_all(&native, limit);
        assert_eq!(
            expected[3..6],
            [Ok(4_096), Err(Errno::EFBIG), Err(Errno::EFBIG)]
        );
        assert_eq!(try_all(&v.create("f"), limit), expected);
    });
    let writes: Vec<_> = trace
        .of(OpKind::Write, "f")
        .into_iter()
        .map(taken)
        .collect();
    let buffered = |size| (size, 0, vec![]);
    let past = (0, 0, vec![(4_096, Reason::SizeLimit)]);
    let nothing = (0, 0, vec![]);
    assert_eq!(
        writes,
        [
            buffered(8_192),
            buffered(8_192),
            buffered(100),
            past,
            nothing.clone(),
            nothing
        ]
    );
}

#[test]
fn an_ordinary_user_does_not_get_what_the_filesystem_keeps_for_root() {
    let prepare = |top: &Path| {
        ext4(top, 32 << 20, &["-m", "20", "-O", "^has_journal"]);
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.join("v.source"), everybody).unwrap();
    };
    let args = [KEEP, &["-o", "allow_other"]].concat();
    on_prepared(&args, prepare, |v| {
        let (path, data) = (v.path("users"), pattern(30 << 20, 1));
        let child = fork(|| {
            nix::unistd::setgid(nix::unistd::Gid::from_raw(1_000)).unwrap();
            nix::unistd::setuid(nix::unistd::Uid::from_raw(1_000)).unwrap();
            let f = open_at(&path, O_RDWR | O_CREAT);
            let (answers, taken) = fill(&f, &data, PIECE);
            let told = answers.last() == Some(&Err(Errno::ENOSPC));
            told && taken > 10 << 20 && sync(&f) == Ok(0)
        });
        assert_eq!(child.wait(), 0);
        let left = nix::sys::statvfs::statvfs(&v.below("")).unwrap();
        assert!(left.blocks_available() * left.fragment_size() < 1 << 20);
        assert!(left.blocks_free() * left.fragment_size() > 5 << 20);
        v.create("roots").write_all_at(&data[..1 << 20], 0).unwrap();
        v.shows("roots", &data[..1 << 20]);
    });
}

/// A view whose server is started by `by`.
fn started_by(by: &[&str], scratch: &Path) -> Mounted {
    let mut command = Command::new(by[0]);
    command.args(&by[1..]).arg(IOLENS);
    Mounted::by(command, scratch, "v", KEEP)
}

#[test]
fn the_limit_that_a_server_is_started_with_is_not_its_own_nor_the_supervisors() {
    let _alone = alone();
    let scratch = scratch();
    let mounted = started_by(&["prlimit", "--fsize=1048576:"], scratch.path());
    let (view, source) = (mounted.view().to_owned(), scratch.path().join("v.source"));
    let data = pattern(3 << 20, 1);
    let f = open_at(&view.join("synced"), O_RDWR | O_CREAT);
    f.write_all_at(&data, 0).unwrap();
    assert_eq!((sync(&f), close(f)), (Ok(0), Ok(0)));
    same("synced", &fs::read(source.join("synced")).unwrap(), &data);
    fs::write(view.join("dirty"), &data).unwrap();
    assert_eq!(fs::metadata(source.join("dirty")).unwrap().len(), 0);
    // Kills the server.
    drop(mounted);
    let complete = || fs::read(source.join("dirty")).unwrap() == data;
    wait_until("the supervisor to complete it", complete);
}

#[test]
fn a_limit_that_the_server_cannot_lift_is_met_at_the_write() {
    const LIMIT: usize = 1 << 20;
    let _alone = alone();
    let scratch = scratch();
    let by = &[
        "prlimit",
        "--fsize=1048576",
        "setpriv",
        "--bounding-set=-sys_resource",
    ];
    let mounted = started_by(by, scratch.path());
    let data = pattern(2 * LIMIT, 1);
    let path = mounted.view().join("f");
    let f = open_at(&path, O_RDWR | O_CREAT);
    assert_eq!(write_at(&f, &data[..1_000_000], 0), Ok(1_000_000));
    let rest = LIMIT - 1_000_000;
    assert_eq!(write_at(&f, &data[1_000_000..], 1_000_000), Ok(rest));
    assert_eq!(write_at(&f, b"x", LIMIT as u64), Err(Errno::EFBIG));
    assert_eq!((sync(&f), close(f)), (Ok(0), Ok(0)));
    same("f", &fs::read(path).unwrap(), &data[..LIMIT]);
    has_both(&Trace::read(&mounted.finish()), Reason::SizeLimit);
}
