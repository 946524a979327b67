//! What is known of the names that the kernel has ([`way`](crate::fs::way)).

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Inode, Inodes};
use crate::sys::Stat;
use crate::types::Nanos;

impl Inode {
    /// When its name was last given to be kept; 0 if it never was.
    pub(in crate::fs) fn kept(&self) -> Nanos {
        Nanos(self.kept.load(Ordering::SeqCst))
    }

    /// Its name is given to be kept.
    pub(in crate::fs) fn keep(&self, when: Nanos) {
        self.kept.fetch_max(when.0, Ordering::SeqCst);
    }
}

impl Inodes {
    /// The inode that the kernel was told has this name, if there is one. Looks at all: for what is rare.
    #[must_use]
    pub fn named(&self, dir: &Arc<Inode>, name: &OsStr) -> Option<Arc<Inode>> {
        let found = self.by_node.iter().find(|inode| inode.names.has(dir, name));
        found.map(|inode| Arc::clone(&inode))
    }

    /// Whether `stat` describes this inode.
    #[must_use]
    pub fn is(&self, inode: &Inode, stat: &Stat) -> bool {
        inode.is_still(self.identity(stat))
    }
}
