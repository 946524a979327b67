//! The lesson on errors: as an ordinary user, and on a disk of 8 MiB.

use iolens::event::{Op, OpKind, Reason, Writeback};

use crate::lesson::{Lesson, Student, Trace};
use crate::support::USER;

const ENOENT: Option<&str> = Some("ENOENT");
/// What `full.bin` is given; about half of it fits.
const WRITTEN: u64 = 512 << 10;

#[test]
fn lesson_11_errors_come_where_the_kernel_the_directory_or_the_disk_says_no() {
    let lesson = Lesson::follow_as("11. Errors", Student::Ordinary);
    assert_eq!(lesson.traces.len(), 2);
    assert_names_and_permissions(&lesson.traces[0]);
    assert_full_disk(&lesson.traces[1]);
    let said = &lesson.printed;
    assert!(said[0].contains("may not be read: EACCES, PermissionError"));
    let full = said
        .iter()
        .find(|said| said.contains("write(): fine"))
        .unwrap();
    assert!(full.contains("flush(): fine") && full.contains("close(): ENOSPC"));
}

fn assert_names_and_permissions(trace: &Trace) {
    let missing = trace.on("missing.txt");
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].op, OpKind::Lookup);
    assert_eq!(missing[0].errno.as_deref(), ENOENT);
    // It is found, and no open is asked for.
    let asked = *trace.of("directory", OpKind::Lookup).last().unwrap();
    assert!(asked.errno.is_none());
    assert_eq!(asked.syscall.as_deref(), Some("openat"));
    let open = |op: &Op| [OpKind::Open, OpKind::Create].contains(&op.op);
    assert!(!trace.on("directory").into_iter().any(open));
    let secret = trace.of("secret.txt", OpKind::Open)[0];
    assert_eq!(secret.errno.as_deref(), Some("EACCES"));
    assert_eq!(secret.uid, Some(USER));
}

fn assert_full_disk(trace: &Trace) {
    let file = "full.bin";
    let writes = trace.of(file, OpKind::Write);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].ret, Some(WRITTEN), "a cache took it all");
    let closed = trace.of(file, OpKind::Flush)[0];
    assert_eq!(closed.errno.as_deref(), Some("ENOSPC"));
    let of = |w: &&Writeback| w.path.path.as_deref() == Some(file);
    let tries: Vec<&Writeback> = trace.writebacks.iter().filter(of).collect();
    let fits = tries[0].ret.unwrap();
    assert!(0 < fits && fits < WRITTEN);
    assert_eq!(tries[1].errno.as_deref(), Some("ENOSPC"));
    let discards = trace.discards.iter();
    let died: u64 = discards
        .filter(|d| d.path.path.as_deref() == Some(file) && d.reason == Reason::Unlink)
        .map(|d| d.size)
        .sum();
    // What is left is tried again at the release, which may be after the disk has space again.
    assert_eq!(trace.written_back(file) + died, WRITTEN);
}
