//! Which process a thread belongs to, its name, and for whom it works.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{Pid, Tid};

/// What is known of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its process.
    pub pid: Pid,
    /// Its name.
    pub comm: Arc<str>,
    /// For whom it works, if it is a thread of the kernel's that is in no system call.
    pub works_for: Option<Ring>,
}

/// A ring of io_uring that threads of the kernel work for (include/linux/sched.h PF_IO_WORKER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Its process says io_uring_enter(2).
    Entered,
    /// A thread looks for requests without any call (IORING_SETUP_SQPOLL).
    Polled,
}

/// What `/proc` says of a thread; `None` where it is gone or hidden.
pub(super) fn read(tid: Tid) -> Option<Thread> {
    // The first lines of `status` hold both: no second file is needed.
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let pid = parse_tgid(&String::from_utf8_lossy(&status))?;
    let comm = parse_comm(&std::fs::read(format!("/proc/{tid}/comm")).ok()?);
    // Names that only such threads have, unless somebody pretends: then the flag decides.
    let works_for = match comm.starts_with("iou-") && is_io_worker(tid) {
        true => Some(ring_of(&comm)),
        false => None,
    };
    Some(Thread {
        pid,
        comm: comm.into(),
        works_for,
    })
}

/// Reads the name again from `/proc/TID/comm`, which has been open since the thread was read. Whether it still is that one:
/// not if it is gone (`ESRCH`), and not for sure if its name is one of the kernel's.
pub(super) fn read_name_again(thread: &mut Thread, comm: &File) -> bool {
    // TASK_COMM_LEN, and the newline; kernel threads may have longer ones.
    let mut bytes = [0; 80];
    let Ok(count) = comm.read_at(&mut bytes, 0) else {
        return false;
    };
    let name = parse_comm(&bytes[..count]);
    if name != *thread.comm {
        if name.starts_with("iou-") {
            return false;
        }
        thread.comm = name.into();
    }
    count > 0 && count < bytes.len()
}

/// How long a thread has been on a processor, where the kernel counts that (Documentation/scheduler/sched-stats.rst).
pub(super) fn time_on_processors(tid: Tid) -> Option<Duration> {
    let counts = std::fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
    let nanoseconds = counts.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// What the name of a worker says (io_uring/sqpoll.c, io_uring/io-wq.c): those of a polled ring have the number of
/// the thread that polls.
fn ring_of(comm: &str) -> Ring {
    let polls = |comm: &str| comm.starts_with("iou-sqp-");
    let owner = comm.strip_prefix("iou-wrk-");
    let of_poller = owner.is_some_and(|tid| {
        let name = std::fs::read(format!("/proc/{tid}/comm"));
        name.is_ok_and(|name| polls(&parse_comm(&name)))
    });
    match of_poller || polls(comm) {
        true => Ring::Polled,
        false => Ring::Entered,
    }
}

/// `Tgid:` of `/proc/TID/status` (man 5 proc_pid_status).
fn parse_tgid(status: &str) -> Option<Pid> {
    let value = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    value.trim().parse().ok().map(Pid)
}

/// `/proc/TID/comm` ends with a newline; the name itself may hold any other byte, newlines too.
fn parse_comm(comm: &[u8]) -> String {
    let name = comm.strip_suffix(b"\n").unwrap_or(comm);
    String::from_utf8_lossy(name).into_owned()
}

/// Whether `/proc/TID/statm` tells of code: its fourth number, pages (man 5 proc_pid_statm).
pub(super) fn has_text(statm: &[u8]) -> bool {
    let mut numbers = statm.split(u8::is_ascii_whitespace);
    numbers
        .nth(3)
        .is_some_and(|text| !text.is_empty() && text != b"0")
}

fn is_io_worker(tid: Tid) -> bool {
    let stat = std::fs::read(format!("/proc/{tid}/stat"));
    stat.is_ok_and(|stat| parse_flags(&String::from_utf8_lossy(&stat)) & PF_IO_WORKER != 0)
}

/// include/linux/sched.h
const PF_IO_WORKER: u64 = 0x10;

/// The ninth field of `/proc/TID/stat`; the second is the name in parentheses, which may hold anything.
fn parse_flags(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let flags = rest.split_ascii_whitespace().nth(6);
    flags.and_then(|flags| flags.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_from_the_tgid_line_only() {
        let status = "Name:\tTgid: 1\nUmask:\t0022\nTgid:\t4711\nNgid:\t0\n";
        assert_eq!(parse_tgid(status), Some(Pid(4711)));
    }

    #[test]
    fn a_thread_name_keeps_its_own_newlines() {
        assert_eq!(parse_comm(b"a\nb\n"), "a\nb");
    }

    #[test]
    fn a_thread_that_is_renamed_is_known_again_and_one_that_is_gone_is_not() {
        let (told, heard) = std::sync::mpsc::channel();
        let (next, go_on) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            told.send(nix::unistd::gettid()).unwrap();
            go_on.recv().unwrap();
            nix::sys::prctl::set_name(c"another name").unwrap();
            told.send(nix::unistd::gettid()).unwrap();
            let _ = go_on.recv();
        });
        let tid = Tid(heard.recv().unwrap().as_raw().unsigned_abs());
        let mut thread = read(tid).unwrap();
        let comm = File::open(format!("/proc/{tid}/comm")).unwrap();
        assert!(read_name_again(&mut thread, &comm));
        next.send(()).unwrap();
        heard.recv().unwrap();
        assert!(read_name_again(&mut thread, &comm));
        assert_eq!(&*thread.comm, "another name");
        drop(next);
        other.join().unwrap();
        // The kernel lets go of it a moment after it was joined.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while read_name_again(&mut thread, &comm) {
            assert!(std::time::Instant::now() < deadline);
        }
    }

    #[test]
    fn who_runs_has_code_and_who_has_no_memory_has_not() {
        let own = std::fs::read("/proc/self/statm").unwrap();
        assert!(has_text(&own), "{own:?}");
        assert!(has_text(b"2134 512 400 10 0 300 0\n"));
        assert!(!has_text(b"33 1 0 0 0 33 0\n"));
        assert!(!has_text(b"0 0 0 0 0 0 0\n"));
        assert!(!has_text(b"") && !has_text(b"1 2 3"));
    }

    #[test]
    fn flags_are_found_behind_any_name() {
        let stat = "7 (a) b ) R) S 1 7 7 0 -1 4194368 1 0";
        assert_eq!(parse_flags(stat), 4_194_368);
        assert_eq!(parse_flags(""), 0);
    }
}
