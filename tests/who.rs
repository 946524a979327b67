//! Who did it: the system call, the descriptor and the position that each operation tells, and what is not
//! told because it could not be known. The programs are Python; `tests/strace.rs` compares with strace(1).

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use iolens::event::{Caller, Event, Op, OpKind};
use iolens::trace::reader::{Item, Reader};
use support::{Running, Scratch, USER};

/// What `script` (of Python) did, in order of arrival. Each must have got through in time.
fn recorded_with(scratch: &Scratch, options: &[&str], script: &str) -> Vec<Op> {
    let mut args = vec!["run"];
    args.extend(options);
    args.extend(["--", "timeout", "60", "python3", "-c", script]);
    let outcome = scratch.run(&args);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let audit = scratch.run(&["audit"]);
    assert_eq!(audit.code, 0, "{}", audit.stdout);
    latest(scratch)
}

fn latest(scratch: &Scratch) -> Vec<Op> {
    events(&scratch.path("state/iolens/latest"))
}

/// The operations of a trace, in order of arrival.
fn events(trace: &Path) -> Vec<Op> {
    let reader = Reader::open(trace).unwrap();
    let ops = reader.filter_map(|item| match item.unwrap() {
        Item::Event(_, Event::Op(op)) => Some(*op),
        _ => None,
    });
    let mut ops: Vec<Op> = ops.collect();
    ops.sort_by_key(|op| op.seq);
    ops
}

fn recorded(script: &str) -> Vec<Op> {
    recorded_with(&Scratch::new(), &[], script)
}

fn of(ops: &[Op], kinds: &[OpKind]) -> Vec<Op> {
    let found = ops.iter().filter(|op| kinds.contains(&op.op));
    found.cloned().collect()
}

const DATA: &[OpKind] = &[OpKind::Read, OpKind::Write];

/// Call, descriptor, offset, bytes, position after it, position before an unseen lseek.
type Line<'a> = (&'a str, i32, u64, u64, Option<u64>, Option<u64>);

fn line(op: &Op) -> Line<'_> {
    (
        op.syscall.as_deref().unwrap_or("?"),
        op.fd.unwrap_or(-1),
        op.offset.unwrap(),
        op.ret.unwrap(),
        op.pos,
        op.seek_from,
    )
}

#[test]
fn reads_and_writes_name_their_call_descriptor_and_position() {
    let ops = recorded(
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * 500)
os.pwrite(f, b'x' * 50, 10)
os.lseek(f, 3, 0)
os.read(f, 10)
os.readv(f, [bytearray(5), bytearray(7)])
os.writev(f, [b'a' * 3, b'', b'b' * 4])
os.preadv(f, [bytearray(9)], 100)
os.pwritev(f, [b'c'], 200)
g = os.dup(f)
os.read(g, 1)
a = os.open('f', os.O_WRONLY | os.O_APPEND)
os.write(a, b'tail')
",
    );
    let data = of(&ops, DATA);
    let lines: Vec<_> = data.iter().map(line).collect();
    let (f, g, a) = (3, 4, 5);
    assert_eq!(
        lines,
        [
            ("write", f, 0, 500, Some(500), None),
            ("pwrite64", f, 10, 50, None, None),
            ("read", f, 3, 10, Some(13), Some(500)),
            ("readv", f, 13, 12, Some(25), None),
            ("writev", f, 25, 7, Some(32), None),
            // preadv(2) with no flags is preadv2(2) to Python where the C library has it.
            (data[5].syscall.as_deref().unwrap(), f, 100, 9, None, None),
            (data[6].syscall.as_deref().unwrap(), f, 200, 1, None, None),
            // A copy shares the position.
            ("read", g, 32, 1, Some(33), None),
            ("write", a, 500, 4, Some(504), None),
        ]
    );
    assert!(data[5].syscall.as_deref().unwrap().starts_with("preadv"));
    assert!(data[6].syscall.as_deref().unwrap().starts_with("pwritev"));
}

