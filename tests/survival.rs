//! What an application was answered for is in SOURCE, whatever becomes of the server: killed, or ended by
//! somebody who does not wait, or with a SOURCE that takes nothing. What cannot be in SOURCE is in a rescue file.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "buffer/held.rs"]
mod held;
#[path = "support/process.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use support::{Running, Scratch, eventually, has_footer};

/// Nothing is written back before somebody asks for it.
const LAZY: [&str; 4] = ["--on-close", "keep", "--dirty-age", "never"];

fn in_front(scratch: &Scratch, more: &[&str]) -> Running {
    let mut args = vec!["mount", "-f"];
    args.extend(LAZY);
    args.extend(more);
    args.extend([
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    ]);
    let server = Running::start(&mut scratch.iolens(&args));
    eventually("the view to answer", || scratch.view.join("a").exists());
    server
}

/// Writes in every way that there is, and tells what the file must be.
fn write_in_many_ways(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    let mut model = Vec::new();
    let mut put = |at: usize, byte: u8, len: usize| {
        file.write_all_at(&vec![byte; len], at as u64).unwrap();
        if model.len() < at + len {
            model.resize(at + len, 0);
        }
        model[at..at + len].fill(byte);
    };
    put(0, 1, 100_000);
    // Gaps and overlaps within blocks, over block borders, and far out.
    for n in 0..40 {
        put(n * 2_500 + 17, 2 + u8::try_from(n).unwrap(), 900);
    }
    put(300_000, 77, 3);
    put(1, 78, 1);
    file.set_len(250_001).unwrap();
    model.truncate(250_001);
    model
}

#[test]
fn a_killed_server_loses_nothing_and_leaves_no_mount() {
    let scratch = Scratch::new();
    let server = in_front(&scratch, &[]);
    let names = ["one", "two", "three"];
    let models: Vec<_> = names
        .iter()
        .map(|name| write_in_many_ways(&scratch.view.join(name)))
        .collect();
    fs::rename(scratch.view.join("two"), scratch.view.join("2")).unwrap();
    fs::set_permissions(scratch.view.join("2"), fs::Permissions::from_mode(0o400)).unwrap();
    assert_ne!(fs::read(scratch.source.join("one")).unwrap(), models[0]);
    // The last 20 ms of a trace are in the memory of the server alone.
    eventually("the trace to have all", || {
        scratch.trace().contains(r#""set":{"mode""#)
    });
    server.signal(Signal::SIGKILL);
    let outcome = server.finish();
    assert_eq!(outcome.code, 137);
    assert!(
        outcome.stderr.contains("of 3 files") && outcome.stderr.contains("written to SOURCE"),
        "{}",
        outcome.stderr
    );
    for (name, model) in ["one", "2", "three"].iter().zip(&models) {
        let found = fs::read(scratch.source.join(name)).unwrap();
        assert!(found == *model, "{name} is not as it was answered for");
    }
    eventually("the mount to go", || !scratch.is_mounted());
    eventually("all processes to end", || scratch.servers().is_empty());
    for command in ["log", "report", "audit"] {
        let read = scratch.run(&[command]);
        assert_eq!(read.code, 0, "{command}: {}", read.stderr);
        let all = read.stdout + &read.stderr;
        let said = ["no footer", "no end yet"]
            .iter()
            .any(|said| all.contains(said));
        assert!(said, "{command}: {all}");
        assert!(
            all.contains("three") || command == "audit",
            "{command}: {all}"
        );
    }
    // The view can be had again at once.
    assert_eq!(scratch.mount(&[]).code, 0);
    assert_eq!(scratch.unmount().code, 0);
}

#[test]
fn an_ordinary_users_server_is_completed_too() {
    let scratch = Scratch::new();
    fs::set_permissions(&scratch.source, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&scratch.view, fs::Permissions::from_mode(0o777)).unwrap();
    let view = scratch.view.display();
    let script = format!(
        "cd /; $IOLENS mount -f --on-close keep --dirty-age never {} {view} & server=$!
         while ! test -e {view}/a; do sleep 0.05; done
         head -c 100000 /dev/zero | tr '\\0' x > {view}/b
         test ! -s {}/b || echo too early
         kill -9 $server; wait $server; echo $?
         while grep -q {view} /proc/self/mountinfo; do sleep 0.05; done
         tr -d x < {}/b | wc -c; wc -c < {}/b",
        scratch.source.display(),
        scratch.source.display(),
        scratch.source.display(),
        scratch.source.display()
    );
    // fusermount3 wants a user that has a name.
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let outcome = scratch.as_user(&user, &script);
    assert_eq!(outcome.stdout, "137\n0\n100000\n", "{}", outcome.stderr);
}

#[test]
fn a_killed_server_of_run_loses_nothing_and_the_program_is_told() {
    let scratch = Scratch::new();
    let ready = scratch.path("ready");
    let script = format!(
        "exec 3> b; seq 1000 >&3; : > {}; read line; echo more >&3 || exit 9",
        ready.display()
    );
    let mut args = vec!["run"];
    args.extend(LAZY);
    args.extend(["--", "sh", "-c", &script]);
    let mut running = Running::start(&mut scratch.iolens(&args));
    eventually("the program to write", || ready.exists());
    assert_eq!(fs::read(scratch.source.join("b")).unwrap(), b"");
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let children = fs::read_to_string(children).unwrap();
    let server = children.split_whitespace().next().unwrap().parse().unwrap();
    kill(nix::unistd::Pid::from_raw(server), Signal::SIGKILL).unwrap();
    running.input("go\n");
    let outcome = running.finish();
    assert_eq!(outcome.code, 125, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("3893 bytes of 1 file"),
        "{}",
        outcome.stderr
    );
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        fs::read_to_string(scratch.source.join("b")).unwrap(),
        expected
    );
}

