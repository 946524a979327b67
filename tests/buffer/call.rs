//! System calls that std does not have, and other processes.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;

/// Longest life of another process, seconds.
const OTHER_SECONDS: u32 = 60;

pub(crate) fn fd(file: &File) -> i32 {
    file.as_raw_fd()
}

pub(crate) fn fallocate(file: &File, mode: i32, offset: i64, size: i64) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    Errno::result(unsafe { libc::fallocate(fd(file), mode, offset, size) }).map(drop)
}

pub(crate) fn lseek(file: &File, offset: i64, whence: i32) -> Result<i64, Errno> {
    // SAFETY: takes numbers.
    Errno::result(unsafe { libc::lseek(fd(file), offset, whence) })
}

/// Where data and holes begin, from the start of the file to its end.
pub(crate) fn segments(file: &File) -> Vec<(i64, &'static str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(data) = lseek(file, at, libc::SEEK_DATA) {
        let hole = lseek(file, data, libc::SEEK_HOLE).unwrap();
        found.extend([(data, "data"), (hole, "hole")]);
        at = hole;
    }
    found
}

/// One call: bytes copied.
pub(crate) fn copy_range(from: &File, at: i64, to: &File, to_at: i64, size: usize) -> usize {
    let (mut at, mut to_at) = (at, to_at);
    // SAFETY: both offsets live.
    let copied = unsafe { libc::copy_file_range(fd(from), &mut at, fd(to), &mut to_at, size, 0) };
    usize::try_from(Errno::result(copied).unwrap()).unwrap()
}

/// One call of pwritev2(2) with `RWF_*` flags.
pub(crate) fn pwrite_flags(file: &File, data: &[u8], offset: i64, flags: i32) {
    let iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    // SAFETY: one iovec over `data`, which is only read.
    let written = unsafe { libc::pwritev2(fd(file), &iov, 1, offset, flags) };
    assert_eq!(Errno::result(written), Ok(data.len().cast_signed()));
}

/// Modification and change time, nanoseconds.
pub(crate) fn times(st: &Metadata) -> (i64, i64) {
    (
        st.mtime() * 1_000_000_000 + st.mtime_nsec(),
        st.ctime() * 1_000_000_000 + st.ctime_nsec(),
    )
}

/// A forked process.
pub(crate) struct Forked(i32);

/// Runs `f` in a forked process, which has a copy of all descriptors and closes them when it exits. `f`
/// says whether all was as expected, and must not panic.
pub(crate) fn fork(f: impl FnOnce() -> bool) -> Forked {
    // SAFETY: the child runs `f` and leaves; glibc keeps malloc usable in it.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Errno::last());
    if pid == 0 {
        let nothing = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the limit lives. A signal that is expected leaves no core behind.
        unsafe {
            libc::alarm(OTHER_SECONDS);
            libc::setrlimit(libc::RLIMIT_CORE, &nothing);
        }
        let code = i32::from(!f());
        // SAFETY: leaves without running anything of the test process's.
        unsafe { libc::_exit(code) };
    }
    Forked(pid)
}

impl Forked {
    /// Its exit code; 128+N for signal N.
    pub(crate) fn wait(self) -> i32 {
        let mut end = 0;
        // SAFETY: `end` lives; the pid is of our child.
        let waited = unsafe { libc::waitpid(self.0, &mut end, 0) };
        assert_eq!(waited, self.0, "waitpid: {}", Errno::last());
        if libc::WIFSIGNALED(end) {
            128 + libc::WTERMSIG(end)
        } else {
            libc::WEXITSTATUS(end)
        }
    }
}

/// A shell that was started before the files it looks at were opened: starting a program while a file is
/// open closes a copy of its descriptor, which is a flush.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// Will run `script` in `dir`.
    pub(crate) fn start(dir: &Path, script: &str) -> Waiting {
        let child = Command::new("timeout")
            .args([&OTHER_SECONDS.to_string(), "sh", "-c"])
            .arg(format!("read go\n{script}"))
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Waiting(child.unwrap())
    }

    /// Lets it run; what it printed.
    pub(crate) fn go(mut self) -> Vec<u8> {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut printed = Vec::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut printed)
            .unwrap();
        assert!(self.0.wait().unwrap().success());
        printed
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a shell script in `dir` to its end; what it printed.
pub(crate) fn shell(dir: &Path, script: &str) -> String {
    String::from_utf8(Waiting::start(dir, script).go()).unwrap()
}
