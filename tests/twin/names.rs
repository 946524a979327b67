//! Names: creating, linking, moving and removing them.

use iolens::event::OpKind;

use crate::side::{CWD, Side, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "mkdir and rmdir answer as the native ones",
        &[OpKind::Mkdir, OpKind::Rmdir],
        directories,
    ),
    Step::new(
        "unlink takes one name and leaves the others",
        &[OpKind::Unlink, OpKind::Link],
        unlinks,
    ),
    Step::new("hard links are one inode", &[OpKind::Link], hard_links),
    Step::new(
        "symlinks say what they were told",
        &[OpKind::Symlink, OpKind::Readlink],
        symlinks,
    ),
    Step::new(
        "paths that are too long, too deep or not there",
        &[OpKind::Lookup],
        bad_paths,
    ),
    Step::new(
        "names are bytes",
        &[OpKind::Lookup, OpKind::Create],
        odd_names,
    ),
    Step::new(
        "rename replaces what may be replaced",
        &[OpKind::Rename],
        renames,
    ),
    Step::new(
        "rename keeps NOREPLACE, EXCHANGE and WHITEOUT",
        &[OpKind::Rename],
        rename_flags,
    ),
    Step::new(
        "a directory cannot move into itself",
        &[OpKind::Rename],
        rename_into_itself,
    ),
    Step::new(
        "open files follow renames",
        &[OpKind::Rename, OpKind::Write],
        rename_open,
    ),
    Step::new(
        "the working directory has its name",
        &[OpKind::Rename, OpKind::Lookup],
        working_directory,
    ),
    Step::new(
        "a name may be reused at once by another type",
        &[OpKind::Unlink, OpKind::Mkdir],
        reused,
    ),
];

fn directories(s: &mut Side) {
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_mkdirat, CWD, "d/e", 0o1770);
    sys!(s, SYS_mkdirat, CWD, "missing/e", 0o755);
    s.file("f", b"a file");
    sys!(s, SYS_mkdirat, CWD, "f/e", 0o755);
    sys!(s, SYS_mkdirat, CWD, "f", 0o755);
    s.stat("d");
    s.stat("d/e");
    sys!(s, SYS_unlinkat, CWD, "d", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "f", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "missing", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "d/.", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "d/e/..", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "d/e", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "d", 0);
    s.stat("d");
    sys!(s, SYS_mkdirat, CWD, "kept", 0o2755);
    s.stat("kept");
}

fn unlinks(s: &mut Side) {
    s.file("a", b"one");
    sys!(s, SYS_linkat, CWD, "a", CWD, "b", 0);
    sys!(s, SYS_unlinkat, CWD, "a", 0);
    sys!(s, SYS_unlinkat, CWD, "a", 0);
    s.stat("b");
    s.cat("b");
    sys!(s, SYS_unlinkat, CWD, "b/c", 0);
    sys!(s, SYS_unlinkat, CWD, ".", 0);
}

fn hard_links(s: &mut Side) {
    s.file("a", b"shared");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_linkat, CWD, "a", CWD, "d/b", 0);
    sys!(s, SYS_linkat, CWD, "a", CWD, "d/b", 0);
    sys!(s, SYS_linkat, CWD, "d", CWD, "e", 0);
    sys!(s, SYS_linkat, CWD, "missing", CWD, "e", 0);
    sys!(s, SYS_linkat, CWD, "a", CWD, "a/e", 0);
    sys!(s, SYS_symlinkat, "a", CWD, "to a");
    sys!(s, SYS_linkat, CWD, "to a", CWD, "second link", 0);
    sys!(
        s,
        SYS_linkat,
        CWD,
        "to a",
        CWD,
        "third name",
        libc::AT_SYMLINK_FOLLOW
    );
    // Written through one name, read through another, chmod seen by all.
    let fd = s.open("a", libc::O_WRONLY | libc::O_APPEND, 0);
    s.write(fd, b" and more");
    sys!(s, SYS_fchmodat, CWD, "d/b", 0o640);
    s.cat("third name");
    s.fstat(fd);
    s.close(fd);
    for name in ["a", "d/b", "third name", "to a", "second link"] {
        s.stat(name);
    }
    let same = |name| crate::side::status(CWD, name, 0).map(|st| st.st_ino);
    s.note(format!(
        "one inode: {}",
        same("a") == same("d/b") && same("a") == same("third name")
    ));
    sys!(s, SYS_unlinkat, CWD, "a", 0);
    s.stat("d/b");
}

