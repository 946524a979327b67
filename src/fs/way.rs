//! The way to a directory. A kernel that asks for every name every time asks for each directory on a path, before it asks for
//! what the path is about. So it may keep the names of directories for a moment, and the names that it did not ask for are
//! looked at here instead, which takes a tenth of the time of a request: does each of them still lead where it led?
//!
//! Where one does not, because SOURCE was changed behind the view, the thread is sent back at the end of its walk by `ESTALE`:
//! then the kernel walks the path again and asks for each name (include/linux/namei.h retry_estale()). So nobody is led
//! through a directory that has moved on. In the middle of a walk the kernel may not hear (fs/namei.c lookup_fast(),
//! filename_create()), and a second time it does not.
//!
//! What the kernel decides without asking, it may decide by a name that is as old as that moment: an open with O_PATH, which asks
//! nothing, and errors like `EISDIR`.

mod walkers;

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::inode::{DEPTH_MAX, Inode};
use super::{Attr, Call, Fs, KernelCache, Permissions};
use crate::caller::SystemCall;
use crate::error::Errno;
use crate::sys::{self, SysResult};
use crate::types::{Nanos, NodeId};

pub(super) use walkers::Way;
use walkers::{Astray, Moving};

/// How long the kernel keeps a name: the shortest time there is, which it rounds up to its next tick but one (2 to 20 ms). A
/// burst of calls comes within that, and no more is to be won.
pub(super) const MOMENT: Duration = Duration::from_nanos(1);

/// A name that was answered so long ago is kept no more: so late does no thread see its answer.
const KEPT_MAX: Nanos = Nanos(300_000_000);

/// How often to look again at names that are just being moved in the view.
const LOOKS_MAX: usize = 50;

/// A name at the end of a path, its directory, and what is known to be there.
type End<'a> = (&'a Arc<Inode>, &'a OsStr, Option<&'a Arc<Inode>>);

impl Fs {
    /// From now on the kernel may keep names of directories, where it is known who asks.
    pub fn let_names_be_kept(&self) {
        if let (Some(told), KernelCache::Off) = (&self.options.told, self.options.kernel_cache) {
            // Nobody does this twice.
            drop(self.way.set(Way::new(Arc::clone(told))));
        }
    }

    /// When a name that SOURCE is asked for after this will have been given to be kept: to callers who are known, for only
    /// they are sent back.
    pub(super) fn keeping(&self, call: &Call) -> Option<Nanos> {
        let way = self.way.get().filter(|way| way.syscall(call).is_some())?;
        Some(way.now())
    }

    /// The kernel is to keep the name of what was found, if that is a directory.
    pub(super) fn keep(
        (inode, attr): (Arc<Inode>, Attr),
        keeping: Option<Nanos>,
    ) -> (Arc<Inode>, Attr) {
        let kept = keeping.filter(|_| inode.is_dir());
        if let Some(when) = kept {
            inode.keep(when);
        }
        let is_kept = kept.is_some();
        (inode, Attr { is_kept, ..attr })
    }

