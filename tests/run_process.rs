//! `iolens run` as a program and its user see it.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "support/process.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{IOLENS, Outcome, Running, Scratch, eventually, has_footer};

const AS_USER: &[&str] = &["--reuid=1234", "--regid=1234", "--clear-groups"];

fn sh(scratch: &Scratch, script: &str) -> Outcome {
    scratch.run(&["run", "--", "sh", "-c", script])
}

#[test]
fn the_exit_status_is_the_programs_own() {
    let scratch = Scratch::new();
    assert_eq!(sh(&scratch, "exit 0").code, 0);
    assert_eq!(sh(&scratch, "exit 7").code, 7);
    assert_eq!(sh(&scratch, "exit 255").code, 255);
    assert_eq!(sh(&scratch, "kill -KILL $$").code, 137);
    assert_eq!(sh(&scratch, "kill -TERM $$").code, 143);
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_be_executed_126() {
    let scratch = Scratch::new();
    let missing = scratch.run(&["run", "--", "no-such-program"]);
    assert_eq!(missing.code, 127);
    assert!(
        missing.stderr.contains("no-such-program: ENOENT"),
        "{}",
        missing.stderr
    );
    let plain = scratch.run(&["run", "--", "./a"]);
    assert_eq!(plain.code, 126);
    assert!(plain.stderr.contains("./a: EACCES"), "{}", plain.stderr);
    assert_eq!(scratch.run(&["run", "--", "/etc"]).code, 126);
    assert!(has_footer(&scratch.path("state/iolens/latest")));
}

#[test]
fn a_script_without_an_interpreter_line_is_run_by_the_shell() {
    let scratch = Scratch::new();
    let script = scratch.source.join("script");
    fs::write(&script, "echo from $0\nexit 4\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = scratch.run(&["run", "--", "./script"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (4, "from ./script\n")
    );
}

#[test]
fn the_program_works_in_the_view_at_its_own_paths() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.source.join("sub")).unwrap();
    let source = scratch.source.to_str().unwrap();
    let args = [
        "run",
        "-C",
        source,
        "--",
        "sh",
        "-c",
        "pwd; echo $HOME; stat -f -c %T . ../a",
    ];
    let mut command = scratch.iolens(&args);
    command
        .current_dir(scratch.source.join("sub"))
        .env("HOME", "/a b");
    let outcome = Running::start(&mut command).finish();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], scratch.source.join("sub").to_str().unwrap());
    assert_eq!(lines[1], "/a b");
    assert!(
        lines[2..].iter().all(|kind| kind.contains("fuse")),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 4);
}

#[test]
fn input_and_output_are_the_programs_alone() {
    let scratch = Scratch::new();
    let mut running = Running::start(&mut scratch.iolens(&["run", "--", "cat", "-", "a"]));
    running.input("from stdin\n");
    let outcome = running.finish();
    assert_eq!(outcome.stdout, "from stdin\nhello\n");
    assert!(outcome.stderr.contains("trace: "), "{}", outcome.stderr);
}

#[test]
fn no_descriptor_of_ours_reaches_the_program_and_signals_are_as_they_were() {
    let scratch = Scratch::new();
    let script = "ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let plain = Command::new("sh").args(["-c", script]).output().unwrap();
    let recorded = sh(&scratch, script);
    assert_eq!(recorded.stdout, String::from_utf8_lossy(&plain.stdout));
}

#[test]
fn ignored_signals_stay_ignored() {
    let scratch = Scratch::new();
    let mut command = Command::new("env");
    command.args([
        "--default-signal",
        "--ignore-signal=HUP",
        "--ignore-signal=CHLD",
        IOLENS,
    ]);
    command
        .args(["run", "--", "grep", "SigIgn", "/proc/self/status"])
        .current_dir(&scratch.source);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let hex = outcome.stdout.trim().rsplit('\t').next().unwrap();
    let ignored = u64::from_str_radix(hex, 16).unwrap();
    // SIGHUP is bit 0, SIGCHLD bit 16. glibc's posix_spawn ignores 32 and 33, its own, in its children.
    assert_eq!(ignored & 0x7fff_ffff, 0x1_0001, "{hex}");
}

#[test]
fn the_programs_limit_of_file_sizes_is_what_the_user_had_and_its_signal_ends_it() {
    let scratch = Scratch::new();
    const LIMITED: &str = r#"
        ulimit -Sf 8
        show='ulimit -Sf; ulimit -Hf; grep -E "^Sig(Blk|Ign)" /proc/self/status'
        sh -c "$show" > native
        "$IOLENS" run -- sh -c "$show" > seen
        cmp native seen || exit 99
        exec "$IOLENS" run -- sh -c 'exec head -c 100000 /dev/zero > f'
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", LIMITED]).env("IOLENS", IOLENS);
    command.current_dir(&scratch.source);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.code, 128 + 25, "SIGXFSZ: {}", outcome.stderr);
    let size = fs::metadata(scratch.source.join("f")).unwrap().len();
    assert!(size == 8 * 512 || size == 8 * 1024, "{size}");
}