fn symlinks(s: &mut Side) {
    sys!(s, SYS_symlinkat, "target", CWD, "l");
    sys!(s, SYS_symlinkat, "target", CWD, "l");
    sys!(s, SYS_symlinkat, "", CWD, "empty");
    let long = "x/".repeat(2000);
    sys!(s, SYS_symlinkat, &*long, CWD, "long");
    let too_long = "y".repeat(4096);
    sys!(s, SYS_symlinkat, &*too_long, CWD, "too long");
    s.stat("l");
    s.stat("long");
    for name in ["l", "long", "missing", "."] {
        let target = std::fs::read_link(name).map_err(|e| e.raw_os_error());
        s.note(format!(
            "{name} -> {:?}",
            target.map(|t| t.as_os_str().len())
        ));
    }
    let mut small = [0_u8; 3];
    sys!(
        s,
        SYS_readlinkat,
        CWD,
        "l",
        crate::side::at_mut(&mut small),
        3
    );
    s.note(format!("{small:?}"));
    s.cat("l");
    s.file("target", b"seen through the link");
    s.cat("l");
    sys!(s, SYS_symlinkat, "loop b", CWD, "loop a");
    sys!(s, SYS_symlinkat, "loop a", CWD, "loop b");
    s.cat("loop a");
    s.open("loop a", libc::O_RDONLY | libc::O_NOFOLLOW, 0);
    // Created through a dangling link, and refused with O_EXCL.
    sys!(s, SYS_symlinkat, "made", CWD, "dangling");
    s.open(
        "dangling",
        libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY,
        0o644,
    );
    s.file("dangling", b"made through it");
    s.cat("made");
}

fn bad_paths(s: &mut Side) {
    let longest = "n".repeat(255);
    let too_long = "n".repeat(256);
    s.file(&longest, b"fits");
    s.open(&too_long, libc::O_CREAT | libc::O_WRONLY, 0o644);
    sys!(s, SYS_mkdirat, CWD, &*too_long, 0o755);
    s.stat(&too_long);
    let path = "./".repeat(2100);
    s.stat(&path);
    s.stat("");
    s.file("f", b"");
    s.stat("f/x");
    s.stat("missing/x");
    s.open("f/", libc::O_RDONLY, 0);
    s.open("missing", libc::O_RDONLY, 0);
    s.open(".", libc::O_WRONLY, 0);
    s.open("new/", libc::O_CREAT | libc::O_WRONLY, 0o644);
    let mut deep = String::from("deep");
    for _ in 0..60 {
        sys!(s, SYS_mkdirat, CWD, &*deep, 0o755);
        deep.push_str("/a rather long directory name");
    }
    s.stat(&deep[..1000]);
}

fn odd_names(s: &mut Side) {
    for name in [
        "new\nline",
        "tab\t\"quote\"\\",
        " ",
        "-rf",
        "äöü €",
        "\u{1}\u{7f}",
        "...",
        "*",
    ] {
        s.file(name, name.as_bytes());
        s.cat(name);
    }
    let bytes = std::ffi::CString::new(b"not \xff\xfe utf-8".to_vec()).unwrap();
    let args = [
        CWD.into(),
        crate::side::Arg::Text(bytes),
        (libc::O_CREAT | libc::O_WRONLY).into(),
        0o600.into(),
    ];
    s.descriptor("open a name that is not UTF-8", libc::SYS_openat, &args);
}

fn renames(s: &mut Side) {
    s.file("a", b"a");
    s.file("b", b"b");
    for dir in ["d", "e", "full", "full/x"] {
        sys!(s, SYS_mkdirat, CWD, dir, 0o755);
    }
    let mut rename = |from: &str, to: &str| {
        sys!(s, SYS_renameat2, CWD, from, CWD, to, 0);
        let what = format!("  {from} to {to}");
        s.note(what);
    };
    rename("a", "b");
    rename("missing", "c");
    rename("b", "missing/c");
    rename("b", "d");
    rename("d", "b");
    rename("d", "full");
    rename("d", "e");
    rename("full", "e");
    rename("b", "e/b");
    rename("e/b", "e/b");
    rename("e/.", "f");
    rename("e", "e/..");
    sys!(s, SYS_linkat, CWD, "e/b", CWD, "c", 0);
    // Two names of one inode: rename(2) does nothing.
    sys!(s, SYS_renameat2, CWD, "c", CWD, "e/b", 0);
    s.stat("c");
    s.cat("e/b");
    // The target is open while it is replaced.
    s.file("new", b"new");
    s.file("old", b"old");
    let fd = s.open("old", libc::O_RDONLY, 0);
    sys!(s, SYS_renameat2, CWD, "new", CWD, "old", 0);
    s.read(fd, 10);
    s.fstat(fd);
    s.close(fd);
    s.cat("old");
}

