//! What a trace says of mappings and the page cache, and what reaches SOURCE of a sync.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs;
use std::process::Command;

use iolens::event::{Event, Op, OpKind};
use iolens::trace::reader::{Item, Reader};
use support::{IOLENS, Outcome, Running, Scratch};

/// The operations that `script` (of Python) made on files of SOURCE.
fn recorded(scratch: &Scratch, script: &str) -> Vec<Op> {
    let outcome = scratch.run(&["run", "--", "python3", "-c", script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let reader = Reader::open(&scratch.path("state/iolens/latest")).unwrap();
    let ops = reader.filter_map(|item| match item.unwrap() {
        Item::Event(_, Event::Op(op)) => Some(*op),
        _ => None,
    });
    ops.collect()
}

fn audited(scratch: &Scratch) {
    let outcome: Outcome = scratch.run(&["audit"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
}

#[test]
fn page_faults_and_page_write_back_are_marked_mapped() {
    let scratch = Scratch::new();
    fs::write(scratch.source.join("file"), vec![b'x'; 8192]).unwrap();
    let script = "import mmap\nwith open('file', 'r+b', 0) as f:\n  m = mmap.mmap(f.fileno(), 0)\n  \
                  assert m[0:1] == b'x'\n  m[4096:4097] = b'y'\n  m.flush()\n  m.close()\n";
    let ops = recorded(&scratch, script);
    let of = |kind| {
        ops.iter()
            .filter(move |op| op.op == kind && op.path.as_deref() == Some("file"))
    };
    assert!(of(OpKind::Read).count() > 0);
    assert!(
        of(OpKind::Read).all(|op| op.mapped && !op.page_cache),
        "{ops:#?}"
    );
    assert!(of(OpKind::Write).count() > 0);
    assert!(of(OpKind::Write).all(|op| op.mapped), "{ops:#?}");
    assert_eq!(fs::read(scratch.source.join("file")).unwrap()[4096], b'y');
    audited(&scratch);
}

#[test]
fn what_fills_the_page_cache_is_marked_and_an_ordinary_read_is_not() {
    let scratch = Scratch::new();
    fs::write(scratch.source.join("file"), vec![b'x'; 8192]).unwrap();
    let script = "import os, socket\nf = os.open('file', os.O_RDONLY)\n\
                  assert len(os.read(f, 100)) == 100\na, b = socket.socketpair()\n\
                  assert os.sendfile(a.fileno(), f, 0, 4096) == 4096\n";
    let ops = recorded(&scratch, script);
    let reads: Vec<&Op> = ops
        .iter()
        .filter(|op| op.op == OpKind::Read && op.path.as_deref() == Some("file"))
        .collect();
    assert!(
        !reads[0].page_cache && reads[0].size == Some(100),
        "{reads:#?}"
    );
    assert!(
        reads.len() > 1 && reads[1..].iter().all(|op| op.page_cache && !op.mapped),
        "{reads:#?}"
    );
    audited(&scratch);
}

#[test]
fn syncs_and_synchronous_writes_reach_source_as_such() {
    let scratch = Scratch::new();
    let log = scratch.path("strace");
    let mut server = Command::new("strace");
    server
        .args(["-f", "-qq", "-o"])
        .arg(&log)
        .args([
            "-e",
            "trace=fsync,fdatasync,pwritev2",
            IOLENS,
            "mount",
            "-f",
        ])
        .args([&scratch.source, &scratch.view])
        .env("XDG_STATE_HOME", scratch.path("state"));
    let server = Running::start(&mut server);
    support::eventually("the view to be there", || scratch.is_mounted());
    let script = "import os\nf = os.open('new', os.O_CREAT|os.O_RDWR)\nos.write(f, b'a')\nos.fsync(f)\n\
                  os.fdatasync(f)\nd = os.open('.', os.O_RDONLY)\nos.fsync(d)\n\
                  s = os.open('new', os.O_WRONLY|os.O_SYNC)\nos.write(s, b'b')\n\
                  t = os.open('new', os.O_WRONLY|os.O_DSYNC)\nos.write(t, b'c')\n";
    let mut client = Command::new("timeout");
    client
        .args(["20", "python3", "-c", script])
        .current_dir(&scratch.view);
    assert_eq!(Running::start(&mut client).finish().code, 0);
    assert_eq!(scratch.unmount().code, 0);
    assert_eq!(server.finish().code, 0);
    let log = fs::read_to_string(log).unwrap();
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("fsync("), 2, "{log}");
    assert_eq!(count("fdatasync("), 1, "{log}");
    assert_eq!(count("RWF_SYNC"), 1, "{log}");
    assert_eq!(count("RWF_DSYNC"), 1, "{log}");
}

#[test]
fn filesystems_mounted_below_source_are_seen_with_numbers_of_their_own() {
    let scratch = Scratch::new();
    let script = r#"
        set -e
        mkdir x y
        mount -t tmpfs none x
        mount -t tmpfs none y
        echo one > x/f; echo two > y/f
        "$IOLENS" run -- sh -c 'cat x/f y/f; stat -c %i x/f y/f; mv x/f y/g && cat y/g; rm y/f'
        "$IOLENS" audit | tail -n 1 | grep -c "every law holds"
        umount x y
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script])
        .current_dir(&scratch.source);
    command
        .env("IOLENS", IOLENS)
        .env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..2], ["one", "two"], "{outcome:?}");
    assert_ne!(lines[2], lines[3], "one inode number for two files");
    assert_eq!(lines[4..], ["one", "1"], "{outcome:?}");
}

#[test]
fn on_an_overlay_what_is_open_survives_the_copying_up_of_its_file() {
    let scratch = Scratch::new();
    let script = r#"
        set -e
        mkdir low up work m
        mkdir low/dir
        echo low > low/f
        mount -t tmpfs none up
        mkdir up/u up/w
        mount -t overlay overlay -o lowerdir=low,upperdir=up/u,workdir=up/w m
        cd m
        "$IOLENS" run -- bash -c 'exec 3<f; chmod 600 f; cat <&3; cd dir; echo n > new; stat -c %F .; ls'
        cd ..
        umount m up
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script])
        .current_dir(&scratch.source)
        .env("IOLENS", IOLENS)
        .env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.stdout, "low\ndirectory\nnew\n", "{outcome:?}");
}

#[test]
fn a_trace_in_source_does_not_record_itself() {
    let scratch = Scratch::new();
    let script = "cat t.jsonl; tail -n 1 t.jsonl; stat t.jsonl; cat a";
    let outcome = scratch.run(&["run", "-t", "t.jsonl", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let reader = Reader::open(&scratch.source.join("t.jsonl")).unwrap();
    let paths: Vec<_> = reader
        .filter_map(|item| match item.unwrap() {
            Item::Event(_, Event::Op(op)) => op.path.as_deref().map(str::to_owned),
            _ => None,
        })
        .collect();
    assert!(paths.iter().any(|path| path == "a"), "{paths:?}");
    assert!(paths.iter().all(|path| path != "t.jsonl"), "{paths:?}");
}
