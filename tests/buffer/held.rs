//! A SOURCE that does not take writes for as long as a test likes.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::JoinHandle;

use nix::errno::Errno;

const PAGE: usize = 4096;

/// linux/userfaultfd.h.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// Bytes of a `struct uffd_msg`.
const MESSAGE: usize = 32;

/// While this lives, every write(2) to a file waits, also the server's; reads and stat(2) do not.
///
/// A write(2) from outside has the lock of the inode and waits for the page that its data is in: the page is
/// missing, and a userfaultfd (man 2 userfaultfd) that nobody answers is to provide it. It never writes
/// anything: in the end its data is nowhere.
pub(crate) struct Held {
    faults: Option<File>,
    page: usize,
    writer: Option<JoinHandle<()>>,
}

impl Held {
    /// Holds the file from when this returns. Its modification time has moved by then.
    pub(crate) fn new(path: &Path) -> Held {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let mut faults = userfaultfd();
        let page = missing_page(&faults);
        let writer = std::thread::spawn(move || {
            // SAFETY: only the kernel reads through it, and finds out that there is nothing.
            let data = unsafe { std::slice::from_raw_parts(page as *const u8, 1) };
            let end = file.write_at(data, 0).map_err(|e| e.raw_os_error());
            assert_eq!(end, Err(Some(libc::EFAULT)), "the write that holds");
        });
        // It is in the page fault, and so has the lock, when the message comes.
        let mut message = [0; MESSAGE];
        faults.read_exact(&mut message).unwrap();
        Held {
            faults: Some(faults),
            page,
            writer: Some(writer),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the page is our own mapping. The fault that waits finds none when it is repeated.
        unsafe { libc::munmap(self.page as *mut _, PAGE) };
        // Closing it wakes who waits.
        drop(self.faults.take());
        let ended = self.writer.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|end| end.is_ok()));
    }
}

fn userfaultfd() -> File {
    // SAFETY: takes flags.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let fd = Errno::result(fd).unwrap_or_else(|e| panic!("userfaultfd: {e}: it needs root"));
    // SAFETY: the descriptor is new and ours.
    let faults = unsafe { File::from_raw_fd(i32::try_from(fd).unwrap()) };
    ask(&faults, UFFDIO_API, &mut [UFFD_API, 0, 0, 0]);
    faults
}

/// A page of memory that is not there: who touches it waits.
fn missing_page(faults: &File) -> usize {
    let (null, flags) = (
        std::ptr::null_mut(),
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let page = unsafe { libc::mmap(null, PAGE, access, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED, "mmap: {}", Errno::last());
    let range = [page as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
    ask(faults, UFFDIO_REGISTER, &mut { range });
    page as usize
}

fn ask(faults: &File, request: libc::c_ulong, words: &mut [u64; 4]) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(faults);
    // SAFETY: both requests take at most four words, which live.
    let answer = unsafe { libc::ioctl(fd, request, words.as_mut_ptr()) };
    assert_eq!(answer, 0, "ioctl {request:#x}: {}", Errno::last());
}
