//! Requests over io_uring: a ring for each CPU, whose thread stays there (Documentation/filesystems/fuse/fuse-io-uring.rst).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::files::{Answer, Asked, Files, u32_at, u64_at};

const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Entries of a queue.
const ENTRIES: usize = 8;
/// Where `struct fuse_uring_req_header` has the argument, and where what is in use of the payload.
const OP_IN: usize = 128;
const RING: usize = 256;
/// Where `struct io_uring_sqe` has its `len`.
const SQE_LEN: usize = 24;

pub(crate) struct Queue {
    ring: IoUring<Entry128, cqueue::Entry>,
    cpu: u16,
    entries: Vec<(Box<[u8; 288]>, Vec<u8>)>,
}

/// A ring for each CPU that there may be.
pub(crate) fn open(payload: usize) -> io::Result<Vec<Queue>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
    let last: u16 = last.parse().map_err(io::Error::other)?;
    (0..=last)
        .map(|cpu| {
            Ok(Queue {
                ring: IoUring::<Entry128, cqueue::Entry>::builder()
                    .setup_coop_taskrun()
                    .setup_r_disabled()
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .build(16)?,
                cpu,
                entries: (0..ENTRIES)
                    .map(|_| (Box::new([0; 288]), vec![0; payload]))
                    .collect(),
            })
        })
        .collect()
}

/// Serves in threads, until the view is gone.
pub(crate) fn serve(
    queues: Vec<Queue>,
    device: &Arc<OwnedFd>,
    files: &Arc<Files>,
) -> Vec<JoinHandle<()>> {
    let started = queues.into_iter().map(|queue| {
        let (device, files) = (Arc::clone(device), Arc::clone(files));
        thread::spawn(move || {
            if let Err(error) = queue.serve(&device, &files) {
                eprintln!("null: {error}");
                std::process::exit(1);
            }
        })
    });
    started.collect()
}

impl Queue {
    fn serve(mut self, device: &OwnedFd, files: &Files) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.cpu.into())?;
        // One that is not there serves nobody.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
        self.ring.submitter().register_enable_rings()?;
        let areas: Vec<[libc::iovec; 2]> = self.entries.iter_mut().map(areas).collect();
        for (index, areas) in areas.iter().enumerate() {
            self.push(device, index, REGISTER, 0, Some(areas));
        }
        let mut alive = self.entries.len();
        let mut completed = Vec::new();
        while alive > 0 {
            self.ring.submit_and_wait(1)?;
            completed.extend(
                self.ring
                    .completion()
                    .map(|done| (done.user_data(), done.result())),
            );
            for (which, result) in completed.drain(..) {
                if result < 0 {
                    alive -= 1;
                    continue;
                }
                let index = usize::try_from(which).expect("an index");
                let commit_id = self.answer(index, files);
                self.push(device, index, COMMIT_AND_FETCH, commit_id, None);
            }
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, files: &Files) -> u64 {
        let (header, payload) = &mut self.entries[index];
        let used = usize::try_from(u32_at(&header[..], RING + 16)).expect("a size");
        let mut argument = [0; OP_IN];
        argument.copy_from_slice(&header[OP_IN..OP_IN + OP_IN]);
        // A name is short; the data of a write is not looked at.
        let mut rest = [0; 256];
        let kept = used.min(rest.len());
        rest[..kept].copy_from_slice(&payload[..kept]);
        let asked = Asked {
            opcode: u32_at(&header[..], 4),
            node: u64_at(&header[..], 16),
            argument: &argument,
            rest: &rest[..kept],
        };
        let (len, error) = match files.answer(&asked, payload) {
            Answer::Said(len) => (len, 0),
            Answer::Failed(errno) => (0, -errno),
            Answer::None => (0, 0),
        };
        let len = u32::try_from(len).expect("an answer is small");
        header[..4].copy_from_slice(&(len + 16).to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        // The number of the request stays where it is.
        header[RING + 16..RING + 20].copy_from_slice(&len.to_ne_bytes());
        u64_at(&header[..], RING + 8)
    }

    fn push(
        &mut self,
        device: &OwnedFd,
        index: usize,
        command: u32,
        commit_id: u64,
        areas: Option<&[libc::iovec; 2]>,
    ) {
        let mut request = [0; 80];
        request[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        request[16..18].copy_from_slice(&self.cpu.to_ne_bytes());
        let built = opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), command)
            .cmd(request)
            .addr(areas.map(|areas| areas.as_ptr() as u64))
            .build();
        let mut entry = built.user_data(index as u64);
        if areas.is_some() {
            // SAFETY: plain bytes of the kernel's layout, in which these four are the number of areas.
            unsafe {
                let field = (&raw mut entry).cast::<u8>().add(SQE_LEN);
                field.cast::<u32>().write_unaligned(2);
            }
        }
        // SAFETY: what it points to lives as long as the ring, and is not touched while the kernel has it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("there is a place for each entry");
    }
}

fn areas(entry: &mut (Box<[u8; 288]>, Vec<u8>)) -> [libc::iovec; 2] {
    let (header, payload) = entry;
    [
        libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: header.len(),
        },
        libc::iovec {
            iov_base: payload.as_mut_ptr().cast(),
            iov_len: payload.len(),
        },
    ]
}