#[test]
fn who_waits_for_a_server_that_is_killed_gets_an_error() {
    let scratch = Scratch::new();
    let server = in_front(&scratch, &[]);
    let mut file = File::create(scratch.view.join("b")).unwrap();
    file.write_all(b"answered").unwrap();
    server.signal(Signal::SIGSTOP);
    let waiting = std::thread::spawn(move || file.write_all(b" and not"));
    server.signal(Signal::SIGKILL);
    let error = waiting.join().unwrap().unwrap_err().raw_os_error();
    assert!(
        matches!(
            error,
            Some(libc::ECONNABORTED | libc::ENOTCONN | libc::ECANCELED)
        ),
        "{error:?}"
    );
    server.finish();
    let found = fs::read(scratch.source.join("b")).unwrap();
    assert_eq!(found, b"answered");
}

#[test]
fn the_supervisor_ends_with_the_server_and_survives_its_process_group() {
    let scratch = Scratch::new();
    let server = in_front(&scratch, &[]);
    let before = scratch.servers();
    assert_eq!(before.len(), 2, "a server and its supervisor");
    let supervisor = *before.iter().find(|pid| **pid != server.pid()).unwrap();
    let comm = fs::read_to_string(format!("/proc/{supervisor}/comm")).unwrap();
    assert_eq!(comm, "iolens-super\n");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(supervisor, signal).unwrap();
    }
    fs::write(scratch.view.join("b"), "b").unwrap();
    assert_eq!(scratch.servers().len(), 2);
    assert_eq!(scratch.unmount().code, 0);
    assert_eq!(server.finish().code, 0);
    assert_eq!(scratch.servers().len(), 0);
}

/// A small filesystem as SOURCE.
struct Small(PathBuf);

