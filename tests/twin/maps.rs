//! Memory mappings, and how they agree with read, write and truncate.

use std::ptr::NonNull;

use iolens::event::OpKind;
use libc::{MAP_PRIVATE, MAP_SHARED, O_CREAT, O_RDONLY, O_RDWR, O_WRONLY, PROT_READ, PROT_WRITE};

use crate::side::{CWD, Side, at, pattern, raw, short, sys};
use crate::step::Step;

pub(crate) const STEPS: &[Step] = &[
    Step::new(
        "a shared mapping and the file are one",
        &[OpKind::Read, OpKind::Write],
        shared,
    ),
    Step::new("a private mapping stays private", &[OpKind::Read], private),
    Step::new(
        "two mappings and a process share pages",
        &[OpKind::Write],
        several,
    ),
    Step::new(
        "a mapping outlives its descriptor and its name",
        &[OpKind::Release, OpKind::Unlink],
        outlives,
    ),
    Step::new(
        "a truncated mapping ends where the file ends",
        &[OpKind::Setattr],
        truncated,
    ),
    Step::new(
        "a mapping asks for the rights it needs",
        &[OpKind::Open],
        rights,
    ),
    Step::new(
        "writes from a mapping of the file itself",
        &[OpKind::Write],
        from_itself,
    ),
];

struct Map {
    start: NonNull<u8>,
    size: usize,
}

impl Map {
    fn new(s: &mut Side, fd: i32, size: usize, prot: i32, flags: i32, offset: i64) -> Option<Map> {
        let args = [
            0.into(),
            size.into(),
            prot.into(),
            flags.into(),
            fd.into(),
            offset.into(),
        ];
        let start = raw(libc::SYS_mmap, &args);
        s.note(format!(
            "mmap {size} at {offset} {prot} {flags} = {:?}",
            start.map(|_| "mapped")
        ));
        let start = usize::try_from(start.ok()?).unwrap();
        Some(Map {
            start: NonNull::new(std::ptr::with_exposed_provenance_mut(start)).unwrap(),
            size,
        })
    }

    fn get(&self, offset: usize, size: usize) -> Vec<u8> {
        assert!(offset + size <= self.size);
        // SAFETY: inside the mapping; volatile, as others change it.
        (offset..offset + size)
            .map(|i| unsafe { self.start.add(i).read_volatile() })
            .collect()
    }

    fn set(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.size);
        for (i, &byte) in (offset..).zip(data) {
            // SAFETY: inside the mapping, which the caller made writable.
            unsafe { self.start.add(i).write_volatile(byte) };
        }
    }

    fn sync(&self, s: &mut Side, flags: i32) {
        sys!(s, SYS_msync, self.start.as_ptr() as usize, self.size, flags);
    }

    fn show(&self, s: &mut Side, offset: usize, size: usize) {
        s.note(format!(
            "mapped at {offset}: {}",
            short(&self.get(offset, size))
        ));
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = raw(
            libc::SYS_munmap,
            &[(self.start.as_ptr() as usize).into(), self.size.into()],
        );
    }
}

fn shared(s: &mut Side) {
    s.file("f", &pattern(10_000, 1));
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 10_000, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    map.show(s, 0, 10_000);
    map.set(4090, b"stored across pages");
    map.sync(s, libc::MS_SYNC);
    s.pread(fd, 40, 4085);
    s.pwrite(fd, b"written", 4095);
    map.show(s, 4085, 40);
    map.set(0, b"stored and not synced");
    s.pread(fd, 30, 0);
    s.child(|s| s.cat("f"));
    s.pwrite(fd, &pattern(9000, 2), 500);
    map.show(s, 0, 10_000);
    map.set(9_999, b"!");
    map.sync(s, libc::MS_ASYNC);
    sys!(s, SYS_fsync, fd);
    drop(map);
    s.close(fd);
    s.cat("f");
    // Appended behind a mapping's last page.
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 12_288, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    map.show(s, 9_990, 100);
    s.pwrite(fd, &pattern(2000, 3), 10_000);
    map.show(s, 9_990, 2000);
    let part = Map::new(s, fd, 4096, PROT_READ, MAP_SHARED, 8192).unwrap();
    part.show(s, 0, 3000);
    let odd = Map::new(s, fd, 4096, PROT_READ, MAP_SHARED, 100);
    s.note(format!("{}", odd.is_none()));
}

