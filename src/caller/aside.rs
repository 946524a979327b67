//! Reading `/proc/TID/syscall` in a thread of its own, for requests that must not wait for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::{Caller, Seen, lock};
use crate::types::Nanos;

/// How long a request waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// 2 ms, for requests whose caller is often in execve(2): what is not there by then comes only after our own
    /// answer, as a rule.
    Short,
    /// 100 ms, for requests whose caller hardly ever keeps us waiting: what is late is late because the processors are
    /// busy.
    Long,
}

impl Patience {
    fn duration(self) -> Duration {
        match self {
            Patience::Short => Duration::from_millis(2),
            Patience::Long => Duration::from_millis(100),
        }
    }
}

/// Threads that read. One that meets execve(2) is stuck for as long as the request waits.
const READERS: usize = 2;

/// Questions that may wait for a reader.
const QUEUE: usize = 64;

/// A question, and where the answer goes.
type Question = (Arc<Caller>, SyncSender<Option<Seen>>);

/// The threads, started with the first question.
#[derive(Debug, Default)]
pub(super) struct Aside {
    ask: OnceLock<SyncSender<Question>>,
}

/// An answer that will be there soon, or never.
#[derive(Debug)]
pub struct Answer {
    caller: Arc<Caller>,
    heard: Receiver<Option<Seen>>,
    patience: Patience,
    until: Instant,
}

impl Aside {
    /// Asks; `None` where all readers are stuck.
    pub(super) fn ask(&self, caller: &Arc<Caller>, patience: Patience) -> Option<Answer> {
        let ask = self.ask.get_or_init(start);
        let (tell, heard) = sync_channel(1);
        ask.try_send((Arc::clone(caller), tell)).ok()?;
        Some(Answer {
            caller: Arc::clone(caller),
            heard,
            patience,
            until: Instant::now() + patience.duration(),
        })
    }
}

impl Answer {
    /// Waits for it, not for long. A thread that does not answer at `now` is not asked again for a while, or until it
    /// has answered after all.
    #[must_use]
    pub fn wait(&self, now: Nanos) -> Option<Seen> {
        let left = self.until.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(seen) => seen,
            Err(_) => {
                self.caller.was_silent(now, self.patience);
                // It may have come right then.
                let late = self.heard.try_recv().ok()?;
                self.caller.was_heard();
                late
            }
        }
    }
}

fn start() -> SyncSender<Question> {
    let (ask, questions) = sync_channel::<Question>(QUEUE);
    let questions = Arc::new(Mutex::new(questions));
    for _ in 0..READERS {
        let questions = Arc::clone(&questions);
        let thread = std::thread::Builder::new().name("iolens-proc".to_owned());
        let started = thread.spawn(move || {
            loop {
                let question = lock(&questions).recv();
                let Ok((caller, tell)) = question else { return };
                // Nobody listens any more where the wait was over.
                let _ = tell.try_send(caller.look_closely());
                caller.was_heard();
            }
        });
        if let Err(error) = started {
            log::warn!("the system calls of some requests will not be told: {error}");
        }
    }
    ask
}
