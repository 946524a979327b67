//! `/proc/PID/mountinfo`: which mounts a process sees. See proc_pid_mountinfo(5).
//!
//! Layer: edge (`mount`). The parser takes bytes; reading never touches a mounted filesystem.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The type that `/proc/mounts` shows for our mounts.
pub const FS_TYPE: &str = "fuse.iolens";

/// A filesystem's device number, as `major:minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DevNo {
    /// Major number; 0 for filesystems without a block device.
    pub major: u32,
    /// Minor number; for FUSE also the name of its directory in `/sys/fs/fuse/connections`.
    pub minor: u32,
}

impl DevNo {
    /// Reads `8:1`.
    fn parse(text: &str) -> Option<DevNo> {
        let (major, minor) = text.split_once(':')?;
        Some(DevNo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// Reads `08:01` in hexadecimal, as `/proc/PID/maps` writes it.
    #[must_use]
    pub fn parse_hex(text: &str) -> Option<DevNo> {
        let (major, minor) = text.split_once(':')?;
        let hex = |digits| u32::from_str_radix(digits, 16).ok();
        Some(DevNo {
            major: hex(major)?,
            minor: hex(minor)?,
        })
    }
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique while the mount exists, over all namespaces.
    pub id: u64,
    /// The mount it sits on.
    pub parent: u64,
    /// The filesystem's device.
    pub dev: DevNo,
    /// Where it is mounted, as the reader's root directory sees it.
    pub point: PathBuf,
    /// `fuse.iolens`, `ext4`, ...
    pub fs_type: String,
    /// What was given to mount(2) as source.
    pub source: OsString,
    /// The filesystem's own options (`rw,user_id=0,...`).
    pub super_options: String,
}

impl MountEntry {
    /// Whether it is a mount of iolens.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Who mounted it (`user_id=` of a FUSE mount).
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        let mut options = self.super_options.split(',');
        options.find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }
}

/// Parses the file; a line that it cannot read is left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let id = text(fields.next()?).parse().ok()?;
    let parent = text(fields.next()?).parse().ok()?;
    let dev = DevNo::parse(&text(fields.next()?))?;
    fields.next()?;
    let point = PathBuf::from(unescape(fields.next()?));
    fields.find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = fields.next().map(text).unwrap_or_default();
    Some(MountEntry {
        id,
        parent,
        dev,
        point,
        fs_type,
        source,
        super_options,
    })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash (fs/proc_namespace.c).
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// The mounts that this thread sees.
///
/// # Errors
/// When `/proc` is not there.
pub fn read_own() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

/// The mount on top at exactly this path: of several, the one on which no other of them sits.
#[must_use]
pub fn topmost_at<'a>(entries: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let at_path = || entries.iter().filter(|entry| entry.point == path);
    at_path().find(|entry| !at_path().any(|other| other.parent == entry.id && other.id != entry.id))
}

/// The mount that a path lies on: of those above it the deepest, and there the topmost.
#[must_use]
pub fn containing<'a>(entries: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    path.ancestors()
        .find_map(|ancestor| topmost_at(entries, ancestor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:50 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.iolens /src,x rw,user_id=1000,group_id=1
31 30 0:51 / /mnt/a\\040b rw - tmpfs none rw
broken line
";

    #[test]
    fn fields_and_escapes_are_read_and_broken_lines_left_out() {
        let entries = parse(TEXT);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].point, Path::new("/mnt/a b"));
        assert_eq!(
            entries[1].dev,
            DevNo {
                major: 0,
                minor: 50
            }
        );
        assert_eq!(entries[1].owner(), Some(1000));
        assert_eq!(entries[1].source, "/src,x");
        assert!(entries[1].is_ours());
    }

    #[test]
    fn the_mount_on_top_is_found() {
        let entries = parse(TEXT);
        assert_eq!(topmost_at(&entries, Path::new("/mnt/a b")).unwrap().id, 31);
        assert_eq!(
            containing(&entries, Path::new("/mnt/a b/c/d")).unwrap().id,
            31
        );
        assert_eq!(containing(&entries, Path::new("/mnt/else")).unwrap().id, 22);
        assert!(topmost_at(&entries, Path::new("/mnt")).is_none());
    }
}
