//! An answer: a value, or the promise of one. What has to wait keeps no thread waiting.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::observe::Note;
use crate::buffer::Gate;
use crate::error::Errno;
use crate::event::Reason;
use crate::sys::SysResult;
use crate::types::{Nanos, Tid};

/// The answer to a request.
#[derive(Debug)]
pub enum Answer<T> {
    /// Here it is.
    Now(SysResult<T>),
    /// It comes.
    Later(Promise<T>),
}

/// An answer that is known but must not be given yet.
pub struct Promise<T> {
    value: SysResult<T>,
    /// Apart: an answer that is there is not to take its room.
    wait: Box<Wait>,
    gate: Arc<Gate>,
}

/// The operation that waits.
pub(super) struct Wait {
    pub(super) note: Note,
    /// Who waits with it.
    pub(super) thread: Tid,
    /// When its work was done.
    pub(super) since: Nanos,
    pub(super) reason: Reason,
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Promise<T> {
    /// Calls `answer` when the time has come: at once, or later from another thread.
    pub fn then(self, answer: impl FnOnce(SysResult<T>) + Send + 'static) {
        let Promise { value, wait, gate } = self;
        let thread = wait.thread;
        let wake = move || {
            let Wait {
                mut note,
                since,
                reason,
                ..
            } = *wait;
            note.waited(since, reason);
            note.finish(&value);
            answer(value);
        };
        gate.wait(thread, Box::new(wake));
    }
}

impl<T> Promise<T> {
    /// The answer now, as if the time had come: for whoever cannot keep it.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn hurry(self) -> SysResult<T> {
        let Promise { value, wait, .. } = self;
        wait.note.finish(&value);
        value
    }

    pub(super) fn new(value: SysResult<T>, wait: Wait, gate: Arc<Gate>) -> Promise<T> {
        let wait = Box::new(wait);
        Promise { value, wait, gate }
    }
}

impl<T: Send + 'static> Answer<T> {
    /// Calls `answer` with the value when it is there.
    pub fn then(self, answer: impl FnOnce(SysResult<T>) + Send + 'static) {
        match self {
            Answer::Now(value) => answer(value),
            Answer::Later(promise) => promise.then(answer),
        }
    }

    /// Waits for the value: for whoever has a thread to spare.
    ///
    /// # Errors
    /// Those of the operation; `EIO` where the promise was broken.
    pub fn wait(self) -> SysResult<T> {
        let (told, heard) = channel();
        // Nobody hears it who has given up.
        self.then(move |value| told.send(value).unwrap_or_default());
        heard.recv().unwrap_or(Err(Errno::EIO))
    }
}
