//! Reading `/proc/TID/syscall` in a thread of its own, for requests that must not wait for it as long as it takes.
//!
//! Such a thread stays on a CPU, and reads for whoever asks there: the one who asks is about to wait for it, and to wake a
//! thread on a CPU that is idle takes many times as long as to read (up to 50 us in a virtual machine).

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::looks::Sight;
use super::{Caller, Seen, lock};
use crate::sys;
use crate::types::Nanos;

/// How long a request waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// For requests whose caller is often in execve(2): no longer than [`LOOK_ASLEEP`] while the look itself waits, which
    /// it does until we have answered, as a rule.
    Short,
    /// [`LATE`], for requests whose caller hardly ever keeps us waiting: what is late is late because the processors
    /// are busy.
    Long,
}

/// A look that has been asleep at the end of such a time waits for the caller.
const LOOK_ASLEEP: Duration = Duration::from_millis(2);

/// The longest that a request waits.
const LATE: Duration = Duration::from_millis(100);

/// Threads of each kind that read, on each CPU. One that meets execve(2) is stuck for as long as the request waits, and one
/// that meets a thread without a processor for 20 ms.
const READERS: usize = 2;

/// Questions that may wait for a reader.
const QUEUE: usize = 64;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// `/proc/TID/syscall`.
    Call,
    /// That, and what it says lies in the thread's memory. It has readers of its own: what mmap(2) keeps waiting
    /// delays no answer that needs no memory.
    Memory,
}

/// How long a thread is looked at that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// No longer.
    Now,
    /// Until it waits, or goes on.
    ItWaits,
}

/// A question, and where the answer goes.
struct Question {
    caller: Arc<Caller>,
    until: Until,
    patience: Patience,
    now: Nanos,
    progress: Arc<Progress>,
    tell: SyncSender<Option<Seen>>,
}

impl Question {
    /// Looks, and tells.
    fn answer(&self, what: What) {
        let reader = nix::unistd::gettid().as_raw();
        self.progress.begin(reader);
        let sight = match self.until {
            Until::Now => self.caller.look().map_or(Sight::None, Sight::Waits),
            Until::ItWaits => self.caller.look_until_it_waits(|pause| {
                self.progress.end();
                std::thread::sleep(pause);
                self.progress.begin(reader);
            }),
        };
        let seen = match (sight, what) {
            (Sight::Waits(seen), What::Call) => Some(seen),
            (Sight::Waits(seen), What::Memory) => Some(self.caller.look_closer(seen)),
            (Sight::None | Sight::Starved, _) => None,
        };
        match sight {
            Sight::Starved => self.caller.was_silent(self.now, what, self.patience),
            Sight::Waits(_) | Sight::None => self.caller.was_heard(what),
        }
        // Nobody listens any more where the wait was over.
        let _ = self.tell.try_send(seen);
    }
}

/// The threads of each kind on each CPU, started with the first question there.
#[derive(Debug, Default)]
pub(super) struct Aside(DashMap<(What, u16), SyncSender<Question>>);

/// An answer that will be there soon, or never.
#[derive(Debug)]
pub struct Answer {
    caller: Arc<Caller>,
    what: What,
    heard: Receiver<Option<Seen>>,
    progress: Arc<Progress>,
    patience: Patience,
    asked: Instant,
}

impl Aside {
    /// Asks; `None` where all readers are stuck.
    pub(super) fn ask(
        &self,
        caller: &Arc<Caller>,
        now: Nanos,
        (what, until): (What, Until),
        patience: Patience,
    ) -> Option<Answer> {
        let ask = self.readers(what, sys::current_cpu());
        let (tell, heard) = sync_channel(1);
        let progress = Arc::new(Progress::default());
        let question = Question {
            caller: Arc::clone(caller),
            until,
            patience,
            now,
            progress: Arc::clone(&progress),
            tell,
        };
        ask.try_send(question).ok()?;
        Some(Answer {
            caller: Arc::clone(caller),
            what,
            heard,
            progress,
            patience,
            asked: Instant::now(),
        })
    }

    fn readers(&self, what: What, cpu: u16) -> SyncSender<Question> {
        let key = (what, cpu);
        if let Some(known) = self.0.get(&key) {
            return known.clone();
        }
        // Whoever comes second has started threads in vain, which end as their questions do.
        let started = start(what, cpu);
        self.0.entry(key).or_insert(started).clone()
    }
}

impl Answer {
    /// Waits for it, not for long. A thread that does not answer at `now` is not asked again for a while, or until it
    /// has answered after all.
    #[must_use]
    pub fn wait(&self, now: Nanos) -> Option<Seen> {
        if let Some(answer) = self.in_time() {
            return answer;
        }
        self.caller.was_silent(now, self.what, self.patience);
        // It may have come right then.
        let late = self.heard.try_recv().ok()?;
        self.caller.was_heard(self.what);
        late
    }

    fn in_time(&self) -> Option<Option<Seen>> {
        loop {
            let left = LATE.checked_sub(self.asked.elapsed())?;
            let step = match self.patience {
                Patience::Short => LOOK_ASLEEP.min(left),
                Patience::Long => left,
            };
            match self.heard.recv_timeout(step) {
                Ok(seen) => return Some(seen),
                Err(RecvTimeoutError::Timeout) if !self.look_is_asleep() => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether the look has begun and waits, rather than for a processor.
    fn look_is_asleep(&self) -> bool {
        let look = self.progress.look();
        look.is_some_and(|look| is_asleep(look.reader) && self.progress.look() == Some(look))
    }
}

/// One of the looks that a question takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    number: u32,
    /// The thread that looks.
    reader: i32,
}

/// The look under way.
#[derive(Debug, Default)]
struct Progress(Mutex<(u32, Option<Look>)>);

impl Progress {
    /// It is one look further.
    fn begin(&self, reader: i32) {
        let (number, look) = &mut *lock(&self.0);
        *number += 1;
        *look = Some(Look {
            number: *number,
            reader,
        });
    }

    /// It pauses.
    fn end(&self) {
        lock(&self.0).1 = None;
    }

    fn look(&self) -> Option<Look> {
        lock(&self.0).1
    }
}

/// Whether a thread of our own sleeps (man 5 proc_pid_stat, `state`).
fn is_asleep(thread: i32) -> bool {
    let stat = std::fs::read(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    let name_ends = stat.iter().rposition(|byte| *byte == b')');
    let state = name_ends.and_then(|at| stat.get(at + 2));
    matches!(state, Some(b'S' | b'D'))
}

fn start(what: What, cpu: u16) -> SyncSender<Question> {
    let (ask, questions) = sync_channel::<Question>(QUEUE);
    let questions = Arc::new(Mutex::new(questions));
    for _ in 0..READERS {
        let questions = Arc::clone(&questions);
        let thread = std::thread::Builder::new().name("iolens-proc".to_owned());
        let started = thread.spawn(move || {
            sys::stay_on(cpu);
            // It may have been started by one that works in the background.
            sys::work_in_foreground();
            loop {
                let question = lock(&questions).recv();
                let Ok(question) = question else { return };
                question.answer(what);
            }
        });
        if let Err(error) = started {
            log::warn!("the system calls of some requests will not be told: {error}");
        }
    }
    ask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_asleep_and_one_that_runs_is_not() {
        assert!(!is_asleep(nix::unistd::gettid().as_raw()));
        let (end, ended) = sync_channel::<()>(0);
        let (told, heard) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            told.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let waiting = heard.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_asleep(waiting) {
            assert!(Instant::now() < deadline);
        }
        drop(end);
        thread.join().unwrap();
        assert!(!is_asleep(waiting));
    }
}
