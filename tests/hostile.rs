//! Names, trees and files that somebody made to do harm, and a SOURCE that does not stay what it was.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, mkfifo, unlinkat};
use support::{Outcome, Scratch, eventually, has_footer};

fn mounted(options: &[&str]) -> Scratch {
    let scratch = Scratch::new();
    let outcome = scratch.mount(options);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    scratch
}

/// No output may say anything to a terminal but text and ends of lines.
fn plain(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        let obeyed = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(obeyed, None, "{text}");
    }
}

fn hostile_names() -> Vec<OsString> {
    let bytes: Vec<Vec<u8>> = vec![
        b"two\nlines".to_vec(),
        b"\n".to_vec(),
        b"\x1b]0;title\x07\x1b[2J\x1b[31m".to_vec(),
        b"\xff\xfe not UTF-8 \xc3".to_vec(),
        "\u{202e}gpj.exe\u{9b}31m".into(),
        b"quote\" back\\slash <x> 'y'".to_vec(),
        b"  leading and trailing  ".to_vec(),
        b"-rf".to_vec(),
        b"$(reboot) `reboot` ; %s%n {}".to_vec(),
        b"...".to_vec(),
        b"{\"kind\":\"footer\"}".to_vec(),
        vec![b'n'; 255],
        vec![0xff; 255],
        "\u{1f4a9}".repeat(63).into(),
    ];
    bytes.into_iter().map(OsString::from_vec).collect()
}

#[test]
fn files_of_any_name_are_worked_with_and_shown_on_one_line() {
    let scratch = mounted(&[]);
    let names = hostile_names();
    for name in &names {
        let path = scratch.view.join(name);
        fs::write(&path, name.as_bytes()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), name.as_bytes());
        fs::rename(&path, scratch.view.join("moved")).unwrap();
        fs::rename(scratch.view.join("moved"), &path).unwrap();
        let missing = path.join("beyond");
        assert_eq!(
            File::open(missing).unwrap_err().raw_os_error(),
            Some(libc::ENOTDIR)
        );
    }
    let list = |dir: &Path| -> BTreeSet<OsString> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(list(&scratch.view), list(&scratch.source));
    assert_eq!(list(&scratch.view).len(), names.len() + 1);
    scratch.unmount_and_audit();
    for name in &names {
        assert_eq!(
            fs::read(scratch.source.join(name)).unwrap(),
            name.as_bytes()
        );
    }
    // Whatever a name says, the footer is the last line, and every line is a whole event.
    assert!(has_footer(&scratch.path("state/iolens/latest")));
    let lines = scratch.trace().lines().count();
    let log = scratch.run(&["log"]);
    plain(&log);
    assert_eq!(log.stdout.lines().count(), lines);
    plain(&scratch.run(&["report"]));
    for name in names.iter().filter_map(|name| name.to_str()) {
        let story = scratch.run(&["story", &format!("--path={name}")]);
        plain(&story);
        assert!(
            story.stdout.contains("renamed"),
            "{name:?}: {}",
            story.stdout
        );
    }
    // By bytes that are none of UTF-8, too: the path is in the trace beside its readable form.
    let bytes = &names[3];
    let shown = scratch
        .trace()
        .lines()
        .filter(|line| line.contains("path_b64"))
        .count();
    assert!(shown > 0, "{bytes:?}");
}

#[test]
fn what_goes_wrong_with_hostile_names_is_said_without_them_reaching_the_terminal() {
    let scratch = Scratch::new();
    for name in hostile_names() {
        let path = scratch.path("none").join(&name);
        let path = path.as_os_str();
        let arguments: [&[&OsStr]; 6] = [
            &["mount".as_ref(), path, path],
            &["unmount".as_ref(), path],
            &[
                "run".as_ref(),
                "-C".as_ref(),
                path,
                "--".as_ref(),
                "true".as_ref(),
            ],
            &["restore".as_ref(), path],
            &["audit".as_ref(), path],
            &["log".as_ref(), path],
        ];
        for argument in arguments {
            let outcome = scratch.run(argument);
            assert!(
                (1..=125).contains(&outcome.code),
                "{argument:?}: {outcome:?}"
            );
            plain(&outcome);
        }
    }
}

