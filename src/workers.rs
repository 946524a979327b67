//! Threads for requests that may wait: as many as there are such requests, within a bound, and gone when they
//! have had nothing to do for a while.
//!
//! Layer: edge. Knows no transport; whoever receives requests decides which of them wait.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fs::Fs;
use crate::sys;

/// Workers at most: as many requests may wait for SOURCE, beside the receiving threads, before
/// others have to queue.
pub const WORKERS_MAX: usize = 64;
/// A worker that has had nothing to do for so long ends.
const WORKER_IDLE: Duration = Duration::from_secs(10);

/// Work on a request.
pub type Job = Box<dyn FnOnce(&Fs) + Send>;

/// A panic ends the request, not the thread: the answer, unsent, is dropped, and whoever gave the work away turns that
/// into `EIO`.
pub fn guard(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!(
            "a request failed on a bug in iolens and was answered with EIO; the view goes on"
        );
    }
}

/// The threads, and what they are to do.
#[derive(Default)]
pub struct Workers {
    state: Mutex<State>,
    work: Condvar,
    /// Where they stay, if they do.
    cpu: Option<u16>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

impl Workers {
    /// Threads that stay on a CPU.
    #[must_use]
    pub fn on(cpu: u16) -> Workers {
        Workers {
            cpu: Some(cpu),
            ..Workers::default()
        }
    }

    /// Gives work to a thread: one that has none, else a new one, else it queues.
    pub fn run(self: &Arc<Self>, fs: &Arc<Fs>, job: Job) {
        let mut state = self.lock();
        state.queue.push_back(job);
        if state.idle >= state.queue.len() || state.threads == WORKERS_MAX {
            drop(state);
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let (workers, view) = (Arc::clone(self), Arc::clone(fs));
        let thread = std::thread::Builder::new().name("iolens-work".to_owned());
        if let Err(error) = thread.spawn(move || workers.work(&view)) {
            log::warn!("no further worker thread: {error}");
            let mut state = self.lock();
            state.threads -= 1;
            // Without any worker the job would wait for ever.
            let stranded = (state.threads == 0)
                .then(|| state.queue.pop_back())
                .flatten();
            drop(state);
            if let Some(job) = stranded {
                guard(|| job(fs));
            }
        }
    }

    fn work(&self, fs: &Fs) {
        if let Some(cpu) = self.cpu {
            sys::stay_on(cpu);
        }
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                guard(|| job(fs));
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, wait) = self
                .work
                .wait_timeout(state, WORKER_IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
