//! Bytes moved without passing through the program: copy_file_range, sendfile, splice.

use iolens::event::OpKind;
use libc::{O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_WRONLY};

use crate::side::{CWD, Side, at_mut, pattern, raw, short, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new("copy_file_range copies", &[OpKind::CopyFileRange], copies),
    Step::new(
        "copy_file_range refuses what it must",
        &[OpKind::CopyFileRange],
        refused_copies,
    ),
    Step::new(
        "sendfile sends what is in the file now",
        &[OpKind::Read],
        sends,
    ),
    Step::new(
        "splice goes through a pipe both ways",
        &[OpKind::Read, OpKind::Write],
        splices,
    ),
    Step::new(
        "from one filesystem to another",
        &[OpKind::Read, OpKind::Write],
        across,
    ),
    Step::new("device nodes, fifos and sockets", &[OpKind::Mknod], nodes),
    Step::new(
        "device nodes are root's to make and to use",
        &[OpKind::Mknod],
        devices,
    )
    .for_root(),
];

fn copies(s: &mut Side) {
    s.file("from", &pattern(100_000, 1));
    let from = s.open("from", O_RDONLY, 0);
    let to = s.open("to", O_CREAT | O_RDWR, 0o600);
    let (mut at_from, mut at_to) = (10_000_i64, 3_i64);
    for size in [1, 50_000, 70_000, 10] {
        sys!(
            s,
            SYS_copy_file_range,
            from,
            at_mut(&mut at_from),
            to,
            at_mut(&mut at_to),
            size,
            0
        );
        s.note(format!("{at_from} {at_to}"));
    }
    sys!(s, SYS_copy_file_range, from, 0, to, 0, 777, 0);
    sys!(s, SYS_lseek, from, 0, libc::SEEK_CUR);
    sys!(s, SYS_lseek, to, 0, libc::SEEK_CUR);
    s.fstat(to);
    s.close(to);
    s.cat("to");
    // Within one file, apart from each other.
    let both = s.open("from", O_RDWR, 0);
    let (mut at_from, mut at_to) = (0_i64, 200_000_i64);
    sys!(
        s,
        SYS_copy_file_range,
        both,
        at_mut(&mut at_from),
        both,
        at_mut(&mut at_to),
        100_000,
        0
    );
    s.fstat(both);
    s.cat("from");
}

fn refused_copies(s: &mut Side) {
    s.file("f", &pattern(1000, 2));
    s.file("g", &pattern(1000, 3));
    let (read_only, write_only) = (s.open("f", O_RDONLY, 0), s.open("g", O_WRONLY, 0));
    let append = s.open("g", O_WRONLY | O_APPEND, 0);
    let both = s.open("f", O_RDWR, 0);
    let dir = s.open(".", O_RDONLY, 0);
    sys!(s, SYS_copy_file_range, write_only, 0, read_only, 0, 10, 0);
    sys!(s, SYS_copy_file_range, read_only, 0, append, 0, 10, 0);
    sys!(s, SYS_copy_file_range, read_only, 0, write_only, 0, 10, 1);
    sys!(s, SYS_copy_file_range, dir, 0, write_only, 0, 10, 0);
    let (mut a, mut b) = (0_i64, 100_i64);
    sys!(
        s,
        SYS_copy_file_range,
        both,
        at_mut(&mut a),
        both,
        at_mut(&mut b),
        500,
        0
    );
    sys!(s, SYS_copy_file_range, read_only, 0, write_only, 0, 0, 0);
    s.cat("g");
}

fn pipe() -> [i32; 2] {
    let mut ends = [0_i32; 2];
    raw(libc::SYS_pipe2, &[at_mut(&mut ends), 0.into()]).unwrap();
    ends
}

fn sends(s: &mut Side) {
    s.file("f", &pattern(20_000, 4));
    let from = s.open("f", O_RDWR, 0);
    let [out, into] = pipe();
    let mut offset = 5000_i64;
    for round in 0..3_u8 {
        sys!(s, SYS_sendfile, into, from, at_mut(&mut offset), 4000);
        s.read(out, 5000);
        // Changed between two calls: the next one must not send what the first has cached.
        offset = 5000;
        s.pwrite(from, &[b'a' + round; 100], 5100);
    }
    let to = s.open("g", O_CREAT | O_WRONLY, 0o600);
    sys!(s, SYS_sendfile, to, from, 0, 1 << 20);
    sys!(s, SYS_sendfile, to, from, 0, 10);
    sys!(s, SYS_lseek, from, 0, libc::SEEK_CUR);
    s.close(to);
    s.cat("g");
    let append = s.open("g", O_WRONLY | O_APPEND, 0);
    sys!(s, SYS_lseek, from, 0, libc::SEEK_SET);
    sys!(s, SYS_sendfile, append, from, 0, 10);
    sys!(s, SYS_sendfile, from, out, 0, 10);
}

