//! The writeback thread: what has grown old, and what is too much.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::file::State;
use super::prefetch::Prefetcher;
use super::provide::Provider;
use super::{Buffers, Did, File, lock};
use crate::event::{Cause, OwnCause, Reason};
use crate::sys;
use crate::types::{ByteRange, Nanos};

/// How often to look again while more is dirty than should be and nothing can be done about it.
const RETRY: Nanos = Nanos(100_000_000);

/// The shortest pause between two rounds of the timer, so that many files that grow old one after the
/// other share a round.
const ROUND_PAUSE: Nanos = Nanos(5_000_000);

/// What wakes the flusher.
#[derive(Debug)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    woken: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Rung {
    work: bool,
    stop: bool,
    /// When there is something to do next, of all that was said since the last round began.
    due: Nanos,
}

/// Nothing is due.
const NEVER: Nanos = Nanos(u64::MAX);

impl Default for Bell {
    fn default() -> Bell {
        let rung = Rung {
            work: false,
            stop: false,
            due: NEVER,
        };
        Bell {
            rung: Mutex::new(rung),
            woken: Condvar::new(),
        }
    }
}

impl Bell {
    /// There is something to do.
    pub(super) fn ring(&self) {
        let mut rung = lock(&self.rung);
        if !rung.work {
            rung.work = true;
            drop(rung);
            self.woken.notify_all();
        }
    }

    /// There is something to do at that time.
    fn ring_at(&self, due: Nanos) {
        let mut rung = lock(&self.rung);
        if due < rung.due {
            rung.due = due;
            drop(rung);
            self.woken.notify_all();
        }
    }

    /// A round begins: what is said from here on is for the next one.
    fn begin_round(&self) {
        let mut rung = lock(&self.rung);
        rung.work = false;
        rung.due = NEVER;
    }

    fn stop(&self) {
        lock(&self.rung).stop = true;
        self.woken.notify_all();
    }

    /// Waits until it rings or something is due. Says whether to go on.
    fn wait(&self, now: impl Fn() -> Nanos) -> bool {
        let mut rung = lock(&self.rung);
        while !rung.work && !rung.stop {
            if rung.due == NEVER {
                let waited = self.woken.wait(rung);
                rung = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let pause = rung.due.since(now());
            if pause == Nanos(0) {
                break;
            }
            let pause = Duration::from_nanos(pause.0);
            let waited = self.woken.wait_timeout(rung, pause);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !rung.stop
    }
}

/// How often to see whether a thread that was told to stop has done so.
pub(super) const GLANCE: Duration = Duration::from_millis(1);

/// The running thread. Ends when it is dropped, after what it is writing.
#[derive(Debug)]
pub struct Flusher {
    buffers: Arc<Buffers>,
    thread: Option<JoinHandle<()>>,
    /// They go when the flusher does.
    prefetcher: Prefetcher,
    _provider: Provider,
}

impl Flusher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The errno of a thread that cannot be started.
    pub fn start(buffers: &Arc<Buffers>) -> std::io::Result<Flusher> {
        let mine = Arc::clone(buffers);
        let thread = std::thread::Builder::new().name("iolens-flush".to_owned());
        let thread = thread.spawn(move || {
            sys::work_in_background();
            mine.flush_until_stopped();
        })?;
        Ok(Flusher {
            buffers: Arc::clone(buffers),
            thread: Some(thread),
            prefetcher: Prefetcher::start(buffers)?,
            _provider: Provider::start(buffers)?,
        })
    }

    /// Tells it to stop, with those that go with it, and waits until they have, or until `abandon` is set: a disk may not
    /// answer.
    pub fn stop(mut self, abandon: &AtomicBool) {
        self.buffers.bell.stop();
        self.prefetcher.tell_to_stop();
        let running = |thread: &JoinHandle<()>| !thread.is_finished();
        while self.thread.as_ref().is_some_and(running) || self.prefetcher.is_running() {
            if abandon.load(Ordering::SeqCst) {
                // Not joined: the process ends without them.
                self.thread = None;
                self.prefetcher.abandon();
                return;
            }
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.buffers.bell.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the writeback thread had died of a bug in iolens");
        }
    }
}

impl Buffers {
    /// Takes a file in among the dirty ones; its ticket.
    pub(super) fn enter(&self, file: &Arc<File>, state: &State) -> u64 {
        let ticket = self.budget.enter(file);
        if self.budget.len() > self.options.dirty_files {
            self.bell.ring();
        }
        if let Some(due) = self.options.dirty_age.and_then(|age| due(state, age)) {
            self.bell.ring_at(due);
        }
        ticket
    }

