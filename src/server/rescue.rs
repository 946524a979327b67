//! Rescue files: bytes that were answered for and could not be written to SOURCE, and how they get there
//! later.
//!
//! Layer: edge (`server`). JSON Lines, mode 0600: a line that names SOURCE, a line for each stretch of bytes,
//! and a last one with the sums, without which the file is not whole. `iolens restore` puts the bytes back.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::buffer::Lost;
use crate::event::ByteText;
use crate::sys::{self, process::with_own_fd};
use crate::trace::store::Store;
use crate::types::OwnFd;

/// The version of the format.
pub const FORMAT: u32 = 1;

/// Bytes of one line at most, before base64.
const PIECE: usize = 1 << 20;

/// Files that are named for a person; the others are only counted.
const NAMED_MAX: usize = 20;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Rescue {
        /// The version of the format.
        format: u32,
        /// The absolute path of SOURCE.
        #[serde(flatten)]
        source: ByteText,
    },
    /// Bytes of a file.
    Bytes(Stretch),
    /// The last one.
    End {
        /// Lines of bytes.
        stretches: u64,
        /// Bytes in all.
        bytes: u64,
    },
}

/// Bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The file below SOURCE, as it was called last; absolute where it is not below it.
    #[serde(flatten)]
    pub path: ByteText,
    /// Its filesystem, as stat(2) says.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Where the bytes belong.
    pub offset: u64,
    /// The bytes in base64 (RFC 4648, padded).
    pub data: String,
    /// Why they could not be written: an errno's name; absent where nobody waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Saves `lost` bytes, and says what a person should know; nothing where there are none.
#[must_use]
pub fn save_and_tell(source: &Path, lost: &[Lost]) -> String {
    if lost.is_empty() {
        return String::new();
    }
    let bytes: u64 = lost.iter().map(|lost| lost.range.len()).sum();
    let mut text = format!("iolens: {bytes} bytes could not be written back to SOURCE:\n");
    text.push_str(&named(source, lost));
    match save(source, lost) {
        Ok(path) => text.push_str(&format!(
            "  they are saved in {path:?}\n  see what SOURCE lacks (space, quota, permission), then put them back: \
             iolens restore {}\n",
            path.display()
        )),
        Err(why) => text.push_str(&format!(
            "  and are lost, because no place was found to save them in{why}\n"
        )),
    }
    text
}

/// The files whose bytes they are.
fn named(source: &Path, lost: &[Lost]) -> String {
    let mut files: Vec<(Named, u64, Option<crate::error::Errno>)> = Vec::new();
    for lost in lost {
        match files.last_mut() {
            Some((file, bytes, _)) if file.via == lost.via => *bytes += lost.range.len(),
            _ => files.push((Named::find(source, lost.via), lost.range.len(), lost.error)),
        }
    }
    let mut text = String::new();
    for (file, bytes, error) in files.iter().take(NAMED_MAX) {
        let path = file.path.path.as_deref().unwrap_or("?");
        let why = error.map_or("given up".to_owned(), |errno| errno.to_string());
        // A hostile name must not look like a message of ours.
        text.push_str(&format!("  {path:?}: {bytes} bytes: {why}\n"));
    }
    if files.len() > NAMED_MAX {
        text.push_str(&format!("  and {} more files\n", files.len() - NAMED_MAX));
    }
    text
}

/// Who a descriptor leads to.
struct Named {
    via: Option<OwnFd>,
    path: ByteText,
    dev: u64,
    ino: u64,
}

impl Named {
    fn find(source: &Path, via: Option<OwnFd>) -> Named {
        let mut named = Named {
            via,
            path: ByteText::default(),
            dev: 0,
            ino: 0,
        };
        let Some(fd) = via else { return named };
        if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{}", fd.0)) {
            let below = target.strip_prefix(source).unwrap_or(&target);
            named.path = ByteText::new(below.as_os_str());
        }
        if let Ok(Ok(stat)) = with_own_fd(fd, |fd| sys::stat(fd.as_fd())) {
            (named.dev, named.ino) = (stat.dev, stat.ino);
        }
        named
    }
}

/// Tries one place after the other: the disk with the traces may be the one that is full.
fn save(source: &Path, lost: &[Lost]) -> Result<PathBuf, String> {
    let state = Store::locate().ok().map(|store| store.dir().to_owned());
    let others = [std::env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()];
    let mut why = String::new();
    for dir in state.into_iter().chain(others) {
        match save_in(&dir, source, lost) {
            Ok(path) => return Ok(path),
            Err(error) => why.push_str(&format!("; {}: {error}", dir.display())),
        }
    }
    Err(why)
}

fn save_in(dir: &Path, source: &Path, lost: &[Lost]) -> io::Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    let path = dir.join(format!("rescue-{nanos}-{}.jsonl", std::process::id()));
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(&path)?;
    let written = write(&file, source, lost).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

fn write(file: &File, source: &Path, lost: &[Lost]) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let mut put = |line: &Line| -> io::Result<()> {
        serde_json::to_writer(&mut out, line)?;
        out.write_all(b"\n")
    };
    put(&Line::Rescue {
        format: FORMAT,
        source: ByteText::new(source.as_os_str()),
    })?;
    let (mut stretches, mut bytes) = (0, 0);
    let mut of: Option<Named> = None;
    for lost in lost {
        let named = match of.take().filter(|named| named.via == lost.via) {
            Some(named) => named,
            None => Named::find(source, lost.via),
        };
        let mut offset = lost.range.start;
        for piece in lost.data.chunks(PIECE) {
            put(&Line::Bytes(Stretch {
                path: named.path.clone(),
                dev: named.dev,
                ino: named.ino,
                offset,
                data: STANDARD.encode(piece),
                error: lost.error.map(|errno| errno.name().to_string()),
            }))?;
            offset += piece.len() as u64;
            stretches += 1;
            bytes += piece.len() as u64;
        }
        of = Some(named);
    }
    put(&Line::End { stretches, bytes })?;
    out.flush()
}

impl Stretch {
    /// The path's exact bytes; empty where it was not known.
    #[must_use]
    pub fn path_bytes(&self) -> Vec<u8> {
        self.path.bytes().unwrap_or_default()
    }

    /// Where the path leads.
    #[must_use]
    pub fn below(&self, source: &Path) -> PathBuf {
        source.join(OsStr::from_bytes(&self.path_bytes()))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data).ok()
    }
}
