//! Requests over /dev/fuse: read, answered, written.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::files::{Answer, Asked, Files, argument_bytes, u32_at, u64_at};

/// `struct fuse_in_header`
const IN_HEADER: usize = 40;

/// Serves with so many threads until the view is gone.
pub(crate) fn serve(
    device: &Arc<OwnedFd>,
    files: &Arc<Files>,
    threads: usize,
    (request_bytes, spin_us): (usize, u64),
) -> io::Result<()> {
    if spin_us > 0 {
        fcntl(&**device, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let serving: Vec<_> = (0..threads)
        .map(|_| {
            let (device, files) = (Arc::clone(device), Arc::clone(files));
            thread::spawn(move || {
                one(
                    &device,
                    &files,
                    request_bytes,
                    Duration::from_micros(spin_us),
                )
            })
        })
        .collect();
    for thread in serving {
        thread.join().expect("no thread panics");
    }
    Ok(())
}

fn one(device: &OwnedFd, files: &Files, request_bytes: usize, spin: Duration) {
    let mut request = vec![0; request_bytes + 4096];
    let mut said = vec![0; request_bytes];
    while let Some(size) = next(device, &mut request, spin) {
        let bytes = &request[..size];
        let opcode = u32_at(bytes, 4);
        let (argument, rest) =
            bytes[IN_HEADER..].split_at(argument_bytes(opcode).min(size - IN_HEADER));
        let asked = Asked {
            opcode,
            node: u64_at(bytes, 16),
            argument,
            rest,
        };
        let (len, error) = match files.answer(&asked, &mut said) {
            Answer::Said(len) => (len, 0),
            Answer::Failed(errno) => (0, -errno),
            Answer::None => continue,
        };
        let mut header = [0; 16];
        let all = u32::try_from(len + 16).expect("an answer is small");
        header[..4].copy_from_slice(&all.to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&bytes[8..16]);
        let parts = [IoSlice::new(&header), IoSlice::new(&said[..len])];
        // ENOENT: it was interrupted.
        let _ = nix::sys::uio::writev(device, &parts);
    }
}

fn next(device: &OwnedFd, request: &mut [u8], spin: Duration) -> Option<usize> {
    let mut until = None;
    loop {
        match nix::unistd::read(device, request) {
            Ok(size) => return Some(size),
            Err(Errno::EINTR | Errno::ENOENT) => {}
            Err(Errno::EAGAIN) => {
                let until = *until.get_or_insert_with(|| Instant::now() + spin);
                if Instant::now() >= until {
                    use std::os::fd::AsFd;
                    let mut waited = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut waited, PollTimeout::NONE);
                }
            }
            Err(_) => return None,
        }
    }
}
