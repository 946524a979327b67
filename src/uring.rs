//! The edge to the kernel over io_uring: requests lie in entries that were registered before, one queue for each CPU, and
//! an answer and the wait for the next request are one system call, on the CPU of the caller (Documentation/filesystems/fuse/fuse-io-uring.rst).
//!
//! Layer: edge. [`fuse`](crate::fuse) mounts, negotiates, and serves what still comes over /dev/fuse: forgetting, and
//! interrupts. Decides nothing about files; does the same as `fuse` with the protocol decoded here.
//!
//! From the handshake on the kernel holds all requests back until every queue has an entry. So the rings are
//! opened before it, and registered right after.

mod entry;
mod operations;
mod out;
mod queue;
mod wire;
mod work;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::fs::Fs;
use entry::Request;
use queue::Queue;

/// Where the kernel says whether it serves rings, and where root may allow it.
pub const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Entries of all queues together: requests that may be under way. Each has a payload of a whole request, whose pages are
/// provided as they are used; the kernel takes the entry that was free last first (fs/fuse/dev_uring.c), so that few of
/// them are.
const ENTRIES: usize = 4096;
/// Of those, for the callers on one CPU. There are no more: an entry that is registered later takes no request that waits for one
/// already.
const ENTRIES_OF_ONE: std::ops::RangeInclusive<usize> = 256..=1024;

/// Who may ask, beside what the kernel lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Everybody.
    All,
    /// The user with this uid, and root.
    UserAndRoot(u32),
}

/// Rings that are open and not registered yet.
pub struct Rings(Vec<Queue>);

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rings({})", self.0.len())
    }
}

/// What all queues share.
struct Service {
    fs: Arc<Fs>,
    admitted: Admitted,
}

impl Service {
    /// What only goes on with what was opened before is admitted to all, as the kernel would have it.
    fn admits(&self, request: &Request) -> bool {
        match self.admitted {
            Admitted::All => true,
            Admitted::UserAndRoot(user) => {
                let uid = request.call.uid;
                uid == 0 || uid == user || operations::goes_on(request)
            }
        }
    }
}

/// Whether the kernel serves rings: the module's parameter `enable_uring`.
///
/// # Errors
/// A sentence: what is missing, and how to have it.
pub fn enabled() -> Result<(), String> {
    match fs::read_to_string(SWITCH) {
        Ok(switch) if switch.trim() == "Y" => Ok(()),
        Ok(_) => Err(format!(
            "the kernel has FUSE over io_uring switched off (EOPNOTSUPP); root switches it on: echo Y > {SWITCH}"
        )),
        Err(_) => Err(
            "this kernel has no FUSE over io_uring (EOPNOTSUPP): it needs Linux 6.14 with CONFIG_FUSE_IO_URING"
                .to_owned(),
        ),
    }
}

impl Rings {
    /// Opens a ring for each CPU that there may be, for requests of `request_bytes`.
    ///
    /// # Errors
    /// Those of io_uring_setup(2).
    pub fn open(request_bytes: usize) -> io::Result<Rings> {
        let cpus = possible_cpus()?;
        let (least, most) = (*ENTRIES_OF_ONE.start(), *ENTRIES_OF_ONE.end());
        let each = (ENTRIES / usize::from(cpus)).clamp(least, most);
        let queues = (0..cpus).map(|cpu| {
            let entries = if is_online(cpu) { each } else { 1 };
            Queue::open(cpu, entries, request_bytes)
        });
        queues.collect::<io::Result<_>>().map(Rings)
    }

    /// Registers all entries on `device`, where the handshake has been, and serves. Starts threads.
    ///
    /// # Errors
    /// `EAGAIN` where a thread cannot be started.
    pub fn serve(self, device: OwnedFd, fs: Arc<Fs>, admitted: Admitted) -> io::Result<()> {
        let device = Arc::new(device);
        fs.let_names_be_kept();
        let service = Arc::new(Service { fs, admitted });
        for (cpu, queue) in self.0.into_iter().enumerate() {
            let (device, service) = (Arc::clone(&device), Arc::clone(&service));
            let thread = std::thread::Builder::new().name(format!("iolens-ring-{cpu}"));
            thread.spawn(move || queue.serve(&device, &service))?;
        }
        Ok(())
    }
}

/// CPUs that there may be: the kernel wants a queue for each, also for those that are not there.
fn possible_cpus() -> io::Result<u16> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().unwrap_or_default();
    let last: u16 = last.parse().map_err(io::Error::other)?;
    Ok(last + 1)
}

fn is_online(cpu: u16) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    // CPU 0 has no such file where it cannot be taken away.
    fs::read_to_string(path).map_or(true, |online| online.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one_cpu_and_the_first_is_online() {
        assert!(possible_cpus().unwrap() >= 1);
        assert!(is_online(0));
    }
}
