//! Who may do what: owners, groups, set-id bits, sticky directories.

use iolens::event::OpKind;
use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use crate::side::{CWD, Side, at, sys};
use crate::step::Step;

/// A user that owns the files of these steps, and a group that others share.
pub(crate) const OWNER: u32 = 12_345;
pub(crate) const SHARED: u32 = 23_456;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "what a user makes is the user's",
        &[OpKind::Create, OpKind::Mkdir],
        creators,
    )
    .for_root(),
    Step::new(
        "strangers are refused",
        &[OpKind::Open, OpKind::Unlink],
        strangers,
    )
    .for_root(),
    Step::new(
        "supplementary groups count",
        &[OpKind::Open, OpKind::Create],
        groups,
    )
    .for_root(),
    Step::new("chown asks who is asking", &[OpKind::Setattr], owners).for_root(),
    Step::new(
        "sticky directories protect their files",
        &[OpKind::Unlink, OpKind::Rename],
        sticky,
    )
    .for_root(),
    Step::new(
        "O_CREAT finds a stranger's file in a sticky directory",
        &[OpKind::Open],
        protected,
    )
    .for_root(),
    Step::new(
        "an open file stays usable whatever becomes of its mode",
        &[OpKind::Write],
        open_then_chmod,
    ),
    Step::new("O_NOATIME is the owner's", &[OpKind::Open], no_atime).for_root(),
];

pub(crate) fn owner(s: &mut Side, f: impl FnOnce(&mut Side)) {
    s.child(|s| {
        s.become_user(OWNER, OWNER, &[SHARED]);
        f(s);
    });
}

/// A directory where everybody may write.
pub(crate) fn open_dir(s: &mut Side, name: &str, mode: u32) {
    sys!(s, SYS_mkdirat, CWD, name, 0o755);
    sys!(s, SYS_fchmodat, CWD, name, mode);
}

fn creators(s: &mut Side) {
    open_dir(s, "d", 0o777);
    owner(s, |s| {
        s.file("d/file", b"mine");
        sys!(s, SYS_mkdirat, CWD, "d/dir", 0o750);
        sys!(s, SYS_symlinkat, "x", CWD, "d/link");
        sys!(s, SYS_mknodat, CWD, "d/fifo", libc::S_IFIFO | 0o600, 0);
        sys!(s, SYS_mknodat, CWD, "d/plain", libc::S_IFREG | 0o4755, 0);
        sys!(s, SYS_mknodat, CWD, "d/null", libc::S_IFCHR | 0o666, 0x103);
        let fd = s.open("d/locked", O_CREAT | O_RDWR, 0o000);
        s.write(fd, b"written although the mode is 0");
        s.open("d/locked", O_RDONLY, 0);
        let fd = s.open("d/read only", O_CREAT | O_EXCL | O_WRONLY, 0o444);
        s.write(fd, b"likewise");
    });
    for name in [
        "file",
        "dir",
        "link",
        "fifo",
        "plain",
        "locked",
        "read only",
    ] {
        s.stat(&format!("d/{name}"));
    }
}

fn strangers(s: &mut Side) {
    s.file("private", b"secret");
    sys!(s, SYS_fchmodat, CWD, "private", 0o600);
    s.file("readable", b"known");
    open_dir(s, "closed", 0o700);
    s.file("closed/inside", b"x");
    open_dir(s, "listed", 0o744);
    s.file("listed/inside", b"x");
    open_dir(s, "searched", 0o711);
    s.file("searched/inside", b"x");
    s.stranger(|s| {
        s.cat("private");
        s.open("private", O_WRONLY, 0);
        s.open("readable", O_RDWR, 0);
        s.open("readable", O_RDONLY | O_TRUNC, 0);
        sys!(s, SYS_truncate, "readable", 0);
        s.cat("readable");
        for name in ["closed/inside", "listed/inside", "searched/inside"] {
            s.stat(name);
            s.cat(name);
        }
        for dir in ["closed", "listed", "searched"] {
            s.note(format!(
                "{:?}",
                std::fs::read_dir(dir)
                    .map(|_| ())
                    .map_err(|e| e.raw_os_error())
            ));
        }
        s.open("new", O_CREAT | O_WRONLY, 0o644);
        sys!(s, SYS_mkdirat, CWD, "new", 0o755);
        sys!(s, SYS_unlinkat, CWD, "readable", 0);
        sys!(s, SYS_renameat2, CWD, "readable", CWD, "mine", 0);
        sys!(s, SYS_linkat, CWD, "private", CWD, "mine", 0);
        sys!(s, SYS_fchmodat, CWD, "readable", 0o666);
        sys!(s, SYS_utimensat, CWD, "readable", 0, 0);
        sys!(
            s,
            SYS_utimensat,
            CWD,
            "readable",
            at(&[[1_i64, 1], [1, 1]]),
            0
        );
        sys!(s, SYS_setxattr, "readable", "user.x", at(b"x"), 1, 0);
        sys!(s, SYS_chdir, "closed");
        sys!(s, SYS_chdir, "searched");
    });
    sys!(s, SYS_fchmodat, CWD, "private", 0o602);
    s.stranger(|s| {
        s.open("private", O_RDONLY, 0);
        let fd = s.open("private", O_WRONLY, 0);
        s.write(fd, b"S");
    });
    s.cat("private");
}

