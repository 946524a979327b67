//! The twin-directory test: every step of a table runs on a bare directory and on a view of another one
//! of the same filesystem. What the calls answer, and the trees they leave, must be the same; and the
//! view's trace must show that no operation was left out.
//!
//! A step is a function in `tests/twin/*.rs`; it runs in a process of its own inside a directory of its
//! own. `IOLENS_TWIN=part of a name` runs only such steps, shows
//! what they answered (with `--nocapture`), and does not ask for completeness.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use iolens::event::{Event, OpKind};
use nix::unistd::{Uid, chdir};

#[path = "twin/attrs.rs"]
mod attrs;
#[path = "twin/data.rs"]
mod data;
#[path = "twin/dirs.rs"]
mod dirs;
#[path = "twin/locks.rs"]
mod locks;
#[path = "twin/maps.rs"]
mod maps;
#[path = "twin/moving.rs"]
mod moving;
#[path = "twin/names.rs"]
mod names;
#[path = "twin/opens.rs"]
mod opens;
#[path = "twin/setid.rs"]
mod setid;
#[path = "twin/side.rs"]
mod side;
#[path = "twin/sizes.rs"]
mod sizes;
#[path = "twin/step.rs"]
mod step;
mod support;
#[path = "twin/tree.rs"]
mod tree;
#[path = "twin/users.rs"]
mod users;
#[path = "twin/xattrs.rs"]
mod xattrs;

use step::Step;
use support::{Mounted, scratch};

const FAMILIES: &[&[Step]] = &[
    names::STEPS,
    data::STEPS,
    sizes::STEPS,
    attrs::STEPS,
    xattrs::STEPS,
    opens::STEPS,
    dirs::STEPS,
    users::STEPS,
    setid::STEPS,
    maps::STEPS,
    locks::STEPS,
    moving::STEPS,
];

/// Operations that no step can bring about, and why.
const EXEMPT: &[(OpKind, &str)] = &[
    (
        OpKind::Getlk,
        "locks stay in the kernel: the server does not ask for them",
    ),
    (OpKind::Setlk, "as getlk"),
    (
        OpKind::Poll,
        "answered by the kernel: regular files are always ready",
    ),
    (OpKind::Tmpfile, "fuser 0.18 does not know FUSE_TMPFILE"),
    (OpKind::Statx, "fuser 0.18 does not know FUSE_STATX"),
    (
        OpKind::Syncfs,
        "the kernel sends FUSE_SYNCFS to virtiofs and fuseblk only",
    ),
];

/// Answers that may differ: step, the bare line, the line through the view, and why.
const ALLOWED: &[(&str, &str, &str, &str)] = &[
    (
        "a nameless file has no place in FUSE 7.36",
        "open . 0o20200002 0o600 = a descriptor",
        "open . 0o20200002 0o600 = EOPNOTSUPP",
        "O_TMPFILE is FUSE_TMPFILE, which fuser 0.18 does not know",
    ),
    (
        "fallocate knows the same modes",
        "SYS_fallocate fd libc::FALLOC_FL_COLLAPSE_RANGE 1 4096 = EINVAL",
        "SYS_fallocate fd libc::FALLOC_FL_COLLAPSE_RANGE 1 4096 = EOPNOTSUPP",
        "fs/fuse/file.c fuse_file_fallocate() refuses the mode without asking",
    ),
    (
        "fallocate knows the same modes",
        "SYS_fallocate fd libc::FALLOC_FL_INSERT_RANGE 1 4096 = EINVAL",
        "SYS_fallocate fd libc::FALLOC_FL_INSERT_RANGE 1 4096 = EOPNOTSUPP",
        "fs/fuse/file.c fuse_file_fallocate() refuses the mode without asking",
    ),
];

fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The steps that can and shall run here.
fn steps() -> impl Iterator<Item = &'static Step> {
    let only = std::env::var("IOLENS_TWIN").unwrap_or_default();
    let all = FAMILIES.iter().copied().flatten();
    all.filter(move |step| step.name.contains(&only))
        .filter(|step| {
            let runs = is_root() || !step.needs_root;
            if !runs {
                eprintln!("not run, for it needs root: {}", step.name);
            }
            runs
        })
}

