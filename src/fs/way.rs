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
use super::{Attr, Call, Fs, KernelCache};
use crate::caller::SystemCall;
use crate::error::Errno;
use crate::sys::{self, SysResult};
use crate::types::Nanos;

pub(super) use walkers::Way;
use walkers::{Astray, Moving};

/// How long the kernel keeps a name: the shortest time there is, which it rounds up to its next tick but one (2 to 20 ms). A
/// burst of calls comes within that, and no more is to be won.
pub(super) const MOMENT: Duration = Duration::from_nanos(1);

/// A name that was answered so long ago is kept no more: so late does no thread see its answer.
const KEPT_MAX: Nanos = Nanos(1_000_000_000);

/// How often to look again at names that are just being moved in the view.
const LOOKS_MAX: usize = 50;

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

    /// A name in the view begins to lead elsewhere, which the kernel will know.
    pub(super) fn moves_a_name(&self) -> Moving<'_> {
        Moving::begin(self.way.get())
    }

    /// Looks for a name by `find`, and at the names by which the request came to its directory.
    ///
    /// # Errors
    /// Those of `find`; `ESTALE` where the thread was led astray and its walk ends here.
    pub(super) fn find_on_way(
        &self,
        call: &Call,
        (dir, name): (&Arc<Inode>, &OsStr),
        find: impl FnOnce() -> SysResult<(Arc<Inode>, Attr)>,
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
            Some(Astray::SentBack | Astray::SentBackAt(..)) => false,
            None => syscall.takes_path() && !self.leads_there(way, dir),
        };
        let keeping = Some(way.now());
        let found = find().map(|found| Self::keep(found, keeping));
        if let Some(Astray::SentBackAt(node, at)) = &before {
            way.set_astray(call, syscall, Astray::SentBack);
            let again = *node == dir.node && *at == *name;
            if again && found.is_err() && self.path(way, call, syscall).len() > 1 {
                return Err(Errno::ESTALE);
            }
        }
        if !astray {
            return found;
        }
        match found {
            Err(_) if !syscall.makes() => {
                let at = Astray::SentBackAt(dir.node, name.to_owned());
                way.send_back(call, syscall, at)?;
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

    /// The names of which the path of a call is made, of the longer one where there are two.
    fn path(&self, way: &Way, call: &Call, syscall: SystemCall) -> Vec<Vec<u8>> {
        let caller = self.observer.callers().caller(call.tid, way.now());
        let names = |address| {
            let path = caller.as_ref()?.path_at(address)?;
            let names = path.split(|byte| *byte == b'/');
            let names = names.filter(|name| !matches!(*name, b"" | b"."));
            Some(names.map(<[u8]>::to_vec).collect::<Vec<_>>())
        };
        let paths = syscall.paths().filter_map(names);
        paths.max_by_key(Vec::len).unwrap_or_default()
    }

    /// The end of a walk to a name that was looked for ([`find_on_way`](Self::find_on_way)).
    ///
    /// # Errors
    /// `ESTALE` where the thread was led astray on it.
    pub(super) fn end_way(&self, call: &Call) -> SysResult<()> {
        self.check(call, |_, _| true, |_| true)
    }

    /// The same for a link on the way.
    ///
    /// # Errors
    /// As above.
    pub(super) fn go_on_way(&self, call: &Call) -> SysResult<()> {
        self.check(call, |_, _| false, |_| true)
    }

    /// Looks at the names by which a request came to a file, at the end of its walk. They do not matter to who came by a
    /// descriptor.
    ///
    /// # Errors
    /// `ESTALE` where one of them does not lead there any more.
    pub(super) fn check_way(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        self.check(call, |_, _| true, |way| self.leads_there(way, inode))
    }

    /// The same for a request that the kernel also makes in the middle of a walk, for its own check of permissions.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_on(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        let ends = |way: &Way, syscall: SystemCall| {
            let last = |name: &OsStr| {
                let path = self.path(way, call, syscall);
                path.last()
                    .is_none_or(|last| last == name.as_encoded_bytes())
            };
            let place = inode.names.only_place();
            // Through the root goes who comes by a path.
            let ends = !inode.is_dir() || place.is_some_and(|(_, name)| last(&name));
            syscall.only_looks() && ends
        };
        self.check(call, ends, |way| self.leads_there(way, inode))
    }

    /// The same for a request that the kernel also makes for itself, where it does not mind an error.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_for_xattr(&self, call: &Call, inode: &Arc<Inode>) -> SysResult<()> {
        let syscall = self.way.get().and_then(|way| way.syscall(call));
        match syscall {
            Some(syscall) if syscall.name().contains("xattr") => self.check_way(call, inode),
            _ => Ok(()),
        }
    }

    /// The same for a name at the end that may have been kept: SOURCE has to have there what the kernel has, which was answered
    /// to it by this name.
    ///
    /// # Errors
    /// As above.
    pub(super) fn check_way_to(
        &self,
        call: &Call,
        (dir, name): (&Arc<Inode>, &OsStr),
        known: Option<&Arc<Inode>>,
    ) -> SysResult<()> {
        let is_there = || {
            let there = self
                .fd(dir)
                .and_then(|fd| sys::stat_below(fd.as_fd(), name));
            there.is_ok()
        };
        let as_known = |known: &Arc<Inode>| known.names.has(dir, name);
        let leads =
            |way: &Way| self.leads_there(way, dir) && known.map_or_else(|| !is_there(), as_known);
        self.check(call, |_, _| true, leads)
    }

    fn check(
        &self,
        call: &Call,
        ends: impl FnOnce(&Way, SystemCall) -> bool,
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
        match astray {
            None | Some(Astray::Walking) => way.send_back(call, syscall, Astray::SentBack),
            Some(Astray::SentBack | Astray::SentBackAt(..)) => {
                if ends(way, syscall) {
                    way.arrived(call);
                }
                Ok(())
            }
        }
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
            let kept = at.kept() >= oldest;
            // Removed in the view: the kernel knows.
            let Some((parent, name)) = at.names.only_place().filter(|_| kept) else {
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
