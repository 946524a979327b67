//! Who is behind a request: process and thread name, and the system call that the thread is blocked in,
//! from `/proc`.
//!
//! Layer: effects; imports the vocabulary alone.
//!
//! Where the kernel itself tells what a thread is doing as it sends a request ([`Told`]), nothing below is needed but
//! `status`, `comm` and the vectors.
//!
//! # What may be read when
//!
//! `status` and `comm` never wait for a process that may itself be waiting for us. `syscall` does: it takes
//! `exec_update_lock` (fs/proc/base.c lock_trace()), which execve(2) holds from exec_mmap() on while it closes the
//! descriptors marked close-on-exec, and waits for the answer to each FLUSH. It also waits with the lock held for
//! asynchronous reads and writes that the process has under way (exit_aio() in mmput()). So:
//!
//! - Of a request whose caller is blocked in a system call of its own until the answer comes, `syscall` is read
//!   right here ([`Caller::look`]): execve(2) begins only when all other threads of its process are gone.
//! - Of a FLUSH it is read right here if the caller is not in execve(2), as `statm` tells, which never waits
//!   ([`Caller::may_be_in_exec`]).
//! - Of any other FLUSH, of one that may be asynchronous (with O_DIRECT, or of a process that was seen to have others), and
//!   of a caller that has no processor yet to get as far as waiting, another thread reads it ([`Caller::ask`]), and the
//!   request goes on without if that takes too long.
//! - Of a request for the page cache, too, but only if the caller waits already ([`Caller::glance`]).
//! - The memory of a process (the vectors of readv(2) and writev(2)) is read only there, too: that takes the lock of
//!   its mappings, which mmap(2) of the same file by another thread holds while it waits for requests under way
//!   (fs/fuse/iomode.c fuse_file_cached_io_open()).
//!
//! What remains: a process that calls execve(2) without waiting for its very first asynchronous request, which is
//! not O_DIRECT and which is looked at only when execve(2) has got as far as that lock, some 100 us later.
//!
//! Nothing here opens a path that a process says: `exe`, `cwd` and `fd` may lead back to the view.

mod aside;
mod judge;
mod looks;
mod syscall;
mod thread;
mod told;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use aside::{Answer, Patience, What};
pub use judge::{Asked, Found, From, Moves, Open};
pub use looks::Unseen;
use syscall::Amount;
pub use syscall::{Doing, SystemCall};
pub use thread::{Ring, Thread};
pub use told::Told;

use crate::types::{ByNumber, Fh, Nanos, Pid, Seq, Tid};
use aside::{Aside, Until};

/// How long a process and thread name are believed. A thread id is not used again so soon, and
/// renamed threads show at the next open at the latest.
const FRESH_NS: u64 = 100_000_000;
/// Threads remembered; past it the stale ones are dropped.
const THREADS_MAX: usize = 4096;
/// Files of `/proc` that are kept open at most, however many descriptors there are: up to three of each thread.
const KEPT_MAX: usize = 512;

/// What was seen of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it was doing.
    pub doing: Doing,
    /// If that transfers data: how much the application asked for, where that could be read.
    pub amount: Option<u64>,
}

impl Seen {
    /// A thread that does this, whose memory was not read.
    fn of(doing: Doing) -> Seen {
        let amount = match doing.amount() {
            Some(Amount::Bytes(bytes)) => Some(bytes),
            Some(Amount::Vector(..)) | None => None,
        };
        Seen { doing, amount }
    }

    /// Whether how much the application asked for stands in its memory, and was not read.
    #[must_use]
    pub fn lacks_vector(&self) -> bool {
        self.amount.is_none() && matches!(self.doing.amount(), Some(Amount::Vector(..)))
    }
}

/// How much a caller may have changed since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What was read at most 100 ms ago will do.
    Recent,
    /// Read again (at an open).
    Again,
}

/// A thread that asks, and what is remembered of it.
#[derive(Debug)]
pub struct Caller {
    tid: Tid,
    /// Never held while `/proc` is read.
    state: Mutex<State>,
    shared: Arc<Shared>,
}

