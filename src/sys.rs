//! The system calls that need `unsafe` or that no crate offers in the form needed here, each wrapped
//! so that the rest of iolens is safe code.
//!
//! Layer: vocabulary. Rules kept here: every descriptor is opened `O_CLOEXEC`; `EINTR` is retried;
//! names are handed on as bytes and must not contain NUL (`EINVAL`).

mod arena;
mod bpf;
mod clock;
mod cpu;
mod creds;
mod dirents;
mod io;
mod pages;
mod path;
mod proc;
pub mod process;
mod space;
mod stat;
pub mod terminal;
mod vectored;
mod words;
mod xattr;

pub use arena::{Arena, Edit as ArenaEdit, View as ArenaView};
pub use bpf::{Sender, Senders};
pub use clock::{Clock, coarse_time};
pub use cpu::{current_cpu, stay_on, work_in_background, work_in_foreground};
pub use creds::{AsCaller, Switch, keep_needed_capabilities, leave_groups};
pub use dirents::{Dirent, read_dirents, seek_dir};
pub use io::{
    SyncKind, append, copy_range, fallocate, fsync, ioctl_in_place, is_in_page_cache, read_at,
    seek_extent, write_at,
};
pub use pages::Pages;
pub use path::{
    Access, TimeSet, access, chmod, chown, is_overlay, link_fd, make_dir, make_node, make_symlink,
    open_below, open_path, open_proc_fds, read_link, rename, reopen, set_size, set_times, statfs,
    unlink,
};
pub use proc::{lift_file_size_limit, raise_descriptor_limit, share_heaps};
pub use space::{Space, own_size_limit, quota_left, size_limit, space};
pub use stat::{Stat, stat, stat_below};
pub use vectored::{Written, read_vectored_at, write_vectored_at};
pub use words::Words;
pub use xattr::{get_xattr, list_xattr, remove_xattr, set_xattr};

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::error::Errno;

/// The result of a system call.
pub type SysResult<T> = Result<T, Errno>;

/// Turns the -1 convention into a `Result`.
fn check(ret: libc::c_int) -> SysResult<libc::c_int> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

/// The same for calls that return a length or offset.
fn check_len(ret: libc::ssize_t) -> SysResult<usize> {
    usize::try_from(ret).map_err(|_| Errno::last())
}

/// Repeats a call for as long as a signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> SysResult<T>) -> SysResult<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// A name for the kernel.
///
/// # Errors
/// `EINVAL` where it contains a NUL byte.
fn c_name(name: &OsStr) -> SysResult<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}
