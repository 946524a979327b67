//! Signals of a server: blocked in every thread, received by one.
//!
//! Layer: edge (`server`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigSet, Signal};

use super::{Happening, spawn};
use crate::mount::Problem;

/// The signals that end a server.
fn ending() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// Blocks them in this thread and those that it will start. Call before any thread is started.
///
/// # Errors
/// Never, on Linux.
pub fn block() -> Result<(), Problem> {
    ending()
        .thread_block()
        .map_err(|errno| Problem::new(format!("cannot block signals: {errno}")))
}

/// What the second SIGINT or SIGTERM means is set at once in `abandon`, also while nobody reads
/// `happenings`.
///
/// # Errors
/// When no thread can be started.
pub fn listen(happenings: Sender<Happening>, abandon: Arc<AtomicBool>) -> Result<(), Problem> {
    spawn("iolens-signals", move || {
        let mut already = false;
        while let Ok(signal) = ending().wait() {
            if already && signal != Signal::SIGHUP {
                abandon.store(true, Ordering::SeqCst);
            }
            already = true;
            if happenings.send(Happening::Signal(signal)).is_err() {
                return;
            }
        }
    })
}