#[test]
fn sigterm_and_sighup_are_passed_on_and_sigint_is_not() {
    let scratch = Scratch::new();
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGHUP, "HUP")] {
        let marker = scratch.path("ready");
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; : > {}; while :; do read line || exit 1; done",
            marker.display()
        );
        let mut running = Running::start(&mut scratch.iolens(&["run", "--", "sh", "-c", &script]));
        eventually("the program to start", || marker.exists());
        running.signal(Signal::SIGINT);
        running.signal(Signal::SIGQUIT);
        running.input("still there\n");
        running.signal(signal);
        // A shell runs its trap when the command it waits for ends.
        running.input("\n");
        eventually("the program to end", || !running.is_running());
        let outcome = running.finish();
        assert_eq!(
            (outcome.code, outcome.stdout.trim()),
            (9, format!("got {name}").as_str())
        );
        fs::remove_file(marker).unwrap();
    }
}

#[test]
fn when_the_program_is_stopped_so_is_iolens() {
    let scratch = Scratch::new();
    let pid_file = scratch.path("pid");
    let script = format!("echo $$ > {}; read line; echo done", pid_file.display());
    let mut running = Running::start(&mut scratch.iolens(&["run", "--", "sh", "-c", &script]));
    let state = |pid: Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    };
    eventually("the program to start", || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'))
    });
    let program = Pid::from_raw(
        fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
    );
    // To iolens: it is passed on.
    running.signal(Signal::SIGTSTP);
    eventually("both to stop", || {
        state(program) == 'T' && state(running.pid()) == 'T'
    });
    running.signal(Signal::SIGCONT);
    eventually("both to go on", || {
        state(program) != 'T' && state(running.pid()) != 'T'
    });
    running.input("x\n");
    assert_eq!(running.finish().stdout, "done\n");
}

#[test]
fn run_waits_for_a_child_that_still_has_a_file_open_and_says_who() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        "(exec 3>b; read line < {}; echo late >&3) >/dev/null 2>&1 & exit 5",
        fifo.display()
    );
    let mut running =
        Running::start(&mut scratch.iolens(&["run", "-v", "--", "sh", "-c", &script]));
    eventually("the child to open its file", || {
        scratch.source.join("b").exists()
    });
    assert!(running.is_running());
    let began = std::time::Instant::now();
    eventually("time for the message to pass", || {
        began.elapsed().as_millis() > 3000
    });
    assert!(running.is_running(), "run must wait for the child");
    fs::write(&fifo, "go\n").unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.code, 5);
    assert!(
        outcome.stderr.contains("still waiting"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("descriptor 3"),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        fs::read_to_string(scratch.source.join("b")).unwrap(),
        "late\n"
    );
    assert!(has_footer(&scratch.path("state/iolens/latest")));
}

#[test]
fn sigint_ends_the_waiting_and_the_trace_is_whole() {
    let scratch = Scratch::new();
    let pid_file = scratch.path("pid");
    let script = format!(
        "(exec 3>b; echo $$ > /dev/null; sh -c 'echo $PPID' > {}; exec sleep 300) >/dev/null 2>&1 & exit 6",
        pid_file.display()
    );
    let mut running = Running::start(&mut scratch.iolens(&["run", "--", "sh", "-c", &script]));
    eventually("the child to be there", || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'))
    });
    // The program itself has ended when iolens has no child but the server; asking /proc says when.
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    eventually("the program to end", || {
        fs::read_to_string(&children)
            .unwrap()
            .split_whitespace()
            .count()
            <= 1
    });
    running.signal(Signal::SIGINT);
    eventually("iolens to end", || !running.is_running());
    let outcome = running.finish();
    assert_eq!(outcome.code, 6, "{}", outcome.stderr);
    assert!(has_footer(&scratch.path("state/iolens/latest")));
    let child = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
}

#[test]
fn the_server_goes_on_when_iolens_is_killed() {
    let scratch = Scratch::new();
    let trace = scratch.path("t.jsonl");
    let ready = scratch.path("ready");
    let fifo = scratch.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        ": > {}; read line < {}; cat a > b",
        ready.display(),
        fifo.display()
    );
    let args = [
        "run",
        "-t",
        trace.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ];
    let running = Running::start(&mut scratch.iolens(&args));
    eventually("the program to start", || ready.exists());
    running.signal(Signal::SIGKILL);
    fs::write(&fifo, "go\n").unwrap();
    eventually("the footer", || has_footer(&trace));
    assert_eq!(
        fs::read_to_string(scratch.source.join("b")).unwrap(),
        "hello\n"
    );
    assert_eq!(running.finish().code, 137);
}

