//! Attributes: modes, times, extended attributes, flags, the whole filesystem's numbers.

use iolens::event::OpKind;
use libc::{O_CREAT, O_RDONLY, O_RDWR};

use crate::side::{CWD, Side, at, at_mut, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "chmod sets every bit",
        &[OpKind::Setattr, OpKind::Getattr],
        modes,
    ),
    Step::new(
        "the umask holds for everything made",
        &[OpKind::Create, OpKind::Mkdir, OpKind::Mknod],
        umask,
    ),
    Step::new(
        "times keep their nanoseconds in every century",
        &[OpKind::Setattr],
        times,
    ),
    Step::new(
        "UTIME_NOW and UTIME_OMIT",
        &[OpKind::Setattr],
        special_times,
    ),
    Step::new(
        "writing and reading move the times",
        &[OpKind::Write, OpKind::Setattr],
        moved_times,
    ),
    Step::new("inode flags", &[OpKind::Ioctl], inode_flags),
    Step::new(
        "unknown ioctls are refused",
        &[OpKind::Ioctl],
        unknown_ioctl,
    ),
    Step::new(
        "statfs tells of the filesystem below",
        &[OpKind::Statfs],
        statfs,
    ),
    Step::new("access asks what may be done", &[OpKind::Access], access),
    Step::new(
        "access of another user",
        &[OpKind::Getattr],
        access_of_strangers,
    )
    .for_root(),
];

fn modes(s: &mut Side) {
    s.file("f", b"");
    sys!(s, SYS_mkdirat, CWD, "d", 0o700);
    for mode in [0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777, 0o640] {
        sys!(s, SYS_fchmodat, CWD, "f", mode);
        s.stat("f");
        sys!(s, SYS_fchmodat, CWD, "d", mode | 0o500);
        s.stat("d");
    }
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_fchmod, fd, 0o604);
    s.close(fd);
    s.stat("f");
    sys!(s, SYS_symlinkat, "f", CWD, "l");
    sys!(s, SYS_fchmodat, CWD, "l", 0o611);
    s.stat("f");
    s.stat("l");
    sys!(s, SYS_fchmodat2, CWD, "l", 0o600, libc::AT_SYMLINK_NOFOLLOW);
    sys!(s, SYS_fchmodat, CWD, "missing", 0o600);
    let path_only = s.open("f", libc::O_PATH, 0);
    sys!(s, SYS_fchmod, path_only, 0o600);
    s.fstat(path_only);
}

fn umask(s: &mut Side) {
    for mask in [0, 0o022, 0o077, 0o777] {
        sys!(s, SYS_umask, mask);
        let name = |what: &str| format!("{what} {mask:o}");
        s.open(&name("file"), O_CREAT | O_RDWR, 0o666);
        sys!(s, SYS_mkdirat, CWD, &*name("dir"), 0o777);
        sys!(
            s,
            SYS_mknodat,
            CWD,
            &*name("fifo"),
            libc::S_IFIFO | 0o666,
            0
        );
        sys!(s, SYS_symlinkat, "x", CWD, &*name("link"));
        for what in ["file", "dir", "fifo", "link"] {
            s.stat(&name(what));
        }
    }
}

fn set_times(s: &mut Side, name: &str, times: [[i64; 2]; 2], flags: i32) {
    s.note(format!("set times of {name} to {times:?}"));
    sys!(s, SYS_utimensat, CWD, name, at(&times), flags);
    s.times(name);
}

fn times(s: &mut Side) {
    s.file("f", b"x");
    let values = [
        [[1, 2], [3, 999_999_999]],
        [[-1, 500_000_000], [-1_000_000, 1]],
        [[0, 0], [-86_400, 0]],
        [[2_147_483_647, 1], [2_147_483_648, 2]],
        [[4_000_000_000, 123_456_789], [9_000_000_000, 987_654_321]],
        [[-2_147_483_648, 7], [-2_147_483_648, 0]],
        // Beyond what ext4 can hold: clamped.
        [[1 << 40, 5], [-(1 << 40), 5]],
    ];
    for (time, i) in values.into_iter().zip(0..) {
        let name = format!("f{i}");
        s.file(&name, b"x");
        set_times(s, &name, time, 0);
    }
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    set_times(s, "d", [[1_000, 1], [2_000, 2]], 0);
    sys!(s, SYS_symlinkat, "f", CWD, "l");
    set_times(
        s,
        "l",
        [[-5, 5], [5_000_000_000, 5]],
        libc::AT_SYMLINK_NOFOLLOW,
    );
    s.times("f");
    set_times(s, "l", [[11, 11], [12, 12]], 0);
    sys!(s, SYS_mknodat, CWD, "p", libc::S_IFIFO | 0o600, 0);
    set_times(s, "p", [[77, 7], [88, 8]], 0);
    set_times(s, "f", [[0, 1_000_000_000], [0, 0]], 0);
    set_times(s, "f", [[0, -1], [0, 0]], 0);
    set_times(s, "missing", [[0, 0], [0, 0]], 0);
}

