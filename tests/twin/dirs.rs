//! Listing directories while they change.

use std::collections::BTreeSet;
use std::ffi::CStr;

use iolens::event::OpKind;
use libc::{O_DIRECTORY, O_RDONLY};

use crate::side::{CWD, Side, at_mut, raw, short, sys};
use crate::step::Step;

const DIR: i32 = O_RDONLY | O_DIRECTORY;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "a listing has every name and type once",
        &[OpKind::Opendir, OpKind::Readdir],
        listing,
    ),
    Step::new(
        "thousands of names, in small pieces",
        &[OpKind::Readdir, OpKind::Releasedir],
        many,
    )
    .slow(),
    Step::new(
        "a remembered position leads back",
        &[OpKind::Readdir],
        positions,
    ),
    Step::new(
        "rewinding shows what has changed",
        &[OpKind::Readdir],
        rewinding,
    ),
    Step::new(
        "deleting while listing deletes all",
        &[OpKind::Readdir, OpKind::Unlink],
        deleting,
    )
    .slow(),
    Step::new(
        "a directory removed while open is empty",
        &[OpKind::Rmdir, OpKind::Opendir],
        removed,
    ),
    Step::new(
        "two handles of a directory do not disturb each other",
        &[OpKind::Opendir],
        two_handles,
    ),
    Step::new(
        "directories opened in unusual ways",
        &[OpKind::Opendir],
        unusual,
    ),
];

struct Entry {
    name: String,
    kind: u8,
    next: i64,
}

/// One getdents64 call: what it returned, in its order.
fn list_some(fd: i32, size: usize) -> Result<Vec<Entry>, nix::errno::Errno> {
    let mut buffer = vec![0_u8; size];
    let end = raw(
        libc::SYS_getdents64,
        &[fd.into(), at_mut(&mut *buffer), size.into()],
    )?;
    let (mut entries, mut rest) = (Vec::new(), &buffer[..usize::try_from(end).unwrap()]);
    while !rest.is_empty() {
        // struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name.
        let length = usize::from(u16::from_ne_bytes(rest[16..18].try_into().unwrap()));
        entries.push(Entry {
            name: CStr::from_bytes_until_nul(&rest[19..])
                .unwrap()
                .to_string_lossy()
                .into(),
            kind: rest[18],
            next: i64::from_ne_bytes(rest[8..16].try_into().unwrap()),
        });
        rest = &rest[length..];
    }
    Ok(entries)
}

