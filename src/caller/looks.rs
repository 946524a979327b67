//! What is read of a thread in `/proc` and in its memory.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::syscall::{Amount, Doing};
use super::{Caller, Kept, Seen, State, lock, thread};

impl Caller {
    /// The same with the sum of a vector in the thread's memory, which may wait for as long as the request does.
    pub(super) fn look_closely(&self) -> Option<Seen> {
        let mut seen = self.look()?;
        if let Some(Amount::Vector(address, count)) = seen.doing.amount() {
            seen.amount = self.vector_bytes(address, count);
        }
        Some(seen)
    }

    pub(super) fn doing(&self) -> Option<Doing> {
        let mut text = [0; 256];
        let kept = lock(&self.state).syscall.clone();
        let count = match kept.map(|kept| kept.file.read_at(&mut text, 0)) {
            Some(Ok(count)) => count,
            // Not opened yet; or that thread is gone (ESRCH) and its number was used again.
            _ => {
                let file = File::open(format!("/proc/{}/syscall", self.tid)).ok();
                let count = file.as_ref().map(|file| file.read_at(&mut text, 0));
                self.keep(file, |state| &mut state.syscall);
                count?.ok()?
            }
        };
        Doing::parse(std::str::from_utf8(&text[..count]).ok()?)
    }

    /// Keeps the file of a thread that is new under its number.
    fn keep(&self, file: Option<File>, place: impl Fn(&mut State) -> &mut Option<Arc<Kept>>) {
        let mut state = lock(&self.state);
        if place(&mut state).take().is_some() {
            *state = State::default();
        }
        *place(&mut state) = file.and_then(|file| self.shared.keep(file)).map(Arc::new);
    }

    /// Whether a thread that waits for the answer to a FLUSH may be in execve(2), which closes descriptors in its new
    /// memory before it says where the code in there is: then `statm` has no text (fs/exec.c begin_new_exec(),
    /// fs/binfmt_elf.c load_elf_binary()). Nor has it of a process that ends (exit_mm()). Where there is some, the
    /// thread is not in execve(2), and no other of its process gets as far as that lock before this one is gone
    /// (de_thread()).
    #[must_use]
    pub fn may_be_in_exec(&self) -> bool {
        let mut text = [0; 128];
        let kept = lock(&self.state).statm.clone();
        let count = match kept.map(|kept| kept.file.read_at(&mut text, 0)) {
            Some(Ok(count)) => Some(count),
            _ => {
                let file = File::open(format!("/proc/{}/statm", self.tid)).ok();
                let count = file.as_ref().map(|file| file.read_at(&mut text, 0));
                self.keep(file, |state| &mut state.statm);
                count.and_then(Result::ok)
            }
        };
        count.is_none_or(|count| !thread::has_text(&text[..count]))
    }

    /// How many bytes a vector of the thread's memory has room for. Only for a thread that is blocked in
    /// readv(2), writev(2) or their kin.
    pub(super) fn vector_bytes(&self, address: u64, count: u64) -> Option<u64> {
        /// As many as the kernel takes (include/uapi/linux/uio.h UIO_MAXIOV).
        const ELEMENTS_MAX: u64 = 1024;
        let count = usize::try_from(count.min(ELEMENTS_MAX)).ok()?;
        let mut bytes = vec![0; count * size_of::<[u64; 2]>()];
        self.read_memory(address, &mut bytes)?;
        let length = |element: &[u8]| {
            let length = element[8..].try_into().map(u64::from_ne_bytes);
            length.unwrap_or_default()
        };
        let sum = bytes.chunks_exact(16).map(length);
        Some(sum.fold(0, u64::saturating_add))
    }

    fn read_memory(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let remote = RemoteIoVec {
            base: usize::try_from(address).ok()?,
            len: into.len(),
        };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.tid.0).ok()?);
        let want = into.len();
        let got = process_vm_readv(pid, &mut [IoSliceMut::new(into)], &[remote]).ok()?;
        (got == want).then_some(())
    }

    /// The inode number behind a descriptor of the thread. Takes no lock that a caller may hold
    /// (fs/proc/fd.c seq_show()).
    pub(super) fn inode_of(&self, fd: i32) -> Option<u64> {
        let path = format!("/proc/{}/fdinfo/{fd}", self.tid);
        let mut text = String::new();
        File::open(path).ok()?.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("ino:"))?;
        line.trim().parse().ok()
    }
}