/// Appends go to the end whatever the call says, and copies and SEEK_DATA move positions too.
#[test]
fn appends_copies_and_seeks_to_data_tell_where_the_position_goes() {
    let ops = recorded(
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT | os.O_APPEND)
os.write(f, b'x' * 500)
os.pwrite(f, b'abcd', 10)
g = os.open('f', os.O_RDWR)
os.pwritev(g, [b'tail'], 5, os.RWF_APPEND)
h = os.open('h', os.O_RDWR | os.O_CREAT)
os.copy_file_range(g, h, 100)
os.copy_file_range(g, h, 50, 0)
os.read(g, 10)
os.lseek(h, 20, os.SEEK_DATA)
os.read(h, 10)
",
    );
    let kinds = [
        OpKind::Read,
        OpKind::Write,
        OpKind::CopyFileRange,
        OpKind::Lseek,
    ];
    let told: Vec<_> = of(&ops, &kinds)
        .iter()
        .map(|op| {
            let name = op.syscall.as_deref().unwrap_or("?").to_owned();
            (name, op.fd, op.offset, op.pos, op.seek_from)
        })
        .collect();
    let wanted = [
        ("write", 3, 0, Some(500), None),
        ("pwrite64", 3, 500, None, None),
        ("pwritev2", 4, 504, None, None),
        ("copy_file_range", 4, 0, Some(100), None),
        ("copy_file_range", 4, 0, None, None),
        ("read", 4, 100, Some(110), None),
        ("lseek", 5, 20, Some(20), None),
        ("read", 5, 20, Some(30), None),
    ];
    let wanted: Vec<_> = wanted
        .map(|(name, fd, offset, pos, from)| (name.to_owned(), Some(fd), Some(offset), pos, from))
        .into();
    assert_eq!(told, wanted);
}

#[test]
fn the_requests_of_one_large_call_are_one_call() {
    let ops = recorded(
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * (3 << 20))
os.write(f, b'y')
os.write(f, b'y')
os.preadv(f, [bytearray(16) for _ in range(1000)], 5)
",
    );
    let data = of(&ops, DATA);
    let mut calls: Vec<(u64, u64, u64)> = Vec::new();
    for op in &data {
        let (call, bytes) = (op.call.unwrap(), op.ret.unwrap());
        match calls.last_mut() {
            Some(last) if last.0 == call => {
                assert_eq!(op.call_size, None, "only the first says it");
                last.2 += bytes;
            }
            _ => calls.push((call, op.call_size.unwrap(), bytes)),
        }
    }
    let sizes: Vec<_> = calls
        .iter()
        .map(|(_, size, bytes)| (*size, *bytes))
        .collect();
    assert_eq!(
        sizes,
        [(3 << 20, 3 << 20), (1, 1), (1, 1), (16_000, 16_000)]
    );
    assert!(data.len() > 4);
}

#[test]
fn calls_about_a_file_name_its_descriptor() {
    let ops = recorded(
        "import os, mmap
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * 9000)
os.fsync(f)
os.fdatasync(f)
os.ftruncate(f, 5000)
os.posix_fallocate(f, 0, 10000)
os.lseek(f, 0, os.SEEK_DATA)
g = os.open('g', os.O_RDWR | os.O_CREAT)
os.copy_file_range(f, g, 100)
m = mmap.mmap(f, 4096)
m[0:1] = b'y'
m.flush()
",
    );
    let kinds = [
        OpKind::Fsync,
        OpKind::Setattr,
        OpKind::Fallocate,
        OpKind::Lseek,
        OpKind::CopyFileRange,
    ];
    let named: Vec<_> = of(&ops, &kinds)
        .iter()
        .map(|op| (op.syscall.as_deref().unwrap_or("?").to_owned(), op.fd))
        .collect();
    let wanted = [
        ("fsync", Some(3)),
        ("fdatasync", Some(3)),
        ("ftruncate", Some(3)),
        ("fallocate", Some(3)),
        ("lseek", Some(3)),
        ("copy_file_range", Some(3)),
        ("msync", None),
    ];
    let wanted: Vec<_> = wanted.map(|(name, fd)| (name.to_owned(), fd)).into();
    assert_eq!(named, wanted);
    let faults = of(&ops, &[OpKind::Read]);
    assert!(faults.iter().any(|op| op.mapped));
    for op in faults.iter().filter(|op| op.mapped) {
        assert_eq!(op.syscall.as_deref(), Some("page_fault"), "{op:?}");
    }
}

#[test]
fn what_closes_a_descriptor_is_named() {
    let ops = recorded(
        "import os
f = [os.open('f', os.O_RDWR | os.O_CREAT) for _ in range(4)]
os.close(f[0])
os.dup2(2, f[1])
os.dup2(2, f[2], inheritable=False)
",
    );
    let flushes: Vec<_> = of(&ops, &[OpKind::Flush])
        .iter()
        .map(|op| (op.syscall.as_deref().unwrap_or("?").to_owned(), op.fd))
        .collect();
    let wanted = [
        ("close", Some(3)),
        ("dup2", Some(4)),
        ("dup3", Some(5)),
        ("exit_group", None),
    ];
    let wanted: Vec<_> = wanted.map(|(name, fd)| (name.to_owned(), fd)).into();
    assert_eq!(flushes, wanted);
    for op in of(&ops, &[OpKind::Release]) {
        assert_eq!((op.caller, op.syscall, op.fd), (Caller::Opener, None, None));
    }
}

