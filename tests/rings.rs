//! What only the transport over io_uring can do, or what it says where the kernel has it switched off.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::OFlag;
use nix::unistd::UnlinkatFlags;

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

/// Views in which the server looks at permissions, and the kernel.
const BOTH: [&[&str]; 2] = [
    &["--transport", "uring"],
    &["--transport", "uring", "-o", "allow_other"],
];

/// Runs `body` on a view of each kind, if there can be one, whose trace has to obey its laws.
fn in_both_views(body: impl Fn(&Scratch)) {
    for scratch in BOTH.iter().filter_map(|options| mounted_with(options)) {
        body(&scratch);
        scratch.unmount_and_audit();
    }
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
    in_both_views(|scratch| {
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
    });
}

#[test]
fn what_is_open_in_a_directory_that_moves_in_source_goes_on() {
    in_both_views(|scratch| {
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
            let flags = OFlag::O_RDONLY;
            assert_eq!(fs::read_to_string(seen.join("b/c/f")).unwrap(), "in it");
            fs::rename(&there, &gone).unwrap();
            let made = flags | OFlag::O_CREAT;
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
    });
}

#[test]
fn what_takes_the_place_of_a_directory_is_found_at_once() {
    in_both_views(|scratch| {
        let below = |name: &str| scratch.source.join(name);
        let seen = scratch.view.join("way");
        for round in 0..60 {
            for (dir, text) in [("way", "old"), ("new", "new")] {
                fs::create_dir_all(below(dir).join("b/c")).unwrap();
                fs::write(below(dir).join("b/f"), text).unwrap();
            }
            assert_eq!(fs::read_to_string(seen.join("b/f")).unwrap(), "old");
            assert!(seen.join("b/c").exists());
            fs::rename(below("way"), below("old")).unwrap();
            fs::rename(below("new"), below("way")).unwrap();
            if round % 2 == 0 {
                fs::remove_dir_all(below("old")).unwrap();
            }
            let f = seen.join("b/f");
            match round % 6 {
                0 | 1 => assert_eq!(fs::read_to_string(f).unwrap(), "new"),
                2 | 3 => fs::create_dir(seen.join("b/c/made")).unwrap(),
                _ => fs::write(f, "again").unwrap(),
            }
            let made = below("way").join("b/c/made").exists();
            assert_eq!(made, matches!(round % 6, 2 | 3));
            let text = fs::read_to_string(below("way").join("b/f")).unwrap();
            assert_eq!(text == "again", matches!(round % 6, 4 | 5));
            let _ = fs::remove_dir_all(below("old"));
            fs::remove_dir_all(below("way")).unwrap();
        }
    });
}

#[test]
fn the_same_question_has_another_answer_as_soon_as_a_directory_moves() {
    in_both_views(|scratch| {
        let (there, gone) = (scratch.source.join("way"), scratch.source.join("z"));
        fs::create_dir_all(there.join("b/c")).unwrap();
        let seen = scratch.view.join("way/b/c");
        for _ in 0..200 {
            assert!(seen.metadata().is_ok());
            fs::rename(&there, &gone).unwrap();
            assert!(seen.metadata().is_err());
            fs::rename(&gone, &there).unwrap();
        }
    });
}

#[test]
fn a_directory_that_took_another_ones_name_is_removed_in_its_own_right() {
    in_both_views(|scratch| {
        let below = |name: &str| scratch.source.join(name);
        let seen = |name: &str| scratch.view.join(name);
        fs::create_dir(below("way")).unwrap();
        for round in 0..40 {
            fs::create_dir(below("way/b")).unwrap();
            let open = File::open(seen("way/b")).unwrap();
            fs::rename(below("way/b"), below("z")).unwrap();
            fs::create_dir(below("way/b")).unwrap();
            match round % 2 {
                0 => fs::remove_dir(seen("way/b")).unwrap(),
                _ => fs::rename(seen("way/b"), seen("taken")).unwrap(),
            }
            // The one that was there before lives on.
            fs::write(seen("z/f"), "in it").unwrap();
            assert_eq!(fs::read_to_string(below("z/f")).unwrap(), "in it");
            assert!(open.metadata().unwrap().is_dir());
            assert_eq!(seen("taken").exists(), round % 2 == 1);
            fs::remove_dir_all(below("z")).unwrap();
            let _ = fs::remove_dir(below("taken"));
        }
    });
}

