//! The filesystem on a temporary directory, without FUSE.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use iolens::error::Errno;
use iolens::fs::{
    Attribution, Call, Fs, KernelCache, Listing, NewEntry, Options, Owners, Permissions, ReadFrom,
    ReadHow, WriteFrom, WriteHow,
};
use iolens::sys::open_path;
use iolens::types::{NodeId, Tid};

fn view(dir: &Path, descriptors: usize) -> Fs {
    let options = Options {
        permissions: Permissions::Source,
        owners: Owners::AsTheyAre,
        descriptors,
        hidden: None,
        quiet: Vec::new(),
        attribution: Attribution::Process,
        callers_sleep: false,
        told: None,
        buffer: None,
        kernel_cache: KernelCache::Off,
        shared: None,
    };
    Fs::new(open_path(dir.as_os_str()).unwrap(), None, options).unwrap()
}

fn call() -> Call {
    Call {
        tid: Tid(0),
        uid: 0,
        gid: 0,
        unique: 0,
    }
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// Descriptors of this process that lead into `dir`.
fn descriptors_into(dir: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.starts_with(dir)).count()
}

#[test]
fn idle_inodes_give_their_descriptors_up_and_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..20 {
        fs::create_dir(dir.path().join(format!("d{at}"))).unwrap();
        for file in 0..20 {
            fs::write(dir.path().join(format!("d{at}/f{file}")), [b'x'; 7]).unwrap();
        }
    }
    let fs = view(dir.path(), 16);
    let mut nodes = Vec::new();
    for at in 0..20 {
        let parent = fs.lookup(&call(), NodeId::ROOT, name(&format!("d{at}")));
        let parent = parent.unwrap().node;
        for file in 0..20 {
            let found = fs
                .lookup(&call(), parent, name(&format!("f{file}")))
                .unwrap();
            nodes.push((found.node, found.stat.ino));
        }
    }
    assert!(
        descriptors_into(dir.path()) < 24,
        "{}",
        descriptors_into(dir.path())
    );
    for (node, ino) in &nodes {
        assert_eq!(fs.getattr(&call(), *node).unwrap().stat.ino, *ino);
    }
    assert!(descriptors_into(dir.path()) < 24);
    assert_eq!(fs.inodes_known(), 1 + 20 + 400);
}

#[test]
fn an_idle_inode_is_found_where_a_rename_put_it_and_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("old")).unwrap();
    fs::write(dir.path().join("old/file"), "data").unwrap();
    let fs = view(dir.path(), 1);
    let old = fs.lookup(&call(), NodeId::ROOT, name("old")).unwrap().node;
    let file = fs.lookup(&call(), old, name("file")).unwrap();
    let (from, to) = ((old, name("file")), (NodeId::ROOT, name("moved")));
    fs.rename(&call(), from, to, 0).unwrap();
    // Others take the only descriptor.
    for other in ["old", "moved", "old"] {
        fs.lookup(&call(), NodeId::ROOT, name(other)).unwrap();
    }
    let again = fs.getattr(&call(), file.node).unwrap();
    assert_eq!((again.stat.ino, again.stat.size), (file.stat.ino, 4));
}

#[test]
fn another_file_under_the_same_name_is_never_taken_for_the_idle_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    fs::write(dir.path().join("open"), "").unwrap();
    let fs = view(dir.path(), 1);
    let file = fs.lookup(&call(), NodeId::ROOT, name("file")).unwrap();
    let open = fs.lookup(&call(), NodeId::ROOT, name("open")).unwrap();
    let fh = fs.open(&call(), open.node, libc::O_RDONLY).unwrap();
    for at in 0..9 {
        let other = format!("other{at}");
        fs::write(dir.path().join(&other), "").unwrap();
        fs.lookup(&call(), NodeId::ROOT, name(&other)).unwrap();
    }
    // One that is open needs no name to be found by.
    fs::rename(dir.path().join("open"), dir.path().join("open-elsewhere")).unwrap();
    assert_eq!(
        fs.getattr(&call(), open.node).map(|attr| attr.node),
        Ok(open.node)
    );
    fs.release(&call(), fh).unwrap();
    // Behind the view's back, with the old file kept alive so that its number is not used again.
    fs::rename(dir.path().join("file"), dir.path().join("elsewhere")).unwrap();
    fs::write(dir.path().join("file"), "new").unwrap();
    assert_eq!(fs.getattr(&call(), file.node), Err(Errno::ESTALE));
    let new = fs.lookup(&call(), NodeId::ROOT, name("file")).unwrap();
    assert_ne!(new.node, file.node);
}

#[test]
fn lookups_are_given_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let fs = view(dir.path(), 16);
    let a = fs.lookup(&call(), NodeId::ROOT, name("a")).unwrap().node;
    let b = fs.lookup(&call(), NodeId::ROOT, name("b")).unwrap().node;
    assert_eq!(a, b, "two names, one inode");
    fs.forget(a, 1);
    assert_eq!(fs.inodes_known(), 2);
    fs.forget(a, 1);
    assert_eq!(fs.inodes_known(), 1);
    assert_eq!(fs.getattr(&call(), a), Err(Errno::ESTALE));
    assert_eq!(descriptors_into(dir.path()), 1, "the root's alone");
}

