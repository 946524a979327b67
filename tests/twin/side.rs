//! One of the twins, as a step sees it: system calls that write down what they answered.
//!
//! A step runs in a process of its own whose working directory is the step's own directory, so it may
//! change its user, umask and working directory, and hang: an alarm ends it. Nothing here knows which of
//! the twins it works on.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::FromRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;

/// Longest life of a step, seconds; the slowest takes a tenth of it.
const STEP_SECONDS: u32 = 60;

pub(crate) const CWD: i32 = libc::AT_FDCWD;

/// A user and group that own nothing.
pub(crate) const STRANGER: u32 = 54_321;

/// An argument of a system call.
pub(crate) enum Arg {
    Word(i64),
    Text(CString),
}

macro_rules! words {
    ($($t:ty)*) => { $(impl From<$t> for Arg {
        fn from(v: $t) -> Arg {
            #[allow(clippy::cast_possible_wrap, clippy::cast_lossless, reason = "a register is a register")]
            Arg::Word(v as i64)
        }
    })* };
}
words!(i32 u32 i64 u64 usize);

impl From<&str> for Arg {
    fn from(v: &str) -> Arg {
        Arg::Text(CString::new(v).unwrap())
    }
}

/// Memory that the call reads.
pub(crate) fn at<T: ?Sized>(v: &T) -> Arg {
    Arg::from(std::ptr::from_ref(v).cast::<u8>() as usize)
}

/// Memory that the call writes.
pub(crate) fn at_mut<T: ?Sized>(v: &mut T) -> Arg {
    Arg::from(std::ptr::from_mut(v).cast::<u8>() as usize)
}

/// Makes a system call and writes down its value or errno.
macro_rules! sys {
    ($side:expr, $name:ident $(, $arg:expr)* $(,)?) => {
        $side.call(concat!(stringify!($name) $(, " ", stringify!($arg))*), libc::$name,
            &[$($crate::side::Arg::from($arg)),*])
    };
}
pub(crate) use sys;

/// Only makes the call.
pub(crate) fn raw(number: libc::c_long, args: &[Arg]) -> Result<i64, Errno> {
    let mut words = [0_i64; 6];
    for (word, arg) in words.iter_mut().zip(args) {
        *word = match arg {
            Arg::Word(v) => *v,
            Arg::Text(text) => text.as_ptr() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: pointers come from `at`, `at_mut` and live CStrings; the steps pass true lengths.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// What a step did and saw, in lines.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) log: Vec<String>,
}

impl Side {
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }

    /// A call whose value is the same on both sides.
    pub(crate) fn call(&mut self, what: &str, number: libc::c_long, args: &[Arg]) -> i64 {
        let result = raw(number, args);
        self.note(match result {
            Ok(value) => format!("{what} = {value}"),
            Err(errno) => format!("{what} = {errno:?}"),
        });
        result.unwrap_or(-1)
    }

    /// A call that gives a descriptor, whose number does not matter.
    pub(crate) fn descriptor(&mut self, what: &str, number: libc::c_long, args: &[Arg]) -> i32 {
        let result = raw(number, args);
        self.note(match result {
            Ok(_) => format!("{what} = a descriptor"),
            Err(errno) => format!("{what} = {errno:?}"),
        });
        i32::try_from(result.unwrap_or(-1)).unwrap()
    }

    pub(crate) fn open(&mut self, name: &str, flags: i32, mode: u32) -> i32 {
        let what = format!("open {} {flags:#o} {mode:#o}", short(name.as_bytes()));
        self.descriptor(
            &what,
            libc::SYS_openat,
            &[CWD.into(), name.into(), flags.into(), mode.into()],
        )
    }

    pub(crate) fn close(&mut self, fd: i32) {
        self.call("close", libc::SYS_close, &[fd.into()]);
    }

    pub(crate) fn write(&mut self, fd: i32, data: &[u8]) -> i64 {
        let what = format!("write {} bytes", data.len());
        self.call(
            &what,
            libc::SYS_write,
            &[fd.into(), at(data), data.len().into()],
        )
    }

    pub(crate) fn pwrite(&mut self, fd: i32, data: &[u8], offset: i64) -> i64 {
        let what = format!("pwrite {} bytes at {offset}", data.len());
        let args = [fd.into(), at(data), data.len().into(), offset.into()];
        self.call(&what, libc::SYS_pwrite64, &args)
    }

    pub(crate) fn read(&mut self, fd: i32, size: usize) -> Vec<u8> {
        let mut buffer = vec![0; size];
        let args = [fd.into(), at_mut(&mut *buffer), size.into()];
        self.got("read", libc::SYS_read, &args);
        self.keep(buffer)
    }

    pub(crate) fn pread(&mut self, fd: i32, size: usize, offset: i64) -> Vec<u8> {
        let mut buffer = vec![0; size];
        let args = [fd.into(), at_mut(&mut *buffer), size.into(), offset.into()];
        self.got(&format!("pread at {offset}"), libc::SYS_pread64, &args);
        self.keep(buffer)
    }

    fn got(&mut self, what: &str, number: libc::c_long, args: &[Arg]) {
        self.call(what, number, args);
    }

    fn keep(&mut self, buffer: Vec<u8>) -> Vec<u8> {
        self.note(format!("  buffer: {}", short(&buffer)));
        buffer
    }

    /// Makes a file of 0644 with these bytes.
    pub(crate) fn file(&mut self, name: &str, data: &[u8]) {
        let fd = self.open(name, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, 0o644);
        self.write(fd, data);
        self.close(fd);
    }

    /// Reads a whole file through a fresh description.
    pub(crate) fn cat(&mut self, name: &str) {
        let text = match std::fs::read(name) {
            Ok(data) => format!("cat {name} = {}", short(&data)),
            Err(e) => format!("cat {name} = {:?}", e.raw_os_error().map(Errno::from_raw)),
        };
        self.note(text);
    }

    /// Type, mode, links, owner and size of a name, not followed.
    pub(crate) fn stat(&mut self, name: &str) {
        self.stat_at(CWD, name, libc::AT_SYMLINK_NOFOLLOW);
    }

    pub(crate) fn fstat(&mut self, fd: i32) {
        self.stat_at(fd, "", libc::AT_EMPTY_PATH);
    }

    fn stat_at(&mut self, fd: i32, name: &str, flags: i32) {
        let line = match status(fd, name, flags) {
            Ok(st) => format!(
                "mode {:o} links {} owner {}:{} size {}",
                st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size
            ),
            Err(errno) => format!("{errno:?}"),
        };
        self.note(format!("stat {} = {line}", short(name.as_bytes())));
    }

    /// Access and modification time of a name, not followed.
    pub(crate) fn times(&mut self, name: &str) {
        let line = match status(CWD, name, libc::AT_SYMLINK_NOFOLLOW) {
            Ok(st) => format!(
                "{}, {}",
                when(st.st_atime, st.st_atime_nsec),
                when(st.st_mtime, st.st_mtime_nsec)
            ),
            Err(errno) => format!("{errno:?}"),
        };
        self.note(format!("times of {name} = {line}"));
    }

    /// From here on somebody else, without capabilities.
    pub(crate) fn become_user(&mut self, uid: u32, gid: u32, groups: &[u32]) {
        sys!(self, SYS_setgroups, groups.len(), at(groups));
        sys!(self, SYS_setresgid, gid, gid, gid);
        sys!(self, SYS_setresuid, uid, uid, uid);
    }

    /// Runs `f` in a process of its own, with its own descriptors table, and takes over its lines.
    pub(crate) fn child(&mut self, f: impl FnOnce(&mut Side)) {
        let lines = in_process(f);
        self.log
            .extend(lines.into_iter().map(|line| format!("  child: {line}")));
    }

    pub(crate) fn stranger(&mut self, f: impl FnOnce(&mut Side)) {
        self.child(|s| {
            s.become_user(STRANGER, STRANGER, &[]);
            f(s);
        });
    }

    /// Runs a program; writes down its exit code or the errno of its start.
    pub(crate) fn program(&mut self, program: &str, args: &[&str]) {
        let end = match std::process::Command::new(program).args(args).output() {
            Ok(o) => format!("{} {}", o.status, short(&o.stdout)),
            Err(e) => format!("{:?}", e.raw_os_error().map(Errno::from_raw)),
        };
        self.note(format!("run {program} {args:?} = {end}"));
    }
}

pub(crate) fn status(fd: i32, name: &str, flags: i32) -> Result<libc::stat, Errno> {
    // SAFETY: all zeros is a valid stat.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    raw(
        libc::SYS_newfstatat,
        &[fd.into(), name.into(), at_mut(&mut st), flags.into()],
    )?;
    Ok(st)
}

