//! What is read of a thread in `/proc` and in its memory.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::syscall::{Amount, Doing};
use super::{Caller, Kept, Seen, State, lock, thread};

/// Why what a thread does cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It runs, or would if it had a processor.
    Runs,
    /// It is gone, or may not be looked at, or makes calls of another kind of machine.
    Hidden,
}

/// What comes of looking until a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It waits.
    Waits(Seen),
    /// It is hidden, or does not wait for its requests.
    None,
    /// It had no processor to get that far in [`STARVED`].
    Starved,
}

/// Looks in a row at a thread that runs: it only has to get as far as waiting for us.
const LOOKS: usize = 3;

/// The time between two looks after that.
const PAUSE: Duration = Duration::from_micros(100);

/// So long a thread is waited for that has no processor: others are kept waiting meanwhile.
const STARVED: Duration = Duration::from_millis(20);

/// A thread that has been on a processor for longer since it asked does not wait for the answer. The kernel may have
/// up to a tick of that still to count.
const GONE_ON: Duration = Duration::from_millis(10);

impl Caller {
    /// What the thread is doing, read right here: for a thread that is blocked until we answer, and not in
    /// execve(2).
    ///
    /// # Errors
    /// Why that cannot be read.
    pub fn look(&self) -> Result<Seen, Unseen> {
        for _ in 1..LOOKS {
            match self.doing() {
                Err(Unseen::Runs) => std::thread::yield_now(),
                doing => return doing.map(Seen::of),
            }
        }
        self.doing().map(Seen::of)
    }

    /// What the thread is doing, once it waits; `pause` takes the time between two looks. A thread that runs all the
    /// while is taken for one that does not wait for its requests.
    pub(super) fn look_until_it_waits(&self, pause: impl Fn(Duration)) -> Sight {
        let begun = Instant::now();
        let mut ran_before = None;
        loop {
            match self.look() {
                Ok(seen) => return Sight::Waits(seen),
                Err(Unseen::Hidden) => return Sight::None,
                Err(Unseen::Runs) => {}
            }
            let thread = lock(&self.state).thread.clone();
            if thread.is_some_and(|thread| self.is_asynchronous(&thread)) {
                return Sight::None;
            }
            let Some(ran) = thread::time_on_processors(self.tid) else {
                return Sight::None;
            };
            if ran.saturating_sub(*ran_before.get_or_insert(ran)) > GONE_ON {
                self.goes_on();
                return Sight::None;
            }
            if begun.elapsed() > STARVED {
                return Sight::Starved;
            }
            pause(PAUSE);
        }
    }

    /// Adds the sum of a vector in the thread's memory, which may take as long as the request does.
    pub(super) fn look_closer(&self, seen: Seen) -> Seen {
        match seen.doing.amount() {
            Some(Amount::Vector(address, count)) => Seen {
                amount: self.vector_bytes(address, count),
                ..seen
            },
            _ => seen,
        }
    }

    pub(super) fn doing(&self) -> Result<Doing, Unseen> {
        let mut text = [0; 256];
        let kept = lock(&self.state).syscall.clone();
        let count = match kept.map(|kept| kept.file.read_at(&mut text, 0)) {
            Some(Ok(count)) => count,
            // Not opened yet; or that thread is gone (ESRCH) and its number was used again.
            _ => {
                let file = File::open(format!("/proc/{}/syscall", self.tid)).ok();
                let count = file.as_ref().map(|file| file.read_at(&mut text, 0));
                self.keep(file, |state| &mut state.syscall);
                count.and_then(Result::ok).ok_or(Unseen::Hidden)?
            }
        };
        let text = std::str::from_utf8(&text[..count]).unwrap_or_default();
        if text == "running\n" {
            return Err(Unseen::Runs);
        }
        Doing::parse(text).ok_or(Unseen::Hidden)
    }

    /// Keeps the file of a thread that is new under its number.
    fn keep(&self, file: Option<File>, place: impl Fn(&mut State) -> &mut Option<Arc<Kept>>) {
        let mut state = lock(&self.state);
        if place(&mut state).take().is_some() {
            *state = State::default();
        }
        *place(&mut state) = file.and_then(|file| self.shared.keep(file)).map(Arc::new);
    }