#[test]
fn the_death_of_the_server_is_said_and_is_125() {
    let scratch = Scratch::new();
    let ready = scratch.path("ready");
    let script = format!(": > {}; read line; cat a", ready.display());
    let mut running = Running::start(&mut scratch.iolens(&["run", "--", "sh", "-c", &script]));
    eventually("the program to start", || ready.exists());
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let children = fs::read_to_string(children).unwrap();
    let server = children.split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    running.input("go\n");
    let outcome = running.finish();
    assert_eq!(outcome.code, 125, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("ENOTCONN"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn the_trace_may_lie_in_source_and_nobody_else_sees_the_view() {
    let scratch = Scratch::new();
    let ready = scratch.path("ready");
    let script = format!("cat a; ls t.jsonl; : > {}; read line", ready.display());
    let args = ["run", "-t", "t.jsonl", "--", "sh", "-c", &script];
    let mut running = Running::start(&mut scratch.iolens(&args));
    eventually("the program to be in the view", || ready.exists());
    assert!(
        !scratch.is_mounted(),
        "the mount must not leave its namespace"
    );
    running.input("\n");
    let outcome = running.finish();
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, "hello\nt.jsonl\n")
    );
    assert!(has_footer(&scratch.source.join("t.jsonl")));
}

#[test]
fn descriptors_and_locks_outside_the_view_are_warned_of() {
    let scratch = Scratch::new();
    let locked = fs::File::open(scratch.source.join("a")).unwrap();
    locked.lock().unwrap();
    let script = format!("exec {IOLENS} run -- true 5> out 2> err");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(&scratch.source);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    assert_eq!(Running::start(&mut command).finish().code, 0);
    let said = fs::read_to_string(scratch.source.join("err")).unwrap();
    assert!(said.contains("descriptor 5"), "{said}");
    assert!(said.contains("descriptor 2"), "{said}");
    assert!(said.contains("holds a lock on"), "{said}");
    let header = scratch.trace();
    assert!(
        header.lines().next().unwrap().contains("descriptor 5"),
        "{header}"
    );
}

#[test]
fn an_ordinary_user_needs_no_root_and_gains_nothing() {
    let scratch = Scratch::new();
    std::os::unix::fs::chown(&scratch.source, Some(1234), Some(1234)).unwrap();
    let script = "\"$IOLENS\" run -- sh -c 'id -u; echo x > b; cat b; stat -c %u b; \
                  stat -f -c %T .; grep -E \"Cap(Eff|Prm|Inh|Amb)\" /proc/self/status'; echo $?";
    for credentials in [
        AS_USER,
        &["--reuid=1234", "--regid=1234", "--groups=1234,100"],
    ] {
        let outcome = scratch.as_user(credentials, script);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!(lines[..3], ["1234", "x", "1234"], "{outcome:?}");
        assert!(lines[3].contains("fuse"), "{lines:?}");
        assert!(
            lines[4..8]
                .iter()
                .all(|line| line.ends_with("0000000000000000")),
            "{lines:?}"
        );
        assert_eq!(lines[8], "0", "{outcome:?}");
    }
}

#[test]
fn where_user_namespaces_are_forbidden_it_is_said_what_to_do() {
    let scratch = Scratch::new();
    // Nobody may make one whose root directory is not that of the mount namespace (user_namespaces(7)).
    let script = r#"
        mount --make-rprivate /; mkdir "$ROOT"; mount --rbind / "$ROOT"; cp "$BUILT" "$TOOL"
        exec chroot "$ROOT" sh -c '
            cd "$SOURCE"; exec setpriv --reuid=1234 --regid=1234 --clear-groups "$TOOL" run -- true'
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]);
    command
        .env("BUILT", IOLENS)
        .env("TOOL", scratch.path("iolens"));
    command
        .env("ROOT", scratch.path("root"))
        .env("SOURCE", &scratch.source);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.code, 125, "{outcome:?}");
    let said = &outcome.stderr;
    assert!(
        said.contains("not permitted here (EPERM)") && said.contains("iolens mount"),
        "{said}"
    );
}

#[test]
fn a_deleted_working_directory_is_said_to_be_outside() {
    let scratch = Scratch::new();
    let source = scratch.source.display();
    let script = format!(
        "mkdir gone; cd gone; rmdir ../gone; {IOLENS} run -- true; echo $?; \
         {IOLENS} run -C {source} -- cat {source}/a; echo $?"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(&scratch.source);
    command.env("XDG_STATE_HOME", scratch.path("state"));
    let outcome = Running::start(&mut command).finish();
    assert_eq!(outcome.stdout, "125\nhello\n0\n", "{}", outcome.stderr);
    assert!(outcome.stderr.contains("was deleted"), "{}", outcome.stderr);
}

#[test]
fn what_a_mount_option_takes_away_is_taken_away_as_root_too() {
    let scratch = Scratch::new();
    let options = "findmnt -n -o OPTIONS -T .";
    let script = [
        "run",
        "-o",
        "nosuid,nodev,noexec",
        "--",
        "sh",
        "-c",
        options,
    ];
    let outcome = scratch.run(&script);
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(outcome.stdout.contains(option), "{outcome:?}");
    }
}