/// What all callers share.
#[derive(Debug)]
struct Shared {
    /// How many files of `/proc` are kept open.
    kept: AtomicUsize,
    kept_max: usize,
    /// Processes that ask for things that they do not wait for.
    asynchronous: ByNumber<Pid, ()>,
    /// There are some. To ask the map is a lock for each of its parts.
    some_asynchronous: AtomicBool,
    aside: Aside,
}

impl Shared {
    fn keeps_enough(&self) -> bool {
        self.kept.load(Ordering::Relaxed) >= self.kept_max
    }

    /// Keeps a file open, if that is not too many.
    fn keep(self: &Arc<Self>, file: File) -> Option<Kept> {
        if self.keeps_enough() {
            return None;
        }
        self.kept.fetch_add(1, Ordering::Relaxed);
        Some(Kept {
            file,
            shared: Arc::clone(self),
        })
    }

    fn note_asynchronous(&self, pid: Pid) {
        if self.asynchronous.len() >= THREADS_MAX {
            self.asynchronous.clear();
        }
        self.asynchronous.insert(pid, ());
        self.some_asynchronous.store(true, Ordering::Relaxed);
    }
}

/// A file of `/proc` that is kept open, which counts.
#[derive(Debug)]
struct Kept {
    file: File,
    shared: Arc<Shared>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    thread: Option<Thread>,
    read_at: Nanos,
    /// `/proc/TID/comm`, open: the name now, or that this thread is gone.
    name: Option<Kept>,
    /// `/proc/TID/syscall`, open.
    syscall: Option<Arc<Kept>>,
    /// `/proc/TID/statm`, open.
    statm: Option<Arc<Kept>>,
    /// The system call that the last transfer was part of.
    last: Option<Part>,
    /// It did not answer that question in the time of that patience: not to be asked again with no more of it before,
    /// unless it answers after all.
    silent: [Option<(Patience, Nanos)>; 2],
}

impl State {
    /// Whether the thread is still the one that was read, under its name now.
    fn is_renamed_at_most(&mut self) -> bool {
        let (Some(thread), Some(kept)) = (&mut self.thread, &self.name) else {
            return false;
        };
        thread::read_name_again(thread, &kept.file)
    }
}

/// The last request of a system call that may have been split into several.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The first request of the call.
    call: Seq,
    doing: SystemCall,
    fh: Fh,
    /// Where the next part would begin.
    next: u64,
    /// What is left of what the application asked for.
    left: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A memory of threads seen.
#[derive(Debug)]
pub struct Callers {
    known: ByNumber<Tid, Arc<Caller>>,
    shared: Arc<Shared>,
}

impl Callers {
    /// A memory that keeps about so many descriptors at most.
    #[must_use]
    pub fn new(descriptors: usize) -> Callers {
        let shared = Shared {
            kept: AtomicUsize::new(0),
            kept_max: descriptors.min(KEPT_MAX),
            asynchronous: ByNumber::default(),
            some_asynchronous: AtomicBool::new(false),
            aside: Aside::default(),
        };
        Callers {
            known: ByNumber::default(),
            shared: Arc::new(shared),
        }
    }

    /// The thread of a request; `None` for the kernel (tid 0).
    #[must_use]
    pub fn caller(&self, tid: Tid, now: Nanos) -> Option<Arc<Caller>> {
        if tid.0 == 0 {
            return None;
        }
        if let Some(known) = self.known.get(&tid) {
            return Some(Arc::clone(&known));
        }
        if self.known.len() >= THREADS_MAX || self.shared.keeps_enough() {
            let fresh = |caller: &Arc<Caller>| now.since(lock(&caller.state).read_at).0 < FRESH_NS;
            self.known.retain(|_, caller| fresh(caller));
        }
        let caller = Arc::new(Caller {
            tid,
            state: Mutex::default(),
            shared: Arc::clone(&self.shared),
        });
        self.known.insert(tid, Arc::clone(&caller));
        Some(caller)
    }
}

