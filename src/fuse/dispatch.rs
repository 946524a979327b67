//! Who works on a request. The thread that received it does, unless it is the last one that could
//! receive the next: then a worker takes over, so that requests that wait for a slow disk never keep
//! the others from being heard.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fs::Fs;
use crate::workers::{Workers, guard};

/// Gives requests to threads.
pub(super) struct Dispatcher {
    fs: Arc<Fs>,
    inline: AtomicUsize,
    inline_max: usize,
    workers: Arc<Workers>,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("inline_max", &self.inline_max)
            .finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher that lets `inline_max` receiving threads work at once.
    pub(super) fn new(fs: Arc<Fs>, inline_max: usize) -> Dispatcher {
        Dispatcher {
            fs,
            inline: AtomicUsize::new(0),
            inline_max,
            workers: Arc::default(),
        }
    }

    /// For requests that need no thread's time (forget).
    pub(super) fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Works on a request, here or elsewhere.
    pub(super) fn run(&self, work: impl FnOnce(&Fs) + Send + 'static) {
        match Turn::take(self) {
            Some(_turn) => guard(|| work(&self.fs)),
            None => self.workers.run(&self.fs, Box::new(work)),
        }
    }

    /// The same for a request with data, which is copied only where another thread gets it.
    pub(super) fn run_with(&self, data: &[u8], work: impl FnOnce(&Fs, &[u8]) + Send + 'static) {
        match Turn::take(self) {
            Some(_turn) => guard(|| work(&self.fs, data)),
            None => {
                let data = data.to_vec();
                self.workers
                    .run(&self.fs, Box::new(move |fs| work(fs, &data)));
            }
        }
    }
}

/// A receiving thread is at work while this lives.
struct Turn<'a>(&'a AtomicUsize);

impl Turn<'_> {
    fn take(dispatcher: &Dispatcher) -> Option<Turn<'_>> {
        let turn = Turn(&dispatcher.inline);
        let others = turn.0.fetch_add(1, Ordering::AcqRel);
        // Dropping the turn gives it back.
        (others < dispatcher.inline_max).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Attribution, KernelCache, Options, Owners, Permissions};
    use std::ffi::OsStr;
    use std::sync::mpsc::{channel, sync_channel};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn dispatcher(inline_max: usize) -> Dispatcher {
        let options = Options {
            permissions: Permissions::Source,
            owners: Owners::AsTheyAre,
            descriptors: 16,
            hidden: None,
            quiet: Vec::new(),
            attribution: Attribution::Full,
            callers_sleep: false,
            told: None,
            buffer: None,
            kernel_cache: KernelCache::Off,
            shared: None,
        };
        let root = crate::sys::open_path(OsStr::new("/")).unwrap();
        Dispatcher::new(Arc::new(Fs::new(root, None, options).unwrap()), inline_max)
    }

    #[test]
    fn requests_that_wait_do_not_keep_others_from_being_heard() {
        let dispatcher = Arc::new(dispatcher(2));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        // Two receiving threads get stuck, and so do twenty requests more that a third receives.
        let receivers: Vec<_> = (0..2)
            .map(|_| {
                let (dispatcher, gate) = (dispatcher.clone(), gate.clone());
                std::thread::spawn(move || dispatcher.run(move |_| pass(&gate)))
            })
            .collect();
        let deadline = std::time::Instant::now() + PATIENCE;
        while dispatcher.inline.load(Ordering::Acquire) < 2 {
            assert!(
                std::time::Instant::now() < deadline,
                "the first two did not start"
            );
            std::thread::yield_now();
        }
        for _ in 0..20 {
            let gate = gate.clone();
            dispatcher.run(move |_| pass(&gate));
        }
        let (told, heard) = channel();
        dispatcher.run_with(b"data", move |_, data| told.send(data.to_vec()).unwrap());
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"data");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        for receiver in receivers {
            receiver.join().unwrap();
        }
    }

    fn pass(gate: &(Mutex<bool>, Condvar)) {
        let mut open = gate.0.lock().unwrap();
        while !*open {
            open = gate.1.wait(open).unwrap();
        }
    }

    #[test]
    fn a_panic_ends_the_request_and_nothing_else() {
        let dispatcher = dispatcher(1);
        let (answer, answered) = sync_channel::<()>(1);
        dispatcher.run(move |_| {
            let _unanswered = answer;
            panic!("a bug, on purpose");
        });
        // What would have answered was dropped, which fuser turns into EIO.
        assert!(answered.recv_timeout(PATIENCE).is_err());
        let (told, heard) = channel();
        dispatcher.run(move |_| told.send(()).unwrap());
        heard.recv_timeout(PATIENCE).unwrap();
        assert_eq!(dispatcher.inline.load(Ordering::Acquire), 0);
    }
}
