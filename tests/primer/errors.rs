//! The lesson on errors: as an ordinary user, and on a disk of 8 MiB.

use iolens::event::{CacheDid, Op, OpKind, Reason};

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
    assert!(full.contains("flush(): ENOSPC") && full.contains("close(): ENOSPC"));
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
    assert_eq!(writes.len(), 3);
    let fits = writes[0].ret.unwrap();
    assert!(0 < fits && fits < WRITTEN);
    let reason = Reason::NearlyFull;
    assert_eq!(
        writes[0].cache,
        [CacheDid::WriteThrough { size: fits, reason }]
    );
    // The rest, by flush() and once more by close().
    for refused in &writes[1..] {
        assert_eq!(refused.size, Some(WRITTEN - fits));
        assert_eq!(refused.errno.as_deref(), Some("ENOSPC"));
    }
    // close(2) has nothing to tell: nothing waited.
    let closed = trace.of(file, OpKind::Flush)[0];
    assert_eq!((closed.errno.as_deref(), closed.dirty), (None, Some(0)));
}
