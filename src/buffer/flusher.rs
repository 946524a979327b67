//! The writeback thread: what has grown old, and what is too much.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Buffers, Did, File, lock};
use crate::event::{Cause, OwnCause, Reason};
use crate::types::{ByteRange, Nanos};

/// Dirty files at most: each keeps a descriptor. Beyond, the oldest are written back.
const DIRTY_FILES_MAX: usize = 4096;

/// How often to look again while more is dirty than should be and nothing can be done about it.
const RETRY: Nanos = Nanos(100_000_000);

/// What wakes the flusher.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    woken: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rung {
    work: bool,
    stop: bool,
    /// It waits without a limit.
    idle: bool,
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

    /// The same for what can wait, unless nothing else would wake the flusher.
    fn ring_if_idle(&self) {
        let idle = lock(&self.rung).idle;
        if idle {
            self.ring();
        }
    }

    fn stop(&self) {
        lock(&self.rung).stop = true;
        self.woken.notify_all();
    }

    /// Waits until it rings, at most `limit`. Says whether to go on.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let mut rung = lock(&self.rung);
        if !rung.work && !rung.stop {
            rung.idle = limit.is_none();
            rung = match limit {
                None => self
                    .woken
                    .wait(rung)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let waited = self.woken.wait_timeout(rung, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        rung.work = false;
        rung.idle = false;
        !rung.stop
    }
}

/// How often to see whether a thread that was told to stop has done so.
const GLANCE: Duration = Duration::from_millis(1);

/// The running thread. Ends when it is dropped, after what it is writing.
#[derive(Debug)]
pub struct Flusher {
    buffers: Arc<Buffers>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The errno of a thread that cannot be started.
    pub fn start(buffers: &Arc<Buffers>) -> std::io::Result<Flusher> {
        let mine = Arc::clone(buffers);
        let thread = std::thread::Builder::new().name("iolens-flush".to_owned());
        let thread = thread.spawn(move || mine.flush_until_stopped())?;
        Ok(Flusher {
            buffers: Arc::clone(buffers),
            thread: Some(thread),
        })
    }

    /// Tells the thread to stop, and waits until it has, or until `abandon` is set: a disk may not answer.
    pub fn stop(mut self, abandon: &AtomicBool) {
        self.buffers.bell.stop();
        let running = |thread: &JoinHandle<()>| !thread.is_finished();
        while self.thread.as_ref().is_some_and(running) {
            if abandon.load(Ordering::SeqCst) {
                // Not joined: the process ends without it.
                self.thread = None;
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
    /// Takes a file in among the dirty ones.
    pub(super) fn enter(&self, file: &Arc<File>) -> u64 {
        let ticket = self.budget.enter(file);
        file.dirty.store(true, Ordering::Release);
        if self.budget.len() > DIRTY_FILES_MAX {
            self.bell.ring();
        } else {
            // The first one sets the timer.
            self.bell.ring_if_idle();
        }
        ticket
    }

    /// Starts writing back at half of the limit, so that most writers never meet it.
    pub(super) fn ring_if_much(&self) {
        if self.gate.dirty() > self.options.dirty_limit / 2 {
            self.bell.ring();
        }
    }

    fn flush_until_stopped(&self) {
        loop {
            let next = self.flush();
            let now = self.journal.now();
            let pause = next.map(|at| Duration::from_nanos(at.since(now).0));
            if !self.bell.wait(pause) {
                return;
            }
        }
    }

    /// Does what is due. Returns when there is something due again.
    pub(super) fn flush(&self) -> Option<Nanos> {
        if self.gate.dirty() > self.options.dirty_limit / 2 {
            self.flush_excess();
        }
        if self.budget.len() > DIRTY_FILES_MAX {
            self.flush_files(Reason::Memory, |buffers| {
                buffers.budget.len() <= DIRTY_FILES_MAX / 2
            });
        }
        let due = self.options.dirty_age.and_then(|age| self.flush_old(age));
        let retry = self.gate.dirty() > self.options.dirty_limit;
        let retry = retry.then(|| Nanos(self.journal.now().0 + RETRY.0));
        due.into_iter().chain(retry).min()
    }

    /// Writes back until a quarter of the limit is dirty.
    fn flush_excess(&self) {
        let low = self.options.dirty_limit / 4;
        let wrote = self.flush_files(Reason::DirtyLimit, |buffers| buffers.gate.dirty() <= low);
        let helpless = !wrote && self.gate.dirty() > self.options.dirty_limit;
        self.gate.set_stuck(helpless);
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

impl File {
    /// When its dirty bytes are `age` old. `None` for one without a name: it is written only if it must be.
    fn due(&self, age: Nanos) -> Option<Nanos> {
        let state = self.lock();
        let due = Nanos(state.dirty_since.0.saturating_add(age.0));
        let due = due.max(state.errors.not_before);
        (!state.nameless && state.ticket.is_some()).then_some(due)
    }

    /// Whether its last writeback failed just now.
    fn is_to_rest(&self, now: Nanos) -> bool {
        self.lock().errors.not_before > now
    }

    fn flush(self: &Arc<Self>, reason: Reason, cause: Cause) -> bool {
        let mut did = Did::new();
        match self.write_back_for(ByteRange::ALL, reason, cause, &mut did) {
            Ok(()) => true,
            Err(errno) => {
                log::debug!(
                    "cannot write back {:?}: {errno}",
                    self.subject().path().path
                );
                false
            }
        }
    }
}