#[test]
fn nobody_hears_of_stale_names_while_directories_move() {
    const MOVES: usize = 3000;
    let mode = nix::sys::stat::Mode::S_IRWXU;
    for options in BOTH {
        for in_source in [false, true] {
            let Some(scratch) = mounted_with(options) else {
                return;
            };
            fs::create_dir_all(scratch.source.join("way/b/c")).unwrap();
            for file in ["way/b/f", "way/b/c/f"] {
                fs::write(scratch.source.join(file), "in it").unwrap();
            }
            let dir = File::open(scratch.view.join("way/b")).unwrap();
            let top = if in_source {
                &scratch.source
            } else {
                &scratch.view
            };
            let (one, other) = (top.join("way"), top.join("other"));
            let ended = AtomicBool::new(false);
            // By a path: it is there, or it is not.
            let by_path = |user: usize| {
                let seen = scratch.view.join("way");
                let made = seen.join(format!("b/made{user}"));
                let steps: [&dyn Fn() -> io::Result<()>; 5] = [
                    &|| File::open(seen.join("b/f")).map(drop),
                    &|| fs::metadata(seen.join("b/c")).map(drop),
                    &|| fs::read_dir(seen.join("b/c")).map(drop),
                    &|| File::create(&made).map(drop),
                    &|| fs::remove_file(&made),
                ];
                for (n, step) in steps.iter().enumerate().cycle() {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = step() {
                        let error = error.raw_os_error();
                        let what =
                            format!("by path, step {n}, in SOURCE: {in_source}, {options:?}");
                        assert_eq!(error, Some(libc::ENOENT), "{what}");
                    }
                }
            };
            // By a descriptor: it is there.
            let by_descriptor = |user: usize| {
                let open = |path: &str, flags| nix::fcntl::openat(&dir, path, flags, mode);
                let name = format!("new{user}");
                while !ended.load(Ordering::Relaxed) {
                    drop(open("f", OFlag::O_RDONLY).unwrap());
                    drop(open("c/f", OFlag::O_RDONLY).unwrap());
                    assert_eq!(
                        open("none", OFlag::O_RDONLY).unwrap_err(),
                        nix::Error::ENOENT
                    );
                    nix::sys::stat::mkdirat(&dir, name.as_str(), mode).unwrap();
                    let below = format!("{name}/f");
                    drop(open(&below, OFlag::O_RDWR | OFlag::O_CREAT).unwrap());
                    let unlink = |path: &str, how| nix::unistd::unlinkat(&dir, path, how).unwrap();
                    unlink(&below, UnlinkatFlags::NoRemoveDir);
                    unlink(&name, UnlinkatFlags::RemoveDir);
                }
            };
            thread::scope(|scope| {
                for user in 0..2 {
                    let (by_path, by_descriptor) = (&by_path, &by_descriptor);
                    scope.spawn(move || by_path(user));
                    scope.spawn(move || by_descriptor(user));
                }
                for _ in 0..MOVES / 2 {
                    fs::rename(&one, &other).unwrap();
                    fs::rename(&other, &one).unwrap();
                }
                ended.store(true, Ordering::Relaxed);
            });
            drop(dir);
            scratch.unmount_and_audit();
        }
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
    // It takes the kernel to tell who asks.
    let (found, kept) = (asked("way/b"), std::env::var_os("IOLENS_NO_BPF").is_none());
    assert!(
        (found < FILES / 4) == kept,
        "asked {found} times for {FILES} files; names are kept: {kept}"
    );
}
