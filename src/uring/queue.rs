//! One queue: a ring, its entries, and the thread that serves the callers of one CPU.
//!
//! The thread waits for the ring and for little else, because the kernel hands requests to it alone: what may take long is
//! given to a worker together with its entry, and comes back through [`Returned`]. What SOURCE should have in memory it asks
//! for itself, for as long as SOURCE is quick at it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Service;
use super::entry::{Entry, Request};
use super::operations::{self, Done};
use super::work::{Work, work};
use crate::error::Errno;
use crate::fs::{Fs, Promise};
use crate::sys;
use crate::workers::Workers;

/// `FUSE_IO_URING_CMD_REGISTER`: here is an entry, put a request in when there is one.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: here is an answer; then as above.
const COMMIT_AND_FETCH: u32 = 2;

/// What a completion is of: an entry by its index, or this: somebody has given entries back.
const GIVEN_BACK: u64 = u64::MAX;

/// A filesystem that takes so long for what it should have in memory waits for a disk or for another machine.
const SLOW: Duration = Duration::from_millis(1);
/// So many requests to SOURCE are given to workers then, before it is tried again.
const SLOW_FOR: u32 = 256;

/// A ring that is open and has no entry registered yet.
pub(super) struct Queue {
    ring: IoUring<Entry128, cqueue::Entry>,
    cpu: u16,
    /// Those that are not with the kernel, and not with a worker.
    here: Vec<Option<Entry>>,
    returned: Arc<Returned>,
    /// What the eventfd is read into.
    count: Box<[u8; 8]>,
    /// Entries that are with workers, or wait for an answer to come.
    away: usize,
    /// Entries that the kernel still serves.
    alive: usize,
    /// On the same CPU: who asks waits there, and waking a thread elsewhere takes longer than most work.
    workers: Arc<Workers>,
    /// Requests to SOURCE that are yet to be given away, because it was slow.
    slow: u32,
}

/// Where entries with answers come back to the thread of their queue.
#[derive(Debug)]
struct Returned {
    entries: Mutex<Vec<(usize, Entry)>>,
    event: EventFd,
}

impl Returned {
    fn give(&self, index: usize, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push((index, entry));
        drop(entries);
        // It only counts, so it does not fail; a thread that is gone does not want to know.
        let _ = self.event.write(1);
    }

    /// Gives the entry back with what a write is promised, when it is time; with the last entry it is at once.
    fn when_kept(
        self: &Arc<Self>,
        promise: Promise<usize>,
        last: bool,
        request: Request,
        index: usize,
        mut entry: Entry,
    ) {
        let returned = Arc::clone(self);
        let answer = move |written| {
            operations::answer_written(&request, &mut entry, written);
            returned.give(index, entry);
        };
        if last {
            answer(promise.hurry());
        } else {
            promise.then(answer);
        }
    }

    fn take(&self) -> Vec<(usize, Entry)> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *entries)
    }
}

impl Queue {
    /// Opens a ring for the callers on `cpu`.
    ///
    /// # Errors
    /// Those of io_uring_setup(2): `EPERM` where it is forbidden, `ENOMEM`, `ENOSYS`.
    pub(super) fn open(cpu: u16, entries: usize, payload: usize) -> io::Result<Queue> {
        let slots = u32::try_from(entries + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        let ring = IoUring::<Entry128, cqueue::Entry>::builder()
            .dontfork()
            .setup_submit_all()
            .setup_coop_taskrun()
            // The thread that serves is the one that enables it.
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(slots.next_power_of_two())?;
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Queue {
            ring,
            cpu,
            here: (0..entries)
                .map(|_| Entry::new(payload).map(Some))
                .collect::<Result<_, _>>()
                .map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?,
            returned: Arc::new(Returned {
                entries: Mutex::default(),
                event,
            }),
            count: Box::default(),
            away: 0,
            alive: 0,
            workers: Arc::new(Workers::on(cpu)),
            slow: 0,
        })
    }

