//! Sizes: truncation, holes, allocation, limits.

use iolens::event::OpKind;
use libc::{O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use crate::side::{CWD, Side, at, pattern, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "truncated bytes come back as zeros",
        &[OpKind::Setattr],
        truncation,
    ),
    Step::new(
        "O_TRUNC empties for all handles",
        &[OpKind::Open, OpKind::Setattr],
        open_truncate,
    ),
    Step::new("holes are where they are natively", &[OpKind::Lseek], holes),
    Step::new("lseek answers every whence", &[OpKind::Lseek], seeking),
    Step::new(
        "fallocate knows the same modes",
        &[OpKind::Fallocate],
        allocation,
    ),
    Step::new(
        "the file size limit is the caller's",
        &[OpKind::Write],
        size_limit,
    ),
];

fn truncation(s: &mut Side) {
    s.file("f", &pattern(10_000, 3));
    let fd = s.open("f", O_RDWR, 0);
    sys!(s, SYS_ftruncate, fd, 5001);
    s.fstat(fd);
    sys!(s, SYS_ftruncate, fd, 9000);
    s.pread(fd, 20_000, 4990);
    sys!(s, SYS_truncate, "f", 3);
    sys!(s, SYS_truncate, "f", 100_000);
    s.pread(fd, 200_000, 0);
    sys!(s, SYS_ftruncate, fd, -1);
    sys!(s, SYS_ftruncate, fd, 1_i64 << 62);
    sys!(s, SYS_truncate, ".", 0);
    sys!(s, SYS_truncate, "missing", 0);
    s.close(fd);
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_ftruncate, fd, 0);
    s.close(fd);
    s.stat("f");
}

fn open_truncate(s: &mut Side) {
    s.file("f", &pattern(9000, 4));
    let a = s.open("f", O_RDWR, 0);
    s.pwrite(a, b"written before", 0);
    let b = s.open("f", O_WRONLY | O_TRUNC, 0);
    s.fstat(a);
    s.pread(a, 100, 0);
    s.write(b, b"new");
    s.pread(a, 100, 0);
    s.pwrite(a, b"far", 5000);
    s.close(a);
    s.close(b);
    s.cat("f");
    let fd = s.open("f", O_RDONLY | O_TRUNC, 0);
    s.close(fd);
    s.stat("f");
    let fd = s.open("f", O_CREAT | O_TRUNC | O_RDWR | O_APPEND, 0);
    s.write(fd, b"again");
    s.close(fd);
}

fn holes(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    s.pwrite(fd, &pattern(4096, 1), 1 << 20);
    s.pwrite(fd, &pattern(100, 2), 5 << 20);
    sys!(s, SYS_ftruncate, fd, 8 << 20);
    sys!(s, SYS_fsync, fd);
    for from in [
        0,
        1 << 20,
        (1 << 20) + 4096,
        5 << 20,
        6 << 20,
        8 << 20,
        9 << 20,
        -1,
    ] {
        sys!(s, SYS_lseek, fd, from, libc::SEEK_DATA);
        sys!(s, SYS_lseek, fd, from, libc::SEEK_HOLE);
    }
    s.pread(fd, 10_000, (1 << 20) - 5000);
    s.close(fd);
    let fd = s.open("huge", O_CREAT | O_RDWR, 0o600);
    s.pwrite(fd, b"x", 1 << 40);
    s.fstat(fd);
    s.pread(fd, 100, (1 << 40) - 50);
    sys!(s, SYS_lseek, fd, 0, libc::SEEK_DATA);
    // Too big to be read whole by the comparison of trees.
    sys!(s, SYS_unlinkat, CWD, "huge", 0);
}

fn seeking(s: &mut Side) {
    s.file("f", b"0123456789");
    let fd = s.open("f", O_RDWR, 0);
    sys!(s, SYS_lseek, fd, -3, libc::SEEK_END);
    s.read(fd, 2);
    sys!(s, SYS_lseek, fd, 4, libc::SEEK_CUR);
    s.write(fd, b"z");
    sys!(s, SYS_lseek, fd, -100, libc::SEEK_CUR);
    sys!(s, SYS_lseek, fd, -100, libc::SEEK_END);
    sys!(s, SYS_lseek, fd, 0, 99);
    // Somebody else's growth is seen by SEEK_END.
    s.child(|s| {
        let fd = s.open("f", O_WRONLY | O_APPEND, 0);
        s.write(fd, b"grown");
    });
    sys!(s, SYS_lseek, fd, 0, libc::SEEK_END);
    s.close(fd);
}

fn allocation(s: &mut Side) {
    let data = pattern(100_000, 7);
    s.file("f", &data);
    let fd = s.open("f", O_RDWR, 0);
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    sys!(s, SYS_fallocate, fd, 0, 90_000, 60_000);
    s.fstat(fd);
    sys!(s, SYS_fallocate, fd, keep, 200_000, 100_000);
    s.fstat(fd);
    sys!(
        s,
        SYS_fallocate,
        fd,
        keep | libc::FALLOC_FL_PUNCH_HOLE,
        10_000,
        20_001
    );
    s.pread(fd, 50_000, 5000);
    sys!(
        s,
        SYS_fallocate,
        fd,
        keep | libc::FALLOC_FL_ZERO_RANGE,
        40_000,
        5000
    );
    sys!(
        s,
        SYS_fallocate,
        fd,
        libc::FALLOC_FL_ZERO_RANGE,
        140_000,
        30_000
    );
    s.fstat(fd);
    s.pread(fd, 200_000, 0);
    sys!(s, SYS_fallocate, fd, libc::FALLOC_FL_PUNCH_HOLE, 0, 4096);
    sys!(s, SYS_fallocate, fd, 0, -1, 10);
    sys!(s, SYS_fallocate, fd, 0, 0, 0);
    sys!(s, SYS_fallocate, fd, 0x1000, 0, 10);
    s.close(fd);
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_fallocate, fd, 0, 0, 10);
    s.close(fd);
    let fd = s.open(".", O_RDONLY, 0);
    sys!(s, SYS_fallocate, fd, 0, 0, 10);
    s.close(fd);
    let fd = s.open("f", O_RDWR, 0);
    sys!(
        s,
        SYS_fallocate,
        fd,
        libc::FALLOC_FL_COLLAPSE_RANGE,
        1,
        4096
    );
    sys!(s, SYS_fallocate, fd, libc::FALLOC_FL_INSERT_RANGE, 1, 4096);
    s.close(fd);
}

fn size_limit(s: &mut Side) {
    s.child(|s| {
        let limit = [5000_u64, 5000];
        // SAFETY: ignoring a signal touches no memory.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        sys!(s, SYS_prlimit64, 0, libc::RLIMIT_FSIZE, at(&limit), 0);
        let fd = s.open("f", O_CREAT | O_RDWR, 0o644);
        s.write(fd, &pattern(4000, 1));
        s.write(fd, &pattern(4000, 2));
        s.write(fd, b"x");
        sys!(s, SYS_ftruncate, fd, 6000);
        sys!(s, SYS_fallocate, fd, 0, 0, 6000);
        s.fstat(fd);
    });
    s.child(|s| {
        let limit = [5000_u64, 5000];
        sys!(s, SYS_prlimit64, 0, libc::RLIMIT_FSIZE, at(&limit), 0);
        let fd = s.open("f", O_RDWR, 0o644);
        s.pwrite(fd, b"x", 5000);
    });
    s.stat("f");
}