/// execve(2) holds a lock that looking at its system call would wait for, until it has our answers.
#[test]
fn an_exec_that_closes_many_descriptors_goes_on() {
    let ops = recorded(
        "import os
for n in range(100):
    os.write(os.open(f'f{n}', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), b'x')
os.execvp('true', ['true'])
",
    );
    let flushes = of(&ops, &[OpKind::Flush]);
    assert_eq!(flushes.len(), 100);
    for op in flushes {
        assert!(
            matches!(op.syscall.as_deref(), None | Some("execve")),
            "{op:?}"
        );
        assert_eq!(op.fd, None);
    }
}

/// What says that the kernel does not tell who asks, and why.
const LOOKED_UP: &str = "callers are looked up in /proc: the kernel does not tell who they are: ";

/// Where the kernel tells who sends a request, nobody has to wait for execve(2), and what it closes is known too.
#[test]
fn where_the_kernel_tells_who_asks_what_an_exec_closes_is_known() {
    let script = "import os
for n in range(20):
    os.write(os.open(f'f{n}', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), b'x')
os.execvp('true', ['true'])
";
    let recorded = |refuse: bool| {
        let scratch = Scratch::new();
        let mut command = scratch.iolens(&["run", "-vv", "--", "python3", "-c", script]);
        if refuse {
            command.env("IOLENS_NO_BPF", "1");
        }
        let outcome = Running::start(&mut command).finish();
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let flushes = of(&latest(&scratch), &[OpKind::Flush]);
        let names = flushes
            .iter()
            .map(|op| op.syscall.as_deref().unwrap_or("?"));
        (outcome.stderr, names.map(str::to_owned).collect::<Vec<_>>())
    };
    let (said, names) = recorded(true);
    assert!(
        said.contains(&format!("{LOOKED_UP}IOLENS_NO_BPF is set")),
        "{said}"
    );
    assert!(
        names.iter().all(|name| name == "?" || name == "execve"),
        "{names:?}"
    );
    let (said, names) = recorded(false);
    match said.split_once(LOOKED_UP) {
        None => assert_eq!(names, ["execve"; 20]),
        // Another machine, an older kernel, no tracefs, or root without the capabilities.
        Some((_, why)) => {
            let reasons = ["ENOSYS", "ENOENT", "EPERM", "EACCES", "IOLENS_NO_BPF"];
            assert!(
                reasons.iter().any(|reason| why.starts_with(reason)),
                "{why}"
            );
        }
    }
}

