//! A whole tree as lines that two equal trees have in common: names, types, modes, owners, links,
//! sizes, devices, contents, holes, link targets, extended attributes, and times that were set.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;

use crate::side::{Arg, at_mut, raw, short, when};

pub(crate) fn lines(top: &Path) -> Vec<String> {
    let mut walk = Walk {
        lines: Vec::new(),
        first_names: HashMap::new(),
    };
    walk.entry(top, ".");
    walk.lines
}

struct Walk {
    lines: Vec<String>,
    /// By inode number: which name was met first. Names of one inode are shown as such.
    first_names: HashMap<u64, String>,
}

impl Walk {
    fn entry(&mut self, path: &Path, name: &str) {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(e) => return self.lines.push(format!("{name}: {e}")),
        };
        let kind = meta.file_type();
        // Inode 1 of the root and the numbers as such are not the twins' own; equality of numbers is.
        let first = self
            .first_names
            .entry(meta.ino())
            .or_insert_with(|| name.to_owned())
            .clone();
        let same = if first == name {
            String::new()
        } else {
            format!(" is {first}")
        };
        self.lines.push(format!(
            "{name}:{same} mode {:o} links {} owner {}:{} size {} device {:x} times {} {} xattrs {:?}",
            meta.mode(),
            meta.nlink(),
            meta.uid(),
            meta.gid(),
            // The size of a directory depends on what it once held.
            if kind.is_dir() { 0 } else { meta.size() },
            if kind.is_char_device() || kind.is_block_device() { meta.rdev() } else { 0 },
            when(meta.atime(), meta.atime_nsec()),
            when(meta.mtime(), meta.mtime_nsec()),
            xattrs(path),
        ));
        if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            self.lines.push(format!(
                "{name} -> {}",
                short(target.as_os_str().as_bytes())
            ));
        } else if kind.is_file() {
            self.content(path, name);
        } else if kind.is_dir() {
            let mut names: Vec<_> = match fs::read_dir(path) {
                Ok(entries) => entries.map(|e| e.unwrap().file_name()).collect(),
                Err(e) => return self.lines.push(format!("{name}: list: {e}")),
            };
            names.sort();
            for child in names {
                let child_name = format!("{name}/{}", child.as_bytes().escape_ascii());
                self.entry(&path.join(child), &child_name);
            }
        }
    }

    fn content(&mut self, path: &Path, name: &str) {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) => return self.lines.push(format!("{name}: open: {e}")),
        };
        // Before the bytes are read: reading an unwritten extent makes ext4 call it data.
        let holes = if file.metadata().unwrap().len() > 4096 {
            data_ranges(&file)
        } else {
            String::new()
        };
        let data = match fs::read(path) {
            Ok(data) => data,
            // A size that is there and that nobody can hold.
            Err(e) => return self.lines.push(format!("{name}: read: {e}")),
        };
        self.lines
            .push(format!("{name} holds {}{holes}", short(&data)));
    }
}

/// Where a file has data, as its filesystem says.
pub(crate) fn data_ranges(file: &File) -> String {
    let seek = |from: i64, whence: i32| {
        let args = [file.as_raw_fd().into(), from.into(), whence.into()];
        raw(libc::SYS_lseek, &args)
    };
    let (mut text, mut position) = (String::from(" data"), 0);
    loop {
        match seek(position, libc::SEEK_DATA) {
            Ok(start) => {
                position = seek(start, libc::SEEK_HOLE).unwrap();
                text.push_str(&format!(" {start}..{position}"));
            }
            Err(Errno::ENXIO) => return text,
            Err(errno) => return format!("{text} {errno:?}"),
        }
    }
}

fn xattrs(path: &Path) -> Vec<String> {
    let path = || Arg::Text(CString::new(path.as_os_str().as_bytes()).unwrap());
    let mut list = vec![0_u8; 4096];
    let args = [path(), at_mut(&mut *list), list.len().into()];
    let size = match raw(libc::SYS_llistxattr, &args) {
        Ok(size) => usize::try_from(size).unwrap(),
        Err(errno) => return vec![format!("{errno:?}")],
    };
    let mut found: Vec<String> = list[..size]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0_u8; 4096];
            let c_name = Arg::Text(CString::new(name).unwrap());
            let args = [path(), c_name, at_mut(&mut *value), value.len().into()];
            let value = raw(libc::SYS_lgetxattr, &args)
                .map(|n| short(&value[..usize::try_from(n).unwrap()]));
            format!("{}={value:?}", name.escape_ascii())
        })
        .collect();
    found.sort();
    found
}