impl Caller {
    /// The process and name; `None` for a thread that is gone or hidden (hidepid, another pid namespace).
    #[must_use]
    pub fn thread(&self, now: Nanos, look: Look) -> Option<Thread> {
        let mut state = lock(&self.state);
        let fresh = now.since(state.read_at).0 < FRESH_NS && look == Look::Recent;
        if !fresh || state.thread.is_none() {
            if !state.is_renamed_at_most() {
                // First: if this thread ends meanwhile, the file is not that of one which has its number then.
                let name = File::open(format!("/proc/{}/comm", self.tid)).ok();
                state.thread = thread::read(self.tid);
                state.name = name.and_then(|name| self.shared.keep(name));
            }
            state.read_at = now;
        }
        state.thread.clone()
    }

    /// Whether its process was seen to ask for things that it does not wait for.
    #[must_use]
    pub fn is_asynchronous(&self, thread: &Thread) -> bool {
        let some = self.shared.some_asynchronous.load(Ordering::Relaxed);
        some && self.shared.asynchronous.contains_key(&thread.pid)
    }

    /// Has another thread look what this one is doing, once it waits.
    pub fn ask(self: &Arc<Self>, now: Nanos, what: What, patience: Patience) -> Option<Answer> {
        self.ask_aside(now, (what, Until::ItWaits), patience)
    }

    /// Has another thread look what this one is doing, if it waits.
    pub fn glance(self: &Arc<Self>, now: Nanos, patience: Patience) -> Option<Answer> {
        self.ask_aside(now, (What::Call, Until::Now), patience)
    }

    fn ask_aside(
        self: &Arc<Self>,
        now: Nanos,
        (what, until): (What, Until),
        patience: Patience,
    ) -> Option<Answer> {
        let silent = lock(&self.state).silent[what as usize];
        if silent.is_some_and(|(with, until)| with >= patience && until > now) {
            return None;
        }
        self.shared.aside.ask(self, now, (what, until), patience)
    }

    /// It does not wait for what it asks for.
    fn goes_on(&self) {
        let pid = lock(&self.state).thread.as_ref().map(|thread| thread.pid);
        if let Some(pid) = pid {
            self.shared.note_asynchronous(pid);
        }
    }

    /// It was asked aside and did not answer in time: it may be in execve(2), and is not to be asked for each
    /// descriptor that this closes.
    fn was_silent(&self, now: Nanos, what: What, patience: Patience) {
        lock(&self.state).silent[what as usize] = Some((patience, Nanos(now.0 + FRESH_NS)));
    }

    /// It was asked aside and has answered, be it too late.
    fn was_heard(&self, what: What) {
        lock(&self.state).silent[what as usize] = None;
    }
}

/// Why threads cannot be told from each other here, if they cannot: with the `/proc` of another pid namespace,
/// a thread's number is that of some other one.
#[must_use]
pub fn obstacle_to_threads() -> Option<String> {
    let own = std::fs::read_link("/proc/self").ok();
    let mine = std::process::id().to_string();
    (own.as_deref() != Some(Path::new(&mine)))
        .then(|| "/proc is not mounted, or is that of another pid namespace".to_owned())
}

