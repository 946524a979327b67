//! Bad input: one clear sentence, the right exit status, nothing mounted, nothing changed.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "support/process.rs"]
mod support;

use std::fs;

use support::{Outcome, Running, Scratch};

/// Runs `mount` with the two directories; expects a refusal, and nothing changed.
fn refused(scratch: &Scratch, args: &[&str], code: i32, words: &[&str]) {
    let before = tree(scratch);
    let outcome = scratch.run(args);
    check(&outcome, args, code, words);
    assert!(!scratch.is_mounted(), "{args:?}");
    assert_eq!(tree(scratch), before, "{args:?}");
}

fn check(outcome: &Outcome, args: &[&str], code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "{args:?}");
    for word in words {
        assert!(
            outcome.stderr.contains(word),
            "{args:?} without {word:?}: {}",
            outcome.stderr
        );
    }
    if code == 1 || code == 125 {
        assert_eq!(
            outcome.stderr.lines().count(),
            1,
            "{args:?}: {}",
            outcome.stderr
        );
    }
}

/// Names of everything in the scratch directory.
fn tree(scratch: &Scratch) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![scratch.path("")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            names.push(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

#[test]
fn directories_that_will_not_do() {
    let scratch = Scratch::new();
    let (source, view) = (
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    );
    let inner = scratch.source.join("inner");
    fs::create_dir(&inner).unwrap();
    let full = scratch.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "").unwrap();
    let around = scratch.path("");
    for (args, words) in [
        (["mount", "missing", view], ["missing", "ENOENT"]),
        (["mount", "a", view], ["cannot view a", "ENOTDIR"]),
        (["mount", source, "missing"], ["mkdir missing", "ENOENT"]),
        (["mount", source, "a"], ["cannot mount on a", "ENOTDIR"]),
        (
            ["mount", source, full.to_str().unwrap()],
            ["not empty", "ENOTEMPTY"],
        ),
        (
            ["mount", source, source],
            ["same directory", "iolens run -C"],
        ),
        (
            ["mount", source, inner.to_str().unwrap()],
            ["inside SOURCE", "outside SOURCE"],
        ),
        (
            ["mount", source, around.to_str().unwrap()],
            ["inside the mountpoint", "choose"],
        ),
    ] {
        refused(&scratch, &args, 1, &words);
    }
    refused(
        &scratch,
        &["run", "-C", "missing", "--", "true"],
        125,
        &["missing", "ENOENT"],
    );
    refused(
        &scratch,
        &["run", "-C", "a", "--", "true"],
        125,
        &["ENOTDIR"],
    );
    refused(
        &scratch,
        &["run", "-C", "/", "--", "true"],
        125,
        &["root directory", "-C"],
    );
}

#[test]
fn an_unreadable_source() {
    let scratch = Scratch::new();
    let user = ["--reuid=1234", "--regid=1234", "--clear-groups"];
    let closed = scratch.path("closed");
    fs::create_dir(&closed).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&closed, mode).unwrap();
    let script = format!(
        "\"$IOLENS\" run -C {0} -- true; echo $?; \"$IOLENS\" mount {0} {1}; echo $?",
        closed.display(),
        scratch.view.display()
    );
    let outcome = scratch.as_user(&user, &script);
    assert_eq!(outcome.stdout, "125\n1\n");
    assert_eq!(
        outcome.stderr.matches("EACCES").count(),
        2,
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_trace_that_would_record_itself_or_cannot_be_written() {
    let scratch = Scratch::new();
    let (source, view) = (
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    );
    let inside = scratch.view.join("t");
    let inside = inside.to_str().unwrap();
    refused(
        &scratch,
        &["mount", "-t", inside, source, view],
        1,
        &["under the mountpoint", inside],
    );
    refused(
        &scratch,
        &["mount", "-t", "no/t", source, view],
        1,
        &["no/t", "ENOENT"],
    );
    refused(
        &scratch,
        &["run", "-t", "no/t", "--", "true"],
        125,
        &["no/t", "ENOENT"],
    );
    refused(
        &scratch,
        &["mount", "-t", "/proc/x", source, view],
        1,
        &["/proc/x"],
    );
}

#[test]
fn wrong_usage() {
    let scratch = Scratch::new();
    let (source, view) = (
        scratch.source.to_str().unwrap(),
        scratch.view.to_str().unwrap(),
    );
    for (options, words) in [
        (vec!["--no-such-option"], ["--no-such-option", "unexpected"]),
        (vec!["-o", "allowother"], ["allowother", "known are"]),
        (vec!["-o", "fsname=x,user_id=0"], ["user_id=0", "unknown"]),
        (vec!["-o", "max_read=1"], ["max_read", "4096"]),
        (vec!["--cache-size", "12XB"], ["12XB", "4KiB"]),
        (vec!["--cache-size", "0"], ["--cache-size", "out of range"]),
        (
            vec!["--cache-size", "99999999999TiB"],
            ["too large", "--cache-size"],
        ),
        (
            vec!["--dirty-limit", "0"],
            ["--dirty-limit", "out of range"],
        ),
        (
            vec!["--cache-size", "1MiB", "--dirty-limit", "2MiB"],
            ["--dirty-limit", "above"],
        ),
        (vec!["--dirty-age", "soon"], ["soon", "never"]),
        (vec!["--threads", "0"], ["--threads", "0"]),
        (vec!["--cache-size", "4096"], ["out of range", "8KiB"]),
        (vec!["--policy", "sometimes"], ["sometimes", "--policy"]),
        (
            vec!["--kernel-cache", "all"],
            ["invalid value", "write-back"],
        ),
        (vec!["--only-op", "reed"], ["reed", "known are"]),
        (vec!["--only-path", "[a"], ["[a", "glob"]),
        (vec!["--trace-limit=-1"], ["--trace-limit", "-1"]),
    ] {
        let mut args = vec!["mount"];
        args.extend(&options);
        args.extend([source, view]);
        refused(&scratch, &args, 2, &words);
        let mut args = vec!["run"];
        args.extend(&options);
        args.extend(["--", "true"]);
        refused(&scratch, &args, 2, &words);
    }
    refused(
        &scratch,
        &["mount", "-t", "-", source, view],
        2,
        &["-t - needs -f"],
    );
    refused(
        &scratch,
        &["run", "-t", "-", "--", "true"],
        2,
        &["stdout is CMD's alone"],
    );
    refused(&scratch, &["mount", "--live", source, view], 2, &["--live"]);
    refused(&scratch, &["mount", source], 2, &["MOUNTPOINT"]);
    refused(&scratch, &["run"], 2, &["CMD"]);
}

#[test]
fn a_machine_without_fuse() {
    let scratch = Scratch::new();
    let view = scratch.view.display();
    // A mount namespace in which there is no device, or one that the user may not open.
    for (hide, words) in [
        (
            "mount -t tmpfs none /dev",
            ["/dev/fuse: ENOENT", "modprobe fuse"],
        ),
        (
            "mount --bind /dev/null /dev/fuse",
            ["cannot mount", "iolens: "],
        ),
    ] {
        let script = format!(
            "mount --make-rprivate /; {hide}; \"$TOOL\" mount . {view}; echo $? >&3; \
             \"$TOOL\" run -- true; echo $? >&3; grep -c {view} /proc/self/mountinfo >&3; true"
        );
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("exec 3>&1; {script}")]);
        command
            .env("TOOL", support::IOLENS)
            .env("XDG_STATE_HOME", scratch.path("state"));
        let outcome = Running::start(command.current_dir(&scratch.source)).finish();
        assert_eq!(outcome.stdout, "1\n125\n0\n", "{}", outcome.stderr);
        for word in words {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
        }
    }
}

#[test]
fn a_device_that_the_user_may_not_open() {
    let scratch = Scratch::new();
    let tool = scratch.path("iolens");
    fs::copy(support::IOLENS, &tool).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
        .arg(&tool);
    command
        .args(["run", "--", "true"])
        .env("XDG_STATE_HOME", scratch.path("state"));
    if fs::metadata("/dev/fuse").is_ok_and(|metadata| {
        use std::os::unix::fs::PermissionsExt;
        metadata.permissions().mode() & 0o006 == 0o006
    }) {
        return; // Everybody may open it here, as is usual.
    }
    let outcome = Running::start(command.current_dir(&scratch.source)).finish();
    assert_eq!(outcome.code, 125, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("/dev/fuse: EACCES"),
        "{}",
        outcome.stderr
    );
}
