//! `--kernel-cache read` and `write-back`: less is seen, and everything is as right as before.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use iolens::event::{Event, Header, Op, OpKind};
use iolens::trace::reader::{Item, Reader};
use support::{Running, Scratch, USER, eventually};

const MODES: [&str; 2] = ["read", "write-back"];

/// A view in one of the modes.
fn mounted(mode: &str, more: &[&str]) -> Scratch {
    let scratch = Scratch::new();
    let mut options = vec!["--kernel-cache", mode];
    options.extend(more);
    let outcome = scratch.mount(&options);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    scratch
}

/// Unmounts; what the trace has, which obeys its laws.
fn end(scratch: &Scratch) -> (Header, Vec<Op>) {
    scratch.unmount_and_audit();
    let reader = Reader::open(&scratch.path("state/iolens/latest")).unwrap();
    let (mut header, mut ops) = (None, Vec::new());
    for item in reader {
        match item.unwrap() {
            Item::Event(_, Event::Header(found)) => header = Some(*found),
            Item::Event(_, Event::Op(op)) => ops.push(*op),
            _ => {}
        }
    }
    (header.unwrap(), ops)
}

fn of<'a>(ops: &'a [Op], kind: OpKind, path: &str) -> Vec<&'a Op> {
    let of_it = |op: &&Op| op.op == kind && op.path.as_deref() == Some(path);
    ops.iter().filter(of_it).collect()
}

#[test]
fn the_kernel_answers_reads_again_and_each_write_is_seen() {
    let scratch = mounted("read", &[]);
    let path = scratch.view.join("f");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    for n in 0..100_u64 {
        file.write_all_at(&[b'0' + u8::try_from(n % 10).unwrap(); 100], n * 100)
            .unwrap();
    }
    let mut bytes = [0; 100];
    for n in 0..100_u64 {
        file.read_exact_at(&mut bytes, n * 100).unwrap();
        assert_eq!(bytes, [b'0' + u8::try_from(n % 10).unwrap(); 100]);
    }
    drop(file);
    let (header, ops) = end(&scratch);
    assert_eq!(header.kernel_cache, "read");
    let told = header
        .invisible
        .iter()
        .any(|what| what.contains("read(2) itself"));
    assert!(told, "{:?}", header.invisible);
    let writes = of(&ops, OpKind::Write, "f");
    // The kernel begins a new request with a new page; both belong to one call.
    assert_eq!(writes.len(), 100 + 10_000 / 4096);
    let calls: BTreeSet<_> = writes
        .iter()
        .map(|op| op.call.unwrap_or(op.seq.0))
        .collect();
    assert_eq!(calls.len(), 100);
    let seen =
        |op: &&&Op| op.syscall.as_deref() == Some("pwrite64") && op.fd.is_some() && !op.page_cache;
    assert_eq!(
        writes.iter().filter(seen).count(),
        writes.len(),
        "{:?}",
        writes[0]
    );
    let reads = of(&ops, OpKind::Read, "f");
    assert!(reads.len() < 10, "{} reads", reads.len());
    assert!(reads.iter().all(|op| op.page_cache), "{reads:?}");
}