    /// Starts writing back at half of what may be dirty, so that most writers never meet the limit.
    pub(super) fn ring_if_much(&self) {
        if self.gate.is_half_full() {
            self.bell.ring();
        }
    }

    fn flush_until_stopped(&self) {
        while self.bell.wait(|| self.journal.now()) {
            self.flush();
        }
    }

    /// Does what is due, and sees to it that the bell rings when something is again.
    pub(super) fn flush(&self) {
        self.bell.begin_round();
        if self.gate.is_half_full() {
            self.flush_excess();
        }
        if self.budget.len() > self.options.dirty_files {
            self.flush_files(Reason::Memory, |buffers| {
                buffers.budget.len() <= buffers.options.dirty_files / 2
            });
        }
        let now = self.journal.now();
        if let Some(next) = self.options.dirty_age.and_then(|age| self.flush_old(age)) {
            self.bell.ring_at(next.max(Nanos(now.0 + ROUND_PAUSE.0)));
        }
        if self.gate.is_over() {
            self.bell.ring_at(Nanos(self.journal.now().0 + RETRY.0));
        }
    }

    /// Writes back until a quarter of what may be dirty is.
    fn flush_excess(&self) {
        let reason = self.gate.why();
        let wrote = self.flush_files(reason, |buffers| buffers.gate.is_low());
        self.gate.set_stuck(!wrote && self.gate.is_over());
    }

    /// Writes back the files that have been dirty for longest until that is `enough`: those without a name
    /// last, because their bytes may never have to be written. Says whether anything could be written.
    fn flush_files(&self, reason: Reason, enough: impl Fn(&Buffers) -> bool) -> bool {
        let mut wrote = false;
        for nameless in [false, true] {
            for file in self.budget.round() {
                if enough(self) {
                    return true;
                }
                if file.is_nameless() == nameless && !file.is_to_rest(self.journal.now()) {
                    let cause = Cause::Own(OwnCause::Memory);
                    wrote |= file.flush(reason, cause);
                }
            }
        }
        wrote
    }

    /// Writes back what is older than `age`. Returns when the next is.
    fn flush_old(&self, age: Nanos) -> Option<Nanos> {
        let mut next: Option<Nanos> = None;
        for file in self.budget.round() {
            let Some(due) = file.due(age) else { continue };
            if due > self.journal.now() {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            if !file.flush(Reason::Age, Cause::Own(OwnCause::Timer)) {
                let retry = file.lock().errors.not_before;
                next = Some(next.map_or(retry, |next| next.min(retry)));
            }
        }
        next
    }
}

/// When the dirty bytes of a file are `age` old. `None` for one without a name: it is written only if it
/// must be.
fn due(state: &State, age: Nanos) -> Option<Nanos> {
    let due = Nanos(state.dirty_since.0.saturating_add(age.0));
    state
        .nameless
        .is_none()
        .then(|| due.max(state.errors.not_before))
}

impl File {
    fn due(&self, age: Nanos) -> Option<Nanos> {
        let state = self.lock();
        state.ticket.and_then(|_| due(&state, age))
    }

    /// Whether its last writeback failed just now.
    pub(super) fn is_to_rest(&self, now: Nanos) -> bool {
        self.lock().errors.not_before > now
    }

    /// Says whether it could be written. A bug that shows itself here costs one file its turn, not the
    /// others their writeback.
    pub(super) fn flush(self: &Arc<Self>, reason: Reason, cause: Cause) -> bool {
        let mut did = Did::new();
        let flushed = catch_unwind(AssertUnwindSafe(|| {
            self.write_back_for(ByteRange::ALL, reason, cause, &mut did)
        }));
        let error = match flushed {
            Ok(Ok(())) => return true,
            Ok(Err(errno)) => errno.to_string(),
            Err(_) => {
                log::error!("a bug in iolens: a writeback panicked");
                return false;
            }
        };
        let path = self.subject().path().path;
        log::info!("cannot write back {path:?}: {error}");
        false
    }
}