fn private(s: &mut Side) {
    s.file("f", &pattern(5000, 4));
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 5000, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0).unwrap();
    map.set(10, b"only here");
    map.sync(s, libc::MS_SYNC);
    map.show(s, 0, 100);
    s.pread(fd, 100, 0);
    // Of a page not stored to, the mapping still shows the file.
    s.pwrite(fd, b"seen by both", 4500);
    map.show(s, 4490, 100);
}

fn several(s: &mut Side) {
    s.file("f", &[0; 8192]);
    let (a, b) = (s.open("f", O_RDWR, 0), s.open("f", O_RDWR, 0));
    let one = Map::new(s, a, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    let two = Map::new(s, b, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    one.set(100, b"by the first");
    two.set(5000, b"by the second");
    one.show(s, 4990, 40);
    two.show(s, 90, 40);
    s.child(|s| {
        one.set(4096, b"by the child, inherited");
        let fd = s.open("f", O_RDWR, 0);
        let own = Map::new(s, fd, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
        own.show(s, 90, 40);
        own.set(0, b"by the child, its own");
    });
    two.show(s, 0, 40);
    two.show(s, 4096, 40);
    s.pread(a, 8192, 0);
}

fn outlives(s: &mut Side) {
    s.file("f", &pattern(5000, 5));
    s.file("g", &pattern(5000, 6));
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 5000, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    s.close(fd);
    map.set(4000, b"stored after close");
    s.cat("f");
    drop(map);
    s.cat("f");
    let fd = s.open("g", O_RDWR, 0);
    let map = Map::new(s, fd, 5000, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    s.close(fd);
    sys!(s, SYS_unlinkat, CWD, "g", 0);
    map.set(0, b"stored after unlink");
    map.sync(s, libc::MS_SYNC);
    map.show(s, 0, 5000);
}

fn truncated(s: &mut Side) {
    s.file("f", &pattern(12_288, 7));
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 12_288, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    map.show(s, 0, 12_288);
    sys!(s, SYS_ftruncate, fd, 5000);
    map.show(s, 4990, 100);
    s.child(|s| {
        // Beyond the last page of the file: SIGBUS.
        map.show(s, 8192, 1);
    });
    s.child(|_| map.set(8192, b"x"));
    sys!(s, SYS_ftruncate, fd, 12_288);
    map.show(s, 4990, 7000);
    map.set(9000, b"after it grew again");
    s.pread(fd, 12_288, 0);
    sys!(
        s,
        SYS_fallocate,
        fd,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        0,
        4096
    );
    map.show(s, 0, 5000);
}

fn rights(s: &mut Side) {
    s.file("f", &[1; 100]);
    let read_only = s.open("f", O_RDONLY, 0);
    let write_only = s.open("f", O_WRONLY, 0);
    for fd in [read_only, write_only] {
        for (prot, flags) in [
            (PROT_READ, MAP_SHARED),
            (PROT_READ | PROT_WRITE, MAP_SHARED),
            (PROT_READ | PROT_WRITE, MAP_PRIVATE),
            (PROT_WRITE, MAP_SHARED),
        ] {
            Map::new(s, fd, 100, prot, flags, 0);
        }
    }
    let dir = s.open(".", O_RDONLY, 0);
    Map::new(s, dir, 100, PROT_READ, MAP_PRIVATE, 0);
    let empty = s.open("empty", O_CREAT | O_RDWR, 0o600);
    Map::new(s, empty, 100, PROT_READ, MAP_SHARED, 0);
}

fn from_itself(s: &mut Side) {
    s.file("f", &pattern(20_000, 8));
    let fd = s.open("f", O_RDWR, 0);
    let map = Map::new(s, fd, 20_000, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap();
    let text = map.start.as_ptr() as usize;
    sys!(s, SYS_pwrite64, fd, text + 100, 5000, 12_000);
    s.pread(fd, 20_000, 0);
    let into = map.start.as_ptr() as usize + 8192;
    sys!(s, SYS_pread64, fd, into, 3000, 0);
    map.show(s, 0, 20_000);
    let iov = [[text, 10], [text + 16_000, 20]];
    sys!(s, SYS_pwritev, fd, at(&iov), 2, 19_990);
    s.fstat(fd);
}