#[test]
fn small_writes_come_as_pages_and_lose_nothing() {
    let scratch = mounted("write-back", &[]);
    fs::write(scratch.source.join("old"), vec![b'o'; 10_000]).unwrap();
    let path = scratch.view.join("f");
    let mut file = File::create(&path).unwrap();
    for n in 0..10_000 {
        writeln!(file, "line {n:04}").unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    drop(file);
    let wanted: String = (0..10_000).map(|n| format!("line {n:04}\n")).collect();
    assert_eq!(
        fs::read_to_string(scratch.source.join("f")).unwrap(),
        wanted
    );
    // Parts of pages of a file that is open for writing only: the rest is read first, by the same handle.
    let old = File::options()
        .write(true)
        .open(scratch.view.join("old"))
        .unwrap();
    old.write_all_at(b"new", 5000).unwrap();
    old.sync_all().unwrap();
    let mut all = vec![b'o'; 10_000];
    all[5000..5003].copy_from_slice(b"new");
    assert!(fs::read(scratch.source.join("old")).unwrap() == all);
    drop(old);
    let mut end_of_it = File::options()
        .append(true)
        .open(scratch.view.join("old"))
        .unwrap();
    end_of_it.write_all(b"at the end").unwrap();
    drop(end_of_it);
    all.extend(b"at the end");
    assert!(fs::read(scratch.source.join("old")).unwrap() == all);
    let times = |dir: &std::path::Path| fs::metadata(dir.join("f")).unwrap().modified().unwrap();
    assert_eq!(times(&scratch.view), times(&scratch.source));
    let (header, ops) = end(&scratch);
    assert_eq!(header.kernel_cache, "write-back");
    let told = header
        .invisible
        .iter()
        .any(|what| what.contains("write(2) itself"));
    assert!(told, "{:?}", header.invisible);
    let writes = of(&ops, OpKind::Write, "f");
    assert!(
        !writes.is_empty() && writes.len() < 1000,
        "{} writes",
        writes.len()
    );
    assert!(writes.iter().all(|op| op.page_cache && !op.mapped));
}

#[test]
fn each_open_begins_anew() {
    for mode in MODES {
        let scratch = mounted(mode, &[]);
        let (below, above) = (scratch.source.join("f"), scratch.view.join("f"));
        fs::write(&below, "one").unwrap();
        assert_eq!(fs::read_to_string(&above).unwrap(), "one");
        // Of the same size: only the content tells.
        fs::write(&below, "two").unwrap();
        assert_eq!(fs::read_to_string(&above).unwrap(), "two", "{mode}");
        if mode == "read" {
            fs::write(&below, "three or more").unwrap();
            assert_eq!(fs::read_to_string(&above).unwrap(), "three or more");
        }
        fs::write(&above, "four").unwrap();
        assert_eq!(fs::read_to_string(&below).unwrap(), "four", "{mode}");
        end(&scratch);
    }
}

#[test]
fn the_kernel_finds_the_way_through_directories_alone() {
    const FILES: usize = 200;
    for mode in ["off", "read", "write-back"] {
        // Over rings the kernel keeps names for a moment by itself (tests/rings.rs).
        let transport = if mode == "off" { "dev" } else { "auto" };
        let scratch = mounted(mode, &["--transport", transport]);
        let (below, dir) = (scratch.source.join("way/b"), scratch.view.join("way/b"));
        fs::create_dir_all(&below).unwrap();
        let name = |n: usize| format!("f{n}");
        (0..FILES).for_each(|n| fs::write(below.join(name(n)), name(n)).unwrap());
        for n in 0..FILES {
            assert_eq!(fs::read_to_string(dir.join(name(n))).unwrap(), name(n));
        }
        // All in the view see at once what happens to a directory there.
        fs::rename(&dir, scratch.view.join("moved")).unwrap();
        assert!(!dir.exists() && scratch.view.join("moved/f0").exists());
        fs::create_dir(&dir).unwrap();
        assert!(!dir.join("f0").exists());
        fs::remove_dir(&dir).unwrap();
        assert!(fs::File::create(dir.join("f")).is_err());
        // What happens in SOURCE is seen after a second, or at once.
        let (old, new) = (scratch.source.join("moved"), scratch.source.join("way/c"));
        fs::rename(&old, &new).unwrap();
        let gone = || !scratch.view.join("moved").exists();
        if mode == "off" {
            assert!(gone());
        } else {
            eventually("the name is gone", gone);
        }
        assert_eq!(fs::read(scratch.view.join("way/c/f7")).unwrap(), b"f7");
        let (header, ops) = end(&scratch);
        let found = of(&ops, OpKind::Lookup, "way/b").len();
        // A second may end on a slow machine.
        match mode {
            "off" => assert!(found >= FILES, "{found}"),
            _ => assert!(found < FILES / 10, "{found} in mode {mode}"),
        }
        assert_eq!(
            of(&ops, OpKind::Lookup, "way/b/f7").len(),
            1,
            "a file is asked for"
        );
        let told = |what: &String| what.contains("directories on the way");
        assert_eq!(header.invisible.iter().any(told), mode != "off");
    }
}

#[test]
fn everybody_in_the_view_sees_the_same() {
    for mode in MODES {
        let scratch = mounted(mode, &[]);
        let path = scratch.view.join("f");
        let writer = File::create(&path).unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut all = Vec::new();
        for n in 0..200_u8 {
            writer.write_all_at(&[n; 777], u64::from(n) * 777).unwrap();
            let mut piece = vec![0; 777];
            reader.read_exact(&mut piece).unwrap();
            assert!(piece == [n; 777], "{mode} {n}");
            all.extend(piece);
        }
        writer.set_len(1000).unwrap();
        assert!(fs::read(&path).unwrap() == all[..1000], "{mode}");
        // SAFETY: a valid descriptor and plain numbers.
        let punched = unsafe {
            libc::fallocate(
                std::os::fd::AsRawFd::as_raw_fd(&writer),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                100,
                100,
            )
        };
        assert_eq!(punched, 0);
        all[100..200].fill(0);
        assert!(fs::read(&path).unwrap() == all[..1000], "{mode}");
        drop((writer, reader));
        assert!(
            fs::read(scratch.source.join("f")).unwrap() == all[..1000],
            "{mode}"
        );
        end(&scratch);
    }
}

#[test]
fn set_id_bits_go_with_what_others_write_and_nobody_asks_for_capabilities_each_time() {
    for mode in MODES {
        let scratch = mounted(mode, &["-o", "allow_other"]);
        let mode_of = |name: &str| {
            let modes = [&scratch.view, &scratch.source]
                .map(|dir| fs::metadata(dir.join(name)).unwrap().mode());
            assert_eq!(modes[0], modes[1], "{mode} {name}");
            modes[0] & 0o7777
        };
        for name in ["written", "cut", "opened", "roots"] {
            fs::write(scratch.source.join(name), "program").unwrap();
            fs::set_permissions(
                scratch.source.join(name),
                fs::Permissions::from_mode(0o6777),
            )
            .unwrap();
        }
        let script = "printf x 1<> written; truncate -s 3 cut; : > opened; \
                      for n in $(seq 200); do echo $n; done > new";
        fs::set_permissions(&scratch.source, fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args([
                &format!("--reuid={USER}"),
                "--regid=1234",
                "--clear-groups",
                "sh",
                "-ec",
                script,
            ])
            .current_dir(&scratch.view);
        let done = Running::start(&mut command).finish();
        assert_eq!(done.code, 0, "{}", done.stderr);
        // Root has CAP_FSETID, and may write without that.
        let roots = File::options()
            .write(true)
            .open(scratch.view.join("roots"))
            .unwrap();
        roots.write_all_at(b"x", 0).unwrap();
        drop(roots);
        for name in ["written", "cut", "opened"] {
            assert_eq!(mode_of(name), 0o777, "{mode} {name}");
        }
        assert_eq!(mode_of("roots"), 0o6777, "{mode}");
        let (_, ops) = end(&scratch);
        let asked = of(&ops, OpKind::Getxattr, "new").len();
        assert!(asked <= 2, "{mode}: {asked} getxattr");
    }
}

/// While it closes descriptors in execve(2) a process holds a lock that whoever reads its `/proc/TID/syscall` waits for, and the
/// kernel sends what its own cache holds of these files, and their times.
#[test]
fn descriptors_that_execve_closes_hold_nobody_up() {
    const PROGRAM: &str = r#"
import os
for n in range(200):
    pid = os.fork()
    if pid == 0:
        for k in range(3):
            fd = os.open(f"f{n % 7}-{k}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"x" * (100 + n))
        os.execv("/bin/true", ["true"])
    assert os.waitpid(pid, 0)[1] == 0
"#;
    for mode in MODES {
        let scratch = mounted(mode, &[]);
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).current_dir(&scratch.view);
        let done = Running::start(&mut command).finish();
        assert_eq!(done.code, 0, "{mode}: {}", done.stderr);
        end(&scratch);
        let last = fs::read(scratch.source.join("f3-0")).unwrap();
        assert_eq!(last.len(), 100 + 199, "{mode}");
    }
}
