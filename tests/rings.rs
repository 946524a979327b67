//! What only the transport over io_uring can do, or what it says where the kernel has it switched off.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use support::Scratch;

/// A view over io_uring; `None` where there cannot be one, and then that was said well.
fn mounted() -> Option<Scratch> {
    mounted_with(&["--transport", "uring"])
}

fn mounted_with(options: &[&str]) -> Option<Scratch> {
    let scratch = Scratch::new();
    let outcome = scratch.mount(options);
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

/// What programs do by a path below a directory that has moved in SOURCE: each fails as it would there.
type Step = (&'static str, fn(&Path) -> io::Result<()>);

const STEPS: &[Step] = &[
    ("open", |dir| File::open(dir.join("b/f")).map(drop)),
    ("create", |dir| File::create(dir.join("b/new")).map(drop)),
    ("stat", |dir| fs::metadata(dir.join("b")).map(drop)),
    ("lstat", |dir| fs::symlink_metadata(dir).map(drop)),
    ("opendir", |dir| fs::read_dir(dir.join("b")).map(drop)),
    ("mkdir", |dir| fs::create_dir(dir.join("b/new"))),
    ("mkdir of what is there", |dir| {
        fs::create_dir(dir.join("b/f"))
    }),
    ("rmdir", |dir| fs::remove_dir(dir.join("b"))),
    ("unlink", |dir| fs::remove_file(dir.join("b/f"))),
    ("rename", |dir| fs::rename(dir.join("b"), dir.join("c"))),
    ("rename to", |dir| {
        fs::rename(dir.join("../other"), dir.join("b/c"))
    }),
    ("link", |dir| {
        fs::hard_link(dir.join("b/f"), dir.join("../g"))
    }),
    ("link to", |dir| {
        fs::hard_link(dir.join("../other"), dir.join("b/g"))
    }),
    ("symlink", |dir| {
        std::os::unix::fs::symlink("x", dir.join("b/s"))
    }),
    ("chmod", |dir| {
        fs::set_permissions(dir.join("b"), Permissions::from_mode(0o700))
    }),
    ("chown", |dir| {
        std::os::unix::fs::chown(dir.join("b"), Some(1), None)
    }),
    ("truncate", |dir| {
        nix::unistd::truncate(&dir.join("b/f"), 1).map_err(io::Error::from)
    }),
    ("access", |dir| {
        nix::unistd::access(&dir.join("b"), nix::unistd::AccessFlags::R_OK).map_err(io::Error::from)
    }),
    ("statfs", |dir| {
        nix::sys::statfs::statfs(&dir.join("b"))
            .map(drop)
            .map_err(io::Error::from)
    }),
    ("mkfifo", |dir| {
        nix::unistd::mkfifo(&dir.join("b/p"), nix::sys::stat::Mode::S_IRWXU)
            .map_err(io::Error::from)
    }),
    ("O_TMPFILE", |dir| {
        let flags = libc::O_TMPFILE;
        File::options()
            .write(true)
            .custom_flags(flags)
            .open(dir.join("b"))
            .map(drop)
    }),
];

#[test]
fn a_directory_that_moves_in_source_is_at_once_where_it_is() {
    for options in [
        &["--transport", "uring"][..],
        &["--transport", "uring", "-o", "allow_other"],
    ] {
        let Some(scratch) = mounted_with(options) else {
            return;
        };
        let (there, gone) = (scratch.source.join("way"), scratch.source.join("z"));
        fs::create_dir_all(there.join("b")).unwrap();
        fs::write(there.join("b/f"), "in it").unwrap();
        fs::write(scratch.source.join("other"), "").unwrap();
        let seen = scratch.view.join("way");
        let warm = || {
            assert_eq!(fs::read_to_string(seen.join("b/f")).unwrap(), "in it");
            assert!(!seen.join("b/new").exists());
        };
        for (name, step) in STEPS {
            for round in 0..20 {
                warm();
                fs::rename(&there, &gone).unwrap();
                // Now and then another one takes its place.
                if round % 2 == 1 {
                    fs::create_dir(&there).unwrap();
                }
                let error = step(&seen).map_err(|error| error.raw_os_error());
                assert!(
                    error == Err(Some(libc::ENOENT)) || *name == "lstat" && round % 2 == 1,
                    "{name}, round {round}: {error:?}"
                );
                if round % 2 == 1 {
                    fs::remove_dir(&there).unwrap();
                }
                fs::rename(&gone, &there).unwrap();
            }
        }
        scratch.unmount_and_audit();
    }
}

#[test]
fn what_is_open_in_a_directory_that_moves_in_source_goes_on() {
    for options in [
        &["--transport", "uring"][..],
        &["--transport", "uring", "-o", "allow_other"],
    ] {
        let Some(scratch) = mounted_with(options) else {
            return;
        };
        let (there, gone) = (scratch.source.join("way"), scratch.source.join("z"));
        fs::create_dir_all(there.join("b/c")).unwrap();
        fs::write(there.join("b/c/f"), "in it").unwrap();
        let seen = scratch.view.join("way");
        for round in 0..50 {
            let dir = File::open(seen.join("b")).unwrap();
            let below = |path: &str, flags| {
                let mode = nix::sys::stat::Mode::S_IRWXU;
                nix::fcntl::openat(&dir, path, flags, mode).map(File::from)
            };
            let flags = nix::fcntl::OFlag::O_RDONLY;
            assert_eq!(fs::read_to_string(seen.join("b/c/f")).unwrap(), "in it");
            fs::rename(&there, &gone).unwrap();
            let made = flags | nix::fcntl::OFlag::O_CREAT;
            match round % 5 {
                0 => drop(below("c/f", flags).unwrap()),
                1 => drop(below("c/new", made).unwrap()),
                2 => assert_eq!(below("c/none", flags).unwrap_err(), nix::Error::ENOENT),
                3 => drop(below("c", flags).unwrap()),
                _ => {
                    let mode = nix::sys::stat::Mode::S_IRWXU;
                    nix::sys::stat::mkdirat(&dir, "c/made", mode).unwrap();
                    fs::remove_dir(gone.join("b/c/made")).unwrap();
                }
            }
            assert!(dir.metadata().unwrap().is_dir());
            dir.set_permissions(Permissions::from_mode(0o755)).unwrap();
            assert_eq!(
                fs::read_to_string(scratch.view.join("z/b/c/f")).unwrap(),
                "in it"
            );
            drop(below("c/f", flags).unwrap());
            assert!(!seen.exists());
            fs::rename(&gone, &there).unwrap();
        }
        scratch.unmount_and_audit();
    }
}

#[test]
fn directories_on_the_way_are_asked_for_once_in_a_while() {
    const FILES: usize = 300;
    let Some(scratch) = mounted() else { return };
    let (below, dir) = (scratch.source.join("way/b"), scratch.view.join("way/b"));
    fs::create_dir_all(&below).unwrap();
    (0..FILES).for_each(|n| fs::write(below.join(format!("f{n}")), "x").unwrap());
    (0..FILES).for_each(|n| drop(File::open(dir.join(format!("f{n}"))).unwrap()));
    // All in the view see at once what happens to a directory there.
    fs::rename(&dir, scratch.view.join("moved")).unwrap();
    assert!(!dir.exists() && scratch.view.join("moved/f0").exists());
    fs::create_dir(&dir).unwrap();
    assert!(!dir.join("f0").exists());
    fs::remove_dir(&dir).unwrap();
    assert!(File::create(dir.join("f")).is_err());
    scratch.unmount_and_audit();
    let trace = scratch.trace();
    let asked = |path: &str| {
        let path = format!(r#""path":"{path}""#);
        let lookups = trace
            .lines()
            .filter(|line| line.contains(r#""op":"lookup""#));
        lookups.filter(|line| line.contains(&path)).count()
    };
    assert_eq!(asked("way/b/f7"), 1, "a file is asked for");
    // It takes root, who may load a BPF program, and a kernel that forgets names when it is told to.
    let (found, kept) = (
        asked("way/b"),
        std::env::var_os("IOLENS_NO_BPF").is_none() && is_new_kernel(),
    );
    assert!(
        (found < FILES / 4) == kept,
        "asked {found} times for {FILES} files; names are kept: {kept}"
    );
}

/// Linux 6.16 or later.
fn is_new_kernel() -> bool {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>());
    let (major, minor) = (
        numbers.next().unwrap().unwrap(),
        numbers.next().unwrap().unwrap(),
    );
    (major, minor) >= (6, 16)
}
