//! Where the lines go: a file, a pipe or terminal, memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A place for lines.
pub trait Sink: Send {
    /// Writes some of `bytes`, which are whole lines but for the first, and says how many; 0 when
    /// there was no room within `patience`.
    ///
    /// # Errors
    /// What write(2) says.
    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize>;

    /// Takes back the last `torn` bytes written, the beginning of a line; false where that is impossible.
    fn take_back(&mut self, torn: u64) -> bool;
}

/// A regular file. A write to it may block as long as its disk likes; the recorder bounds what others
/// suffer from that.
#[derive(Debug)]
pub struct FileSink {
    file: File,
}

impl FileSink {
    /// Writes where the file's offset stands.
    #[must_use]
    pub fn new(file: File) -> FileSink {
        FileSink { file }
    }
}

impl Sink for FileSink {
    fn write(&mut self, bytes: &[u8], _patience: Duration) -> io::Result<usize> {
        match self.file.write(bytes)? {
            // A regular file that takes nothing would be retried for ever.
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => Ok(n),
        }
    }

    fn take_back(&mut self, torn: u64) -> bool {
        let shorten = |file: &mut File| -> io::Result<bool> {
            let end = file.stream_position()?;
            // Somebody else appended to the same file (`iolens ... >>log`): the tail is not ours to cut.
            let Some(whole) = end
                .checked_sub(torn)
                .filter(|_| file.metadata().is_ok_and(|m| m.len() == end))
            else {
                return Ok(false);
            };
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok(true)
        };
        shorten(&mut self.file).unwrap_or(false)
    }
}

/// A pipe, terminal, socket or device. Not made non-blocking: that flag would belong to everybody who
/// shares the open file description, such as the shell. Instead each write waits for POLLOUT and
/// then writes at most [`StreamSink::CHUNK`], which a pipe takes without blocking (pipe(7)).
#[derive(Debug)]
pub struct StreamSink {
    file: File,
}

impl StreamSink {
    /// PIPE_BUF: what a writable pipe takes at once and in one piece.
    pub const CHUNK: usize = libc::PIPE_BUF;

    /// Writes to this open file.
    #[must_use]
    pub fn new(file: File) -> StreamSink {
        StreamSink { file }
    }

    /// How much to write at once: whole lines if one fits, so that a reader who stops reading has
    /// seen no half of a line.
    fn chunk(bytes: &[u8]) -> &[u8] {
        let most = &bytes[..bytes.len().min(Self::CHUNK)];
        match most.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => &most[..=last],
            None => most,
        }
    }
}

impl Sink for StreamSink {
    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, timeout)? == 0 {
            return Ok(0);
        }
        match self.file.write(Self::chunk(bytes)) {
            // Another writer of the same pipe was faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    fn take_back(&mut self, _torn: u64) -> bool {
        false
    }
}

/// Lines kept in memory, for tests and tools; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl MemorySink {
    /// All that was written so far.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Sink for MemorySink {
    fn write(&mut self, bytes: &[u8], _patience: Duration) -> io::Result<usize> {
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn take_back(&mut self, _torn: u64) -> bool {
        false
    }
}

/// The sink that fits what the file is.
#[must_use]
pub fn for_file(file: File) -> Box<dyn Sink> {
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        Box::new(FileSink::new(file))
    } else {
        Box::new(StreamSink::new(file))
    }
}

/// A sink on a descriptor that stays the caller's: stdout for `-t -`, stderr for `--live`.
///
/// # Errors
/// What dup(2) says.
pub fn for_fd(fd: &impl AsFd) -> io::Result<Box<dyn Sink>> {
    Ok(for_file(File::from(fd.as_fd().try_clone_to_owned()?)))
}

/// Opens FILE of `-t FILE` for writing: made with mode 0600, emptied, close-on-exec, and locked for
/// as long as it is open, so that two recorders never share one and none is tidied away half written.
/// Pipes and devices are opened as they are.
///
/// # Errors
/// What open(2) says; `ResourceBusy` when another iolens is writing it.
pub fn create_file(path: &Path) -> io::Result<File> {
    // Not truncated by open(2): until the lock is ours it may be somebody else's trace.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        if !lock(&file)? {
            let text = "another iolens is writing its trace there";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        file.set_len(0)?;
    } else if kind.is_fifo() {
        // Opening waited for a reader, as a shell's `>` would; from here on only poll(2) waits.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(file)
}

/// Locks a trace that is being written; false when somebody else has it. A file system without
/// locks leaves it unlocked. The lock is of the open file description: fork and a moved `File` keep it.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        _ => Ok(true),
    }
}

/// Whether somebody holds the lock of [`lock`] on the file.
pub(super) fn is_locked(file: &File) -> bool {
    let mut probe = whole_file(libc::F_WRLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe));
    asked.is_ok() && i32::from(probe.l_type) != libc::F_UNLCK
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_whole_lines_where_one_fits() {
        assert_eq!(StreamSink::chunk(b"one\ntwo\nthr"), b"one\ntwo\n");
        assert_eq!(StreamSink::chunk(b"tail"), b"tail");
        let long = vec![b'x'; 2 * StreamSink::CHUNK];
        assert_eq!(StreamSink::chunk(&long).len(), StreamSink::CHUNK);
    }

    #[test]
    fn the_beginning_of_a_line_is_taken_back_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let mut sink = FileSink::new(create_file(&path).unwrap());
        sink.write(b"whole\nhal", Duration::ZERO).unwrap();
        assert!(sink.take_back(3));
        sink.write(b"next\n", Duration::ZERO).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\nnext\n");
    }

    #[test]
    fn a_trace_that_is_being_written_is_not_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let first = create_file(&path).unwrap();
        (&first).write_all(b"kept\n").unwrap();
        let error = create_file(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(std::fs::read(&path).unwrap(), b"kept\n");
        drop(first);
        create_file(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_new_trace_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let file = create_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