#[test]
fn a_listing_with_attributes_counts_only_what_found_room() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..10 {
        fs::write(dir.path().join(format!("f{at}")), "").unwrap();
    }
    let fs = view(dir.path(), 64);
    let fh = fs.opendir(&call(), NodeId::ROOT, 0).unwrap();
    let mut room = 5;
    let mut files = Vec::new();
    let mut next = 0;
    let placed = fs.readdir(&call(), fh, 0, Listing::Attributes, |slot| {
        if room == 0 {
            return false;
        }
        room -= 1;
        next = slot.next;
        files.extend(slot.attr.map(|attr| attr.node));
        true
    });
    assert_eq!(placed, Ok(5));
    assert_eq!(fs.inodes_known(), 1 + files.len());
    let rest = fs.readdir(&call(), fh, next, Listing::Names, |_| true);
    assert_eq!(rest, Ok(7));
    for node in files {
        fs.forget(node, 1);
    }
    assert_eq!(fs.inodes_known(), 1);
    fs.releasedir(&call(), fh).unwrap();
    assert_eq!(fs.handles_open(), 0);
}

#[test]
fn an_append_lands_at_the_end_that_source_has_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "one ").unwrap();
    let fs = view(dir.path(), 16);
    let node = fs.lookup(&call(), NodeId::ROOT, name("log")).unwrap().node;
    let flags = libc::O_WRONLY | libc::O_APPEND;
    let fh = fs.open(&call(), node, flags).unwrap();
    // Grown from outside since the kernel last asked: it still believes in offset 4.
    fs::write(&path, "one two ").unwrap();
    let how = WriteHow {
        flags,
        from: WriteFrom::Call,
    };
    let written = fs.write(&call(), fh, 4, b"three", how).wait();
    assert_eq!(written, Ok(5));
    assert_eq!(fs::read_to_string(&path).unwrap(), "one two three");
    fs.release(&call(), fh).unwrap();
}

#[test]
fn an_open_file_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let fs = view(dir.path(), 1);
    let new = NewEntry {
        mode: 0o100_644,
        umask: 0o022,
    };
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (attr, fh) = fs
        .create(&call(), NodeId::ROOT, name("gone"), flags, new)
        .unwrap();
    let how = WriteHow {
        flags,
        from: WriteFrom::Call,
    };
    let written = fs.write(&call(), fh, 0, b"still here", how).wait();
    assert_eq!(written, Ok(10));
    fs.unlink(&call(), NodeId::ROOT, name("gone")).unwrap();
    let mut buf = [0; 16];
    let how = ReadHow {
        flags,
        from: ReadFrom::Call,
    };
    let read = fs.read(&call(), fh, 0, &mut buf, how).unwrap();
    assert_eq!(&buf[..read], b"still here");
    assert_eq!(fs.getattr(&call(), attr.node).unwrap().stat.nlink, 0);
    fs.release(&call(), fh).unwrap();
    assert_eq!(fs.release(&call(), fh), Err(Errno::EBADF));
}

#[test]
fn links_in_source_are_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("way-out")).unwrap();
    let fs = view(dir.path(), 16);
    let link = fs.lookup(&call(), NodeId::ROOT, name("way-out")).unwrap();
    assert_eq!(link.stat.mode & libc::S_IFMT, libc::S_IFLNK);
    let through = fs.lookup(&call(), link.node, name("secret"));
    assert_eq!(through.map(|attr| attr.node), Err(Errno::ENOTDIR));
    assert!(fs.open(&call(), link.node, libc::O_RDONLY).is_err());
    assert!(fs.opendir(&call(), link.node, 0).is_err());
}

#[test]
fn a_tree_deeper_than_a_stack_is_found_again() {
    const DEPTH: usize = 1500;
    let dir = tempfile::tempdir().unwrap();
    let fs = view(dir.path(), 1);
    let new = NewEntry {
        mode: 0o755,
        umask: 0,
    };
    let mut at = NodeId::ROOT;
    let mut nodes = Vec::new();
    for _ in 0..DEPTH {
        at = fs.mkdir(&call(), at, name("d"), new).unwrap().node;
        nodes.push(at);
    }
    for other in 0..50 {
        let other = format!("f{other}");
        fs::write(dir.path().join(&other), "").unwrap();
        fs.lookup(&call(), NodeId::ROOT, name(&other)).unwrap();
    }
    // Nobody would guess it from the depth, but this is a small stack.
    let found = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(128 * 1024);
        let ask = || fs.getattr(&call(), at).map(|attr| attr.node);
        thread.spawn_scoped(scope, ask).unwrap().join().unwrap()
    });
    assert_eq!(found, Ok(at));
    // The kernel forgets a directory before its parent; a table dropped whole would not.
    for node in nodes.into_iter().rev() {
        fs.forget(node, 1);
    }
}