fn list_all(fd: i32, size: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let some = list_some(fd, size).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Writes down names and types in an order of our own: a filesystem's is its own affair.
fn show(s: &mut Side, entries: &[Entry]) {
    let mut lines: Vec<String> = entries
        .iter()
        .map(|e| format!("{} {}", e.name, e.kind))
        .collect();
    lines.sort();
    s.note(format!(
        "{} entries: {}",
        lines.len(),
        lines.join(", ").chars().take(300).collect::<String>()
    ));
    s.note(short(lines.join("\n").as_bytes()));
}

fn make_files(s: &mut Side, dir: &str, count: usize) {
    sys!(s, SYS_mkdirat, CWD, dir, 0o755);
    for i in 0..count {
        std::fs::write(format!("{dir}/a file with the number {i:05}"), b"").unwrap();
    }
}

fn listing(s: &mut Side) {
    s.file("file", b"x");
    sys!(s, SYS_mkdirat, CWD, "dir", 0o755);
    sys!(s, SYS_symlinkat, "x", CWD, "link");
    sys!(s, SYS_mknodat, CWD, "fifo", libc::S_IFIFO | 0o644, 0);
    sys!(s, SYS_mknodat, CWD, "socket", libc::S_IFSOCK | 0o644, 0);
    for dir in [".", "dir"] {
        let fd = s.open(dir, DIR, 0);
        show(s, &list_all(fd, 4096));
        show(s, &list_all(fd, 4096));
        s.close(fd);
    }
    let fd = s.open(".", DIR, 0);
    let tiny = list_some(fd, 10).map(|e| e.len());
    s.note(format!("no room for an entry: {tiny:?}"));
    let file = s.open("file", O_RDONLY, 0);
    s.note(format!(
        "not a directory: {:?}",
        list_some(file, 4096).map(|e| e.len())
    ));
    let numbers: Vec<bool> = list_all(fd, 4096)
        .iter()
        .map(|e| e.name != ".." && crate::side::status(CWD, &e.name, 0x100).is_ok())
        .collect();
    s.note(format!(
        "{} of them can be found",
        numbers.iter().filter(|&&b| b).count()
    ));
}

fn many(s: &mut Side) {
    make_files(s, "d", 5000);
    for size in [1 << 20, 4096, 300] {
        let fd = s.open("d", DIR, 0);
        let all = list_all(fd, size);
        let different: BTreeSet<_> = all.iter().map(|e| &e.name).collect();
        s.note(format!("{} entries, {} names", all.len(), different.len()));
        show(s, &all);
        s.close(fd);
    }
    // The comparison of trees need not see them all.
    for entry in std::fs::read_dir("d").unwrap().skip(10) {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let left = std::fs::read_dir("d").unwrap().count();
    s.note(format!("{left} left"));
    std::fs::remove_dir_all("d").unwrap();
}

fn positions(s: &mut Side) {
    make_files(s, "d", 300);
    let fd = s.open("d", DIR, 0);
    let all = list_all(fd, 1000);
    for i in [0, 1, 7, 150, 298, 300, 301] {
        raw(
            libc::SYS_lseek,
            &[fd.into(), all[i].next.into(), libc::SEEK_SET.into()],
        )
        .unwrap();
        let following = list_some(fd, 1000).unwrap();
        let wanted = all.get(i + 1).map(|e| &e.name);
        s.note(format!(
            "after entry {i}: as before {}",
            following.first().map(|e| &e.name) == wanted
        ));
    }
    // A fresh handle understands the position too, as NFS servers expect.
    let fresh = s.open("d", DIR, 0);
    raw(
        libc::SYS_lseek,
        &[fresh.into(), all[99].next.into(), libc::SEEK_SET.into()],
    )
    .unwrap();
    let rest: Vec<String> = list_all(fresh, 4096).into_iter().map(|e| e.name).collect();
    s.note(format!(
        "{} after entry 99, the same: {}",
        rest.len(),
        rest.iter().eq(all[100..].iter().map(|e| &e.name))
    ));
    sys!(s, SYS_lseek, fd, -1, libc::SEEK_SET);
}

fn rewinding(s: &mut Side) {
    make_files(s, "d", 20);
    let fd = s.open("d", DIR, 0);
    show(s, &list_all(fd, 4096));
    s.file("d/new", b"x");
    sys!(s, SYS_unlinkat, CWD, "d/a file with the number 00003", 0);
    sys!(
        s,
        SYS_renameat2,
        CWD,
        "d/a file with the number 00004",
        CWD,
        "d/renamed",
        0
    );
    s.note(format!(
        "at the end still: {}",
        list_some(fd, 4096).unwrap().len()
    ));
    sys!(s, SYS_lseek, fd, 0, libc::SEEK_SET);
    show(s, &list_all(fd, 4096));
    s.close(fd);
}

fn deleting(s: &mut Side) {
    make_files(s, "d", 2000);
    let fd = s.open("d", DIR, 0);
    let mut deleted = 0;
    loop {
        let some = list_some(fd, 2000).unwrap();
        if some.is_empty() {
            break;
        }
        for entry in some.iter().filter(|e| !e.name.starts_with('.')) {
            let args = [fd.into(), (&*entry.name).into(), 0.into()];
            deleted += i32::from(raw(libc::SYS_unlinkat, &args).is_ok());
        }
    }
    s.note(format!("{deleted} deleted"));
    sys!(s, SYS_unlinkat, CWD, "d", libc::AT_REMOVEDIR);
}

fn removed(s: &mut Side) {
    make_files(s, "d", 3);
    let fd = s.open("d", DIR, 0);
    show(s, &list_all(fd, 4096));
    for i in 0..3 {
        sys!(
            s,
            SYS_unlinkat,
            fd,
            &*format!("a file with the number {i:05}"),
            0
        );
    }
    sys!(s, SYS_unlinkat, CWD, "d", libc::AT_REMOVEDIR);
    sys!(s, SYS_lseek, fd, 0, libc::SEEK_SET);
    s.note(format!("{:?}", list_some(fd, 4096).map(|e| e.len())));
    s.fstat(fd);
    sys!(s, SYS_mkdirat, fd, "new", 0o755);
    sys!(
        s,
        SYS_openat,
        fd,
        "new",
        libc::O_CREAT | libc::O_WRONLY,
        0o644
    );
    sys!(s, SYS_fchmod, fd, 0o700);
    s.fstat(fd);
    // A new directory of that name is another one.
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.fstat(fd);
    s.close(fd);
}

fn two_handles(s: &mut Side) {
    make_files(s, "d", 100);
    let a = s.open("d", DIR, 0);
    let b = s.open("d", DIR, 0);
    let mut from_a = list_some(a, 1000).unwrap();
    let from_b = list_all(b, 500);
    from_a.extend(list_all(a, 700));
    show(s, &from_a);
    show(s, &from_b);
    let copy = s.descriptor("dup", libc::SYS_dup, &[a.into()]);
    sys!(s, SYS_lseek, copy, 0, libc::SEEK_SET);
    show(s, &list_all(a, 4096));
}

fn unusual(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_symlinkat, "d", CWD, "l");
    s.open("f", DIR, 0);
    s.open("l", DIR, 0);
    s.open("l", DIR | libc::O_NOFOLLOW, 0);
    s.open("d", libc::O_RDWR | O_DIRECTORY, 0);
    s.open("d", libc::O_RDONLY | libc::O_CREAT, 0o644);
    s.open("d", libc::O_RDONLY | libc::O_TRUNC, 0);
    s.open("new", libc::O_CREAT | O_DIRECTORY | libc::O_WRONLY, 0o644);
    let path = s.open("d", libc::O_PATH, 0);
    s.note(format!("{:?}", list_some(path, 4096).map(|e| e.len())));
    s.fstat(path);
    let inside = s.descriptor(
        "openat",
        libc::SYS_openat,
        &[
            path.into(),
            "g".into(),
            (libc::O_CREAT | libc::O_RDWR).into(),
            0o644.into(),
        ],
    );
    s.write(inside, b"below an O_PATH directory");
    s.cat("d/g");
    sys!(s, SYS_fchdir, path);
    s.cat("g");
}
