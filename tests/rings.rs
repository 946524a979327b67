//! What only the transport over io_uring can do, or what it says where the kernel has it switched off.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use support::Scratch;

/// A view over io_uring; `None` where there cannot be one, and then that was said well.
fn mounted() -> Option<Scratch> {
    let scratch = Scratch::new();
    let outcome = scratch.mount(&["--transport", "uring"]);
    let switch = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").unwrap_or_default();
    if switch.trim() == "Y" {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        return Some(scratch);
    }
    assert_eq!(outcome.code, 1);
    for word in ["EOPNOTSUPP", "enable_uring", "--transport dev"] {
        let said = outcome.stderr.contains(word) || switch.is_empty() && word == "enable_uring";
        assert!(said, "no {word}: {}", outcome.stderr);
    }
    assert!(!scratch.is_mounted());
    None
}

#[test]
fn a_file_without_a_name_is_used_and_may_get_one() {
    let Some(scratch) = mounted() else { return };
    let nameless = |more: i32| {
        File::options()
            .read(true)
            .write(true)
            .mode(0o640)
            .custom_flags(libc::O_TMPFILE | more)
            .open(&scratch.view)
            .unwrap()
    };
    let mut file = nameless(0);
    file.write_all(b"without a name").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(&scratch.view).unwrap().count(), 1);
    let link = |file: &File, name: &str| {
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        let here = nix::fcntl::AT_FDCWD;
        nix::unistd::linkat(here, from.as_str(), here, &scratch.view.join(name), flags)
    };
    link(&file, "named").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    file.write_all(b", and then with one").unwrap();
    drop(file);
    let mut text = String::new();
    File::open(scratch.view.join("named"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "without a name, and then with one");
    assert_eq!(
        fs::read_to_string(scratch.source.join("named")).unwrap(),
        text
    );
    // With O_EXCL it never gets one, and what was written goes with it.
    let mut lost = nameless(libc::O_EXCL);
    lost.write_all(b"lost").unwrap();
    assert_eq!(link(&lost, "never").unwrap_err(), nix::Error::ENOENT);
    drop(lost);
    scratch.unmount_and_audit();
    assert_eq!(fs::read_dir(&scratch.source).unwrap().count(), 2);
    let trace = scratch.trace();
    let nameless =
        |line: &&str| line.contains(r#""op":"write""#) && line.contains(r##""path":"#"##);
    assert_eq!(trace.lines().filter(nameless).count(), 2);
    assert_eq!(
        trace
            .lines()
            .filter(|line| line.contains(r#""op":"tmpfile""#))
            .count(),
        2
    );
}

#[test]
fn a_file_has_a_time_of_birth() {
    let Some(scratch) = mounted() else { return };
    fs::write(scratch.source.join("f"), "x").unwrap();
    let born = |dir: &std::path::Path| fs::metadata(dir.join("f")).unwrap().created().ok();
    assert_eq!(born(&scratch.view), born(&scratch.source));
    scratch.unmount_and_audit();
}