#[test]
fn closes_in_signal_handlers_of_children_and_of_the_killed_do_not_hang_and_tell_no_lies() {
    let ops = recorded(
        "import os, signal, subprocess, threading, time
def opened(): return os.open('f', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
left = [opened() for _ in range(50)]
signal.signal(signal.SIGALRM, lambda *_: os.close(left.pop()) if left else None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
g = opened()
for _ in range(300):
    os.pwrite(g, b'y' * 5000, 0)
while left: time.sleep(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
for _ in range(20):
    subprocess.run(['true'], close_fds=False)
for n in range(20):
    child = os.fork()
    if child == 0:
        h = opened()
        def work():
            while True: os.pwrite(h, b'z' * 100000, 0)
        for _ in range(2): threading.Thread(target=work, daemon=True).start()
        time.sleep(0.01)
        if n % 2: os._exit(0)
        time.sleep(30)
    time.sleep(0.02)
    if n % 2 == 0: os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
",
    );
    for op in &ops {
        match op.op {
            OpKind::Write => {
                assert!(
                    matches!(op.syscall.as_deref(), None | Some("pwrite64")),
                    "{op:?}"
                );
            }
            OpKind::Flush => {
                let names = ["close", "exit_group", "execve"];
                assert!(
                    op.syscall
                        .as_deref()
                        .is_none_or(|name| names.contains(&name)),
                    "{op:?}"
                );
                assert_eq!(
                    op.fd.is_some(),
                    op.syscall.as_deref() == Some("close"),
                    "{op:?}"
                );
            }
            _ => {}
        }
    }
}

#[test]
fn a_thread_name_may_hold_anything_and_a_descriptor_be_large() {
    let scratch = Scratch::new();
    let script = r#"
import os
open('/proc/self/comm', 'wb').write(b'a\nb"\x1b[31m)')
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.dup2(f, 1020)
os.write(1020, b'x')
open('/proc/self/syscall').read()
os.read(1020, 0)
"#;
    let ops = recorded_with(&scratch, &[], script);
    let writes = of(&ops, &[OpKind::Write]);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].comm.as_deref(), Some("a\nb\"\u{1b}[31m)"));
    assert_eq!(
        (writes[0].fd, writes[0].syscall.as_deref()),
        (Some(1020), Some("write"))
    );
    let log = scratch.run(&["log", "--op", "write"]);
    assert_eq!(log.stdout.lines().count(), 1, "{}", log.stdout);
    assert!(!log.stdout.contains('\u{1b}'));
}

/// The number of a thread that is gone is given to another: nothing of the first one is told of it.
#[test]
fn a_thread_number_that_is_used_again_is_another_thread() {
    let ops = recorded(
        "import os, sys
f = os.open('f', os.O_RDWR | os.O_CREAT)
def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
def first():
    open('/proc/self/comm', 'w').write('first')
    os.close(os.open('f', os.O_RDWR))
    for _ in range(3): os.pwrite(f, b'1', 0)
def second():
    open('/proc/self/comm', 'w').write('second')
    g = os.open('f', os.O_RDWR)
    for _ in range(3): os.pread(g, 1, 0)
for _ in range(100):
    one = child(first)
    open('/proc/sys/kernel/ns_last_pid', 'w').write(str(one - 1))
    two = child(second)
    if one == two: sys.exit(0)
sys.exit(1)
",
    );
    for op in of(&ops, DATA) {
        let wanted = match op.op {
            OpKind::Write => ("first", "pwrite64", 3),
            _ => ("second", "pread64", 4),
        };
        let found = (
            op.comm.as_deref().unwrap(),
            op.syscall.as_deref().unwrap(),
            op.fd.unwrap(),
        );
        assert_eq!(found, wanted, "{op:?}");
    }
}

#[test]
fn what_is_hidden_from_an_ordinary_user_is_absent() {
    let scratch = Scratch::new();
    fs::set_permissions(&scratch.source, Permissions::from_mode(0o777)).unwrap();
    let program = "import ctypes, os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x')
PR_SET_DUMPABLE = 4
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
os.write(f, b'y')
";
    fs::write(scratch.path("state/p.py"), program).unwrap();
    const SCRIPT: &str = r#"
        set -e
        mkdir ../state/v
        "$IOLENS" mount -t ../state/t.jsonl . ../state/v
        cd ../state/v
        timeout 60 python3 ../p.py
        cd ..
        "$IOLENS" unmount v
        "$IOLENS" log t.jsonl --op write > shown
    "#;
    // fusermount3 wants a user with a name.
    let user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let outcome = scratch.as_user(&user, SCRIPT);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let shown = fs::read_to_string(scratch.path("state/shown")).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(lines[0].contains("write(3</f>"), "{shown}");
    assert!(lines[1].contains("write(</f>"), "{shown}");
}

/// A set-id program is somebody else than who started it, and what it does in the view is its own.
#[test]
fn a_set_id_program_is_told_under_the_user_that_it_became() {
    let scratch = Scratch::new();
    fs::write(scratch.source.join("secret"), "for 1234 alone").unwrap();
    const SCRIPT: &str = r#"
        set -e
        chown 1234 secret
        chmod 400 secret
        cp "$(command -v head)" "$TOOLS/head"
        chown 1234 "$TOOLS/head"
        chmod 4755 "$TOOLS/head"
        mkdir ../state/v
        "$IOLENS" mount -o allow_other -t ../state/t.jsonl . ../state/v
        ordinary="setpriv --reuid=nobody --regid=nogroup --clear-groups timeout 60"
        $ordinary "$TOOLS/head" -c 3 ../state/v/secret
        if $ordinary head -c 3 ../state/v/secret; then exit 1; fi
        "$IOLENS" unmount ../state/v
    "#;
    let outcome = scratch.as_user(&["--reuid=root"], SCRIPT);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "for"),
        "{outcome:?}"
    );
    let ops = events(&scratch.path("state/t.jsonl"));
    // The kernel refuses the other one itself.
    let opens: Vec<_> = of(&ops, &[OpKind::Open])
        .iter()
        .map(|op| (op.uid, op.syscall.clone(), op.errno.clone()))
        .collect();
    assert_eq!(opens, [(Some(USER), Some("openat".into()), None)]);
    let reads = of(&ops, &[OpKind::Read]);
    assert!(!reads.is_empty());
    for read in reads {
        let told = (read.uid, read.syscall.as_deref(), read.fd);
        assert_eq!(told, (Some(USER), Some("read"), Some(3)));
    }
}