/// A time: exact where a step has set it, `recent` where the clock has.
pub(crate) fn when(seconds: i64, nanos: i64) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    if seconds.abs_diff(i64::try_from(now).unwrap()) < 3600 {
        "recent".into()
    } else {
        format!("{seconds}.{nanos:09}")
    }
}

/// Bytes in one line: length, a checksum, and the beginning.
pub(crate) fn short(data: &[u8]) -> String {
    let sum = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut text = format!("{}", data[..data.len().min(40)].escape_ascii());
    if data.len() > 40 {
        write!(text, "... ({} bytes, {sum:016x})", data.len()).unwrap();
    }
    text
}

/// Bytes that are different everywhere.
pub(crate) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[5]
        })
        .collect()
}

/// Runs `f` in a forked process that an alarm ends; gives its lines, the last one being how it ended.
pub(crate) fn in_process(f: impl FnOnce(&mut Side)) -> Vec<String> {
    let mut ends = [0_i32; 2];
    raw(
        libc::SYS_pipe2,
        &[at_mut(&mut ends), libc::O_CLOEXEC.into()],
    )
    .unwrap();
    // SAFETY: the child only runs `f`, writes to the pipe and leaves; glibc keeps malloc usable in it.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Errno::last());
    // SAFETY: both are ours and owned by nobody else.
    let (mut from, mut to) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    if pid == 0 {
        // SAFETY: alarm takes a number.
        unsafe { libc::alarm(STEP_SECONDS) };
        let mut side = Side::default();
        let end = catch_unwind(AssertUnwindSafe(|| f(&mut side)));
        if end.is_err() {
            side.note("the step panicked");
        }
        let _ = to.write_all(side.log.join("\n").as_bytes());
        // SAFETY: leaves without running anything of the test process's.
        unsafe { libc::_exit(0) };
    }
    drop(to);
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    let mut end = 0_i32;
    raw(
        libc::SYS_wait4,
        &[pid.into(), at_mut(&mut end), 0.into(), 0.into()],
    )
    .unwrap();
    if libc::WIFSIGNALED(end) {
        lines.push(format!("ended by signal {}", libc::WTERMSIG(end)));
    }
    lines
}
