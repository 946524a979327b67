//! `iolens mount` and `iolens unmount` as their users see them.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Running, Scratch, eventually, has_footer};

#[test]
fn mount_returns_when_the_view_is_usable_and_unmount_when_all_is_done() {
    let scratch = Scratch::new();
    let mounted = scratch.mount(&[]);
    assert_eq!(
        (mounted.code, mounted.stdout.as_str()),
        (0, ""),
        "{}",
        mounted.stderr
    );
    assert_eq!(
        fs::read_to_string(scratch.view.join("a")).unwrap(),
        "hello\n"
    );
    fs::write(scratch.view.join("b"), "through\n").unwrap();
    let unmounted = scratch.unmount();
    assert_eq!(unmounted.code, 0, "{}", unmounted.stderr);
    // No waiting here: unmount has waited.
    assert!(!scratch.is_mounted());
    assert!(has_footer(&scratch.path("state/iolens/latest")));
    assert_eq!(
        fs::read_to_string(scratch.source.join("b")).unwrap(),
        "through\n"
    );
}

#[test]
fn the_server_holds_nothing_of_its_starter() {
    let scratch = Scratch::new();
    let (held, source) = (scratch.path("held"), scratch.source.display());
    let script = format!(
        "exec 9> {}; flock 9; \"$IOLENS\" mount {source} {}",
        held.display(),
        scratch.view.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("IOLENS", support::IOLENS);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    assert_eq!(Running::start(&mut command).finish().code, 0);
    File::open(&held)
        .unwrap()
        .try_lock()
        .expect("the server keeps a lock of its starter");
    // The supervisor has the same descriptors.
    let comm = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let servers = scratch.servers();
    let server = servers.iter().find(|pid| comm(pid) == "iolens\n").unwrap();
    assert_eq!(servers.len(), 2);
    let proc = format!("/proc/{server}");
    assert_eq!(
        fs::read_link(format!("{proc}/cwd")).unwrap().to_str(),
        Some("/")
    );
    for number in 0..3 {
        let link = fs::read_link(format!("{proc}/fd/{number}")).unwrap();
        assert_eq!(link.to_str(), Some("/dev/null"));
    }
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // state, ppid, pgrp, session, tty_nr (man 5 proc_pid_stat)
    assert_eq!(fields[2], server.to_string(), "its own process group");
    let own_session = fields[3] == server.to_string();
    assert_eq!(own_session, !over_rings(), "{stat}");
    assert_eq!(fields[4], "0", "no terminal");
    assert_eq!(scratch.unmount().code, 0);
}

/// Whether requests come by rings, as they do where the kernel has them switched on.
fn over_rings() -> bool {
    let switch = fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    switch.is_ok_and(|switch| switch.trim() == "Y")
}

/// The kernel counts how often a thread has waited, and how often it was made to.
#[test]
fn an_idle_view_takes_no_processor() {
    let scratch = Scratch::new();
    assert_eq!(scratch.mount(&["--dirty-age", "200ms"]).code, 0);
    for n in 0..100 {
        fs::write(scratch.view.join(format!("file {n}")), "some\n").unwrap();
        fs::read(scratch.view.join("a")).unwrap();
    }
    let servers = scratch.servers();
    let now = || -> Vec<(String, String)> {
        let tasks = servers.iter().flat_map(|pid| tasks_of(*pid));
        let all: Vec<_> = tasks.map(|task| (task.clone(), switches(&task))).collect();
        assert!(all.len() > servers.len(), "{all:?}");
        all
    };
    let mut before = now();
    // What was begun comes to its end, workers that have nothing to do included; then nothing happens any more.
    eventually("all threads sleep for two seconds", || {
        std::thread::sleep(Duration::from_secs(2));
        let after = now();
        std::mem::replace(&mut before, after) == before
    });
    assert_eq!(scratch.unmount().code, 0);
}

fn tasks_of(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let paths = tasks.map(|task| task.unwrap().path());
    paths
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
}

fn switches(task: &str) -> String {
    // It may have ended, which is a change.
    let status = fs::read_to_string(format!("{task}/status")).unwrap_or_default();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_busy_view_is_not_unmounted_and_its_holder_named() {
    let scratch = Scratch::new();
    assert_eq!(scratch.mount(&[]).code, 0);
    let file = File::open(scratch.view.join("a")).unwrap();
    let refused = scratch.unmount();
    assert_eq!(refused.code, 1);
    let own = format!("(pid {})", std::process::id());
    assert!(refused.stderr.contains(&own), "{}", refused.stderr);
    assert!(refused.stderr.contains("EBUSY"), "{}", refused.stderr);
    assert!(scratch.is_mounted());
    drop(file);
    // The kernel lets go of a closed file a moment later.
    eventually("the view to be idle", || scratch.unmount().code == 0);
}

#[test]
fn unmount_from_inside_the_view_is_not_in_its_own_way() {
    let scratch = Scratch::new();
    assert_eq!(scratch.mount(&[]).code, 0);
    let view = scratch.view.to_str().unwrap();
    let mut command = scratch.iolens(&["unmount", view]);
    command.current_dir(&scratch.view);
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn sigterm_unmounts_and_finishes() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let scratch = Scratch::new();
        let mut server = in_front(&scratch);
        server.signal(signal);
        eventually("the server to end", || !server.is_running());
        let outcome = server.finish();
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(!scratch.is_mounted());
        assert!(has_footer(&scratch.path("state/iolens/latest")));
    }
}

#[test]
fn a_signal_while_busy_detaches_and_serves_until_the_last_close() {
    let scratch = Scratch::new();
    let mut server = in_front(&scratch);
    let file = File::open(scratch.view.join("a")).unwrap();
    server.signal(Signal::SIGTERM);
    eventually("the view to leave the tree", || !scratch.is_mounted());
    assert!(server.is_running());
    let text = std::io::read_to_string(&file).unwrap();
    assert_eq!(text, "hello\n");
    drop(file);
    eventually("the server to end", || !server.is_running());
    let outcome = server.finish();
    assert_eq!(outcome.code, 0);
    assert!(
        outcome.stderr.contains("is in use by"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_second_signal_gives_up() {
    let scratch = Scratch::new();
    let mut server = in_front(&scratch);
    let file = File::open(scratch.view.join("a")).unwrap();
    server.signal(Signal::SIGINT);
    eventually("the view to leave the tree", || !scratch.is_mounted());
    server.signal(Signal::SIGINT);
    eventually("the server to end", || !server.is_running());
    assert!(
        scratch
            .trace()
            .lines()
            .last()
            .unwrap()
            .contains(r#""abandoned":true"#)
    );
    assert!(std::io::read_to_string(&file).is_err());
    assert_eq!(server.finish().code, 0);
}

#[test]
fn umount_and_fusermount_end_it_too() {
    for command in [["umount", "--"], ["fusermount3", "-u"]] {
        let scratch = Scratch::new();
        let mut server = in_front(&scratch);
        let [program, option] = command;
        // Whoever reads links in /proc keeps the view busy for a moment.
        eventually("the view to be idle", || {
            let mut command = Command::new(program);
            let status = command.arg(option).arg(&scratch.view).status();
            status.unwrap().success()
        });
        eventually("the server to end", || !server.is_running());
        assert_eq!(server.finish().code, 0);
        assert!(has_footer(&scratch.path("state/iolens/latest")));
    }
}

#[test]
fn a_stale_mountpoint_is_recognised_and_cleared() {
    let scratch = Scratch::new();
    let server = in_front(&scratch);
    // Its supervisor would have cleared it.
    for pid in scratch.servers() {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    assert_eq!(server.finish().code, 137);
    let refused = scratch.mount(&[]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("ENOTCONN"), "{}", refused.stderr);
    assert!(refused.stderr.contains("umount -l"), "{}", refused.stderr);
    let cleared = scratch.unmount();
    assert_eq!(cleared.code, 1);
    assert!(
        cleared.stderr.contains("no server answered"),
        "{}",
        cleared.stderr
    );
    assert!(!scratch.is_mounted());
    assert_eq!(scratch.mount(&[]).code, 0);
    assert_eq!(scratch.unmount().code, 0);
}

#[test]
fn a_server_that_dies_while_unmount_waits_is_told() {
    let scratch = Scratch::new();
    let server = in_front(&scratch);
    // Stopped, it cannot finish, and unmount waits for it.
    server.signal(Signal::SIGSTOP);
    let view = scratch.view.to_str().unwrap().to_owned();
    let mut waiting = Running::start(&mut scratch.iolens(&["unmount", &view]));
    kill(server.pid(), Signal::SIGKILL).unwrap();
    eventually("unmount to end", || !waiting.is_running());
    let told = waiting.finish();
    assert_eq!(told.code, 1);
    assert!(
        told.stderr.contains("server of the view died"),
        "{}",
        told.stderr
    );
    drop(server);
}

#[test]
fn what_is_not_ours_is_not_unmounted() {
    let scratch = Scratch::new();
    let plain = scratch.unmount();
    assert_eq!(plain.code, 1);
    assert!(
        plain.stderr.contains("not a mountpoint"),
        "{}",
        plain.stderr
    );
    let proc = scratch.run(&["unmount", "/proc"]);
    assert_eq!(proc.code, 1);
    assert!(proc.stderr.contains("type proc"), "{}", proc.stderr);
    assert!(fs::exists("/proc/self").unwrap());
}

#[test]
fn mount_options_reach_the_kernel() {
    let scratch = Scratch::new();
    let options = ["-o", "ro,noexec,allow_other", "-o", "fsname=a\\,b"];
    assert_eq!(scratch.mount(&options).code, 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(scratch.view.to_str().unwrap()))
        .unwrap();
    assert!(line.starts_with("a,b "), "{line}");
    for word in [
        "ro,nosuid,nodev,noexec",
        "allow_other",
        "default_permissions",
        "fuse.iolens",
    ] {
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(scratch.unmount().code, 0);
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    let scratch = Scratch::new();
    for path in [&scratch.source, &scratch.view] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let script = format!(
        "S={} V={}; \"$IOLENS\" mount \"$S\" \"$V\" && cat \"$V/a\" && \"$IOLENS\" unmount \"$V\"; \
         echo $?; \"$IOLENS\" mount -o allow_other \"$S\" \"$V\"; echo $?; \
         PATH=/nowhere \"$IOLENS\" mount \"$S\" \"$V\"; echo $?",
        scratch.source.display(),
        scratch.view.display()
    );
    // fusermount3 wants a user with a name: nobody.
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let outcome = scratch.as_user(&user, &script);
    assert_eq!(outcome.stdout, "hello\n0\n1\n1\n", "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("/etc/fuse.conf"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("install the package fuse3"),
        "{}",
        outcome.stderr
    );
}

/// `iolens mount -f`, when the view answers.
fn in_front(scratch: &Scratch) -> Running {
    let (source, view) = (
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    );
    let server = Running::start(&mut scratch.iolens(&["mount", "-f", source, view]));
    eventually("the view to answer", || scratch.view.join("a").exists());
    server
}
