//! strace(1) as ground truth for who did what: seeded random programs, and some of Python, run under `strace -f -y`
//! in a view, and each call that strace saw on a file of the view must be recorded exactly once: the same kind, system
//! call, descriptor, open file, offset, size, result, error and position, for each thread in order. What the kernel
//! answers without asking is listed in `model.rs` (`answered_alone` and the calls of `alone`) and in docs/SEMANTICS.md.
//!
//! `IOLENS_STRACE_SEEDS=N` runs N seeds, `IOLENS_STRACE_START=S` begins with another one than 0.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "strace/calls.rs"]
mod calls;
#[path = "strace/matching.rs"]
mod matching;
#[path = "strace/model.rs"]
mod model;
#[path = "strace/program.rs"]
mod program;
#[path = "strace/scripts.rs"]
mod scripts;
#[path = "strace/steps.rs"]
mod steps;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use iolens::event::{Event, Op};
use iolens::trace::reader::{Item, Reader};
use support::{IOLENS, Mounted, scratch};

/// Tells this program to be the one that is watched.
pub(crate) const PROGRAM: &str = "IOLENS_STRACE_PROGRAM";
pub(crate) const ARGUMENTS: [&str; 4] = [
    "the_program_that_is_watched",
    "--exact",
    "--ignored",
    "--nocapture",
];
/// What strace looks at: whatever moves data, positions, descriptors or processes.
const WATCHED: &str = "trace=read,pread64,readv,preadv,preadv2,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,\
truncate,ftruncate,fallocate,copy_file_range,sendfile,splice,lseek,open,openat,openat2,creat,close,close_range,dup,dup2,dup3,\
fcntl,clone,clone3,fork,vfork,execve,exit,exit_group,mmap,munmap,msync,prlimit64,setresuid";
const SEEDS: u64 = 12;

#[test]
#[ignore = "started by the other test, under strace"]
fn the_program_that_is_watched() {
    if let Ok(what) = std::env::var(PROGRAM) {
        program::run(&what);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn every_call_on_a_file_is_recorded_as_strace_saw_it() {
    let strace = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    assert!(
        strace.is_ok(),
        "strace(1) is not installed, and this test cannot do without: {strace:?}"
    );
    let (start, count) = (
        setting("IOLENS_STRACE_START", 0),
        setting("IOLENS_STRACE_SEEDS", SEEDS),
    );
    let mut total = matching::Counts::default();
    let mut failed = Vec::new();
    for seed in start..start + count {
        match watched(seed) {
            Ok(counts) => total.add(&counts),
            Err(how) => {
                println!("seed {seed}: {how}");
                failed.push(seed);
            }
        }
    }
    println!("{total:#?}");
    let calls: u64 = total.matched.values().sum();
    println!(
        "{count} seeds from {start}: {calls} calls matched, of {} kinds, {} seeds failed",
        total.kinds.len(),
        failed.len()
    );
    assert!(
        count < SEEDS || total.kinds.len() >= 40,
        "too few kinds of calls: {:?}",
        total.kinds
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

/// How the buffer is set up, and where the view is, for each seed another.
fn options(seed: u64) -> Vec<&'static str> {
    let policy = [
        &["--policy", "write-back"][..],
        &["--policy", "off"],
        &["--policy", "write-through"],
        &[
            "--policy",
            "write-back",
            "--cache-size",
            "1MiB",
            "--dirty-age",
            "1ms",
        ],
    ];
    let chosen = policy[usize::try_from(seed % 4).unwrap()];
    let threads: &[&str] = if seed.is_multiple_of(5) {
        &["--threads", "1"]
    } else {
        &[]
    };
    [chosen, threads].concat()
}

fn strace(seed: u64, log: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "-k", "5", "100", "strace", "-f", "-y", "-ttt", "-v", "-s", "0", "-X", "raw",
    ]);
    command.args([
        "--seccomp-bpf",
        "-e",
        "abbrev=execve",
        "-e",
        "signal=all",
        "-e",
        WATCHED,
        "-o",
    ]);
    command
        .arg(log)
        .arg(std::env::current_exe().unwrap())
        .args(ARGUMENTS);
    command
        .env(PROGRAM, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn watched(seed: u64) -> Result<matching::Counts, String> {
    let scratch = scratch();
    let log = scratch.path().join("strace.log");
    let (view, trace) = if seed % 3 == 2 {
        in_run(seed, scratch.path(), &log)?
    } else {
        in_mount(seed, scratch.path(), &log)?
    };
    let seen = calls::Seen::parse(&fs::read_to_string(&log).unwrap());
    let view = format!("{}/", view.to_str().unwrap());
    let result = std::panic::catch_unwind(|| {
        let model = model::Model::of(&seen, &view);
        matching::compare(&seen, &model, &operations(&trace))
    });
    let result = result.unwrap_or_else(|_| Err("the test itself failed".to_owned()));
    if result.is_err() && std::env::var("IOLENS_STRACE_KEEP").is_ok() {
        println!("kept: {}", scratch.keep().display());
    }
    result
}

/// Whether SOURCE has so little space that writes fail: ENOSPC, which with `--policy off` is told at once.
pub(crate) fn is_small(seed: u64) -> bool {
    seed % 8 == 1 && seed % 3 != 2
}

/// A filesystem of 3 MiB.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf) -> Small {
        fs::create_dir(&at).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some("size=3m")).unwrap();
        Small(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// In a view that `iolens mount` made.
fn in_mount(seed: u64, scratch: &Path, log: &Path) -> Result<(PathBuf, PathBuf), String> {
    let _small = is_small(seed).then(|| Small::new(scratch.join("strace.source")));
    let mounted = Mounted::new(scratch, "strace", &options(seed));
    let view = mounted.view().to_owned();
    let status = strace(seed, log).current_dir(&view).status().unwrap();
    let trace = mounted.finish();
    status
        .success()
        .then_some((view, trace))
        .ok_or(format!("the program: {status}"))
}

/// In `iolens run`.
fn in_run(seed: u64, scratch: &Path, log: &Path) -> Result<(PathBuf, PathBuf), String> {
    let (source, trace) = (scratch.join("source"), scratch.join("trace.jsonl"));
    fs::create_dir(&source).unwrap();
    let strace = strace(seed, log);
    let mut run = Command::new(IOLENS);
    run.args(["run", "-t"])
        .arg(&trace)
        .args(options(seed))
        .arg("--");
    run.arg(strace.get_program()).args(strace.get_args());
    run.env(PROGRAM, seed.to_string()).current_dir(&source);
    let status = run
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status
        .success()
        .then_some((source, trace))
        .ok_or(format!("the program: {status}"))
}

fn operations(trace: &Path) -> Vec<Op> {
    let reader = Reader::open(trace).unwrap();
    let ops = reader.filter_map(|item| match item.unwrap() {
        Item::Event(_, Event::Op(op)) => Some(*op),
        _ => None,
    });
    let mut ops: Vec<Op> = ops.collect();
    ops.sort_by_key(|op| op.seq);
    ops
}
