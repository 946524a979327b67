//! `iolens run` for an ordinary user among files of others: what may be done, and what is left behind,
//! is the same as without it.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use support::Scratch;

/// A user with a supplementary group.
const USER: &[&str] = &["--reuid=1234", "--regid=1234", "--groups=4242"];

/// Says of each step whether it was allowed. `closed` can only be read, `open` can be written to by
/// everybody, `shared` by the group.
const STEPS: &str = r#"
try() { what=$1; shift; if sh -c "$*" 2>/dev/null; then echo "$what: allowed"; else echo "$what: refused"; fi; }
try append-open    'echo more >> open'
try append-shared  'echo more >> shared'
try append-closed  'echo more >> closed'
try truncate-open  ': > open'
try read-closed    'grep -q closed closed'
try chmod-open     'chmod 600 open'
try touch-open     'touch open'
try touch-back     'touch -d 2001-02-03 open'
try make           'echo mine > mine'
try make-dir       'mkdir dir && echo x > dir/x'
try link-open      'ln open linked'
try rename-mine    'mv mine yours && mv yours mine'
try rename-closed  'mv closed moved && mv moved closed'
try replace-closed 'echo new > new && mv -f new closed'
try remove-open    'rm -f open'
try remove-mine    'rm -r mine dir'
try execute-others './tool'
try make-again     'mkdir kept && echo y > kept/y'
"#;

fn prepare(dir: &Path, gid: u32, mode: u32) {
    for (name, group, mode) in [
        // Executable for its owner alone.
        ("tool", 0, 0o744),
        ("open", 0, 0o666),
        ("closed", 0, 0o644),
        ("shared", 4242, 0o664),
    ] {
        let path = dir.join(name);
        fs::write(&path, format!("{name}\n")).unwrap();
        chown(&path, Some(0), Some(group)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::remove_file(dir.join("a")).unwrap();
    chown(dir, Some(0), Some(gid)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
}

/// Names, modes, owners and sizes, as root sees them afterwards.
fn left_behind(dir: &Path) -> String {
    let found = Command::new("find")
        .arg(dir)
        .args(["-mindepth", "1", "-printf", "%P %M %U:%G %s\\n"])
        .output()
        .unwrap();
    let mut lines: Vec<&str> = std::str::from_utf8(&found.stdout)
        .unwrap()
        .lines()
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn same_bare_and_recorded(gid: u32, mode: u32) {
    let (bare, recorded) = (Scratch::new(), Scratch::new());
    prepare(&bare.source, gid, mode);
    prepare(&recorded.source, gid, mode);
    let natively = bare.as_user(USER, STEPS);
    let steps = STEPS.replace('\'', r"'\''");
    let through = recorded.as_user(USER, &format!("\"$IOLENS\" run -- sh -c '{steps}'"));
    assert_eq!(natively.stdout.lines().count(), 18, "{natively:?}");
    assert_eq!(through.stdout, natively.stdout, "{}", through.stderr);
    assert_eq!(left_behind(&recorded.source), left_behind(&bare.source));
}

#[test]
fn in_a_directory_shared_by_a_group_a_user_may_do_the_same() {
    same_bare_and_recorded(4242, 0o2775);
}

#[test]
fn in_a_sticky_directory_of_root_a_user_may_do_the_same() {
    same_bare_and_recorded(0, 0o1777);
}

#[test]
fn in_an_open_directory_of_root_a_user_may_do_the_same() {
    same_bare_and_recorded(0, 0o777);
}

#[test]
fn in_a_directory_that_others_may_only_read_a_user_may_do_the_same() {
    same_bare_and_recorded(0, 0o755);
}

#[test]
fn the_first_thing_a_program_does_may_be_to_make_a_file_in_source() {
    let scratch = Scratch::new();
    chown(&scratch.source, Some(1234), Some(1234)).unwrap();
    for run in ["\"$IOLENS\" run --", "\"$IOLENS\" run -C \"$PWD\" --"] {
        let outcome = scratch.as_user(USER, &format!("{run} /bin/mkdir made && rmdir made"));
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
    let outside =
        "s=$PWD; cd /; \"$IOLENS\" run -C \"$s\" -- /bin/mkdir \"$s/made\" && rmdir \"$s/made\"";
    let outcome = scratch.as_user(USER, outside);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}
