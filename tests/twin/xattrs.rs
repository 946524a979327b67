//! Extended attributes and the ACLs that live in them.

use iolens::event::OpKind;
use libc::{O_CREAT, O_RDONLY, O_RDWR};

use crate::side::{Arg, CWD, Side, at, at_mut, pattern, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "extended attributes",
        &[OpKind::Setxattr, OpKind::Getxattr],
        xattrs,
    ),
    Step::new(
        "lists of extended attributes",
        &[OpKind::Listxattr, OpKind::Removexattr],
        xattr_lists,
    ),
    Step::new(
        "extended attributes of other types and namespaces",
        &[OpKind::Setxattr],
        xattr_namespaces,
    ),
    Step::new(
        "extended attributes and other users",
        &[OpKind::Getxattr],
        xattrs_of_strangers,
    )
    .for_root(),
    Step::new("posix ACLs", &[OpKind::Setxattr], acls).for_root(),
];

fn list(s: &mut Side, number: libc::c_long, what: impl Into<Arg>) {
    let mut buffer = [0_u8; 2000];
    let size = s.call(
        "list xattrs",
        number,
        &[what.into(), at_mut(&mut buffer), 2000.into()],
    );
    let size = usize::try_from(size).unwrap_or(0);
    let mut names: Vec<_> = buffer[..size]
        .split(|&b| b == 0)
        .map(|n| n.escape_ascii().to_string())
        .collect();
    names.sort();
    s.note(names.join(" "));
}

fn xattrs(s: &mut Side) {
    s.file("f", b"x");
    let (create, replace) = (libc::XATTR_CREATE, libc::XATTR_REPLACE);
    sys!(s, SYS_setxattr, "f", "user.a", at(b"value"), 5, replace);
    sys!(s, SYS_setxattr, "f", "user.a", at(b"value"), 5, create);
    sys!(s, SYS_setxattr, "f", "user.a", at(b"other"), 5, create);
    sys!(s, SYS_setxattr, "f", "user.a", at(b"new"), 3, replace);
    sys!(s, SYS_setxattr, "f", "user.empty", 0, 0, 0);
    sys!(s, SYS_setxattr, "f", "user.b", at(b"\0\xff\n"), 3, 0);
    sys!(s, SYS_setxattr, "f", "user.bad flags", at(b"x"), 1, 99);
    let mut buffer = [0_u8; 10];
    sys!(s, SYS_getxattr, "f", "user.a", at_mut(&mut buffer), 10);
    sys!(s, SYS_getxattr, "f", "user.b", at_mut(&mut buffer), 10);
    s.note(format!("{buffer:?}"));
    sys!(s, SYS_getxattr, "f", "user.a", 0, 0);
    sys!(s, SYS_getxattr, "f", "user.a", at_mut(&mut buffer), 2);
    sys!(s, SYS_getxattr, "f", "user.empty", at_mut(&mut buffer), 2);
    sys!(
        s,
        SYS_getxattr,
        "f",
        "user.missing",
        at_mut(&mut buffer),
        10
    );
    sys!(
        s,
        SYS_getxattr,
        "missing",
        "user.a",
        at_mut(&mut buffer),
        10
    );
    let long = pattern(2000, 6);
    sys!(s, SYS_setxattr, "f", "user.long", at(&*long), long.len(), 0);
    let mut back = vec![0; 4000];
    sys!(s, SYS_getxattr, "f", "user.long", at_mut(&mut *back), 4000);
    s.note(crate::side::short(&back));
    let too_long = vec![1; 70_000];
    sys!(
        s,
        SYS_setxattr,
        "f",
        "user.too long",
        at(&*too_long),
        70_000,
        0
    );
    let name = format!("user.{}", "n".repeat(251));
    sys!(s, SYS_setxattr, "f", &*name, at(b"x"), 1, 0);
}

fn xattr_lists(s: &mut Side) {
    s.file("f", b"x");
    list(s, libc::SYS_listxattr, "f");
    for name in ["user.one", "user.two", "user.three"] {
        sys!(s, SYS_setxattr, "f", name, at(b"x"), 1, 0);
    }
    list(s, libc::SYS_listxattr, "f");
    sys!(s, SYS_listxattr, "f", 0, 0);
    let mut small = [0_u8; 5];
    sys!(s, SYS_listxattr, "f", at_mut(&mut small), 5);
    sys!(s, SYS_removexattr, "f", "user.two");
    sys!(s, SYS_removexattr, "f", "user.two");
    let fd = s.open("f", O_RDONLY, 0);
    sys!(s, SYS_fremovexattr, fd, "user.one");
    list(s, libc::SYS_flistxattr, fd);
    sys!(s, SYS_removexattr, "missing", "user.two");
    list(s, libc::SYS_listxattr, "missing");
}

fn xattr_namespaces(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_symlinkat, "f", CWD, "l");
    sys!(s, SYS_mknodat, CWD, "p", libc::S_IFIFO | 0o600, 0);
    for name in [
        "user.x",
        "trusted.x",
        "security.x",
        "unknown.x",
        "user.",
        "x",
    ] {
        for file in ["f", "d", "l", "p"] {
            s.note(format!("{name} of {file}"));
            sys!(s, SYS_lsetxattr, file, name, at(b"v"), 1, 0);
            list(s, libc::SYS_llistxattr, file);
        }
    }
}

fn xattrs_of_strangers(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_setxattr, "f", "user.x", at(b"v"), 1, 0);
    sys!(s, SYS_setxattr, "f", "trusted.x", at(b"v"), 1, 0);
    s.stranger(|s| {
        sys!(s, SYS_setxattr, "f", "user.y", at(b"v"), 1, 0);
        sys!(s, SYS_setxattr, "f", "trusted.y", at(b"v"), 1, 0);
        sys!(s, SYS_getxattr, "f", "user.x", 0, 0);
        sys!(s, SYS_getxattr, "f", "trusted.x", 0, 0);
        list(s, libc::SYS_listxattr, "f");
    });
}

fn acls(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    for args in [
        &["-m", "u:12345:rw,g:54321:r", "f"][..],
        &["-d", "-m", "u:12345:rwx", "d"],
    ] {
        s.program("setfacl", args);
    }
    s.program("getfacl", &["-n", "f", "d"]);
    s.file("d/inherits", b"x");
    sys!(s, SYS_mkdirat, CWD, "d/e", 0o777);
    s.program("getfacl", &["-n", "d/inherits", "d/e"]);
    s.child(|s| {
        s.become_user(12_345, 12_345, &[]);
        s.open("f", O_RDWR, 0);
    });
    sys!(s, SYS_fchmodat, CWD, "f", 0o600);
    s.stat("f");
    s.child(|s| {
        s.become_user(12_345, 12_345, &[]);
        s.open("f", O_RDWR, 0);
        s.open("d/inherits", O_RDWR, 0);
        s.open("d/inherits", O_RDONLY, 0);
        s.open("d/new", O_RDWR | O_CREAT, 0o666);
    });
    s.stranger(|s| {
        s.open("f", O_RDONLY, 0);
        s.open("f", O_RDWR, 0);
    });
}
