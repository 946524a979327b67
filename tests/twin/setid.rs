//! Set-id bits and capabilities: what takes them away, and set-gid directories.

use iolens::event::OpKind;
use libc::{O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use crate::side::{CWD, Side, at, sys};
use crate::step::Step;
use crate::users::{OWNER, SHARED, open_dir, owner};

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "a write takes the set-id bits away",
        &[OpKind::Write],
        set_id_write,
    )
    .for_root(),
    Step::new(
        "other changes take them away too",
        &[OpKind::Setattr, OpKind::Fallocate],
        set_id_others,
    )
    .for_root(),
    Step::new(
        "capabilities go with the first write",
        &[OpKind::Removexattr],
        capabilities,
    )
    .for_root(),
    Step::new(
        "set-gid directories hand down their group",
        &[OpKind::Mkdir, OpKind::Create],
        set_gid_dirs,
    )
    .for_root(),
];

/// A file of 06777 that belongs to root.
fn set_id_file(s: &mut Side, name: &str) {
    s.file(name, b"0123456789");
    sys!(s, SYS_fchmodat, CWD, name, 0o6777);
}

fn set_id_write(s: &mut Side) {
    set_id_file(s, "f");
    let fd = s.open("f", O_RDWR, 0);
    s.write(fd, b"by root");
    s.stat("f");
    s.close(fd);
    set_id_file(s, "f");
    s.stranger(|s| {
        let fd = s.open("f", O_RDWR, 0);
        s.stat("f");
        s.write(fd, b"x");
        s.stat("f");
    });
    s.stat("f");
    // Not executable by the group: set-gid once meant mandatory locking, and stays.
    set_id_file(s, "g");
    sys!(s, SYS_fchmodat, CWD, "g", 0o2767);
    s.stranger(|s| {
        let fd = s.open("g", O_RDWR, 0);
        s.write(fd, b"x");
        s.stat("g");
    });
}

fn set_id_others(s: &mut Side) {
    for name in ["truncated", "ftruncated", "opened", "allocated", "copied"] {
        set_id_file(s, name);
    }
    s.stranger(|s| {
        sys!(s, SYS_truncate, "truncated", 3);
        s.stat("truncated");
        let fd = s.open("ftruncated", O_RDWR, 0);
        sys!(s, SYS_ftruncate, fd, 20);
        s.stat("ftruncated");
        let fd = s.open("opened", O_WRONLY | O_TRUNC, 0);
        s.stat("opened");
        s.close(fd);
        let fd = s.open("allocated", O_RDWR, 0);
        sys!(s, SYS_fallocate, fd, 0, 0, 100);
        s.stat("allocated");
        let from = s.open("ftruncated", O_RDONLY, 0);
        let fd = s.open("copied", O_RDWR, 0);
        sys!(s, SYS_copy_file_range, from, 0, fd, 0, 10, 0);
        s.stat("copied");
    });
}

fn capabilities(s: &mut Side) {
    // struct vfs_cap_data, revision 2: cap_net_raw permitted.
    let capability: [u32; 5] = [0x0200_0000, 1 << 13, 0, 0, 0];
    for name in ["written", "truncated", "owned", "root's"] {
        s.file(name, b"x");
        sys!(s, SYS_fchmodat, CWD, name, 0o666);
        sys!(
            s,
            SYS_setxattr,
            name,
            "security.capability",
            at(&capability),
            20,
            0
        );
    }
    s.stranger(|s| {
        let fd = s.open("written", O_WRONLY, 0);
        s.write(fd, b"y");
        sys!(s, SYS_truncate, "truncated", 0);
    });
    sys!(s, SYS_fchownat, CWD, "owned", OWNER, OWNER, 0);
    let fd = s.open("root's", O_WRONLY, 0);
    s.write(fd, b"y");
    s.close(fd);
    for name in ["written", "truncated", "owned", "root's"] {
        s.note(name);
        sys!(s, SYS_getxattr, name, "security.capability", 0, 0);
    }
}

fn set_gid_dirs(s: &mut Side) {
    open_dir(s, "d", 0o777);
    sys!(s, SYS_fchownat, CWD, "d", 0, SHARED, 0);
    sys!(s, SYS_fchmodat, CWD, "d", 0o2777);
    let make = |s: &mut Side, who: &str| {
        let name = |what: &str| format!("d/{what} of {who}");
        s.file(&name("file"), b"x");
        sys!(s, SYS_mkdirat, CWD, &*name("dir"), 0o755);
        sys!(
            s,
            SYS_mknodat,
            CWD,
            &*name("fifo"),
            libc::S_IFIFO | 0o644,
            0
        );
        sys!(s, SYS_symlinkat, "x", CWD, &*name("link"));
        s.open(&name("set-gid"), O_CREAT | O_WRONLY, 0o2755);
        for what in ["file", "dir", "fifo", "link", "set-gid"] {
            s.stat(&name(what));
        }
    };
    make(s, "root");
    owner(s, |s| make(s, "a member"));
    s.stranger(|s| make(s, "a stranger"));
}
