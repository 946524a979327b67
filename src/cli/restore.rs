//! `iolens restore`: puts the bytes of a rescue file back into SOURCE.
//!
//! Layer: edge (`cli`). A file is found by its path below SOURCE without following symbolic links, and must be
//! the one that the bytes are of: the same filesystem and inode number. Nothing is written before the whole
//! rescue file was read once and found whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{EXIT_FAILED, usage};
use crate::error::Errno;
use crate::mount::Problem;
use crate::render::escape::{escape_bytes, printable};
use crate::server::rescue::{FORMAT, Line, Stretch};
use crate::server::{print, say};
use crate::sys::{self, Access, SyncKind, SysResult};

const EXAMPLES: &str = "\
Examples:
  iolens restore ~/.local/state/iolens/rescue-1764086400000000000-4711.jsonl
  iolens restore --dry-run FILE        say what would be written, and where

Bytes that could not be written back when a view ended are kept in such a file; iolens names it then. It stays
after they were put back. Files that were changed since are overwritten where the bytes belong.

Exit status: 0 when all bytes are in SOURCE; 1 when some are not (each is named); 2 for a wrong command line.";

/// Put the bytes of a rescue file back into SOURCE
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Write nothing, only say what would be written
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Put them into this directory, where SOURCE is elsewhere now; files are found by their path alone
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The rescue file
    file: PathBuf,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: &Args) -> u8 {
    if args.into.as_ref().is_some_and(|dir| !dir.is_dir()) {
        return usage("--into needs a directory (ENOTDIR)");
    }
    match restore(args) {
        Ok(0) => 0,
        Ok(failed) => {
            say(&format!(
                "{failed} of the files could not be restored: mend what is said above and run it again"
            ));
            EXIT_FAILED
        }
        Err(problem) => {
            say(&problem.to_string());
            EXIT_FAILED
        }
    }
}

/// A rescue file that was found whole.
struct Whole {
    source: PathBuf,
    stretches: u64,
    bytes: u64,
}

fn restore(args: &Args) -> Result<usize, Problem> {
    let whole = check(&args.file)?;
    let source = args.into.clone().unwrap_or(whole.source);
    let root = sys::open_path(source.as_os_str())
        .map_err(|errno| Problem::new(format!("cannot open {}: {errno}", source.display())))?;
    let mut files: BTreeMap<Vec<u8>, Result<Target, String>> = BTreeMap::new();
    let mut sums: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for line in lines(&args.file)? {
        let (_, Line::Bytes(stretch)) = line? else {
            continue;
        };
        let path = stretch.path_bytes();
        let file = files
            .entry(path.clone())
            .or_insert_with(|| Target::find(&root, &stretch, args));
        let put = match file {
            Ok(target) => target.put(&stretch, args.dry_run),
            Err(_) => continue,
        };
        match put {
            Ok(bytes) => *sums.entry(path).or_default() += bytes,
            Err(why) => *file = Err(why),
        }
    }
    let mut text = String::new();
    let mut failed = 0;
    for (path, file) in &mut files {
        let bytes = sums.get(path).copied().unwrap_or(0);
        let mut shown = String::new();
        escape_bytes(path, &mut shown);
        let done = match file {
            Ok(target) => target.sync(args.dry_run),
            Err(why) => Err(std::mem::take(why)),
        };
        match done {
            Ok(()) => text.push_str(&format!("{shown}: {bytes} bytes\n")),
            Err(why) => {
                failed += 1;
                text.push_str(&format!("{shown}: {why}\n"));
            }
        }
    }
    let verb = if args.dry_run { "would be" } else { "are" };
    let done: u64 = sums.values().sum();
    text.push_str(&format!(
        "{done} of {} bytes, in {} pieces, {verb} in {}\n",
        whole.bytes,
        whole.stretches,
        printable(&source.display().to_string())
    ));
    print(&text);
    Ok(failed)
}

type Numbered = (usize, Line);

/// The longest line that is read; iolens writes a quarter of that.
const LINE_BYTES: u64 = 4 << 20;

