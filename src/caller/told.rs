//! What the kernel tells of each request as it is sent: without waiting for anybody, and for whatever request.

use super::syscall::Doing;
use super::{Seen, Tid};
use crate::sys::Senders;

/// Says who must not load a program into the kernel; for tests of the other way.
const REFUSES: &str = "IOLENS_NO_BPF";

/// Who sends the requests of a view.
#[derive(Debug)]
pub struct Told(Senders);

impl Told {
    /// Listens from now on to requests of the FUSE connection with this device number.
    ///
    /// # Errors
    /// Why that cannot be had here.
    pub fn start(major: u32, minor: u32) -> Result<Told, String> {
        if std::env::var_os(REFUSES).is_some() {
            return Err(format!("{REFUSES} is set"));
        }
        let senders = Senders::watch(major, minor);
        senders.map(Told).map_err(|errno| errno.to_string())
    }

    /// What the thread was doing as it sent this request. `None` where somebody else sent it in its name: the kernel
    /// sends what is not waited for when it can.
    #[must_use]
    pub fn seen(&self, unique: u64, tid: Tid) -> Option<Seen> {
        let sender = self.0.of(unique).filter(|sender| sender.tid == tid.0)?;
        Doing::of(sender.call.into(), sender.args, sender.stack).map(Seen::of)
    }
}