    /// A directory is moved or removed in the view, which the kernel will know, if it `does` so.
    pub(super) fn moves_a_directory(&self, does: bool) -> Moving<'_> {
        Moving::begin(self.way.get().filter(|_| does))
    }

    /// Looks for a name by `find`, and at the names by which the request came to its directory.
    ///
    /// # Errors
    /// Those of `find`; `ESTALE` where the thread was led astray and its walk ends here.
    pub(super) fn find_on_way(
        &self,
        call: &Call,
        (dir, name): (&Arc<Inode>, &OsStr),
        mut find: impl FnMut() -> SysResult<(Arc<Inode>, Attr)>,
    ) -> SysResult<(Arc<Inode>, Attr)> {
        let known = self
            .way
            .get()
            .and_then(|way| Some((way, way.syscall(call)?)));
        let Some((way, syscall)) = known else {
            return find();
        };
        let before = way.astray(call);
        let astray = match before {
            Some(Astray::Walking) => true,
            Some(Astray::SentBack(_) | Astray::SentBackAt(..)) => false,
            None => syscall.takes_path() && !self.leads_there(way, dir),
        };
        let found = self.find_to_keep(way, find);
        match before {
            Some(Astray::SentBackAt(node, at)) => {
                way.set_astray(call, syscall, Astray::SentBack(Vec::new()));
                if node == dir.node && *at == *name && found.is_err() {
                    return Err(Errno::ESTALE);
                }
            }
            Some(Astray::SentBack(looked_up)) => {
                if let Ok((inode, _)) = found.as_ref()
                    && inode.is_dir()
                {
                    way.looked_up(call, syscall, looked_up, inode.node);
                }
            }
            Some(Astray::Walking) | None => {}
        }
        if !astray {
            return found;
        }
        match found {
            Err(_) if !syscall.makes() => {
                way.send_back(call, syscall, self.sent_back_at(dir, name))?;
                found
            }
            Ok((inode, attr)) if syscall.makes() && !syscall.links() && inode.is_file() => {
                // What is to be made is there, but not where the thread wants to go.
                way.set_astray(call, syscall, Astray::Walking);
                self.forget(attr.node, 1);
                Err(Errno::ENOENT)
            }
            found => {
                way.set_astray(call, syscall, Astray::Walking);
                found
            }
        }
    }

    /// Looks for a name that is to be kept. If names were moved in the view meanwhile, it may be an old one already.
    fn find_to_keep(
        &self,
        way: &Way,
        mut find: impl FnMut() -> SysResult<(Arc<Inode>, Attr)>,
    ) -> SysResult<(Arc<Inode>, Attr)> {
        for _ in 0..LOOKS_MAX {
            let (moved, now) = (way.moved(), way.now());
            let (inode, attr) = find()?;
            if !inode.is_dir() || moved.is_some() && way.moved() == moved {
                return Ok(Self::keep((inode, attr), Some(now)));
            }
            self.forget(attr.node, 1);
            thread::yield_now();
        }
        find()
    }

    /// A thread is sent back at a name that is not there. If the kernel has a file of that name, it will come for it again.
    fn sent_back_at(&self, dir: &Arc<Inode>, name: &OsStr) -> Astray {
        match self.inodes.named(dir, name) {
            Some(inode) => {
                inode.names.remove(dir, name);
                Astray::SentBackAt(dir.node, name.to_owned())
            }
            None => Astray::SentBack(Vec::new()),
        }
    }

    /// The end of a walk to a name that was looked for ([`find_on_way`](Self::find_on_way)).
    ///
    /// # Errors
    /// `ESTALE` where the thread was led astray on it.
    pub(super) fn end_way(&self, call: &Call) -> SysResult<()> {
        self.check(call, |_, _, _| true, |_| true)
    }

    /// The same for a link on the way.
    ///
    /// # Errors
    /// As above.
    pub(super) fn go_on_way(&self, call: &Call) -> SysResult<()> {
        self.check(call, |_, _, _| false, |_| true)
    }

    /// Looks at the names by which a request came to a file, at the end of its walk. They do not matter to who came by a
    /// descriptor.
    ///
    /// # Errors
    /// `ESTALE` where one of them does not lead there any more.
    pub(super) fn check_way(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        self.check(call, |_, _, _| true, |way| self.leads_there(way, inode))
    }

    /// The same for a request that the kernel also makes in the middle of a walk, where it checks permissions: once where the
    /// walk begins, and at each directory that it has looked up; where something is done at its end, there once more.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_on(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        let ends = |way: &Way, syscall: SystemCall, looked_up: &[NodeId]| {
            let is_on = !looked_up.is_empty() && !looked_up.contains(&inode.node);
            match self.options.permissions {
                Permissions::Source => true,
                Permissions::Kernel if !syscall.only_looks() => false,
                // Or another walk begins.
                Permissions::Kernel => !inode.is_dir() || is_on && self.leads_there(way, inode),
            }
        };
        self.check(call, ends, |way| self.leads_there(way, inode))
    }

    /// The same for extended attributes, which the kernel also asks for where it does not mind an error.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_for_xattr(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        let syscall = self.way.get().and_then(|way| way.syscall(call));
        match syscall {
            Some(syscall) if syscall.name().contains("xattr") => self.check_way_on(call, inode),
            _ => Ok(()),
        }
    }

    /// The same for names at the end that may have been kept: SOURCE has to have there what the kernel has, which was
    /// answered to it by that name.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_to(&self, call: &Call, ends: &[End<'_>]) -> SysResult<()> {
        let is_there = |dir: &Arc<Inode>, name: &OsStr| {
            let there = self
                .fd(dir)
                .and_then(|fd| sys::stat_below(fd.as_fd(), name));
            there.is_ok()
        };
        let leads = |way: &Way| {
            ends.iter().all(|(dir, name, known)| {
                let as_known = |known: &&Arc<Inode>| known.names.has(dir, name);
                let same = known
                    .as_ref()
                    .map_or_else(|| !is_there(dir, name), as_known);
                same && self.leads_there(way, dir)
            })
        };
        self.check(call, |_, _, _| true, leads)
    }

    /// Sends a thread back that was led astray, or is by what it asks for, unless it was; `ends` says whether its call comes to
    /// its end with that.
    fn check(
        &self,
        call: &Call,
        ends: impl FnOnce(&Way, SystemCall, &[NodeId]) -> bool,
        leads: impl FnOnce(&Way) -> bool,
    ) -> SysResult<()> {
        let Some(way) = self.way.get() else {
            return Ok(());
        };
        let astray = way.astray(call);
        if astray.is_none() && leads(way) {
            return Ok(());
        }
        let Some(syscall) = way.syscall(call).filter(SystemCall::takes_path) else {
            return Ok(());
        };
        let looked_up = match astray {
            None | Some(Astray::Walking) => {
                return way.send_back(call, syscall, Astray::SentBack(Vec::new()));
            }
            Some(Astray::SentBack(looked_up)) => looked_up,
            Some(Astray::SentBackAt(..)) => Vec::new(),
        };
        if ends(way, syscall, &looked_up) {
            way.arrived(call);
        }
        Ok(())
    }

    /// Whether all names that the kernel may have kept lead to the directory. What is moved in the view leads nobody astray.
    fn leads_there(&self, way: &Way, dir: &Arc<Inode>) -> bool {
        for _ in 0..LOOKS_MAX {
            let moved = way.moved();
            if self.follows(way, dir) {
                return true;
            }
            if moved.is_some() && way.moved() == moved {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// From the directory up to one that nobody was led to by a name.
    fn follows(&self, way: &Way, dir: &Arc<Inode>) -> bool {
        let oldest = way.now().since(KEPT_MAX);
        let mut at = Arc::clone(dir);
        // No path is longer.
        for _ in 0..DEPTH_MAX {
            if at.kept() < oldest || at.node == NodeId::ROOT {
                return true;
            }
            // Removed in the view: the kernel knows.
            let Some((parent, name)) = at.names.only_place() else {
                return true;
            };
            let fd = self.fd(&parent);
            let found = fd.and_then(|fd| sys::stat_below(fd.as_fd(), &name));
            if !found.is_ok_and(|found| self.inodes.is(&at, &found)) {
                return false;
            }
            at = parent;
        }
        true
    }
}