fn rename_flags(s: &mut Side) {
    s.file("a", b"a");
    s.file("b", b"b");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.file("d/inside", b"inside");
    sys!(s, SYS_renameat2, CWD, "a", CWD, "b", libc::RENAME_NOREPLACE);
    sys!(s, SYS_renameat2, CWD, "a", CWD, "c", libc::RENAME_NOREPLACE);
    sys!(s, SYS_renameat2, CWD, "c", CWD, "b", libc::RENAME_EXCHANGE);
    s.cat("b");
    s.cat("c");
    sys!(s, SYS_renameat2, CWD, "c", CWD, "d", libc::RENAME_EXCHANGE);
    s.cat("d");
    s.cat("c/inside");
    sys!(
        s,
        SYS_renameat2,
        CWD,
        "c",
        CWD,
        "missing",
        libc::RENAME_EXCHANGE
    );
    sys!(
        s,
        SYS_renameat2,
        CWD,
        "c",
        CWD,
        "d",
        libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE
    );
    sys!(s, SYS_renameat2, CWD, "c", CWD, "d", 0x80);
    sys!(
        s,
        SYS_renameat2,
        CWD,
        "b",
        CWD,
        "moved",
        libc::RENAME_WHITEOUT
    );
    s.stat("b");
    s.cat("moved");
}

fn rename_into_itself(s: &mut Side) {
    sys!(s, SYS_mkdirat, CWD, "a", 0o755);
    sys!(s, SYS_mkdirat, CWD, "a/b", 0o755);
    sys!(s, SYS_mkdirat, CWD, "a/b/c", 0o755);
    sys!(s, SYS_renameat2, CWD, "a", CWD, "a/b/d", 0);
    sys!(s, SYS_renameat2, CWD, "a", CWD, "a/b/c", 0);
    sys!(s, SYS_renameat2, CWD, "a/b/c", CWD, "a", 0);
    sys!(
        s,
        SYS_renameat2,
        CWD,
        "a/b",
        CWD,
        "a",
        libc::RENAME_EXCHANGE
    );
    sys!(s, SYS_renameat2, CWD, "a/b/c", CWD, "c", 0);
    s.stat("c");
    s.stat("a/b");
}

fn rename_open(s: &mut Side) {
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.file("f", b"0123456789");
    let fd = s.open("f", libc::O_RDWR, 0);
    s.write(fd, b"abc");
    sys!(s, SYS_renameat2, CWD, "f", CWD, "d/g", 0);
    s.write(fd, b"def");
    sys!(s, SYS_renameat2, CWD, "d", CWD, "e", 0);
    s.write(fd, b"ghi");
    s.file("f", b"another");
    s.pread(fd, 20, 0);
    s.fstat(fd);
    s.close(fd);
    s.cat("e/g");
    s.cat("f");
}

fn working_directory(s: &mut Side) {
    let here = std::env::current_dir().unwrap();
    let below = |s: &mut Side| {
        let now = std::env::current_dir().map(|d| d.strip_prefix(&here).unwrap().to_path_buf());
        s.note(format!("in {:?}", now.map_err(|e| e.raw_os_error())));
    };
    sys!(s, SYS_mkdirat, CWD, "a", 0o755);
    sys!(s, SYS_mkdirat, CWD, "a/b", 0o755);
    let top = s.open(".", libc::O_PATH | libc::O_DIRECTORY, 0);
    sys!(s, SYS_chdir, "a/b");
    below(s);
    sys!(s, SYS_renameat2, top, "a", top, "c", 0);
    below(s);
    s.file("here", b"by the moved directory");
    sys!(s, SYS_unlinkat, CWD, "here", 0);
    sys!(s, SYS_unlinkat, top, "c/b", libc::AT_REMOVEDIR);
    below(s);
    s.open("new", libc::O_CREAT | libc::O_WRONLY, 0o644);
    s.stat(".");
    s.stat("..");
}

fn reused(s: &mut Side) {
    for round in 0..20_u32 {
        s.file("x", &round.to_le_bytes());
        sys!(s, SYS_unlinkat, CWD, "x", 0);
        sys!(s, SYS_mkdirat, CWD, "x", 0o700);
        s.stat("x");
        sys!(s, SYS_unlinkat, CWD, "x", libc::AT_REMOVEDIR);
        sys!(s, SYS_symlinkat, "y", CWD, "x");
        s.stat("x");
        sys!(s, SYS_unlinkat, CWD, "x", 0);
    }
}
