//! Bytes: reading, writing, sizes and holes.

use iolens::event::OpKind;
use libc::{O_APPEND, O_CREAT, O_DSYNC, O_RDONLY, O_RDWR, O_SYNC, O_WRONLY};

use crate::side::{CWD, Side, at, at_mut, pattern, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "reads and writes move the position",
        &[OpKind::Read, OpKind::Write, OpKind::Flush],
        positions,
    ),
    Step::new(
        "vectors keep their order",
        &[OpKind::Read, OpKind::Write],
        vectors,
    ),
    Step::new("per-call flags hold", &[OpKind::Write], call_flags),
    Step::new(
        "big unaligned reads and writes arrive whole",
        &[OpKind::Read, OpKind::Write],
        big,
    ),
    Step::new(
        "appenders never overwrite each other",
        &[OpKind::Write],
        appenders,
    ),
    Step::new(
        "appending can be switched on and off",
        &[OpKind::Write],
        append_switched,
    ),
    Step::new(
        "fsync and fdatasync answer",
        &[OpKind::Fsync, OpKind::Fsyncdir],
        syncing,
    ),
    Step::new(
        "an unlinked open file lives on",
        &[OpKind::Unlink, OpKind::Release],
        unlinked_open,
    ),
    Step::new(
        "wrong descriptors and sizes are refused",
        &[OpKind::Open],
        misuse,
    ),
    Step::new(
        "many handles see one file",
        &[OpKind::Open, OpKind::Release],
        many_handles,
    ),
];

fn positions(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    s.write(fd, b"hello world");
    s.read(fd, 10);
    sys!(s, SYS_lseek, fd, 6, libc::SEEK_SET);
    s.read(fd, 3);
    s.write(fd, b"LD!");
    s.pread(fd, 100, 0);
    s.pwrite(fd, b"J", 0);
    s.pwrite(fd, b"far", 100);
    sys!(s, SYS_lseek, fd, 0, libc::SEEK_CUR);
    s.read(fd, 200);
    s.read(fd, 10);
    s.write(fd, b"");
    s.pread(fd, 0, 5);
    s.pread(fd, 10, -1);
    s.pwrite(fd, b"x", -1);
    let copy = s.descriptor("dup", libc::SYS_dup, &[fd.into()]);
    sys!(s, SYS_lseek, fd, 2, libc::SEEK_SET);
    s.read(copy, 4);
    s.close(copy);
    s.child(|s| {
        s.read(fd, 2);
    });
    s.read(fd, 2);
    s.fstat(fd);
    s.close(fd);
}

fn vectors(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    let parts: Vec<Vec<u8>> = (0..50).map(|i| pattern(i * 97, i as u64 + 1)).collect();
    let iov: Vec<[usize; 2]> = parts
        .iter()
        .map(|p| [p.as_ptr() as usize, p.len()])
        .collect();
    sys!(s, SYS_writev, fd, at(&*iov), iov.len());
    sys!(s, SYS_pwritev, fd, at(&*iov), 10, 1_000_001);
    let mut back: Vec<Vec<u8>> = (0..40).rev().map(|i| vec![0; i * 101]).collect();
    let iov: Vec<[usize; 2]> = back
        .iter_mut()
        .map(|p| [p.as_mut_ptr() as usize, p.len()])
        .collect();
    sys!(s, SYS_lseek, fd, 13, libc::SEEK_SET);
    sys!(s, SYS_readv, fd, at(&*iov), iov.len());
    sys!(s, SYS_readv, fd, at(&*iov), 3);
    sys!(s, SYS_preadv, fd, at(&*iov), 7, 999_990);
    s.note(crate::side::short(&back.concat()));
    sys!(s, SYS_readv, fd, at(&*iov), 1025);
    s.close(fd);
    s.cat("f");
}

fn call_flags(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    let text = *b"0123456789";
    let iov = [[text.as_ptr() as usize, text.len()]];
    for flags in [
        0,
        libc::RWF_DSYNC,
        libc::RWF_SYNC,
        libc::RWF_APPEND,
        libc::RWF_DSYNC | libc::RWF_APPEND,
    ] {
        sys!(s, SYS_pwritev2, fd, at(&iov), 1, 3, 0, flags);
        s.fstat(fd);
    }
    sys!(
        s,
        SYS_pwritev2,
        fd,
        at(&iov),
        1,
        -1_i64,
        -1_i64,
        libc::RWF_APPEND
    );
    sys!(s, SYS_pwritev2, fd, at(&iov), 1, 0, 0, 1 << 30);
    let mut buffer = [0_u8; 60];
    let back = [[buffer.as_mut_ptr() as usize, buffer.len()]];
    sys!(s, SYS_preadv2, fd, at(&back), 1, 1, 0, 0);
    s.note(crate::side::short(&buffer));
    s.close(fd);
    for flags in [O_SYNC, O_DSYNC, O_SYNC | O_APPEND] {
        let fd = s.open("f", O_WRONLY | flags, 0);
        s.write(fd, b"synced");
        s.close(fd);
    }
    s.cat("f");
}

fn big(s: &mut Side) {
    let data = pattern(3 << 20 | 12_345, 9);
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    s.pwrite(fd, &data[1..], 777);
    s.pread(fd, data.len() + 5000, 1);
    s.pwrite(fd, &data[..2_000_001], 1_500_003);
    s.fstat(fd);
    s.close(fd);
    s.cat("f");
}