fn splices(s: &mut Side) {
    s.file("f", &pattern(30_000, 5));
    let fd = s.open("f", O_RDWR, 0);
    let to = s.open("g", O_CREAT | O_RDWR, 0o600);
    let [out, into] = pipe();
    let mut from = 1234_i64;
    let mut at = 99_i64;
    for _ in 0..3 {
        sys!(s, SYS_splice, fd, at_mut(&mut from), into, 0, 9000, 0);
        sys!(s, SYS_splice, out, 0, to, at_mut(&mut at), 9000, 0);
        s.note(format!("{from} {at}"));
    }
    sys!(s, SYS_splice, fd, 0, to, 0, 10, 0);
    sys!(s, SYS_lseek, out, 0, libc::SEEK_CUR);
    sys!(s, SYS_splice, fd, 0, into, at_mut(&mut at), 10, 0);
    let text = pattern(500, 6);
    let iov = [[text.as_ptr() as usize, text.len()]];
    sys!(s, SYS_vmsplice, into, crate::side::at(&iov), 1, 0);
    sys!(s, SYS_splice, out, 0, to, 0, 500, 0);
    s.cat("g");
}

/// Both directions across a border; pipes and /dev/zero are the other filesystem everywhere.
fn across(s: &mut Side) {
    let zero = s.open("/dev/zero", O_RDONLY, 0);
    let fd = s.open("f", O_CREAT | O_RDWR, 0o600);
    let [out, into] = pipe();
    sys!(s, SYS_splice, zero, 0, into, 0, 4096, 0);
    sys!(s, SYS_splice, out, 0, fd, 0, 4096, 0);
    s.fstat(fd);
    let memory = s.descriptor("memfd", libc::SYS_memfd_create, &["m".into(), 0.into()]);
    s.pwrite(memory, &pattern(5000, 7), 0);
    sys!(s, SYS_sendfile, fd, memory, 0, 5000);
    let mut start = 0_i64;
    sys!(s, SYS_sendfile, memory, fd, at_mut(&mut start), 6000);
    s.cat("f");
    let there = s.open("/proc/self/status", O_RDONLY, 0);
    sys!(s, SYS_linkat, CWD, "f", CWD, "/proc/f", 0);
    sys!(s, SYS_renameat2, CWD, "f", CWD, "/dev/shm/not/there", 0);
    sys!(s, SYS_renameat2, CWD, "f", CWD, "/proc/f", 0);
    s.close(there);
}

fn nodes(s: &mut Side) {
    sys!(s, SYS_mknodat, CWD, "fifo", libc::S_IFIFO | 0o640, 0);
    sys!(s, SYS_mknodat, CWD, "fifo", libc::S_IFIFO | 0o640, 0);
    sys!(s, SYS_mknodat, CWD, "plain", libc::S_IFREG | 0o640, 0);
    sys!(s, SYS_mknodat, CWD, "none", 0o600, 0);
    sys!(s, SYS_mknodat, CWD, "dir", libc::S_IFDIR | 0o755, 0);
    sys!(s, SYS_mknodat, CWD, "link", libc::S_IFLNK | 0o755, 0);
    for name in ["fifo", "plain", "none"] {
        s.stat(name);
    }
    let both = s.open("fifo", O_RDWR, 0);
    s.write(both, b"through a fifo");
    s.child(|s| {
        let fd = s.open("fifo", O_RDONLY, 0);
        s.read(fd, 100);
        sys!(s, SYS_lseek, fd, 0, libc::SEEK_SET);
        s.pread(fd, 1, 0);
    });
    // A socket that listens below the view, by its short relative name.
    let listener = std::os::unix::net::UnixListener::bind("socket");
    s.note(format!(
        "{:?}",
        listener
            .as_ref()
            .map(|_| ())
            .map_err(std::io::Error::raw_os_error)
    ));
    let listener = listener.unwrap();
    s.stat("socket");
    std::thread::scope(|threads| {
        use std::io::{Read as _, Write as _};
        threads.spawn(|| {
            let mut client = std::os::unix::net::UnixStream::connect("socket").unwrap();
            client.write_all(b"through a socket").unwrap();
        });
        let mut text = String::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_string(&mut text)
            .unwrap();
        s.note(text);
    });
    s.open("socket", O_RDONLY, 0);
    let again = std::os::unix::net::UnixListener::bind("socket").map(|_| ());
    s.note(format!("{:?}", again.map_err(|e| e.raw_os_error())));
    drop(listener);
    let refused = std::os::unix::net::UnixStream::connect("socket").map(|_| ());
    s.note(format!("{:?}", refused.map_err(|e| e.raw_os_error())));
}

fn devices(s: &mut Side) {
    sys!(s, SYS_umask, 0);
    sys!(s, SYS_mknodat, CWD, "zero", libc::S_IFCHR | 0o666, 0x105);
    sys!(s, SYS_mknodat, CWD, "block", libc::S_IFBLK | 0o600, 0xfffff);
    s.stat("zero");
    s.stat("block");
    let fd = s.open("zero", O_RDWR, 0);
    let data = s.read(fd, 10);
    s.note(short(&data));
    s.write(fd, b"gone");
    s.stranger(|s| {
        s.open("zero", O_RDWR, 0);
        sys!(s, SYS_mknodat, CWD, "mine", libc::S_IFCHR | 0o666, 0x105);
    });
}