fn special_times(s: &mut Side) {
    let (now, omit) = ([0, libc::UTIME_NOW], [0, libc::UTIME_OMIT]);
    s.file("f", b"x");
    set_times(s, "f", [[10, 1], [20, 2]], 0);
    set_times(s, "f", [omit, [30, 3]], 0);
    set_times(s, "f", [[40, 4], omit], 0);
    set_times(s, "f", [omit, omit], 0);
    set_times(s, "f", [now, omit], 0);
    set_times(s, "f", [omit, now], 0);
    set_times(s, "f", [[50, 5], now], 0);
    sys!(s, SYS_utimensat, CWD, "f", 0, 0);
    s.times("f");
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_utimensat, fd, 0, at(&[[60_i64, 6], [70, 7]]), 0);
    s.times("f");
    s.close(fd);
}

fn moved_times(s: &mut Side) {
    s.file("f", b"x");
    let old = [[100, 1], [200, 2]];
    set_times(s, "f", old, 0);
    let fd = s.open("f", O_RDWR, 0);
    s.times("f");
    s.write(fd, b"yy");
    s.times("f");
    // As cp -p and tar do: the time is set on the open file and must survive the close.
    sys!(s, SYS_utimensat, fd, 0, at(&[[300_i64, 3], [400, 4]]), 0);
    s.times("f");
    s.close(fd);
    s.times("f");
    set_times(s, "f", old, 0);
    sys!(s, SYS_truncate, "f", 1);
    s.times("f");
    set_times(s, "f", old, 0);
    sys!(s, SYS_truncate, "f", 1);
    s.times("f");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    set_times(s, "d", old, 0);
    s.file("d/new", b"");
    s.times("d");
    set_times(s, "d", old, 0);
    sys!(s, SYS_unlinkat, CWD, "d/new", 0);
    s.times("d");
}

/// `_IOR('f', 1, long)` and `_IOW('f', 2, long)` of include/uapi/linux/fs.h.
const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
/// include/uapi/linux/fs.h: FS_NODUMP_FL and FS_NOATIME_FL, which every user may set.
const NODUMP_NOATIME: u64 = 0x40 | 0x80;

fn inode_flags(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    for name in ["f", "d"] {
        let fd = s.open(name, O_RDONLY, 0);
        let mut flags = 0_u64;
        sys!(s, SYS_ioctl, fd, FS_IOC_GETFLAGS, at_mut(&mut flags));
        s.note(format!("{flags:#x}"));
        flags |= NODUMP_NOATIME;
        sys!(s, SYS_ioctl, fd, FS_IOC_SETFLAGS, at(&flags));
        let mut back = 0_u64;
        sys!(s, SYS_ioctl, fd, FS_IOC_GETFLAGS, at_mut(&mut back));
        s.note(format!("{back:#x}"));
        s.close(fd);
    }
}

fn unknown_ioctl(s: &mut Side) {
    s.file("f", b"12345");
    let fd = s.open("f", O_RDWR, 0);
    let mut value = 0_u64;
    // A terminal's size, of a file.
    sys!(s, SYS_ioctl, fd, libc::TIOCGWINSZ, at_mut(&mut value));
    sys!(s, SYS_ioctl, fd, libc::FIONREAD, at_mut(&mut value));
    s.note(format!("{}", value & 0xffff_ffff));
    s.close(fd);
}

fn statfs(s: &mut Side) {
    s.file("f", b"x");
    for name in [".", "f"] {
        // struct statfs: f_type f_bsize f_blocks f_bfree f_bavail f_files f_ffree f_fsid f_namelen f_frsize ...
        let mut st = [0_u64; 15];
        sys!(s, SYS_statfs, name, at_mut(&mut st));
        // What is free changes while we look.
        s.note(format!(
            "block {} of {}, names {}, fragment {}",
            st[1], st[2], st[8], st[9]
        ));
        s.note(format!(
            "free but not more than all: {}",
            st[3] > 0 && st[3] <= st[2] && st[5] > st[6]
        ));
    }
    let mut st = [0_u64; 15];
    sys!(s, SYS_statfs, "missing", at_mut(&mut st));
}

fn ask_access(s: &mut Side) {
    for name in ["f", "d", "missing"] {
        for mode in [libc::F_OK, libc::R_OK, libc::W_OK, libc::X_OK] {
            sys!(s, SYS_faccessat, CWD, name, mode);
        }
    }
}

fn access(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_fchmodat, CWD, "f", 0o640);
    sys!(s, SYS_mkdirat, CWD, "d", 0o700);
    ask_access(s);
    sys!(s, SYS_fchmodat, CWD, "f", 0o755);
    ask_access(s);
    sys!(s, SYS_faccessat, CWD, "f", 64);
    sys!(s, SYS_chdir, "d");
    sys!(s, SYS_chdir, "../f");
}

fn access_of_strangers(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o700);
    for mode in [0o640, 0o604, 0o755] {
        sys!(s, SYS_fchmodat, CWD, "f", mode);
        s.stranger(ask_access);
    }
}
