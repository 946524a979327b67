//! Who is behind a request: process and thread name, from `/proc`.
//!
//! Layer: effects. A request reads only `/proc/TID/status` and `/proc/TID/comm`, which never wait for
//! a process that is itself waiting for us; `cmdline`, `environ`, `syscall` and `maps` may. The
//! system call and its descriptor are not looked up yet.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;

use crate::types::{Nanos, Pid, Tid};

/// How long a process and thread name are believed. A thread id is not used again so soon, and
/// renamed threads show at the next open at the latest.
const FRESH_NS: u64 = 100_000_000;
/// Threads remembered; past it the stale ones are dropped.
const THREADS_MAX: usize = 4096;

/// What is known of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its process.
    pub pid: Pid,
    /// Its name.
    pub comm: Arc<str>,
}

/// How much a caller may have changed since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What was read at most 100 ms ago will do.
    Recent,
    /// Read again (at an open).
    Again,
}

#[derive(Debug)]
struct Known {
    thread: Thread,
    read_at: Nanos,
}

/// How long a request waits to learn whether it is a page fault.
const FAULT_WAIT: Duration = Duration::from_millis(2);

/// A question to the thread that reads `/proc/TID/syscall`, and where the answer goes.
type Question = (Tid, SyncSender<Option<bool>>);

/// A memory of threads seen.
#[derive(Debug, Default)]
pub struct Callers {
    known: DashMap<Tid, Known>,
    asker: OnceLock<SyncSender<Question>>,
}

impl Callers {
    /// The process and name of a thread; `None` for the kernel (tid 0) and for threads that are gone
    /// or hidden (hidepid, another pid namespace).
    #[must_use]
    pub fn look_up(&self, tid: Tid, now: Nanos, look: Look) -> Option<Thread> {
        if tid.0 == 0 {
            return None;
        }
        if look == Look::Recent
            && let Some(known) = self.known.get(&tid)
            && now.since(known.read_at).0 < FRESH_NS
        {
            return Some(known.thread.clone());
        }
        let thread = read_thread(tid)?;
        if self.known.len() >= THREADS_MAX {
            self.known
                .retain(|_, known| now.since(known.read_at).0 < FRESH_NS);
        }
        self.known.insert(
            tid,
            Known {
                thread: thread.clone(),
                read_at: now,
            },
        );
        Some(thread)
    }
}

impl Callers {
    /// Whether the thread is in a page fault rather than in a system call; `None` where that cannot
    /// be told in time. A thread of its own reads `/proc/TID/syscall`, because that may wait for a
    /// process in execve(2), which may itself wait for our answer.
    pub fn in_page_fault(&self, tid: Tid) -> Option<bool> {
        let asker = self.asker.get_or_init(start_asker);
        let (answer, answered) = sync_channel(1);
        // A full queue means that the reader is stuck: go on without.
        asker.try_send((tid, answer)).ok()?;
        answered.recv_timeout(FAULT_WAIT).ok().flatten()
    }
}

fn start_asker() -> SyncSender<Question> {
    let (ask, questions) = sync_channel::<Question>(16);
    let thread = std::thread::Builder::new().name("iolens-proc".to_owned());
    let started = thread.spawn(move || {
        for (tid, answer) in questions {
            let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).ok();
            // Nobody listens any more where the wait was over.
            let _ = answer.try_send(text.map(|text| is_page_fault(&text)));
        }
    });
    if let Err(error) = started {
        log::warn!("page faults cannot be told from other page cache reads: {error}");
    }
    ask
}

/// `/proc/TID/syscall` starts with -1 for a thread that is blocked outside of a system call
/// (man 5 proc_pid_syscall).
fn is_page_fault(syscall: &str) -> bool {
    syscall.starts_with("-1 ")
}

fn read_thread(tid: Tid) -> Option<Thread> {
    // The first lines of `status` hold both: no second file is needed.
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let pid = parse_tgid(&String::from_utf8_lossy(&status))?;
    let comm = std::fs::read(format!("/proc/{tid}/comm")).ok()?;
    Some(Thread {
        pid,
        comm: parse_comm(&comm).into(),
    })
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
    fn this_thread_is_found_under_its_process() {
        let tid = Tid(nix::unistd::gettid().as_raw().unsigned_abs());
        let found = Callers::default()
            .look_up(tid, Nanos(1), Look::Again)
            .unwrap();
        assert_eq!(found.pid, Pid(std::process::id()));
    }
}