fn open_in(dir: &impl AsFd, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    openat(
        dir,
        name,
        flags | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(0o644),
    )
}

#[test]
fn a_tree_of_4096_levels_is_made_used_and_removed() {
    const LEVELS: usize = 4096;
    let scratch = mounted(&[]);
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut dir: OwnedFd = File::open(&scratch.view).unwrap().into();
    for _ in 0..LEVELS {
        mkdirat(&dir, "d", Mode::from_bits_truncate(0o755)).unwrap();
        dir = open_in(&dir, "d", directory).unwrap();
    }
    // Longer than any path may be (PATH_MAX): only reached from directory to directory.
    let file: File = open_in(&dir, "deep", OFlag::O_RDWR | OFlag::O_CREAT)
        .unwrap()
        .into();
    file.write_all_at(b"far down", 0).unwrap();
    file.sync_all().unwrap();
    fs::rename(scratch.view.join("d"), scratch.view.join("e")).unwrap();
    linkat(&dir, "deep", &dir, "deeper", AtFlags::empty()).unwrap();
    let mut text = String::new();
    let mut again: File = open_in(&dir, "deeper", OFlag::O_RDONLY).unwrap().into();
    again.read_to_string(&mut text).unwrap();
    assert_eq!(text, "far down");
    assert_eq!(again.metadata().unwrap().nlink(), 2);
    for name in ["deep", "deeper"] {
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).unwrap();
    }
    for level in (0..LEVELS).rev() {
        dir = open_in(&dir, "..", directory).unwrap();
        let name = if level == 0 { "e" } else { "d" };
        unlinkat(&dir, name, UnlinkatFlags::RemoveDir).unwrap();
    }
    drop((dir, file, again));
    scratch.unmount_and_audit();
    assert_eq!(fs::read_dir(&scratch.source).unwrap().count(), 1);
    plain(&scratch.run(&["report"]));
}

/// Exchanges two names of SOURCE until it is dropped.
struct Exchange {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u64>>,
}

