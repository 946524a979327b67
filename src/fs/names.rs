//! The names of an inode, for display and for finding it again: which directory, which name. They
//! follow the renames and removals made through the view.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::inode::{DEPTH_MAX, Inode, lock};
use crate::event::ByteText;
use crate::types::NodeId;

/// Names remembered for one inode; of a file with more hard links the oldest are forgotten.
const NAMES_MAX: usize = 16;

/// Counts every change of any name, so that paths can be kept until the next one.
static CHANGES: AtomicU64 = AtomicU64::new(1);

/// One name in one directory.
#[derive(Debug)]
pub struct Link {
    place: Mutex<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    parent: Arc<Inode>,
    name: Arc<OsStr>,
    gone: bool,
}

impl Link {
    /// The directory and the name, unless it was removed.
    #[must_use]
    pub fn place(&self) -> Option<(Arc<Inode>, Arc<OsStr>)> {
        let place = lock(&self.place);
        (!place.gone).then(|| (place.parent.clone(), place.name.clone()))
    }

    /// The last place it had, and whether it is gone.
    fn last(&self) -> Place {
        lock(&self.place).clone()
    }

    /// The directory has a new entry in the table, if the kernel had forgotten it.
    fn found_in(&self, parent: &Arc<Inode>) {
        let mut place = lock(&self.place);
        if !Arc::ptr_eq(&place.parent, parent) {
            let old = std::mem::replace(&mut place.parent, Arc::clone(parent));
            drop(place);
            // Which may take those above along.
            drop(old);
        }
    }

    fn is(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        let place = lock(&self.place);
        !place.gone && place.parent.is_same(parent) && &*place.name == name
    }
}

/// Where an inode is to be found, most recently used name last.
#[derive(Debug, Default)]
pub struct Names {
    links: Mutex<Links>,
}

/// Most files have one name: there may be an inode for each file of a large tree.
#[derive(Clone, Debug, Default)]
enum Links {
    #[default]
    None,
    One(Arc<Link>),
    Many(Vec<Arc<Link>>),
}

impl Links {
    fn as_slice(&self) -> &[Arc<Link>] {
        match self {
            Links::None => &[],
            Links::One(link) => std::slice::from_ref(link),
            Links::Many(links) => links,
        }
    }
}

impl Drop for Names {
    /// Inodes above that are held by names below alone go as well, one after the other: if each took its parent
    /// along, a deep tree would fill the stack.
    fn drop(&mut self) {
        let mut last = self.take();
        while let Some(link) = last.pop() {
            let place = Arc::into_inner(link).map(|link| link.place.into_inner());
            let place = place.map(|place| place.unwrap_or_else(PoisonError::into_inner));
            if let Some(inode) = place.and_then(|place| Arc::into_inner(place.parent)) {
                last.append(&mut { inode }.names.take());
            }
        }
    }
}

impl From<Vec<Arc<Link>>> for Links {
    fn from(mut links: Vec<Arc<Link>>) -> Links {
        match links.len() {
            0 | 1 => links.pop().map_or(Links::None, Links::One),
            _ => Links::Many(links),
        }
    }
}

impl Names {
    fn take(&mut self) -> Vec<Arc<Link>> {
        let links = self.links.get_mut().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(links) {
            Links::None => Vec::new(),
            Links::One(link) => vec![link],
            Links::Many(links) => links,
        }
    }

    /// The names that still exist as far as is known, most recently used first.
    pub fn alive(&self) -> impl Iterator<Item = Arc<Link>> + use<> {
        let links = lock(&self.links).as_slice().to_vec();
        links.into_iter().rev().filter(|link| !link.last().gone)
    }

    /// Whether `name` in `parent` is one of them.
    #[must_use]
    pub fn has(&self, parent: &Arc<Inode>, name: &OsStr) -> bool {
        let links = lock(&self.links);
        links.as_slice().iter().any(|link| link.is(parent, name))
    }

    /// Where a directory is to be found, which has only one name; `None` for one that was removed, and for the root.
    #[must_use]
    pub fn only_place(&self) -> Option<(Arc<Inode>, Arc<OsStr>)> {
        let links = lock(&self.links);
        links.as_slice().last().and_then(|link| link.place())
    }