/// Why system calls and descriptors cannot be told here, if they cannot.
#[must_use]
pub fn obstacle_to_system_calls() -> Option<String> {
    if let Err(error) = std::fs::read("/proc/self/syscall") {
        return Some(format!("/proc/TID/syscall cannot be read: {error}"));
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let scope = scope.map_or(0, |text| text.trim().parse().unwrap_or(0));
    // Documentation/admin-guide/LSM/Yama.rst: 1 and 2 ask for CAP_SYS_PTRACE, 3 refuses everybody.
    let allowed = scope == 0 || (scope < 3 && nix::unistd::geteuid().is_root());
    (!allowed).then(|| {
        format!("the system calls of others are hidden by kernel.yama.ptrace_scope {scope}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_thread() -> (Callers, Arc<Caller>) {
        let tid = Tid(nix::unistd::gettid().as_raw().unsigned_abs());
        let callers = Callers::new(8);
        let caller = callers.caller(tid, Nanos(1)).unwrap();
        (callers, caller)
    }

    #[test]
    fn this_thread_is_found_under_its_process() {
        let (_, caller) = this_thread();
        let found = caller.thread(Nanos(1), Look::Again).unwrap();
        assert_eq!(found.pid, Pid(std::process::id()));
        assert_eq!(found.works_for, None);
    }

    #[test]
    fn a_thread_that_looks_at_itself_is_reading() {
        let (_, caller) = this_thread();
        let Ok(Doing::Call(call)) = caller.doing() else {
            panic!("{caller:?}")
        };
        assert_eq!(call.name(), "pread64");
    }

    #[test]
    fn what_a_blocked_thread_is_doing_is_told_here_and_aside() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let fd = reader.as_raw_fd();
        let (told, heard) = std::sync::mpsc::channel();
        let blocked = std::thread::spawn(move || {
            told.send(nix::unistd::gettid()).unwrap();
            nix::unistd::read(&reader, &mut [0; 77]).unwrap()
        });
        let tid = Tid(heard.recv().unwrap().as_raw().unsigned_abs());
        let callers = Callers::new(8);
        let caller = callers.caller(tid, Nanos(1)).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let call = loop {
            if let Ok(Doing::Call(call)) = caller.doing()
                && let Some(read) = call.reads()
            {
                break (call, read);
            }
            assert!(std::time::Instant::now() < deadline);
        };
        assert_eq!((call.0.name(), call.1.fd), ("read", fd));
        let seen = Seen {
            doing: Doing::Call(call.0),
            amount: Some(77),
        };
        // A machine under load may be too slow for once.
        for what in [What::Call, What::Memory] {
            let aside = |now: u64| {
                let asked = caller.ask(Nanos(now), what, Patience::Short);
                asked?.wait(Nanos(now))
            };
            let found = (1..100).find_map(|second| aside(second * 1_000_000_000));
            assert_eq!(found, Some(seen));
        }
        nix::unistd::write(&writer, b"x").unwrap();
        assert_eq!(blocked.join().unwrap(), 1);
        // It is gone, and so is what was known of it.
        while caller.doing().is_ok() {
            assert!(std::time::Instant::now() < deadline);
        }
    }

    #[test]
    fn a_silent_thread_is_asked_again_with_more_patience_and_once_it_was_heard() {
        let (_, caller) = this_thread();
        let asks = |patience| caller.ask(Nanos(2), What::Call, patience).is_some();
        let silent = |patience| caller.was_silent(Nanos(9), What::Call, patience);
        silent(Patience::Short);
        assert!(!asks(Patience::Short));
        silent(Patience::Long);
        assert!(!asks(Patience::Short) && !asks(Patience::Long));
        assert!(
            caller
                .ask(Nanos(2), What::Memory, Patience::Short)
                .is_some()
        );
        silent(Patience::Short);
        assert!(asks(Patience::Long));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !asks(Patience::Short) {
            assert!(std::time::Instant::now() < deadline);
        }
    }

    #[test]
    fn a_vector_in_memory_is_added_up() {
        let (_, caller) = this_thread();
        let vector: [[u64; 2]; 3] = [[1, 100], [2, 0], [3, 5]];
        let address = std::ptr::from_ref(&vector).addr() as u64;
        assert_eq!(caller.vector_bytes(address, 3), Some(105));
        assert_eq!(caller.vector_bytes(8, 3), None);
    }

    #[test]
    fn the_file_behind_a_descriptor_is_known_by_its_number() {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        let (_, caller) = this_thread();
        let file = tempfile::tempfile().unwrap();
        let ino = file.metadata().unwrap().ino();
        assert_eq!(caller.inode_of(file.as_raw_fd()), Some(ino));
        assert_eq!(caller.inode_of(1_000_000), None);
    }
}
