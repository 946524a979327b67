//! The flags of open(2), and files that are run.

use iolens::event::OpKind;
use libc::{O_CREAT, O_DIRECT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};

use crate::side::{CWD, Side, at, at_mut, pattern, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new("O_EXCL makes or fails", &[OpKind::Create], exclusive),
    Step::new(
        "exactly one of many wins O_EXCL",
        &[OpKind::Create],
        exclusive_race,
    ),
    Step::new(
        "O_PATH reaches without opening",
        &[OpKind::Lookup],
        path_only,
    ),
    Step::new(
        "O_NOFOLLOW and O_DIRECTORY look at the last name",
        &[OpKind::Open],
        last_name,
    ),
    Step::new(
        "O_DIRECT reads and writes",
        &[OpKind::Write, OpKind::Read],
        direct,
    ),
    Step::new(
        "a nameless file has no place in FUSE 7.36",
        &[OpKind::Open],
        nameless,
    ),
    Step::new("openat2 stays beneath", &[OpKind::Lookup], beneath),
    Step::new(
        "programs run from the mount",
        &[OpKind::Open, OpKind::Read],
        run,
    ),
    Step::new(
        "a running program cannot be written",
        &[OpKind::Open],
        busy_text,
    ),
];

fn exclusive(s: &mut Side) {
    let fd = s.open("f", O_CREAT | O_EXCL | O_RDWR, 0o600);
    s.write(fd, b"first");
    s.open("f", O_CREAT | O_EXCL | O_RDWR, 0o600);
    s.open("f", O_CREAT | O_RDONLY, 0o777);
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.open("d", O_CREAT | O_EXCL | O_RDWR, 0o600);
    sys!(s, SYS_symlinkat, "nowhere", CWD, "l");
    s.open("l", O_CREAT | O_EXCL | O_RDWR, 0o600);
    sys!(s, SYS_unlinkat, CWD, "f", 0);
    s.open("f", O_CREAT | O_EXCL | O_RDWR, 0o640);
    s.stat("f");
}

fn exclusive_race(s: &mut Side) {
    for round in 0..30 {
        let name = format!("race {round}");
        let winners: usize = std::thread::scope(|threads| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    threads.spawn(|| {
                        let open = std::fs::OpenOptions::new()
                            .write(true)
                            .create_new(true)
                            .open(&name);
                        usize::from(open.is_ok())
                    })
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).sum()
        });
        s.note(format!("{winners} winner"));
    }
}

fn path_only(s: &mut Side) {
    s.file("f", b"reached");
    sys!(s, SYS_symlinkat, "f", CWD, "l");
    sys!(s, SYS_fchmodat, CWD, "f", 0o600);
    let fd = s.open("f", O_PATH, 0);
    s.read(fd, 10);
    sys!(s, SYS_fchmod, fd, 0o644);
    sys!(s, SYS_ftruncate, fd, 0);
    s.fstat(fd);
    sys!(s, SYS_renameat2, CWD, "f", CWD, "g", 0);
    let again = [
        CWD.into(),
        (&*format!("/proc/self/fd/{fd}")).into(),
        O_RDWR.into(),
    ];
    let again = s.descriptor("open through /proc", libc::SYS_openat, &again);
    s.write(again, b"R");
    s.cat("g");
    let link = s.open("l", O_PATH | O_NOFOLLOW, 0);
    s.fstat(link);
    let mut target = [0_u8; 10];
    sys!(s, SYS_readlinkat, link, "", at_mut(&mut target), 10);
    s.note(format!("{target:?}"));
    sys!(s, SYS_linkat, fd, "", CWD, "h", libc::AT_EMPTY_PATH);
    s.stat("h");
}