    /// The name used last, existing or not.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Link>> {
        self.alive()
            .next()
            .or_else(|| lock(&self.links).as_slice().last().cloned())
    }

    /// Records that `name` in `parent` leads here.
    pub fn note(&self, parent: &Arc<Inode>, name: &OsStr) -> Arc<Link> {
        let mut kept = lock(&self.links);
        let known = kept.as_slice().last().filter(|link| link.is(parent, name));
        if let Some(link) = known.cloned() {
            drop(kept);
            link.found_in(parent);
            return link;
        }
        let mut links = kept.as_slice().to_vec();
        if let Some(at) = links.iter().position(|link| link.is(parent, name)) {
            let link = links.remove(at);
            links.push(link.clone());
            *kept = links.into();
            drop(kept);
            link.found_in(parent);
            return link;
        }
        links.retain(|link| !link.last().gone);
        if links.len() == NAMES_MAX {
            links.remove(0);
        }
        let place = Place {
            parent: parent.clone(),
            name: name.into(),
            gone: false,
        };
        let link = Arc::new(Link {
            place: Mutex::new(place),
        });
        links.push(link.clone());
        *kept = links.into();
        link
    }

    /// A file that had no name may have one now (link(2)): paths that are kept are not true any more.
    pub fn linked(&self) {
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// The same for a directory, which has only one name: any other is history.
    pub fn note_only(&self, parent: &Arc<Inode>, name: &OsStr) -> Arc<Link> {
        let link = self.note(parent, name);
        let mut links = lock(&self.links);
        if links.as_slice().len() > 1 {
            *links = Links::One(link.clone());
            CHANGES.fetch_add(1, Ordering::Release);
        }
        drop(links);
        link
    }

    /// The name was removed.
    pub fn remove(&self, parent: &Arc<Inode>, name: &OsStr) {
        self.change(parent, name, |place| place.gone = true);
    }

    /// The name became another one.
    pub fn rename(&self, from: (&Arc<Inode>, &OsStr), to: (&Arc<Inode>, &OsStr)) {
        self.change(from.0, from.1, |place| {
            place.parent = to.0.clone();
            place.name = to.1.into();
        });
    }

    fn change(&self, parent: &Arc<Inode>, name: &OsStr, change: impl FnOnce(&mut Place)) {
        let links = lock(&self.links).clone();
        if let Some(link) = links.as_slice().iter().find(|link| link.is(parent, name)) {
            change(&mut lock(&link.place));
            CHANGES.fetch_add(1, Ordering::Release);
        }
    }
}

/// A path for display, kept until a name changes somewhere.
#[derive(Debug, Default)]
pub struct PathCache {
    kept: Mutex<Option<(u64, Shown)>>,
}

/// A path below SOURCE as events show it.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The path; the root is `.`.
    pub path: ByteText,
    /// It is the last name of a file that has none any more.
    pub unlinked: bool,
}

impl PathCache {
    /// The path through `link`, or through any other name of `inode` where that one is gone.
    #[must_use]
    pub fn shown(&self, inode: &Arc<Inode>, link: Option<&Arc<Link>>) -> Shown {
        let now = CHANGES.load(Ordering::Acquire);
        if let Some((then, shown)) = lock(&self.kept).as_ref()
            && *then == now
        {
            return shown.clone();
        }
        let (path, unlinked) = match link {
            Some(link) if !link.last().gone => path_through(link),
            _ => path_of(inode),
        };
        let shown = Shown {
            path: ByteText::new(&path),
            unlinked,
        };
        *lock(&self.kept) = Some((now, shown.clone()));
        shown
    }
}

/// The path of an inode below SOURCE (the root is `.`), and whether it has lost its last name.
#[must_use]
pub fn path_of(inode: &Arc<Inode>) -> (OsString, bool) {
    match inode.names.latest() {
        Some(link) => path_through(&link),
        None if inode.node == NodeId::ROOT => (OsString::from("."), false),
        // Made with O_TMPFILE; the kernel calls it so as well, /proc/PID/fd shows.
        None => (OsString::from(format!("#{}", inode.ino().0)), true),
    }
}

/// The path of `name` in the directory `parent`.
#[must_use]
pub fn path_below(parent: &Arc<Inode>, name: &OsStr) -> OsString {
    let (mut path, _) = path_of(parent);
    if path == "." {
        return name.to_owned();
    }
    path.push("/");
    path.push(name);
    path
}

fn path_through(link: &Arc<Link>) -> (OsString, bool) {
    let place = link.last();
    let unlinked = place.gone;
    let mut parts = vec![place.name];
    let mut dir = place.parent;
    // Bounded, because renames made outside the view can leave names that chase each other.
    while let Some(link) = dir.names.latest().filter(|_| parts.len() < DEPTH_MAX) {
        let place = link.last();
        parts.push(place.name);
        dir = place.parent;
    }
    parts.reverse();
    (parts.join(OsStr::new("/")), unlinked)
}
