//! mount(2) by our own hand: as root, or inside a user namespace of our own.
//!
//! Layer: edge (`mount`). The namespace that opens the device must be the one that mounts
//! (fs/fuse/inode.c fuse_fill_super() compares the two), so both functions run in the same process.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::mount;

use super::mountinfo::FS_TYPE;
use super::options::{Access, MountOptions};
use super::{Problem, check};
use crate::error::Errno;

/// Opens `/dev/fuse` for one connection; close-on-exec, as std does.
///
/// # Errors
/// A sentence that says how to get the device.
pub fn open_device() -> Result<OwnedFd, Problem> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(check::DEVICE);
    file.map(OwnedFd::from)
        .map_err(|error| check::explain_device(error.into()))
}

/// Pages that one request may have, at least.
const PAGES: u32 = 257;
const PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// Raises the kernel's limit (Linux 6.13) by a page, for all FUSE filesystems mounted from then on, so that calls of 1 MiB
/// are one request. Only root may; without it they are two.
fn allow_whole_calls() {
    let limit = fs::read_to_string(PAGES_LIMIT);
    let limit = limit.ok().and_then(|text| text.trim().parse::<u32>().ok());
    if limit.is_some_and(|limit| limit < PAGES)
        && let Err(error) = fs::write(PAGES_LIMIT, PAGES.to_string())
    {
        log::debug!("calls of 1 MiB come in two requests: {PAGES_LIMIT}: {error}");
    }
}

/// Mounts the connection of `device` over `target`, shown with `source` as its name.
///
/// # Errors
/// One sentence with mount(2)'s errno.
pub fn mount_device(
    device: BorrowedFd<'_>,
    source: &Path,
    target: &Path,
    options: &MountOptions,
) -> Result<(), Problem> {
    let name = options.fsname_or(source);
    let data = data_of(device, options);
    // The kernel looks at it as it mounts.
    allow_whole_calls();
    mount(
        Some(name),
        target,
        Some(FS_TYPE),
        options.flags,
        Some(data.as_str()),
    )
    .map_err(|errno| {
        let advice = match errno {
            nix::errno::Errno::EPERM => {
                "; mounting needs CAP_SYS_ADMIN here: run as root outside a container, or as a \
                 plain user with fusermount3"
            }
            nix::errno::Errno::ENODEV => "; the kernel has no FUSE: modprobe fuse",
            _ => "",
        };
        Problem::new(format!(
            "cannot mount on {}: {}{advice}",
            target.display(),
            Errno::from(errno)
        ))
    })
}

/// The option string that fs/fuse/inode.c parses. Made of numbers and fixed words only.
fn data_of(device: BorrowedFd<'_>, options: &MountOptions) -> String {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::geteuid(),
        nix::unistd::getegid()
    );
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if let Some(bytes) = options.max_read {
        data.push_str(&format!(",max_read={bytes}"));
    }
    data
}
