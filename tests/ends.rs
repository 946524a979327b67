//! However a view ends, what is dirty goes to SOURCE, the trace gets its footer, and nothing stays mounted.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use support::{IOLENS, Running, Scratch, eventually, has_footer};

const LAZY: [&str; 4] = ["--on-close", "keep", "--dirty-age", "never"];

fn in_front(scratch: &Scratch) -> Running {
    let mut args = vec!["mount", "-f"];
    args.extend(LAZY);
    args.extend([
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    ]);
    let server = Running::start(&mut scratch.iolens(&args));
    eventually("the view to answer", || scratch.view.join("a").exists());
    server
}

/// Dirty bytes of several files, one of which stays open.
fn make_dirty(scratch: &Scratch) -> File {
    for n in 0..20 {
        fs::write(scratch.view.join(format!("f{n}")), vec![n; 10_000]).unwrap();
    }
    let mut open = File::create(scratch.view.join("open")).unwrap();
    open.write_all(&[99; 5_000]).unwrap();
    assert_eq!(fs::read(scratch.source.join("open")).unwrap(), b"");
    open
}

fn all_is_well(scratch: &Scratch) {
    for n in 0..20 {
        let found = fs::read(scratch.source.join(format!("f{n}"))).unwrap();
        assert!(found == vec![n; 10_000], "f{n}");
    }
    assert!(fs::read(scratch.source.join("open")).unwrap() == [99; 5_000]);
    assert!(has_footer(&scratch.path("state/iolens/latest")));
    assert!(!scratch.is_mounted(), "a mount was left");
    eventually("all processes to end", || scratch.servers().is_empty());
    let audit = scratch.run(&["audit"]);
    assert_eq!(audit.code, 0, "{}", audit.stdout);
}

#[test]
fn every_signal_that_asks_for_the_end_is_an_orderly_one() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let scratch = Scratch::new();
        let server = in_front(&scratch);
        drop(make_dirty(&scratch));
        server.signal(signal);
        assert_eq!(server.finish().code, 0, "{signal}");
        all_is_well(&scratch);
    }
}

#[test]
fn a_view_that_is_detached_ends_with_its_last_user() {
    for command in [["umount", "-l"], ["fusermount3", "-uz"]] {
        let scratch = Scratch::new();
        let mut server = in_front(&scratch);
        let mut open = make_dirty(&scratch);
        let [program, option] = command;
        let done = Command::new(program)
            .arg(option)
            .arg(&scratch.view)
            .status();
        assert!(done.unwrap().success());
        assert!(!scratch.is_mounted());
        // It is served on.
        open.write_all(b"x").unwrap();
        open.set_len(5_000).unwrap();
        assert!(server.is_running());
        drop(open);
        eventually("the server to end", || !server.is_running());
        assert_eq!(server.finish().code, 0);
        all_is_well(&scratch);
    }
}

/// The directory of a mount's connection, where fusectl is mounted.
struct Connections(bool);

const CONNECTIONS: &str = "/sys/fs/fuse/connections";

impl Connections {
    fn find() -> Connections {
        let there = fs::read_dir(CONNECTIONS).unwrap().next().is_some();
        if !there {
            let none = None::<&str>;
            let kind = Some("fusectl");
            mount(none, CONNECTIONS, kind, MsFlags::empty(), none).unwrap();
        }
        Connections(!there)
    }

    /// Aborts the connection of the view at `view`.
    fn abort(&self, view: &Path) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_view = |line: &&str| line.split(' ').nth(4) == view.to_str();
        let line = mounts.lines().find(of_view).unwrap();
        let (_, minor) = line.split(' ').nth(2).unwrap().split_once(':').unwrap();
        fs::write(format!("{CONNECTIONS}/{minor}/abort"), "1").unwrap();
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        if self.0 {
            let _ = umount2(CONNECTIONS, MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn an_aborted_connection_costs_no_byte() {
    let scratch = Scratch::new();
    let mut server = in_front(&scratch);
    let mut open = make_dirty(&scratch);
    Connections::find().abort(&scratch.view);
    let error = open.write_all(b"x").unwrap_err().raw_os_error();
    assert!(
        matches!(error, Some(libc::ECONNABORTED | libc::ENOTCONN)),
        "{error:?}"
    );
    eventually("the server to end", || !server.is_running());
    assert_eq!(server.finish().code, 0);
    drop(open);
    all_is_well(&scratch);
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let scratch = Scratch::new();
    // The child has the terminal; its other end is closed when there is something to lose.
    const TERMINAL: &str = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:-1])
while not os.path.exists(sys.argv[-1]):
    time.sleep(0.01)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let close = scratch.path("close");
    let mut args = vec!["-c", TERMINAL, IOLENS, "mount", "-f"];
    args.extend(LAZY);
    args.extend([
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
        close.to_str().unwrap(),
    ]);
    let mut command = Command::new("python3");
    command
        .args(&args)
        .env("XDG_STATE_HOME", scratch.path("state"));
    let server = Running::start(&mut command);
    eventually("the view to answer", || scratch.view.join("a").exists());
    drop(make_dirty(&scratch));
    fs::write(&close, "").unwrap();
    assert_eq!(server.finish().code, 0);
    all_is_well(&scratch);
}

#[test]
fn a_killed_application_loses_nothing_that_was_answered() {
    let scratch = Scratch::new();
    let server = in_front(&scratch);
    drop(make_dirty(&scratch));
    let out = scratch.view.join("out");
    let script = format!("exec 3> {}; seq 5000 >&3; kill -9 $$", out.display());
    let killed = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert_eq!(killed.code(), None, "by a signal");
    assert_eq!(scratch.unmount().code, 0);
    assert_eq!(server.finish().code, 0);
    let lines = fs::read_to_string(scratch.source.join("out")).unwrap();
    assert_eq!(lines.lines().count(), 5000);
    all_is_well(&scratch);
}
