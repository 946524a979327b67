//! Locks between processes, leases and events.

use iolens::event::OpKind;
use libc::{
    F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, O_RDWR,
};

use crate::side::{CWD, Side, at_mut, raw, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "flock belongs to the open file description",
        &[OpKind::Open],
        flocks,
    ),
    Step::new(
        "fcntl locks belong to the process",
        &[OpKind::Flush],
        record_locks,
    ),
    Step::new(
        "OFD locks belong to the open file description",
        &[OpKind::Open],
        ofd_locks,
    ),
    Step::new(
        "a waiting lock is granted when the holder closes",
        &[OpKind::Release],
        waiting,
    ),
    Step::new(
        "inotify tells of changes through the same view",
        &[OpKind::Create, OpKind::Rename],
        inotify,
    ),
];

fn flocks(s: &mut Side) {
    s.file("f", b"x");
    let (a, b) = (s.open("f", O_RDWR, 0), s.open("f", O_RDWR, 0));
    sys!(s, SYS_flock, a, LOCK_SH | LOCK_NB);
    sys!(s, SYS_flock, b, LOCK_SH | LOCK_NB);
    sys!(s, SYS_flock, b, LOCK_EX | LOCK_NB);
    sys!(s, SYS_flock, a, LOCK_UN);
    sys!(s, SYS_flock, b, LOCK_EX | LOCK_NB);
    s.child(|s| {
        let own = s.open("f", O_RDWR, 0);
        sys!(s, SYS_flock, own, LOCK_SH | LOCK_NB);
        // The inherited description holds the lock already.
        sys!(s, SYS_flock, b, LOCK_EX | LOCK_NB);
        sys!(s, SYS_flock, b, LOCK_UN);
    });
    sys!(s, SYS_flock, a, LOCK_EX | LOCK_NB);
    s.close(a);
    sys!(s, SYS_flock, b, LOCK_SH | LOCK_NB);
}

fn lock(s: &mut Side, fd: i32, command: i32, kind: i32, start: i64, len: i64) {
    let mut lock = libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let answer = raw(
        libc::SYS_fcntl,
        &[fd.into(), command.into(), at_mut(&mut lock)],
    );
    let what = format!("lock {command} {kind} {start}+{len} = {answer:?}");
    s.note(match command {
        libc::F_GETLK | F_OFD_GETLK => {
            let owner = if lock.l_pid > 0 {
                "a process"
            } else {
                "nobody"
            };
            format!(
                "{what}: {} {}+{} of {owner}",
                lock.l_type, lock.l_start, lock.l_len
            )
        }
        _ => what,
    });
}

fn record_locks(s: &mut Side) {
    s.file("f", &[0; 100]);
    let fd = s.open("f", O_RDWR, 0);
    lock(s, fd, libc::F_SETLK, F_WRLCK, 10, 20);
    lock(s, fd, libc::F_SETLK, F_RDLCK, 50, 0);
    let probe = |s: &mut Side| {
        let fd = s.open("f", O_RDWR, 0);
        for (start, len) in [(0, 10), (0, 11), (29, 1), (30, 20), (60, 1)] {
            lock(s, fd, libc::F_GETLK, F_WRLCK, start, len);
            lock(s, fd, libc::F_SETLK, F_WRLCK, start, len);
            lock(s, fd, libc::F_SETLK, F_RDLCK, start, len);
        }
    };
    s.child(probe);
    lock(s, fd, libc::F_SETLK, F_UNLCK, 15, 5);
    s.child(probe);
    // Closing any descriptor of the file drops all the process's locks.
    let other = s.open("f", O_RDWR, 0);
    s.close(other);
    s.child(probe);
    lock(s, fd, libc::F_SETLK, F_WRLCK, -5, 10);
}

fn ofd_locks(s: &mut Side) {
    s.file("f", &[0; 100]);
    let (a, b) = (s.open("f", O_RDWR, 0), s.open("f", O_RDWR, 0));
    lock(s, a, F_OFD_SETLK, F_WRLCK, 0, 10);
    lock(s, b, F_OFD_SETLK, F_WRLCK, 5, 10);
    lock(s, b, F_OFD_GETLK, F_WRLCK, 5, 10);
    lock(s, b, F_OFD_SETLK, F_WRLCK, 10, 10);
    s.child(|s| {
        lock(s, a, F_OFD_SETLK, F_UNLCK, 0, 5);
        let own = s.open("f", O_RDWR, 0);
        lock(s, own, F_OFD_SETLK, F_RDLCK, 0, 5);
        lock(s, own, F_OFD_SETLK, F_RDLCK, 5, 5);
        lock(s, own, libc::F_SETLK, F_WRLCK, 10, 1);
    });
    let third = s.open("f", O_RDWR, 0);
    s.close(third);
    s.close(a);
    lock(s, b, F_OFD_SETLK, F_WRLCK, 0, 10);
}

fn waiting(s: &mut Side) {
    s.file("f", &[0; 100]);
    let fd = s.open("f", O_RDWR, 0);
    sys!(s, SYS_flock, fd, LOCK_EX);
    let mut pipe = [0_i32; 2];
    raw(libc::SYS_pipe2, &[at_mut(&mut pipe), 0.into()]).unwrap();
    std::thread::scope(|threads| {
        // Waits with a description of its own until the other one is closed.
        let waiter = threads.spawn(|| {
            let mut own = Side::default();
            let fd = own.open("f", O_RDWR, 0);
            own.write(pipe[1], b"about to wait");
            sys!(own, SYS_flock, fd, LOCK_EX);
            own.note("granted");
            own.log
        });
        s.read(pipe[0], 20);
        sys!(s, SYS_close, fd);
        s.log.extend(waiter.join().unwrap());
    });
}

fn inotify(s: &mut Side) {
    sys!(s, SYS_mkdirat, CWD, "d", 0o755);
    let watch = s.descriptor(
        "inotify",
        libc::SYS_inotify_init1,
        &[libc::IN_NONBLOCK.into()],
    );
    sys!(s, SYS_inotify_add_watch, watch, "d", libc::IN_ALL_EVENTS);
    let fd = s.open("d/f", libc::O_CREAT | O_RDWR, 0o644);
    s.write(fd, b"x");
    s.pread(fd, 1, 0);
    s.close(fd);
    sys!(s, SYS_fchmodat, CWD, "d/f", 0o600);
    sys!(s, SYS_renameat2, CWD, "d/f", CWD, "d/g", 0);
    sys!(s, SYS_mkdirat, CWD, "d/e", 0o755);
    sys!(s, SYS_unlinkat, CWD, "d/g", 0);
    sys!(s, SYS_unlinkat, CWD, "d/e", libc::AT_REMOVEDIR);
    sys!(s, SYS_unlinkat, CWD, "d", libc::AT_REMOVEDIR);
    let mut events = vec![0_u8; 4096];
    let args = [watch.into(), at_mut(&mut *events), events.len().into()];
    let size = usize::try_from(raw(libc::SYS_read, &args).unwrap()).unwrap();
    let mut rest = &events[..size];
    while !rest.is_empty() {
        // struct inotify_event: wd, mask, cookie, len, name.
        let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
        let length = usize::try_from(word(12)).unwrap();
        let name = String::from_utf8_lossy(&rest[16..16 + length]);
        s.note(format!(
            "event {:#x} {}",
            word(4),
            name.trim_end_matches('\0')
        ));
        rest = &rest[16 + length..];
    }
}