impl Exchange {
    fn of(source: &Path, one: &'static str, other: &'static str) -> Exchange {
        let dir = File::open(source).unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut rounds = 0;
            while !seen.load(Ordering::Relaxed) {
                renameat2(&dir, one, &dir, other, RenameFlags::RENAME_EXCHANGE).unwrap();
                rounds += 1;
            }
            // As it was.
            if rounds % 2 == 1 {
                renameat2(&dir, one, &dir, other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
            rounds
        });
        Exchange {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn a_link_that_takes_a_directorys_place_leads_nobody_out_of_source() {
    // Below SOURCE's parent and not below the view's: only a server that follows the link gets there.
    let mut scratch = Scratch::new();
    let parent = scratch.path("inner");
    fs::create_dir_all(parent.join("source/dir")).unwrap();
    fs::create_dir(parent.join("outside")).unwrap();
    scratch.source = parent.join("source");
    fs::write(parent.join("outside/x"), "secret").unwrap();
    fs::write(scratch.source.join("dir/x"), "inside").unwrap();
    symlink("../outside", scratch.source.join("link")).unwrap();
    let before = fs::metadata(parent.join("outside")).unwrap();
    assert_eq!(scratch.mount(&[]).code, 0);

    let exchange = Exchange::of(&scratch.source, "dir", "link");
    let dir = scratch.view.join("dir");
    let mut inside = 0;
    for round in 0..3000 {
        if let Ok(text) = fs::read_to_string(dir.join("x")) {
            assert_eq!(text, "inside");
            inside += 1;
        }
        let new = dir.join(format!("new{}", round % 7));
        let _ = fs::write(&new, "inside");
        let _ = fs::set_permissions(dir.join("x"), fs::Permissions::from_mode(0o640));
        let _ = fs::rename(&new, dir.join("moved"));
        let _ = fs::hard_link(dir.join("x"), dir.join("linked"));
        let _ = fs::remove_file(dir.join("linked"));
        let _ = fs::create_dir(dir.join("sub"));
        let _ = fs::remove_dir(dir.join("sub"));
        let _ = File::options()
            .write(true)
            .truncate(true)
            .open(dir.join("moved"));
        let _ = fs::read_dir(&dir).map(Iterator::count);
    }
    let rounds = exchange.end();
    assert!(
        inside > 0 && rounds > 100,
        "{inside} reads, {rounds} exchanges"
    );
    let outside: Vec<_> = fs::read_dir(parent.join("outside"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
    assert_eq!(
        fs::read_to_string(parent.join("outside/x")).unwrap(),
        "secret"
    );
    let after = fs::metadata(parent.join("outside")).unwrap();
    assert_eq!(
        (after.mtime_nsec(), after.mode()),
        (before.mtime_nsec(), before.mode())
    );
    scratch.unmount_and_audit();
}

#[test]
fn a_fifo_or_device_that_takes_a_files_place_stops_nobody() {
    let scratch = mounted(&[]);
    fs::write(scratch.source.join("file"), "a file").unwrap();
    mkfifo(
        &scratch.source.join("fifo"),
        Mode::from_bits_truncate(0o666),
    )
    .unwrap();
    let exchange = Exchange::of(&scratch.source, "file", "fifo");
    // Whoever opens a FIFO without a writer waits, unless it asks not to; a server would stop everybody.
    let mut read = 0;
    for _ in 0..2000 {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let Ok(mut file) = options.open(scratch.view.join("file")) else {
            continue;
        };
        let mut text = String::new();
        if file.metadata().unwrap().is_file() && file.read_to_string(&mut text).is_ok() {
            assert_eq!(text, "a file");
            read += 1;
        }
        let _ = fs::metadata(scratch.view.join("fifo"));
    }
    assert!(exchange.end() > 100 && read > 0);
    // A FIFO in the view is one for the programs that use it.
    let fifo = scratch.view.join("fifo");
    let writer = fifo.clone();
    let thread = thread::spawn(move || {
        File::options()
            .write(true)
            .open(writer)?
            .write_all(b"through")
    });
    let mut text = String::new();
    File::open(&fifo)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "through");
    thread.join().unwrap().unwrap();
    // A device without -o dev.
    let device = CString::new(scratch.source.join("null").as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a C string.
    let made = unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) };
    assert_eq!(made, 0);
    let refused = File::open(scratch.view.join("null")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    scratch.unmount_and_audit();
}

#[test]
fn files_that_change_underneath_are_seen_as_they_are() {
    let scratch = mounted(&["--on-close", "keep", "--dirty-age", "never"]);
    let (below, above) = (scratch.source.join("f"), scratch.view.join("f"));
    for round in 0..50_u8 {
        let size = 1 + usize::from(round) * 977 % 9000;
        let bytes = vec![b'a' + round % 26; size];
        fs::write(&below, &bytes).unwrap();
        assert!(fs::read(&above).unwrap() == bytes, "round {round}");
        match round % 3 {
            // Another file of this name.
            0 => {
                fs::write(scratch.source.join("new"), "other").unwrap();
                fs::rename(scratch.source.join("new"), &below).unwrap();
                assert_eq!(fs::read(&above).unwrap(), b"other");
            }
            1 => {
                fs::remove_file(&below).unwrap();
                let error = fs::read(&above).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            }
            _ => {
                let file = File::options().write(true).open(&below).unwrap();
                file.set_len(1).unwrap();
                assert_eq!(fs::read(&above).unwrap(), [bytes[0]]);
            }
        }
    }
    scratch.unmount_and_audit();
}

#[test]
fn a_source_that_is_removed_ends_nothing_and_loses_nothing_that_is_open() {
    let scratch = mounted(&["--on-close", "keep", "--dirty-age", "never"]);
    fs::create_dir(scratch.view.join("sub")).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch.view.join("sub/f"))
        .unwrap();
    file.write_all_at(b"written before", 0).unwrap();
    let kept = File::open(scratch.source.join("sub/f")).unwrap();
    fs::remove_dir_all(&scratch.source).unwrap();
    file.write_all_at(b"written after ", 0).unwrap();
    file.sync_all().unwrap();
    let mut text = String::new();
    (&kept).read_to_string(&mut text).unwrap();
    assert_eq!(text, "written after ");
    for path in ["sub/f", "sub", "new"] {
        let error = File::open(scratch.view.join(path)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{path}");
    }
    let made = fs::write(scratch.view.join("new"), "x").unwrap_err();
    assert_eq!(made.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(fs::read_dir(&scratch.view).unwrap().count(), 0);
    drop(file);
    fs::create_dir(&scratch.source).unwrap();
    scratch.unmount_and_audit();
}

#[test]
fn a_source_that_turns_read_only_says_so_and_takes_writes_when_it_no_longer_is() {
    let scratch = Scratch::new();
    let none: Option<&str> = None;
    mount(
        Some("none"),
        &scratch.source,
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    assert_eq!(scratch.mount(&[]).code, 0);
    let path = scratch.view.join("f");
    fs::write(&path, "before").unwrap();
    // The kernel tells of the last close after close(2): until then the file is open for writing.
    let remount = |flags| {
        let flags = MsFlags::MS_REMOUNT | flags;
        eventually("nothing to be open for writing", || {
            match mount(none, &scratch.source, none, flags, none) {
                Err(nix::Error::EBUSY) => false,
                done => {
                    done.unwrap();
                    true
                }
            }
        });
    };
    remount(MsFlags::MS_RDONLY);
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS))
    };
    refused(fs::write(&path, "now"));
    refused(fs::write(scratch.view.join("new"), "now"));
    refused(fs::rename(&path, scratch.view.join("g")));
    refused(fs::remove_file(&path));
    refused(fs::create_dir(scratch.view.join("d")));
    refused(fs::set_permissions(
        &path,
        fs::Permissions::from_mode(0o600),
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    remount(MsFlags::empty());
    fs::write(&path, "after").unwrap();
    scratch.unmount_and_audit();
    assert_eq!(
        fs::read_to_string(scratch.source.join("f")).unwrap(),
        "after"
    );
    umount2(&scratch.source, MntFlags::MNT_DETACH).unwrap();
}

/// A set of capabilities in `/proc/PID/status`, by its number (man 5 proc_pid_status).
fn capabilities(pid: impl std::fmt::Display, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(set)).unwrap();
    u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()
}

#[test]
fn server_and_supervisor_keep_only_the_capabilities_that_they_need() {
    // include/uapi/linux/capability.h: chown, dac_override, dac_read_search, fowner, fsetid, setgid, setuid,
    // linux_immutable, sys_ptrace, sys_admin, sys_resource, mknod, setfcap.
    let needed: u64 = [0, 1, 2, 3, 4, 6, 7, 9, 19, 21, 24, 27, 31]
        .iter()
        .map(|n| 1_u64 << n)
        .sum();
    let scratch = mounted(&[]);
    let servers = scratch.servers();
    assert_eq!(servers.len(), 2);
    for pid in &servers {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let held = capabilities(pid, set);
            assert_eq!(held & !needed, 0, "{set} of {pid} is {held:x}");
            assert_eq!(held, capabilities("self", set) & needed, "{set} of {pid}");
        }
        assert_eq!(
            (capabilities(pid, "CapInh"), capabilities(pid, "CapAmb")),
            (0, 0)
        );
    }
    scratch.unmount_and_audit();
    // The program that is recorded has what it has without us.
    let run = scratch.run(&["run", "--", "cat", "/proc/self/status"]);
    let mine = format!("CapEff:\t{:016x}", capabilities("self", "CapEff"));
    assert!(run.stdout.contains(&mine), "{}", run.stdout);
}

#[test]
fn what_is_buffered_is_in_no_core_dump_and_what_is_kept_is_its_owners_alone() {
    // SAFETY: sets a number of this process, which no other test here depends on.
    unsafe { libc::umask(0) };
    let scratch = mounted(&["--on-close", "keep", "--dirty-age", "never"]);
    fs::write(scratch.view.join("f"), "secret").unwrap();
    for pid in scratch.servers() {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mut shared = 0;
        for mapping in maps.split("VmFlags:").collect::<Vec<_>>().windows(2) {
            // Anonymous memory that is shared is /dev/zero's, man 2 mmap.
            if mapping[0].contains("/dev/zero (deleted)") {
                let flags = mapping[1].lines().next().unwrap();
                assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
                shared += 1;
            }
        }
        assert!(shared > 0, "{pid} has no buffers");
    }
    scratch.unmount_and_audit();
    let trace = fs::metadata(scratch.path("state/iolens/latest")).unwrap();
    assert_eq!(trace.mode() & 0o777, 0o600);
    assert_eq!(
        scratch.run(&["run", "-t", "../t.jsonl", "--", "true"]).code,
        0
    );
    assert_eq!(
        fs::metadata(scratch.path("t.jsonl")).unwrap().mode() & 0o777,
        0o600
    );
    let state = fs::metadata(scratch.path("state/iolens")).unwrap();
    assert_eq!(state.mode() & 0o77, 0, "{:o}", state.mode());
}

#[test]
fn rescue_files_that_were_tampered_with_write_nothing_elsewhere() {
    let scratch = Scratch::new();
    fs::write(scratch.path("outside"), "untouched").unwrap();
    symlink("../outside", scratch.source.join("link")).unwrap();
    mkfifo(
        &scratch.source.join("fifo"),
        Mode::from_bits_truncate(0o666),
    )
    .unwrap();
    let tamper = |path: &str, offset: &str, bytes: &str, end: &str| {
        let source = scratch.source.to_str().unwrap();
        let text = format!(
            "{{\"kind\":\"rescue\",\"format\":1,\"source\":{{\"path\":\"{source}\"}}}}\n\
             {{\"kind\":\"bytes\",\"path\":\"{path}\",\"dev\":0,\"ino\":0,\"offset\":{offset},\"data\":\"{bytes}\"}}\n\
             {{\"kind\":\"end\",\"stretches\":1,\"bytes\":{end}}}\n"
        );
        let file = scratch.path("rescue");
        fs::write(&file, text).unwrap();
        let outcome = scratch.run(&["restore", "--into", source, file.to_str().unwrap()]);
        plain(&outcome);
        outcome
    };
    // So far, it is a good one.
    let good = tamper("a", "1", "RUxM", "3");
    assert_eq!(good.code, 0, "{}", good.stderr);
    assert_eq!(
        fs::read_to_string(scratch.source.join("a")).unwrap(),
        "hELLo\n"
    );
    for (path, offset, bytes, end) in [
        ("../outside", "0", "RUxM", "3"),
        ("link", "0", "RUxM", "3"),
        ("fifo", "0", "RUxM", "3"),
        ("/etc/hostname", "0", "RUxM", "3"),
        ("", "0", "RUxM", "3"),
        (".", "0", "RUxM", "3"),
        ("a/../../outside", "0", "RUxM", "3"),
        ("x\\u001b[2J\\u0000", "0", "RUxM", "3"),
        ("a", "18446744073709551615", "RUxM", "3"),
        ("a", "9223372036854775807", "RUxM", "3"),
        ("a", "-1", "RUxM", "3"),
        ("a", "0", "no base64", "3"),
        ("a", "0", "RUxM", "4"),
        ("a", "0", "RUxM", "18446744073709551616"),
    ] {
        let outcome = tamper(path, offset, bytes, end);
        assert_eq!(
            outcome.code, 1,
            "{path} {offset} {bytes} {end}: {}",
            outcome.stderr
        );
    }
    let long = tamper(&"x".repeat(8 << 20), "0", "RUxM", "3");
    assert_eq!(long.code, 1);
    assert!(long.stderr.len() < 10_000, "{} bytes", long.stderr.len());
    assert_eq!(
        fs::read_to_string(scratch.path("outside")).unwrap(),
        "untouched"
    );
    assert_eq!(
        fs::read_to_string(scratch.source.join("a")).unwrap(),
        "hELLo\n"
    );
}
