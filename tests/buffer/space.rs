//! No space in SOURCE, and limits: case 11.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use crate::call::fork;
use crate::view::{View, each, each_on_tmpfs, pattern, same};

fn errno(result: std::io::Result<()>) -> Option<Errno> {
    let error = result.err()?;
    Some(Errno::from_raw(error.raw_os_error().unwrap()))
}

/// Writes `data` in pieces of 64 KiB until one is refused; how much was taken.
fn fill(file: &File, data: &[u8]) -> (usize, Option<Errno>) {
    const PIECE: usize = 64 << 10;
    let mut taken = 0;
    while taken < data.len() {
        let piece = &data[taken..data.len().min(taken + PIECE)];
        match file.write_at(piece, taken as u64) {
            Ok(size) => taken += size,
            Err(error) => return (taken, errno(Err(error))),
        }
    }
    (taken, None)
}

/// SOURCE is a tmpfs of 8 MiB, of which `ballast` takes 6.
fn fill_and_recover(v: &View) {
    fs::write(v.below("ballast"), vec![b'b'; 6 << 20]).unwrap();
    let data = pattern(4 << 20, 1);
    let f = v.create("f");
    let other = v.open("f", libc::O_RDWR);
    let (taken, refused) = fill(&f, &data);
    let synced = errno(f.sync_all());
    let told: Vec<Errno> = [refused, synced].into_iter().flatten().collect();
    assert!(
        !told.is_empty(),
        "nobody was told that {taken} bytes do not fit"
    );
    assert!(told.iter().all(|&e| e == Errno::ENOSPC), "{told:?}");
    if refused.is_none() {
        // What failed later than its write, every open file description is told, once.
        assert_eq!(errno(other.sync_all()), Some(Errno::ENOSPC));
    }
    same("what was taken", &v.read("f"), &data[..taken]);
    fs::remove_file(v.below("ballast")).unwrap();
    // What failed between the last fsync and the removal may be told now.
    for file in [&f, &other] {
        let again = errno(file.sync_all());
        assert!(again.is_none_or(|e| e == Errno::ENOSPC), "{again:?}");
        assert_eq!(errno(file.sync_all()), None, "told twice");
    }
    v.holds("f", &data[..taken]);
    f.write_all_at(&data[taken..], taken as u64).unwrap();
    f.sync_all().unwrap();
    v.holds("f", &data);
    drop((f, other));
    v.shows("f", &data);
}

#[test]
fn case_11_a_full_source_is_told_of_and_nothing_is_lost_once_there_is_space_again() {
    each_on_tmpfs("size=8m,mode=755", fill_and_recover);
}

#[test]
fn case_11_closing_a_file_that_does_not_fit_does_not_hang_and_its_taken_bytes_stay_readable() {
    each_on_tmpfs("size=8m,mode=755", |v| {
        fs::write(v.below("ballast"), vec![b'b'; 7 << 20]).unwrap();
        let data = pattern(3 << 20, 1);
        let f = v.create("f");
        let (taken, refused) = fill(&f, &data);
        let closed = close(f);
        assert!(refused.is_some() || closed.is_some() || v.setting.keeps());
        let told = [refused, closed].into_iter().flatten();
        told.for_each(|e| assert_eq!(e, Errno::ENOSPC));
        same("what was taken", &v.read("f"), &data[..taken]);
        fs::remove_file(v.below("ballast")).unwrap();
        let f = v.open("f", libc::O_RDWR);
        // An error that nobody was told of yet is told to the next who opens.
        let _ = f.sync_all();
        f.sync_all().unwrap();
        v.holds("f", &data[..taken]);
    });
}

/// close(2) with its answer, which dropping a `File` throws away.
fn close(file: File) -> Option<Errno> {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: the descriptor was ours.
    Errno::result(unsafe { libc::close(fd) }).err()
}

#[test]
fn case_11_the_callers_file_size_limit_holds_at_the_write() {
    each(|v| {
        let data = pattern(20_000, 1);
        let f = v.create("f");
        let child = fork(|| {
            let limit = libc::rlimit {
                rlim_cur: 10_000,
                rlim_max: 10_000,
            };
            // SAFETY: `limit` lives; the signal is ignored.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
            }
            let partial = f.write_at(&data, 0).ok() == Some(10_000);
            let refused = f
                .write_at(b"x", 10_000)
                .err()
                .and_then(|e| e.raw_os_error());
            partial && refused == Some(libc::EFBIG)
        });
        assert_eq!(child.wait(), 0);
        v.shows("f", &data[..10_000]);
        // Nobody's limit is the server's.
        f.write_all_at(&data[10_000..], 10_000).unwrap();
        drop(f);
        v.shows("f", &data);
        v.holds_as_closed("f", &data);
    });
}