#[test]
fn with_caller_pid_only_the_process_is_told() {
    let scratch = Scratch::new();
    let script = "import os\nf = os.open('f', os.O_RDWR | os.O_CREAT)\nos.write(f, b'x')";
    let ops = recorded_with(&scratch, &["--caller", "pid"], script);
    let write = &of(&ops, &[OpKind::Write])[0];
    assert!(write.pid.is_some() && write.comm.is_some());
    let told = (&write.syscall, write.fd, write.call, write.pos);
    assert_eq!(told, (&None, None, None, None));
    let trace = fs::read_to_string(scratch.path("state/iolens/latest")).unwrap();
    let header = trace.lines().next().unwrap();
    assert!(header.contains(r#""attribution":"pid""#), "{header}");
}

/// Who asks in this way may have gone on when the request arrives: then nothing is told, and never what it
/// does next.
#[test]
fn asynchronous_callers_are_named_by_the_call_that_asked_or_not_at_all() {
    const ENTERS: &[&str] = &["io_uring_enter"];
    for (engine, direct, names) in [
        ("libaio", 1, &["io_submit"][..]),
        ("libaio", 0, &["io_submit"]),
        ("io_uring", 1, ENTERS),
        ("io_uring", 0, ENTERS),
        // A thread of the kernel's asks, and its process says nothing.
        ("io_uring --sqthread_poll=1", 1, &[]),
        ("io_uring --sqthread_poll=1", 0, &[]),
        ("psync", 1, &["pread64", "pwrite64"]),
    ] {
        let scratch = Scratch::new();
        let direct_is = format!("--direct={direct}");
        let engine_is = format!("--ioengine={engine}");
        let fio = [
            "run",
            "--",
            "timeout",
            "60",
            "fio",
            "--name=job",
            "--filename=f",
            "--size=2m",
            "--bs=16k",
            "--rw=randrw",
            "--iodepth=8",
            "--output=/dev/null",
            &direct_is,
        ];
        let fio: Vec<&str> = fio.into_iter().chain(engine_is.split(' ')).collect();
        let outcome = scratch.run(&fio);
        assert_eq!(outcome.code, 0, "{engine}: {outcome:?}");
        let data: Vec<Op> = of(&latest(&scratch), DATA)
            .into_iter()
            .filter(|op| op.size == Some(16 << 10) && !op.mapped && !op.page_cache)
            .collect();
        assert!(data.len() >= 100, "{engine}: {}", data.len());
        let mut named = 0;
        for op in &data {
            assert!(op.pid.is_some(), "{op:?}");
            // fio lays the file out by write(2) first.
            let own = op.syscall.as_deref();
            let known = own.is_none_or(|name| names.contains(&name) || name == "write");
            assert!(known, "{engine} {direct}: {op:?}");
            named += usize::from(own.is_some());
            let synchronous = own.is_some_and(|name| !name.starts_with("io_"));
            assert_eq!(op.fd.is_some(), synchronous, "{engine} {direct}: {op:?}");
        }
        if engine == "psync" {
            assert_eq!(
                named,
                data.len(),
                "who waits for the answer is always known"
            );
        }
    }
}

/// mmap(2) waits, with the lock of the process's mappings held, for direct writes of the same file that are under
/// way; to read the vector of such a write takes that lock.
#[test]
fn vectored_writes_and_mappings_of_one_file_by_two_threads_do_not_hang() {
    let ops = recorded(
        "import mmap, os, threading
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.truncate(f, 1 << 20)
def write():
    for n in range(1500): os.pwritev(f, [b'a' * 10, b'b' * 20], n * 30)
def map():
    for n in range(1500): mmap.mmap(f, 4096).close()
threads = [threading.Thread(target=work) for work in (write, write, map)]
for thread in threads: thread.start()
for thread in threads: thread.join()
",
    );
    let writes = of(&ops, &[OpKind::Write]);
    assert_eq!(writes.len(), 3000);
    for op in writes {
        assert!(
            op.syscall.as_deref().unwrap().starts_with("pwritev"),
            "{op:?}"
        );
        assert!(op.call_size.is_none_or(|size| size == 30), "{op:?}");
        assert_eq!(op.fd, Some(3));
    }
}