fn appenders(s: &mut Side) {
    s.file("log", b"start\n");
    let other = s.open("log", O_WRONLY | O_APPEND, 0);
    s.child(|s| {
        let own = s.open("log", O_WRONLY | O_APPEND, 0);
        for i in 0..200 {
            s.write(
                if i % 2 == 0 { own } else { other },
                b"a line of the child\n",
            );
        }
    });
    // At the same time now: no record is lost, none torn.
    let mut lines = Vec::new();
    std::thread::scope(|threads| {
        for t in 0..4 {
            threads.spawn(move || {
                use std::io::Write as _;
                let mut f = std::fs::OpenOptions::new()
                    .append(true)
                    .open("log")
                    .unwrap();
                for i in 0..250 {
                    f.write_all(format!("thread {t} record {i:04}\n").as_bytes())
                        .unwrap();
                }
            });
        }
    });
    lines.extend(
        std::fs::read_to_string("log")
            .unwrap()
            .lines()
            .map(String::from),
    );
    lines.sort();
    s.note(crate::side::short(lines.join("\n").as_bytes()));
    s.pwrite(other, b"pwrite of an appender appends\n", 0);
    sys!(s, SYS_lseek, other, 0, libc::SEEK_CUR);
    s.fstat(other);
    sys!(s, SYS_unlinkat, CWD, "log", 0);
}

fn append_switched(s: &mut Side) {
    s.file("f", b"0123456789");
    let fd = s.open("f", O_RDWR, 0);
    sys!(s, SYS_fcntl, fd, libc::F_SETFL, O_APPEND);
    s.write(fd, b"end");
    sys!(s, SYS_fcntl, fd, libc::F_GETFL);
    sys!(s, SYS_fcntl, fd, libc::F_SETFL, 0);
    s.pwrite(fd, b"X", 0);
    s.write(fd, b"more");
    s.close(fd);
    s.cat("f");
}

fn syncing(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    s.write(fd, b"to be kept");
    sys!(s, SYS_fsync, fd);
    s.write(fd, b" more");
    sys!(s, SYS_fdatasync, fd);
    sys!(s, SYS_sync_file_range, fd, 0, 100, 7);
    s.close(fd);
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_fsync, fd);
    s.close(fd);
    let dir = s.open(".", O_RDONLY | libc::O_DIRECTORY, 0);
    sys!(s, SYS_fsync, dir);
    sys!(s, SYS_fdatasync, dir);
    sys!(s, SYS_syncfs, dir);
    s.close(dir);
    sys!(s, SYS_fsync, dir);
}

fn unlinked_open(s: &mut Side) {
    s.file("f", b"0123456789");
    let fd = s.open("f", O_RDWR, 0);
    let reader = s.open("f", O_RDONLY, 0);
    s.write(fd, b"before");
    sys!(s, SYS_unlinkat, CWD, "f", 0);
    s.fstat(fd);
    s.write(fd, b" and after");
    s.pread(reader, 100, 0);
    sys!(s, SYS_ftruncate, fd, 4);
    sys!(s, SYS_fchmod, fd, 0o400);
    s.fstat(fd);
    sys!(s, SYS_fsync, fd);
    sys!(s, SYS_fallocate, fd, 0, 0, 10_000);
    s.fstat(reader);
    sys!(s, SYS_fsetxattr, fd, "user.late", at(b"value"), 5, 0);
    sys!(s, SYS_fgetxattr, fd, "user.late", 0, 0);
    s.file("f", b"another file of that name");
    s.pread(fd, 100, 0);
    let path = format!("/proc/self/fd/{fd}");
    let again = std::fs::read(path)
        .map(|data| data.len())
        .map_err(|e| e.raw_os_error());
    s.note(format!("opened again: {again:?}"));
    sys!(s, SYS_linkat, fd, "", CWD, "back", libc::AT_EMPTY_PATH);
    s.close(fd);
    s.pread(reader, 100, 0);
    s.close(reader);
}

fn misuse(s: &mut Side) {
    s.file("f", b"0123456789");
    let read_only = s.open("f", O_RDONLY, 0);
    s.write(read_only, b"x");
    let write_only = s.open("f", O_WRONLY, 0);
    s.read(write_only, 1);
    let dir = s.open(".", O_RDONLY, 0);
    s.read(dir, 1);
    s.write(dir, b"x");
    sys!(s, SYS_ftruncate, dir, 0);
    s.close(read_only);
    s.read(read_only, 1);
    sys!(s, SYS_pread64, write_only, 0, 10, 0);
    sys!(s, SYS_write, write_only, 8, 10);
    let open = s.open("f", O_RDWR, 0);
    sys!(s, SYS_read, open, 8, 10);
    s.pwrite(open, b"x", i64::MAX);
    s.pwrite(open, b"x", 1 << 62);
    s.pread(open, 5, i64::MAX - 2);
    s.close(open);
    s.cat("f");
}

fn many_handles(s: &mut Side) {
    s.file("f", &pattern(1000, 5));
    let handles: Vec<i32> = (0..50).map(|_| s.open("f", O_RDWR, 0)).collect();
    for (&fd, i) in handles.iter().zip(0_i64..) {
        s.pwrite(fd, &i.to_le_bytes(), i * 17);
    }
    let mut seen = [0_u8; 1000];
    sys!(s, SYS_pread64, handles[7], at_mut(&mut seen), 1000, 0);
    s.note(crate::side::short(&seen));
    for fd in handles {
        s.close(fd);
    }
}