impl Small {
    fn under(scratch: &Scratch) -> Small {
        let at = &scratch.source;
        let none = None::<&str>;
        mount(none, at, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        fs::write(at.join("a"), "hello\n").unwrap();
        Small(at.clone())
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.0.join("fill")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The path of the rescue file that a message names.
fn rescue_file(message: &str) -> PathBuf {
    let line = message.lines().find(|line| line.contains("saved in"));
    let line = line.unwrap_or_else(|| panic!("no rescue file is named: {message}"));
    PathBuf::from(line.split('"').nth(1).unwrap())
}

/// Puts the bytes back, which does not work before there is room.
fn restore(scratch: &Scratch, small: &Small, message: &str) {
    let file = rescue_file(message);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = file.to_str().unwrap();
    let early = scratch.run(&["restore", file]);
    assert_eq!(early.code, 1, "{}", early.stderr);
    assert!(early.stderr.contains("ENOSPC"), "{}", early.stderr);
    small.free();
    let restored = scratch.run(&["restore", file]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
}

#[test]
fn what_a_full_disk_did_not_take_at_the_end_is_saved_and_can_be_put_back() {
    let scratch = Scratch::new();
    let small = Small::under(&scratch);
    let server = in_front(&scratch, &[]);
    let model = write_in_many_ways(&scratch.view.join("b"));
    small.fill();
    let unmounted = scratch.unmount();
    assert_eq!(unmounted.code, 3, "{}", unmounted.stderr);
    assert!(unmounted.stderr.contains("ENOSPC"), "{}", unmounted.stderr);
    assert!(unmounted.stderr.contains("\"b\""), "{}", unmounted.stderr);
    let served = server.finish();
    assert_eq!(served.code, 3);
    assert!(has_footer(&scratch.path("state/iolens/latest")));
    assert_eq!(scratch.run(&["audit"]).code, 0);
    restore(&scratch, &small, &served.stderr);
    assert!(fs::read(scratch.source.join("b")).unwrap() == model);
}

#[test]
fn what_a_full_disk_does_not_take_when_the_server_was_killed_is_saved() {
    let scratch = Scratch::new();
    let small = Small::under(&scratch);
    let server = in_front(&scratch, &[]);
    let model = write_in_many_ways(&scratch.view.join("b"));
    small.fill();
    server.signal(Signal::SIGKILL);
    let served = server.finish();
    assert!(served.stderr.contains("ENOSPC"), "{}", served.stderr);
    restore(&scratch, &small, &served.stderr);
    assert!(fs::read(scratch.source.join("b")).unwrap() == model);
}

#[test]
fn a_rescue_file_that_is_cut_or_of_another_file_is_refused() {
    let scratch = Scratch::new();
    let small = Small::under(&scratch);
    let server = in_front(&scratch, &[]);
    write_in_many_ways(&scratch.view.join("b"));
    small.fill();
    scratch.unmount();
    let file = rescue_file(&server.finish().stderr);
    small.free();
    let before = fs::read(scratch.source.join("b")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let cut = scratch.path("cut.jsonl");
    let last = text.trim_end().rfind('\n').unwrap();
    fs::write(&cut, &text[..=last]).unwrap();
    let refused = scratch.run(&["restore", cut.to_str().unwrap()]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("cut"), "{}", refused.stderr);
    assert_eq!(fs::read(scratch.source.join("b")).unwrap(), before);
    fs::rename(scratch.source.join("b"), scratch.source.join("c")).unwrap();
    std::os::unix::fs::symlink("c", scratch.source.join("b")).unwrap();
    let file = file.to_str().unwrap();
    let refused = scratch.run(&["restore", file]);
    assert_eq!(refused.code, 1, "a link is not followed");
    fs::remove_file(scratch.source.join("b")).unwrap();
    fs::write(scratch.source.join("b"), "").unwrap();
    let refused = scratch.run(&["restore", file]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("ESTALE"), "{}", refused.stderr);
    assert_eq!(fs::read(scratch.source.join("b")).unwrap(), b"");
    assert_eq!(fs::read(scratch.source.join("c")).unwrap(), before);
    for other in ["/dev/null", "/etc/passwd"] {
        assert_eq!(scratch.run(&["restore", other]).code, 1, "{other}");
    }
}

#[test]
fn a_second_sigint_gives_up_a_disk_that_does_not_answer_and_saves_what_it_lacks() {
    let scratch = Scratch::new();
    let mut server = in_front(&scratch, &[]);
    let model = write_in_many_ways(&scratch.view.join("b"));
    let held = held::Held::new(&scratch.source.join("b"));
    server.signal(Signal::SIGINT);
    eventually("the view to go", || !scratch.is_mounted());
    assert!(server.is_running(), "it writes back");
    server.signal(Signal::SIGINT);
    // The process cannot end before its system call does; what it has to say, it has said.
    let state = scratch.path("state/iolens");
    let rescued = || {
        let entries = fs::read_dir(&state).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.find(|name| name.starts_with("rescue-"))
    };
    eventually("the rescue file", || rescued().is_some());
    eventually("the footer", || has_footer(&state.join("latest")));
    drop(held);
    let served = server.finish();
    assert_eq!(served.code, 3, "{}", served.stderr);
    assert!(served.stderr.contains("given up"), "{}", served.stderr);
    let file = rescue_file(&served.stderr);
    let restored = scratch.run(&["restore", file.to_str().unwrap()]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let found = fs::read(scratch.source.join("b")).unwrap();
    assert!(found == model, "{} and {} bytes", found.len(), model.len());
    assert_eq!(scratch.run(&["audit"]).code, 0);
}

#[test]
fn a_drain_that_lasts_says_how_much_is_left() {
    let scratch = Scratch::new();
    let server = in_front(&scratch, &[]);
    fs::write(scratch.view.join("b"), [7; 10_000]).unwrap();
    let held = held::Held::new(&scratch.source.join("b"));
    server.signal(Signal::SIGTERM);
    eventually("the view to go", || !scratch.is_mounted());
    std::thread::sleep(std::time::Duration::from_secs(3));
    drop(held);
    let served = server.finish();
    assert_eq!(served.code, 0, "{}", served.stderr);
    assert!(
        served.stderr.contains("10000 bytes are left"),
        "{}",
        served.stderr
    );
}

#[test]
fn who_still_has_a_detached_view_open_writes_past_the_buffer_at_the_end() {
    let scratch = Scratch::new();
    let ready = scratch.path("ready");
    let go = scratch.path("go");
    // The program leaves a process behind that goes on writing when the view was taken away.
    let script = format!(
        "exec 3> b; echo one >&3
         (while ! test -e {go}; do sleep 0.05; done; echo two >&3) > /dev/null 2>&1 < /dev/null & : > {ready}",
        go = go.display(),
        ready = ready.display()
    );
    let mut args = vec!["run"];
    args.extend(LAZY);
    args.extend(["--", "sh", "-c", &script]);
    let running = Running::start(&mut scratch.iolens(&args));
    eventually("the program to end", || ready.exists());
    fs::write(&go, "").unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let found = fs::read_to_string(scratch.source.join("b")).unwrap();
    assert_eq!(found, "one\ntwo\n");
}