fn last_name(s: &mut Side) {
    s.file("f", b"x");
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    sys!(s, SYS_symlinkat, "f", CWD, "to f");
    sys!(s, SYS_symlinkat, "d", CWD, "to d");
    for name in ["f", "d", "to f", "to d", "to d/", "f/.", "missing"] {
        s.open(name, O_RDONLY | O_NOFOLLOW, 0);
        s.open(name, O_RDONLY | libc::O_DIRECTORY, 0);
        s.open(name, O_WRONLY, 0);
    }
    sys!(s, SYS_mknodat, CWD, "p", libc::S_IFIFO | 0o600, 0);
    s.open("p", O_WRONLY | O_NONBLOCK, 0);
    s.open("p", O_RDONLY | O_NONBLOCK, 0);
}

#[repr(align(4096))]
struct Aligned([u8; 16384]);

fn direct(s: &mut Side) {
    let mut block = Box::new(Aligned([0; 16384]));
    block.0.copy_from_slice(&pattern(16384, 8));
    let fd = s.open("f", O_CREAT | O_RDWR | O_DIRECT, 0o600);
    sys!(s, SYS_pwrite64, fd, at(&block.0), 16384, 0);
    sys!(s, SYS_pwrite64, fd, at(&block.0), 4096, 32768);
    let plain = s.open("f", O_RDWR, 0);
    s.pread(plain, 50_000, 0);
    s.pwrite(plain, b"buffered", 4000);
    block.0.fill(0);
    sys!(s, SYS_pread64, fd, at_mut(&mut block.0), 16384, 0);
    s.note(crate::side::short(&block.0));
    sys!(s, SYS_pread64, fd, at_mut(&mut block.0), 16384, 32768);
    sys!(s, SYS_pread64, fd, at_mut(&mut block.0), 16384, 65536);
    sys!(s, SYS_fcntl, fd, libc::F_SETFL, 0);
    s.pwrite(fd, b"no longer direct", 3);
    s.cat("f");
}

fn nameless(s: &mut Side) {
    s.open(".", libc::O_TMPFILE | O_RDWR, 0o600);
}

fn beneath(s: &mut Side) {
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.file("f", b"outside of d");
    s.file("d/g", b"inside");
    sys!(s, SYS_symlinkat, "../f", CWD, "d/out");
    let dir = s.open("d", O_PATH, 0);
    for (name, resolve) in [
        ("g", 0x08_u64),
        ("out", 0x08),
        ("../f", 0x08),
        ("out", 0x04),
        ("out", 0x10),
        ("g", 0x01),
    ] {
        // struct open_how: flags, mode, resolve (RESOLVE_* of linux/openat2.h).
        let how = [0_u64, 0, resolve];
        let args = [dir.into(), name.into(), at(&how), 24.into()];
        s.descriptor(
            &format!("openat2 {name} {resolve}"),
            libc::SYS_openat2,
            &args,
        );
    }
}

fn run(s: &mut Side) {
    std::fs::copy("/bin/echo", "echo").unwrap();
    s.program("./echo", &["run from here"]);
    sys!(s, SYS_fchmodat, CWD, "echo", 0o644);
    s.program("./echo", &["not executable"]);
    s.file("script", b"#!/bin/sh\necho script says $1\nexit 3\n");
    sys!(s, SYS_fchmodat, CWD, "script", 0o755);
    s.program("./script", &["hello"]);
    s.file("nonsense", b"\x7fELFnot really");
    sys!(s, SYS_fchmodat, CWD, "nonsense", 0o755);
    s.program("./nonsense", &[]);
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    s.program("./d", &[]);
}

fn busy_text(s: &mut Side) {
    std::fs::copy("/bin/cat", "cat").unwrap();
    let writer = s.open("cat", O_WRONLY, 0);
    s.program("./cat", &["/dev/null"]);
    s.close(writer);
    let mut command = std::process::Command::new("./cat");
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    s.open("cat", O_WRONLY, 0);
    sys!(s, SYS_truncate, "cat", 0);
    s.open("cat", O_RDONLY, 0);
    drop(child.stdin.take());
    s.note(format!("{}", child.wait().unwrap()));
    s.open("cat", O_WRONLY, 0);
}
