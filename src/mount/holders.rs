//! Who keeps a mount busy.
//!
//! Layer: edge (`mount`). Reads `/proc` only: links are read, never followed, and nothing on the mount
//! is opened or asked for its attributes, because its server may be the one that waits for the answer.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::mountinfo::{self, DevNo, MountEntry};

/// A use of the mount by a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// Its name, at most 15 bytes (`/proc/PID/comm`).
    pub comm: String,
    /// How it holds the mount.
    pub hold: Hold,
    /// What it holds, where that has a path.
    pub path: PathBuf,
}

/// How a process holds a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its current directory.
    Cwd,
    /// Its root directory.
    Root,
    /// The program that it runs.
    Exe,
    /// An open descriptor.
    Fd(i32),
    /// A mapped file.
    Mapped,
    /// A mount namespace of its own has another copy of the mount.
    Namespace,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}): ", self.comm, self.pid)?;
        let path = self.path.display();
        match self.hold {
            Hold::Cwd => write!(f, "current directory {path}"),
            Hold::Root => write!(f, "root directory {path}"),
            Hold::Exe => write!(f, "runs {path}"),
            Hold::Fd(number) => write!(f, "descriptor {number} {path}"),
            Hold::Mapped => write!(f, "maps {path}"),
            Hold::Namespace => write!(f, "has {path} mounted in a namespace of its own"),
        }
    }
}

/// Several holders as one line: the first few, one for each process, and how many more.
#[must_use]
pub fn list(holders: &[Holder]) -> String {
    const SHOWN: usize = 5;
    let mut seen = HashSet::new();
    let first: Vec<&Holder> = holders
        .iter()
        .filter(|holder| seen.insert(holder.pid))
        .collect();
    let named: Vec<String> = first.iter().take(SHOWN).map(ToString::to_string).collect();
    match first.len().saturating_sub(SHOWN) {
        0 => named.join(", "),
        more => format!("{} and {more} more processes", named.join(", ")),
    }
}

/// Finds who holds the filesystem `dev`, leaving this process out. Processes that we may not look
/// into (of other users) are not found.
#[must_use]
pub fn find(dev: DevNo) -> Vec<Holder> {
    let mut scan = Scan {
        dev,
        namespaces: HashMap::new(),
        ids: HashSet::new(),
    };
    let own = mountinfo::read_own().unwrap_or_default();
    scan.ids.extend(
        own.iter()
            .filter(|entry| entry.dev == dev)
            .map(|entry| entry.id),
    );
    let own_namespace = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let mut found = Vec::new();
    for pid in processes() {
        scan.process(pid, &own_namespace, &mut found);
    }
    found
}

fn processes() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.filter(|pid| *pid != own).collect()
}

struct Scan {
    dev: DevNo,
    /// What each mount namespace sees; only read once, they repeat for most processes.
    namespaces: HashMap<PathBuf, Vec<MountEntry>>,
    /// All ids that mounts of `dev` have in the namespaces seen so far.
    ids: HashSet<u64>,
}

impl Scan {
    fn process(&mut self, pid: i32, own_namespace: &Path, found: &mut Vec<Holder>) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let Ok(namespace) = fs::read_link(proc.join("ns/mnt")) else {
            return;
        };
        if !self.namespaces.contains_key(&namespace) {
            let text = fs::read(proc.join("mountinfo")).unwrap_or_default();
            let entries = mountinfo::parse(&text);
            let dev = self.dev;
            self.ids.extend(
                entries
                    .iter()
                    .filter(|entry| entry.dev == dev)
                    .map(|entry| entry.id),
            );
            self.namespaces.insert(namespace.clone(), entries);
        }
        let entries = self
            .namespaces
            .get(&namespace)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let comm = fs::read(proc.join("comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(&comm).trim_end().to_owned();
        let mut add = |hold, path| {
            found.push(Holder {
                pid,
                comm: comm.clone(),
                hold,
                path,
            })
        };
        let visible = entries.iter().find(|entry| entry.dev == self.dev);
        if let Some(entry) = visible {
            for (name, hold) in [("cwd", Hold::Cwd), ("root", Hold::Root), ("exe", Hold::Exe)] {
                if let Ok(path) = fs::read_link(proc.join(name))
                    && on_device(entries, &path, self.dev)
                {
                    add(hold, path);
                }
            }
            if namespace != own_namespace {
                add(Hold::Namespace, entry.point.clone());
            }
            if let Some(path) = mapped(&proc, self.dev) {
                add(Hold::Mapped, path);
            }
        }
        for (number, path) in descriptors(&proc, &self.ids) {
            add(Hold::Fd(number), path);
        }
    }
}

fn on_device(entries: &[MountEntry], path: &Path, dev: DevNo) -> bool {
    mountinfo::containing(entries, path).is_some_and(|entry| entry.dev == dev)
}

/// Descriptors whose mount is one of `ids`, also when their file was deleted or renamed.
fn descriptors(proc: &Path, ids: &HashSet<u64>) -> Vec<(i32, PathBuf)> {
    let Ok(entries) = fs::read_dir(proc.join("fd")) else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let held = |number: i32| {
        let path = fs::read_link(proc.join(format!("fd/{number}"))).ok()?;
        // Pipes, sockets and the like have no path and no mount of ours.
        path.is_absolute().then_some(())?;
        let info = fs::read_to_string(proc.join(format!("fdinfo/{number}"))).ok()?;
        ids.contains(&mount_id(&info)?).then_some((number, path))
    };
    numbers.filter_map(held).collect()
}

/// `mnt_id:` of `/proc/PID/fdinfo/N`.
fn mount_id(info: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// The first file of the device in `/proc/PID/maps`.
fn mapped(proc: &Path, dev: DevNo) -> Option<PathBuf> {
    parse_maps(&fs::read(proc.join("maps")).ok()?, dev)
}

fn parse_maps(text: &[u8], dev: DevNo) -> Option<PathBuf> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let device = std::str::from_utf8(fields.nth(3)?).ok()?;
        (DevNo::parse_hex(device)? == dev).then_some(())?;
        let path = fields.nth(1)?.trim_ascii_start();
        Some(PathBuf::from(OsString::from_vec(
            OsStr::from_bytes(path).as_bytes().to_vec(),
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_found_by_its_device() {
        let text = b"7f00-7f10 r--p 00000000 00:00 0 \n\
            7f10-7f20 r--p 00000000 00:3a 1234                       /view/a b\n";
        let dev = DevNo {
            major: 0,
            minor: 0x3a,
        };
        assert_eq!(parse_maps(text, dev), Some(PathBuf::from("/view/a b")));
        assert_eq!(parse_maps(text, DevNo { major: 8, minor: 1 }), None);
    }

    #[test]
    fn the_mount_of_a_descriptor_is_read() {
        assert_eq!(
            mount_id("pos:\t0\nflags:\t02\nmnt_id:\t42\nino:\t7\n"),
            Some(42)
        );
        assert_eq!(mount_id("pos:\t0\n"), None);
    }

    #[test]
    fn a_list_names_each_process_once() {
        let holder = |pid, hold| Holder {
            pid,
            comm: "sh".to_owned(),
            hold,
            path: PathBuf::from("/v"),
        };
        let holders = [
            holder(1, Hold::Cwd),
            holder(1, Hold::Fd(3)),
            holder(2, Hold::Fd(4)),
        ];
        assert_eq!(
            list(&holders),
            "sh (pid 1): current directory /v, sh (pid 2): descriptor 4 /v"
        );
    }
}