    /// Serves until the kernel lets go of the view.
    pub(super) fn serve(mut self, device: &OwnedFd, service: &Arc<Service>) {
        sys::stay_on(self.cpu);
        if let Err(error) = self.register(device) {
            log::error!("a queue of requests cannot be served: {error}");
            return self.leak();
        }
        let mut completed = Vec::new();
        while self.alive > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Err(error) => {
                    log::error!("a ring failed: {error}");
                    return self.leak();
                }
            }
            let completions = self.ring.completion();
            completed.extend(completions.map(|done| (done.user_data(), done.result())));
            for (which, result) in completed.drain(..) {
                self.completed(device, service, which, result);
            }
        }
    }

    /// The kernel may still write to the entries.
    fn leak(self) {
        std::mem::forget(self);
    }

    fn register(&mut self, device: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()?;
        let mut areas: Vec<[libc::iovec; 2]> = Vec::new();
        for entry in self.here.iter_mut().flatten() {
            areas.push(entry.areas());
        }
        for (index, areas) in areas.iter().enumerate() {
            self.push(device, index, REGISTER, 0, Some(areas));
        }
        self.alive = self.here.len();
        self.listen();
        // The areas are read during this call.
        self.ring.submit().map(drop)
    }

    /// Waits for entries that are given back.
    fn listen(&mut self) {
        let event = types::Fd(self.returned.event.as_fd().as_raw_fd());
        let into = self.count.as_mut_ptr();
        let read = opcode::Read::new(event, into, 8).build();
        self.submit(Entry128::from(read.user_data(GIVEN_BACK)));
    }

    fn push(
        &mut self,
        device: &OwnedFd,
        index: usize,
        command: u32,
        commit_id: u64,
        areas: Option<&[libc::iovec; 2]>,
    ) {
        // struct fuse_uring_cmd_req: flags, commit_id, qid.
        let mut request = [0; 80];
        request[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        request[16..18].copy_from_slice(&self.cpu.to_ne_bytes());
        let address = areas.map(|areas| areas.as_ptr() as u64);
        let built = opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), command)
            .cmd(request)
            .addr(address)
            .build();
        let mut entry = built.user_data(index as u64);
        if areas.is_some() {
            entry = with_len(entry, 2);
        }
        self.submit(entry);
    }

    fn submit(&mut self, entry: Entry128) {
        // SAFETY: what the entry points to lives as long as the ring: areas of entries that are with the kernel are not
        // touched nor freed before it has given them back, and the count is this queue's own.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is a place for each entry and for the eventfd.
        pushed.expect("the submission queue has room for all that can be under way");
    }

    fn completed(&mut self, device: &OwnedFd, service: &Arc<Service>, which: u64, result: i32) {
        if which == GIVEN_BACK {
            self.listen();
            for (index, entry) in self.returned.take() {
                self.away -= 1;
                self.commit(device, index, entry);
            }
            return;
        }
        let index = usize::try_from(which).unwrap_or(usize::MAX);
        if result < 0 {
            // The view is gone (ENOTCONN), or the answer came too late for that.
            if result != -libc::ENOTCONN {
                log::debug!("an entry of queue {} ends: {result}", self.cpu);
            }
            self.alive -= 1;
            return;
        }
        let Some(mut entry) = self.here.get_mut(index).and_then(Option::take) else {
            log::error!("a request for an entry that is not there (a bug in iolens)");
            return;
        };
        let request = entry.request();
        if !service.admits(&request) {
            entry.answer(request.unique, Err(Errno::EACCES));
            return self.commit(device, index, entry);
        }
        let work = work(&service.fs, &request, &entry);
        if self.is_long(work) {
            return self.give_away(service, index, request, entry);
        }
        let begun = (work == Work::Source).then(Instant::now);
        let done = perform(&service.fs, &request, &mut entry);
        if begun.is_some_and(|begun| begun.elapsed() > SLOW) {
            self.slow = SLOW_FOR;
        }
        match done {
            Done::Answered => self.commit(device, index, entry),
            Done::Later(promise) => {
                let last = self.is_last();
                self.away += 1;
                entry.forget_input();
                self.returned
                    .when_kept(promise, last, request, index, entry);
            }
        }
    }

    /// Whether others would have to wait too long for this.
    fn is_long(&mut self, work: Work) -> bool {
        match work {
            // With many writers held back, the next one may not even find room in the buffer.
            Work::Memory => self.away > self.here.len() / 2,
            Work::Source if self.slow > 0 => {
                self.slow -= 1;
                true
            }
            Work::Source => false,
            Work::Long => true,
        }
    }

    fn commit(&mut self, device: &OwnedFd, index: usize, entry: Entry) {
        let commit_id = entry.commit_id();
        self.here[index] = Some(entry);
        self.push(device, index, COMMIT_AND_FETCH, commit_id, None);
    }

    /// Whether the next request of this CPU has no entry but the one at hand.
    fn is_last(&self) -> bool {
        self.away + 1 >= self.here.len()
    }

    fn give_away(&mut self, service: &Service, index: usize, request: Request, entry: Entry) {
        let returned = Arc::clone(&self.returned);
        let last = self.is_last();
        self.away += 1;
        let job = move |fs: &Fs| {
            let mut entry = entry;
            match perform(fs, &request, &mut entry) {
                Done::Answered => returned.give(index, entry),
                Done::Later(promise) => {
                    returned.when_kept(promise, last, request, index, entry);
                }
            }
        };
        self.workers.run(&service.fs, Box::new(job));
    }
}

/// Where `struct io_uring_sqe` has its `len` (include/uapi/linux/io_uring.h).
const SQE_LEN: usize = 24;

/// The entry with the number of areas at its address, which `io-uring` has no way to say.
fn with_len(mut entry: Entry128, len: u32) -> Entry128 {
    const { assert!(size_of::<Entry128>() == 128) };
    // SAFETY: the type is the kernel's 128-byte submission queue entry, plain bytes of a fixed layout, in which these four
    // are a number without any meaning of its own for this command but ours.
    unsafe {
        let field = (&raw mut entry).cast::<u8>().add(SQE_LEN);
        field.cast::<u32>().write_unaligned(len);
    }
    entry
}

/// A panic ends the request, with `EIO`, and nothing else.
fn perform(fs: &Fs, request: &Request, entry: &mut Entry) -> Done {
    let performed = catch_unwind(AssertUnwindSafe(|| operations::perform(fs, request, entry)));
    performed.unwrap_or_else(|_| {
        log::error!(
            "a request failed on a bug in iolens and was answered with EIO; the view goes on"
        );
        entry.answer(request.unique, Err(Errno::EIO));
        Done::Answered
    })
}