/// Runs one step in a fresh directory below `top`.
fn run_step(step: &Step, top: &Path) -> Vec<String> {
    let dir = top.join(step.name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    side::in_process(|s| {
        // SAFETY: umask takes a number.
        unsafe { libc::umask(0o022) };
        chdir(&dir).unwrap();
        (step.run)(s);
    })
}

/// The first difference of two lists of lines, with what led to it.
fn first_difference(what: &str, step: &str, bare: &[String], view: &[String]) -> Option<String> {
    let pairs = bare.len().max(view.len());
    let differs =
        |&i: &usize| bare.get(i) != view.get(i) && !allowed(step, bare.get(i), view.get(i));
    let at = (0..pairs).find(differs)?;
    let before = &bare[at.saturating_sub(6).min(bare.len())..at.min(bare.len())];
    let line = |side: &[String]| side.get(at).cloned().unwrap_or("(nothing)".into());
    let (bare, view) = (line(bare), line(view));
    let before = before
        .iter()
        .map(|l| format!("      {l}\n"))
        .collect::<String>();
    Some(format!(
        "{step}: {what} differ\n{before}    bare {bare}\n    view {view}\n"
    ))
}

fn allowed(step: &str, bare: Option<&String>, view: Option<&String>) -> bool {
    let (Some(bare), Some(view)) = (bare, view) else {
        return false;
    };
    ALLOWED
        .iter()
        .any(|&(s, b, v, _)| s == step && b == bare && v == view)
}

/// Runs the table on both sides. All differences are told at once, the first of each step.
fn compare(bare: &Path, view: &Path, steps: &[&Step]) {
    let mut differences = Vec::new();
    for step in steps {
        let answers = (run_step(step, bare), run_step(step, view));
        if std::env::var_os("IOLENS_TWIN").is_some() {
            println!("{}\n    {}", step.name, answers.0.join("\n    "));
        }
        for (side, lines) in [("bare", &answers.0), ("view", &answers.1)] {
            let broken = lines
                .iter()
                .find(|l| l.ends_with("the step panicked") || l.starts_with("ended by"));
            if let Some(line) = broken {
                differences.push(format!("{}: {side}: {line}\n", step.name));
            }
        }
        differences.extend(first_difference(
            "answers", step.name, &answers.0, &answers.1,
        ));
        let tree = |top: &Path| tree::lines(&top.join(step.name));
        differences.extend(first_difference(
            "trees",
            step.name,
            &tree(bare),
            &tree(view),
        ));
    }
    let failed = differences.len();
    assert!(
        failed == 0,
        "{failed} differences in {} steps\n{}",
        steps.len(),
        differences.concat()
    );
}

/// The operations that a trace shows.
fn ops_in(trace: &Path) -> HashSet<OpKind> {
    let text = fs::read_to_string(trace).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Event>(line).unwrap());
    events
        .filter_map(|e| {
            if let Event::Op(op) = e {
                Some(op.op)
            } else {
                None
            }
        })
        .collect()
}

/// Those of `OpKind::ALL` that are neither among `seen` nor exempt.
fn left_out(seen: &HashSet<OpKind>) -> Vec<&'static str> {
    let exempt = |op: &OpKind| EXEMPT.iter().any(|(e, _)| e == op);
    OpKind::ALL
        .iter()
        .filter(|&op| !seen.contains(op) && !exempt(op))
        .map(|op| op.name())
        .collect()
}

/// Mounts, compares, unmounts; then SOURCE itself must be what the bare twin is. Gives the operations.
fn compare_with_mount(args: &[&str], steps: &[&Step]) -> HashSet<OpKind> {
    let scratch = scratch();
    let mounted = Mounted::new(scratch.path(), "twin", args);
    let bare = scratch.path().join("bare");
    fs::create_dir(&bare).unwrap();
    compare(&bare, mounted.view(), steps);
    let trace = mounted.finish();
    let source = scratch.path().join("twin.source");
    for step in steps {
        let tree = |top: &Path| tree::lines(&top.join(step.name));
        let difference = first_difference("trees below", step.name, &tree(&bare), &tree(&source));
        assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
    ops_in(&trace)
}

#[test]
fn the_table_names_every_operation() {
    let named: HashSet<OpKind> = FAMILIES
        .iter()
        .copied()
        .flatten()
        .flat_map(|s| s.ops)
        .copied()
        .collect();
    assert_eq!(left_out(&named), [""; 0], "operations without a step");
    let mut names: Vec<_> = FAMILIES.iter().copied().flatten().map(|s| s.name).collect();
    names.sort_unstable();
    assert!(
        names.windows(2).all(|w| w[0] != w[1]),
        "two steps of one name"
    );
}

#[test]
fn two_bare_directories_answer_alike() {
    let scratch = scratch();
    let sides = ["one", "two"].map(|name| scratch.path().join(name));
    for side in &sides {
        fs::create_dir(side).unwrap();
    }
    compare(&sides[0], &sides[1], &steps().collect::<Vec<_>>());
}

#[test]
fn the_comparison_sees_differences() {
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    let same = first_difference("answers", "s", &lines("a\nb"), &lines("a\nb"));
    assert_eq!(same, None);
    let (other, shorter) = (lines("a\nc"), lines("a"));
    assert!(
        first_difference("answers", "s", &lines("a\nb"), &other)
            .unwrap()
            .contains("view c")
    );
    assert!(
        first_difference("answers", "s", &lines("a\nb"), &shorter)
            .unwrap()
            .contains("(nothing)")
    );
    let (step, bare, view, _) = ALLOWED[0];
    assert_eq!(
        first_difference("answers", step, &lines(bare), &lines(view)),
        None
    );
    assert!(first_difference("answers", "another step", &lines(bare), &lines(view)).is_some());
}

#[test]
fn every_operation_answers_through_the_view_as_on_the_bare_directory() {
    let all: Vec<&Step> = steps().collect();
    let options: &[&str] = if is_root() {
        &["-o", "allow_other,default_permissions,suid,dev"]
    } else {
        &[]
    };
    let mut seen = compare_with_mount(options, &all);
    if std::env::var_os("IOLENS_TWIN").is_some() {
        return;
    }
    // With default_permissions the kernel answers access(2) itself.
    seen.extend(ops_without_default_permissions());
    assert_eq!(
        left_out(&seen),
        [""; 0],
        "operations that the trace does not show"
    );
}

/// The table again, as far as it works with the owner alone, on a mount with no options at all.
fn ops_without_default_permissions() -> HashSet<OpKind> {
    let own: Vec<&Step> = steps().filter(|s| !s.needs_root).collect();
    compare_with_mount(&[], &own)
}
