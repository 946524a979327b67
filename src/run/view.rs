//! M's private view: namespaces, the mount over SOURCE, and back out of it.
//!
//! Layer: edge (`run`).

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::Errno;
use crate::mount::check::Source;
use crate::mount::mountinfo::{self, DevNo};
use crate::mount::options::{Access, MountOptions};
use crate::mount::unmount::{Outcome, unmount};
use crate::mount::userns::{self, Privilege};
use crate::mount::{Detach, Problem, direct};

/// The view is mounted in namespaces of this process.
pub(super) struct Mounted {
    point: PathBuf,
    pub(super) dev: DevNo,
    device: Cell<Option<OwnedFd>>,
    /// The working directory by name, where it lies in the view; resolved before the mount.
    inside: Option<PathBuf>,
}

/// Enters the namespaces and mounts over SOURCE.
pub(super) fn open(source: &Source, asked: &MountOptions) -> Result<Mounted, Problem> {
    let inside = working_directory(&source.path)?;
    let who = userns::enter()?;
    let device = direct::open_device()?;
    let target = same_directory(source)?;
    let options = options(who, &target, asked)?;
    // Through the descriptor: what was compared is what is covered, whoever renames meanwhile.
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    direct::mount_device(
        std::os::fd::AsFd::as_fd(&device),
        &source.path,
        &by_descriptor,
        &options,
    )?;
    let entries = mountinfo::read_own()
        .map_err(|error| Problem::at("cannot read", Path::new("/proc/self/mountinfo"), error))?;
    let entry = mountinfo::topmost_at(&entries, &source.path).filter(|entry| entry.is_ours());
    let Some(entry) = entry else {
        return Err(Problem::new(format!(
            "{} was moved while it was mounted",
            source.path.display()
        )));
    };
    Ok(Mounted {
        point: source.path.clone(),
        dev: entry.dev,
        device: Cell::new(Some(device)),
        inside,
    })
}

/// The current directory, if it lies in SOURCE: it has to be entered anew, by name, to be in the view.
fn working_directory(source: &Path) -> Result<Option<PathBuf>, Problem> {
    // The name that the kernel gives it; a deleted directory has none, stays what it is, and is
    // outside any view.
    match std::env::current_dir() {
        Ok(path) => Ok(path.starts_with(source).then_some(path)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            crate::server::say("warning: the current directory was deleted: it is not in the view");
            Ok(None)
        }
        Err(error) => Err(Problem::new(format!(
            "cannot tell the current directory: {}",
            Errno::from(error)
        ))),
    }
}

/// SOURCE as this namespace has it, checked to be the directory that the server holds.
fn same_directory(source: &Source) -> Result<File, Problem> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(&source.path);
    let file = opened.map_err(|error| Problem::at("cannot view", &source.path, error))?;
    let metadata = file
        .metadata()
        .map_err(|error| Problem::at("cannot view", &source.path, error))?;
    if (metadata.dev(), metadata.ino()) != source.id {
        let path = source.path.display();
        return Err(Problem::new(format!(
            "{path} was exchanged for another directory: run again"
        )));
    }
    Ok(file)
}

fn options(who: Privilege, target: &File, asked: &MountOptions) -> Result<MountOptions, Problem> {
    let of_source = fstatvfs(target)
        .map_err(|errno| {
            Problem::new(format!("cannot ask SOURCE's mount: {}", Errno::from(errno)))
        })?
        .flags();
    let mut options = asked.clone();
    // The view allows what SOURCE allows, and no more; `-o nosuid` and the like may take more away.
    let by_default = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV) - options.asked;
    options.flags.remove(by_default);
    for (has, bit) in [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        if of_source.contains(has) {
            options.flags |= bit;
        }
    }
    match who {
        Privilege::Root => {
            options.access = Access::Everybody;
            options.default_permissions = true;
        }
        Privilege::User => {
            options.access = Access::Owner;
            options.default_permissions = false;
            options.flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        }
    }
    Ok(options)
}

impl Mounted {
    /// The connection, once.
    pub(super) fn take_device(&self) -> Option<OwnedFd> {
        self.device.take()
    }

    /// Goes to the working directory anew, so that it is in the view.
    pub(super) fn enter(&self) -> Result<(), Problem> {
        // Until somebody asks for its attributes the kernel believes that root owns the view's root: an
        // owner without a number in a plain user's namespace, for whom it refuses every change.
        std::fs::metadata(&self.point)
            .map_err(|error| Problem::at("the view does not answer on", &self.point, error))?;
        let Some(path) = &self.inside else {
            return Ok(());
        };
        std::env::set_current_dir(path)
            .map_err(|error| Problem::at("cannot enter through the view", path, error))
    }

    /// Out of the view, which our own directory would keep busy.
    pub(super) fn leave(&self) {
        if let Err(error) = std::env::set_current_dir("/") {
            log::warn!("cannot leave the view: {error}");
        }
    }

    /// Tries to take it away; false while something uses it.
    pub(super) fn try_unmount(&self) -> bool {
        match unmount(&self.point, self.dev, Detach::WhenIdle) {
            Ok(Outcome::Gone) => true,
            Ok(Outcome::Busy) => false,
            Err(problem) => {
                log::info!("{problem}");
                false
            }
        }
    }

    /// Takes it away at once; whoever uses it keeps what is open.
    pub(super) fn detach(&self) {
        self.leave();
        if let Err(problem) = unmount(&self.point, self.dev, Detach::Lazily) {
            log::warn!("{problem}");
        }
    }

    /// Whether the namespace has mounts on the view, which hold it like an open file does.
    pub(super) fn covered(&self) -> bool {
        let entries = mountinfo::read_own().unwrap_or_default();
        let below = |path: &Path| path.starts_with(&self.point) && path != self.point;
        entries.iter().any(|entry| below(&entry.point))
    }
}