fn groups(s: &mut Side) {
    open_dir(s, "d", 0o770);
    sys!(s, SYS_fchownat, CWD, "d", 0, SHARED, 0);
    s.file("d/f", b"0");
    sys!(s, SYS_fchownat, CWD, "d/f", 0, SHARED, 0);
    sys!(s, SYS_fchmodat, CWD, "d/f", 0o660);
    owner(s, |s| {
        let fd = s.open("d/f", O_RDWR, 0);
        s.write(fd, b"by the group");
        s.file("d/new", b"made by the group");
        sys!(s, SYS_renameat2, CWD, "d/new", CWD, "d/renamed", 0);
        sys!(s, SYS_fchownat, CWD, "d/renamed", -1_i32, SHARED, 0);
        s.stat("d/renamed");
        sys!(s, SYS_truncate, "d/f", 3);
    });
    s.stranger(|s| {
        s.open("d/f", O_RDONLY, 0);
    });
}

fn owners(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_fchownat, CWD, "f", OWNER, OWNER, 0);
    sys!(s, SYS_fchmodat, CWD, "f", 0o6755);
    s.stat("f");
    owner(s, |s| {
        sys!(s, SYS_fchownat, CWD, "f", 0, -1_i32, 0);
        sys!(s, SYS_fchownat, CWD, "f", -1_i32, 999, 0);
        s.stat("f");
        sys!(s, SYS_fchownat, CWD, "f", OWNER, SHARED, 0);
        s.stat("f");
        sys!(s, SYS_fchmodat, CWD, "f", 0o6755);
        s.stat("f");
        sys!(s, SYS_fchownat, CWD, "f", -1_i32, OWNER, 0);
        // Not a member of the file's group: the bit is not given.
        sys!(s, SYS_fchmodat, CWD, "f", 0o2755);
        s.stat("f");
    });
    sys!(s, SYS_fchownat, CWD, "f", 1, 2, 0);
    s.stat("f");
    sys!(s, SYS_symlinkat, "f", CWD, "l");
    sys!(s, SYS_fchownat, CWD, "l", 7, 8, libc::AT_SYMLINK_NOFOLLOW);
    s.stat("l");
    s.stat("f");
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_fchown, fd, 9, -1_i32);
    s.fstat(fd);
    s.close(fd);
}

fn sticky(s: &mut Side) {
    open_dir(s, "d", 0o1777);
    s.file("d/root's", b"x");
    sys!(s, SYS_fchmodat, CWD, "d/root's", 0o666);
    owner(s, |s| {
        s.file("d/own", b"x");
        s.file("d/second", b"x");
        sys!(s, SYS_mkdirat, CWD, "d/dir", 0o777);
        sys!(s, SYS_unlinkat, CWD, "d/root's", 0);
        sys!(s, SYS_renameat2, CWD, "d/root's", CWD, "d/mine", 0);
        sys!(s, SYS_renameat2, CWD, "d/second", CWD, "d/root's", 0);
    });
    s.stranger(|s| {
        sys!(s, SYS_unlinkat, CWD, "d/own", 0);
        sys!(s, SYS_unlinkat, CWD, "d/dir", libc::AT_REMOVEDIR);
        sys!(s, SYS_renameat2, CWD, "d/own", CWD, "d/other", 0);
        sys!(
            s,
            SYS_renameat2,
            CWD,
            "d/own",
            CWD,
            "d/second",
            libc::RENAME_EXCHANGE
        );
        s.file("d/stranger's", b"x");
    });
    owner(s, |s| {
        sys!(s, SYS_unlinkat, CWD, "d/own", 0);
        sys!(s, SYS_unlinkat, CWD, "d/dir", libc::AT_REMOVEDIR);
    });
    sys!(s, SYS_unlinkat, CWD, "d/stranger's", 0);
}

/// The outcome depends on fs.protected_regular and fs.protected_fifos, for both sides alike.
fn protected(s: &mut Side) {
    open_dir(s, "d", 0o1777);
    owner(s, |s| {
        s.file("d/f", b"x");
        sys!(s, SYS_fchmodat, CWD, "d/f", 0o666);
        sys!(s, SYS_mknodat, CWD, "d/p", libc::S_IFIFO | 0o600, 0);
        sys!(s, SYS_fchmodat, CWD, "d/p", 0o666);
    });
    let open_all = |s: &mut Side| {
        s.open("d/f", O_CREAT | O_RDWR, 0o644);
        s.open("d/f", O_CREAT | O_EXCL | O_RDWR, 0o644);
        s.open("d/f", O_RDWR, 0);
        s.open("d/p", O_CREAT | O_RDWR | libc::O_NONBLOCK, 0o644);
        s.open("d/p", O_RDWR | libc::O_NONBLOCK, 0);
    };
    open_all(s);
    s.stranger(open_all);
    owner(s, open_all);
}

fn open_then_chmod(s: &mut Side) {
    s.file("f", b"0123456789");
    let fd = s.open("f", O_RDWR, 0);
    sys!(s, SYS_fchmodat, CWD, "f", 0);
    s.write(fd, b"still");
    s.pread(fd, 10, 0);
    sys!(s, SYS_ftruncate, fd, 7);
    s.fstat(fd);
    s.close(fd);
    sys!(s, SYS_fchmodat, CWD, "f", 0o644);
    s.cat("f");
}

fn no_atime(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_fchmodat, CWD, "f", 0o666);
    s.open("f", O_RDONLY | libc::O_NOATIME, 0);
    s.stranger(|s| {
        s.open("f", O_RDONLY | libc::O_NOATIME, 0);
        s.open("f", O_RDONLY, 0);
    });
}