/// The lines of a rescue file, none of which takes more memory than one may.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<Numbered, Problem>>, Problem> {
    let file = File::open(path).map_err(|error| Problem::at("cannot read", path, error))?;
    let mut input = BufReader::new(file);
    let shown = path.display().to_string();
    let mut number = 0;
    let mut bytes = Vec::new();
    Ok(std::iter::from_fn(move || {
        bytes.clear();
        number += 1;
        let bad = |what: &dyn std::fmt::Display| {
            Problem::new(format!(
                "{shown} line {number}: this is no line of a rescue file ({what})"
            ))
        };
        match input
            .by_ref()
            .take(LINE_BYTES)
            .read_until(b'\n', &mut bytes)
        {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(Problem::at("cannot read", Path::new(&shown), error))),
        }
        if bytes.len() as u64 == LINE_BYTES {
            return Some(Err(bad(&format!("longer than {LINE_BYTES} bytes"))));
        }
        let parsed = serde_json::from_slice(&bytes).map_err(|error| bad(&error));
        Some(parsed.map(|line| (number, line)))
    }))
}

fn check(path: &Path) -> Result<Whole, Problem> {
    let bad = |what: &str| Problem::new(format!("{}: {what} (EINVAL)", path.display()));
    let mut lines = lines(path)?;
    let source = match lines.next().transpose()? {
        Some((_, Line::Rescue { format, source })) if format == FORMAT => source,
        Some((_, Line::Rescue { .. })) => return Err(bad("written by another version of iolens")),
        _ => return Err(bad("not a rescue file")),
    };
    let source = source.bytes().unwrap_or_default();
    let (mut stretches, mut bytes) = (0, 0);
    let mut end = None;
    for line in lines {
        match line? {
            (_, Line::Bytes(stretch)) => {
                stretches += 1;
                let data = stretch.bytes().ok_or_else(|| bad("bytes are not base64"))?;
                bytes += data.len() as u64;
            }
            (_, Line::End { stretches, bytes }) => end = Some((stretches, bytes)),
            (_, Line::Rescue { .. }) => return Err(bad("it begins twice")),
        }
    }
    if end != Some((stretches, bytes)) {
        return Err(bad(
            "it is cut, or was changed: its sums are not those of its last line",
        ));
    }
    Ok(Whole {
        source: PathBuf::from(std::ffi::OsStr::from_bytes(&source)),
        stretches,
        bytes,
    })
}

/// Opens a file below `root`, following no symbolic link.
fn open(root: &OwnedFd, path: &Path, flags: i32) -> SysResult<OwnedFd> {
    let mut fd = root.try_clone().map_err(Errno::from)?;
    let mut left = path.components().peekable();
    while let Some(component) = left.next() {
        let Component::Normal(name) = component else {
            return Err(Errno::EINVAL);
        };
        let flags = match left.peek() {
            Some(_) => libc::O_PATH | libc::O_DIRECTORY,
            // A FIFO would be waited for.
            None => flags | libc::O_NONBLOCK,
        };
        fd = sys::open_below(fd.as_fd(), name, flags, Access::Existing)?;
    }
    Ok(fd)
}

/// A file to write to.
struct Target(OwnedFd);

impl Target {
    fn find(root: &OwnedFd, stretch: &Stretch, args: &Args) -> Result<Target, String> {
        let path = stretch.path_bytes();
        let path = std::ffi::OsStr::from_bytes(&path);
        let failed = |errno: Errno| errno.to_string();
        if Path::new(path).is_absolute() || path.is_empty() {
            return Err("it was not below SOURCE any more (ENOENT)".to_owned());
        }
        let flags = if args.dry_run {
            libc::O_PATH
        } else {
            libc::O_WRONLY
        };
        let fd = open(root, Path::new(path), flags).map_err(failed)?;
        let stat = sys::stat(fd.as_fd()).map_err(failed)?;
        if stat.mode & libc::S_IFMT != libc::S_IFREG {
            return Err("it is not a regular file any more (EINVAL)".to_owned());
        }
        if args.into.is_none() && (stat.dev, stat.ino) != (stretch.dev, stretch.ino) {
            return Err(
                "another file has this name now (ESTALE); to write into it all the same: --into SOURCE"
                    .to_owned(),
            );
        }
        Ok(Target(fd))
    }

    /// Writes bytes where they belong; how many.
    fn put(&self, stretch: &Stretch, dry_run: bool) -> Result<u64, String> {
        let data = stretch.bytes().unwrap_or_default();
        if !dry_run {
            let slices = [io::IoSlice::new(&data)];
            let fd = self.0.as_fd();
            let wrote = sys::write_vectored_at(fd, &slices, stretch.offset, SyncKind::None);
            if let Some(errno) = wrote.error {
                return Err(errno.to_string());
            }
        }
        Ok(data.len() as u64)
    }

    fn sync(&self, dry_run: bool) -> Result<(), String> {
        if dry_run {
            return Ok(());
        }
        sys::fsync(self.0.as_fd(), SyncKind::All).map_err(|errno| errno.to_string())
    }
}
