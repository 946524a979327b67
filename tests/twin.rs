//! The twin-directory test: every step of a table runs on a bare directory and on a view of another one
//! of the same filesystem. What the calls answer, and the trees they leave, must be the same; and the
//! view's trace must show that no operation was left out.
//!
//! A step is a function in `tests/twin/*.rs`; it runs in a process of its own inside a directory of its
//! own. `IOLENS_TWIN='part of a name'` runs only such steps, shows what they answered (with `--nocapture`),
//! and does not ask for completeness.
//!
//! The whole table runs with the default options on a mount for all users; then, but for steps that take
//! seconds and leave all data alone, as a plain mount, and with the most different options of the buffer.
//! `IOLENS_TWIN_ROWS=all` runs all steps, on both mounts, with all options that are in `rows`;
//! `IOLENS_TWIN_ROWS='part of the options'` with such ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

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
#[path = "twin/rows.rs"]
mod rows;
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

use rows::{DEFAULT, rows};
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
    (
        OpKind::Tmpfile,
        "fuser 0.18 does not know FUSE_TMPFILE; over io_uring: tests/rings.rs",
    ),
    (
        OpKind::Statx,
        "fuser 0.18 does not know FUSE_STATX; over io_uring: tests/rings.rs",
    ),
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
        "O_TMPFILE is FUSE_TMPFILE, which fuser 0.18 does not know; over io_uring there is no difference",
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

/// What a step answered and left on the bare directory.
struct Twin {
    answers: Vec<String>,
    /// Right after the step.
    tree: Vec<String>,
    /// After all steps.
    at_last: Vec<String>,
}

/// All steps on the bare directory, by name: it answers each row alike, so they run once.
fn bare() -> &'static HashMap<&'static str, Twin> {
    static BARE: OnceLock<HashMap<&str, Twin>> = OnceLock::new();
    BARE.get_or_init(|| {
        let scratch = scratch();
        let run = |step: &'static Step| {
            let answers = run_step(step, scratch.path());
            if is_narrowed() {
                println!("{}\n    {}", step.name, answers.join("\n    "));
            }
            let tree = tree_of(step, scratch.path());
            let at_last = Vec::new();
            let twin = Twin {
                answers,
                tree,
                at_last,
            };
            (step, twin)
        };
        let ran: Vec<_> = steps().map(run).collect();
        let ended = ran.into_iter().map(|(step, twin)| {
            let at_last = tree_of(step, scratch.path());
            (step.name, Twin { at_last, ..twin })
        });
        ended.collect()
    })
}

fn tree_of(step: &Step, top: &Path) -> Vec<String> {
    tree::lines(&top.join(step.name))
}

/// Only some steps shall run.
fn is_narrowed() -> bool {
    std::env::var_os("IOLENS_TWIN").is_some()
}

/// Runs steps below `top` and gives all differences to the bare directory, the first of each step.
fn differences(top: &Path, steps: &[&'static Step]) -> Vec<String> {
    let mut differences = Vec::new();
    for step in steps {
        let bare = &bare()[step.name];
        let answers = run_step(step, top);
        for (side, lines) in [("bare", &bare.answers), ("view", &answers)] {
            let broken = lines
                .iter()
                .find(|l| l.ends_with("the step panicked") || l.starts_with("ended by"));
            if let Some(line) = broken {
                differences.push(format!("{}: {side}: {line}\n", step.name));
            }
        }
        let answers = first_difference("answers", step.name, &bare.answers, &answers);
        let trees = first_difference("trees", step.name, &bare.tree, &tree_of(step, top));
        differences.extend(answers.into_iter().chain(trees));
    }
    differences
}

/// Differences of the trees to those of the bare directory, when all steps have run.
fn differences_at_last(top: &Path, steps: &[&'static Step]) -> Vec<String> {
    let difference = |step: &&'static Step| {
        let bare = &bare()[step.name].at_last;
        first_difference("trees below", step.name, bare, &tree_of(step, top))
    };
    steps.iter().filter_map(difference).collect()
}

fn assert_none(differences: &[String]) {
    let count = differences.len();
    assert!(count == 0, "{count} differences\n{}", differences.concat());
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

/// Mounts, compares, unmounts; then SOURCE itself must be what the bare twin is. Gives the operations and
/// the differences.
fn compare_with_mount(
    row: &str,
    options: &[&str],
    steps: &[&'static Step],
) -> (HashSet<OpKind>, Vec<String>) {
    let args: Vec<&str> = row.split_whitespace().chain(options.to_vec()).collect();
    // Shown where the test fails.
    eprintln!("with {}", args.join(" "));
    let scratch = scratch();
    let mounted = Mounted::new(scratch.path(), "twin", &args);
    let mut found = differences(mounted.view(), steps);
    let trace = mounted.finish();
    found.extend(differences_at_last(
        &scratch.path().join("twin.source"),
        steps,
    ));
    let with = |difference| format!("with {}: {difference}", args.join(" "));
    (ops_in(&trace), found.into_iter().map(with).collect())
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
    let all: Vec<&Step> = steps().collect();
    let mut found = differences(scratch.path(), &all);
    found.extend(differences_at_last(scratch.path(), &all));
    assert_none(&found);
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
    let for_all: &[&str] = if is_root() {
        &["-o", "allow_other,default_permissions,suid,dev"]
    } else {
        &[]
    };
    let (rows, asked) = rows();
    let all: Vec<&Step> = steps().collect();
    let quick = || steps().filter(|step| asked || !step.is_slow);
    // Those that work with the owner alone, on a mount with no options.
    let own: Vec<&Step> = quick().filter(|step| !step.needs_root).collect();
    let mut differences = Vec::new();
    for row in rows {
        if row != DEFAULT && !asked {
            let quick: Vec<&Step> = quick().collect();
            differences.extend(compare_with_mount(row, for_all, &quick).1);
            continue;
        }
        let (mut seen, found) = compare_with_mount(row, for_all, &all);
        // With default_permissions the kernel answers access(2) itself.
        let (seen_by_owner, found_by_owner) = compare_with_mount(row, &[], &own);
        differences.extend(found.into_iter().chain(found_by_owner));
        seen.extend(seen_by_owner);
        let left_out = left_out(&seen);
        if !is_narrowed() && !left_out.is_empty() {
            differences.push(format!("with {row}: not in the trace: {left_out:?}\n"));
        }
    }
    assert_none(&differences);
}
