//! Memory that the kernel writes to and reads from on its own account: pages of an anonymous mapping.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use super::SysResult;
use crate::error::Errno;

/// Whole pages, zero at first. The system provides each when it is first used; none before, and no huge ones, so that many of
/// these may lie ready.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// At least so many bytes.
    ///
    /// # Errors
    /// `EINVAL` for none; `ENOMEM` where the address space has no room.
    pub fn new(bytes: usize) -> SysResult<Pages> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTDUMP] {
            // SAFETY: the mapping was just made; the advice changes nothing of what is in it. A kernel without huge pages
            // does not know the first.
            let _ = unsafe { libc::madvise(at, bytes, advice) };
        }
        let base = NonNull::new(at.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Pages { base, bytes })
    }

    /// Gives the memory back; what was in it is zero from then on.
    pub fn clear(&mut self) {
        // SAFETY: the mapping is private and anonymous, and borrowed by nobody else: its bytes become zero.
        let cleared =
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_DONTNEED) };
        debug_assert_eq!(cleared, 0, "memory of our own can be given back");
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped while this value lives, and every byte is valid.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed by nobody else.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing that borrows from it outlives it.
        let ret = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(ret, 0, "a mapping of our own can be taken away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_at_first_and_when_it_was_given_back() {
        let mut pages = Pages::new(10_000).unwrap();
        assert!(pages.len() == 10_000 && pages.iter().all(|byte| *byte == 0));
        pages.fill(7);
        assert!(pages.iter().all(|byte| *byte == 7));
        pages.clear();
        assert!(pages.iter().all(|byte| *byte == 0));
        assert_eq!(Pages::new(0).unwrap_err(), Errno::EINVAL);
    }
}