    /// Whether a thread that waits for the answer to a FLUSH may be in execve(2), which closes descriptors in its new
    /// memory before it says where the code in there is: then `statm` has no text (fs/exec.c begin_new_exec(),
    /// fs/binfmt_elf.c load_elf_binary()). Nor has it of a process that ends (exit_mm()). Where there is some, the
    /// thread is not in execve(2), and no other of its process gets as far as that lock before this one is gone
    /// (de_thread()).
    #[must_use]
    pub fn may_be_in_exec(&self) -> bool {
        let mut text = [0; 128];
        let kept = lock(&self.state).statm.clone();
        let count = match kept.map(|kept| kept.file.read_at(&mut text, 0)) {
            Some(Ok(count)) => Some(count),
            _ => {
                let file = File::open(format!("/proc/{}/statm", self.tid)).ok();
                let count = file.as_ref().map(|file| file.read_at(&mut text, 0));
                self.keep(file, |state| &mut state.statm);
                count.and_then(Result::ok)
            }
        };
        count.is_none_or(|count| !thread::has_text(&text[..count]))
    }

    /// How many bytes a vector of the thread's memory has room for. Only for a thread that is blocked in
    /// readv(2), writev(2) or their kin.
    pub(super) fn vector_bytes(&self, address: u64, count: u64) -> Option<u64> {
        /// As many as the kernel takes (include/uapi/linux/uio.h UIO_MAXIOV).
        const ELEMENTS_MAX: u64 = 1024;
        let count = usize::try_from(count.min(ELEMENTS_MAX)).ok()?;
        let mut bytes = vec![0; count * size_of::<[u64; 2]>()];
        self.read_memory(address, &mut bytes)?;
        let length = |element: &[u8]| {
            let length = element[8..].try_into().map(u64::from_ne_bytes);
            length.unwrap_or_default()
        };
        let sum = bytes.chunks_exact(16).map(length);
        Some(sum.fold(0, u64::saturating_add))
    }

    fn read_memory(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let remote = RemoteIoVec {
            base: usize::try_from(address).ok()?,
            len: into.len(),
        };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.tid.0).ok()?);
        let want = into.len();
        let got = process_vm_readv(pid, &mut [IoSliceMut::new(into)], &[remote]).ok()?;
        (got == want).then_some(())
    }

    /// The inode number behind a descriptor of the thread. Takes no lock that a caller may hold
    /// (fs/proc/fd.c seq_show()).
    pub(super) fn inode_of(&self, fd: i32) -> Option<u64> {
        let path = format!("/proc/{}/fdinfo/{fd}", self.tid);
        let mut text = String::new();
        File::open(path).ok()?.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("ino:"))?;
        line.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::JoinHandle;

    use super::super::{Callers, Look};
    use super::*;
    use crate::types::{Nanos, Tid};

    /// A thread that runs until it is told to, and then waits in read(2).
    struct Runner {
        caller: Arc<Caller>,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
        input: OwnedFd,
    }

    fn runner() -> Runner {
        let (output, input) = nix::unistd::pipe().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (told, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            told.send(nix::unistd::gettid()).unwrap();
            while !stopped.load(Ordering::Relaxed) {}
            nix::unistd::read(&output, &mut [0; 55]).unwrap();
        });
        let tid = Tid(heard.recv().unwrap().as_raw().unsigned_abs());
        let caller = Callers::new(8).caller(tid, Nanos(1)).unwrap();
        assert!(caller.thread(Nanos(1), Look::Again).is_some());
        Runner {
            caller,
            stop,
            thread,
            input,
        }
    }

    impl Runner {
        fn end(self) {
            self.stop.store(true, Ordering::Relaxed);
            drop(self.input);
            self.thread.join().unwrap();
        }
    }

    #[test]
    fn a_thread_that_only_has_to_get_as_far_as_waiting_is_waited_for() {
        let runner = runner();
        let stop = |pause| {
            runner.stop.store(true, Ordering::Relaxed);
            std::thread::sleep(pause);
        };
        // It may be starved itself, where there is much to do.
        let deadline = Instant::now() + Duration::from_secs(30);
        let seen = loop {
            match runner.caller.look_until_it_waits(stop) {
                Sight::Waits(seen) => break seen,
                sight => assert_eq!(sight, Sight::Starved),
            }
            assert!(Instant::now() < deadline);
        };
        let Doing::Call(call) = seen.doing else {
            panic!("{seen:?}")
        };
        assert_eq!(call.name(), "read");
        runner.end();
    }

    #[test]
    fn a_thread_that_goes_on_is_given_up_and_known_for_that() {
        let runner = runner();
        let thread = runner.caller.thread(Nanos(2), Look::Recent).unwrap();
        // Or starved, as above.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !runner.caller.is_asynchronous(&thread) {
            assert!(Instant::now() < deadline);
            let sight = runner.caller.look_until_it_waits(std::thread::sleep);
            assert!(!matches!(sight, Sight::Waits(_)), "{sight:?}");
        }
        let at_once = runner.caller.look_until_it_waits(|_| panic!("it pauses"));
        assert_eq!(at_once, Sight::None);
        runner.end();
    }
}
