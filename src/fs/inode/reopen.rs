//! Finding the file of an inode again after its descriptor was given up.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DEPTH_MAX, Inode, Inodes, PathFd, pin};
use crate::error::Errno;
use crate::sys::{self, SysResult};

impl Inodes {
    /// The `O_PATH` descriptor of an inode, opened again where it had been given up.
    ///
    /// # Errors
    /// `ESTALE` where no name leads to it any more; those of openat(2).
    pub fn fd(&self, inode: &Arc<Inode>) -> SysResult<Arc<PathFd>> {
        match inode.pinned() {
            Some(fd) => Ok(fd),
            None => self.reopen_by_name(inode),
        }
    }

    /// Opens an idle inode by the first of its names that leads to it. What one name answers does not
    /// matter where another does.
    fn reopen_by_name(&self, inode: &Arc<Inode>) -> SysResult<Arc<PathFd>> {
        let mut failed = Errno::ESTALE;
        for (parent, name) in inode.names.alive().filter_map(|link| link.place()) {
            let opened = self
                .dir_fd(&parent)
                .and_then(|dir| self.step(inode, &dir, &name));
            match opened {
                Ok(fd) => return Ok(fd),
                Err(Errno::ESTALE) => {}
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The descriptor of a directory: up to the first ancestor that has one, then down again. Not
    /// recursive, because a tree may be deeper than a stack.
    fn dir_fd(&self, dir: &Arc<Inode>) -> SysResult<Arc<PathFd>> {
        let mut idle = Vec::new();
        let mut at = dir.clone();
        let mut fd = loop {
            if let Some(fd) = at.pinned() {
                break fd;
            }
            let place = at.names.alive().find_map(|link| link.place());
            let (parent, name) = place
                .filter(|_| idle.len() < DEPTH_MAX)
                .ok_or(Errno::ESTALE)?;
            idle.push((std::mem::replace(&mut at, parent), name));
        };
        for (inode, name) in idle.iter().rev() {
            fd = self.step(inode, &fd, name)?;
        }
        Ok(fd)
    }

    /// Opens `name` in the directory `dir` and pins it, if it is `inode`.
    fn step(&self, inode: &Arc<Inode>, dir: &PathFd, name: &OsStr) -> SysResult<Arc<PathFd>> {
        let opened = sys::open_below(dir.as_fd(), name, libc::O_PATH, sys::Access::Existing);
        let fd = opened.map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => Errno::ESTALE,
            other => other,
        })?;
        if self.identity(&sys::stat(fd.as_fd())?) != inode.identity {
            return Err(Errno::ESTALE);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let fd = Arc::new(PathFd {
            fd,
            open: self.open.clone(),
        });
        if pin(inode, fd.clone()).is_none() {
            self.track(inode);
        }
        Ok(fd)
    }
}
